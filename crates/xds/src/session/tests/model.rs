//! Random sequences of requests, answers, changes of the world and reconnects, with requests and
//! responses crossing on their way, checked against a plain client.
//!
//! At every quiet point the client has what there is, as far as it asked for it; and in between no
//! response breaks a rule. `PILOTHOUSE_MODEL_SEQUENCES` says how many sequences are run (of both
//! variants together).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use envoy_types::pb::google::rpc;
use proptest::prelude::*;
use proptest::test_runner::{FileFailurePersistence, RngAlgorithm};
use prost::Message;

use super::harness::{Got, decode, resource, session_within};
use crate::frame::FrameBuilder;
use crate::session::tests::types::ResourceType;
use crate::session::{Session, SessionLimits};
use crate::subscription::Interner;
use crate::{OnDemandNames, TypeSet, Version, View};

mod asked;
mod client;
mod generations;
mod ops;

use asked::Asked;
use client::{BAD, Client, FALLBACK, Sent};
use ops::{Focus, Op, Rogue, focus, ops};

/// The last one never exists.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "x"];
const CONTENTS: [&str; 4] = ["1", "2", "3", BAD];

/// Clusters on demand: which of the names no wildcard covers, what stands in for some, for one at a time, and
/// which one the stream has from its start.
const ON_DEMAND: OnDemandNames = OnDemandNames {
    is_named_only,
    fallback: |name| {
        let stands_in = has_fallback(name);
        stands_in.then(|| resource(ResourceType::Cluster, name, FALLBACK))
    },
};
const FALLBACKS: usize = 1;
const INITIAL: &str = "c";

fn is_named_only(name: &str) -> bool {
    ["c", "d", "x"].contains(&name)
}

fn has_fallback(name: &str) -> bool {
    ["d", "x"].contains(&name)
}

const SEQUENCES: u32 = 100_000;

/// Contents by name, of each type.
type World = [BTreeMap<String, String>; ResourceType::COUNT];

/// Both ends, what is on its way between them, and the world.
struct Run {
    session: Session,
    interner: Arc<Interner>,
    frames: Arc<FrameBuilder>,
    streams: u64,
    sets: [Arc<TypeSet>; ResourceType::COUNT],
    world: World,
    /// The world at each generation; the last one is that of now.
    worlds: Vec<World>,
    healed: u32,
    client: Client,
    on_demand: bool,
    /// The wildcard was asked for while something was on its way: what comes of names that were given up before
    /// is taken for the wildcard's.
    crossed: bool,
    up: VecDeque<Sent>,
    down: VecDeque<(ResourceType, Got)>,
    asked: [Asked; ResourceType::COUNT],
    /// The server did not wait for an answer, so it does not know what the client has.
    unsure: bool,
    /// SotW: what the last CDS response carried, or the client brought along.
    clusters: Vec<(String, String)>,
    /// Nonces of responses that the server waits for an answer to.
    unanswered: [Option<String>; ResourceType::COUNT],
    /// Responses sent, and how many there may be for what has happened.
    said: usize,
    allowed: usize,
}

impl Run {
    fn new(delta: bool, on_demand: bool, takes_parts: bool) -> Self {
        let (interner, frames) = (Arc::default(), Arc::new(FrameBuilder::new("model")));
        let mut sets: [Arc<TypeSet>; ResourceType::COUNT] = std::array::from_fn(|_| Arc::default());
        if on_demand {
            sets[ResourceType::Cluster.index()] = TypeSet::on_demand(ON_DEMAND);
        }
        Self {
            session: begin(delta, on_demand, &interner, &frames, 0),
            interner,
            frames,
            streams: 0,
            sets,
            world: Default::default(),
            worlds: vec![Default::default()],
            healed: 0,
            client: Client::new(delta, takes_parts),
            on_demand,
            crossed: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            asked: Default::default(),
            unsure: false,
            clusters: Vec::new(),
            unanswered: Default::default(),
            said: 0,
            allowed: 0,
        }
    }

    fn delta(&self) -> bool {
        self.client.delta
    }

