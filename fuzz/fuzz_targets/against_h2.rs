//! The same frames to the `h2` crate's server and to ours: both must say the same.
//!
//! The input is a list of steps: frames, well-formed and not, and answers of the server. After each
//! one these are compared: whether the connection has ended, which streams were reset and why, which
//! requests have come with which fields, their bodies and their ends. Where the two may differ, by
//! the choice of either, stands in [`may_differ`]; what they hold after such a step is not the same,
//! so a run ends there.

#![no_main]

mod input;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, SendResponse};
use http::{Request, Response};
use input::Input;
use libfuzzer_sys::fuzz_target;
use pilothouse_http2::{Connection, Event};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

const GREETING: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const PROTOCOL_ERROR: u32 = 1;
const STREAM_CLOSED: u32 = 5;
const ENHANCE_YOUR_CALM: u32 = 11;

#[derive(Clone, Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    content: Vec<u8>,
    /// Header fields that nobody has thought of.
    raw: bool,
}

impl Frame {
    fn bytes(&self) -> Vec<u8> {
        let len = (self.content.len() as u32).to_be_bytes();
        let head = [&len[1..], &[self.kind, self.flags], &self.stream.to_be_bytes()].concat();
        [head, self.content.clone()].concat()
    }
}

/// A request as it was handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Asked {
    method: String,
    path: String,
    fields: Vec<(String, Vec<u8>)>,
}

impl Asked {
    /// What h2 does not look at: 8.2.1, spaces at the ends of a value, and 8.3.1, the path.
    fn is_whole(&self) -> bool {
        let spaced = |value: &[u8]| matches!(value, [b' ' | b'\t', ..] | [.., b' ' | b'\t']);
        let path = self.path.starts_with('/') || self.path == "*";
        path && !self.fields.iter().any(|(_, value)| spaced(value))
    }
}

/// What one of them has done in a step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Outcome {
    failed: Option<u32>,
    /// RST_STREAM frames, by stream.
    resets: BTreeMap<u32, u32>,
    /// Statuses of responses that nobody asked for (431).
    refusals: BTreeSet<u32>,
    requests: BTreeMap<u32, Asked>,
    bodies: BTreeMap<u32, Vec<u8>>,
    ended: BTreeSet<u32>,
    gone: BTreeSet<u32>,
}

impl Outcome {
    fn requested<T>(&mut self, stream: u32, request: &Request<T>) {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str()).to_owned();
        let method = request.method().to_string();
        // CONNECT has none.
        let path = if method == "CONNECT" { "/".to_owned() } else { path };
        let fields = request.headers().iter();
        let fields = fields.map(|(name, value)| (name.to_string(), value.as_bytes().to_vec()));
        self.requests.insert(stream, Asked { method, path, fields: fields.collect() });
    }

    fn came(&mut self, stream: u32, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.bodies.entry(stream).or_default().extend_from_slice(bytes);
        }
    }

    /// Reads what was said. Answers of a step are not compared, they were asked for.
    fn heard(&mut self, mut said: &[u8], answered: Option<u32>) {
        while let Some((head, after)) = said.split_first_chunk::<9>() {
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
            let (content, after) = after.split_at(len);
            let number = |at: usize| u32::from_be_bytes(content[at..at + 4].try_into().unwrap());
            match head[3] {
                RST_STREAM => _ = self.resets.insert(stream, number(0)),
                GOAWAY if number(4) != 0 => self.failed = Some(number(4)),
                HEADERS if answered != Some(stream) => _ = self.refusals.insert(stream),
                _ => {}
            }
            said = after;
        }
    }
}

struct Ours(Connection);

impl Ours {
    fn step(&mut self, mut bytes: &[u8], answered: Option<u32>) -> Outcome {
        let mut outcome = Outcome::default();
        loop {
            match self.0.receive(&mut bytes) {
                Ok(None) => break,
                Ok(Some(Event::Request { stream_id, request, end_stream })) => {
                    outcome.requested(stream_id, &request);
                    if end_stream {
                        outcome.ended.insert(stream_id);
                    }
                }
                Ok(Some(Event::Data { stream_id, data, end_stream })) => {
                    outcome.came(stream_id, &data);
                    self.0.release_capacity(stream_id, data.len() as u32);
                    if end_stream {
                        outcome.ended.insert(stream_id);
                    }
                }
                Ok(Some(Event::StreamReset { stream_id })) => {
                    outcome.gone.insert(stream_id);
                }
                Ok(Some(Event::RequestRejected { .. })) => {}
                Err(error) => {
                    self.0.send_goaway(&error);
                    break;
                }
            }
        }
        outcome.heard(&std::mem::take(self.0.pending_frames()), answered);
        outcome
    }

