//! Bytes as a broken or hostile client may send them, into the decoder and the session.
//!
//! The input is a list of steps: raw request bytes, requests that are well-formed where a fuzzer
//! would seldom hit upon it (types, names, current nonces), and changes of what is served. Whatever
//! comes, the session must not panic, must come to an end, and must send what decodes and keeps the
//! rules.

#![no_main]

mod input;

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use input::Input;
use libfuzzer_sys::fuzz_target;
use pilothouse::ads::request::Request;
use pilothouse::ads::session::{Limits, Response, Session};
use pilothouse::names::ResourceType;
use pilothouse::snapshot::encode::FrameBuilder;
use pilothouse::snapshot::{Resource, TypeSet, View};
use prost::Message;

const NAMES: [&str; 5] = ["a", "b", "c", "*", "x"];

impl Input<'_> {
    fn of(&mut self) -> ResourceType {
        ResourceType::IN_ORDER[usize::from(self.byte()) % ResourceType::COUNT]
    }

    fn names(&mut self) -> Vec<String> {
        let bits = self.byte();
        let picked = NAMES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        picked.map(|(_, name)| (*name).to_owned()).collect()
    }
}

/// The content need not fit the type: the session does not look into it.
fn resource(of: ResourceType, name: &str, content: u8) -> Arc<Resource> {
    let alt_stat_name = content.to_string();
    let message = Cluster { name: name.to_owned(), alt_stat_name, ..Default::default() };
    Resource::new(of, name.into(), &message)
}

fn well_formed(input: &mut Input<'_>, delta: bool, session: &Session) -> Vec<u8> {
    let of = input.of();
    let how = input.byte();
    let nonce = match (how & 3, session.awaits(of)) {
        (0, Some(nonce)) => format!("{nonce:016x}"),
        (1, _) => "feed".to_owned(),
        _ => String::new(),
    };
    let error_detail = (how & 4 != 0).then(rpc::Status::default);
    let type_url = of.type_url().to_owned();
    if !delta {
        return DiscoveryRequest {
            version_info: String::from_utf8_lossy(input.bytes()).into_owned(),
            resource_names: input.names(),
            type_url,
            response_nonce: nonce,
            error_detail,
            ..Default::default()
        }
        .encode_to_vec();
    }
    let initial = if how & 8 == 0 { Vec::new() } else { input.names() };
    DeltaDiscoveryRequest {
        type_url,
        resource_names_subscribe: input.names(),
        resource_names_unsubscribe: input.names(),
        initial_resource_versions: initial.into_iter().map(|name| (name, "1".into())).collect(),
        response_nonce: nonce,
        error_detail,
        ..Default::default()
    }
    .encode_to_vec()
}

fn check(delta: bool, response: &Response) {
    let mut bytes = response.frame.to_bytes(response.nonce);
    let message = bytes.split_off(5);
    assert_eq!(bytes[1..], (message.len() as u32).to_be_bytes());
    if !delta {
        let decoded = DiscoveryResponse::decode(&*message).expect("a response");
        assert_eq!(decoded.resources.len(), response.frame.resources);
        return;
    }
    let decoded = DeltaDiscoveryResponse::decode(&*message).expect("a response");
    let mut told = BTreeSet::new();
    let names = decoded.resources.iter().map(|one| &one.name).chain(&decoded.removed_resources);
    for name in names {
        assert!(told.insert(name), "{name} twice");
        assert!(response.subscription.wants(name), "{name} was not asked for");
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let how = input.byte();
    let delta = how & 1 == 1;
    let only = (how & 2 != 0).then(|| input.of());
    let limits = Limits { names: 8, types: 6 };
    let frames = Arc::new(FrameBuilder::new("fuzz"));
    let mut session = Session::new(delta, only, limits, Arc::default(), frames, 0);
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
                if let Some(nonce) = session.awaits(of) {
                    session.overdue(of, nonce);
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
                if session.request(&request, &view).is_err() {
                    return;
                }
            }
        }
        let view = View::new(sets.clone());
        let mut awaited = ResourceType::IN_ORDER.map(|of| session.awaits(of));
        let mut responses = 0;
        while let Some(response) = session.poll(&view) {
            responses += 1;
            assert!(responses < 32, "no end of responses");
            if let Some(of) = response.of {
                let before = awaited[of.index()].replace(response.nonce);
                assert_eq!(before, None, "two unanswered responses");
            }
            check(delta, &response);
        }
    }
});
