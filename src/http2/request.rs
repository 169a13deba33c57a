//! Requests, made of the fields of a header block, and what makes them malformed (RFC 9113,
//! section 8.1 to 8.3).

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Uri, Version};

use super::hpack::{Decoder, Undecodable};

/// What all fields of a block may be together, as `SETTINGS_MAX_HEADER_LIST_SIZE` counts (section
/// 6.5.2): each with 32 bytes on top. gRPC's need less than one thousand.
pub(crate) const MAX_HEADER_LIST: usize = 16 << 10;

/// What a block turned out to be.
#[derive(Debug)]
pub(crate) enum Block {
    Request(Box<Request<()>>),
    Malformed,
    /// Longer than what we have said that we take.
    TooLong,
}

#[derive(Debug, Default)]
struct Fields {
    method: Option<Method>,
    scheme: bool,
    path: Option<Uri>,
    authority: bool,
    headers: HeaderMap,
    size: usize,
    malformed: bool,
}

/// A request's head. The decoder has seen the whole block whatever comes of it.
pub(crate) fn read(decoder: &mut Decoder, block: &[u8]) -> Result<Block, Undecodable> {
    let mut fields = Fields::default();
    decoder.decode(block, |name, value| {
        fields.size += name.len() + value.len() + 32;
        if fields.size <= MAX_HEADER_LIST && fields.field(name, value).is_none() {
            fields.malformed = true;
        }
    })?;
    if fields.size > MAX_HEADER_LIST {
        return Ok(Block::TooLong);
    }
    Ok(match (fields.method, fields.path) {
        (Some(method), Some(path)) if fields.scheme && !fields.malformed => {
            let mut request = Request::new(());
            (*request.method_mut(), *request.uri_mut()) = (method, path);
            *request.headers_mut() = fields.headers;
            *request.version_mut() = Version::HTTP_2;
            Block::Request(Box::new(request))
        }
        _ => Block::Malformed,
    })
}

impl Fields {
    /// `None` if it should not be there.
    fn field(&mut self, name: &[u8], value: &[u8]) -> Option<()> {
        if let Some(pseudo) = name.strip_prefix(b":") {
            // Before all others, and once.
            let new = match pseudo {
                b"method" => self.method.replace(Method::from_bytes(value).ok()?).is_none(),
                b"path" => self.path.replace(Uri::try_from(value).ok()?).is_none(),
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
            _ => {}
        }
        self.headers.append(name, HeaderValue::from_bytes(value).ok()?);
        Some(())
    }
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
        let Block::Request(request) = made_of(&WHOLE) else { panic!("not a request") };
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
            with(&[(":authority", "late")]),
            with(&[("Upper", "case")]),
            with(&[("te", "gzip")]),
            with(&[("connection", "close")]),
            with(&[("upgrade", "websocket")]),
            with(&[("", "nameless")]),
            with(&[("x", "a\nb")]),
        ] {
            assert!(matches!(made_of(&fields), Block::Malformed), "{fields:?}");
        }
    }

    #[test]
    fn a_list_has_an_end() {
        let long = "x".repeat(MAX_HEADER_LIST - 1000);
        let fields = [&WHOLE[..], &[("x", &long)]].concat();
        assert!(matches!(made_of(&fields), Block::Request(_)));
        let fields = [&fields[..], &[("y", &long[..1000])]].concat();
        assert!(matches!(made_of(&fields), Block::TooLong));
    }
}
