//! Frames one by one, and what the connection itself says and hears.

use super::*;

#[test]
fn what_breaks_the_rules_ends_the_connection() {
    use crate::frame::frame_type::*;
    for (section, frame, flags, stream_id, payload, code) in [
        ("6.1 on no stream", DATA, 0, 0, &b"x"[..], ErrorCode::ProtocolError),
        ("5.1 of an idle stream", DATA, 0, 5, b"x", ErrorCode::ProtocolError),
        ("5.1.1 an even stream", HEADERS, self::HEADERS, 2, REQUEST, ErrorCode::ProtocolError),
        ("6.2 on no stream", HEADERS, self::HEADERS, 0, REQUEST, ErrorCode::ProtocolError),
        (
            "6.2 padding",
            HEADERS,
            self::HEADERS | flag::PADDED,
            3,
            &[9, 0x83],
            ErrorCode::ProtocolError,
        ),
        ("6.2 nothing", HEADERS, self::HEADERS | flag::PADDED, 3, b"", ErrorCode::FrameSizeError),
        (
            "6.2 priority",
            HEADERS,
            self::HEADERS | flag::PRIORITY,
            3,
            &[0; 4],
            ErrorCode::FrameSizeError,
        ),
        ("4.3", HEADERS, self::HEADERS, 3, &[0xff; 9], ErrorCode::CompressionError),
        ("6.3", PRIORITY, 0, 0, &[0; 5], ErrorCode::ProtocolError),
        ("6.3 length, no stream to reset", PRIORITY, 0, 3, &[0; 4], ErrorCode::FrameSizeError),
        ("6.4 of nothing", RST_STREAM, 0, 0, &[0; 4], ErrorCode::ProtocolError),
        ("6.4 of an idle stream", RST_STREAM, 0, 7, &[0; 4], ErrorCode::ProtocolError),
        ("6.4 length", RST_STREAM, 0, 1, &[0; 3], ErrorCode::FrameSizeError),
        ("6.5 on a stream", SETTINGS, 0, 1, b"", ErrorCode::ProtocolError),
        ("6.5 length", SETTINGS, 0, 0, &[0; 5], ErrorCode::FrameSizeError),
        ("6.5 ACK with more", SETTINGS, flag::ACK, 0, &[0; 6], ErrorCode::FrameSizeError),
        ("6.5.2 push", SETTINGS, 0, 0, &[0, 2, 0, 0, 0, 2], ErrorCode::ProtocolError),
        ("6.5.2 window", SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0], ErrorCode::FlowControlError),
        ("6.5.2 small frames", SETTINGS, 0, 0, &[0, 5, 0, 0, 0x3f, 0xff], ErrorCode::ProtocolError),
        ("6.5.2 large frames", SETTINGS, 0, 0, &[0, 5, 1, 0, 0, 0], ErrorCode::ProtocolError),
        ("6.6", PUSH_PROMISE, 0, 1, &[0; 4], ErrorCode::ProtocolError),
        ("6.7 length", PING, 0, 0, &[0; 7], ErrorCode::FrameSizeError),
        ("6.7 on a stream", PING, 0, 1, &[0; 8], ErrorCode::ProtocolError),
        ("6.8", GOAWAY, 0, 1, &[0; 8], ErrorCode::ProtocolError),
        ("6.8 length", GOAWAY, 0, 0, &[0; 7], ErrorCode::FrameSizeError),
        ("6.9 length", WINDOW_UPDATE, 0, 0, &[0; 3], ErrorCode::FrameSizeError),
        ("6.9 by nothing", WINDOW_UPDATE, 0, 0, &[0; 4], ErrorCode::ProtocolError),
        ("6.9 of an idle stream", WINDOW_UPDATE, 0, 9, &[0, 0, 0, 1], ErrorCode::ProtocolError),
        ("6.9.1", WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff], ErrorCode::FlowControlError),
        ("6.10", CONTINUATION, self::HEADERS, 1, b"", ErrorCode::ProtocolError),
    ] {
        let error = Peer::with_stream().send_frame(frame, flags, stream_id, payload);
        assert_eq!(error.unwrap_err().code, code, "{section}");
    }
    let mut peer = Peer::with_stream();
    let error = peer.send_frame(frame_type::PING, 0, 1, &[0; 8]).unwrap_err();
    peer.0.send_goaway(&error);
    let [(header, payload)] = &peer.receive_frames()[..] else { panic!("one GOAWAY") };
    assert_eq!((header.frame_type, header.stream_id), (frame_type::GOAWAY, 0), "5.4.1");
    assert_eq!(payload[..8], [0, 0, 0, 1, 0, 0, 0, 1], "the last stream_id, and the code");
    assert_eq!(payload[8..], *error.reason.as_bytes());
}

