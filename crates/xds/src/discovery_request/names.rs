//! Repeated string fields of a request, kept as the bytes they came in.

use std::ops::Range;

use bytes::Bytes;
use prost::encoding::WireType;

use super::MalformedRequest;
use super::fields::{map_entry, next_field, utf8};
use crate::subscription::Subscription;

/// Strings of a repeated field, in the order sent, still in the request's bytes.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// The fields with their tags and lengths, one after the other.
    fields: Bytes,
    len: usize,
    /// Id of the subscription that was made of this very list.
    known: Option<u64>,
}

impl Names {
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        let mut rest = &self.fields[..];
        // Fields and UTF-8 were checked when the request was decoded.
        std::iter::from_fn(move || {
            let (_, content) = next_field(&mut rest).ok()??;
            Some(std::str::from_utf8(content).unwrap_or_default())
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The bytes that they came in.
    pub fn as_sent(&self) -> &[u8] {
        &self.fields
    }

    /// [`Subscription::id`] of the subscription that was made of this very list, if it was recognised.
    pub fn known(&self) -> Option<u64> {
        self.known
    }

    /// Equal lists in equal order have equal hashes.
    pub fn hash(&self) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&self.fields)
    }
}

impl<'a> FromIterator<&'a str> for Names {
    fn from_iter<I: IntoIterator<Item = &'a str>>(names: I) -> Self {
        let (mut fields, mut len) = (Vec::new(), 0);
        for name in names {
            prost::encoding::encode_key(3, WireType::LengthDelimited, &mut fields);
            prost::encoding::encode_varint(name.len() as u64, &mut fields);
            fields.extend_from_slice(name.as_bytes());
            len += 1;
        }
        Self { fields: fields.into(), len, known: None }
    }
}

/// Where in a message a repeated field stands: usually in one contiguous range. Several ranges are
/// copied together, so that a message with a million ranges costs no more than its own size.
pub(super) struct RepeatedField {
    range: Range<usize>,
    /// Copies of the ranges before that one.
    earlier: Vec<u8>,
    pub(super) len: usize,
    /// The subscription that was made of the first names, and the number of those.
    known: Option<(u64, usize)>,
}

impl RepeatedField {
    pub(super) const fn new() -> Self {
        Self { range: 0..0, earlier: Vec::new(), len: 0, known: None }
    }

    #[inline]
    pub(super) fn push(&mut self, message: &[u8], field: Range<usize>) {
        self.len += 1;
        if self.range.end != field.start {
            self.earlier.extend_from_slice(message.get(self.range.clone()).unwrap_or_default());
            self.range.start = field.start;
        }
        self.range.end = field.end;
    }

    /// Takes a known list from the front of `rest`, the end of the message, in one comparison: this is
    /// what an ACK for a thousand clusters costs.
    pub(super) fn push_known_list<'a>(
        &mut self,
        message: &[u8],
        rest: &mut &[u8],
        mut known: impl Iterator<Item = &'a Subscription>,
    ) {
        let found = known.find_map(|subscription| {
            let after = subscription.as_sent()?.strip_from(rest)?;
            Some((after, subscription.len(), subscription.id()))
        });
        if let Some((after, len, id)) = found {
            let start = message.len() - rest.len();
            self.push(message, start..message.len() - after.len());
            (self.len, self.known, *rest) = (len, Some((id, len)), after);
        }
    }

    pub(super) fn take_bytes(&mut self, message: &Bytes) -> Bytes {
        let range = self.range.clone();
        if self.earlier.is_empty() {
            return message.slice(range);
        }
        self.earlier.extend_from_slice(message.get(range).unwrap_or_default());
        std::mem::take(&mut self.earlier).into()
    }

    pub(super) fn into_names(mut self, message: &Bytes) -> Result<Names, MalformedRequest> {
        let fields = self.take_bytes(message);
        if let Some((known, len)) = self.known
            && len == self.len
        {
            return Ok(Names { fields, len, known: Some(known) });
        }
        // One check for all names; lengths above 127 and other scripts need one for each.
        if !fields.is_ascii() {
            let mut rest = &fields[..];
            while let Some((_, name)) = next_field(&mut rest)? {
                utf8(name)?;
            }
        }
        Ok(Names { fields, len: self.len, known: None })
    }
}

/// `initial_resource_versions`, still in the request's bytes: an empty entry has two bytes there, and
/// would take a hundred as two strings.
#[derive(Clone, Debug, Default)]
pub struct InitialVersions {
    pub(super) fields: Bytes,
    pub(super) len: usize,
}

impl InitialVersions {
    /// Names and versions; checked when the request was decoded.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut rest = &self.fields[..];
        std::iter::from_fn(move || {
            let (_, content) = next_field(&mut rest).ok()??;
            Some(map_entry(content).unwrap_or_default())
        })
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}
