//! The wire format of frames (RFC 9113, sections 4 and 6): nine bytes of header, then the payload.

use thiserror::Error;

/// Bytes of a frame header (section 4.1).
pub const FRAME_HEADER_LEN: usize = 9;

/// The largest payload in bytes that every peer accepts (section 6.5.2), and the largest that we do.
pub(crate) const MAX_FRAME_SIZE: usize = 16_384;

/// The largest flow-control window in bytes (section 6.9.1). Also the mask for 31-bit numbers, whose
/// first bit is reserved.
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// The size in bytes of a window before SETTINGS or WINDOW_UPDATE change it (section 6.9.2).
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;

/// Frame types (section 6).
pub(crate) mod frame_type {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RST_STREAM: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

/// Frame flags (section 6). Two of them share a bit: which one it is follows from the frame type.
pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

/// Identifiers of settings (section 6.5.2).
pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// The code in RST_STREAM and GOAWAY (section 7); those that a server of this crate sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// NO_ERROR: a graceful shutdown, or a request body that is not needed any more.
    NoError = 0,
    /// PROTOCOL_ERROR
    ProtocolError = 1,
    /// FLOW_CONTROL_ERROR
    FlowControlError = 3,
    /// STREAM_CLOSED
    StreamClosed = 5,
    /// FRAME_SIZE_ERROR
    FrameSizeError = 6,
    /// REFUSED_STREAM: the request was not processed; the client may send it again.
    RefusedStream = 7,
    /// CANCEL
    Cancel = 8,
    /// COMPRESSION_ERROR
    CompressionError = 9,
    /// ENHANCE_YOUR_CALM: the peer asks for more than the server is ready to do.
    EnhanceYourCalm = 11,
}

/// An error that ends the whole connection (section 5.4.1).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct ConnectionError {
    /// The code for GOAWAY.
    pub code: ErrorCode,
    /// What the peer did, for whoever debugs it: sent in GOAWAY as debug data, and fit for a log.
    pub reason: &'static str,
}

impl ConnectionError {
    /// An error of the caller's making, such as a limit of its own that the peer exceeds.
    pub fn new(code: ErrorCode, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

/// A parsed frame header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// Bytes of payload that follow.
    pub(crate) len: usize,
    pub(crate) frame_type: u8,
    pub(crate) flags: u8,
    /// 0 for frames of the connection itself.
    pub(crate) stream_id: u32,
}

impl FrameHeader {
    pub(crate) fn parse(bytes: [u8; FRAME_HEADER_LEN]) -> Self {
        let [a, b, c, frame_type, flags, stream_id @ ..] = bytes;
        let len = u32::from_be_bytes([0, a, b, c]) as usize;
        let stream_id = u32::from_be_bytes(stream_id) & MAX_WINDOW;
        Self { len, frame_type, flags, stream_id }
    }

    pub(crate) fn encode(self) -> [u8; FRAME_HEADER_LEN] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [s, t, u, v] = self.stream_id.to_be_bytes();
        [a, b, c, self.frame_type, self.flags, s, t, u, v]
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Appends a whole frame.
pub(crate) fn write_frame(
    out: &mut Vec<u8>,
    frame_type: u8,
    flags: u8,
    stream_id: u32,
    payload: &[u8],
) {
    let header = FrameHeader { len: payload.len(), frame_type, flags, stream_id };
    out.extend_from_slice(&header.encode());
    out.extend_from_slice(payload);
}

pub(crate) fn write_rst_stream(out: &mut Vec<u8>, stream_id: u32, code: ErrorCode) {
    write_frame(out, frame_type::RST_STREAM, 0, stream_id, &(code as u32).to_be_bytes());
}

pub(crate) fn write_window_update(out: &mut Vec<u8>, stream_id: u32, increment: u32) {
    write_frame(out, frame_type::WINDOW_UPDATE, 0, stream_id, &increment.to_be_bytes());
}

pub(crate) fn write_goaway(
    out: &mut Vec<u8>,
    last_stream_id: u32,
    code: ErrorCode,
    debug_data: &str,
) {
    let mut payload = Vec::with_capacity(8 + debug_data.len());
    payload.extend_from_slice(&last_stream_id.to_be_bytes());
    payload.extend_from_slice(&(code as u32).to_be_bytes());
    payload.extend_from_slice(debug_data.as_bytes());
    write_frame(out, frame_type::GOAWAY, 0, 0, &payload);
}

pub(crate) fn write_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut payload = Vec::with_capacity(settings.len() * 6);
    for (identifier, value) in settings {
        payload.extend_from_slice(&identifier.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    write_frame(out, frame_type::SETTINGS, 0, 0, &payload);
}
