//! Splits the bytes of a connection into frames, in whatever chunks they arrive.

use std::borrow::Cow;

use crate::frame::{
    ConnectionError, ErrorCode, FRAME_HEADER_LEN, FrameHeader, MAX_FRAME_SIZE, flag, frame_type,
};

/// The client's connection preface (RFC 9113, section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads frames. Buffers only what is incomplete at the end of a chunk, and holds no memory between
/// frames.
#[derive(Debug, Default)]
pub(crate) struct FrameReader {
    preface_received: bool,
    /// The header of a frame whose payload is incomplete.
    header: Option<FrameHeader>,
    /// The first bytes of an incomplete preface, frame header or payload.
    buffered: Vec<u8>,
    /// Bytes of a DATA frame that are still to come.
    data_remaining: usize,
}

/// A piece of a connection's bytes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FramePart<'a> {
    /// A whole frame, with its payload.
    Frame(FrameHeader, Cow<'a, [u8]>),
    /// The header of a DATA frame without padding, whose payload follows as [`FramePart::Data`].
    DataHeader(FrameHeader),
    /// The next bytes of a DATA frame's payload, and whether they are its last.
    Data(&'a [u8], bool),
}

impl FrameReader {
    /// The next part, which is removed from the front of `bytes`; `None` if `bytes` ends before
    /// the next part does. What there is of it is then buffered.
    ///
    /// # Errors
    /// PROTOCOL_ERROR if the connection does not begin with the preface, FRAME_SIZE_ERROR for a
    /// frame that is too long.
    pub(crate) fn next_part<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<FramePart<'a>>, ConnectionError> {
        if self.data_remaining > 0 {
            let part = take_front(bytes, self.data_remaining);
            self.data_remaining -= part.len();
            let is_last = self.data_remaining == 0;
            return Ok((!part.is_empty()).then_some(FramePart::Data(part, is_last)));
        }
        if !self.preface_received {
            let part = take_front(bytes, PREFACE.len() - self.buffered.len());
            self.buffered.extend_from_slice(part);
            if !PREFACE.starts_with(&self.buffered) {
                let reason = OtherProtocol::detect(&self.buffered).reason();
                return Err(ConnectionError::new(ErrorCode::ProtocolError, reason));
            }
            if self.buffered.len() < PREFACE.len() {
                return Ok(None);
            }
            self.buffered = Vec::new();
            self.preface_received = true;
        }
        let header = match self.header {
            Some(header) => header,
            None => {
                let Some(header) = self.read_header(bytes) else { return Ok(None) };
                if header.len > MAX_FRAME_SIZE {
                    let reason = "a frame of more than 16,384 bytes";
                    return Err(ConnectionError::new(ErrorCode::FrameSizeError, reason));
                }
                if header.frame_type == frame_type::DATA && !header.has(flag::PADDED) {
                    self.data_remaining = header.len;
                    return Ok(Some(FramePart::DataHeader(header)));
                }
                self.header = Some(header);
                header
            }
        };
        let part = take_front(bytes, header.len - self.buffered.len());
        let payload = if part.len() == header.len {
            Cow::Borrowed(part)
        } else {
            self.buffered.extend_from_slice(part);
            if self.buffered.len() < header.len {
                return Ok(None);
            }
            Cow::Owned(std::mem::take(&mut self.buffered))
        };
        self.header = None;
        Ok(Some(FramePart::Frame(header, payload)))
    }

    fn read_header(&mut self, bytes: &mut &[u8]) -> Option<FrameHeader> {
        if self.buffered.is_empty()
            && let Some((header, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(FrameHeader::parse(*header));
        }
        self.buffered.extend_from_slice(take_front(bytes, FRAME_HEADER_LEN - self.buffered.len()));
        let header = FrameHeader::parse(self.buffered.first_chunk().copied()?);
        self.buffered = Vec::new();
        Some(header)
    }

    pub(crate) fn has_preface(&self) -> bool {
        self.preface_received
    }

    /// What the peer speaks, if it has sent something else than the preface.
    pub(crate) fn other_protocol(&self) -> Option<OtherProtocol> {
        let first = &self.buffered;
        (!self.preface_received && !PREFACE.starts_with(first))
            .then(|| OtherProtocol::detect(first))
    }

    /// Bytes of memory that are held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.buffered.capacity()
    }
}

/// Removes at most `len` bytes from the front.
fn take_front<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (part, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    part
}

