//! Header blocks: whole and in pieces, requests and trailers, and what they may hold.

use super::*;

#[test]
fn malformed_requests_end_their_stream_only() {
    let mut peer = Peer::with_stream();
    let reset = (frame_type::RST_STREAM, 0, 3, ErrorCode::ProtocolError as u32);
    assert_eq!(peer.send_frame(frame_type::HEADERS, HEADERS, 3, &[0x83]).unwrap(), ["rejected 3"]);
    assert_eq!(peer.receive_numbers(), [reset], "8.1.1");
    assert_eq!(peer.send_frame(frame_type::DATA, 0, 1, b"a").unwrap(), ["data 1 \"a\""]);

    // Fields that are too long are answered as such.
    let mut block = HeaderBlock(REQUEST.to_vec());
    for _ in 0..3 {
        block.push_field(b"x", &[b'v'; 6000]);
    }
    let HeaderBlock(block) = block;
    let mut bytes = Vec::new();
    write_frame(&mut bytes, frame_type::HEADERS, flag::END_STREAM, 5, &block[..MAX_FRAME_SIZE]);
    write_frame(&mut bytes, frame_type::CONTINUATION, HEADERS, 5, &block[MAX_FRAME_SIZE..]);
    assert_eq!(peer.send(&bytes).unwrap(), ["rejected 5"]);
    let [(header, answer)] = &peer.receive_frames()[..] else { panic!("one answer") };
    assert_eq!(
        (header.frame_type, header.flags, header.stream_id),
        (frame_type::HEADERS, LAST_HEADERS, 5)
    );
    assert_eq!(answer, b"\x08\x03431");
    assert_eq!(peer.send_frame(frame_type::HEADERS, HEADERS, 7, REQUEST).unwrap(), ["request 7"]);
}

#[test]
fn header_blocks_come_in_pieces_and_have_an_end() {
    let mut peer = Peer::new();
    let mut bytes = Vec::new();
    write_frame(&mut bytes, frame_type::HEADERS, flag::END_STREAM, 1, &REQUEST[..1]);
    write_frame(&mut bytes, frame_type::CONTINUATION, 0, 1, &REQUEST[1..2]);
    write_frame(&mut bytes, frame_type::CONTINUATION, 0, 1, &REQUEST[2..]);
    write_frame(&mut bytes, frame_type::CONTINUATION, HEADERS, 1, &[]);
    assert_eq!(peer.send(&bytes).unwrap(), ["request 1 end"]);

    for (what, frame_type, stream_id) in [
        ("another frame", frame_type::PING, 0),
        ("another stream's", frame_type::CONTINUATION, 1),
        ("another block", frame_type::HEADERS, 3),
    ] {
        let mut peer = Peer::with_stream();
        peer.send_frame(frame_type::HEADERS, 0, 3, &REQUEST[..1]).unwrap();
        let error = peer.send_frame(frame_type, HEADERS, stream_id, &[0; 8]).unwrap_err();
        assert_eq!(error.code, ErrorCode::ProtocolError, "6.10: {what}");
    }
    for piece in [&[0x84; 1000][..], &[]] {
        let mut peer = Peer::new();
        peer.send_frame(frame_type::HEADERS, 0, 1, REQUEST).unwrap();
        let mut pieces = (0..100).map(|_| peer.send_frame(frame_type::CONTINUATION, 0, 1, piece));
        let error = pieces.find_map(Result::err).expect("an end");
        assert_eq!(error.code, ErrorCode::EnhanceYourCalm);
    }
}

/// Up to 64 KiB, a header list that is too large is answered with 431; beyond that, it is an attack.
#[test]
fn a_header_block_that_decodes_to_much_ends_the_connection() {
    // A field of 4,032 bytes, and references to it.
    let entry = [REQUEST, &[0x40, 0x7f, 0xa1, 0x1e], &[b'x'; 4000], &[0]].concat();
    let mut peer = Peer::new();
    let block = [&entry[..], &[0xbe; 14]].concat();
    assert_eq!(peer.send_frame(frame_type::HEADERS, HEADERS, 1, &block).unwrap(), ["rejected 1"]);
    assert_eq!(peer.receive_frames()[0].1, b"\x08\x03431");
    let error = peer.send_frame(frame_type::HEADERS, HEADERS, 3, &[0xbe; 100]).unwrap_err();
    assert_eq!(error.code, ErrorCode::EnhanceYourCalm);
}

