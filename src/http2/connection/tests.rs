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

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    use kind::*;
    for (section, frame, flags, stream, content, code) in [
        ("6.1 on no stream", DATA, 0, 0, &b"x"[..], Code::Protocol),
        ("5.1 of an idle stream", DATA, 0, 5, b"x", Code::Protocol),
        ("5.1.1 an even stream", HEADERS, self::HEADERS, 2, REQUEST, Code::Protocol),
        ("6.2 on no stream", HEADERS, self::HEADERS, 0, REQUEST, Code::Protocol),
        ("6.2 padding", HEADERS, self::HEADERS | flag::PADDED, 3, &[9, 0x83], Code::Protocol),
        ("6.2 nothing", HEADERS, self::HEADERS | flag::PADDED, 3, b"", Code::FrameSize),
        ("6.2 priority", HEADERS, self::HEADERS | flag::PRIORITY, 3, &[0; 4], Code::FrameSize),
        ("4.3", HEADERS, self::HEADERS, 3, &[0xff; 9], Code::Compression),
        ("6.3", PRIORITY, 0, 0, &[0; 5], Code::Protocol),
        ("6.4 of nothing", RST_STREAM, 0, 0, &[0; 4], Code::Protocol),
        ("6.4 of an idle stream", RST_STREAM, 0, 7, &[0; 4], Code::Protocol),
        ("6.4 length", RST_STREAM, 0, 1, &[0; 3], Code::FrameSize),
        ("6.5 on a stream", SETTINGS, 0, 1, b"", Code::Protocol),
        ("6.5 length", SETTINGS, 0, 0, &[0; 5], Code::FrameSize),
        ("6.5 ACK with more", SETTINGS, flag::ACK, 0, &[0; 6], Code::FrameSize),
        ("6.5.2 push", SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2], Code::Protocol),
        ("6.5.2 window", SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0], Code::FlowControl),
        ("6.5.2 small frames", SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff], Code::Protocol),
        ("6.5.2 large frames", SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0], Code::Protocol),
        ("6.6", PUSH_PROMISE, 0, 1, &[0; 4], Code::Protocol),
        ("6.7 length", PING, 0, 0, &[0; 7], Code::FrameSize),
        ("6.7 on a stream", PING, 0, 1, &[0; 8], Code::Protocol),
        ("6.8", GOAWAY, 0, 1, &[0; 8], Code::Protocol),
        ("6.9 length", WINDOW_UPDATE, 0, 0, &[0; 3], Code::FrameSize),
        ("6.9 by nothing", WINDOW_UPDATE, 0, 0, &[0; 4], Code::Protocol),
        ("6.9 of an idle stream", WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1], Code::Protocol),
        ("6.9.1", WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff], Code::FlowControl),
        ("6.9.1 of a stream", WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff], Code::FlowControl),
        ("6.10", CONTINUATION, self::HEADERS, 1, b"", Code::Protocol),
    ] {
        let failure = Peer::with_stream().frame(frame, flags, stream, content);
        assert_eq!(failure.unwrap_err().code, code, "{section}");
    }
    let mut peer = Peer::with_stream();
    let failure = peer.frame(kind::PING, 0, 1, &[0; 8]).unwrap_err();
    peer.0.fail(&failure);
    let [(head, content)] = &peer.hears()[..] else { panic!("one GOAWAY") };
    assert_eq!((head.kind, head.stream), (kind::GOAWAY, 0), "5.4.1");
    assert_eq!(content[..8], [0, 0, 0, 1, 0, 0, 0, 1], "the last stream, and the code");
    assert_eq!(content[8..], *failure.text.as_bytes());
}

#[test]
fn settings_come_first() {
    for (kind, flags) in [(kind::PING, 0), (kind::SETTINGS, flag::ACK)] {
        let mut bytes = PREFACE.to_vec();
        put(&mut bytes, kind, flags, 0, &[]);
        let failure = Peer(Connection::new()).says(&bytes).unwrap_err();
        assert_eq!(failure.code, Code::Protocol, "3.4");
    }
}

