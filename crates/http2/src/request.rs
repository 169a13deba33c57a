//! Builds requests from header blocks, and finds malformed ones (RFC 9113, sections 8.1 to 8.3).

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use crate::hpack::{DecodeError, Decoder};

/// Our SETTINGS_MAX_HEADER_LIST_SIZE: bytes of all names and values of a header block, and 32 more
/// for each field (section 6.5.2). Requests of gRPC need less than one thousand.
pub(crate) const MAX_HEADER_LIST_SIZE: usize = 16 << 10;

/// A decoded header block that opens a stream.
#[derive(Debug)]
pub(crate) enum RequestHeaders {
    /// A request, and its `content-length` if there is one.
    WellFormed(Box<Request<()>>, Option<u64>),
    Malformed,
    /// Larger than [`MAX_HEADER_LIST_SIZE`].
    TooLarge,
}

/// What the fields of a header block say, collected while it is decoded.
#[derive(Debug, Default)]
struct Fields {
    method: Option<Method>,
    scheme: bool,
    path: Option<PathAndQuery>,
    authority: bool,
    headers: HeaderMap,
    content_length: Option<u64>,
    /// As SETTINGS_MAX_HEADER_LIST_SIZE counts.
    size: usize,
    malformed: bool,
}

/// Decodes the header block that opens a stream. The decoder reads the whole block even if the
/// request is malformed, so that its dynamic table stays that of the peer.
pub(crate) fn decode_request(
    decoder: &mut Decoder,
    block: &[u8],
) -> Result<RequestHeaders, DecodeError> {
    let fields = Fields::decode(decoder, block)?;
    if fields.size > MAX_HEADER_LIST_SIZE {
        return Ok(RequestHeaders::TooLarge);
    }
    let path = match (&fields.method, fields.path) {
        // Section 8.5: CONNECT has an authority and no path.
        (Some(method), None)
            if *method == Method::CONNECT && !fields.scheme && fields.authority =>
        {
            PathAndQuery::from_static("/")
        }
        (Some(method), Some(path)) if *method != Method::CONNECT && fields.scheme => path,
        _ => return Ok(RequestHeaders::Malformed),
    };
    let Some(method) = fields.method.filter(|_| !fields.malformed) else {
        return Ok(RequestHeaders::Malformed);
    };
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = (method, Uri::from(path));
    *request.headers_mut() = fields.headers;
    *request.version_mut() = Version::HTTP_2;
    Ok(RequestHeaders::WellFormed(Box::new(request), fields.content_length))
}

/// Decodes trailers; whether they are well-formed, which means without pseudo-header fields (section
/// 8.1).
pub(crate) fn decode_trailers(decoder: &mut Decoder, block: &[u8]) -> Result<bool, DecodeError> {
    let fields = Fields::decode(decoder, block)?;
    let pseudo = fields.method.is_some() || fields.path.is_some();
    let pseudo = pseudo || fields.scheme || fields.authority;
    Ok(!pseudo && !fields.malformed && fields.size <= MAX_HEADER_LIST_SIZE)
}

impl Fields {
    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Self::default();
        decoder.decode(block, |name, value| {
            fields.size += name.len() + value.len() + 32;
            if fields.size <= MAX_HEADER_LIST_SIZE && fields.insert(name, value).is_none() {
                fields.malformed = true;
            }
        })?;
        Ok(fields)
    }

    /// `None` if the field makes the block malformed.
    fn insert(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if let Some(pseudo) = name.strip_prefix(b":") {
            // Section 8.3: before all other fields, and once.
            let new = match pseudo {
                b"method" => self.method.replace(Method::from_bytes(value).ok()?).is_none(),
                b"path" => self.path.replace(parse_path(value)?).is_none(),
                b"scheme" => !std::mem::replace(&mut self.scheme, true),
                b"authority" => !std::mem::replace(&mut self.authority, true),
                _ => false,
            };
            return (new && self.headers.is_empty()).then_some(());
        }
        // Section 8.2.1: no upper case.
        let name = HeaderName::from_lowercase(name).ok()?;
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                return None;
            }
            "te" if value != b"trailers" => return None,
            "content-length" => {
                let length = parse_content_length(value)?;
                if self.content_length.replace(length).is_some_and(|other| other != length) {
                    return None;
                }
            }
            _ => {}
        }
        // Section 8.2.1: no white space at either end of a value.
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
            return None;
        }
        self.headers.append(name, HeaderValue::from_bytes(value).ok()?);
        Some(())
    }
}

