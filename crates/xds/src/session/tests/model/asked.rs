//! What a server must understand of requests, in plain sets.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message;

use super::{INITIAL, is_named_only};
use crate::session::tests::types::ResourceType;

/// What a stream has asked for of one type, by the book.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) open: bool,
    pub(super) everything: bool,
    named: bool,
    pub(super) names: BTreeSet<String>,
    /// A wildcard covers a part only.
    pub(super) on_demand: bool,
    initial_taken: bool,
}

impl Asked {
    /// `on_demand`: the world of the type, if a wildcard covers a part of it only.
    pub(super) fn record(
        &mut self,
        resource_type: ResourceType,
        delta: bool,
        bytes: &[u8],
        on_demand: Option<&BTreeMap<String, String>>,
    ) {
        let full = resource_type.is_full_state();
        let first = !std::mem::replace(&mut self.open, true);
        if !delta {
            let list = DiscoveryRequest::decode(bytes).unwrap().resource_names;
            let star = list.iter().any(|name| name == "*");
            self.everything = full && (star || list.is_empty() && !self.named);
            self.named |= !list.is_empty();
            self.names = list.into_iter().collect();
            return;
        }
        let request = DeltaDiscoveryRequest::decode(bytes).unwrap();
        let had_everything = self.everything;
        self.on_demand = on_demand.is_some();
        self.everything |= full && first && request.resource_names_subscribe.is_empty();
        for name in request.resource_names_unsubscribe {
            self.everything &= name != "*";
            self.names.remove(&name);
        }
        for name in request.resource_names_subscribe {
            self.everything |= full && name == "*";
            self.names.insert(name);
        }
        if let Some(world) = on_demand
            && self.everything
            && !had_everything
        {
            let first = !std::mem::replace(&mut self.initial_taken, true);
            let initial = first.then(|| INITIAL.to_owned());
            let held = request.initial_resource_versions.into_keys();
            let held = held.filter(|name| is_named_only(name));
            let implied = initial.into_iter().chain(held);
            self.names.extend(implied.filter(|name| world.contains_key(name)));
        }
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        let covered = self.everything && !(self.on_demand && is_named_only(name));
        covered || self.names.contains(name)
    }
}
