//! Header compression (RFC 7541): all of it for what is received, none of it for what is sent. A
//! server that answers thousands of streams with the same two headers saves nothing by a table.

use std::collections::VecDeque;

use http::{HeaderMap, StatusCode};

mod huffman;
mod statics;

use statics::STATIC;

use super::frame::MAX_FRAME;

/// What the table may hold, as HPACK counts (section 4.1): the default, which we leave alone.
const TABLE: usize = 4096;

/// What each entry counts beside its text.
const ENTRY: usize = 32;

/// What a field takes at most beside its text, if that fits into a frame: a byte, and two lengths.
const FIELD: usize = 1 + 2 * 4;

type Field = (Box<[u8]>, Box<[u8]>);

/// What one peer's header blocks are read with.
#[derive(Debug)]
pub(crate) struct Decoder {
    /// The newest first.
    table: VecDeque<Field>,
    size: usize,
    limit: usize,
}

/// Bytes that are no header block; nothing that follows on the connection can be read either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Undecodable;

impl Decoder {
    pub(crate) fn new() -> Self {
        Self { table: VecDeque::new(), size: 0, limit: TABLE }
    }

    /// Hands out name and value of each field in a whole block.
    pub(crate) fn decode(
        &mut self,
        mut block: &[u8],
        mut each: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), Undecodable> {
        let (mut name, mut value) = (Vec::new(), Vec::new());
        let mut begun = false;
        while let Some(first) = block.first().copied() {
            if first & 0xe0 == 0x20 {
                let limit = integer(&mut block, 5)?;
                // Section 4.2: at the beginning only, and never above what was agreed.
                if begun || limit > TABLE {
                    return Err(Undecodable);
                }
                self.limit = limit;
                self.evict();
                continue;
            }
            begun = true;
            if first & 0x80 != 0 {
                let (name, value) = self.field(integer(&mut block, 7)?)?;
                each(name, value);
                continue;
            }
            let indexed = first & 0x40 != 0;
            let index = integer(&mut block, if indexed { 6 } else { 4 })?;
            name.clear();
            value.clear();
            match index {
                0 => string(&mut block, &mut name)?,
                index => name.extend_from_slice(self.field(index)?.0),
            }
            string(&mut block, &mut value)?;
            each(&name, &value);
            if indexed {
                self.size += name.len() + value.len() + ENTRY;
                self.table.push_front((name[..].into(), value[..].into()));
                self.evict();
            }
        }
        Ok(())
    }

    fn field(&self, index: usize) -> Result<(&[u8], &[u8]), Undecodable> {
        let at = index.checked_sub(1).ok_or(Undecodable)?;
        if let Some((name, value)) = STATIC.get(at) {
            return Ok((name.as_bytes(), value.as_bytes()));
        }
        let (name, value) = self.table.get(at - STATIC.len()).ok_or(Undecodable)?;
        Ok((name, value))
    }

    fn evict(&mut self) {
        while self.size > self.limit {
            let Some((name, value)) = self.table.pop_back() else { return };
            self.size -= name.len() + value.len() + ENTRY;
        }
    }
}

/// Section 5.1, as far as 28 bits: more than any index or length that can be right.
fn integer(block: &mut &[u8], prefix: u32) -> Result<usize, Undecodable> {
    let mask = (1 << prefix) - 1;
    let mut value = usize::from(next(block)?) & mask;
    if value < mask {
        return Ok(value);
    }
    for shift in [0, 7, 14, 21] {
        let byte = usize::from(next(block)?);
        value += (byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(Undecodable)
}

/// Section 5.2
fn string(block: &mut &[u8], out: &mut Vec<u8>) -> Result<(), Undecodable> {
    let coded = block.first().ok_or(Undecodable)? & 0x80 != 0;
    let len = integer(block, 7)?;
    let (text, rest) = block.split_at_checked(len).ok_or(Undecodable)?;
    *block = rest;
    if coded {
        return huffman::decode(text, out).ok_or(Undecodable);
    }
    out.extend_from_slice(text);
    Ok(())
}

fn next(block: &mut &[u8]) -> Result<u8, Undecodable> {
    let (first, rest) = block.split_first().ok_or(Undecodable)?;
    *block = rest;
    Ok(*first)
}

/// A block that leaves no trace in the peer's table.
#[derive(Debug, Default)]
pub(crate) struct Block(pub(crate) Vec<u8>);

impl Block {
    /// Says that the table is not used; due when the peer has made its own smaller (section 4.2).
    pub(crate) fn no_table(&mut self) {
        self.0.push(0x20);
    }

    pub(crate) fn status(&mut self, status: StatusCode) {
        if status == StatusCode::OK {
            self.0.push(0x88);
        } else {
            self.0.push(0x08);
            self.text(status.as_str().as_bytes());
        }
    }

    /// Those that fit into one frame with what there is already. gRPC's are far from that; who puts
    /// more in gets no CONTINUATION frames for it.
    pub(crate) fn headers(&mut self, headers: &HeaderMap) {
        for (name, value) in headers {
            let (name, value) = (name.as_str().as_bytes(), value.as_bytes());
            if self.0.len() + name.len() + value.len() + FIELD <= MAX_FRAME {
                self.field(name, value);
            }
        }
    }

    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        self.0.push(0);
        self.text(name);
        self.text(value);
    }

    fn text(&mut self, text: &[u8]) {
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
