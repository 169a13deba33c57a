//! What a peer may do, what it may not, and what it is told. Numbers are sections of RFC 9113.

use http::HeaderMap;
use proptest::prelude::*;

use super::*;
use crate::http2::frame::{MAX_FRAME, put, put_settings, put_window_update};
use crate::http2::hpack::Block;
use crate::http2::input::PREFACE;

/// `:method POST`, `:scheme http`, `:path /`
const REQUEST: &[u8] = &[0x83, 0x86, 0x84];

const HEADERS: u8 = flag::END_HEADERS;
const LAST_HEADERS: u8 = flag::END_HEADERS | flag::END_STREAM;

/// A connection past its greeting, and what it says and hears.
struct Peer(Connection);

impl Peer {
    fn new() -> Self {
        let mut peer = Self(Connection::new());
        let mut greeting = PREFACE.to_vec();
        put_settings(&mut greeting, &[]);
        assert_eq!(peer.says(&greeting).unwrap(), [] as [&str; 0]);
        let heard: Vec<_> = peer.hears().into_iter().map(|(head, _)| head.kind).collect();
        assert_eq!(heard, [kind::SETTINGS, kind::WINDOW_UPDATE, kind::SETTINGS], "3.4");
        peer
    }

    /// A header block of these fields on top of what every request has.
    fn asks(
        &mut self,
        flags: u8,
        stream: u32,
        fields: &[(&str, &str)],
    ) -> Result<Vec<String>, Failure> {
        let mut block = Block(REQUEST.to_vec());
        for (name, value) in fields {
            block.field(name.as_bytes(), value.as_bytes());
        }
        self.frame(kind::HEADERS, flags, stream, &block.0)
    }

    fn with_stream() -> Self {
        let mut peer = Self::new();
        let opened = peer.frame(kind::HEADERS, HEADERS, 1, REQUEST).unwrap();
        assert_eq!(opened, ["request 1"]);
        peer
    }

    /// Bytes from the peer, and the events they make.
    fn says(&mut self, mut bytes: &[u8]) -> Result<Vec<String>, Failure> {
        let mut events = Vec::new();
        while let Some(event) = self.0.receive(&mut bytes)? {
            let end = |ended| if ended { " end" } else { "" };
            events.push(match event {
                Event::Request { stream, ended, .. } => format!("request {stream}{}", end(ended)),
                Event::Data { stream, bytes, ended } => {
                    format!("data {stream} {:?}{}", String::from_utf8_lossy(&bytes), end(ended))
                }
                Event::Reset { stream } => format!("reset {stream}"),
                Event::Refused { stream } => format!("refused {stream}"),
            });
        }
        assert!(bytes.is_empty());
        Ok(events)
    }

    fn frame(
        &mut self,
        kind: u8,
        flags: u8,
        stream: u32,
        content: &[u8],
    ) -> Result<Vec<String>, Failure> {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, flags, stream, content);
        self.says(&bytes)
    }

    /// Frames for the peer.
    fn hears(&mut self) -> Vec<(Head, Vec<u8>)> {
        let bytes = std::mem::take(self.0.outbox());
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((head, after)) = rest.split_first_chunk() {
            let head = Head::parse(*head);
            let (content, after) = after.split_at(head.len);
            frames.push((head, content.to_vec()));
            rest = after;
        }
        frames
    }

    /// The same, as kind, flags, stream and the number that is in it.
    fn hears_numbers(&mut self) -> Vec<(u8, u8, u32, u32)> {
        let number = |content: &[u8]| content.first_chunk().map_or(0, |it| u32::from_be_bytes(*it));
        let frames = self.hears().into_iter();
        frames.map(|(head, it)| (head.kind, head.flags, head.stream, number(&it))).collect()
    }

    fn sends(&mut self, stream: u32, want: usize) -> usize {
        self.0.data(stream, want).map_or(0, |(head, len)| {
            let head = Head::parse(head);
            assert_eq!((head.len, head.kind, head.stream), (len, kind::DATA, stream));
            len
        })
    }
}

mod cut;
mod frames;
mod headers;
mod streams;
mod windows;
