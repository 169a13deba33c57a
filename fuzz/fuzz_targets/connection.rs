//! Bytes of one connection through everything that they go through: HTTP/2, gRPC messages, requests,
//! sessions, and back.
//!
//! The input is a list of steps: frames that open and end streams, requests in pieces, raw bytes,
//! changes of what is served, and when the peer reads. Whatever comes, nothing panics, what is held
//! for the peer stays within the windows, DATA frames are those of whole messages that decode, nonces
//! keep the rules, and a stream that has ended says nothing.

#![no_main]

mod discovery;
mod input;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use discovery::{NAMES, check, resource, well_formed};
use http::{HeaderMap, HeaderValue, Response};
use input::Input;
use libfuzzer_sys::fuzz_target;
use pilothouse::names::ResourceType;
use pilothouse_http2::{Connection, ErrorCode, Event};
use pilothouse_xds::session::{Session, SessionLimits};
use pilothouse_xds::{FrameBuilder, TypeSet, View};
use pilothouse_xds_server::grpc::messages::{MessageFeed, MessageReceiver, grpc_messages};

/// `:method POST`, `:scheme http`, `:path /`
const REQUEST: &[u8] = &[0x83, 0x86, 0x84];
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;
const WINDOW: u64 = 1 << 20;
const MAX_MESSAGE: usize = 4096;

type Sets = [Arc<TypeSet>; ResourceType::COUNT];

/// One stream's way through the layers.
struct Served {
    delta: bool,
    feed: MessageFeed,
    requests: MessageReceiver,
    session: Session,
    /// Bytes of messages that are to be sent.
    unsent: Vec<u8>,
    came: u64,
    taken: u64,
}

/// How a stream ends.
enum End {
    Well,
    Refused,
}

impl Served {
    fn new(stream: u32, frames: &Arc<FrameBuilder>) -> Self {
        let delta = stream / 2 % 2 == 1;
        let (feed, requests) = grpc_messages(MAX_MESSAGE, "the limit");
        let limits = SessionLimits { names: 8, types: 6, fallbacks: 2 };
        let session = Session::new(
            delta,
            ResourceType::TABLE,
            None,
            limits,
            Arc::default(),
            frames.clone(),
            0,
        );
        Self { delta, feed, requests, session, unsent: Vec::new(), came: 0, taken: 0 }
    }

    /// Takes one request, and says what there is to say.
    fn go_on(&mut self, view: &View) -> Option<End> {
        let next = pin!(self.requests.receive());
        match next.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => {}
            Poll::Ready(Ok(None)) => return Some(End::Well),
            Poll::Ready(Err(_)) => return Some(End::Refused),
            Poll::Ready(Ok(Some(message))) => {
                assert!(message.len() <= MAX_MESSAGE);
                let Ok(request) = self.session.decode(message) else { return Some(End::Refused) };
                if self.session.handle_request(&request, view).is_err() {
                    return Some(End::Refused);
                }
            }
        }
        let mut awaited = ResourceType::IN_ORDER.map(|of| self.session.unacked_nonce(of));
        for responses in 0.. {
            let Some(response) = self.session.next_response(view) else { break };
            assert!(responses < 32, "no end of responses");
            if let Some(of) = response.resource_type.map(ResourceType::from) {
                let before = awaited[of.index()].replace(response.nonce);
                assert_eq!(before, None, "two unanswered responses");
            }
            check(self.delta, &response);
            self.unsent.extend(response.frame.to_bytes(response.nonce));
        }
        None
    }
}

struct Peer {
    http2: Connection,
    open: BTreeMap<u32, Served>,
    /// What has come of each stream's response.
    heard: BTreeMap<u32, Vec<u8>>,
}

impl Peer {
    /// False when the connection has ended.
    fn says(&mut self, mut bytes: &[u8], frames: &Arc<FrameBuilder>) -> bool {
        loop {
            match self.http2.receive(&mut bytes) {
                Ok(None) => return true,
                Ok(Some(Event::Request { stream_id, end_stream, .. })) => {
                    let served = Served::new(stream_id, frames);
                    if end_stream {
                        served.feed.end_body();
                    }
                    let (parts, ()) = Response::new(()).into_parts();
                    self.http2.send_response(stream_id, &parts, false);
                    assert!(
                        self.open.insert(stream_id, served).is_none() && self.open.len() <= 100
                    );
                }
                Ok(Some(Event::Data { stream_id, data, end_stream })) => {
                    let served = self.open.get_mut(&stream_id).expect("an open stream");
                    served.feed.push_bytes(&data);
                    served.came += data.len() as u64;
                    if end_stream {
                        served.feed.end_body();
                    }
                }
                Ok(Some(Event::StreamReset { stream_id })) => {
                    self.open.remove(&stream_id).expect("an open stream");
                }
                Ok(Some(Event::RequestRejected { .. })) => {}
                Err(error) => {
                    self.http2.send_goaway(&error);
                    self.hears();
                    return false;
                }
            }
        }
    }

