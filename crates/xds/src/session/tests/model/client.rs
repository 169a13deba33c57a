//! A plain client: what it wants, what it has been told, what it asks next. It behaves as Envoy and
//! gRPC do where they agree, and keeps whole maps where the server keeps none.

use std::collections::{BTreeMap, BTreeSet};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc;
use prost::Message;

use super::super::harness::Got;
use crate::session::tests::types::ResourceType;

/// A resource with this content is rejected.
pub(super) const BAD: &str = "bad";

/// The content of what stands in for a cluster that is unknown.
pub(super) const FALLBACK: &str = "fallback";

/// A request on its way, and whether it is nothing but the answer to a response.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) resource_type: ResourceType,
    pub(super) bytes: Vec<u8>,
    pub(super) is_answer: bool,
}

#[derive(Debug, Default)]
pub(super) struct Type {
    /// A request was sent on this stream.
    pub(super) open: bool,
    /// Delta: everything is wanted. In SotW it follows from `names`.
    wildcard: bool,
    /// SotW: may contain `*`.
    pub(super) names: BTreeSet<String>,
    /// SotW: a name was sent on this stream.
    named: bool,
    /// Content and version of what it has.
    pub(super) view: BTreeMap<String, (String, String)>,
    /// Delta: names that it was told to be gone.
    pub(super) missing: BTreeSet<String>,
    nonce: String,
    /// SotW: the version accepted last.
    version: String,
    /// The names that it was of, while nothing else has been asked for.
    version_of: Option<BTreeSet<String>>,
    /// It rejected a response, so what it has need not be what there is until content changes.
    pub(super) doubt: bool,
    /// It was told something on this stream, or said itself what it has.
    pub(super) heard: bool,
    /// Somebody else spoke in its name.
    pub(super) spoiled: bool,
}

#[derive(Debug)]
pub(super) struct Client {
    pub(super) delta: bool,
    /// Takes what is good from a response that it rejects (gRPC; Envoy for most faults).
    takes_parts: bool,
    pub(super) types: [Type; ResourceType::COUNT],
    /// Clusters that wait for their endpoints.
    pub(super) warming: BTreeSet<String>,
}

impl Type {
    pub(super) fn wants(&self, resource_type: ResourceType, delta: bool, name: &str) -> bool {
        self.is_wildcard(resource_type, delta) || self.names.contains(name)
    }

    pub(super) fn is_wildcard(&self, resource_type: ResourceType, delta: bool) -> bool {
        let legacy = self.open && self.names.is_empty() && !self.named;
        match delta {
            true => self.wildcard,
            false => resource_type.is_full_state() && (legacy || self.names.contains("*")),
        }
    }
}

impl Client {
    pub(super) fn new(delta: bool, takes_parts: bool) -> Self {
        let types = Default::default();
        Self { delta, takes_parts, types, warming: BTreeSet::new() }
    }

    // === what it wants ===

    pub(super) fn subscribe(&mut self, resource_type: ResourceType, name: &str) -> Sent {
        let one = &mut self.types[resource_type.index()];
        one.names.insert(name.to_owned());
        if self.delta && one.open {
            return self.ask_delta(resource_type, &[name], &[]);
        }
        self.request(resource_type)
    }

    pub(super) fn unsubscribe(&mut self, resource_type: ResourceType, name: &str) -> Option<Sent> {
        let one = &mut self.types[resource_type.index()];
        if !one.open {
            return None;
        }
        one.names.remove(name);
        one.missing.remove(name);
        if self.delta {
            self.forget_unwanted(resource_type);
            return Some(self.ask_delta(resource_type, &[], &[name]));
        }
        Some(self.request(resource_type))
    }

