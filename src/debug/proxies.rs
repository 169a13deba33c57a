//! `/debug/proxies`: who has what, a row a proxy, what is wrong first.
//!
//! All streams are looked at for each answer, but nothing is copied of them except what they are ordered by;
//! rows are made of those that are shown. With 5,000 streams that is a few milliseconds.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use super::proxy::TypeDetail;
use super::replica::{instance, replica};
use super::response_writer::LazyList;
use super::sent::{Counter, NamedClusters};
use super::syncz::{protocol, unknown_uses};
use super::{DebugError, DebugState, Parameters, ResponseWriter, milliseconds};
use crate::names::ResourceType;
use crate::proxies::{ProxyIdentity, ProxyStatus, SyncState, TypeStatus, XdsStream};

/// Namespaces and kinds that are listed for a choice.
const MAX_CHOICES: usize = 200;

/// In the words of the page, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    Rejected,
    Stale,
    NotSent,
    Synced,
}

impl State {
    pub(super) const ALL: [Self; 4] = [Self::Synced, Self::Stale, Self::Rejected, Self::NotSent];

    pub(super) fn of_type(status: &TypeStatus) -> Self {
        match status.state() {
            SyncState::NotSent => Self::NotSent,
            SyncState::Synced => Self::Synced,
            SyncState::Stale => Self::Stale,
            SyncState::Error => Self::Rejected,
        }
    }

    /// The worst of the types that the proxy asked for.
    pub(super) fn of_proxy(types: &[TypeStatus]) -> Self {
        let asked = types.iter().filter(|status| status.subscription.is_some() || status.sent > 0);
        asked.map(Self::of_type).min().unwrap_or(Self::NotSent)
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Rejected => "REJECTED",
            Self::Stale => "STALE",
            Self::NotSent => "NOT SENT",
            Self::Synced => "SYNCED",
        }
    }
}

impl Serialize for State {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Since when the type is in its state, as far as it is known.
fn since(status: &TypeStatus) -> Option<SystemTime> {
    match State::of_type(status) {
        State::Rejected => status.last_nack,
        State::Stale => status.last_sent,
        State::Synced => status.last_acked,
        State::NotSent => None,
    }
}

/// How many proxies are in which state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct StateCounts([usize; State::ALL.len()]);

impl StateCounts {
    pub(super) fn add(&mut self, state: State) {
        self.0[state as usize] += 1;
    }

    pub(super) fn total(&self) -> usize {
        self.0.iter().sum()
    }
}

impl Serialize for StateCounts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(State::ALL.map(|state| (state.as_str(), self.0[state as usize])))
    }
}

#[derive(Serialize)]
struct Rows<R> {
    replica: &'static str,
    instance: &'static str,
    generation: Option<u64>,
    total: usize,
    matched: usize,
    states: StateCounts,
    namespaces: Vec<Choice>,
    kinds: Vec<Choice>,
    proxies: R,
}

#[derive(Serialize)]
struct Choice {
    name: String,
    proxies: usize,
}

/// What a row is ordered by, and the stream that it is made of.
struct Candidate {
    state: State,
    /// The oldest of the types in that state; none goes last.
    since: (bool, Option<SystemTime>),
    name: Arc<str>,
    stream: Arc<XdsStream>,
}

/// Which rows are wanted.
struct Filter<'a> {
    search: Option<String>,
    state: Option<State>,
    namespace: Option<&'a str>,
    kind: Option<&'a str>,
}

impl<'a> Filter<'a> {
    fn read(parameters: &'a Parameters) -> Result<Self, DebugError> {
        let state = |text: &str| {
            let known = State::ALL.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(text));
            known.ok_or_else(|| DebugError::UnknownState(text.to_owned()))
        };
        Ok(Self {
            search: parameters.get("search").map(str::to_lowercase),
            state: parameters.get("state").map(state).transpose()?,
            namespace: parameters.get("namespace"),
            kind: parameters.get("kind"),
        })
    }

    fn fits(&self, state: State, identity: &ProxyIdentity) -> bool {
        let has = |text: &str, wanted: &str| text.to_lowercase().contains(wanted);
        self.state.is_none_or(|wanted| wanted == state)
            && self
                .namespace
                .is_none_or(|wanted| identity.view.namespace.as_deref() == Some(wanted))
            && self.kind.is_none_or(|wanted| identity.view.kind.as_str() == wanted)
            && self.search.as_deref().is_none_or(|wanted| {
                [&identity.name, &identity.node_id, &identity.locality, &identity.user_agent]
                    .into_iter()
                    .any(|text| has(text, wanted))
            })
    }
}

