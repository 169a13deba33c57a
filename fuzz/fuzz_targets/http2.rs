//! Bytes as a broken or hostile peer may send them, into the rules of HTTP/2.
//!
//! The input is a list of steps: raw bytes, frames (a fuzzer would seldom hit upon their lengths),
//! requests, and what the server does meanwhile. Whatever comes, the connection must not panic, must
//! hold no more than it should, must say whole frames, and must tell of nothing but streams that are
//! open.

#![no_main]

mod input;

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderValue, Response};
use input::Input;
use libfuzzer_sys::fuzz_target;
use pilothouse_http2::{Connection, ErrorCode, Event};

/// `:method POST`, `:scheme http`, `:path /`
const REQUEST: &[u8] = &[0x83, 0x86, 0x84];
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;

impl Input<'_> {
    fn stream(&mut self) -> u32 {
        u32::from(self.byte() % 12)
    }
}

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
}

/// Whole frames, none longer than a peer must take.
fn check_frames(pending: &mut Vec<u8>) {
    let mut rest = &pending[..];
    while !rest.is_empty() {
        let (head, after) = rest.split_at(9);
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        assert!(len <= 16_384);
        rest = &after[len..];
    }
    pending.clear();
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let mut http2 = Connection::new();
    // Open streams, and whether the peer has ended its side.
    let mut open = BTreeMap::new();
    let (mut newest, mut next) = (0, 1);
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    if input.byte() % 8 != 0 {
        said.extend(frame(4, 0, 0, &[]));
    }
    while !input.0.is_empty() {
        let stream = input.stream();
        match input.byte() % 12 {
            0 => said.extend(input.bytes()),
            1..=4 => {
                let (kind, flags) = (input.byte() % 11, input.byte());
                said.extend(frame(kind, flags, stream, input.bytes()));
            }
            5 | 6 => {
                said.extend(frame(HEADERS, END_HEADERS | input.byte() & 1, next, REQUEST));
                next += 2;
            }
            7 => {
                let len = usize::from(input.byte()) << 6;
                said.extend(frame(0, input.byte() & 1, stream, &vec![0; len]));
            }
            8 => http2.release_capacity(stream, u32::from(input.byte()) << 8),
            9 => {
                if open.contains_key(&stream) {
                    let (parts, ()) = Response::new(()).into_parts();
                    let end = input.byte() % 4 == 0;
                    http2.send_response(stream, &parts, end);
                    if end {
                        open.remove(&stream);
                    }
                }
            }
            10 => {
                let want = usize::from(input.byte()) << 7;
                if let Some((head, len)) = http2.begin_data_frame(stream, want) {
                    assert!(open.contains_key(&stream) && len <= want && len <= 16_384);
                    assert_eq!(head[..3], (len as u32).to_be_bytes()[1..]);
                }
            }
            _ => {
                if open.remove(&stream).is_some() {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    match input.byte() % 3 {
                        0 => http2.send_trailers(stream, &trailers),
                        1 => http2.send_end_stream(stream),
                        _ => http2.reset_stream(stream, ErrorCode::EnhanceYourCalm),
                    }
                }
            }
        }
        let pieces = std::mem::take(&mut said);
        for mut piece in pieces.chunks(1 + usize::from(input.byte())) {
            loop {
                match http2.receive(&mut piece) {
                    Ok(None) => break,
                    Ok(Some(Event::Request { stream_id, end_stream, .. })) => {
                        assert!(stream_id > newest && stream_id % 2 == 1);
                        newest = stream_id;
                        open.insert(stream_id, end_stream);
                        assert!(open.len() <= 100);
                    }
                    Ok(Some(Event::Data { stream_id, end_stream, .. })) => {
                        let had_ended = open.get_mut(&stream_id).expect("an open stream");
                        assert!(!std::mem::replace(had_ended, end_stream), "after its end");
                    }
                    Ok(Some(Event::StreamReset { stream_id })) => {
                        assert!(open.remove(&stream_id).is_some());
                    }
                    Ok(Some(Event::RequestRejected { .. })) => {}
                    Err(error) => {
                        http2.send_goaway(&error);
                        check_frames(http2.pending_frames());
                        return;
                    }
                }
            }
        }
        if http2.is_flooded() || input.byte() % 2 == 0 {
            check_frames(http2.pending_frames());
        }
    }
});
