//! `/debug/config_dump`: what one proxy was really sent, as an `envoy.admin.v3.ConfigDump`.
//!
//! Made from the encoded resources that went out, not from what the mesh looks like now. Written
//! resource by resource: at no time is the page there both as objects and as text.

use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::{Value, json};

use super::{DebugState, Parameters, Problem, find};
use crate::descriptors::to_json;
use crate::names::ResourceType;
use crate::proxies::{SyncState, TypeStatus};
use crate::snapshot::Resource;

/// Sections in Istio's order.
const SECTIONS: [ResourceType; ResourceType::COUNT] =
    [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener, ResourceType::Route];

/// Clusters, listeners and routes; endpoints too with `include_eds=true`; or just `types=`.
pub(super) fn of_proxy(state: &DebugState, parameters: &Parameters) -> Result<Dump, Problem> {
    let wanted = wanted(parameters)?;
    let mut types = find(state, parameters)?.status().types;
    let section = |of: ResourceType| Section { of, status: std::mem::take(&mut types[of.index()]) };
    let chosen = SECTIONS.into_iter().filter(|of| wanted.contains(of));
    Ok(Dump { configs: chosen.map(section).collect() })
}

fn wanted(parameters: &Parameters) -> Result<Vec<ResourceType>, Problem> {
    match parameters.get("types").filter(|types| !types.is_empty()) {
        Some(types) => types
            .split(',')
            .map(|one| {
                ResourceType::IN_ORDER
                    .into_iter()
                    .find(|of| one.eq_ignore_ascii_case(of.short()) || one == of.type_url())
                    .ok_or_else(|| Problem::UnknownType(one.to_owned()))
            })
            .collect(),
        None => {
            // Off by default as in Istio, because Envoy's own dump leaves them out as well.
            let endpoints = parameters.get("include_eds").is_some_and(|value| value == "true");
            let is_wanted = |of: &ResourceType| *of != ResourceType::Endpoint || endpoints;
            Ok(SECTIONS.into_iter().filter(is_wanted).collect())
        }
    }
}

#[derive(Debug, serde::Serialize)]
pub(super) struct Dump {
    configs: Vec<Section>,
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
        let TypeStatus { set, subscription, .. } = &self.0.status;
        let Some((set, subscription)) = set.as_ref().zip(subscription.as_ref()) else {
            return serializer.collect_seq([] as [Value; 0]);
        };
        let sent = set.iter().filter(|resource| subscription.wants(&resource.name));
        serializer.collect_seq(sent.map(|resource| self.0.entry(resource)))
    }
}

impl Section {
    /// `versionInfo` is the resource's own version, a hash of its content.
    fn entry(&self, resource: &Resource) -> Value {
        let version = resource.version.to_string();
        let config = to_json(self.of.type_url(), resource.value());
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