#[test]
fn a_stream_from_its_request_to_its_trailers() {
    let mut peer = Peer::with_stream();
    assert_eq!(peer.frame(kind::DATA, 0, 1, b"ab").unwrap(), ["data 1 \"ab\""]);
    let (parts, ()) = http::Response::new(()).into_parts();
    peer.0.respond(1, &parts, false);
    assert_eq!(peer.hears_numbers(), [(kind::HEADERS, HEADERS, 1, 0)]);
    assert_eq!(peer.sends(1, 10), 10);
    assert_eq!(peer.frame(kind::DATA, flag::END_STREAM, 1, b"").unwrap(), ["data 1 \"\" end"]);
    peer.0.finish(1, &HeaderMap::new());
    assert_eq!(peer.hears_numbers(), [(kind::HEADERS, LAST_HEADERS, 1, 0)]);
    assert_eq!(peer.sends(1, 10), 0, "it has ended");
    assert_eq!(peer.frame(kind::HEADERS, LAST_HEADERS, 3, REQUEST).unwrap(), ["request 3 end"]);
}

#[test]
fn who_is_answered_early_need_not_go_on() {
    let mut peer = Peer::with_stream();
    let (parts, ()) = http::Response::new(()).into_parts();
    peer.0.respond(1, &parts, true);
    let reset = (kind::RST_STREAM, 0, 1, Code::NoError as u32);
    assert_eq!(peer.hears_numbers(), [(kind::HEADERS, LAST_HEADERS, 1, 0), reset], "8.1");
    // What was on its way is nobody's any more, and makes no trouble, however much it is.
    for _ in 0..(3 * WINDOW as usize / MAX_FRAME) {
        assert_eq!(peer.frame(kind::DATA, 0, 1, &[0; MAX_FRAME]).unwrap(), [] as [&str; 0]);
    }
    assert_eq!(peer.frame(kind::HEADERS, LAST_HEADERS, 1, REQUEST).unwrap(), [] as [&str; 0]);
    assert_eq!(peer.frame(kind::RST_STREAM, 0, 1, &[0; 4]).unwrap(), [] as [&str; 0]);
    let updates = peer.hears_numbers();
    assert!(updates.iter().all(|one| (one.0, one.2) == (kind::WINDOW_UPDATE, 0)), "{updates:?}");
    let credit: u32 = updates.iter().map(|one| one.3).sum();
    assert_eq!(credit, 3 * WINDOW, "6.9: the connection's window is given back");
    peer.0.finish_bare(7);
}

#[test]
fn a_body_that_has_ended_has_ended() {
    for kind in [kind::DATA, kind::HEADERS] {
        let mut peer = Peer::new();
        assert_eq!(peer.frame(kind::HEADERS, LAST_HEADERS, 1, REQUEST).unwrap(), ["request 1 end"]);
        let content = if kind == kind::DATA { &b"more"[..] } else { REQUEST };
        assert_eq!(peer.frame(kind, LAST_HEADERS, 1, content).unwrap(), ["reset 1"], "5.1");
        let reset = (kind::RST_STREAM, 0, 1, Code::StreamClosed as u32);
        assert_eq!(peer.hears_numbers(), [reset]);
    }
    let mut peer = Peer::with_stream();
    assert_eq!(peer.frame(kind::HEADERS, LAST_HEADERS, 1, &[0x84]).unwrap(), ["data 1 \"\" end"]);
    let mut peer = Peer::with_stream();
    assert_eq!(peer.frame(kind::HEADERS, HEADERS, 1, &[0x84]).unwrap(), ["reset 1"], "8.1");
}

#[test]
fn malformed_requests_end_their_stream_only() {
    let mut peer = Peer::with_stream();
    let reset = (kind::RST_STREAM, 0, 3, Code::Protocol as u32);
    assert_eq!(peer.frame(kind::HEADERS, HEADERS, 3, &[0x83]).unwrap(), [] as [&str; 0]);
    assert_eq!(peer.hears_numbers(), [reset], "8.1.1");
    assert_eq!(peer.frame(kind::DATA, 0, 1, b"a").unwrap(), ["data 1 \"a\""]);

    // Fields that are too long are answered as such.
    let mut block = Block(REQUEST.to_vec());
    for _ in 0..3 {
        block.field(b"x", &[b'v'; 6000]);
    }
    let Block(block) = block;
    let mut bytes = Vec::new();
    put(&mut bytes, kind::HEADERS, flag::END_STREAM, 5, &block[..MAX_FRAME]);
    put(&mut bytes, kind::CONTINUATION, HEADERS, 5, &block[MAX_FRAME..]);
    assert_eq!(peer.says(&bytes).unwrap(), [] as [&str; 0]);
    let [(head, answer)] = &peer.hears()[..] else { panic!("one answer") };
    assert_eq!((head.kind, head.flags, head.stream), (kind::HEADERS, LAST_HEADERS, 5));
    assert_eq!(answer, b"\x08\x03431");
    assert_eq!(peer.frame(kind::HEADERS, HEADERS, 7, REQUEST).unwrap(), ["request 7"]);
}

