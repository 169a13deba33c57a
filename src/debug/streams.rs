//! `/debug/syncz` and `/debug/connections`: who is connected and who has what.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use serde_json::{Map, Value};

use super::{CLUSTER_ID, DebugState, Parameters, Problem, rfc3339};
use crate::names::ResourceType;
use crate::proxies::{Connection, ProxyStatus, SyncState, TypeStatus};

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
    #[serde(skip_serializing_if = "String::is_empty")]
    user_agent: String,
    /// Not the proxy itself, but a doctor or an agent that asks in its name (`user_agent`).
    #[serde(skip_serializing_if = "is_false")]
    probe: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    locality: String,
    /// `sotw` or `delta`.
    protocol: &'static str,
    /// What sort of proxies is sent the same.
    view: String,
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

/// Proxies that have said who they are, by name; only one namespace's with `?namespace=`.
pub(super) fn syncz(
    state: &DebugState,
    parameters: &Parameters,
) -> Result<impl Serialize + use<>, Problem> {
    let namespace = parameters.get("namespace").filter(|namespace| !namespace.is_empty());
    let mut all: Vec<(u64, SyncStatus)> = Vec::new();
    for connection in state.proxies.all() {
        let ProxyStatus { identity, types } = connection.status();
        let Some(identity) = identity else { continue };
        if namespace.is_some_and(|wanted| identity.view.namespace.as_deref() != Some(wanted)) {
            continue;
        }
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
        all.push((
            connection.id,
            SyncStatus {
                cluster_id: CLUSTER_ID,
                proxy: identity.name.to_string(),
                proxy_type: identity.view.kind.as_str(),
                nonces,
                resources,
                connection_id: connection.connection_id(),
                node_id: identity.node_id.to_string(),
                user_agent: identity.user_agent.to_string(),
                probe: identity.probe,
                locality: identity.locality.to_string(),
                protocol: protocol(&connection),
                view: identity.view.to_string(),
            },
        ));
    }
    all.sort_by(|(a_id, a), (b_id, b)| a.proxy.cmp(&b.proxy).then(a_id.cmp(b_id)));
    Ok(all.into_iter().map(|(_, status)| status).collect::<Vec<_>>())
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
fn is_false(value: &bool) -> bool {
    !value
}

fn protocol(connection: &Connection) -> &'static str {
    if connection.delta { "delta" } else { "sotw" }
}

/// Istio's AdsClients; `protocol` is ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Clients {
    total_clients: usize,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    clients: Vec<Client>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Client {
    connection_id: String,
    connected_at: String,
    address: String,
    protocol: &'static str,
    /// As in syncz.
    #[serde(skip_serializing_if = "is_false")]
    probe: bool,
}

/// Every stream, by connection id, those that have said nothing yet included.
pub(super) fn connections(
    state: &DebugState,
    _: &Parameters,
) -> Result<impl Serialize + use<>, Problem> {
    let mut clients: Vec<Client> = state
        .proxies
        .all()
        .into_iter()
        .map(|connection| Client {
            connection_id: connection.connection_id(),
            connected_at: rfc3339(connection.connected),
            address: connection.peer.map(|peer| peer.to_string()).unwrap_or_default(),
            protocol: protocol(&connection),
            probe: connection.status().identity.is_some_and(|identity| identity.probe),
        })
        .collect();
    clients.sort_by(|a, b| a.connection_id.cmp(&b.connection_id));
    Ok(Clients { total_clients: clients.len(), clients })
}