/// RFC 7541, section 4.2: nghttp2 fails a block that does not begin with this.
#[test]
fn a_smaller_table_is_confirmed_once() {
    let mut peer = Peer::with_stream();
    peer.send_frame(frame_type::SETTINGS, 0, 0, &[0, 1, 0, 0, 0, 0]).unwrap();
    peer.receive_frames();
    let (parts, ()) = http::Response::new(()).into_parts();
    peer.0.send_response(1, &parts, false);
    peer.0.send_trailers(1, &HeaderMap::new());
    let blocks: Vec<_> = peer.receive_frames().into_iter().map(|(_, payload)| payload).collect();
    assert_eq!(blocks[..2], [vec![0x20, 0x88], vec![]]);
}

#[test]
fn headers_that_do_not_fit_a_frame_are_left_out() {
    let mut peer = Peer::with_stream();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "13".parse().unwrap());
    trailers.insert("grpc-message", "x".repeat(40_000).parse().unwrap());
    trailers.insert("last", "y".parse().unwrap());
    peer.0.send_trailers(1, &trailers);
    let [(header, payload), reset] = &peer.receive_frames()[..] else {
        panic!("trailers and a reset")
    };
    assert_eq!((header.flags, reset.0.frame_type), (LAST_HEADERS, frame_type::RST_STREAM));
    assert_eq!(payload, b"\0\x0bgrpc-status\x0213\0\x04last\x01y");
}

/// Section 8.1.1: the length that a request announces is that of its DATA frames.
#[test]
fn a_body_is_as_long_as_was_announced() {
    let length = |length| [("content-length", length)];
    let data = |peer: &mut Peer, flags, payload: &[u8]| {
        peer.send_frame(frame_type::DATA, flags, 1, payload).unwrap()
    };
    let mut peer = Peer::new();
    peer.send_request(HEADERS, 1, &length("4")).unwrap();
    assert_eq!(data(&mut peer, flag::PADDED, b"\x02ab\0\0"), ["data 1 \"ab\""]);
    assert_eq!(data(&mut peer, flag::END_STREAM, b"cd"), ["data 1 \"cd\" end"]);
    assert_eq!(peer.send_request(LAST_HEADERS, 3, &length("0")).unwrap(), ["request 3 end"]);
    let same = [("content-length", "7"), ("content-length", "7")];
    assert_eq!(peer.send_request(HEADERS, 5, &same).unwrap(), ["request 5"]);
    peer.receive_frames();

    let reset = |stream_id| (frame_type::RST_STREAM, 0, stream_id, ErrorCode::ProtocolError as u32);
    assert_eq!(peer.send_request(LAST_HEADERS, 7, &length("1")).unwrap(), ["rejected 7"]);
    assert_eq!(peer.receive_numbers(), [reset(7)]);
    for (flags, payload) in [(0, &b"abcde"[..]), (flag::END_STREAM, b"abc")] {
        let mut peer = Peer::new();
        peer.send_request(HEADERS, 1, &length("4")).unwrap();
        assert_eq!(data(&mut peer, flags, payload), ["reset 1"]);
        assert_eq!(peer.receive_numbers(), [reset(1)]);
    }
    let mut peer = Peer::new();
    peer.send_request(HEADERS, 1, &length("4")).unwrap();
    let trailers = peer.send_frame(frame_type::HEADERS, LAST_HEADERS, 1, b"\0\x01x\x01y").unwrap();
    assert_eq!(trailers, ["reset 1"], "the end comes with the trailers");
    for wrong in [&["-1"][..], &["1 "], &["0x1"], &["4", "5"], &["99999999999999999999"], &[""]] {
        let fields: Vec<_> = wrong.iter().map(|value| ("content-length", *value)).collect();
        let mut peer = Peer::new();
        assert_eq!(peer.send_request(HEADERS, 1, &fields).unwrap(), ["rejected 1"], "{wrong:?}");
    }
}