    /// Whole frames; after an end of a stream there are none of it.
    fn hears(&mut self) {
        let said = std::mem::take(self.http2.pending_frames());
        assert!(said.len() < 1 << 20, "more is held than a peer can be made to read");
        let mut rest = &said[..];
        while let Some((head, after)) = rest.split_first_chunk::<9>() {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            assert!(len <= 16_384 && len <= after.len());
            rest = &after[len..];
        }
        assert!(rest.is_empty());
    }

    /// DATA, as far as the windows go.
    fn sends(&mut self) {
        for (stream, served) in &mut self.open {
            let mut at = 0;
            while let Some((_, len)) =
                self.http2.begin_data_frame(*stream, served.unsent.len() - at)
            {
                let heard = self.heard.entry(*stream).or_default();
                heard.extend_from_slice(&served.unsent[at..at + len]);
                at += len;
                while let Some(whole) = message_len(heard) {
                    assert_eq!(heard[0], 0, "not compressed");
                    heard.drain(..whole);
                }
            }
            served.unsent.drain(..at);
        }
        assert!(self.http2.begin_data_frame(1_001, 1).is_none(), "a stream that was never opened");
    }
}

/// Of the first message, prefix included, if it is there.
fn message_len(bytes: &[u8]) -> Option<usize> {
    let [_, len @ ..] = bytes.first_chunk::<5>()?;
    let len = 5 + u32::from_be_bytes(*len) as usize;
    (bytes.len() >= len).then_some(len)
}

fn frame(kind: u8, flags: u8, stream: u32, content: &[u8]) -> Vec<u8> {
    let len = (content.len() as u32).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), content].concat()
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let frames = Arc::new(FrameBuilder::new("fuzz"));
    let mut sets: Sets = std::array::from_fn(|_| Arc::default());
    let mut peer = Peer { http2: Connection::new(), open: BTreeMap::new(), heard: BTreeMap::new() };
    let mut said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let mut next = 1;
    while !input.0.is_empty() {
        let stream = u32::from(input.byte() % 8) * 2 + 1;
        match input.byte() % 14 {
            0 | 1 => {
                said.extend(frame(HEADERS, END_HEADERS | input.byte() & 1, next, REQUEST));
                next += 2;
            }
            2..=6 => {
                let flags = u8::from(input.byte() % 8 == 0);
                if let Some(served) = peer.open.get(&stream) {
                    let request = well_formed(&mut input, served.delta, &served.session);
                    let message =
                        [&[0][..], &(request.len() as u32).to_be_bytes(), &request].concat();
                    let at = usize::from(input.byte()) % message.len();
                    said.extend(frame(DATA, 0, stream, &message[..at]));
                    said.extend(frame(DATA, flags, stream, &message[at..]));
                }
            }
            7 => {
                let flags = input.byte() & 9;
                said.extend(frame(DATA, flags, stream, input.bytes()));
            }
            8 => {
                let (kind, flags) = (input.byte() % 11, input.byte());
                said.extend(frame(kind, flags, stream, input.bytes()));
            }
            9 => said.extend(input.bytes()),
            10 | 11 => {
                let of = input.of();
                let name = NAMES[usize::from(input.byte()) % 3];
                let content = input.byte() % 4;
                let change = (content != 0).then(|| resource(of, name, content));
                let set = &mut sets[of.index()];
                *set = set.with([(name.into(), change)]);
            }
            12 => peer.sends(),
            _ => peer.hears(),
        }
        let pieces = std::mem::take(&mut said);
        for piece in pieces.chunks(1 + usize::from(input.byte())) {
            if !peer.says(piece, &frames) {
                return;
            }
        }
        let view = View::new(sets.clone());
        let mut ended = Vec::new();
        for (stream, served) in &mut peer.open {
            // As the connection does it: a stream whose response is on its way waits.
            let end = if served.unsent.is_empty() { served.go_on(&view) } else { None };
            let state = served.feed.body_state();
            served.taken += u64::from(state.released);
            peer.http2.release_capacity(*stream, state.released);
            assert!(served.came - served.taken <= WINDOW, "more waits than the window allows");
            assert!(state.buffered <= served.came as usize * 2 + MAX_MESSAGE, "{}", state.buffered);
            ended.extend(end.map(|end| (*stream, end)));
        }
        for (stream, end) in ended {
            peer.open.remove(&stream);
            peer.heard.remove(&stream);
            match end {
                End::Well => {
                    let mut trailers = HeaderMap::new();
                    trailers.insert("grpc-status", HeaderValue::from_static("0"));
                    peer.http2.send_trailers(stream, &trailers);
                }
                End::Refused => peer.http2.reset_stream(stream, ErrorCode::EnhanceYourCalm),
            }
            assert!(peer.http2.begin_data_frame(stream, 1).is_none(), "it has ended");
        }
        if peer.http2.is_flooded() {
            peer.hears();
        }
    }
});
