//! What Envoy says of itself on its admin pages.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::bootstrap_tls;
use super::finding::{Code, Finding};
use super::on_demand::OnDemand;
use crate::sidecar::credentials::Credentials;
use crate::sidecar::envoy_admin::{AdminError, EnvoyAdmin, Stats};
use crate::sidecar::host_port::HostPort;
use crate::sidecar::http_client::RequestError;
use crate::well_known::XDS_PORT;

/// A resource that Envoy does not take, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rejection {
    pub(super) kind: &'static str,
    pub(super) name: String,
    pub(super) details: String,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Envoy {
    pub(super) version: String,
    /// LIVE, DRAINING, PRE_INITIALIZING, INITIALIZING.
    pub(super) state: String,
    /// As `/server_info` has it.
    pub(super) node: Value,
    pub(super) stats: Stats,
    pub(super) rejections: Vec<Rejection>,
    /// What its start waits for.
    pub(super) waits_for: Vec<String>,
    /// Where its bootstrap says that the control plane is.
    pub(super) discovery: Option<HostPort>,
    /// With what it speaks TLS to it; `None` for plaintext.
    pub(super) credentials: Option<Credentials>,
    /// Where it is to have clusters on demand.
    pub(super) on_demand: Option<OnDemand>,
}

impl Envoy {
    pub(super) fn summary(&self) -> String {
        let Stats { cds, lds, connected, .. } = &self.stats;
        format!(
            "{} {}, {}; cds updates: {} successful, {} rejected; lds updates: {} successful, {} \
             rejected",
            self.version,
            self.state,
            if *connected { "connected to Pilot" } else { "not connected to Pilot" },
            cds.successful,
            cds.rejected,
            lds.successful,
            lds.rejected,
        )
    }

    /// Whether its traffic is meant to come by iptables.
    pub(super) fn is_captured(&self) -> bool {
        self.node["id"].as_str().is_some_and(|id| id.starts_with("sidecar~"))
            && self.node["metadata"]["INTERCEPTION_MODE"] != "NONE"
    }
}

/// Asks for all of it.
///
/// # Errors
/// If there is no Envoy there.
pub(super) async fn inspect(address: SocketAddr, limit: Duration) -> Result<Envoy, Finding> {
    let admin = EnvoyAdmin::new(address, limit);
    let page = admin.get("/server_info").await.map_err(|error| no_admin(&error))?;
    let info: Value = serde_json::from_str(&page).unwrap_or_default();
    let (Some(version), Some(state)) = (info["version"].as_str(), info["state"].as_str()) else {
        return Err(port_taken(address, "GET /server_info is no page of Envoy's"));
    };
    let (stats, waiting, listeners, bootstrap) = tokio::join!(
        admin.stats(),
        admin.json("/init_dump"),
        admin.json("/config_dump?resource=dynamic_listeners&mask=name,error_state"),
        admin.json(
            "/config_dump?mask=bootstrap.dynamic_resources,bootstrap.static_resources.clusters"
        ),
    );
    let mut envoy = Envoy {
        // REVISION/1.40.0/Clean/RELEASE/BoringSSL
        version: format!("Envoy {}", version.split('/').nth(1).unwrap_or(version)),
        state: state.to_owned(),
        node: info["node"].clone(),
        stats: stats.unwrap_or_default(),
        on_demand: OnDemand::read(&info["node"]),
        ..Envoy::default()
    };
    if let Some(on_demand) = envoy.on_demand.as_mut().filter(|one| one.is_in_force()) {
        let (stats, asks) = tokio::join!(admin.on_demand_stats(), admin.asks_on_demand());
        on_demand.stats = stats.unwrap_or_default();
        on_demand.asks = asks.ok().flatten();
    }
    envoy.waits_for = unready_targets(&waiting.unwrap_or_default());
    envoy.rejections = rejections(&listeners.unwrap_or_default());
    envoy.read_bootstrap(&bootstrap.unwrap_or_default());
    Ok(envoy)
}

