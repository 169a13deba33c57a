//! The fields of an encoded `Node` that count, read in one pass without building the rest.
//!
//! A node's metadata is free: a peer can put a million empty values there, which take 27 times
//! their size once decoded. Field numbers are those of `envoy/config/core/v3/base.proto` and
//! `google/protobuf/struct.proto`; of a field that comes twice the last one counts.

use std::borrow::Cow;
use std::collections::BTreeMap;

use prost::encoding::{WireType, decode_key, decode_varint, skip_field};

use pilothouse_xds::discovery_request::MalformedRequest;
use pilothouse_xds::discovery_request::fields::{delimited, utf8};

/// What a node says, still in its bytes.
#[derive(Debug, Default)]
pub struct Node<'a> {
    pub id: &'a str,
    pub cluster: &'a str,
    pub region: &'a str,
    pub zone: &'a str,
    pub sub_zone: &'a str,
    pub user_agent_name: &'a str,
    pub user_agent_version: Option<&'a str>,
    /// Major, minor, patch.
    pub build_version: Option<(u64, u64, u64)>,
    metadata: &'a [u8],
}

/// A field's content, as far as any of those here has it.
#[derive(Clone, Copy)]
enum Content<'a> {
    Bytes(&'a [u8]),
    Number(u64),
    Double(f64),
}

impl<'a> Node<'a> {
    /// Reads an encoded `Node`.
    ///
    /// # Errors
    /// It is no protobuf message, or a text in it is no UTF-8.
    pub fn read(node: &'a [u8]) -> Result<Self, MalformedRequest> {
        let mut read = Self::default();
        each(node, |number, content| {
            let Content::Bytes(bytes) = content else { return Ok(()) };
            match number {
                1 => read.id = utf8(bytes)?,
                2 => read.cluster = utf8(bytes)?,
                3 => read.metadata = bytes,
                4 => each(bytes, |number, content| {
                    match (number, content) {
                        (1, Content::Bytes(bytes)) => read.region = utf8(bytes)?,
                        (2, Content::Bytes(bytes)) => read.zone = utf8(bytes)?,
                        (3, Content::Bytes(bytes)) => read.sub_zone = utf8(bytes)?,
                        _ => {}
                    }
                    Ok(())
                })?,
                6 => read.user_agent_name = utf8(bytes)?,
                7 => read.user_agent_version = Some(utf8(bytes)?),
                8 => read.build_version = Some(build_version(bytes)?),
                _ => {}
            }
            Ok(())
        })?;
        Ok(read)
    }

    /// Region, zone and sub-zone.
    pub fn locality(&self) -> [&'a str; 3] {
        [self.region, self.zone, self.sub_zone]
    }

    /// A metadata field that is a text, or a number as its digits.
    ///
    /// # Errors
    /// The metadata is no `Struct`.
    pub fn metadata(&self, key: &str) -> Result<Option<Cow<'a, str>>, MalformedRequest> {
        let mut found = None;
        entries(self.metadata, |name, value| {
            if name == key.as_bytes() {
                found = text_of_value(value)?;
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// The texts of a metadata field that has fields itself.
    ///
    /// # Errors
    /// The metadata is no `Struct`.
    pub fn texts_within(&self, key: &str) -> Result<BTreeMap<&'a str, &'a str>, MalformedRequest> {
        let mut found = BTreeMap::new();
        entries(self.metadata, |name, value| {
            if name != key.as_bytes() {
                return Ok(());
            }
            each(value, |number, content| {
                let (5, Content::Bytes(fields)) = (number, content) else { return Ok(()) };
                entries(fields, |name, value| {
                    if let Some(Cow::Borrowed(text)) = text_of_value(value)? {
                        found.insert(utf8(name)?, text);
                    }
                    Ok(())
                })
            })
        })?;
        Ok(found)
    }
}

/// Calls `take` with name and value of every field of a `Struct`.
fn entries<'a>(
    fields: &'a [u8],
    mut take: impl FnMut(&'a [u8], &'a [u8]) -> Result<(), MalformedRequest>,
) -> Result<(), MalformedRequest> {
    each(fields, |number, content| {
        let (1, Content::Bytes(entry)) = (number, content) else { return Ok(()) };
        let (mut name, mut value) = (&b""[..], &b""[..]);
        each(entry, |number, content| {
            match (number, content) {
                (1, Content::Bytes(bytes)) => name = bytes,
                (2, Content::Bytes(bytes)) => value = bytes,
                _ => {}
            }
            Ok(())
        })?;
        take(name, value)
    })
}

fn text_of_value(value: &[u8]) -> Result<Option<Cow<'_, str>>, MalformedRequest> {
    let mut text = None;
    each(value, |number, content| {
        text = match (number, content) {
            (2, Content::Double(number)) => Some(number.to_string().into()),
            (3, Content::Bytes(bytes)) => Some(utf8(bytes)?.into()),
            _ => None,
        };
        Ok(())
    })?;
    Ok(text)
}

/// `BuildVersion.version`: major, minor, patch.
fn build_version(build: &[u8]) -> Result<(u64, u64, u64), MalformedRequest> {
    let mut version = (0, 0, 0);
    each(build, |number, content| {
        let (1, Content::Bytes(bytes)) = (number, content) else { return Ok(()) };
        each(bytes, |number, content| {
            match (number, content) {
                (1, Content::Number(number)) => version.0 = number,
                (2, Content::Number(number)) => version.1 = number,
                (3, Content::Number(number)) => version.2 = number,
                _ => {}
            }
            Ok(())
        })
    })?;
    Ok(version)
}

/// Calls `take` with every field of a message.
fn each<'a>(
    mut rest: &'a [u8],
    mut take: impl FnMut(u32, Content<'a>) -> Result<(), MalformedRequest>,
) -> Result<(), MalformedRequest> {
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(&mut rest)?;
        let content = match wire_type {
            WireType::LengthDelimited => Content::Bytes(delimited(&mut rest)?),
            WireType::Varint => Content::Number(decode_varint(&mut rest)?),
            WireType::SixtyFourBit => {
                let (content, after) =
                    rest.split_first_chunk().ok_or(MalformedRequest::Truncated)?;
                rest = after;
                Content::Double(f64::from_le_bytes(*content))
            }
            _ => {
                skip_field(wire_type, number, &mut rest, Default::default())?;
                continue;
            }
        };
        take(number, content)?;
    }
    Ok(())
}
