//! Frames one by one, and what the connection itself says and hears.

use super::*;

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
        ("6.3 length, no stream to reset", PRIORITY, 0, 3, &[0; 4], Code::FrameSize),
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
        ("6.8 length", GOAWAY, 0, 0, &[0; 7], Code::FrameSize),
        ("6.9 length", WINDOW_UPDATE, 0, 0, &[0; 3], Code::FrameSize),
        ("6.9 by nothing", WINDOW_UPDATE, 0, 0, &[0; 4], Code::Protocol),
        ("6.9 of an idle stream", WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1], Code::Protocol),
        ("6.9.1", WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff], Code::FlowControl),
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

/// Section 5.4.2, where the rest of the connection is sound.
#[test]
fn what_breaks_the_rules_of_a_stream_ends_the_stream() {
    use kind::*;
    for (section, frame, flags, content, code) in [
        ("6.3 length", PRIORITY, 0, &[0; 4][..], Code::FrameSize),
        ("6.9 by nothing", WINDOW_UPDATE, 0, &[0; 4], Code::Protocol),
        ("6.9.1", WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff], Code::FlowControl),
        ("8.1 two heads", HEADERS, self::HEADERS, REQUEST, Code::Protocol),
        ("8.1 pseudo-header fields in trailers", HEADERS, LAST_HEADERS, REQUEST, Code::Protocol),
    ] {
        let mut peer = Peer::with_stream();
        peer.frame(HEADERS, self::HEADERS, 3, REQUEST).unwrap();
        assert_eq!(peer.frame(frame, flags, 1, content).unwrap(), ["reset 1"], "{section}");
        assert_eq!(peer.hears_numbers(), [(RST_STREAM, 0, 1, code as u32)], "{section}");
        assert_eq!(peer.frame(DATA, 0, 3, b"a").unwrap(), ["data 3 \"a\""], "{section}");
    }
}

/// Section 3.4: our settings are the first that we say, and nothing is said to who has not begun:
/// what speaks HTTP/1 or TLS is answered in that.
#[test]
fn nothing_is_said_before_the_peer_has_begun() {
    let mut peer = Peer(Connection::new());
    peer.0.ping();
    assert_eq!(peer.says(&PREFACE[..23]).unwrap(), [] as [&str; 0]);
    assert_eq!(peer.hears(), []);
    assert_eq!(peer.says(&PREFACE[23..]).unwrap(), [] as [&str; 0]);
    let kinds =
        |peer: &mut Peer| peer.hears().iter().map(|(head, _)| head.kind).collect::<Vec<_>>();
    assert_eq!(kinds(&mut peer), [kind::SETTINGS, kind::WINDOW_UPDATE]);
    assert_eq!(peer.0.foreign(), None);

    for (begins, foreign) in [
        (&b"GET / HTTP/1.1"[..], Foreign::Http1),
        (&[0x16, 3, 1], Foreign::Tls),
        (b"\0\0\0\0", Foreign::Unknown),
    ] {
        let mut peer = Peer(Connection::new());
        assert_eq!(peer.0.foreign(), None);
        let failure = peer.says(begins).unwrap_err();
        assert_eq!((peer.0.foreign(), peer.hears()), (Some(foreign), vec![]));
        peer.0.fail(&failure);
        assert_eq!(kinds(&mut peer), [kind::SETTINGS, kind::WINDOW_UPDATE, kind::GOAWAY]);
    }
    let mut peer = Peer(Connection::new());
    peer.0.go_away();
    peer.says(PREFACE).unwrap();
    assert_eq!(kinds(&mut peer), [kind::SETTINGS, kind::WINDOW_UPDATE, kind::GOAWAY]);
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
