//! Flow control (section 5.2 and 6.9), both ways.

use super::*;

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
        .map(|_| peer.frame(kind::WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]).unwrap_err());
    assert_eq!(failure.unwrap().code, Code::FlowControl, "6.9.1");
}

/// Section 6.5.3: what counts is the last of a frame's values for a setting.
#[test]
fn a_setting_is_applied_once_a_frame() {
    let mut peer = Peer::with_stream();
    let window = |value: u32| [&[0, 4][..], &value.to_be_bytes()].concat();
    // Each of them would be too wide for a window that was widened by one.
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]).unwrap();
    let all = [window(0x7fff_ffff), window(0), window(0x7fff_ffff), window(9)].concat();
    peer.frame(kind::SETTINGS, 0, 0, &all).unwrap();
    assert_eq!(peer.hears_numbers(), [(kind::SETTINGS, flag::ACK, 0, 0)]);
    assert_eq!(peer.sends(1, 100), 10);
    let failure = peer.frame(kind::SETTINGS, 0, 0, &window(0x8000_0000)).unwrap_err();
    assert_eq!(failure.code, Code::FlowControl, "6.5.2");
    peer.frame(kind::WINDOW_UPDATE, 0, 1, &[0, 0, 0, 11]).unwrap();
    let failure = peer.frame(kind::SETTINGS, 0, 0, &window(0x7fff_ffff)).unwrap_err();
    assert_eq!(failure.code, Code::FlowControl, "6.9.2");
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
