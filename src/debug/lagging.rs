//! Which proxies have a generation of the snapshot and which lag behind, for the pages about changes.
//!
//! All of it is made of two numbers a stream when somebody asks. Probes do not count.

use std::sync::Arc;
use std::time::SystemTime;

use pilothouse_xds::session::Generations;
use serde::Serialize;

use super::{DebugState, milliseconds, proxies};
use crate::names::ResourceType;
use crate::proxies::{ProxyStatus, SyncState, TypeStatus, XdsStream};

/// Stragglers that are named.
const MAX_NAMED: usize = 20;

/// All proxies at one moment.
pub(super) struct Lagging {
    /// What each has been sent and has acknowledged, sorted.
    sent: Vec<u64>,
    acknowledged: Vec<u64>,
    /// Those that have not acknowledged the newest generation that is asked for, the worst first.
    behind: Vec<Behind>,
}

struct Behind {
    acknowledged: u64,
    stream: Arc<XdsStream>,
}

/// What holds a proxy up, in the order of how bad it is: a rejection, then what was sent longest ago, then
/// what was not sent.
struct Reason {
    resource_type: Option<ResourceType>,
    state: &'static str,
    since: Option<SystemTime>,
    error: Option<Arc<str>>,
}

/// A proxy that has not acknowledged everything.
#[derive(Debug, Serialize)]
pub(super) struct Straggler {
    key: String,
    name: String,
    /// `None` if no type alone is to blame: what is left is about to be sent, or waits for another type.
    #[serde(rename = "type")]
    resource_type: Option<&'static str>,
    state: &'static str,
    since: Option<String>,
    error: Option<String>,
}

impl Lagging {
    /// For questions about generations up to `newest`.
    pub(super) fn new(state: &DebugState, newest: u64) -> Self {
        let mut lagging = Self { sent: Vec::new(), acknowledged: Vec::new(), behind: Vec::new() };
        let mut behind = Vec::new();
        for stream in state.proxies.all() {
            let rank = |status: &ProxyStatus| {
                let reason = reason(&status.types);
                (
                    rank(reason.state),
                    reason.since.map_or(u128::MAX, |since| {
                        since.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis()
                    }),
                )
            };
            let Generations { sent, acknowledged } = stream.generations();
            let counts = stream.read(|status| {
                let proxy = status.identity.as_ref().filter(|identity| !identity.probe)?;
                Some((acknowledged < newest).then(|| (rank(status), proxy.name.clone())))
            });
            let Some(lags) = counts else { continue };
            lagging.sent.push(sent);
            lagging.acknowledged.push(acknowledged);
            behind.extend(lags.map(|key| (key, Behind { acknowledged, stream })));
        }
        behind.sort_by(|(one, a), (other, b)| (one, a.stream.id).cmp(&(other, b.stream.id)));
        lagging.behind = behind.into_iter().map(|(_, behind)| behind).collect();
        lagging.sent.sort_unstable();
        lagging.acknowledged.sort_unstable();
        lagging
    }

    pub(super) fn proxies(&self) -> usize {
        self.acknowledged.len()
    }

    /// How many proxies have been sent everything of this generation.
    pub(super) fn sent(&self, generation: u64) -> usize {
        self.sent.len() - self.sent.partition_point(|own| *own < generation)
    }

    /// How many proxies have acknowledged it.
    pub(super) fn acknowledged(&self, generation: u64) -> usize {
        self.proxies() - self.acknowledged.partition_point(|own| *own < generation)
    }

    /// The first of those that have not.
    pub(super) fn stragglers(&self, generation: u64) -> Vec<Straggler> {
        let behind = self.behind.iter().filter(|one| one.acknowledged < generation);
        behind.take(MAX_NAMED).map(|one| straggler(&one.stream)).collect()
    }
}

fn rank(state: &str) -> u8 {
    match state {
        "REJECTED" => 0,
        "STALE" => 1,
        _ => 2,
    }
}

/// The worst of the types, of several alike the one that has waited longest.
fn reason(types: &[TypeStatus]) -> Reason {
    let reasons = ResourceType::IN_ORDER.into_iter().zip(types).filter_map(|(of, status)| {
        let (state, since) = match status.state() {
            SyncState::Error => ("REJECTED", status.last_nack),
            SyncState::Stale => ("STALE", status.last_sent),
            // Asked for, and it has to wait for other types or for its turn.
            SyncState::NotSent if status.subscription.is_some() => ("NOT SENT", None),
            SyncState::NotSent | SyncState::Synced => return None,
        };
        let error = status.last_error.clone();
        Some(Reason { resource_type: Some(of), state, since, error })
    });
    let worst = reasons.min_by_key(|one| (rank(one.state), one.since));
    let asked = types.iter().any(|status| status.subscription.is_some());
    worst.unwrap_or(Reason {
        resource_type: None,
        state: if asked { "STALE" } else { "NOT SENT" },
        since: None,
        error: None,
    })
}

fn straggler(stream: &XdsStream) -> Straggler {
    stream.read(|status| {
        let Reason { resource_type, state, since, error } = reason(&status.types);
        let name = status.identity.as_ref().map(|identity| identity.name.to_string());
        Straggler {
            key: stream.id.to_string(),
            name: name.unwrap_or_default(),
            resource_type: resource_type.map(proxies::name),
            state,
            since: since.map(milliseconds),
            error: error.map(|text| text.to_string()),
        }
    })
}
