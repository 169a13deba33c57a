//! A client's side for tests: real bytes in both directions, written and read as short text.
//!
//! `"cds a=1 b=2 -c"` is a response of that type that carries `a` and `b` with these contents and
//! removes `c`; in [`Peer::publish`] the same text is a change of the world. Requests are a type and
//! its names: `"eds a b"`.

use std::collections::BTreeMap;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc;
use prost::Message;

use crate::frame::FrameBuilder;
use crate::session::tests::types::{ResourceType, TABLE};
use crate::session::{RequestError, RequestKind, Session, SessionLimits};
use crate::subscription::{Interner, Subscription};
use crate::{OnDemandNames, TypeSet, View};

mod messages;

pub(super) use messages::{Got, decode, resource};

/// No response at all.
pub(super) const SILENCE: [&str; 0] = [];

/// See [`Peer::on_demand`].
pub(super) const ON_DEMAND: OnDemandNames = OnDemandNames {
    is_named_only: |name| name.starts_with('o'),
    fallback: |name| name.starts_with("oz").then(|| resource(ResourceType::Cluster, name, "pass")),
};

/// One client on one stream, and the world it is told about.
pub(super) struct Peer {
    delta: bool,
    pub(super) session: Session,
    pub(super) sets: [Arc<TypeSet>; ResourceType::COUNT],
    interner: Arc<Interner>,
    frames: Arc<FrameBuilder>,
    streams: u64,
    /// What the last request meant.
    pub(super) kind: Option<RequestKind>,
    /// The last response of each type.
    last: [Option<Got>; ResourceType::COUNT],
    /// SotW: what the client wants, and the version it accepted.
    names: [Vec<String>; ResourceType::COUNT],
    pub(super) accepted: [String; ResourceType::COUNT],
    /// Delta: versions of what the client has.
    pub(super) has: [BTreeMap<String, String>; ResourceType::COUNT],
}

impl Peer {
    pub(super) fn sotw(world: &str) -> Self {
        Self::new(false, world)
    }

    pub(super) fn delta(world: &str) -> Self {
        Self::new(true, world)
    }

    /// A client whose clusters are on demand: names that begin with `o` are covered by no wildcard, and
    /// `pass` stands in for those that begin with `oz`.
    pub(super) fn on_demand(world: &str) -> Self {
        let mut peer = Self::delta("");
        peer.sets[ResourceType::Cluster.index()] = TypeSet::on_demand(ON_DEMAND);
        peer.change(world);
        peer
    }

    fn new(delta: bool, world: &str) -> Self {
        let (interner, frames) = (Arc::default(), Arc::new(FrameBuilder::new("pilothouse test")));
        let sets = std::array::from_fn(|_| Arc::default());
        let mut peer = Self::over(delta, sets, interner, frames);
        peer.change(world);
        peer
    }

    fn over(
        delta: bool,
        sets: [Arc<TypeSet>; ResourceType::COUNT],
        interner: Arc<Interner>,
        frames: Arc<FrameBuilder>,
    ) -> Self {
        let session = session(delta, &interner, &frames, 0);
        Self {
            delta,
            session,
            sets,
            interner,
            frames,
            streams: 0,
            kind: None,
            last: Default::default(),
            names: Default::default(),
            accepted: Default::default(),
            has: Default::default(),
        }
    }

    /// Another stream of the same server.
    pub(super) fn twin(&self) -> Self {
        let (interner, frames) = (self.interner.clone(), self.frames.clone());
        let mut twin = Self::over(self.delta, self.sets.clone(), interner, frames);
        twin.streams = self.streams + 1000;
        twin.session = session(self.delta, &twin.interner, &twin.frames, twin.streams);
        twin
    }

    /// The subscription to these names as it is with many streams, held.
    pub(super) fn hold_as_many(&self, names: &str) -> Vec<Arc<Subscription>> {
        let names = names.split(' ').map(Arc::from).collect();
        vec![self.interner.intern(false, names); 100]
    }

    /// A new stream of a client that remembers what it had.
    pub(super) fn reconnect(&mut self) {
        self.streams += 1;
        self.session = session(self.delta, &self.interner, &self.frames, self.streams);
    }

    // === the world ===

