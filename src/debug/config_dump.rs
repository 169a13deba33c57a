//! `/debug/config_dump`: what one proxy was really sent, as an `envoy.admin.v3.ConfigDump`; and
//! `/debug/edsz`, the endpoints of it alone.
//!
//! Made from the encoded resources that were sent, not from the current state of the mesh. Written
//! resource by resource: at no time is the page there both as objects and as text.

use std::sync::Arc;

use pilothouse_xds::Resource;
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::sent::sent;
use super::{DebugError, DebugState, Parameters, ResponseWriter, find};
use crate::descriptors::to_json;
use crate::names::ResourceType;
use crate::proxies::{ProxyIdentity, ProxyStatus, SyncState, TypeStatus};

/// Sections in Istio's order.
const SECTIONS: [ResourceType; ResourceType::COUNT] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

/// Whose it is, clusters, listeners and routes; endpoints too with `include_eds`; or just `types=`.
pub(super) fn config_dump(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let wanted = wanted(parameters)?;
    let ProxyStatus { identity, mut types, .. } = find::one_stream(state, parameters)?.status();
    let is_whole = parameters.get("types").is_none();
    let mut configs: Vec<_> =
        identity.filter(|_| is_whole).iter().map(bootstrap).map(DumpEntry::Bootstrap).collect();
    let section = |of: ResourceType| Section { of, status: std::mem::take(&mut types[of.index()]) };
    let chosen = SECTIONS.into_iter().filter(|of| wanted.contains(of));
    configs.extend(chosen.map(section).map(DumpEntry::Section));
    writer.json(&Dump { configs })
}

/// As Istio has it: the resources themselves, without a section around them.
pub(super) fn edsz(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let of = ResourceType::Endpoint;
    let mut types = find::one_stream(state, parameters)?.status().types;
    let status = std::mem::take(&mut types[of.index()]);
    writer.json(&Dump { configs: ResourcesOnly(&Section { of, status }) })
}

/// The place for what Envoy was started with. Of that its node is known here, which says whose
/// dump it is.
fn bootstrap(identity: &ProxyIdentity) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.admin.v3.BootstrapConfigDump",
        "bootstrap": { "node": { "id": *identity.node_id, "cluster": *identity.cluster } },
    })
}

fn wanted(parameters: &Parameters) -> Result<Vec<ResourceType>, DebugError> {
    // Off by default as in Istio, because Envoy's own dump leaves them out as well.
    let endpoints = parameters.flag("include_eds")?;
    match parameters.get("types") {
        Some(types) => types
            .split(',')
            .map(|one| {
                ResourceType::IN_ORDER
                    .into_iter()
                    .find(|of| one.eq_ignore_ascii_case(of.short()) || one == of.type_url())
                    .ok_or_else(|| DebugError::UnknownType(one.to_owned()))
            })
            .collect(),
        None => {
            let is_wanted = |of: &ResourceType| *of != ResourceType::Endpoint || endpoints;
            Ok(SECTIONS.into_iter().filter(is_wanted).collect())
        }
    }
}

#[derive(Debug, serde::Serialize)]
struct Dump<C> {
    configs: C,
}

#[derive(Debug, serde::Serialize)]
#[serde(untagged)]
enum DumpEntry {
    Bootstrap(Value),
    Section(Section),
}

/// One of the `…ConfigDump` messages.
#[derive(Debug)]
struct Section {
    of: ResourceType,
    status: TypeStatus,
}

impl Serialize for Section {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (message, list) = match self.of {
            ResourceType::Cluster => ("ClustersConfigDump", "dynamicActiveClusters"),
            ResourceType::Endpoint => ("EndpointsConfigDump", "dynamicEndpointConfigs"),
            ResourceType::Listener => ("ListenersConfigDump", "dynamicListeners"),
            ResourceType::Route => ("RoutesConfigDump", "dynamicRouteConfigs"),
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("@type", &format!("type.googleapis.com/envoy.admin.v3.{message}"))?;
        // The other two messages have no such field.
        if let Some(version) = self.status.version.filter(|_| self.of.is_full_state()) {
            map.serialize_entry("versionInfo", &version.to_string())?;
        }
        map.serialize_entry(list, &Entries(self))?;
        map.end()
    }
}

/// The list within a section.
struct Entries<'a>(&'a Section);

impl Serialize for Entries<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.sent().iter().map(|resource| self.0.entry(resource)))
    }
}

/// Its resources and nothing else.
struct ResourcesOnly<'a>(&'a Section);

impl Serialize for ResourcesOnly<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let url = self.0.of.type_url();
        serializer.collect_seq(self.0.sent().iter().map(|resource| to_json(url, &resource.value())))
    }
}

impl Section {
    fn sent(&self) -> Vec<Arc<Resource>> {
        sent(&self.status)
    }

    /// `versionInfo` is the resource's own version, a hash of its content.
    fn entry(&self, resource: &Resource) -> Value {
        let version = resource.version.to_string();
        let config = to_json(self.of.type_url(), &resource.value());
        let mut entry = match self.of {
            ResourceType::Cluster => json!({ "versionInfo": version, "cluster": config }),
            ResourceType::Endpoint => json!({ "versionInfo": version, "endpointConfig": config }),
            ResourceType::Route => json!({ "versionInfo": version, "routeConfig": config }),
            ResourceType::Listener => json!({
                "name": *resource.name,
                "activeState": { "versionInfo": version, "listener": config },
            }),
        };
        // Of the response that carried it: a NACK does not say which resources it means.
        let answer = match self.status.state() {
            SyncState::Synced => Some("ACKED"),
            SyncState::Error => Some("NACKED"),
            SyncState::NotSent | SyncState::Stale => None,
        };
        if let (Some(answer), Value::Object(entry)) = (answer, &mut entry) {
            entry.insert("clientStatus".to_owned(), answer.into());
        }
        entry
    }
}