    /// LDS and CDS only.
    pub(super) fn want_everything(
        &mut self,
        resource_type: ResourceType,
        everything: bool,
    ) -> Option<Sent> {
        let one = &mut self.types[resource_type.index()];
        if self.delta {
            if !one.open {
                one.wildcard = everything;
                return everything.then(|| self.request(resource_type));
            }
            one.wildcard = everything;
            self.forget_unwanted(resource_type);
            let star: &[&str] = &["*"];
            return Some(match everything {
                true => self.ask_delta(resource_type, star, &[]),
                false => self.ask_delta(resource_type, &[], star),
            });
        }
        match everything {
            true => one.names.insert("*".to_owned()),
            false => one.names.remove("*"),
        };
        (one.open || everything).then(|| self.request(resource_type))
    }

    /// The first request of a type, with an empty list: everything of LDS and CDS, else nothing.
    pub(super) fn open(&mut self, resource_type: ResourceType) -> Sent {
        let one = &mut self.types[resource_type.index()];
        if !one.open && one.names.is_empty() {
            one.wildcard = self.delta && resource_type.is_full_state();
        }
        self.request(resource_type)
    }

    /// What it wants as it is: SotW's only request, delta's first one (later ones say nothing).
    pub(super) fn request(&mut self, resource_type: ResourceType) -> Sent {
        let one = &mut self.types[resource_type.index()];
        if !self.delta {
            return self.ask_sotw(resource_type, None, false);
        }
        if one.open {
            return self.ask_delta(resource_type, &[], &[]);
        }
        let mut list = one.names.clone();
        if one.wildcard && !list.is_empty() {
            list.insert("*".to_owned());
        }
        let list: Vec<&str> = list.iter().map(String::as_str).collect();
        self.ask_delta(resource_type, &list, &[])
    }

    fn ask_sotw(
        &mut self,
        resource_type: ResourceType,
        error: Option<rpc::Status>,
        is_answer: bool,
    ) -> Sent {
        let one = &mut self.types[resource_type.index()];
        one.open = true;
        one.named |= !one.names.is_empty();
        one.version_of = one.version_of.take().filter(|names| *names == one.names);
        let request = DiscoveryRequest {
            version_info: one.version.clone(),
            resource_names: one.names.iter().cloned().collect(),
            type_url: resource_type.type_url().to_owned(),
            response_nonce: one.nonce.clone(),
            error_detail: error,
            ..Default::default()
        };
        self.forget_unwanted(resource_type);
        Sent { resource_type, bytes: request.encode_to_vec(), is_answer }
    }

    fn ask_delta(&mut self, resource_type: ResourceType, add: &[&str], remove: &[&str]) -> Sent {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        self.types[resource_type.index()].open = true;
        let request = DeltaDiscoveryRequest {
            type_url: resource_type.type_url().to_owned(),
            resource_names_subscribe: owned(add),
            resource_names_unsubscribe: owned(remove),
            ..Default::default()
        };
        Sent { resource_type, bytes: request.encode_to_vec(), is_answer: false }
    }

    fn forget_unwanted(&mut self, resource_type: ResourceType) {
        let (one, delta) = (&mut self.types[resource_type.index()], self.delta);
        let mut view = std::mem::take(&mut one.view);
        view.retain(|name, _| one.wants(resource_type, delta, name));
        one.view = view;
        if resource_type == ResourceType::Cluster {
            self.warming.retain(|name| one.view.contains_key(name));
        }
    }

    // === what it is told ===

    /// Takes a response in and answers it.
    pub(super) fn receive(&mut self, resource_type: ResourceType, got: Got) -> Sent {
        let good = got.resources.iter().all(|(_, content, _)| content != BAD);
        if good || self.takes_parts {
            self.apply(resource_type, &got, good);
        }
        let one = &mut self.types[resource_type.index()];
        one.nonce = got.nonce.clone();
        one.heard = true;
        one.doubt |= !good;
        let error =
            (!good).then(|| rpc::Status { code: 13, message: "bad".to_owned(), details: vec![] });
        if !self.delta {
            if good {
                one.version = got.version;
                one.version_of = Some(one.names.clone());
            }
            return self.ask_sotw(resource_type, error, true);
        }
        let request = DeltaDiscoveryRequest {
            type_url: resource_type.type_url().to_owned(),
            response_nonce: got.nonce,
            error_detail: error,
            ..Default::default()
        };
        Sent { resource_type, bytes: request.encode_to_vec(), is_answer: true }
    }