    fn answer(&mut self, stream: u32) {
        let (parts, ()) = Response::new(()).into_parts();
        self.0.send_response(stream, &parts, true);
    }
}

/// Both directions of a connection in memory.
#[derive(Clone, Default)]
struct Pipe(Rc<RefCell<(Vec<u8>, Vec<u8>)>>);

impl AsyncRead for Pipe {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let incoming = &mut self.0.borrow_mut().0;
        if incoming.is_empty() {
            return Poll::Pending;
        }
        let len = incoming.len().min(into.remaining());
        into.put_slice(&incoming[..len]);
        incoming.drain(..len);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Pipe {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().1.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A request that h2 has handed out.
struct Open {
    body: RecvStream,
    response: SendResponse<Bytes>,
    ended: bool,
}

struct Theirs {
    pipe: Pipe,
    connection: h2::server::Connection<Pipe, Bytes>,
    open: BTreeMap<u32, Open>,
}

impl Theirs {
    /// Past the greeting, with the limits that ours has, and none that it has not.
    fn new() -> Self {
        let pipe = Pipe::default();
        pipe.0.borrow_mut().0.extend_from_slice(GREETING);
        let mut builder = Builder::new();
        builder
            .initial_window_size(1 << 20)
            .initial_connection_window_size(1 << 20)
            .max_header_list_size(16 << 10)
            .max_concurrent_streams(100)
            .max_concurrent_reset_streams(10_000)
            .max_local_error_reset_streams(None)
            .max_pending_accept_reset_streams(10_000)
            .reset_stream_duration(Duration::from_secs(3600));
        let mut handshake = builder.handshake(pipe.clone());
        let mut context = Context::from_waker(Waker::noop());
        let Poll::Ready(Ok(connection)) = Pin::new(&mut handshake).poll(&mut context) else {
            panic!("no greeting")
        };
        Self { pipe, connection, open: BTreeMap::new() }
    }

    fn step(&mut self, bytes: &[u8], answered: Option<u32>) -> Outcome {
        self.pipe.0.borrow_mut().0.extend_from_slice(bytes);
        let mut outcome = Outcome::default();
        let mut context = Context::from_waker(Waker::noop());
        // Twice: what is done with the bodies is said by the connection.
        for _ in 0..2 {
            while let Poll::Ready(Some(Ok((request, response)))) =
                self.connection.poll_accept(&mut context)
            {
                let stream = response.stream_id().as_u32();
                outcome.requested(stream, &request);
                let open = Open { body: request.into_body(), response, ended: false };
                self.open.insert(stream, open);
            }
            self.open.retain(|stream, open| {
                let goes = open.goes(*stream, &mut outcome, &mut context);
                if !goes {
                    outcome.gone.insert(*stream);
                }
                goes
            });
        }
        let said = std::mem::take(&mut self.pipe.0.borrow_mut().1);
        outcome.heard(&said, answered);
        outcome
    }

    fn answer(&mut self, stream: u32) {
        if let Some(mut open) = self.open.remove(&stream) {
            let _ = open.response.send_response(Response::new(()), true);
        }
    }
}

impl Open {
    fn goes(&mut self, stream: u32, outcome: &mut Outcome, context: &mut Context<'_>) -> bool {
        while !self.ended {
            match self.body.poll_data(context) {
                Poll::Ready(Some(Ok(piece))) => {
                    outcome.came(stream, &piece);
                    let _ = self.body.flow_control().release_capacity(piece.len());
                }
                Poll::Ready(Some(Err(_))) => return false,
                Poll::Ready(None) => match self.body.poll_trailers(context) {
                    Poll::Ready(Ok(_)) => {
                        self.ended = true;
                        outcome.ended.insert(stream);
                    }
                    Poll::Ready(Err(_)) => return false,
                    Poll::Pending => break,
                },
                Poll::Pending => break,
            }
        }
        self.response.poll_reset(context).is_pending()
    }
}

/// Where one of the two may say what the other does not; the sections are RFC 9113's.
fn may_differ(frame: &Frame, ours: &Outcome, theirs: &Outcome, past: &Past) -> bool {
    let stream = &frame.stream;
    let headers = matches!(frame.kind, HEADERS | CONTINUATION);
    // h2 looks at the pieces of a header block as they come, ours at the whole.
    if (headers || frame.kind == PUSH_PROMISE) && frame.flags & 4 == 0 {
        return true;
    }
    let malformed = headers && ours.resets.get(stream) == Some(&PROTOCOL_ERROR);
    match (ours.failed, theirs.failed) {
        // h2 calls nearly everything PROTOCOL_ERROR; ours says what the section says.
        (Some(_), Some(_)) => true,
        // Either may find that it is too much (10.5).
        (Some(ENHANCE_YOUR_CALM), _) | (_, Some(ENHANCE_YOUR_CALM)) => true,
        // 5.1, "closed": a connection error is allowed where the peer has ended the stream itself;
        // h2 resets the stream, or ignores the frame.
        (Some(STREAM_CLOSED), None) => {
            (headers || frame.kind == DATA) && past.ended.contains(stream)
        }
        // h2 looks at the fields before it looks whether the stream may be opened.
        (Some(PROTOCOL_ERROR), None) if headers => {
            theirs.resets.get(stream) == Some(&PROTOCOL_ERROR)
        }
        // Stream errors, of which h2 makes errors of the connection (5.4.1 allows that): 5.1,
        // "half-closed (remote)"; a WINDOW_UPDATE of 0 (6.9); a PRIORITY of another length (6.3); a
        // name that HTTP/2 does not allow (8.2.1).
        (None, Some(PROTOCOL_ERROR)) => match frame.kind {
            HEADERS | CONTINUATION if malformed => true,
            DATA | HEADERS | CONTINUATION => {
                ours.resets.get(stream) == Some(&STREAM_CLOSED) || past.cut.contains(stream)
            }
            // Ours ignores it on a stream that has ended, whatever it says (5.1).
            WINDOW_UPDATE => matches!(*frame.content, [0 | 0x80, 0, 0, 0]),
            PRIORITY => ours.resets.contains_key(stream),
            // RFC 8441 is none of ours, so its setting is any other that is not known; an ACK that
            // nobody waits for does no harm.
            SETTINGS => {
                frame.flags & 1 == 1
                    || frame.content.as_chunks::<6>().0.iter().any(|one| one[..2] == [0, 8])
            }
            _ => false,
        },
        (None, None) if headers => {
            // 8.1: ours looks at the pseudo-header fields of trailers, too.
            let trailers = theirs.ended.contains(stream) && theirs.requests.is_empty();
            let lenient = theirs.requests.get(stream).is_some_and(|asked| !asked.is_whole());
            // Ours does not look at :authority and :scheme (Envoy puts what it likes there), nor at
            // dependencies.
            let strict = frame.raw || frame.flags & 0x20 != 0;
            // Trailers of a body that has ended, and wrong ones: both reset the stream.
            let late = ours.resets.get(stream) == Some(&STREAM_CLOSED)
                && theirs.resets.get(stream) == Some(&PROTOCOL_ERROR);
            // h2 forgets with the next piece of a block that a field of an earlier one was wrong (seen with
            // `te: gzip`, which it refuses in one piece).
            let forgotten = frame.kind == CONTINUATION;
            (malformed && (trailers || lenient || forgotten))
                || late
                || (strict && theirs.resets.get(stream) == Some(&PROTOCOL_ERROR))
                // The code of what follows a 431, which has said it all.
                || (!ours.refusals.is_empty() && ours.refusals == theirs.refusals)
        }
        // 5.3: dependencies are no longer looked at.
        (None, None) if frame.kind == PRIORITY => {
            let on = frame.content.first_chunk().map_or(0, |it| u32::from_be_bytes(*it) << 1 >> 1);
            on == *stream && theirs.resets.get(stream) == Some(&PROTOCOL_ERROR)
        }
        _ => false,
    }
}

/// Streams that were there.
#[derive(Debug, Default)]
struct Past {
    /// By the peer itself, or skipped.
    ended: BTreeSet<u32>,
    /// By the server, while the peer may have gone on.
    cut: BTreeSet<u32>,
}

/// `:method POST`, `:scheme http`, `:path /`
const REQUEST: &[u8] = &[0x83, 0x86, 0x84];

/// Fields that requests and trailers may have or not have.
const FIELDS: [(&str, &str); 16] = [
    ("content-length", "0"),
    ("content-length", "3"),
    ("content-length", "03"),
    ("content-length", "x"),
    ("te", "trailers"),
    ("te", "gzip"),
    ("connection", "close"),
    ("upgrade", "h2c"),
    ("Upper", "case"),
    (":path", "/again"),
    (":status", "200"),
    (":unknown", "x"),
    ("x", "a\0b"),
    ("x-bin", "AAAA"),
    ("", "nameless"),
    ("transfer-encoding", "chunked"),
];

/// Fields, and whether they are raw.
fn block(input: &mut Input<'_>) -> (Vec<u8>, bool) {
    let mut block = match input.byte() % 8 {
        0 => Vec::new(),
        1 => return (input.bytes().to_vec(), true),
        _ => REQUEST.to_vec(),
    };
    for _ in 0..input.byte() % 4 {
        let at = input.byte();
        let (name, value) = FIELDS[usize::from(at) % FIELDS.len()];
        block.extend([if at & 16 == 0 { 0 } else { 0x40 }, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    (block, false)
}

fn frames(input: &mut Input<'_>, next: &mut u32) -> Vec<Frame> {
    let mut stream = u32::from(input.byte() % 12);
    let frame = |kind, flags, stream, content: &[u8]| Frame {
        kind,
        flags,
        stream,
        content: content.to_vec(),
        raw: true,
    };
    match input.byte() % 10 {
        0..=2 => {
            let how = input.byte();
            if how & 2 == 0 {
                stream = *next;
                *next += 2 + u32::from(how & 16) / 8;
            }
            let (block, raw) = block(input);
            let flags = how & 1;
            if how & 4 == 0 {
                return vec![Frame { raw, ..frame(HEADERS, flags | 4, stream, &block) }];
            }
            let (first, rest) = block.split_at(usize::from(how >> 4).min(block.len()));
            let rest = Frame { raw, ..frame(CONTINUATION, 4, stream, rest) };
            vec![frame(HEADERS, flags, stream, first), rest]
        }
        3 | 4 => {
            let flags = input.byte() & 9;
            vec![frame(DATA, flags, stream, input.bytes())]
        }
        5 => vec![frame(RST_STREAM, 0, stream, &[0, 0, 0, input.byte()])],
        6 => {
            let by = [0, 1, 0x7fff_ffff, 0x7fff_0000][usize::from(input.byte() % 4)];
            vec![frame(WINDOW_UPDATE, 0, stream, &u32::to_be_bytes(by))]
        }
        7 => {
            let all = (0..input.byte() % 3).flat_map(|_| {
                let value = [0, 1, 2, 0x4000, 0xffff, 0x7fff_ffff, 0x8000_0000_u32];
                let value = value[usize::from(input.byte() % 7)].to_be_bytes();
                [&[0, input.byte() % 10][..], &value].concat()
            });
            vec![frame(SETTINGS, 0, 0, &all.collect::<Vec<_>>())]
        }
        _ => {
            let (kind, flags) = (input.byte() % 11, input.byte());
            vec![frame(kind, flags, stream, input.bytes())]
        }
    }
}

fuzz_target!(|bytes: &[u8]| {
    let mut input = Input(bytes);
    let (mut ours, mut theirs) = (Ours(Connection::new()), Theirs::new());
    ours.step(GREETING, None);
    theirs.step(&[], None);
    let (mut next, mut newest, mut past) = (1, 0, Past::default());
    let mut open = BTreeSet::new();
    while !input.0.is_empty() {
        if input.byte() % 8 == 0 {
            let stream = u32::from(input.byte() % 12);
            if open.remove(&stream) {
                ours.answer(stream);
                theirs.answer(stream);
                let (a, b) = (ours.step(&[], Some(stream)), theirs.step(&[], Some(stream)));
                assert_eq!(a, b, "after the answer on {stream}");
                past.cut.insert(stream);
            }
            continue;
        }
        for frame in frames(&mut input, &mut next) {
            let bytes = frame.bytes();
            let (a, b) = (ours.step(&bytes, None), theirs.step(&bytes, None));
            if a != b {
                assert!(
                    may_differ(&frame, &a, &b, &past),
                    "{frame:?}\nours {a:?}\nh2 {b:?}\n{past:?}"
                );
                return;
            }
            // A client that says it goes is not waited for by h2.
            if a.failed.is_some() || frame.kind == GOAWAY {
                return;
            }
            if frame.kind == HEADERS && frame.stream > newest {
                past.ended.extend(
                    (newest + 1..frame.stream).filter(|id| id % 2 == 1 && !open.contains(id)),
                );
                newest = frame.stream;
            }
            open.extend(a.requests.keys());
            past.ended.extend(a.ended.iter().chain(&a.gone));
            open.retain(|stream| !a.gone.contains(stream));
            if a.resets.contains_key(&frame.stream) {
                past.cut.insert(frame.stream);
            }
            let ends = matches!(frame.kind, DATA | HEADERS) && frame.flags & 1 == 1;
            if ends || frame.kind == RST_STREAM {
                past.ended.insert(frame.stream);
            }
        }
    }
});
