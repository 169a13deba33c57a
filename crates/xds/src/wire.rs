//! Protobuf fields of the discovery responses.

use prost::encoding::{encode_varint, encoded_len_varint};

/// Tags of length-delimited fields: number << 3 | 2.
pub(crate) const VERSION_INFO: u8 = 0x0a; // 1, both variants; a Resource's version as well
pub(crate) const RESOURCES: u8 = 0x12; // 2, both variants; a Resource's Any as well
pub(crate) const RESOURCE_NAME: u8 = 0x1a; // 3
pub(crate) const TYPE_URL: u8 = 0x22; // 4, both variants
pub(crate) const NONCE: u8 = 0x2a; // 5, both variants
pub(crate) const SOTW_CONTROL_PLANE: u8 = 0x32; // 6
pub(crate) const DELTA_REMOVED: u8 = 0x32; // 6
pub(crate) const DELTA_CONTROL_PLANE: u8 = 0x3a; // 7

pub(crate) fn header_len(content: usize) -> usize {
    1 + encoded_len_varint(content as u64)
}

pub(crate) fn field_len(content: usize) -> usize {
    header_len(content) + content
}

pub(crate) fn put_field_header(into: &mut Vec<u8>, tag: u8, len: usize) {
    into.push(tag);
    encode_varint(len as u64, into);
}

pub(crate) fn put_field(into: &mut Vec<u8>, tag: u8, content: &[u8]) {
    put_field_header(into, tag, content.len());
    into.extend_from_slice(content);
}
