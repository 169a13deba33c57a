//! Requests, made of the fields of a header block, and what makes them malformed (RFC 9113,
//! section 8.1 to 8.3).

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::hpack::{Decoder, Undecodable};

/// What all fields of a block may be together, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts (section
/// 6.5.2): each with 32 bytes on top. gRPC's need less than one thousand.
pub(crate) const MAX_HEADER_LIST: usize = 16 << 10;

/// What a block turned out to be.
#[derive(Debug)]
pub(crate) enum Block {
    /// And the length of its body, if it says that.
    Request(Box<Request<()>>, Option<u64>),
    Malformed,
    /// Longer than what we have said that we take.
    TooLong,
}

#[derive(Debug, Default)]
struct Fields {
    method: Option<Method>,
    scheme: bool,
    path: Option<PathAndQuery>,
    authority: bool,
    headers: HeaderMap,
    length: Option<u64>,
    size: usize,
    malformed: bool,
}

/// A request's head. The decoder has seen the whole block whatever comes of it.
pub(crate) fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Block, Undecodable> {
    let fields = Fields::read(decoder, block)?;
    if fields.size > MAX_HEADER_LIST {
        return Ok(Block::TooLong);
    }
    let path = match (&fields.method, fields.path) {
        // Section 8.5: of CONNECT there is no path, only an authority.
        (Some(method), None)
            if *method == Method::CONNECT && !fields.scheme && fields.authority =>
        {
            PathAndQuery::from_static("/")
        }
        (Some(method), Some(path)) if *method != Method::CONNECT && fields.scheme => path,
        _ => return Ok(Block::Malformed),
    };
    let Some(method) = fields.method.filter(|_| !fields.malformed) else {
        return Ok(Block::Malformed);
    };
    let mut request = Request::new(());
    (*request.method_mut(), *request.uri_mut()) = (method, Uri::from(path));
    *request.headers_mut() = fields.headers;
    *request.version_mut() = Version::HTTP_2;
    Ok(Block::Request(Box::new(request), fields.length))
}

/// Whether a block is well-formed as what follows a body (section 8.1): no pseudo-header fields.
pub(crate) fn check_trailers(decoder: &mut Decoder, block: &[u8]) -> Result<bool, Undecodable> {
    let fields = Fields::read(decoder, block)?;
    let pseudo = fields.method.is_some() || fields.path.is_some();
    let pseudo = pseudo || fields.scheme || fields.authority;
    Ok(!pseudo && !fields.malformed && fields.size <= MAX_HEADER_LIST)
}

impl Fields {
    fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Self, Undecodable> {
        let mut fields = Self::default();
        decoder.decode(block, |name, value| {
            fields.size += name.len() + value.len() + 32;
            if fields.size <= MAX_HEADER_LIST && fields.field(name, value).is_none() {
                fields.malformed = true;
            }
        })?;
        Ok(fields)
    }

    /// `None` if it should not be there.
    fn field(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if let Some(pseudo) = name.strip_prefix(b":") {
            // Before all others, and once.
            let new = match pseudo {
                b"method" => self.method.replace(Method::from_bytes(value).ok()?).is_none(),
                b"path" => self.path.replace(path(value)?).is_none(),
                b"scheme" => !std::mem::replace(&mut self.scheme, true),
                b"authority" => !std::mem::replace(&mut self.authority, true),
                _ => false,
            };
            return (new && self.headers.is_empty()).then_some(());
        }
        // Upper case is none of HTTP/2's.
        let name = HeaderName::from_lowercase(name).ok()?;
        match name.as_str() {
            "connection" | "keep-alive" | "proxy-connection" | "transfer-encoding" | "upgrade" => {
                return None;
            }
            "te" if value != b"trailers" => return None,
            "content-length" => {
                let length = length(value)?;
                if self.length.replace(length).is_some_and(|other| other != length) {
                    return None;
                }
            }
            _ => {}
        }
        // Section 8.2.1: neither begins nor ends with a space.
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
            return None;
        }
        self.headers.append(name, HeaderValue::from_bytes(value).ok()?);
        Some(())
    }
}

/// Section 8.3.1: it begins with a slash; `*` is for OPTIONS.
fn path(value: &[u8]) -> Option<PathAndQuery> {
    let path = PathAndQuery::try_from(value).ok()?;
    (value == b"*" || value.starts_with(b"/")).then_some(path)
}

/// Digits and nothing else (RFC 9110, section 8.6).
fn length(value: &[u8]) -> Option<u64> {
    let digits = str::from_utf8(value).ok()?;
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::hpack;

    const WHOLE: [(&str, &str); 5] = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/a.B/C"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];

    fn made_of(fields: &[(&str, &str)]) -> Block {
        let mut block = hpack::Block::default();
        for (name, value) in fields {
            block.field(name.as_bytes(), value.as_bytes());
        }
        read(&mut Decoder::new(), &block.0).unwrap()
    }

    #[test]
    fn a_request_is_made_of_its_fields() {
        let Block::Request(request, None) = made_of(&WHOLE) else { panic!("not a request") };
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri().path(), "/a.B/C");
        assert_eq!(request.headers().len(), 2);
    }

    #[test]
    fn malformed_requests_are_told() {
        let with = |more: &[(&'static str, &'static str)]| [&WHOLE[..], more].concat();
        let first = |one| [&[one], &WHOLE[..]].concat();
        for fields in [
            WHOLE[1..].to_vec(),
            [&WHOLE[..2], &WHOLE[3..]].concat(),
            [&WHOLE[..1], &WHOLE[2..]].concat(),
            first((":method", "POST")),
            first((":path", "/")),
            first((":status", "200")),
            first((":path", "")),
            [("", ""); 0]
                .into_iter()
                .chain(WHOLE)
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
            assert!(matches!(made_of(&fields), Block::Malformed), "{fields:?}");
        }
    }

    /// Section 8.3.1 and 8.5
    #[test]
    fn requests_that_are_not_grpc_are_well_formed_too() {
        let of = |fields: &[(&str, &str)]| match made_of(fields) {
            Block::Request(request, _) => format!("{} {}", request.method(), request.uri()),
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
    fn a_list_has_an_end() {
        let long = "x".repeat(MAX_HEADER_LIST - 1000);
        let fields = [&WHOLE[..], &[("x", &long)]].concat();
        assert!(matches!(made_of(&fields), Block::Request(..)));
        let fields = [&fields[..], &[("y", &long[..1000])]].concat();
        assert!(matches!(made_of(&fields), Block::TooLong));
    }
}
