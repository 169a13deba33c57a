//! What of the proxy's environment is not the same in every pod. The names are Istio's.

use super::{Injection, TLS_VARIABLE};
use crate::sidecar::agent;
use crate::sidecar::inject::annotations;
use crate::sidecar::inject::containers::PROXY_CONTAINER;
use crate::sidecar::inject::node::Node;
use crate::sidecar::inject::settings::Tls;

/// What Kubernetes gives a pod that says nothing of it.
const GRACE_SECONDS: u64 = 30;
/// The control plane reads no longer list of ports (`src/ads/node.rs`).
const MAX_PORTS_BYTES: usize = 8 << 10;
const WORKLOAD_LABEL: &str = "service.istio.io/workload-name";

impl Injection<'_> {
    /// To be laid over what stands in `istio-proxy.yaml`.
    pub(super) fn environment(&self, pod: &Node) -> Result<Vec<Node>, String> {
        let containers = pod.at(&["spec", "containers"]).and_then(Node::as_list);
        let containers = containers.map(Vec::as_slice).unwrap_or_default();
        let names = containers.iter().map(|container| container.text(&["name"]));
        let names: Vec<_> = names.filter(|name| *name != PROXY_CONTAINER).collect();
        let names = names.join(",");
        let mode = if self.captured { "REDIRECT" } else { "NONE" };
        let workload = match pod.text(&["metadata", "labels", WORKLOAD_LABEL]) {
            "" => &self.owner.name,
            said => said,
        };
        let mut variables = vec![
            variable("ISTIO_META_INTERCEPTION_MODE", mode),
            variable("ISTIO_META_WORKLOAD_NAME", workload),
            variable("ISTIO_META_APP_CONTAINERS", &names),
            variable("ISTIO_META_CLUSTER_ID", &self.settings.cluster_id),
            variable("ISTIO_META_MESH_ID", self.settings.mesh_id()),
        ];
        if let Some(owner) = self.owner() {
            variables.push(variable("ISTIO_META_OWNER", &owner));
        }
        if let Some(network) = &self.settings.network {
            variables.push(variable("ISTIO_META_NETWORK", network));
        }
        // Where nothing is captured Envoy binds the ports of services, and these are the application's.
        let ports = ports(containers)?;
        if ports.len() <= MAX_PORTS_BYTES || !self.captured {
            variables.push(variable("ISTIO_META_POD_PORTS", &ports));
        }
        // A native sidecar is asked to end when the application has ended.
        if !self.native {
            let grace = match pod.at(&["spec", "terminationGracePeriodSeconds"]) {
                Some(Node::Unsigned(seconds)) => *seconds,
                _ => GRACE_SECONDS,
            };
            variables.push(variable("PILOTHOUSE_TERMINATION_GRACE_PERIOD", &format!("{grace}s")));
        }
        if self.tls != Tls::Off {
            variables.push(variable(TLS_VARIABLE, self.tls.as_str()));
        }
        if let Some(probers) = &self.probers {
            variables.push(variable(agent::APP_PROBERS, probers));
        }
        if let Some(scraping) = &self.scraping {
            variables.push(variable(agent::APP_METRICS, scraping));
        }
        if let Some(config) = self.annotations.get(annotations::PROXY_CONFIG) {
            variables.push(variable("PROXY_CONFIG", config.trim_end()));
        }
        let metadata = self.config.metadata.iter();
        variables.extend(metadata.map(|(name, value)| variable(name, value)));
        Ok(variables)
    }

    /// The workload as a path of the API. A manifest need not say its namespace, and the kubelet knows:
    /// it puts the value of the earlier variable in.
    fn owner(&self) -> Option<String> {
        let owner = self.owner;
        let known =
            ![&owner.api_version, &owner.kind, &owner.name].iter().any(|part| part.is_empty());
        known.then(|| {
            format!(
                "kubernetes://apis/{}/namespaces/$(POD_NAMESPACE)/{}s/{}",
                owner.api_version,
                owner.kind.to_ascii_lowercase(),
                owner.name
            )
        })
    }
}

fn variable(name: &str, value: &str) -> Node {
    let pair = [("name", name), ("value", value)];
    Node::Map(pair.into_iter().map(|(key, text)| (key.to_owned(), Node::from(text))).collect())
}

/// The fields of a port, in Kubernetes' order.
const PORT_FIELDS: [&str; 5] = ["name", "hostPort", "containerPort", "protocol", "hostIP"];

/// The ports of these containers, as Istio's agent reads them from `ISTIO_META_POD_PORTS`: the same text in
/// whatever order a manifest has the fields.
fn ports(containers: &[Node]) -> Result<String, String> {
    let ports = |container: &Node| container.get("ports").and_then(Node::as_list).cloned();
    let mut ports: Vec<Node> = containers.iter().filter_map(ports).flatten().collect();
    for port in &mut ports {
        if let Node::Map(fields) = port {
            let place = |name: &str| PORT_FIELDS.iter().position(|field| *field == name);
            fields.sort_by_key(|name, _| (place(name).unwrap_or(PORT_FIELDS.len()), name.clone()));
        }
    }
    serde_json::to_string(&ports).map_err(|error| error.to_string())
}
