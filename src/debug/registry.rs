//! `/debug/registryz` and `/debug/endpointz`: the mesh as it is known, before anything is made
//! of it. Field names are those of Istio's Go structs, capitals and all.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;

use super::{CLUSTER_ID, DebugState, Parameters, Problem};
use crate::model::{EndpointState, ExportTo, Flaw, Model, Service, ServiceKey, ServiceKind};
use crate::names;

/// Istio's `Service`, as far as its fields mean something here.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RegistryService {
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
    /// Ours: what of it is wrong and therefore not honoured.
    #[serde(rename = "Flaws", skip_serializing_if = "Vec::is_empty")]
    flaws: Vec<ServiceFlaw>,
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
    /// The namespaces that see it, if not all do.
    #[serde(skip_serializing_if = "Option::is_none")]
    export_to: Option<BTreeMap<String, NoValue>>,
    /// Of an alias: the name it stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    external_name: Option<String>,
}

/// Go's set: a map to nothing, `{}`.
#[derive(Debug, Serialize)]
struct NoValue {}

#[derive(Debug, Serialize)]
struct Port {
    name: String,
    port: u16,
    protocol: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ClusterVips {
    addresses: BTreeMap<&'static str, Vec<IpAddr>>,
}

/// Every service, by namespace and name.
pub(super) fn registryz(
    state: &DebugState,
    _: &Parameters,
) -> Result<impl Serialize + use<>, Problem> {
    let model = state.model();
    let services = model.services().map(|service| {
        let resolved = model.resolved(&service.key, &state.domain);
        let flaws = resolved.as_ref().map_or(&service.flaws, |resolved| &resolved.flaws);
        registry_service(service, flaws, &state.domain)
    });
    Ok(services.collect::<Vec<_>>())
}

fn registry_service(service: &Service, flaws: &[Flaw], domain: &str) -> RegistryService {
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
            })
            .collect(),
        creation_time: service.created.to_string(),
        hostname: names::host(&service.key.name, &service.key.namespace, domain),
        cluster_vips: ClusterVips { addresses: vips.into_iter().collect() },
        default_address: addresses.first().map_or_else(unspecified, ToString::to_string),
        resolution,
        mesh_external: matches!(service.kind, ServiceKind::ExternalName(_)),
        resource_version: service.resource_version.to_string(),
        flaws: flaws
            .iter()
            .map(|flaw| ServiceFlaw {
                field: flaw.field.to_string(),
                reason: flaw.reason.to_string(),
            })
            .collect(),
    }
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shards {
    shards: BTreeMap<String, Vec<ShardEndpoint>>,
    /// Always empty: pods are not watched, so their accounts are not known.
    service_accounts: BTreeMap<String, ()>,
}

/// Istio's `IstioEndpoint`, one for each endpoint and port; `SliceName` is ours.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct ShardEndpoint {
    addresses: [IpAddr; 1],
    service_port_name: String,
    endpoint_port: u16,
    locality: Locality,
    /// Istio's numbers: 0 healthy, 1 unhealthy, 2 draining.
    health_status: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    node_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_name: Option<String>,
    slice_name: String,
}

#[derive(Debug, Serialize)]
struct Locality {
    /// `region/zone`; the region is not known.
    #[serde(rename = "Label", skip_serializing_if = "String::is_empty")]
    label: String,
    #[serde(rename = "ClusterID")]
    cluster_id: &'static str,
}

/// By host, then namespace; endpoints whose Service is missing are shown too, since that is what
/// somebody may be looking for. Nothing is merged or left out: this is what the slices say.
pub(super) fn endpointz(
    state: &DebugState,
    _: &Parameters,
) -> Result<impl Serialize + use<>, Problem> {
    let model = state.model();
    let mut hosts: BTreeMap<String, BTreeMap<String, Shards>> = BTreeMap::new();
    for key in model.sliced_services() {
        let shard = (format!("Kubernetes/{CLUSTER_ID}"), shard_endpoints(&model, key));
        let shards = Shards { shards: [shard].into(), service_accounts: BTreeMap::new() };
        let host = names::host(&key.name, &key.namespace, &state.domain);
        hosts.entry(host).or_default().insert(key.namespace.to_string(), shards);
    }
    Ok(hosts)
}

fn shard_endpoints(model: &Model, key: &ServiceKey) -> Vec<ShardEndpoint> {
    let mut all = Vec::new();
    for slice in model.slices(key) {
        for subset in &slice.subsets {
            for port in &subset.ports {
                all.extend(subset.endpoints.iter().map(|endpoint| ShardEndpoint {
                    addresses: [endpoint.address],
                    service_port_name: port.name.to_string(),
                    endpoint_port: port.port,
                    locality: Locality {
                        label: endpoint.zone.as_ref().map(|z| format!("/{z}")).unwrap_or_default(),
                        cluster_id: CLUSTER_ID,
                    },
                    health_status: match endpoint.state {
                        EndpointState::Ready => 0,
                        EndpointState::NotReady => 1,
                        EndpointState::Draining => 2,
                    },
                    node_name: endpoint.node.as_deref().map(str::to_owned),
                    host_name: endpoint.hostname.as_deref().map(str::to_owned),
                    slice_name: slice.name.to_string(),
                }));
            }
        }
    }
    all.sort_by(|a, b| {
        let key = |one: &ShardEndpoint| (one.addresses, one.endpoint_port);
        key(a).cmp(&key(b)).then_with(|| a.service_port_name.cmp(&b.service_port_name))
    });
    all
}
