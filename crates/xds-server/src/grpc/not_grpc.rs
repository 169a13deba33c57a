//! Replies to clients that do not speak gRPC, in the protocol that they speak: curl or a browser on the
//! wrong port, a load balancer's check, an Envoy with TLS.

use http::StatusCode;
use pilothouse_http2::OtherProtocol;

/// A fatal alert: handshake_failure (RFC 8446, section 6.2), in a record of TLS 1.0 as all versions
/// read it.
const TLS_ALERT: &[u8] = &[21, 3, 1, 0, 2, 2, 40];

/// The bytes to send to a client that does not speak HTTP/2; `None` if its protocol is unknown.
pub(crate) fn raw_reply(protocol: OtherProtocol, other_ports: &str) -> Option<Vec<u8>> {
    match protocol {
        OtherProtocol::Tls => Some(TLS_ALERT.to_vec()),
        OtherProtocol::Http1 => {
            let text =
                format!("This port speaks gRPC, which is HTTP/2, and got HTTP/1. {other_ports}\n");
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n{text}",
                text.len()
            );
            Some(answer.into_bytes())
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
