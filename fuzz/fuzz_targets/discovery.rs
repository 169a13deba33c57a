//! Requests as a client may make them, resources for them, and what every response must keep to.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::google::rpc;
use pilothouse::names::ResourceType;
use pilothouse_xds::Resource;
use pilothouse_xds::session::{Response, Session};
use prost::Message;

use crate::input::Input;

pub const NAMES: [&str; 5] = ["a", "b", "c", "*", "x"];

impl Input<'_> {
    pub fn of(&mut self) -> ResourceType {
        ResourceType::IN_ORDER[usize::from(self.byte()) % ResourceType::COUNT]
    }

    pub fn names(&mut self) -> Vec<String> {
        let bits = self.byte();
        let picked = NAMES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
        picked.map(|(_, name)| (*name).to_owned()).collect()
    }
}

/// The content need not fit the type: the session does not look into it.
pub fn resource(of: ResourceType, name: &str, content: u8) -> Arc<Resource> {
    let alt_stat_name = content.to_string();
    let message = Cluster { name: name.to_owned(), alt_stat_name, ..Default::default() };
    Resource::new(of, name.into(), &message)
}

pub fn well_formed(input: &mut Input<'_>, delta: bool, session: &Session) -> Vec<u8> {
    let of = input.of();
    let how = input.byte();
    let nonce = match (how & 3, session.unacked_nonce(of)) {
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

pub fn check(delta: bool, response: &Response) {
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
