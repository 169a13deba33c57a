//! The states of a stream (section 5.1), and how many there may be.

use super::*;

#[test]
fn a_stream_from_its_request_to_its_trailers() {
    let mut peer = Peer::with_stream();
    assert_eq!(peer.send_frame(frame_type::DATA, 0, 1, b"ab").unwrap(), ["data 1 \"ab\""]);
    let (parts, ()) = http::Response::new(()).into_parts();
    peer.0.send_response(1, &parts, false);
    assert_eq!(peer.receive_numbers(), [(frame_type::HEADERS, HEADERS, 1, 0)]);
    assert_eq!(peer.receive_data(1, 10), 10);
    assert_eq!(
        peer.send_frame(frame_type::DATA, flag::END_STREAM, 1, b"").unwrap(),
        ["data 1 \"\" end"]
    );
    peer.0.send_trailers(1, &HeaderMap::new());
    assert_eq!(peer.receive_numbers(), [(frame_type::HEADERS, LAST_HEADERS, 1, 0)]);
    assert_eq!(peer.receive_data(1, 10), 0, "it has ended");
    assert_eq!(
        peer.send_frame(frame_type::HEADERS, LAST_HEADERS, 3, REQUEST).unwrap(),
        ["request 3 end"]
    );
}

#[test]
fn who_is_answered_early_need_not_go_on() {
    let mut peer = Peer::with_stream();
    let (parts, ()) = http::Response::new(()).into_parts();
    peer.0.send_response(1, &parts, true);
    let reset = (frame_type::RST_STREAM, 0, 1, ErrorCode::NoError as u32);
    assert_eq!(peer.receive_numbers(), [(frame_type::HEADERS, LAST_HEADERS, 1, 0), reset], "8.1");
    // What was on its way is nobody's any more, and makes no trouble, however much it is.
    for _ in 0..(3 * RECEIVE_WINDOW as usize / MAX_FRAME_SIZE) {
        assert_eq!(
            peer.send_frame(frame_type::DATA, 0, 1, &[0; MAX_FRAME_SIZE]).unwrap(),
            [] as [&str; 0]
        );
    }
    let indexed = [REQUEST, &[0x40, 1, b'x', 1, b'y']].concat();
    assert_eq!(
        peer.send_frame(frame_type::HEADERS, LAST_HEADERS, 1, &indexed).unwrap(),
        ["rejected 1"]
    );
    assert_eq!(peer.send_frame(frame_type::RST_STREAM, 0, 1, &[0; 4]).unwrap(), [] as [&str; 0]);
    let later = [REQUEST, &[0xbe]].concat();
    assert_eq!(
        peer.send_frame(frame_type::HEADERS, HEADERS, 3, &later).unwrap(),
        ["request 3"],
        "4.3"
    );
    let updates = peer.receive_numbers();
    assert!(
        updates.iter().all(|one| (one.0, one.2) == (frame_type::WINDOW_UPDATE, 0)),
        "{updates:?}"
    );
    let credit: u32 = updates.iter().map(|one| one.3).sum();
    assert_eq!(credit, 3 * RECEIVE_WINDOW, "6.9: the connection's window is given back");
    peer.0.send_end_stream(7);
}

#[test]
fn a_body_that_has_ended_has_ended() {
    for frame_type in [frame_type::DATA, frame_type::HEADERS] {
        let mut peer = Peer::new();
        assert_eq!(
            peer.send_frame(frame_type::HEADERS, LAST_HEADERS, 1, REQUEST).unwrap(),
            ["request 1 end"]
        );
        let payload = if frame_type == frame_type::DATA { &b"more"[..] } else { REQUEST };
        assert_eq!(
            peer.send_frame(frame_type, LAST_HEADERS, 1, payload).unwrap(),
            ["reset 1"],
            "5.1"
        );
        let reset = (frame_type::RST_STREAM, 0, 1, ErrorCode::StreamClosed as u32);
        assert_eq!(peer.receive_numbers(), [reset]);
    }
    let mut peer = Peer::with_stream();
    let trailers = b"\0\x01x\x01y";
    assert_eq!(
        peer.send_frame(frame_type::HEADERS, LAST_HEADERS, 1, trailers).unwrap(),
        ["data 1 \"\" end"]
    );
    let mut peer = Peer::with_stream();
    assert_eq!(
        peer.send_frame(frame_type::HEADERS, HEADERS, 1, trailers).unwrap(),
        ["reset 1"],
        "8.1"
    );
}

