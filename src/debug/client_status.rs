//! The status of a stream in Envoy's messages: `ClientConfig` of CSDS, which istioctl reads too, and the
//! sections of an `envoy.admin.v3.ConfigDump`.
//!
//! These are made as a whole, unlike the pages, since a gRPC message has its length in front. So how much
//! one answer may have is counted while it is made.

use std::time::SystemTime;

use envoy_types::pb::envoy::admin::v3::clusters_config_dump::DynamicCluster;
use envoy_types::pb::envoy::admin::v3::listeners_config_dump::{
    DynamicListener, DynamicListenerState,
};
use envoy_types::pb::envoy::admin::v3::routes_config_dump::DynamicRouteConfig;
use envoy_types::pb::envoy::admin::v3::{
    BootstrapConfigDump, ClientResourceStatus, ClustersConfigDump, ListenersConfigDump,
    RoutesConfigDump, UpdateFailureState,
};
use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use envoy_types::pb::envoy::service::status::v3::{ClientConfig, ConfigStatus};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, Struct, Timestamp, Value};
use pilothouse_xds::Resource;
use prost::{Message, Name};
use thiserror::Error;

use super::CLUSTER_ID;
use super::sent::sent;
use crate::names::ResourceType;
use crate::proxies::{ProxyIdentity, ProxyStatus, SyncState, TypeStatus};

/// About how many bytes one answer may hold.
const MAX_ANSWER: usize = 16 << 20;
/// What an entry holds beside its texts.
const ENTRY_BYTES: usize = 320;

/// An answer that would be too large.
#[derive(Clone, Copy, Debug, Error)]
#[error("the answer has more than {} MiB", MAX_ANSWER >> 20)]
pub(super) struct TooLarge;

/// Counts what an answer holds.
#[derive(Debug, Default)]
pub(super) struct Budget(usize);

impl Budget {
    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), TooLarge> {
        self.0 = self.0.saturating_add(bytes);
        if self.0 > MAX_ANSWER { Err(TooLarge) } else { Ok(()) }
    }
}

/// What a `ClientConfig` tells of each type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Detail {
    /// One entry a type.
    Types,
    /// One entry a resource, without its content.
    Names,
    /// One entry a resource.
    Contents,
}

/// The node as far as it is known here. `id` is `node.id` as sent, or the proxy's name.
pub(super) fn node(identity: &ProxyIdentity, id: &str) -> Node {
    let text = |text: &str| Value { kind: Some(Kind::StringValue(text.to_owned())) };
    let mut fields = std::collections::HashMap::new();
    fields.insert("CLUSTER_ID".to_owned(), text(CLUSTER_ID));
    if let Some(namespace) = &identity.view.namespace {
        fields.insert("NAMESPACE".to_owned(), text(namespace));
    }
    if let Some(principal) = &identity.principal {
        // As Istio's agents say it of themselves; here it has been proven.
        fields.insert("SERVICE_ACCOUNT".to_owned(), text(&principal.service_account));
        fields.insert("PILOTHOUSE_IDENTITY".to_owned(), text(&principal.to_string()));
    }
    if !identity.user_agent.is_empty() {
        // What Istio's tools show as the proxy's version. These proxies are plain Envoys.
        fields.insert("ISTIO_VERSION".to_owned(), text(&identity.user_agent));
    }
    if !identity.labels.is_empty() {
        let labels = identity.labels.iter().map(|(key, value)| (key.to_string(), text(value)));
        let labels = Kind::StructValue(Struct { fields: labels.collect() });
        fields.insert("LABELS".to_owned(), Value { kind: Some(labels) });
    }
    let mut parts = identity.locality.splitn(3, '/').map(str::to_owned);
    let mut part = || parts.next().unwrap_or_default();
    let locality = Locality { region: part(), zone: part(), sub_zone: part() };
    Node {
        id: id.to_owned(),
        cluster: identity.cluster.to_string(),
        metadata: Some(Struct { fields }),
        locality: (!identity.locality.is_empty()).then_some(locality),
        ..Node::default()
    }
}

/// Who a proxy is and what it has, in the order in which types are sent.
pub(super) fn client_config(
    node: Node,
    status: &ProxyStatus,
    detail: Detail,
    budget: &mut Budget,
) -> Result<ClientConfig, TooLarge> {
    budget.spend(ENTRY_BYTES + node.encoded_len())?;
    let mut entries = Vec::new();
    for (of, status) in ResourceType::IN_ORDER.into_iter().zip(&status.types) {
        // Not asked for, nothing to say.
        if status.subscription.is_none() && status.sent == 0 {
            continue;
        }
        let before = entries.len();
        let resources = (detail != Detail::Types).then(|| sent(status));
        for resource in resources.into_iter().flatten() {
            let content = (detail == Detail::Contents).then(|| any(of, &resource));
            let size = content.as_ref().map_or(0, |content| content.value.len());
            budget.spend(ENTRY_BYTES + resource.name.len() + size + error_len(status))?;
            entries.push(GenericXdsConfig {
                name: resource.name.to_string(),
                version_info: resource.version.to_string(),
                xds_config: content,
                client_status: client_status(status).into(),
                ..of_type(of, status)
            });
        }
        // A type of which there is nothing has a status, too.
        if entries.len() == before {
            budget.spend(ENTRY_BYTES + error_len(status))?;
            entries.push(of_type(of, status));
        }
    }
    Ok(ClientConfig { node: Some(node), generic_xds_configs: entries, ..ClientConfig::default() })
}