    fn step(&mut self, focus: Focus, op: Op) {
        let type_at = |at: u8| focus.pick(at);
        let name_at = |at: u8| NAMES[usize::from(at)];
        match op {
            Op::Publish(changes) => {
                let changes = changes.into_iter().map(|((resource_type, name), content)| {
                    let content = content.map(|at| CONTENTS[usize::from(at)].to_owned());
                    (type_at(resource_type), name_at(name), content)
                });
                self.publish(changes.collect());
            }
            Op::Open(resource_type) => {
                let sent = self.client.open(type_at(resource_type));
                self.up.push_back(sent);
            }
            Op::Subscribe((resource_type, name)) => {
                let sent = self.client.subscribe(type_at(resource_type), name_at(name));
                self.up.push_back(sent);
            }
            Op::Unsubscribe((resource_type, name)) => {
                self.up.extend(self.client.unsubscribe(type_at(resource_type), name_at(name)));
            }
            Op::Everything(resource_type, on) if type_at(resource_type).is_full_state() => {
                self.crossed |= on && !(self.up.is_empty() && self.down.is_empty());
                self.up.extend(self.client.want_everything(type_at(resource_type), on));
            }
            Op::Everything(..) => {}
            Op::Repeat(resource_type) if self.client.types[type_at(resource_type).index()].open => {
                let sent = self.client.request(type_at(resource_type));
                self.up.push_back(sent);
            }
            Op::Repeat(_) => {}
            Op::Deliver => self.deliver(),
            Op::Receive => self.receive(),
            Op::Settle => self.settle(),
            Op::Heal => self.heal(),
            Op::Reconnect { order, wrong } => {
                self.streams += 1;
                let (interner, frames) = (&self.interner, &self.frames);
                self.session =
                    begin(self.client.delta, self.on_demand, interner, frames, self.streams);
                self.session.set_generation(self.generation());
                self.down.clear();
                self.asked = Default::default();
                self.unanswered = Default::default();
                (self.unsure, self.crossed) = (false, false);
                // A client that says rightly what it has is not sent that again, so it counts as sent.
                let had = &self.client.types[ResourceType::Cluster.index()].view;
                let had = had.iter().map(|(name, (content, ..))| (name.clone(), content.clone()));
                self.clusters = if wrong { Vec::new() } else { had.collect() };
                self.up = self.client.reconnect(order, wrong).into();
            }
            Op::TimedOut(resource_type) => {
                let resource_type = type_at(resource_type);
                if let Some(nonce) = self.session.unacked_nonce(resource_type) {
                    self.session.ack_timed_out(resource_type, nonce);
                    self.unanswered[resource_type.index()] = None;
                    self.unsure = true;
                    self.drain();
                }
            }
            Op::Rogue(resource_type, rogue) => self.rogue(type_at(resource_type), rogue),
        }
        self.check_acknowledged();
    }

    // === the world ===

    fn publish(&mut self, changes: Vec<(ResourceType, &str, Option<String>)>) {
        let before = self.world.clone();
        for (resource_type, name, content) in changes {
            let change = content.as_ref().map(|content| resource(resource_type, name, content));
            let set = &mut self.sets[resource_type.index()];
            *set = set.with([(name.into(), change)]);
            let world = &mut self.world[resource_type.index()];
            match content {
                Some(content) => drop(world.insert(name.to_owned(), content)),
                None => drop(world.remove(name)),
            }
        }
        self.worlds.push(self.world.clone());
        self.allowed += 5;
        let calm = self.is_calm();
        let from = self.down.len();
        self.drain();
        if calm {
            self.check_exactness(&before, from);
        }
    }

    /// Nothing is on its way, nothing is awaited, nothing was rejected.
    fn is_calm(&self) -> bool {
        self.up.is_empty()
            && self.down.is_empty()
            && !self.unsure
            && self.unanswered.iter().all(Option::is_none)
            && self.client.types.iter().all(|one| !one.doubt && !one.spoiled)
            && ResourceType::IN_ORDER
                .into_iter()
                .all(|resource_type| self.session.unacked_nonce(resource_type).is_none())
    }