/// Section 8.3.1: a path begins with a slash; `*` is for OPTIONS.
fn parse_path(value: &[u8]) -> Option<PathAndQuery> {
    let path = PathAndQuery::try_from(value).ok()?;
    (value == b"*" || value.starts_with(b"/")).then_some(path)
}

/// Digits and nothing else (RFC 9110, section 8.6).
fn parse_content_length(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok()?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hpack::HeaderBlock;

    const WELL_FORMED: [(&str, &str); 5] = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a.B/C"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];

    fn decode(fields: &[(&str, &str)]) -> RequestHeaders {
        let mut block = HeaderBlock::default();
        for (name, value) in fields {
            block.push_field(name.as_bytes(), value.as_bytes());
        }
        decode_request(&mut Decoder::new(), &block.0).unwrap()
    }

    #[test]
    fn a_request_is_made_of_its_fields() {
        let RequestHeaders::WellFormed(request, None) = decode(&WELL_FORMED) else {
            panic!("not a request")
        };
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri().path(), "/a.B/C");
        assert_eq!(request.headers().len(), 2);
    }

    #[test]
    fn malformed_requests_are_recognized() {
        let with = |more: &[(&'static str, &'static str)]| [&WELL_FORMED[..], more].concat();
        let first = |one| [&[one], &WELL_FORMED[..]].concat();
        for fields in [
            WELL_FORMED[1..].to_vec(),
            [&WELL_FORMED[..2], &WELL_FORMED[3..]].concat(),
            [&WELL_FORMED[..1], &WELL_FORMED[2..]].concat(),
            first((":method", "POST")),
            first((":path", "/")),
            first((":status", "200")),
            first((":path", "")),
            [("", ""); 0]
                .into_iter()
                .chain(WELL_FORMED)
                .map(|(name, value)| match name {
                    ":path" => (name, "no/slash"),
                    _ => (name, value),
                })
                .collect(),
            vec![(":method", "CONNECT"), (":authority", "a"), (":scheme", "http")],
            vec![(":method", "CONNECT")],
            with(&[(":authority", "late")]),
            with(&[("Upper", "case")]),
            with(&[("te", "gzip")]),
            with(&[("connection", "close")]),
            with(&[("upgrade", "websocket")]),
            with(&[("", "nameless")]),
            with(&[("x", "a\nb")]),
            with(&[("x", " a")]),
            with(&[("x", "a\t")]),
            with(&[("x", " ")]),
        ] {
            assert!(matches!(decode(&fields), RequestHeaders::Malformed), "{fields:?}");
        }
    }

    /// Section 8.3.1 and 8.5
    #[test]
    fn requests_that_are_not_grpc_are_well_formed_too() {
        let of = |fields: &[(&str, &str)]| match decode(fields) {
            RequestHeaders::WellFormed(request, _) => {
                format!("{} {}", request.method(), request.uri())
            }
            other => format!("{other:?}"),
        };
        assert_eq!(of(&[(":method", "CONNECT"), (":authority", "a:1")]), "CONNECT /");
        let fields = [(":method", "OPTIONS"), (":scheme", "http"), (":path", "*")];
        assert_eq!(of(&fields), "OPTIONS *");
        let fields =
            [(":path", "/a?b=c"), (":method", "GET"), (":scheme", "x"), (":authority", "")];
        assert_eq!(of(&fields), "GET /a?b=c");
    }

    #[test]
    fn a_header_list_that_is_too_large_is_recognized() {
        let long = "x".repeat(MAX_HEADER_LIST_SIZE - 1000);
        let fields = [&WELL_FORMED[..], &[("x", &long)]].concat();
        assert!(matches!(decode(&fields), RequestHeaders::WellFormed(..)));
        let fields = [&fields[..], &[("y", &long[..1000])]].concat();
        assert!(matches!(decode(&fields), RequestHeaders::TooLarge));
    }
}