#[test]
fn header_blocks_come_in_pieces_and_have_an_end() {
    let mut peer = Peer::new();
    let mut bytes = Vec::new();
    put(&mut bytes, kind::HEADERS, flag::END_STREAM, 1, &REQUEST[..1]);
    put(&mut bytes, kind::CONTINUATION, 0, 1, &REQUEST[1..2]);
    put(&mut bytes, kind::CONTINUATION, 0, 1, &REQUEST[2..]);
    put(&mut bytes, kind::CONTINUATION, HEADERS, 1, &[]);
    assert_eq!(peer.says(&bytes).unwrap(), ["request 1 end"]);

    for (what, kind, stream) in [
        ("another frame", kind::PING, 0),
        ("another stream's", kind::CONTINUATION, 1),
        ("another block", kind::HEADERS, 3),
    ] {
        let mut peer = Peer::with_stream();
        peer.frame(kind::HEADERS, 0, 3, &REQUEST[..1]).unwrap();
        let failure = peer.frame(kind, HEADERS, stream, &[0; 8]).unwrap_err();
        assert_eq!(failure.code, Code::Protocol, "6.10: {what}");
    }
    for piece in [&[0x84; 1000][..], &[]] {
        let mut peer = Peer::new();
        peer.frame(kind::HEADERS, 0, 1, REQUEST).unwrap();
        let mut pieces = (0..100).map(|_| peer.frame(kind::CONTINUATION, 0, 1, piece));
        let failure = pieces.find_map(Result::err).expect("an end");
        assert_eq!(failure.code, Code::EnhanceYourCalm);
    }
}

#[test]
fn nothing_is_sent_that_the_windows_do_not_allow() {
    let mut peer = Peer::with_stream();
    let all = |peer: &mut Peer, stream| -> usize {
        std::iter::from_fn(|| Some(peer.sends(stream, 1 << 20)).filter(|sent| *sent > 0)).sum()
    };
    assert_eq!(peer.sends(1, 100_000), MAX_FRAME, "4.2");
    assert_eq!(all(&mut peer, 1), 65_535 - MAX_FRAME, "6.9.2");
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]).unwrap();
    assert_eq!(all(&mut peer, 1), 0, "the connection's window is used up");
    peer.frame(kind::WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]).unwrap();
    assert_eq!(all(&mut peer, 1), 9, "the stream's again");

    // 6.9.2: a setting moves the windows of all streams, below zero too.
    let window = |value: u32| [&[0, 4][..], &value.to_be_bytes()].concat();
    peer.frame(kind::SETTINGS, 0, 0, &window(65_535 - 100)).unwrap();
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 99]).unwrap();
    assert_eq!(all(&mut peer, 1), 0);
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 4]).unwrap();
    assert_eq!(all(&mut peer, 1), 3);
    peer.frame(kind::SETTINGS, 0, 0, &window(65_535)).unwrap();
    assert_eq!(all(&mut peer, 1), 100);
    peer.frame(kind::SETTINGS, 0, 0, &window(7)).unwrap();
    peer.frame(kind::HEADERS, HEADERS, 3, REQUEST).unwrap();
    assert_eq!(all(&mut peer, 3), 7, "of a stream that is opened after it");
    let failure = peer
        .frame(kind::SETTINGS, 0, 0, &window(0x7fff_ffff))
        .map(|_| peer.frame(kind::WINDOW_UPDATE, 0, 3, &[0, 0, 0, 8]).unwrap_err());
    assert_eq!(failure.unwrap().code, Code::FlowControl, "6.9.1");
}

#[test]
fn a_peer_may_send_what_was_taken_and_no_more() {
    let mut peer = Peer::with_stream();
    let frames = WINDOW as usize / MAX_FRAME;
    let full = [0; MAX_FRAME];
    for _ in 0..frames {
        assert_eq!(peer.frame(kind::DATA, 0, 1, &full).unwrap().len(), 1);
    }
    assert_eq!(peer.hears_numbers(), [], "nothing was taken");
    assert_eq!(peer.frame(kind::DATA, 0, 1, b"x").unwrap_err().code, Code::FlowControl, "6.9.1");

    let mut peer = Peer::with_stream();
    for _ in 0..3 * frames {
        peer.frame(kind::DATA, 0, 1, &full).unwrap();
        peer.0.taken(1, MAX_FRAME as u32);
    }
    let half = |stream| (kind::WINDOW_UPDATE, 0, stream, WINDOW / 2);
    assert_eq!(peer.hears_numbers(), [half(1), half(0)].repeat(6));
    peer.0.taken(1, 1 << 30);
    assert_eq!(peer.hears_numbers(), [], "never more than what came");

    // What a stream leaves untaken is given back to the connection when it goes.
    let mut peer = Peer::with_stream();
    for _ in 0..frames {
        peer.frame(kind::DATA, 0, 1, &full).unwrap();
    }
    assert_eq!(peer.frame(kind::RST_STREAM, 0, 1, &[0; 4]).unwrap(), ["reset 1"]);
    assert_eq!(peer.hears_numbers(), [(kind::WINDOW_UPDATE, 0, 0, WINDOW)]);
}

