//! Bytes as a broken or hostile client may send them, into the decoder and the session.
//!
//! The input is a list of steps: raw request bytes, requests that are well-formed where a fuzzer
//! would seldom hit upon it (types, names, current nonces), and changes of what is served. Whatever
//! comes, the session must not panic, must come to an end, and must send what decodes and keeps the
//! rules.

#![no_main]

mod discovery;
mod input;

use std::sync::Arc;

use bytes::Bytes;
use discovery::{NAMES, check, resource, well_formed};
use input::Input;
use libfuzzer_sys::fuzz_target;
use pilothouse::names::ResourceType;
use pilothouse_xds::discovery_request::DiscoveryRequest as Request;
use pilothouse_xds::session::{Session, SessionLimits};
use pilothouse_xds::{FrameBuilder, TypeSet, View};

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let how = input.byte();
    let delta = how & 1 == 1;
    let only = (how & 2 != 0).then(|| input.of());
    let limits = SessionLimits { names: 8, types: 6, fallbacks: 2 };
    let frames = Arc::new(FrameBuilder::new("fuzz"));
    let mut session = Session::new(
        delta,
        ResourceType::TABLE,
        only.map(Into::into),
        limits,
        Arc::default(),
        frames,
        0,
    );
    let mut sets: [Arc<TypeSet>; ResourceType::COUNT] = std::array::from_fn(|_| Arc::default());
    while !input.0.is_empty() {
        match input.byte() % 8 {
            0 | 1 => {
                let of = input.of();
                let name = NAMES[usize::from(input.byte()) % 3];
                let content = input.byte() % 4;
                let change = (content != 0).then(|| resource(of, name, content));
                let set = &mut sets[of.index()];
                *set = set.with([(name.into(), change)]);
            }
            2 => {
                let of = input.of();
                if let Some(nonce) = session.unacked_nonce(of) {
                    session.ack_timed_out(of, nonce);
                }
            }
            step => {
                let bytes = match step {
                    3 | 4 => input.bytes().to_vec(),
                    _ => well_formed(&mut input, delta, &session),
                };
                let view = View::new(sets.clone());
                // What is known of it must make no difference.
                let bytes = Bytes::from(bytes);
                let Ok(request) = session.decode(bytes.clone()) else {
                    assert!(Request::decode(bytes, delta).is_err());
                    continue;
                };
                if session.handle_request(&request, &view).is_err() {
                    return;
                }
            }
        }
        let view = View::new(sets.clone());
        let mut awaited = ResourceType::IN_ORDER.map(|of| session.unacked_nonce(of));
        let mut responses = 0;
        while let Some(response) = session.next_response(&view) {
            responses += 1;
            assert!(responses < 32, "no end of responses");
            if let Some(of) = response.resource_type.map(ResourceType::from) {
                let before = awaited[of.index()].replace(response.nonce);
                assert_eq!(before, None, "two unanswered responses");
            }
            check(delta, &response);
        }
    }
});
