//! Replies to clients that do not speak gRPC, in the protocol that they speak: curl or a browser on the
//! wrong port, a load balancer's check, an Envoy with TLS.

use http::StatusCode;
use pilothouse_http2::OtherProtocol;
use rustls::AlertDescription;

/// A fatal alert (RFC 8446, section 6.2), in a record of TLS 1.0 as all versions read it.
pub(crate) fn tls_alert(description: AlertDescription) -> Vec<u8> {
    vec![21, 3, 1, 0, 2, 2, description.into()]
}

/// For a client that speaks HTTP/1.
pub(crate) fn bad_request(text: &str) -> Vec<u8> {
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n{text}\n",
        text.len() + 1
    );
    answer.into_bytes()
}

/// The bytes to send to a client that does not speak HTTP/2; `None` if its protocol is unknown.
pub(crate) fn raw_reply(protocol: OtherProtocol, other_ports: &str) -> Option<Vec<u8>> {
    match protocol {
        OtherProtocol::Tls => Some(tls_alert(AlertDescription::HandshakeFailure)),
        OtherProtocol::Http1 => {
            let text = "This port speaks gRPC, which is HTTP/2, and got HTTP/1.";
            Some(bad_request(&format!("{text} {other_ports}")))
        }
        OtherProtocol::Unknown => None,
    }
}

/// The text for a client that speaks HTTP/2 and not gRPC.
pub(crate) fn http2_text(status: StatusCode, other_ports: &str) -> String {
    let what = match status {
        StatusCode::METHOD_NOT_ALLOWED => "all of whose requests are POST",
        _ => "whose requests have the content-type application/grpc",
    };
    format!("This port speaks gRPC, {what}. {other_ports}\n")
}