/// The rows.
pub(super) fn proxies(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let filter = Filter::read(parameters)?;
    let (offset, limit) = parameters.range()?;
    let mut states = StateCounts::default();
    let mut namespaces: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    let mut kinds: BTreeMap<&'static str, usize> = BTreeMap::new();
    let mut rows = Vec::new();
    for stream in state.proxies.all() {
        let candidate = stream.read(|status| {
            let identity = status.identity.as_ref()?;
            let state = State::of_proxy(&status.types);
            if !identity.probe {
                states.add(state);
                *kinds.entry(identity.view.kind.as_str()).or_default() += 1;
                if let Some(namespace) = &identity.view.namespace {
                    match namespaces.get_mut(namespace) {
                        Some(count) => *count += 1,
                        None => _ = namespaces.insert(namespace.clone(), 1),
                    }
                }
            }
            filter.fits(state, identity).then(|| {
                let own = status.types.iter().filter(|one| State::of_type(one) == state);
                let since = own.filter_map(since).min().filter(|_| state != State::Synced);
                (state, (since.is_none(), since), identity.name.clone())
            })
        });
        if let Some((state, since, name)) = candidate {
            rows.push(Candidate { state, since, name, stream });
        }
    }
    rows.sort_unstable_by(|a, b| {
        let key = |one: &Candidate| (one.state, one.since);
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name)).then(a.stream.id.cmp(&b.stream.id))
    });
    let matched = rows.len();
    let shown: Vec<_> = rows.into_iter().skip(offset).take(limit).collect();
    let counter = RefCell::new(Counter::default());
    writer.json(&Rows {
        replica: replica(),
        instance: instance(),
        generation: state.snapshot().map(|snapshot| snapshot.generation),
        total: states.total(),
        matched,
        states,
        namespaces: choices(namespaces),
        kinds: choices(kinds),
        // Said once, an identity stays.
        proxies: LazyList(shown, |one: &Candidate| row(&one.stream, &mut counter.borrow_mut())),
    })
}

/// The most frequent first.
fn choices<N: AsRef<str>>(counted: impl IntoIterator<Item = (N, usize)>) -> Vec<Choice> {
    let choice = |(name, proxies): (N, usize)| Choice { name: name.as_ref().to_owned(), proxies };
    let mut all: Vec<_> = counted.into_iter().map(choice).collect();
    all.sort_by_key(|one| Reverse(one.proxies));
    all.truncate(MAX_CHOICES);
    all
}

/// What is known of a proxy.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    key: String,
    name: String,
    node_id: String,
    kind: &'static str,
    namespace: Option<String>,
    zone: Option<String>,
    version: Option<String>,
    replica: &'static str,
    connected: String,
    address: Option<String>,
    /// Who it has been authenticated as: a SPIFFE id.
    identity: Option<String>,
    protocol: &'static str,
    probe: bool,
    /// How it gets its clusters: `all` or `on-demand`.
    discovery: &'static str,
    /// On demand, once it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    clusters: Option<NamedClusters>,
    /// As in syncz.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uses_unknown: Vec<String>,
    state: State,
    generation_acknowledged: Option<u64>,
    pub(super) types: BTreeMap<&'static str, Cell>,
}

/// A type of a proxy.
#[derive(Debug, Serialize)]
pub(super) struct Cell {
    state: State,
    since: Option<String>,
    sent: u64,
    acknowledged: u64,
    rejected: u64,
    resources: usize,
    /// On the proxy's own page.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<TypeDetail>,
}

/// The row of a stream that has said whose it is.
pub(super) fn row(stream: &XdsStream, counter: &mut Counter) -> Option<Row> {
    let ProxyStatus { identity, types, .. } = stream.status();
    let identity = identity?;
    Some(Row {
        key: stream.id.to_string(),
        kind: identity.view.kind.as_str(),
        zone: identity.view.zone.as_deref().or(zone(&identity.locality)).map(str::to_owned),
        namespace: identity.view.namespace.as_deref().map(str::to_owned),
        version: Some(identity.user_agent.to_string()).filter(|text| !text.is_empty()),
        name: identity.name.to_string(),
        node_id: identity.node_id.to_string(),
        replica: replica(),
        connected: milliseconds(stream.connected),
        address: stream.peer.map(|peer| peer.to_string()),
        identity: identity.principal.as_ref().map(ToString::to_string),
        protocol: protocol(stream),
        probe: identity.probe,
        discovery: identity.view.kind.discovery().as_str(),
        uses_unknown: unknown_uses(&identity),
        clusters: counter.named(&types[ResourceType::Cluster.index()]),
        state: State::of_proxy(&types),
        generation_acknowledged: Some(stream.generations().acknowledged).filter(|one| *one > 0),
        types: ResourceType::IN_ORDER
            .into_iter()
            .zip(&types)
            .map(|(of, one)| (name(of), cell(one, counter)))
            .collect(),
    })
}

fn cell(status: &TypeStatus, counter: &mut Counter) -> Cell {
    Cell {
        state: State::of_type(status),
        since: since(status).map(milliseconds),
        sent: status.sent,
        acknowledged: status.acks,
        rejected: status.nacks,
        resources: counter.resources(status),
        detail: None,
    }
}

/// The middle of `region/zone/subzone`.
fn zone(locality: &str) -> Option<&str> {
    locality.split('/').nth(1).filter(|zone| !zone.is_empty())
}

/// The type's name as operators write it.
pub(super) fn name(of: ResourceType) -> &'static str {
    match of {
        ResourceType::Cluster => "CDS",
        ResourceType::Endpoint => "EDS",
        ResourceType::Listener => "LDS",
        ResourceType::Route => "RDS",
    }
}