    /// Only what changed is told, and the endpoints of changed clusters.
    fn check_exactness(&self, before: &[BTreeMap<String, String>; 4], from: usize) {
        let changed = |resource_type: ResourceType| {
            let (old, new) = (&before[resource_type.index()], &self.world[resource_type.index()]);
            let names = old.keys().chain(new.keys());
            names.filter(|name| old.get(*name) != new.get(*name)).collect::<BTreeSet<_>>()
        };
        for (resource_type, got) in self.down.iter().skip(from) {
            let mut may = changed(*resource_type);
            if !self.delta() && resource_type.is_full_state() {
                let asked = &self.asked[resource_type.index()];
                assert!(may.iter().any(|name| asked.wants(name)), "nothing changed: {got}");
                continue;
            }
            if *resource_type == ResourceType::Endpoint {
                let clusters = &self.world[ResourceType::Cluster.index()];
                let changed = changed(ResourceType::Cluster).into_iter();
                may.extend(changed.filter(|name| clusters.contains_key(*name)));
            }
            let pending = got.resources.iter().map(|(name, ..)| name).chain(&got.removed);
            pending.for_each(|name| assert!(may.contains(name), "{name} did not change: {got}"));
        }
    }

    fn heal(&mut self) {
        let mut changes = Vec::new();
        self.healed += 1;
        let fresh = format!("good {}", self.healed);
        for resource_type in ResourceType::IN_ORDER {
            let (world, one) =
                (&self.world[resource_type.index()], &self.client.types[resource_type.index()]);
            for name in NAMES {
                let is_bad = world.get(name).is_some_and(|content| content == BAD);
                let wanted = one.doubt && one.wants(resource_type, self.client.delta, name);
                if is_bad || wanted && name != "x" {
                    changes.push((resource_type, name, Some(fresh.clone())));
                }
            }
        }
        self.settle();
        let changed: BTreeSet<ResourceType> =
            changes.iter().map(|(resource_type, ..)| *resource_type).collect();
        let touched = |client: &Client, resource_type: ResourceType| {
            let one = &client.types[resource_type.index()];
            let asked = &self.asked[resource_type.index()];
            changes.iter().any(|(own, name, _)| {
                *own == resource_type
                    && one.wants(resource_type, client.delta, name)
                    && (!asked.on_demand || asked.wants(name))
            })
        };
        let healed: Vec<_> = changed
            .into_iter()
            .filter(|resource_type| touched(&self.client, *resource_type))
            .collect();
        self.publish(changes);
        healed
            .into_iter()
            .for_each(|resource_type| self.client.types[resource_type.index()].doubt = false);
        self.settle();
    }

    // === the wire ===

    fn deliver(&mut self) {
        let Some(sent) = self.up.pop_front() else { return };
        self.handle_request(sent.resource_type, &sent.bytes);
        self.allowed += if sent.is_answer { 0 } else { 2 };
        self.drain();
    }

    fn handle_request(&mut self, resource_type: ResourceType, bytes: &[u8]) {
        let request = self.session.decode(bytes.to_vec().into()).expect("a request");
        if self.asked[resource_type.index()].open {
            let unanswered = &mut self.unanswered[resource_type.index()];
            if unanswered.as_ref() == Some(&request.common().response_nonce) {
                *unanswered = None;
            }
        }
        let on_demand = self.on_demand && resource_type == ResourceType::Cluster;
        let world = on_demand.then(|| &self.world[resource_type.index()]);
        self.asked[resource_type.index()].record(resource_type, self.client.delta, bytes, world);
        let view = View::new(self.sets.clone());
        self.session.handle_request(&request, &view).expect("not refused");
    }

    fn drain(&mut self) {
        self.session.set_generation(self.generation());
        let view = View::new(self.sets.clone());
        while let Some(response) = self.session.next_response(&view) {
            let got = decode(self.delta(), &response);
            self.said += 1;
            assert!(self.said <= self.allowed, "a loop of responses, now {got}");
            let Some(resource_type) = response.resource_type else { continue };
            let resource_type = ResourceType::from(resource_type);
            self.check_response(resource_type, &got, &response.set);
            self.down.push_back((resource_type, got));
        }
    }