impl Envoy {
    /// The cluster of `ads_config`, and its first address.
    fn read_bootstrap(&mut self, dump: &Value) {
        let bootstraps = dump["configs"].as_array().into_iter().flatten();
        let Some(bootstrap) = bootstraps.map(|one| &one["bootstrap"]).find(|one| one.is_object())
        else {
            return;
        };
        let ads = &bootstrap["dynamic_resources"]["ads_config"];
        if let Some(on_demand) = &mut self.on_demand {
            on_demand.over_delta = ads["api_type"] == "DELTA_GRPC";
        }
        let service = &ads["grpc_services"][0];
        let name = &service["envoy_grpc"]["cluster_name"];
        let clusters = bootstrap["static_resources"]["clusters"].as_array().into_iter().flatten();
        for cluster in clusters.filter(|cluster| name.is_string() && cluster["name"] == *name) {
            let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
            let address = &endpoint["endpoint"]["address"]["socket_address"];
            let port = address["port_value"].as_u64().and_then(|port| u16::try_from(port).ok());
            if let (Some(host), Some(port)) = (address["address"].as_str(), port) {
                self.discovery = Some(HostPort { host: host.to_owned(), port });
            }
            let anywhere = HostPort { host: "pilot".to_owned(), port: XDS_PORT };
            let discovery = self.discovery.as_ref().unwrap_or(&anywhere);
            self.credentials = bootstrap_tls::credentials(cluster, discovery, read_json);
        }
    }
}

/// A file of Envoy's, where the doctor is beside it.
fn read_json(path: &str) -> Option<Value> {
    serde_json::from_str(&std::fs::read_to_string(path).ok()?).ok()
}

/// `/init_dump`: the targets that are not ready, without the words that only Envoy's authors need.
fn unready_targets(page: &Value) -> Vec<String> {
    let dumps = page["unready_targets_dumps"].as_array().into_iter().flatten();
    let names = dumps.flat_map(|dump| dump["target_names"].as_array()).flatten();
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn rejections(page: &Value) -> Vec<Rejection> {
    let listeners = page["configs"].as_array().into_iter().flatten();
    listeners
        .filter(|one| one["error_state"].is_object())
        .map(|one| {
            let state = &one["error_state"];
            let named = |value: &Value| value.as_str().map(str::to_owned);
            Rejection {
                kind: "listener",
                name: named(&one["name"])
                    .or_else(|| named(&state["failed_configuration"]["name"]))
                    .unwrap_or_default(),
                details: named(&state["details"]).unwrap_or_default(),
            }
        })
        .collect()
}

fn no_admin(error: &AdminError) -> Finding {
    match error {
        AdminError::Unreachable { address, error: RequestError::Connect(io) }
            if io.kind() == ErrorKind::ConnectionRefused =>
        {
            Finding::new(
                Code::EnvoyNotRunning,
                format!("Envoy is not running: nothing listens on its admin address {address}"),
                "look at why it ended, in the log of the sidecar (kubectl logs POD -c istio-proxy \
                 --previous); if Envoy's admin is elsewhere, say so with --admin-addr, and without \
                 an Envoy here give --no-envoy",
            )
        }
        AdminError::Unreachable { address, error: error @ RequestError::NotHttp(_) } => {
            port_taken(*address, &error.to_string())
        }
        AdminError::Unreachable { address, error } => Finding::new(
            Code::EnvoyNotRunning,
            format!("Envoy's admin address {address} cannot be reached: {error}"),
            "check --admin-addr, which is 127.0.0.1:15000 in a pod",
        ),
        AdminError::Timeout { address, limit, .. } => Finding::new(
            Code::EnvoySilent,
            format!(
                "Envoy hangs: its admin port {address} takes connections, but there is no answer \
                 within {limit:?}"
            ),
            "see whether the process is stopped or starved of CPU (state T in ps, the container's \
             CPU limit), and restart the pod if it stays so",
        ),
        AdminError::Refused { address, path, status, .. } => {
            port_taken(*address, &format!("GET {path} answers {status}"))
        }
    }
}

fn port_taken(address: SocketAddr, seen: &str) -> Finding {
    Finding::new(
        Code::AdminPortTaken,
        format!("something else than Envoy listens on its admin address {address}: {seen}"),
        format!(
            "find out who has port {} (ss -ltnp) and move it away, or give Envoy another admin \
             port: it cannot start without one",
            address.port()
        ),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_control_planes_cluster_is_read_from_the_bootstrap() {
        let mut envoy = Envoy::default();
        let address = json!({ "socket_address": { "address": "pilot", "port_value": 15010 } });
        let endpoints = json!([{ "lb_endpoints": [{ "endpoint": { "address": address } }] }]);
        envoy.read_bootstrap(&json!({ "configs": [{}, { "bootstrap": {
            "dynamic_resources": { "ads_config": { "grpc_services": [
                { "envoy_grpc": { "cluster_name": "xds" } },
            ]}},
            "static_resources": { "clusters": [
                { "name": "other" },
                { "name": "xds", "load_assignment": { "endpoints": endpoints } },
            ]},
        }}]}));
        assert_eq!(envoy.discovery.unwrap().to_string(), "pilot:15010");
        assert_eq!(envoy.credentials, None);
    }
}
