//! Reads protobuf fields without copying their content.

use std::ops::Range;

use prost::encoding::{WireType, decode_key, decode_varint, skip_field};

use super::MalformedRequest;

/// Calls `visit` with every length-delimited field: number, range in the message, content. Other fields
/// are skipped, as protobuf requires of unknown fields.
pub(super) fn for_each_field<'a>(
    message: &'a [u8],
    mut visit: impl FnMut(u32, Range<usize>, &'a [u8]) -> Result<(), MalformedRequest>,
) -> Result<(), MalformedRequest> {
    let mut rest = message;
    loop {
        // A skipped field becomes part of the next range; reading the names skips it again.
        let start = message.len() - rest.len();
        let Some((number, content)) = next_field(&mut rest)? else { return Ok(()) };
        visit(number, start..message.len() - rest.len(), content)?;
    }
}

/// The next length-delimited field, or `None` at the end.
#[inline]
pub(super) fn next_field<'a>(
    rest: &mut &'a [u8],
) -> Result<Option<(u32, &'a [u8])>, MalformedRequest> {
    // Small numbers and lengths, as in nearly every field there is.
    if let [tag @ ..0x80, len @ ..0x80, after @ ..] = *rest
        && tag & 7 == WireType::LengthDelimited as u8
        && tag >> 3 != 0
        && let Some((content, after)) = after.split_at_checked(usize::from(*len))
    {
        *rest = after;
        return Ok(Some((u32::from(tag >> 3), content)));
    }
    next_field_slow(rest)
}

fn next_field_slow<'a>(rest: &mut &'a [u8]) -> Result<Option<(u32, &'a [u8])>, MalformedRequest> {
    while !rest.is_empty() {
        let (number, wire_type) = decode_key(rest)?;
        if wire_type == WireType::LengthDelimited {
            return Ok(Some((number, delimited(rest)?)));
        }
        skip_field(wire_type, number, rest, Default::default())?;
    }
    Ok(None)
}

/// The content of a length-delimited field, after its key.
pub fn delimited<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], MalformedRequest> {
    let len = decode_varint(rest)?;
    let content = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
    let (content, after) = content.ok_or(MalformedRequest::Truncated)?;
    *rest = after;
    Ok(content)
}

pub fn utf8(content: &[u8]) -> Result<&str, MalformedRequest> {
    std::str::from_utf8(content).map_err(|_| MalformedRequest::NotUtf8)
}

/// A protobuf map's entry: key = 1, value = 2.
pub(super) fn map_entry(content: &[u8]) -> Result<(&str, &str), MalformedRequest> {
    let (mut key, mut value) = ("", "");
    for_each_field(content, |number, _, content| {
        match number {
            1 => key = utf8(content)?,
            2 => value = utf8(content)?,
            _ => {}
        }
        Ok(())
    })?;
    Ok((key, value))
}
