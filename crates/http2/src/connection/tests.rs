//! What a peer may do, what it may not, and what it is answered. Numbers are sections of RFC 9113.

use http::HeaderMap;
use proptest::prelude::*;

use super::*;
use crate::frame::{MAX_FRAME_SIZE, write_frame, write_settings, write_window_update};
use crate::frame_reader::PREFACE;
use crate::hpack::HeaderBlock;

/// `:method POST`, `:scheme http`, `:path /`
const REQUEST: &[u8] = &[0x83, 0x86, 0x84];

const HEADERS: u8 = flag::END_HEADERS;
const LAST_HEADERS: u8 = flag::END_HEADERS | flag::END_STREAM;

/// A client, in front of the connection that is tested.
struct Peer(Connection);

impl Peer {
    /// Preface and SETTINGS are exchanged.
    fn new() -> Self {
        use frame_type::{SETTINGS, WINDOW_UPDATE};
        let mut peer = Self(Connection::new());
        let mut preface = PREFACE.to_vec();
        write_settings(&mut preface, &[]);
        assert_eq!(peer.send(&preface).unwrap(), [] as [&str; 0]);
        let frames = peer.receive_frames().into_iter();
        let types: Vec<_> = frames.map(|(header, _)| header.frame_type).collect();
        assert_eq!(types, [SETTINGS, WINDOW_UPDATE, SETTINGS], "3.4");
        peer
    }

    /// Stream 1 is open.
    fn with_stream() -> Self {
        let mut peer = Self::new();
        let events = peer.send_frame(frame_type::HEADERS, HEADERS, 1, REQUEST).unwrap();
        assert_eq!(events, ["request 1"]);
        peer
    }

    /// Sends HEADERS with these fields on top of those that every request has.
    fn send_request(
        &mut self,
        flags: u8,
        stream_id: u32,
        fields: &[(&str, &str)],
    ) -> Result<Vec<String>, ConnectionError> {
        let mut block = HeaderBlock(REQUEST.to_vec());
        for (name, value) in fields {
            block.push_field(name.as_bytes(), value.as_bytes());
        }
        self.send_frame(frame_type::HEADERS, flags, stream_id, &block.0)
    }

    /// Sends bytes, and returns the server's events as text.
    fn send(&mut self, mut bytes: &[u8]) -> Result<Vec<String>, ConnectionError> {
        let mut events = Vec::new();
        while let Some(event) = self.0.receive(&mut bytes)? {
            let end = |end_stream| if end_stream { " end" } else { "" };
            events.push(match event {
                Event::Request { stream_id, end_stream, .. } => {
                    format!("request {stream_id}{}", end(end_stream))
                }
                Event::Data { stream_id, data, end_stream } => {
                    let data = String::from_utf8_lossy(&data);
                    format!("data {stream_id} {data:?}{}", end(end_stream))
                }
                Event::StreamReset { stream_id } => format!("reset {stream_id}"),
                Event::RequestRejected { stream_id } => format!("rejected {stream_id}"),
            });
        }
        assert!(bytes.is_empty());
        Ok(events)
    }

    fn send_frame(
        &mut self,
        frame_type: u8,
        flags: u8,
        stream_id: u32,
        payload: &[u8],
    ) -> Result<Vec<String>, ConnectionError> {
        let mut bytes = Vec::new();
        write_frame(&mut bytes, frame_type, flags, stream_id, payload);
        self.send(&bytes)
    }

    /// The server's frames, but for DATA.
    fn receive_frames(&mut self) -> Vec<(FrameHeader, Vec<u8>)> {
        let bytes = std::mem::take(self.0.pending_frames());
        let (mut rest, mut frames) = (&bytes[..], Vec::new());
        while let Some((header, after)) = rest.split_first_chunk() {
            let header = FrameHeader::parse(*header);
            let (payload, after) = after.split_at(header.len);
            frames.push((header, payload.to_vec()));
            rest = after;
        }
        frames
    }

    /// The same as type, flags, stream id, and the number that the payload begins with.
    fn receive_numbers(&mut self) -> Vec<(u8, u8, u32, u32)> {
        let number = |payload: &[u8]| payload.first_chunk().map_or(0, |it| u32::from_be_bytes(*it));
        let frames = self.receive_frames().into_iter();
        frames
            .map(|(header, payload)| {
                (header.frame_type, header.flags, header.stream_id, number(&payload))
            })
            .collect()
    }

    /// Receives one DATA frame of at most `wanted` bytes; returns its length, or 0 for no frame.
    fn receive_data(&mut self, stream_id: u32, wanted: usize) -> usize {
        self.0.begin_data_frame(stream_id, wanted).map_or(0, |(header, len)| {
            let FrameHeader { len: header_len, frame_type, stream_id: id, .. } =
                FrameHeader::parse(header);
            assert_eq!((header_len, frame_type, id), (len, frame_type::DATA, stream_id));
            len
        })
    }
}

mod chunks;
mod flow_control;
mod frames;
mod header_blocks;
mod streams;