/// Section 5.4.2, where the rest of the connection is sound.
#[test]
fn what_breaks_the_rules_of_a_stream_ends_the_stream() {
    use crate::frame::frame_type::*;
    for (section, frame, flags, payload, code) in [
        ("6.3 length", PRIORITY, 0, &[0; 4][..], ErrorCode::FrameSizeError),
        ("6.9 by nothing", WINDOW_UPDATE, 0, &[0; 4], ErrorCode::ProtocolError),
        ("6.9.1", WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff], ErrorCode::FlowControlError),
        ("8.1 two heads", HEADERS, self::HEADERS, REQUEST, ErrorCode::ProtocolError),
        (
            "8.1 pseudo-header fields in trailers",
            HEADERS,
            LAST_HEADERS,
            REQUEST,
            ErrorCode::ProtocolError,
        ),
    ] {
        let mut peer = Peer::with_stream();
        peer.send_frame(HEADERS, self::HEADERS, 3, REQUEST).unwrap();
        assert_eq!(peer.send_frame(frame, flags, 1, payload).unwrap(), ["reset 1"], "{section}");
        assert_eq!(peer.receive_numbers(), [(RST_STREAM, 0, 1, code as u32)], "{section}");
        assert_eq!(peer.send_frame(DATA, 0, 3, b"a").unwrap(), ["data 3 \"a\""], "{section}");
    }
}

/// Section 3.4: our settings are the first that we send, and nothing is sent before the peer has begun:
/// what speaks HTTP/1 or TLS is answered in that.
#[test]
fn nothing_is_said_before_the_peer_has_begun() {
    let mut peer = Peer(Connection::new());
    peer.0.send_ping();
    assert_eq!(peer.send(&PREFACE[..23]).unwrap(), [] as [&str; 0]);
    assert_eq!(peer.receive_frames(), []);
    assert_eq!(peer.send(&PREFACE[23..]).unwrap(), [] as [&str; 0]);
    let kinds = |peer: &mut Peer| {
        peer.receive_frames().iter().map(|(header, _)| header.frame_type).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&mut peer), [frame_type::SETTINGS, frame_type::WINDOW_UPDATE]);
    assert_eq!(peer.0.other_protocol(), None);

    for (begins, foreign) in [
        (&b"GET / HTTP/1.1"[..], OtherProtocol::Http1),
        (&[0x16, 3, 1], OtherProtocol::Tls),
        (b"\0\0\0\0", OtherProtocol::Unknown),
    ] {
        let mut peer = Peer(Connection::new());
        assert_eq!(peer.0.other_protocol(), None);
        let error = peer.send(begins).unwrap_err();
        assert_eq!((peer.0.other_protocol(), peer.receive_frames()), (Some(foreign), vec![]));
        peer.0.send_goaway(&error);
        assert_eq!(
            kinds(&mut peer),
            [frame_type::SETTINGS, frame_type::WINDOW_UPDATE, frame_type::GOAWAY]
        );
    }
    let mut peer = Peer(Connection::new());
    peer.0.begin_graceful_shutdown();
    peer.send(PREFACE).unwrap();
    assert_eq!(
        kinds(&mut peer),
        [frame_type::SETTINGS, frame_type::WINDOW_UPDATE, frame_type::GOAWAY]
    );
}

#[test]
fn settings_come_first() {
    for (frame_type, flags) in [(frame_type::PING, 0), (frame_type::SETTINGS, flag::ACK)] {
        let mut bytes = PREFACE.to_vec();
        write_frame(&mut bytes, frame_type, flags, 0, &[]);
        let error = Peer(Connection::new()).send(&bytes).unwrap_err();
        assert_eq!(error.code, ErrorCode::ProtocolError, "3.4");
    }
}

#[test]
fn pings_and_settings_are_answered_and_the_unknown_is_not() {
    let mut peer = Peer::new();
    peer.send_frame(frame_type::PING, 0, 0, b"12345678").unwrap();
    let [(header, payload)] = &peer.receive_frames()[..] else { panic!("one answer") };
    assert_eq!(
        (header.frame_type, header.flags, &payload[..]),
        (frame_type::PING, flag::ACK, &b"12345678"[..])
    );
    peer.send_frame(frame_type::SETTINGS, 0, 0, &[0, 99, 0, 0, 0, 1]).unwrap();
    assert_eq!(peer.receive_numbers(), [(frame_type::SETTINGS, flag::ACK, 0, 0)], "6.5.3");
    for (frame_type, flags, stream_id, payload) in [
        (frame_type::PING, flag::ACK, 0, &[0; 8][..]),
        (frame_type::SETTINGS, flag::ACK, 0, &[]),
        (frame_type::PRIORITY, 0, 9, &[0; 5]),
        (frame_type::GOAWAY, 0, 0, &[0; 8]),
        (99, 0xff, 9, &[0; 50]),
    ] {
        assert_eq!(
            peer.send_frame(frame_type, flags, stream_id, payload).unwrap(),
            [] as [&str; 0]
        );
        assert_eq!(peer.receive_numbers(), [], "frame_type {frame_type}");
    }
}

#[test]
fn who_makes_us_talk_without_listening_is_noticed() {
    let mut peer = Peer::new();
    for _ in 0..10_000 {
        if peer.0.is_flooded() {
            break;
        }
        peer.send_frame(frame_type::PING, 0, 0, &[0; 8]).unwrap();
    }
    assert!(peer.0.is_flooded() && peer.0.pending_frames().len() < 66_000);
    peer.receive_frames();
    assert!(!peer.0.is_flooded());
}