    fn check_response(&mut self, resource_type: ResourceType, got: &Got, set: &TypeSet) {
        let asked = &self.asked[resource_type.index()];
        let before = self.unanswered[resource_type.index()].replace(got.nonce.clone());
        assert_eq!(before, None, "unanswered, and there comes {got}");
        let mut pending = BTreeSet::new();
        for name in got.resources.iter().map(|(name, ..)| name).chain(&got.removed) {
            assert!(pending.insert(name), "{name} twice: {got}");
            // What no wildcard covers and is not named any more goes.
            let goes = asked.on_demand && asked.everything && got.removed.contains(name);
            assert!(asked.wants(name) || goes, "{name} was not asked for: {got}");
        }
        let world = &self.world[resource_type.index()];
        for (name, content, _) in &got.resources {
            // A cluster that is gone may be kept until no route leads there.
            let before = self.clusters.iter().any(|one| one.0 == *name && one.1 == *content);
            let cluster_in_sotw = resource_type == ResourceType::Cluster && !self.delta();
            let kept = cluster_in_sotw && before && !world.contains_key(name);
            let stands_in = asked.on_demand
                && content == FALLBACK
                && has_fallback(name)
                && asked.names.contains(name)
                && !world.contains_key(name);
            assert!(
                world.get(name) == Some(content) || kept || stands_in,
                "{name} is not up to date: {got}"
            );
        }
        if resource_type == ResourceType::Cluster && !self.delta() {
            let pending =
                got.resources.iter().map(|(name, content, _)| (name.clone(), content.clone()));
            self.clusters = pending.collect();
        }
        let gone = |name: &String| !world.contains_key(name) || !asked.wants(name);
        assert!(got.removed.iter().all(gone), "removes what there is: {got}");
        // The version says what is seen of the set, however the stream came there.
        let whole = self.delta() || asked.everything;
        let seen = set.iter().filter(|one| whole || asked.wants(&one.name));
        let digest = seen.map(|one| one.digest()).fold(0, u64::wrapping_add);
        assert_eq!(got.version, Version(digest).to_string(), "the version of {got}");
    }

    fn receive(&mut self) {
        let Some((resource_type, got)) = self.down.pop_front() else { return };
        let answer = self.client.receive(resource_type, got);
        self.up.push_back(answer);
    }

    fn settle(&mut self) {
        while !(self.up.is_empty() && self.down.is_empty()) {
            self.receive();
            self.deliver();
        }
        self.check_client();
        self.check_caught_up();
    }

    // === a quiet point ===

    fn check_client(&self) {
        let delta = self.delta();
        for resource_type in ResourceType::IN_ORDER {
            let (one, world) =
                (&self.client.types[resource_type.index()], &self.world[resource_type.index()]);
            if !one.open || one.doubt || one.spoiled {
                continue;
            }
            assert!(
                one.heard || !one.is_wildcard(resource_type, delta),
                "{}: no answer",
                resource_type.short()
            );
            let asked = &self.asked[resource_type.index()];
            let fallbacks = one
                .view
                .iter()
                .filter(|(name, (content, _))| content == FALLBACK && asked.names.contains(*name));
            let fallbacks = fallbacks.count();
            assert!(fallbacks <= FALLBACKS, "{fallbacks} fallbacks");
            for name in NAMES {
                let (mut has, mut is) =
                    (one.view.get(name).map(|(content, _)| content), world.get(name));
                if asked.on_demand {
                    if self.crossed && !asked.wants(name) {
                        continue;
                    }
                    is = is.filter(|_| asked.wants(name));
                    has = has.filter(|content| *content != FALLBACK);
                    if has.is_none() && one.view.contains_key(name) {
                        assert!(is.is_none() && asked.wants(name), "a fallback for {name}");
                        continue;
                    }
                }
                if !one.wants(resource_type, delta, name) {
                    continue;
                }
                // In SotW nothing can say that endpoints or routes are gone.
                if is.is_some() || delta || resource_type.is_full_state() {
                    assert_eq!(has, is, "{} {name}", resource_type.short());
                }
                if delta && is.is_none() && one.names.contains(name) {
                    assert!(
                        one.missing.contains(name),
                        "{} {name} is missing, unsaid",
                        resource_type.short()
                    );
                }
            }
        }
        let [clusters, endpoints, ..] = &self.client.types;
        if clusters.doubt || clusters.spoiled || endpoints.doubt || endpoints.spoiled {
            return;
        }
        for name in &self.client.warming {
            let comes = self.world[ResourceType::Endpoint.index()].contains_key(name);
            assert!(
                !(comes && endpoints.names.contains(name)),
                "cluster {name} waits for its endpoints"
            );
        }
    }

    // === bad clients ===

