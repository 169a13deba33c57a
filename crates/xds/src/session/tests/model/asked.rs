//! What a server must understand of requests, in plain sets.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use prost::Message;

use crate::session::tests::types::ResourceType;

/// What a stream has asked for of one type, by the book.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) open: bool,
    pub(super) everything: bool,
    named: bool,
    pub(super) names: BTreeSet<String>,
}

impl Asked {
    pub(super) fn record(&mut self, resource_type: ResourceType, delta: bool, bytes: &[u8]) {
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
        self.everything |= full && first && request.resource_names_subscribe.is_empty();
        for name in request.resource_names_unsubscribe {
            self.everything &= name != "*";
            self.names.remove(&name);
        }
        for name in request.resource_names_subscribe {
            self.everything |= full && name == "*";
            self.names.insert(name);
        }
    }

    pub(super) fn wants(&self, name: &str) -> bool {
        self.everything || self.names.contains(name)
    }
}
