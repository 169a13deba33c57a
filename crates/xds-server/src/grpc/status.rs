//! Writes the status of a call into headers or trailers.
//!
//! tonic does this too, but it encodes spaces (Envoy logs the text undecoded) and has no limit: an error
//! may quote what the client has sent.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue};
use tonic::Status;

use pilothouse_xds::peer_text::cut;

/// Bytes of a message before it is encoded. A proxy keeps and logs it, and a peer's own limit for headers
/// may be as low as 8 KiB.
const MAX_MESSAGE: usize = 1024;

/// Inserts a status into trailers, or into the headers of a Trailers-Only response.
pub(crate) fn insert_status(status: &Status, headers: &mut HeaderMap) {
    headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    if !status.message().is_empty() {
        headers.insert("grpc-message", encoded(status.message()));
    }
    headers.extend(status.metadata().clone().into_headers());
}

/// Encodes the message of a status again that tonic has written.
pub(crate) fn reencode_message(headers: &mut HeaderMap) {
    if headers.contains_key("grpc-message")
        && let Some(status) = Status::from_header_map(headers)
    {
        headers.insert("grpc-message", encoded(status.message()));
    }
}

/// Percent-encoded where it must be ("gRPC over HTTP2", Responses), and at its ends, where HTTP/2
/// allows no space.
fn encoded(text: &str) -> HeaderValue {
    let text = cut(text, MAX_MESSAGE);
    let mut bytes = text.bytes().peekable();
    let mut out = String::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        let at_end = out.is_empty() || bytes.peek().is_none();
        match byte {
            b' ' if at_end => out.push_str("%20"),
            b'%' => out.push_str("%25"),
            b' '..=b'~' => out.push(char::from(byte)),
            _ => _ = write!(out, "%{byte:02X}"),
        }
    }
    HeaderValue::try_from(out).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(status: &Status) -> String {
        let mut headers = HeaderMap::new();
        insert_status(status, &mut headers);
        let told = Status::from_header_map(&headers).unwrap();
        assert_eq!(told.code(), status.code());
        headers["grpc-message"].to_str().unwrap().to_owned()
    }

    #[test]
    fn a_text_is_encoded_only_where_it_must_be() {
        for (text, expected) in [
            ("node metadata is missing", "node metadata is missing"),
            ("100% \"sure\" ~", "100%25 \"sure\" ~"),
            (" spaces at both ends ", "%20spaces at both ends%20"),
            ("tab\tnewline\n\u{7f}\0", "tab%09newline%0A%7F%00"),
            ("é", "%C3%A9"),
            (" ", "%20"),
        ] {
            let status = Status::invalid_argument(text);
            assert_eq!(message(&status), expected);
            let mut headers = HeaderMap::new();
            insert_status(&status, &mut headers);
            assert_eq!(Status::from_header_map(&headers).unwrap().message(), text, "comes back");
        }
        let mut headers = HeaderMap::new();
        insert_status(&Status::ok(""), &mut headers);
        assert_eq!((headers.len(), &headers["grpc-status"]), (1, &HeaderValue::from(0)));
    }

    #[test]
    fn a_text_has_an_end() {
        assert_eq!(message(&Status::internal("x".repeat(MAX_MESSAGE))), "x".repeat(MAX_MESSAGE));
        let long = message(&Status::internal("x".repeat(4 << 20)));
        assert!(long.ends_with("xxx%E2%80%A6 (4194304 bytes)"), "{long}");
        assert!(long.len() < MAX_MESSAGE + 9, "{}", long.len());
        let long = message(&Status::internal("\u{1}".repeat(4 << 20)));
        assert!(long.len() <= 3 * MAX_MESSAGE, "{}", long.len());
    }

    #[test]
    fn what_others_have_written_is_written_anew() {
        let mut headers = HeaderMap::new();
        Status::not_found("x y".repeat(1000)).add_header(&mut headers).unwrap();
        headers.insert("grpc-status-details-bin", HeaderValue::from_static("AAAA"));
        reencode_message(&mut headers);
        assert!(headers["grpc-message"].to_str().unwrap().starts_with("x yx yx y"));
        assert!(headers["grpc-message"].len() < MAX_MESSAGE + 9);
        assert_eq!(headers["grpc-status-details-bin"], "AAAA");
        let mut none = HeaderMap::new();
        reencode_message(&mut none);
        assert!(none.is_empty());
    }
}