    fn apply(&mut self, resource_type: ResourceType, got: &Got, all_good: bool) {
        let (one, delta) = (&mut self.types[resource_type.index()], self.delta);
        if !delta && resource_type.is_full_state() && all_good {
            // Absence deletes.
            let named = |name: &str| got.resources.iter().any(|(own, ..)| own == name);
            one.view.retain(|name, _| named(name));
        }
        for name in &got.removed {
            one.view.remove(name);
            one.missing.insert(name.clone());
        }
        for (name, content, version) in &got.resources {
            if content == BAD || !one.wants(resource_type, delta, name) {
                continue;
            }
            one.missing.remove(name);
            let now = (content.clone(), version.clone());
            let before = one.view.insert(name.clone(), now);
            match resource_type {
                // It has no endpoints to wait for.
                ResourceType::Cluster if content == FALLBACK => drop(self.warming.remove(name)),
                ResourceType::Cluster if before.is_none_or(|(before, _)| before != *content) => {
                    self.warming.insert(name.clone());
                }
                ResourceType::Endpoint => drop(self.warming.remove(name)),
                _ => {}
            }
        }
        if resource_type == ResourceType::Cluster {
            self.warming.retain(|name| one.view.contains_key(name));
        }
    }

    // === a new stream ===

    /// Opens every type again that it had open, in the order that `order` picks. With `wrong`,
    /// what it says that it has is not true.
    pub(super) fn reconnect(&mut self, order: u8, wrong: bool) -> Vec<Sent> {
        let mut sent = Vec::new();
        // Envoy does not open clusters while one of them waits for its endpoints.
        let order = if self.delta && !self.warming.is_empty() { order & !3 | 1 } else { order };
        for at in 0..ResourceType::COUNT {
            let resource_type =
                ResourceType::IN_ORDER[(at + usize::from(order)) % ResourceType::COUNT];
            let delta = self.delta;
            let one = &mut self.types[resource_type.index()];
            let was_open = std::mem::take(&mut one.open);
            let wanted = !resource_type.is_full_state()
                || one.wildcard
                || !one.names.is_empty()
                || (!delta && !one.named);
            one.missing.clear();
            one.heard = false;
            if !was_open || !wanted {
                one.view.clear();
                one.version.clear();
                one.version_of = None;
                one.named = false;
                continue;
            }
            one.named = false;
            let known = !wrong && !one.spoiled;
            // By version it is told nothing anew, so what it took in part stays.
            let everything = !delta && resource_type.is_full_state();
            one.doubt = one.doubt && everything && known;
            one.spoiled = false;
            if !delta {
                if !known || one.version_of.as_ref() != Some(&one.names) {
                    one.version = if wrong { "wrong" } else { "" }.to_owned();
                }
                one.heard = !one.version.is_empty();
                if order.is_multiple_of(2) {
                    one.nonce.clear();
                }
                sent.push(self.request(resource_type));
                continue;
            }
            let mut initial: std::collections::HashMap<String, String> = one
                .view
                .iter()
                .map(|(name, (_, version))| (name.clone(), version.clone()))
                .collect();
            if wrong {
                for (at, version) in initial.values_mut().enumerate() {
                    if at % 2 == usize::from(order % 2) {
                        version.push('0');
                    }
                }
                initial.insert("x".to_owned(), "1".to_owned());
            }
            one.heard = !initial.is_empty();
            let asked = self.request(resource_type);
            let mut request = DeltaDiscoveryRequest::decode(&*asked.bytes).expect("own request");
            request.initial_resource_versions = initial;
            sent.push(Sent { resource_type, bytes: request.encode_to_vec(), is_answer: false });
        }
        sent
    }
}