/// What a peer speaks instead of HTTP/2, by the first bytes that it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtherProtocol {
    /// TLS: a handshake record.
    Tls,
    /// HTTP/1: a request line.
    Http1,
    /// None of these.
    Unknown,
}

/// Methods that an HTTP/1 request line may begin with. `PRI` is HTTP/2's own, whose preface then
/// differs later.
const HTTP1_METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"];

impl OtherProtocol {
    /// By the first bytes that a peer has sent, one at least.
    #[must_use]
    pub fn detect(first: &[u8]) -> Self {
        // The first bytes usually arrive together, but one of them alone must be enough.
        let begins_with = |method: &str| {
            let line = [method.as_bytes(), b" "].concat();
            first.starts_with(&line) || line.starts_with(first)
        };
        match first {
            // A handshake record (RFC 8446, section 5.1).
            [0x16, ..] => Self::Tls,
            _ if HTTP1_METHODS.into_iter().any(begins_with) => Self::Http1,
            _ => Self::Unknown,
        }
    }

    fn reason(self) -> &'static str {
        match self {
            Self::Tls => "the peer speaks TLS, this port is plaintext HTTP/2",
            Self::Http1 => "the peer speaks HTTP/1, this port is HTTP/2 with prior knowledge",
            Self::Unknown => "the peer does not speak HTTP/2",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::frame::write_frame;

    /// All frames of a connection that arrives in these chunks.
    fn read_all(chunks: &[&[u8]]) -> Result<Vec<(FrameHeader, Vec<u8>)>, ConnectionError> {
        let (mut reader, mut frames) =
            (FrameReader::default(), Vec::<(FrameHeader, Vec<u8>)>::new());
        for chunk in chunks {
            let mut bytes = *chunk;
            while let Some(part) = reader.next_part(&mut bytes)? {
                match part {
                    FramePart::Frame(header, payload) => {
                        frames.push((header, payload.into_owned()))
                    }
                    FramePart::DataHeader(header) => frames.push((header, Vec::new())),
                    FramePart::Data(data, is_last) => {
                        let (header, payload) = frames.last_mut().unwrap();
                        payload.extend_from_slice(data);
                        assert_eq!(is_last, payload.len() == header.len);
                    }
                }
            }
            assert!(bytes.is_empty());
        }
        if reader.header.is_none() && reader.buffered.is_empty() {
            assert_eq!(reader.held(), 0, "memory is held between frames");
        }
        Ok(frames)
    }

    proptest! {
        #[test]
        fn frames_come_whole_however_they_are_cut(
            frames in prop::collection::vec(
                (0..12_u8, any::<u8>(), 0..9_u32, prop::collection::vec(any::<u8>(), 0..40)), 0..9),
            size in 1..60_usize,
        ) {
            let mut bytes = PREFACE.to_vec();
            let mut expected = Vec::new();
            for (frame_type, flags, stream_id, payload) in frames {
                write_frame(&mut bytes, frame_type, flags, stream_id, &payload);
                let len = payload.len();
                expected.push((FrameHeader { len, frame_type, flags, stream_id }, payload));
            }
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(read_all(&chunks).unwrap(), expected);
        }
    }

    #[test]
    fn other_protocols_are_told_apart() {
        let reason = |bytes: &[u8]| read_all(&[bytes]).unwrap_err().reason;
        assert!(reason(b"GET / HTTP/1.1\r\n").contains("HTTP/1"));
        assert!(reason(b"PRI * HTTP/1.1").contains("HTTP/1"));
        assert!(reason(&[0x16, 3, 1, 2, 0]).contains("TLS"));
        assert!(reason(b"POST /x HTTP/1.1").contains("HTTP/1"));
        assert!(reason(b"PO").contains("HTTP/1"), "in pieces");
        assert!(reason(b"\0\0\0\0").contains("does not speak HTTP/2"));
        assert!(reason(b"INVALID PREFACE").contains("does not speak HTTP/2"));
        assert_eq!(read_all(&[b"PRI * H"]).unwrap(), []);
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_header() {
        let long = [PREFACE, &[0, 0x40, 1, 0, 0, 0, 0, 0, 1]].concat();
        assert_eq!(read_all(&[&long]).unwrap_err().code, ErrorCode::FrameSizeError);
        let longest = [PREFACE, &[0, 0x40, 0, 1, 0, 0, 0, 0, 1]].concat();
        assert_eq!(read_all(&[&longest]).unwrap(), []);
    }
}