    /// Changes the world, and says what the stream is sent.
    pub(super) fn publish(&mut self, changes: &str) -> Vec<String> {
        self.change(changes);
        self.drain()
    }

    pub(super) fn change(&mut self, changes: &str) {
        let mut resource_type = ResourceType::Cluster;
        for word in changes.split_whitespace() {
            if let Some(named) = short(word) {
                resource_type = named;
            } else if let Some(name) = word.strip_prefix('-') {
                self.set(resource_type, name, None);
            } else {
                let (name, content) = word.split_once('=').expect("name=content");
                self.set(resource_type, name, Some(content));
            }
        }
    }

    pub(super) fn set(&mut self, resource_type: ResourceType, name: &str, content: Option<&str>) {
        let change = content.map(|content| resource(resource_type, name, content));
        let set = &mut self.sets[resource_type.index()];
        *set = set.with([(name.into(), change)]);
    }

    pub(super) fn view(&self) -> View {
        View::new(self.sets.clone())
    }

    // === requests ===

    /// SotW: asks for names, with the last version and nonce, as an Envoy does.
    pub(super) fn subscribe_sotw(&mut self, wanted: &str) -> Vec<String> {
        let (resource_type, names) = parse(wanted);
        self.names[resource_type.index()] = names;
        let nonce = self.nonce(resource_type);
        self.send_sotw(resource_type, &nonce, None)
    }

    /// The wildcard or a list of names, as the first request of either variant.
    pub(super) fn open(&mut self, wanted: &str) -> Vec<String> {
        if self.delta { self.subscribe(wanted) } else { self.subscribe_sotw(wanted) }
    }

    /// SotW: what the next request will name.
    pub(super) fn names_are(&mut self, wanted: &str) {
        let (resource_type, names) = parse(wanted);
        self.names[resource_type.index()] = names;
    }

    pub(super) fn is_delta(&self) -> bool {
        self.delta
    }

    /// A stream of a single-type service.
    pub(super) fn only(&mut self, resource_type: ResourceType) {
        let (interner, frames) = (self.interner.clone(), self.frames.clone());
        let limits = SessionLimits::default();
        self.session = Session::new(
            self.delta,
            &TABLE,
            Some(resource_type.into()),
            limits,
            interner,
            frames,
            7,
        );
    }

    /// Delta: subscribes.
    pub(super) fn subscribe(&mut self, wanted: &str) -> Vec<String> {
        self.send_delta(wanted, "")
    }

    /// Delta: unsubscribes.
    pub(super) fn unsubscribe(&mut self, unwanted: &str) -> Vec<String> {
        let resource_type = unwanted.split_whitespace().next().unwrap_or_default();
        self.send_delta(resource_type, unwanted)
    }

    /// Delta: subscribes to some names and unsubscribes others in one request.
    pub(super) fn send_delta(&mut self, wanted: &str, unwanted: &str) -> Vec<String> {
        let (resource_type, subscribe) = parse(wanted);
        let unsubscribe = match unwanted {
            "" => Vec::new(),
            _ => parse(unwanted).1,
        };
        self.raw_delta(DeltaDiscoveryRequest {
            type_url: resource_type.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            resource_names_unsubscribe: unsubscribe,
            ..Default::default()
        })
    }

    /// Delta: the first request of a type on a new stream, with what the client has.
    pub(super) fn reopen(&mut self, wanted: &str) -> Vec<String> {
        let (resource_type, subscribe) = parse(wanted);
        self.raw_delta(DeltaDiscoveryRequest {
            type_url: resource_type.type_url().to_owned(),
            resource_names_subscribe: subscribe,
            initial_resource_versions: self.has[resource_type.index()]
                .clone()
                .into_iter()
                .collect(),
            ..Default::default()
        })
    }

    /// Accepts the last response of a type.
    pub(super) fn ack(&mut self, resource_type: &str) -> Vec<String> {
        let resource_type = short(resource_type).expect("a type");
        let last = self.last[resource_type.index()].clone().expect("a response to accept");
        self.accepted[resource_type.index()] = last.version;
        if !self.delta {
            return self.send_sotw(resource_type, &last.nonce, None);
        }
        let has = &mut self.has[resource_type.index()];
        has.extend(last.resources.into_iter().map(|(name, _, version)| (name, version)));
        last.removed.iter().for_each(|name| drop(has.remove(name)));
        self.answer_delta(resource_type, last.nonce, None)
    }