/// Section 5.1, "closed": what the peer has closed itself it may not use again.
#[test]
fn who_goes_on_after_its_own_end_is_disconnected() {
    let answered = |peer: &mut Peer| {
        let (parts, ()) = http::Response::new(()).into_parts();
        peer.0.send_response(1, &parts, true);
    };
    type Ends = fn(&mut Peer);
    let ended: [(&str, Ends); 3] = [
        ("END_STREAM", |peer| {
            peer.send_frame(frame_type::HEADERS, LAST_HEADERS, 1, REQUEST).unwrap();
        }),
        ("END_STREAM on DATA", |peer| {
            peer.send_frame(frame_type::HEADERS, HEADERS, 1, REQUEST).unwrap();
            peer.send_frame(frame_type::DATA, flag::END_STREAM, 1, b"").unwrap();
        }),
        ("RST_STREAM", |peer| {
            peer.send_frame(frame_type::HEADERS, HEADERS, 1, REQUEST).unwrap();
            peer.send_frame(frame_type::RST_STREAM, 0, 1, &[0; 4]).unwrap();
        }),
    ];
    for (how, end) in ended {
        for (frame_type, payload) in
            [(frame_type::DATA, &b"more"[..]), (frame_type::HEADERS, REQUEST)]
        {
            let mut peer = Peer::new();
            end(&mut peer);
            answered(&mut peer);
            // What may have been on its way.
            peer.send_frame(frame_type::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).unwrap();
            peer.send_frame(frame_type::RST_STREAM, 0, 1, &[0; 4]).unwrap();
            peer.send_frame(frame_type::PRIORITY, 0, 1, &[0; 5]).unwrap();
            let error = peer.send_frame(frame_type, LAST_HEADERS, 1, payload).unwrap_err();
            assert_eq!(error.code, ErrorCode::StreamClosed, "{how}, then frame_type {frame_type}");
        }
    }
}

/// Section 5.1.1: the client of such a stream would wait for ever.
#[test]
fn a_stream_below_one_that_was_opened_before_ends_the_connection() {
    for (frame_type, code) in [
        (frame_type::HEADERS, ErrorCode::ProtocolError),
        (frame_type::DATA, ErrorCode::StreamClosed),
    ] {
        let mut peer = Peer::new();
        peer.send_frame(frame_type::HEADERS, HEADERS, 5, REQUEST).unwrap();
        assert_eq!(peer.send_frame(frame_type, LAST_HEADERS, 3, REQUEST).unwrap_err().code, code);
    }
}

/// What was so long ago that nobody knows is neither a new request nor a reason to disconnect.
#[test]
fn headers_of_a_stream_long_gone_are_answered_all_the_same() {
    let mut peer = Peer::new();
    for id in (1..).step_by(2).take(300) {
        peer.send_frame(frame_type::HEADERS, HEADERS, id, REQUEST).unwrap();
        peer.send_frame(frame_type::RST_STREAM, 0, id, &[0; 4]).unwrap();
    }
    assert_eq!(peer.send_frame(frame_type::DATA, 0, 1, b"late").unwrap(), [] as [&str; 0]);
    assert_eq!(peer.send_frame(frame_type::HEADERS, HEADERS, 1, REQUEST).unwrap(), ["rejected 1"]);
    let reset = (frame_type::RST_STREAM, 0, 1, ErrorCode::StreamClosed as u32);
    assert_eq!(peer.receive_numbers(), [reset]);
}

#[test]
fn streams_beyond_the_limit_are_refused_and_their_headers_count() {
    let mut peer = Peer::new();
    // The first one puts a field into the table, the last ones read it from there.
    let first = [REQUEST, &[0x40, 1, b'x', 1, b'y']].concat();
    let later = [REQUEST, &[0xbe]].concat();
    peer.send_frame(frame_type::HEADERS, HEADERS, 1, &first).unwrap();
    for at in 1..MAX_STREAMS as u32 {
        assert_eq!(
            peer.send_frame(frame_type::HEADERS, HEADERS, 2 * at + 1, &later).unwrap().len(),
            1
        );
    }
    let indexed = [REQUEST, &[0x40, 1, b'z', 1, b'z']].concat();
    assert_eq!(
        peer.send_frame(frame_type::HEADERS, HEADERS, 201, &indexed).unwrap(),
        ["rejected 201"]
    );
    let refused = (frame_type::RST_STREAM, 0, 201, ErrorCode::RefusedStream as u32);
    assert_eq!(peer.receive_numbers(), [refused], "5.1.2");
    // Its client may not have known the limit yet.
    assert_eq!(peer.send_frame(frame_type::DATA, 0, 201, b"body").unwrap(), [] as [&str; 0]);
    peer.send_frame(frame_type::RST_STREAM, 0, 1, &[0; 4]).unwrap();
    let both = [REQUEST, &[0xbe, 0xbf]].concat();
    assert_eq!(peer.send_frame(frame_type::HEADERS, HEADERS, 203, &both).unwrap(), ["request 203"]);
}

#[test]
fn who_is_told_to_go_opens_no_more_streams() {
    let mut peer = Peer::with_stream();
    peer.0.begin_graceful_shutdown();
    peer.0.begin_graceful_shutdown();
    assert_eq!(
        peer.receive_numbers(),
        [(frame_type::GOAWAY, 0, 0, 1)],
        "6.8: once, with the last stream"
    );
    assert_eq!(peer.send_frame(frame_type::HEADERS, HEADERS, 3, REQUEST).unwrap(), ["rejected 3"]);
    let refused = (frame_type::RST_STREAM, 0, 3, ErrorCode::RefusedStream as u32);
    assert_eq!(peer.receive_numbers(), [refused]);
    assert_eq!(
        peer.send_frame(frame_type::DATA, 0, 1, b"a").unwrap(),
        ["data 1 \"a\""],
        "those go on"
    );
}
