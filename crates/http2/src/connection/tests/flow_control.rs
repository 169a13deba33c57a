//! Flow control (section 5.2 and 6.9), both ways.

use super::*;

#[test]
fn nothing_is_sent_that_the_windows_do_not_allow() {
    let mut peer = Peer::with_stream();
    let all = |peer: &mut Peer, stream_id| -> usize {
        std::iter::from_fn(|| Some(peer.receive_data(stream_id, 1 << 20)).filter(|sent| *sent > 0))
            .sum()
    };
    assert_eq!(peer.receive_data(1, 100_000), MAX_FRAME_SIZE, "4.2");
    assert_eq!(all(&mut peer, 1), 65_535 - MAX_FRAME_SIZE, "6.9.2");
    peer.send_frame(frame_type::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 9]).unwrap();
    assert_eq!(all(&mut peer, 1), 0, "the connection's window is used up");
    peer.send_frame(frame_type::WINDOW_UPDATE, 0, 0, &[0, 1, 0, 0]).unwrap();
    assert_eq!(all(&mut peer, 1), 9, "the stream's again");

    // 6.9.2: a setting moves the windows of all streams, below zero too.
    let window = |value: u32| [&[0, 4][..], &value.to_be_bytes()].concat();
    peer.send_frame(frame_type::SETTINGS, 0, 0, &window(65_535 - 100)).unwrap();
    peer.send_frame(frame_type::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 99]).unwrap();
    assert_eq!(all(&mut peer, 1), 0);
    peer.send_frame(frame_type::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 4]).unwrap();
    assert_eq!(all(&mut peer, 1), 3);
    peer.send_frame(frame_type::SETTINGS, 0, 0, &window(65_535)).unwrap();
    assert_eq!(all(&mut peer, 1), 100);
    peer.send_frame(frame_type::SETTINGS, 0, 0, &window(7)).unwrap();
    peer.send_frame(frame_type::HEADERS, HEADERS, 3, REQUEST).unwrap();
    assert_eq!(all(&mut peer, 3), 7, "of a stream that is opened after it");
    let error = peer.send_frame(frame_type::SETTINGS, 0, 0, &window(0x7fff_ffff)).map(|_| {
        peer.send_frame(frame_type::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).unwrap_err()
    });
    assert_eq!(error.unwrap().code, ErrorCode::FlowControlError, "6.9.1");
}

/// Section 6.5.3: what counts is the last of a frame's values for a setting.
#[test]
fn a_setting_is_applied_once_a_frame() {
    let mut peer = Peer::with_stream();
    let window = |value: u32| [&[0, 4][..], &value.to_be_bytes()].concat();
    // Each of them would be too wide for a window that was widened by one.
    peer.send_frame(frame_type::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).unwrap();
    let all = [window(0x7fff_ffff), window(0), window(0x7fff_ffff), window(9)].concat();
    peer.send_frame(frame_type::SETTINGS, 0, 0, &all).unwrap();
    assert_eq!(peer.receive_numbers(), [(frame_type::SETTINGS, flag::ACK, 0, 0)]);
    assert_eq!(peer.receive_data(1, 100), 10);
    let error = peer.send_frame(frame_type::SETTINGS, 0, 0, &window(0x8000_0000)).unwrap_err();
    assert_eq!(error.code, ErrorCode::FlowControlError, "6.5.2");
    peer.send_frame(frame_type::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 11]).unwrap();
    let error = peer.send_frame(frame_type::SETTINGS, 0, 0, &window(0x7fff_ffff)).unwrap_err();
    assert_eq!(error.code, ErrorCode::FlowControlError, "6.9.2");
}

#[test]
fn a_peer_may_send_what_was_taken_and_no_more() {
    let mut peer = Peer::with_stream();
    let frames = RECEIVE_WINDOW as usize / MAX_FRAME_SIZE;
    let full = [0; MAX_FRAME_SIZE];
    for _ in 0..frames {
        assert_eq!(peer.send_frame(frame_type::DATA, 0, 1, &full).unwrap().len(), 1);
    }
    assert_eq!(peer.receive_numbers(), [], "nothing was taken");
    assert_eq!(
        peer.send_frame(frame_type::DATA, 0, 1, b"x").unwrap_err().code,
        ErrorCode::FlowControlError,
        "6.9.1"
    );

    let mut peer = Peer::with_stream();
    for _ in 0..3 * frames {
        peer.send_frame(frame_type::DATA, 0, 1, &full).unwrap();
        peer.0.release_capacity(1, MAX_FRAME_SIZE as u32);
    }
    let half = |stream_id| (frame_type::WINDOW_UPDATE, 0, stream_id, RECEIVE_WINDOW / 2);
    assert_eq!(peer.receive_numbers(), [half(1), half(0)].repeat(6));
    peer.0.release_capacity(1, 1 << 30);
    assert_eq!(peer.receive_numbers(), [], "never more than what came");

    // What a stream leaves untaken is given back to the connection when it goes.
    let mut peer = Peer::with_stream();
    for _ in 0..frames {
        peer.send_frame(frame_type::DATA, 0, 1, &full).unwrap();
    }
    assert_eq!(peer.send_frame(frame_type::RST_STREAM, 0, 1, &[0; 4]).unwrap(), ["reset 1"]);
    assert_eq!(peer.receive_numbers(), [(frame_type::WINDOW_UPDATE, 0, 0, RECEIVE_WINDOW)]);
}

#[test]
fn padding_counts_and_is_not_handed_on() {
    let mut peer = Peer::with_stream();
    let padded = flag::PADDED;
    assert_eq!(
        peer.send_frame(frame_type::DATA, padded, 1, b"\x03abc\0\0\0").unwrap(),
        ["data 1 \"abc\""]
    );
    let mut bytes = Vec::new();
    write_frame(&mut bytes, frame_type::DATA, padded | flag::END_STREAM, 1, b"\x01cd\0");
    assert_eq!(peer.send(&bytes[..11]).unwrap(), [] as [&str; 0]);
    assert_eq!(peer.send(&bytes[11..]).unwrap(), ["data 1 \"cd\" end"]);
    assert_eq!(peer.0.find_stream(1).unwrap().unreleased, 5, "the padding was taken");
    let error =
        Peer::with_stream().send_frame(frame_type::DATA, padded, 1, &[4, 0, 0]).unwrap_err();
    assert_eq!(error.code, ErrorCode::ProtocolError, "6.1");
    let block = [&[1, 0, 0, 0, 0, 9][..], REQUEST, &[0]].concat();
    let flags = HEADERS | padded | flag::PRIORITY;
    assert_eq!(peer.send_frame(frame_type::HEADERS, flags, 3, &block).unwrap(), ["request 3"]);
}
