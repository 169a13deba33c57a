//! `/debug/endpointz`: the endpoints as they are known, before anything is made of them. Field names
//! are those of Istio's Go structs, capitals and all.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Serialize, Serializer};

use super::{CLUSTER_ID, DebugError, DebugState, Parameters, ResponseWriter};
use crate::model::{EndpointState, Model, ServiceKey};
use crate::names;

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Shards {
    shards: BTreeMap<String, Vec<ShardEndpoint>>,
    /// Always empty: pods are not watched, so their accounts are not known.
    service_accounts: BTreeMap<String, ()>,
}

/// Istio's `IstioEndpoint`, one for each endpoint and port; from `PodName` on it is ours.
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
    #[serde(skip_serializing_if = "Option::is_none")]
    pod_name: Option<String>,
    /// The hints: the zones whose proxies it is meant for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    for_zones: Vec<String>,
    slice_name: String,
}

#[derive(Debug, Serialize)]
struct Locality {
    /// `region/zone`; the region may not be known.
    #[serde(rename = "Label", skip_serializing_if = "String::is_empty")]
    label: String,
    #[serde(rename = "ClusterID")]
    cluster_id: &'static str,
}

/// By host, then namespace; endpoints whose Service is missing are shown too, since that is what
/// somebody may be looking for. Nothing is merged or left out: this is what the slices say.
pub(super) fn endpointz(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let (model, namespace) = (state.model(), parameters.get("namespace"));
    let mut keys: Vec<_> = model
        .sliced_services()
        .filter(|key| namespace.is_none_or(|namespace| *key.namespace == *namespace))
        .map(|key| (names::host(&key.name, &key.namespace, &state.domain), key))
        .collect();
    keys.sort_unstable();
    writer.json(&Hosts { model: &model, keys })
}

/// Made host by host while it is written.
struct Hosts<'a> {
    model: &'a Model,
    keys: Vec<(String, &'a ServiceKey)>,
}

impl Serialize for Hosts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.keys.iter().map(|(host, key)| {
            let shard = (format!("Kubernetes/{CLUSTER_ID}"), shard_endpoints(self.model, key));
            let shards = Shards { shards: [shard].into(), service_accounts: BTreeMap::new() };
            (host, BTreeMap::from([(&*key.namespace, shards)]))
        }))
    }
}

fn shard_endpoints(model: &Model, key: &ServiceKey) -> Vec<ShardEndpoint> {
    let label = |zone: &str| {
        let region = model.regions().get(zone).map_or("", |region| &**region);
        format!("{region}/{zone}")
    };
    let mut all = Vec::new();
    for slice in model.slices(key) {
        for subset in &slice.subsets {
            for port in &subset.ports {
                all.extend(subset.endpoints.iter().map(|endpoint| ShardEndpoint {
                    addresses: [endpoint.address],
                    service_port_name: port.name.to_string(),
                    endpoint_port: port.port,
                    locality: Locality {
                        label: endpoint.zone.as_deref().map(label).unwrap_or_default(),
                        cluster_id: CLUSTER_ID,
                    },
                    health_status: match endpoint.state {
                        EndpointState::Ready => 0,
                        EndpointState::NotReady => 1,
                        EndpointState::Draining => 2,
                    },
                    node_name: endpoint.node.as_deref().map(str::to_owned),
                    host_name: endpoint.hostname.as_deref().map(str::to_owned),
                    pod_name: endpoint.pod_name.as_deref().map(str::to_owned),
                    for_zones: endpoint.for_zones.iter().map(ToString::to_string).collect(),
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