    fn rogue(&mut self, resource_type: ResourceType, rogue: Rogue) {
        let one = &mut self.client.types[resource_type.index()];
        if !self.asked[resource_type.index()].open || !one.open {
            return;
        }
        let awaited = self.unanswered[resource_type.index()].clone();
        let foreign = "feed".to_owned();
        let error = rpc::Status::default();
        let same: Vec<String> = self.asked[resource_type.index()].names.iter().cloned().collect();
        let (nonce, names, error) = match rogue {
            Rogue::ForeignNonce => (foreign, same, None),
            Rogue::ForeignNack => (foreign, same, Some(error)),
            Rogue::Duplicates => (foreign, [same.clone(), same].concat(), None),
            Rogue::NoNonce => (String::new(), same, None),
            Rogue::UnknownType => (String::new(), same, None),
            Rogue::OtherNames(bits) => {
                one.spoiled = true;
                let picked = NAMES.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
                (foreign, picked.map(|(_, name)| (*name).to_owned()).collect(), None)
            }
            Rogue::ForgedAck | Rogue::ForgedNack => {
                let Some(nonce) = awaited else { return };
                one.spoiled = true;
                (nonce, same, matches!(rogue, Rogue::ForgedNack).then_some(error))
            }
        };
        let unknown = matches!(rogue, Rogue::UnknownType);
        let type_url = match unknown {
            true => "type.googleapis.com/none.such".to_owned(),
            false => resource_type.type_url().to_owned(),
        };
        let bytes = match self.client.delta {
            false => DiscoveryRequest {
                type_url,
                resource_names: names,
                response_nonce: nonce,
                error_detail: error,
                ..Default::default()
            }
            .encode_to_vec(),
            true => DeltaDiscoveryRequest {
                type_url,
                resource_names_subscribe: names,
                response_nonce: nonce,
                error_detail: error,
                ..Default::default()
            }
            .encode_to_vec(),
        };
        self.allowed += 2;
        if unknown {
            let request = self.session.decode(bytes.into()).expect("a request");
            let view = View::new(self.sets.clone());
            self.session.handle_request(&request, &view).expect("not refused");
        } else {
            self.handle_request(resource_type, &bytes);
        }
        self.drain();
    }
}

/// A new stream.
fn begin(
    delta: bool,
    on_demand: bool,
    interner: &Arc<Interner>,
    frames: &Arc<FrameBuilder>,
    stream: u64,
) -> Session {
    let limits = SessionLimits { fallbacks: FALLBACKS, ..SessionLimits::default() };
    let mut session = session_within(limits, delta, interner, frames, stream);
    if on_demand {
        session.set_initial_names(ResourceType::Cluster, [INITIAL.into()].into());
    }
    session
}

fn run(delta: bool, on_demand: bool, takes_parts: bool, focus: Focus, ops: Vec<Op>) {
    let mut run = Run::new(delta, on_demand, takes_parts);
    for op in ops {
        run.step(focus, op);
    }
    run.settle();
    run.heal();
}

fn config() -> ProptestConfig {
    let asked = std::env::var("PILOTHOUSE_MODEL_SEQUENCES").ok();
    let sequences = asked.map_or(SEQUENCES, |text| text.parse().expect("a number of sequences"));
    ProptestConfig {
        cases: (sequences / 2).max(1),
        failure_persistence: Some(Box::new(FileFailurePersistence::SourceParallel(
            "proptest-regressions",
        ))),
        max_shrink_iters: 20_000,
        // The default, ChaCha, takes half of the time in a debug build.
        rng_algorithm: RngAlgorithm::XorShift,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn model_sotw_client_has_what_there_is(
        takes_parts: bool, focus in focus(), ops in ops(),
    ) {
        run(false, false, takes_parts, focus, ops);
    }

    #[test]
    fn model_delta_client_has_what_there_is(
        takes_parts: bool, focus in focus(), ops in ops(),
    ) {
        run(true, false, takes_parts, focus, ops);
    }

    #[test]
    fn model_delta_client_on_demand_has_what_it_named(
        takes_parts: bool, focus in focus(), ops in ops(),
    ) {
        run(true, true, takes_parts, focus, ops);
    }
}

/// A sequence that chance seldom finds: a stream that breaks between a changed cluster and its
/// endpoints.
#[test]
fn model_a_cluster_still_warming_when_the_stream_breaks() {
    for delta in [false, true] {
        let both = vec![((0, 0), Some(0)), ((1, 0), Some(0))];
        let ops = vec![
            Op::Publish(both),
            Op::Open(0),
            Op::Subscribe((1, 0)),
            Op::Settle,
            Op::Publish(vec![((0, 0), Some(1))]),
            Op::Receive,
            Op::Reconnect { order: 0, wrong: false },
        ];
        run(delta, false, true, Focus::Warming, ops);
    }
}