#[test]
fn padding_counts_and_is_not_handed_on() {
    let mut peer = Peer::with_stream();
    let padded = flag::PADDED;
    assert_eq!(peer.frame(kind::DATA, padded, 1, b"\x03abc\0\0\0").unwrap(), ["data 1 \"abc\""]);
    let mut bytes = Vec::new();
    put(&mut bytes, kind::DATA, padded | flag::END_STREAM, 1, b"\x01cd\0");
    assert_eq!(peer.says(&bytes[..11]).unwrap(), [] as [&str; 0]);
    assert_eq!(peer.says(&bytes[11..]).unwrap(), ["data 1 \"cd\" end"]);
    assert_eq!(peer.0.find(1).unwrap().waiting, 5, "the padding was taken");
    let failure = Peer::with_stream().frame(kind::DATA, padded, 1, &[4, 0, 0]).unwrap_err();
    assert_eq!(failure.code, Code::Protocol, "6.1");
    let block = [&[1, 0, 0, 0, 0, 9][..], REQUEST, &[0]].concat();
    let flags = HEADERS | padded | flag::PRIORITY;
    assert_eq!(peer.frame(kind::HEADERS, flags, 3, &block).unwrap(), ["request 3"]);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_their_headers_count() {
    let mut peer = Peer::new();
    // The first one puts a field into the table, the last ones read it from there.
    let first = [REQUEST, &[0x40, 1, b'x', 1, b'y']].concat();
    let later = [REQUEST, &[0xbe]].concat();
    peer.frame(kind::HEADERS, HEADERS, 1, &first).unwrap();
    for at in 1..MAX_STREAMS as u32 {
        assert_eq!(peer.frame(kind::HEADERS, HEADERS, 2 * at + 1, &later).unwrap().len(), 1);
    }
    let indexed = [REQUEST, &[0x40, 1, b'z', 1, b'z']].concat();
    assert_eq!(peer.frame(kind::HEADERS, HEADERS, 201, &indexed).unwrap(), [] as [&str; 0]);
    let refused = (kind::RST_STREAM, 0, 201, Code::RefusedStream as u32);
    assert_eq!(peer.hears_numbers(), [refused], "5.1.2");
    peer.frame(kind::RST_STREAM, 0, 1, &[0; 4]).unwrap();
    let both = [REQUEST, &[0xbe, 0xbf]].concat();
    assert_eq!(peer.frame(kind::HEADERS, HEADERS, 203, &both).unwrap(), ["request 203"]);
}

#[test]
fn who_is_told_to_go_opens_no_more_streams() {
    let mut peer = Peer::with_stream();
    peer.0.go_away();
    peer.0.go_away();
    assert_eq!(peer.hears_numbers(), [(kind::GOAWAY, 0, 0, 1)], "6.8: once, with the last stream");
    assert_eq!(peer.frame(kind::HEADERS, HEADERS, 3, REQUEST).unwrap(), [] as [&str; 0]);
    let refused = (kind::RST_STREAM, 0, 3, Code::RefusedStream as u32);
    assert_eq!(peer.hears_numbers(), [refused]);
    assert_eq!(peer.frame(kind::DATA, 0, 1, b"a").unwrap(), ["data 1 \"a\""], "those go on");
}

#[test]
fn pings_and_settings_are_answered_and_the_unknown_is_not() {
    let mut peer = Peer::new();
    peer.frame(kind::PING, 0, 0, b"12345678").unwrap();
    let [(head, content)] = &peer.hears()[..] else { panic!("one answer") };
    assert_eq!((head.kind, head.flags, &content[..]), (kind::PING, flag::ACK, &b"12345678"[..]));
    peer.frame(kind::SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1]).unwrap();
    assert_eq!(peer.hears_numbers(), [(kind::SETTINGS, flag::ACK, 0, 0)], "6.5.3");
    for (kind, flags, stream, content) in [
        (kind::PING, flag::ACK, 0, &[0; 8][..]),
        (kind::SETTINGS, flag::ACK, 0, &[]),
        (kind::PRIORITY, 0, 9, &[0; 5]),
        (kind::GOAWAY, 0, 0, &[0; 8]),
        (99, 0xff, 9, &[0; 50]),
    ] {
        assert_eq!(peer.frame(kind, flags, stream, content).unwrap(), [] as [&str; 0]);
        assert_eq!(peer.hears_numbers(), [], "kind {kind}");
    }
}

