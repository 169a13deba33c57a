//! Frames, cut off the bytes of a connection however they come.

use std::borrow::Cow;

use super::frame::{Code, Failure, HEAD, Head, MAX_FRAME, flag, kind};

/// What a client's connection begins with (section 3.4).
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What has come of a connection but is not whole yet. Holds no memory between frames.
#[derive(Debug, Default)]
pub(crate) struct Input {
    greeted: bool,
    /// Of the frame that is under way.
    head: Option<Head>,
    /// What has come of the preface, of a head, or of what follows a head.
    partial: Vec<u8>,
    /// Bytes of a DATA frame that are still to come.
    data_left: usize,
}

/// What was cut off.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut<'a> {
    Frame(Head, Cow<'a, [u8]>),
    /// The head of a DATA frame without padding; its content comes as it comes.
    DataBegins(Head),
    /// Some of that, and whether it is the last.
    Data(&'a [u8], bool),
}

impl Input {
    /// The next thing in `bytes`, and takes it off; `None` if they are used up.
    pub(crate) fn cut<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Cut<'a>>, Failure> {
        if self.data_left > 0 {
            let part = split(bytes, self.data_left);
            self.data_left -= part.len();
            return Ok((!part.is_empty()).then_some(Cut::Data(part, self.data_left == 0)));
        }
        if !self.greeted {
            let part = split(bytes, PREFACE.len() - self.partial.len());
            self.partial.extend_from_slice(part);
            if !PREFACE.starts_with(&self.partial) {
                let text = Foreign::of(&self.partial).text();
                return Err(Failure::new(Code::Protocol, text));
            }
            if self.partial.len() < PREFACE.len() {
                return Ok(None);
            }
            self.partial = Vec::new();
            self.greeted = true;
        }
        let head = match self.head {
            Some(head) => head,
            None => {
                let Some(head) = self.head(bytes) else { return Ok(None) };
                if head.len > MAX_FRAME {
                    return Err(Failure::new(Code::FrameSize, "a frame of more than 16,384 bytes"));
                }
                if head.kind == kind::DATA && !head.has(flag::PADDED) {
                    self.data_left = head.len;
                    return Ok(Some(Cut::DataBegins(head)));
                }
                self.head = Some(head);
                head
            }
        };
        let part = split(bytes, head.len - self.partial.len());
        let content = if part.len() == head.len {
            Cow::Borrowed(part)
        } else {
            self.partial.extend_from_slice(part);
            if self.partial.len() < head.len {
                return Ok(None);
            }
            Cow::Owned(std::mem::take(&mut self.partial))
        };
        self.head = None;
        Ok(Some(Cut::Frame(head, content)))
    }

    fn head(&mut self, bytes: &mut &[u8]) -> Option<Head> {
        if self.partial.is_empty()
            && let Some((head, rest)) = bytes.split_first_chunk()
        {
            *bytes = rest;
            return Some(Head::parse(*head));
        }
        self.partial.extend_from_slice(split(bytes, HEAD - self.partial.len()));
        let head = Head::parse(self.partial.first_chunk().copied()?);
        self.partial = Vec::new();
        Some(head)
    }

    /// Whether all of the preface has come.
    pub(crate) fn has_preface(&self) -> bool {
        self.greeted
    }

    /// What came instead of the preface.
    pub(crate) fn foreign(&self) -> Option<Foreign> {
        let begun = &self.partial;
        (!self.greeted && !PREFACE.starts_with(begun)).then(|| Foreign::of(begun))
    }

    /// Bytes that are kept.
    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.partial.capacity()
    }
}

/// At most `len` bytes off the front.
fn split<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (part, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    part
}

/// What a peer speaks that does not speak HTTP/2, by how it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    Tls,
    Http1,
    Unknown,
}

/// How a request of HTTP/1 may begin. (One of HTTP/2 is `PRI`, and differs later.)
const HTTP1: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "PRI"];

impl Foreign {
    fn of(begun: &[u8]) -> Self {
        // The first bytes come together, but they need not.
        let http1 = |method: &str| {
            let line = [method.as_bytes(), b" "].concat();
            begun.starts_with(&line) || line.starts_with(begun)
        };
        match begun {
            // A record of a handshake (RFC 8446, section 5.1).
            [0x16, ..] => Self::Tls,
            _ if HTTP1.into_iter().any(http1) => Self::Http1,
            _ => Self::Unknown,
        }
    }

    fn text(self) -> &'static str {
        match self {
            Self::Tls => "the peer speaks TLS, this port is plaintext gRPC (HTTP/2)",
            Self::Http1 => {
                "the peer speaks HTTP/1, this port is gRPC (HTTP/2 with prior knowledge)"
            }
            Self::Unknown => "the peer does not speak HTTP/2",
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http2::frame::put;

    /// What is cut off, its pieces put together.
    fn all(chunks: &[&[u8]]) -> Result<Vec<(Head, Vec<u8>)>, Failure> {
        let (mut input, mut all) = (Input::default(), Vec::new());
        for chunk in chunks {
            let mut bytes = *chunk;
            while let Some(cut) = input.cut(&mut bytes)? {
                match cut {
                    Cut::Frame(head, content) => all.push((head, content.into_owned())),
                    Cut::DataBegins(head) => all.push((head, Vec::new())),
                    Cut::Data(part, last) => {
                        let (head, content) = all.last_mut().unwrap();
                        content.extend_from_slice(part);
                        assert_eq!(last, content.len() == head.len);
                    }
                }
            }
            assert!(bytes.is_empty());
        }
        if input.head.is_none() && input.partial.is_empty() {
            assert_eq!(input.held(), 0, "memory is held between frames");
        }
        Ok(all)
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
            for (kind, flags, stream, content) in frames {
                put(&mut bytes, kind, flags, stream, &content);
                expected.push((Head { len: content.len(), kind, flags, stream }, content));
            }
            let chunks: Vec<&[u8]> = bytes.chunks(size).collect();
            prop_assert_eq!(all(&chunks).unwrap(), expected);
        }
    }

    #[test]
    fn other_protocols_are_told_apart() {
        let text = |bytes: &[u8]| all(&[bytes]).unwrap_err().text;
        assert!(text(b"GET / HTTP/1.1\r\n").contains("HTTP/1"));
        assert!(text(b"PRI * HTTP/1.1").contains("HTTP/1"));
        assert!(text(&[0x16, 3, 1, 2, 0]).contains("TLS"));
        assert!(text(b"POST /x HTTP/1.1").contains("HTTP/1"));
        assert!(text(b"PO").contains("HTTP/1"), "in pieces");
        assert!(text(b"\0\0\0\0").contains("does not speak HTTP/2"));
        assert!(text(b"INVALID PREFACE").contains("does not speak HTTP/2"));
        assert_eq!(all(&[b"PRI * H"]).unwrap(), []);
    }

    #[test]
    fn a_frame_that_is_too_long_is_refused_by_its_head() {
        let long = [PREFACE, &[0, 0x40, 1, 0, 0, 0, 0, 0, 1]].concat();
        assert_eq!(all(&[&long]).unwrap_err().code, Code::FrameSize);
        let longest = [PREFACE, &[0, 0x40, 0, 1, 0, 0, 0, 0, 1]].concat();
        assert_eq!(all(&[&longest]).unwrap(), []);
    }
}
