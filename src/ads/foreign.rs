//! What peers are told that are no gRPC clients, in what they speak themselves: somebody with curl
//! or a browser who took the wrong port, a load balancer's check, an Envoy with TLS.

use http::StatusCode;
use pilothouse_http2::OtherProtocol;

const ELSEWHERE: &str = "Debug pages are on the port of --http-addr (8080 unless it was changed), \
                         /ready and metrics on that of --monitoring-addr (15014).";

/// A fatal alert: handshake_failure (RFC 8446, section 6.2), in a record of TLS 1.0 as all versions
/// read it.
const TLS_ALERT: &[u8] = &[21, 3, 1, 0, 2, 2, 40];

/// All that such a peer gets; `None` if there is no telling what it speaks.
pub(super) fn answer(protocol: OtherProtocol) -> Option<Vec<u8>> {
    match protocol {
        OtherProtocol::Tls => Some(TLS_ALERT.to_vec()),
        OtherProtocol::Http1 => {
            let text =
                format!("This port speaks gRPC, which is HTTP/2, and got HTTP/1. {ELSEWHERE}\n");
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

/// The same over HTTP/2.
pub(super) fn text(status: StatusCode) -> String {
    let what = match status {
        StatusCode::METHOD_NOT_ALLOWED => "all of whose requests are POST",
        _ => "whose requests have the content-type application/grpc",
    };
    format!("This port speaks gRPC, {what}. {ELSEWHERE}\n")
}
