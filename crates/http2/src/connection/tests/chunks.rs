//! Bytes mean the same however they are cut.

use super::*;

/// Frames that could be right, and some that could not.
fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        Just(REQUEST.to_vec()),
        Just(vec![0; 4]),
        Just(vec![0, 0, 1, 0]),
        Just(vec![0; 8]),
        Just(vec![0, 4, 0, 0, 0x10, 0]),
        prop::collection::vec(any::<u8>(), 0..30),
    ];
    (0..11_u8, any::<u8>(), 0..9_u32, payload).prop_map(
        |(frame_type, flags, stream_id, payload)| {
            let mut bytes = Vec::new();
            write_frame(&mut bytes, frame_type, flags, stream_id, &payload);
            bytes
        },
    )
}

/// What comes of a connection's bytes, put in so many at a time.
fn outcome(bytes: &[u8], size: usize) -> (Vec<String>, Option<ConnectionError>, Vec<u8>) {
    let mut peer = Peer(Connection::new());
    let (mut events, mut ended_by): (Vec<String>, _) = (Vec::new(), None);
    for chunk in bytes.chunks(size) {
        match peer.send(chunk) {
            Ok(more) => events.extend(more),
            Err(error) => {
                ended_by = Some(error);
                break;
            }
        }
        assert!(peer.0.streams.len() <= MAX_STREAMS);
    }
    (events, ended_by, std::mem::take(peer.0.pending_frames()))
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
        write_settings(&mut bytes, &[]);
        write_window_update(&mut bytes, 0, 1);
        bytes.extend(frames.concat());
        bytes.extend(noise);
        let (events, error, sent) = outcome(&bytes, size);
        let (_, whole_error, whole_sent) = outcome(&bytes, bytes.len());
        prop_assert_eq!(error.clone(), whole_error);
        prop_assert_eq!(sent, whole_sent);
        // DATA comes in pieces, so only what is between them compares.
        let requests = |events: &[String]| {
            events.iter().filter(|event| !event.starts_with("data")).cloned().collect::<Vec<_>>()
        };
        if error.is_none() {
            let (whole, ..) = outcome(&bytes, bytes.len());
            prop_assert_eq!(requests(&events), requests(&whole));
        }
    }
}
