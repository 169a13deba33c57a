//! How a call ended, as gRPC says it in headers.
//!
//! Not by tonic, which encodes spaces too (Envoy logs the text as it comes), and knows no bound: a
//! refusal may quote what the client has sent.

use std::fmt::Write as _;

use http::{HeaderMap, HeaderValue};
use tonic::Status;

use super::peer_text::cut;

/// Bytes of a text, before it is encoded. A proxy keeps and logs it, and a peer's own limit for
/// headers may be as low as 8 KiB.
const LONGEST: usize = 1024;

/// Puts a status among the trailers, or the headers of a response that has nothing else.
pub(super) fn put(status: &Status, headers: &mut HeaderMap) {
    headers.insert("grpc-status", HeaderValue::from(status.code() as i32));
    if !status.message().is_empty() {
        headers.insert("grpc-message", encoded(status.message()));
    }
    headers.extend(status.metadata().clone().into_headers());
}

/// Writes the text of a status that somebody else has put there anew.
pub(super) fn renew(headers: &mut HeaderMap) {
    if headers.contains_key("grpc-message")
        && let Some(status) = Status::from_header_map(headers)
    {
        headers.insert("grpc-message", encoded(status.message()));
    }
}

/// Percent-encoded where it must be ("gRPC over HTTP2", Responses), and at its ends, where HTTP/2
/// allows no space.
fn encoded(text: &str) -> HeaderValue {
    let text = cut(text, LONGEST);
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
        put(status, &mut headers);
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
            put(&status, &mut headers);
            assert_eq!(Status::from_header_map(&headers).unwrap().message(), text, "comes back");
        }
        let mut headers = HeaderMap::new();
        put(&Status::ok(""), &mut headers);
        assert_eq!((headers.len(), &headers["grpc-status"]), (1, &HeaderValue::from(0)));
    }

    #[test]
    fn a_text_has_an_end() {
        assert_eq!(message(&Status::internal("x".repeat(LONGEST))), "x".repeat(LONGEST));
        let long = message(&Status::internal("x".repeat(4 << 20)));
        assert!(long.ends_with("xxx%E2%80%A6 (4194304 bytes)"), "{long}");
        assert!(long.len() < LONGEST + 9, "{}", long.len());
        let long = message(&Status::internal("\u{1}".repeat(4 << 20)));
        assert!(long.len() <= 3 * LONGEST, "{}", long.len());
    }

    #[test]
    fn what_others_have_written_is_written_anew() {
        let mut headers = HeaderMap::new();
        Status::not_found("x y".repeat(1000)).add_header(&mut headers).unwrap();
        headers.insert("grpc-status-details-bin", HeaderValue::from_static("AAAA"));
        renew(&mut headers);
        assert!(headers["grpc-message"].to_str().unwrap().starts_with("x yx yx y"));
        assert!(headers["grpc-message"].len() < LONGEST + 9);
        assert_eq!(headers["grpc-status-details-bin"], "AAAA");
        let mut none = HeaderMap::new();
        renew(&mut none);
        assert!(none.is_empty());
    }
}
