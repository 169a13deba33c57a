//! Frames: nine bytes that say what follows, and what follows (RFC 9113 section 4 and 6).

use thiserror::Error;

/// Bytes of a frame's head.
pub(crate) const HEAD: usize = 9;

/// What a peer must be able to take in one frame (section 6.5.2), and the most that we take.
pub(crate) const MAX_FRAME: usize = 16_384;

/// The most that a window can be (section 6.9.1).
pub(crate) const MAX_WINDOW: u32 = (1 << 31) - 1;

/// What each window is until somebody says otherwise (section 6.9.2).
pub(crate) const DEFAULT_WINDOW: u32 = 65_535;

pub(crate) mod kind {
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

pub(crate) mod flag {
    pub(crate) const END_STREAM: u8 = 1;
    pub(crate) const ACK: u8 = 1;
    pub(crate) const END_HEADERS: u8 = 4;
    pub(crate) const PADDED: u8 = 8;
    pub(crate) const PRIORITY: u8 = 0x20;
}

pub(crate) mod setting {
    pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
    pub(crate) const ENABLE_PUSH: u16 = 2;
    pub(crate) const MAX_CONCURRENT_STREAMS: u16 = 3;
    pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
    pub(crate) const MAX_FRAME_SIZE: u16 = 5;
    pub(crate) const MAX_HEADER_LIST_SIZE: u16 = 6;
}

/// Why a stream or a connection ends (section 7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    NoError = 0,
    Protocol = 1,
    FlowControl = 3,
    StreamClosed = 5,
    FrameSize = 6,
    RefusedStream = 7,
    Cancel = 8,
    Compression = 9,
    EnhanceYourCalm = 11,
}

/// What ends a connection. The text is for whoever looks at the peer (it goes into GOAWAY too).
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text}")]
pub struct Failure {
    pub code: Code,
    /// Plain words, for GOAWAY and the log.
    pub text: &'static str,
}

impl Failure {
    pub(crate) fn new(code: Code, text: &'static str) -> Self {
        Self { code, text }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    /// Bytes that follow.
    pub(crate) len: usize,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    /// 0 for the connection itself.
    pub(crate) stream: u32,
}

impl Head {
    pub(crate) fn parse(bytes: [u8; HEAD]) -> Self {
        let [a, b, c, kind, flags, stream @ ..] = bytes;
        let stream = u32::from_be_bytes(stream) & MAX_WINDOW;
        Self { len: u32::from_be_bytes([0, a, b, c]) as usize, kind, flags, stream }
    }

    pub(crate) fn encode(self) -> [u8; HEAD] {
        let [_, a, b, c] = (self.len as u32).to_be_bytes();
        let [s, t, u, v] = self.stream.to_be_bytes();
        [a, b, c, self.kind, self.flags, s, t, u, v]
    }

    pub(crate) fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// A whole frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    out.extend_from_slice(&Head { len: content.len(), kind, flags, stream }.encode());
    out.extend_from_slice(content);
}

pub(crate) fn put_reset(out: &mut Vec<u8>, stream: u32, code: Code) {
    put(out, kind::RST_STREAM, 0, stream, &(code as u32).to_be_bytes());
}

pub(crate) fn put_window_update(out: &mut Vec<u8>, stream: u32, by: u32) {
    put(out, kind::WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
}

pub(crate) fn put_goaway(out: &mut Vec<u8>, last: u32, code: Code, text: &str) {
    let mut content = Vec::with_capacity(8 + text.len());
    content.extend_from_slice(&last.to_be_bytes());
    content.extend_from_slice(&(code as u32).to_be_bytes());
    content.extend_from_slice(text.as_bytes());
    put(out, kind::GOAWAY, 0, 0, &content);
}

pub(crate) fn put_settings(out: &mut Vec<u8>, settings: &[(u16, u32)]) {
    let mut content = Vec::with_capacity(settings.len() * 6);
    for (name, value) in settings {
        content.extend_from_slice(&name.to_be_bytes());
        content.extend_from_slice(&value.to_be_bytes());
    }
    put(out, kind::SETTINGS, 0, 0, &content);
}