#[test]
fn who_makes_us_talk_without_listening_is_noticed() {
    let mut peer = Peer::new();
    for _ in 0..10_000 {
        if peer.0.is_flooded() {
            break;
        }
        peer.frame(kind::PING, 0, 0, &[0; 8]).unwrap();
    }
    assert!(peer.0.is_flooded() && peer.0.outbox().len() < 66_000);
    peer.hears();
    assert!(!peer.0.is_flooded());
}

/// RFC 7541, section 4.2: nghttp2 fails a block that does not begin with this.
#[test]
fn a_smaller_table_is_confirmed_once() {
    let mut peer = Peer::with_stream();
    peer.frame(kind::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]).unwrap();
    peer.hears();
    let (parts, ()) = http::Response::new(()).into_parts();
    peer.0.respond(1, &parts, false);
    peer.0.finish(1, &HeaderMap::new());
    let blocks: Vec<_> = peer.hears().into_iter().map(|(_, content)| content).collect();
    assert_eq!(blocks[..2], [vec![0x20, 0x88], vec![]]);
}

#[test]
fn long_headers_go_out_in_pieces() {
    let mut peer = Peer::with_stream();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-message", "x".repeat(40_000).parse().unwrap());
    peer.0.finish(1, &trailers);
    let frames = peer.hears_numbers();
    let kinds: Vec<_> = frames.iter().map(|(kind, flags, ..)| (*kind, *flags)).collect();
    let continued = (kind::CONTINUATION, 0);
    let last = (kind::CONTINUATION, flag::END_HEADERS);
    assert_eq!(kinds[..3], [(kind::HEADERS, flag::END_STREAM), continued, last], "6.10");
}

/// Frames that could be right, and some that could not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let content = prop_oneof![
        Just(REQUEST.to_vec()),
        Just(vec![0; 4]),
        Just(vec![0, 0, 1, 0]),
        Just(vec![0; 8]),
        Just(vec![0, 4, 0, 0, 0x10, 0]),
        prop::collection::vec(any::<u8>(), 0..30),
    ];
    (0..11_u8, any::<u8>(), 0..9_u32, content).prop_map(|(kind, flags, stream, content)| {
        let mut bytes = Vec::new();
        put(&mut bytes, kind, flags, stream, &content);
        bytes
    })
}

/// What comes of a connection's bytes, put in so many at a time.
fn outcome(bytes: &[u8], size: usize) -> (Vec<String>, Option<Failure>, Vec<u8>) {
    let mut peer = Peer(Connection::new());
    let (mut events, mut failed): (Vec<String>, _) = (Vec::new(), None);
    for chunk in bytes.chunks(size) {
        match peer.says(chunk) {
            Ok(more) => events.extend(more),
            Err(failure) => {
                failed = Some(failure);
                break;
            }
        }
        assert!(peer.0.streams.len() <= MAX_STREAMS);
    }
    (events, failed, std::mem::take(peer.0.outbox()))
}

proptest! {
    /// Whatever comes, however it is cut, the outcome is the same.
    #[test]
    fn bytes_mean_the_same_however_they_are_cut(
        frames in prop::collection::vec(any_frame(), 0..20),
        noise in prop::collection::vec(any::<u8>(), 0..20),
        size in 1..40_usize,
    ) {
        let mut bytes = PREFACE.to_vec();
        put_settings(&mut bytes, &[]);
        put_window_update(&mut bytes, 0, 1);
        bytes.extend(frames.concat());
        bytes.extend(noise);
        let (events, failed, said) = outcome(&bytes, size);
        let (_, whole_failed, whole_said) = outcome(&bytes, bytes.len());
        prop_assert_eq!(failed.clone(), whole_failed);
        prop_assert_eq!(said, whole_said);
        // DATA comes in pieces, so only what is between them compares.
        let requests = |events: &[String]| {
            events.iter().filter(|event| !event.starts_with("data")).cloned().collect::<Vec<_>>()
        };
        if failed.is_none() {
            let (whole, ..) = outcome(&bytes, bytes.len());
            prop_assert_eq!(requests(&events), requests(&whole));
        }
    }
}
