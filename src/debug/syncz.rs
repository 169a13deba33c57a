//! `/debug/syncz`: who has what.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};

use super::response_writer::LazyList;
use super::sent::{Counter, NamedClusters};
use super::{CLUSTER_ID, DebugError, DebugState, Parameters, ResponseWriter, find, rfc3339};
use crate::names::ResourceType;
use crate::proxies::{ProxyIdentity, ProxyStatus, SyncState, TypeStatus, XdsStream};

/// Istio's SyncStatus: nonces by type under its names, and `resources`. From `connection_id` on,
/// and within `resources` from `state` on, it is ours.
#[derive(Debug, Serialize)]
struct SyncStatus {
    cluster_id: &'static str,
    proxy: String,
    proxy_type: &'static str,
    /// `cluster_sent`, `cluster_acked`, … as far as there are any.
    #[serde(flatten)]
    nonces: Map<String, Value>,
    resources: BTreeMap<&'static str, ResourceStatus>,
    connection_id: String,
    node_id: String,
    /// Who it has been authenticated as: a SPIFFE id.
    #[serde(skip_serializing_if = "Option::is_none")]
    identity: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    /// Not the proxy itself, but a doctor or an agent that asks in its name (`user_agent`).
    #[serde(skip_serializing_if = "is_false")]
    probe: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    locality: String,
    /// `sotw` or `delta`.
    protocol: &'static str,
    /// How it gets its clusters: `all` or `on-demand`.
    discovery: &'static str,
    /// On demand, once it has some.
    #[serde(skip_serializing_if = "Option::is_none")]
    clusters: Option<NamedClusters>,
    /// Of what it said that it uses, what was nothing when its stream began.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    uses_unknown: Vec<String>,
    /// What sort of proxies is sent the same; one of sourcez' views. Assigned a moment after the
    /// first request.
    #[serde(skip_serializing_if = "Option::is_none")]
    view: Option<String>,
    /// What the proxy said of itself, where another view follows from it: which services lead to
    /// its pod is not its own to say.
    #[serde(skip_serializing_if = "Option::is_none")]
    asked: Option<String>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ResourceStatus {
    /// Nonces.
    #[serde(skip_serializing_if = "Option::is_none")]
    sent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    acked: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sent_time: Option<String>,
    /// How long the last response has been waiting for an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    unacked_seconds: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error: Option<String>,
    /// In CSDS' words.
    state: &'static str,
    /// How often.
    responses: u64,
    acks: u64,
    nacks: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    acked_time: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_error_time: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    version: String,
}

/// Proxies that have said who they are, by name.
pub(super) fn syncz(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let known = |connection: Arc<XdsStream>| {
        let name = connection.status().identity?.name;
        Some((name, connection))
    };
    let mut all: Vec<_> =
        find::matching_streams(state, parameters)?.into_iter().filter_map(known).collect();
    all.sort_by(|(a, one), (b, other)| a.cmp(b).then(one.id.cmp(&other.id)));
    let counter = RefCell::new(Counter::default());
    writer.json(&LazyList(all, |(_, connection): &(_, Arc<XdsStream>)| {
        let ProxyStatus { identity, types, assigned } = connection.status();
        // Said once, it stays.
        identity.map(|identity| {
            let assigned = assigned.and_then(|assigned| assigned.view());
            let clusters = counter.borrow_mut().named(&types[ResourceType::Cluster.index()]);
            let view = assigned.map(|view| view.to_string());
            SyncStatus { clusters, ..sync_status(connection, &identity, types, view) }
        })
    }))
}

fn sync_status(
    connection: &XdsStream,
    identity: &ProxyIdentity,
    types: Box<[TypeStatus]>,
    view: Option<String>,
) -> SyncStatus {
    let mut nonces = Map::new();
    let mut resources = BTreeMap::new();
    for (of, status) in ResourceType::IN_ORDER.into_iter().zip(types) {
        for (suffix, nonce) in [("sent", status.nonce_sent), ("acked", status.nonce_acked)] {
            if let Some(nonce) = nonce_text(nonce) {
                nonces.insert(format!("{}_{suffix}", istio_name(of)), nonce.into());
            }
        }
        // Not asked for, nothing to say.
        if status.subscription.is_some() || status.sent > 0 {
            resources.insert(of.type_url(), resource_status(status));
        }
    }
    let asked = Some(identity.view.to_string()).filter(|asked| view.as_ref() != Some(asked));
    SyncStatus {
        cluster_id: CLUSTER_ID,
        proxy: identity.name.to_string(),
        proxy_type: identity.view.kind.as_str(),
        nonces,
        resources,
        connection_id: connection.connection_id(),
        node_id: identity.node_id.to_string(),
        identity: identity.principal.as_ref().map(ToString::to_string),
        user_agent: identity.user_agent.to_string(),
        probe: identity.probe,
        locality: identity.locality.to_string(),
        protocol: protocol(connection),
        discovery: identity.view.kind.discovery().as_str(),
        clusters: None,
        uses_unknown: unknown_uses(identity),
        view,
        asked,
    }
}

/// See [`crate::proxies::Uses::unknown`].
pub(super) fn unknown_uses(identity: &ProxyIdentity) -> Vec<String> {
    let unknown = identity.uses.iter().flat_map(|uses| uses.unknown());
    unknown.map(ToString::to_string).collect()
}

fn istio_name(of: ResourceType) -> &'static str {
    match of {
        ResourceType::Cluster => "cluster",
        ResourceType::Endpoint => "endpoint",
        ResourceType::Listener => "listener",
        ResourceType::Route => "route",
    }
}

fn resource_status(status: TypeStatus) -> ResourceStatus {
    let unacked = status.last_sent.filter(|_| status.state() == SyncState::Stale);
    let age = |sent: SystemTime| sent.elapsed().unwrap_or_default().as_secs_f64();
    ResourceStatus {
        unacked_seconds: unacked.map(age),
        sent: nonce_text(status.nonce_sent),
        acked: nonce_text(status.nonce_acked),
        sent_time: status.last_sent.map(rfc3339),
        state: match status.state() {
            SyncState::NotSent => "NOT_SENT",
            SyncState::Synced => "SYNCED",
            SyncState::Stale => "STALE",
            SyncState::Error => "ERROR",
        },
        last_error_time: status.last_nack.filter(|_| status.last_error.is_some()).map(rfc3339),
        last_error: status.last_error.as_deref().map(str::to_owned),
        responses: status.sent,
        acks: status.acks,
        nacks: status.nacks,
        acked_time: status.last_acked.map(rfc3339),
        version: status.version.map(|version| version.to_string()).unwrap_or_default(),
    }
}

/// As it stands on the wire and in Envoy's log.
fn nonce_text(nonce: u64) -> Option<String> {
    (nonce != 0).then(|| format!("{nonce:016x}"))
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde wants it")]
pub(super) fn is_false(value: &bool) -> bool {
    !value
}

pub(super) fn protocol(connection: &XdsStream) -> &'static str {
    if connection.delta { "delta" } else { "sotw" }
}
