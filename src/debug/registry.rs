//! `/debug/registryz`: the services as they are known, before anything is made of them. Field names
//! are those of Istio's Go structs, capitals and all.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::response_writer::LazyList;
use super::routes::rules::{Named, RulesOfService, rules_of_service};
use super::{CLUSTER_ID, DebugError, DebugState, Parameters, ResponseWriter};
use crate::model::{ExportTo, Flaw, Labels, Service, ServiceKind, TargetPort};
use crate::names;

mod traffic_policy;

use traffic_policy::EffectivePolicy;

/// Istio's `Service`, as far as its fields mean something here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistryService<'a> {
    #[serde(rename = "Attributes")]
    attributes: Attributes,
    ports: Vec<Port>,
    #[serde(skip_serializing_if = "String::is_empty")]
    creation_time: String,
    hostname: String,
    #[serde(rename = "clusterVIPs")]
    cluster_vips: ClusterVips,
    default_address: String,
    /// Istio's numbers: 0 endpoints from here, 2 passed through to where the client wanted, 4 an
    /// alias.
    #[serde(rename = "Resolution")]
    resolution: u8,
    #[serde(rename = "MeshExternal")]
    mesh_external: bool,
    #[serde(rename = "ResourceVersion")]
    resource_version: String,
    /// Ours: what holds for requests to it, the defaults included.
    #[serde(rename = "Tuning")]
    traffic_policy: EffectivePolicy,
    /// Ours: what of it is wrong and therefore not honoured.
    #[serde(rename = "Flaws", skip_serializing_if = "Vec::is_empty")]
    flaws: Vec<ServiceFlaw>,
    /// Ours: the routes that are about requests to it.
    #[serde(rename = "Routes", skip_serializing_if = "Option::is_none")]
    routes: Option<RulesOfService<'a>>,
}

#[derive(Debug, Serialize)]
struct ServiceFlaw {
    field: String,
    reason: String,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Attributes {
    service_registry: &'static str,
    name: String,
    namespace: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    /// The namespaces that see it, if not all do.
    #[serde(skip_serializing_if = "Option::is_none")]
    export_to: Option<BTreeMap<String, NoValue>>,
    /// The selector. None for a service whose endpoints somebody else writes.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    label_selectors: BTreeMap<String, String>,
    /// Of an alias: the name it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    external_name: Option<String>,
}

/// Go's set: a map to nothing, `{}`.
#[derive(Debug, Serialize)]
struct NoValue {}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Port {
    name: String,
    port: u16,
    protocol: &'static str,
    /// Ours: the pods' port as the Service has it, a number or a name.
    target_port: Target,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Target {
    Number(u16),
    Name(String),
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClusterVips {
    addresses: BTreeMap<&'static str, Vec<IpAddr>>,
}

/// Every service, by namespace and name; only one namespace's with `?namespace=`.
pub(super) fn registryz(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let (model, namespace) = (state.model(), parameters.get("namespace"));
    let is_wanted = |service: &&Arc<Service>| {
        namespace.is_none_or(|namespace| *service.key.namespace == *namespace)
    };
    let services: Vec<_> = model.services().filter(is_wanted).collect();
    let report = state.routes();
    let named = Named::new(&report);
    writer.json(&LazyList(services, |service: &&Arc<Service>| {
        let resolved = model.resolved(&service.key, &state.domain);
        let resolved = resolved.as_ref().unwrap_or(service);
        RegistryService {
            routes: rules_of_service(&model, &report, &named, &service.key),
            ..registry_service(service, resolved, &state.domain)
        }
    }))
}

/// A service, and what has become of it if it is an alias.
fn registry_service<'a>(
    service: &Service,
    resolved: &Service,
    domain: &str,
) -> RegistryService<'a> {
    let addresses = service.cluster_ips();
    // Istio's word for "no address of its own".
    let unspecified = || "0.0.0.0".to_owned();
    let (resolution, external_name) = match &service.kind {
        ServiceKind::ClusterIp(_) => (0, None),
        ServiceKind::Headless => (2, None),
        ServiceKind::ExternalName(name) => (4, Some(name.to_string())),
        ServiceKind::Alias(of) => (4, Some(names::host(&of.key.name, &of.key.namespace, domain))),
    };
    let vips = (!addresses.is_empty()).then(|| (CLUSTER_ID, addresses.to_vec()));
    RegistryService {
        attributes: Attributes {
            service_registry: CLUSTER_ID,
            name: service.key.name.to_string(),
            namespace: service.key.namespace.to_string(),
            labels: pairs(&service.about.labels),
            label_selectors: pairs(&service.about.selector),
            export_to: match &service.export_to {
                ExportTo::Everyone => None,
                // Nobody is "~", as in the annotation.
                ExportTo::Only(none) if none.is_empty() => {
                    Some(BTreeMap::from([("~".to_owned(), NoValue {})]))
                }
                ExportTo::Only(some) => {
                    Some(some.iter().map(|one| (one.to_string(), NoValue {})).collect())
                }
            },
            external_name,
        },
        ports: service
            .ports
            .iter()
            .map(|port| Port {
                name: port.name.to_string(),
                port: port.port,
                protocol: port.protocol.as_str(),
                target_port: match service.about.target_port(port.port) {
                    TargetPort::Number(number) => Target::Number(number),
                    TargetPort::Name(name) => Target::Name(name.to_string()),
                },
            })
            .collect(),
        creation_time: service.created.to_string(),
        hostname: names::host(&service.key.name, &service.key.namespace, domain),
        cluster_vips: ClusterVips { addresses: vips.into_iter().collect() },
        default_address: addresses.first().map_or_else(unspecified, ToString::to_string),
        resolution,
        mesh_external: matches!(service.kind, ServiceKind::ExternalName(_)),
        resource_version: service.resource_version.to_string(),
        traffic_policy: EffectivePolicy::from_service(resolved),
        flaws: resolved
            .flaws
            .iter()
            .map(|flaw: &Flaw| ServiceFlaw {
                field: flaw.field.to_string(),
                reason: flaw.reason.to_string(),
            })
            .collect(),
        routes: None,
    }
}

fn pairs(labels: &Labels) -> BTreeMap<String, String> {
    labels.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
}