    /// Rejects the last response of a type.
    pub(super) fn nack(&mut self, resource_type: &str) -> Vec<String> {
        let resource_type = short(resource_type).expect("a type");
        let nonce = self.nonce(resource_type);
        let error = Some(rpc::Status { code: 13, message: "no".to_owned(), details: vec![] });
        match self.delta {
            true => self.answer_delta(resource_type, nonce, error),
            false => self.send_sotw(resource_type, &nonce, error),
        }
    }

    fn answer_delta(
        &mut self,
        resource_type: ResourceType,
        nonce: String,
        error: Option<rpc::Status>,
    ) -> Vec<String> {
        self.raw_delta(DeltaDiscoveryRequest {
            type_url: resource_type.type_url().to_owned(),
            response_nonce: nonce,
            error_detail: error,
            ..Default::default()
        })
    }

    /// SotW: everything as it is, with this nonce.
    pub(super) fn send_sotw(
        &mut self,
        resource_type: ResourceType,
        nonce: &str,
        error: Option<rpc::Status>,
    ) -> Vec<String> {
        self.raw_sotw(DiscoveryRequest {
            version_info: self.accepted[resource_type.index()].clone(),
            resource_names: self.names[resource_type.index()].clone(),
            type_url: resource_type.type_url().to_owned(),
            response_nonce: nonce.to_owned(),
            error_detail: error,
            ..Default::default()
        })
    }

    pub(super) fn raw_sotw(&mut self, request: DiscoveryRequest) -> Vec<String> {
        self.handle_request(request.encode_to_vec()).expect("not refused");
        self.drain()
    }

    pub(super) fn raw_delta(&mut self, request: DeltaDiscoveryRequest) -> Vec<String> {
        self.handle_request(request.encode_to_vec()).expect("not refused");
        self.drain()
    }

    /// Gives the session a request's bytes.
    pub(super) fn handle_request(&mut self, request: Vec<u8>) -> Result<(), RequestError> {
        let request = self.session.decode(request.into()).expect("a request");
        let (_, kind) = self.session.handle_request(&request, &self.view())?;
        self.kind = Some(kind);
        Ok(())
    }

    // === responses ===

    pub(super) fn drain(&mut self) -> Vec<String> {
        let view = self.view();
        let mut said = Vec::new();
        while let Some(response) = self.session.next_response(&view) {
            assert!(said.len() < 100, "no end of responses: {said:?}");
            let got = decode(self.delta, &response);
            said.push(got.to_string());
            if let Some(resource_type) = response.resource_type {
                self.last[resource_type.0] = Some(got);
            }
        }
        said
    }

    /// The last response of a type.
    pub(super) fn last(&self, resource_type: &str) -> &Got {
        self.last[short(resource_type).expect("a type").index()].as_ref().expect("a response")
    }

    fn nonce(&self, resource_type: ResourceType) -> String {
        self.last[resource_type.index()].as_ref().map(|got| got.nonce.clone()).unwrap_or_default()
    }
}

pub(super) fn session(
    delta: bool,
    interner: &Arc<Interner>,
    frames: &Arc<FrameBuilder>,
    stream: u64,
) -> Session {
    session_within(SessionLimits::default(), delta, interner, frames, stream)
}

pub(super) fn session_within(
    limits: SessionLimits,
    delta: bool,
    interner: &Arc<Interner>,
    frames: &Arc<FrameBuilder>,
    stream: u64,
) -> Session {
    let seed = 0x1000 * (stream + 1);
    Session::new(delta, &TABLE, None, limits, interner.clone(), frames.clone(), seed)
}

pub(super) fn short(word: &str) -> Option<ResourceType> {
    ResourceType::IN_ORDER.into_iter().find(|resource_type| resource_type.short() == word)
}

fn parse(text: &str) -> (ResourceType, Vec<String>) {
    let mut words = text.split_whitespace();
    let resource_type = words.next().and_then(short).expect("a type");
    (resource_type, words.map(str::to_owned).collect())
}