fn of_type(of: ResourceType, status: &TypeStatus) -> GenericXdsConfig {
    GenericXdsConfig {
        type_url: of.type_url().to_owned(),
        version_info: status.version.map(|version| version.to_string()).unwrap_or_default(),
        last_updated: status.last_sent.map(timestamp),
        config_status: config_status(status).into(),
        error_state: error_state(status),
        ..GenericXdsConfig::default()
    }
}

fn config_status(status: &TypeStatus) -> ConfigStatus {
    match status.state() {
        SyncState::NotSent => ConfigStatus::NotSent,
        SyncState::Synced => ConfigStatus::Synced,
        SyncState::Stale => ConfigStatus::Stale,
        SyncState::Error => ConfigStatus::Error,
    }
}

/// Of the response that carried it: a NACK does not say which resources it means.
fn client_status(status: &TypeStatus) -> ClientResourceStatus {
    match status.state() {
        SyncState::Synced => ClientResourceStatus::Acked,
        SyncState::Error => ClientResourceStatus::Nacked,
        SyncState::NotSent | SyncState::Stale => ClientResourceStatus::Unknown,
    }
}

fn error_len(status: &TypeStatus) -> usize {
    status.last_error.as_ref().map_or(0, |text| text.len())
}

fn error_state(status: &TypeStatus) -> Option<UpdateFailureState> {
    let details = status.last_error.as_deref()?.to_owned();
    Some(UpdateFailureState {
        details,
        last_update_attempt: status.last_nack.map(timestamp),
        ..UpdateFailureState::default()
    })
}

fn timestamp(at: SystemTime) -> Timestamp {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Timestamp { seconds: since.as_secs() as i64, nanos: since.subsec_nanos() as i32 }
}

fn any(of: ResourceType, resource: &Resource) -> Any {
    Any { type_url: of.type_url().to_owned(), value: resource.value().to_vec() }
}

/// A message of a `ConfigDump`.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) type_url: String,
    pub(super) encoded: Vec<u8>,
}

fn section<M: Message + Name>(message: &M) -> Section {
    Section { type_url: M::type_url(), encoded: message.encode_to_vec() }
}

/// Whose dump it is, then the clusters, listeners and routes that were sent, each section in any case:
/// istioctl compares them with Envoy's own, in which no `client_status` is set.
pub(super) fn config_dump(
    status: &ProxyStatus,
    budget: &mut Budget,
) -> Result<Vec<Section>, TooLarge> {
    let mut all = |of: ResourceType| -> Result<Vec<Dumped>, TooLarge> {
        let status = &status.types[of.index()];
        let mut dumped = |resource: &Resource| {
            budget.spend(ENTRY_BYTES + resource.name.len() + resource.value_len())?;
            Ok(Dumped {
                name: resource.name.to_string(),
                version: resource.version.to_string(),
                content: Some(any(of, resource)),
            })
        };
        sent(status).iter().map(|resource| dumped(resource)).collect()
    };
    let version = |of: ResourceType| {
        status.types[of.index()].version.map(|version| version.to_string()).unwrap_or_default()
    };
    let node = status.identity.as_ref().map(|identity| node(identity, &identity.node_id));
    let bootstrap = Bootstrap { node, ..Bootstrap::default() };
    let bootstrap =
        BootstrapConfigDump { bootstrap: Some(bootstrap), ..BootstrapConfigDump::default() };
    let clusters = ClustersConfigDump {
        version_info: version(ResourceType::Cluster),
        dynamic_active_clusters: all(ResourceType::Cluster)?.into_iter().map(Into::into).collect(),
        ..ClustersConfigDump::default()
    };
    let listeners = ListenersConfigDump {
        version_info: version(ResourceType::Listener),
        dynamic_listeners: all(ResourceType::Listener)?.into_iter().map(Into::into).collect(),
        ..ListenersConfigDump::default()
    };
    let routes = RoutesConfigDump {
        dynamic_route_configs: all(ResourceType::Route)?.into_iter().map(Into::into).collect(),
        ..RoutesConfigDump::default()
    };
    Ok(vec![section(&bootstrap), section(&clusters), section(&listeners), section(&routes)])
}

/// One resource, before it is put into the shape of its section.
#[derive(Debug)]
struct Dumped {
    name: String,
    version: String,
    content: Option<Any>,
}

impl From<Dumped> for DynamicCluster {
    fn from(one: Dumped) -> Self {
        let Dumped { version: version_info, content: cluster, .. } = one;
        Self { version_info, cluster, ..Self::default() }
    }
}

impl From<Dumped> for DynamicListener {
    fn from(one: Dumped) -> Self {
        let Dumped { name, version: version_info, content: listener } = one;
        let state = DynamicListenerState { version_info, listener, last_updated: None };
        Self { name, active_state: Some(state), ..Self::default() }
    }
}

impl From<Dumped> for DynamicRouteConfig {
    fn from(one: Dumped) -> Self {
        let Dumped { version: version_info, content: route_config, .. } = one;
        Self { version_info, route_config, ..Self::default() }
    }
}
