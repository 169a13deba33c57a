//! What Envoy says of itself on its admin port.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::finding::{Code, Finding};
use super::http::{GetError, get};
use super::place::HostPort;

/// The stats that are read, by name.
const STATS: &str = "^(control_plane\\.connected_state|cluster_manager\\.cds\\.update_success|\
    cluster_manager\\.cds\\.update_rejected|listener_manager\\.lds\\.update_success|\
    listener_manager\\.lds\\.update_rejected|listener_manager\\.workers_started|\
    listener\\.0\\.0\\.0\\.0_1500[16]\\.downstream_cx_total)$";

/// Updates of one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Updates {
    pub(super) successful: u64,
    pub(super) rejected: u64,
}

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
    pub(super) connected: bool,
    pub(super) cds: Updates,
    pub(super) lds: Updates,
    pub(super) workers_started: bool,
    pub(super) rejections: Vec<Rejection>,
    /// What its start waits for.
    pub(super) waits_for: Vec<String>,
    /// Where its bootstrap says that the control plane is.
    pub(super) discovery: Option<HostPort>,
    pub(super) tls: bool,
    /// Connections that came to the listeners for captured traffic, by port.
    pub(super) captured: BTreeMap<u16, u64>,
}

impl Envoy {
    pub(super) fn summary(&self) -> String {
        let Updates { successful, rejected } = self.cds;
        format!(
            "{} {}, {}; cds updates: {successful} successful, {rejected} rejected; lds updates: {} \
             successful, {} rejected",
            self.version,
            self.state,
            if self.connected { "connected to Pilot" } else { "not connected to Pilot" },
            self.lds.successful,
            self.lds.rejected,
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
pub(super) async fn look(address: SocketAddr, limit: Duration) -> Result<Envoy, Finding> {
    let answer = get(address, "/server_info", limit).await;
    let answer = answer.map_err(|error| absent(address, &error))?;
    let info: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let (Some(version), Some(state)) = (info["version"].as_str(), info["state"].as_str()) else {
        return Err(taken(address, &format!("GET /server_info answers {}", answer.status)));
    };
    let page = async |path: String| {
        let answer = get(address, &path, limit).await.ok()?;
        serde_json::from_str::<Value>(&answer.body).ok()
    };
    let dump = |mask: &str| page(format!("/config_dump?mask={mask}"));
    let (stats, waiting, listeners, bootstrap) = tokio::join!(
        page(format!("/stats?format=json&filter={}", escape(STATS))),
        page("/init_dump".to_owned()),
        page("/config_dump?resource=dynamic_listeners&mask=name,error_state".to_owned()),
        dump("bootstrap.dynamic_resources,bootstrap.static_resources.clusters"),
    );
    let mut envoy = Envoy {
        // REVISION/1.40.0/Clean/RELEASE/BoringSSL
        version: format!("Envoy {}", version.split('/').nth(1).unwrap_or(version)),
        state: state.to_owned(),
        node: info["node"].clone(),
        ..Envoy::default()
    };
    envoy.read_stats(&stats.unwrap_or_default());
    envoy.waits_for = targets(&waiting.unwrap_or_default());
    envoy.rejections = rejections(&listeners.unwrap_or_default());
    envoy.read_bootstrap(&bootstrap.unwrap_or_default());
    Ok(envoy)
}

impl Envoy {
    fn read_stats(&mut self, page: &Value) {
        for stat in page["stats"].as_array().into_iter().flatten() {
            let (Some(name), Some(value)) = (stat["name"].as_str(), stat["value"].as_u64()) else {
                continue;
            };
            match name {
                "control_plane.connected_state" => self.connected = value != 0,
                "cluster_manager.cds.update_success" => self.cds.successful = value,
                "cluster_manager.cds.update_rejected" => self.cds.rejected = value,
                "listener_manager.lds.update_success" => self.lds.successful = value,
                "listener_manager.lds.update_rejected" => self.lds.rejected = value,
                "listener_manager.workers_started" => self.workers_started = value != 0,
                _ => {
                    let port = name.strip_prefix("listener.0.0.0.0_");
                    let port = port.and_then(|rest| rest.split_once('.')?.0.parse().ok());
                    self.captured.extend(port.map(|port| (port, value)));
                }
            }
        }
    }

    /// The cluster of `ads_config`, and its first address.
    fn read_bootstrap(&mut self, dump: &Value) {
        let bootstraps = dump["configs"].as_array().into_iter().flatten();
        let Some(bootstrap) = bootstraps.map(|one| &one["bootstrap"]).find(|one| one.is_object())
        else {
            return;
        };
        let service = &bootstrap["dynamic_resources"]["ads_config"]["grpc_services"][0];
        let name = &service["envoy_grpc"]["cluster_name"];
        let clusters = bootstrap["static_resources"]["clusters"].as_array().into_iter().flatten();
        for cluster in clusters.filter(|cluster| name.is_string() && cluster["name"] == *name) {
            let endpoint = &cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0];
            let address = &endpoint["endpoint"]["address"]["socket_address"];
            let port = address["port_value"].as_u64().and_then(|port| u16::try_from(port).ok());
            if let (Some(host), Some(port)) = (address["address"].as_str(), port) {
                self.discovery = Some(HostPort { host: host.to_owned(), port });
            }
            self.tls = cluster["transport_socket"]["name"] == "envoy.transport_sockets.tls";
        }
    }
}

/// `/init_dump`: the targets that are not ready, without the words that only Envoy's authors need.
fn targets(page: &Value) -> Vec<String> {
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

/// For a query: the stats' pattern has a few characters that stand for something there.
fn escape(text: &str) -> String {
    text.replace('\\', "%5C").replace('^', "%5E").replace('|', "%7C").replace('$', "%24")
}

fn absent(address: SocketAddr, error: &GetError) -> Finding {
    match error {
        GetError::Connect(io) if io.kind() == ErrorKind::ConnectionRefused => Finding::new(
            Code::EnvoyNotRunning,
            format!("Envoy is not running: nothing listens on its admin address {address}"),
            "look at why it ended, in the log of the sidecar (kubectl logs POD -c istio-proxy \
             --previous); if Envoy's admin is elsewhere, say so with --admin-addr, and without \
             an Envoy here give --no-envoy",
        ),
        GetError::Connect(_) | GetError::NoConnection(_) => Finding::new(
            Code::EnvoyNotRunning,
            format!("Envoy's admin address {address} cannot be reached: {error}"),
            "check --admin-addr, which is 127.0.0.1:15000 in a pod",
        ),
        GetError::NoAnswer(_) => Finding::new(
            Code::EnvoySilent,
            format!(
                "Envoy hangs: its admin port {address} takes connections, but there is {error}"
            ),
            "see whether the process is stopped or starved of CPU (state T in ps, the container's \
             CPU limit), and restart the pod if it stays so",
        ),
        GetError::NotHttp(_) => taken(address, &error.to_string()),
    }
}

fn taken(address: SocketAddr, seen: &str) -> Finding {
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
    fn stats_and_bootstrap_are_read() {
        let stat = |name: &str, value: u64| json!({ "name": name, "value": value });
        let mut envoy = Envoy::default();
        envoy.read_stats(&json!({ "stats": [
            stat("control_plane.connected_state", 1),
            stat("cluster_manager.cds.update_rejected", 2),
            stat("listener_manager.lds.update_success", 3),
            stat("listener.0.0.0.0_15001.downstream_cx_total", 4),
        ]}));
        assert!(envoy.connected && !envoy.workers_started);
        assert_eq!((envoy.cds.rejected, envoy.lds.successful), (2, 3));
        assert_eq!(envoy.captured, [(15001, 4)].into());

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
        assert!(!envoy.tls);
    }
}
