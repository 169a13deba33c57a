//! HPACK (RFC 7541): a full decoder for received header blocks, and an encoder that uses neither the
//! dynamic table nor Huffman codes. A server that sends the same two header fields on thousands of
//! streams gains nothing from either.

use std::collections::VecDeque;

use http::{HeaderMap, StatusCode};

mod huffman;
mod static_table;

use static_table::STATIC_TABLE;

use crate::frame::MAX_FRAME_SIZE;

/// The largest size of the dynamic table, counted as section 4.1 does: SETTINGS_HEADER_TABLE_SIZE's
/// default, which we do not change.
const MAX_TABLE_SIZE: usize = 4096;

/// What section 4.1 adds to the bytes of an entry's name and value.
const ENTRY_OVERHEAD: usize = 32;

/// Bytes that an encoded field takes at most beside its name and value, as long as it fits into a
/// frame: the representation's first byte, and two lengths.
const FIELD_OVERHEAD: usize = 1 + 2 * 4;

type Field = (Box<[u8]>, Box<[u8]>);

/// Decodes the header blocks of one connection, in the order in which they arrive.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest entry first.
    dynamic_table: VecDeque<Field>,
    table_size: usize,
    /// What the peer has set by a dynamic table size update (section 6.3).
    max_table_size: usize,
}

/// Bytes that one header block may decode to, counted like the dynamic table: four times our
/// SETTINGS_MAX_HEADER_LIST_SIZE. Two bytes can refer to an entry of 4,096 (the HPACK bomb,
/// CVE-2016-6581), so without a bound a block of 32 KiB costs 4 ms to copy 57 MB.
const MAX_DECODED_SIZE: usize = 64 << 10;

/// Why a header block was not decoded to its end. The dynamic table is unknown from there on, so
/// the connection has to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// The block is not valid HPACK.
    Malformed,
    /// It decodes to more than [`MAX_DECODED_SIZE`].
    TooLarge,
}

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { dynamic_table: VecDeque::new(), table_size: 0, max_table_size: MAX_TABLE_SIZE }
    }

    /// Calls `on_field` with the name and the value of each field of a whole header block.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut on_field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), DecodeError> {
        let (mut name, mut value) = (Vec::new(), Vec::new());
        let mut seen_field = false;
        let mut decoded_size = 0;
        let mut count = |name: &[u8], value: &[u8]| {
            decoded_size += name.len() + value.len() + ENTRY_OVERHEAD;
            if decoded_size > MAX_DECODED_SIZE { Err(DecodeError::TooLarge) } else { Ok(()) }
        };
        while let Some(first) = block.first().copied() {
            if first & 0xe0 == 0x20 {
                let max_size = decode_integer(&mut block, 5)?;
                // Section 4.2: only at the beginning of a block, and never above our setting.
                if seen_field || max_size > MAX_TABLE_SIZE {
                    return Err(DecodeError::Malformed);
                }
                self.max_table_size = max_size;
                self.evict();
                continue;
            }
            seen_field = true;
            if first & 0x80 != 0 {
                let (name, value) = self.entry(decode_integer(&mut block, 7)?)?;
                count(name, value)?;
                on_field(name, value);
                continue;
            }
            let incremental_indexing = first & 0x40 != 0;
            let index = decode_integer(&mut block, if incremental_indexing { 6 } else { 4 })?;
            name.clear();
            value.clear();
            match index {
                0 => decode_string(&mut block, &mut name)?,
                index => name.extend_from_slice(self.entry(index)?.0),
            }
            decode_string(&mut block, &mut value)?;
            count(&name, &value)?;
            on_field(&name, &value);
            if incremental_indexing {
                self.table_size += name.len() + value.len() + ENTRY_OVERHEAD;
                self.dynamic_table.push_front((name[..].into(), value[..].into()));
                self.evict();
            }
        }
        Ok(())
    }

    /// The entry at an index of the static and the dynamic table together (section 2.3.3).
    fn entry(&self, index: usize) -> Result<(&[u8], &[u8]), DecodeError> {
        let at = index.checked_sub(1).ok_or(DecodeError::Malformed)?;
        if let Some((name, value)) = STATIC_TABLE.get(at) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) =
            self.dynamic_table.get(at - STATIC_TABLE.len()).ok_or(DecodeError::Malformed)?;
        Ok((name, value))
    }

    /// Section 4.4
    fn evict(&mut self) {
        while self.table_size > self.max_table_size {
            let Some((name, value)) = self.dynamic_table.pop_back() else { return };
            self.table_size -= name.len() + value.len() + ENTRY_OVERHEAD;
        }
    }
}

/// An integer with a prefix of so many bits (section 5.1), of at most 28 bits beyond the prefix:
/// more than any valid index or length needs.
fn decode_integer(block: &mut &[u8], prefix: u32) -> Result<usize, DecodeError> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(take_byte(block)?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(take_byte(block)?);
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(DecodeError::Malformed)
}

/// Appends a string literal, with or without Huffman codes (section 5.2).
fn decode_string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), DecodeError> {
    let huffman_coded = block.first().ok_or(DecodeError::Malformed)? & 0x80 != 0;
    let len = decode_integer(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(DecodeError::Malformed)?;
    *block = rest;
    if huffman_coded {
        return huffman::decode(text, out).ok_or(DecodeError::Malformed);
    }
    out.extend_from_slice(text);
    Ok(())
}

fn take_byte(block: &mut &[u8]) -> Result<u8, DecodeError> {
    let (first, rest) = block.split_first().ok_or(DecodeError::Malformed)?;
    *block = rest;
    Ok(*first)
}

/// An encoded header block, which adds nothing to the peer's dynamic table.
#[derive(Debug, Default)]
pub(crate) struct HeaderBlock(pub(crate) Vec<u8>);

impl HeaderBlock {
    /// A dynamic table size update to 0, which must begin the first block after the peer has
    /// lowered SETTINGS_HEADER_TABLE_SIZE (section 4.2).
    pub(crate) fn push_table_size_zero(&mut self) {
        self.0.push(0x20);
    }

    /// `:status`, which must come first.
    pub(crate) fn push_status(&mut self, status: StatusCode) {
        if status == StatusCode::OK {
            self.0.push(0x88);
        } else {
            self.0.push(0x08);
            self.push_string(status.as_str().as_bytes());
        }
    }

    /// The fields that fit into one frame together with what is there already; no CONTINUATION is
    /// ever sent, and the others are left out. The headers and trailers of gRPC fit by far.
    pub(crate) fn push_headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            if self.0.len() + name.len() + value.len() + FIELD_OVERHEAD <= MAX_FRAME_SIZE {
                self.push_field(name, value);
            }
        }
    }

    /// A literal field without indexing (section 6.2.2).
    pub(crate) fn push_field(&mut self, name: &[u8], value: &[u8]) {
        self.0.push(0);
        self.push_string(name);
        self.push_string(value);
    }

    fn push_string(&mut self, text: &[u8]) {
        if text.len() < 0x7f {
            self.0.push(text.len() as u8);
        } else {
            self.0.push(0x7f);
            let mut rest = text.len() - 0x7f;
            while rest >= 0x80 {
                self.0.push(rest as u8 | 0x80);
                rest >>= 7;
            }
            self.0.push(rest as u8);
        }
        self.0.extend_from_slice(text);
    }
}

#[cfg(test)]
mod tests;
