//! Against a real API server alone (no pods, no kubelet), with the project's binary and a real Envoy
//! beside it: what depends on the API's version and on rights.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command as Program;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::harness::Kubectl;
use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::envoy::{self, Sample, Wire};
use pilothouse_testkit::{Process, free_port, get, json, repository, until};

mod controllers;
mod events;
mod injected;
mod route_status;
mod routes;
mod secure;
mod tokens;
mod zones;

/// Without slices the server's own informer of them never gets in sync; everything else serves.
const READY: &str = "/readyz?exclude=informer-sync";

/// etcd and kube-apiserver of their own, with two users: `admin` and `pilot`, who has no rights yet.
pub(crate) struct ApiServer {
    dir: TempDir,
    pub(crate) admin: Kubectl,
    _server: Process,
    _etcd: Process,
}

impl ApiServer {
    pub(crate) async fn start(extra: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (client, peer, port) = (free_port(), free_port(), free_port());
        let (client, peer) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let etcd = Process::start(
            "etcd",
            Program::new(program("etcd"))
                .args(["--unsafe-no-fsync", "--data-dir"])
                .arg(path("etcd"))
                .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
                .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
                .args(["--initial-cluster", &format!("default={peer}")]),
        );
        let key = path("sa.key");
        let made =
            Command::new("openssl").args(["genrsa", "-out"]).arg(&key).arg("2048").output().await;
        assert!(made.expect("openssl is installed").status.success());
        std::fs::write(
            path("tokens.csv"),
            "admin-token,admin,admin,\"system:masters\"\npilot-token,pilot,pilot\n",
        )
        .unwrap();
        for user in ["admin", "pilot"] {
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "test",
                "clusters": [{ "name": "test", "cluster": {
                    "server": format!("https://127.0.0.1:{port}"),
                    "certificate-authority": path("apiserver.crt"),
                }}],
                "users": [{ "name": user, "user": { "token": format!("{user}-token") } }],
                "contexts": [{ "name": "test", "context": { "cluster": "test", "user": user } }],
            });
            std::fs::write(path(user), config.to_string()).unwrap();
        }
        let server = Process::start(
            "kube-apiserver",
            Program::new(program("kube-apiserver"))
                .args(["--bind-address=127.0.0.1", "--service-cluster-ip-range=10.96.0.0/16"])
                .args([
                    "--service-account-issuer=https://kubernetes.default.svc",
                    "--authorization-mode=RBAC",
                ])
                .args(["--disable-admission-plugins=ServiceAccount"])
                .args([format!("--etcd-servers={client}"), format!("--secure-port={port}")])
                .arg(format!("--cert-dir={}", dir.path().display()))
                .arg(format!("--service-account-key-file={}", key.display()))
                .arg(format!("--service-account-signing-key-file={}", key.display()))
                .arg(format!("--token-auth-file={}", path("tokens.csv").display()))
                .args(extra),
        );
        let admin = Kubectl::with_kubeconfig(&path("admin"));
        until("the API server", async || {
            let ready = admin.attempt(&["get", "--raw", READY]).await;
            ready.map_err(|error| {
                let log = server.log();
                format!("{error}; its log ends: {}", &log[log.len().saturating_sub(2000)..])
            })
        })
        .await;
        Self { dir, admin, _server: server, _etcd: etcd }
    }

    pub(crate) fn kubeconfig(&self, user: &str) -> PathBuf {
        self.dir.path().join(user)
    }

    /// Allows `pilot` what the project's own manifests allow, everywhere or in one namespace.
    pub(crate) async fn allow(&self, namespace: Option<&str>) {
        let file = if namespace.is_some() {
            "manifests/namespaced/role.yaml"
        } else {
            "manifests/cluster-role/cluster-role.yaml"
        };
        let path = repository().join(file);
        self.admin.run(&["apply", "-f", &path.display().to_string()]).await;
        let (kind, role) = match namespace {
            Some(_) => ("rolebinding", "istio-pilot"),
            None => ("clusterrolebinding", "istio-pilot-istio-system"),
        };
        let patch = json!([{ "op": "replace", "path": "/subjects",
            "value": [{ "kind": "User", "name": "pilot", "apiGroup": "rbac.authorization.k8s.io" }] }]);
        let namespace = namespace.unwrap_or("default");
        self.admin
            .run(&["-n", namespace, "patch", kind, role, "--type=json", "-p", &patch.to_string()])
            .await;
    }

    /// A service `name` whose only endpoint has this address.
    async fn service(&self, namespace: &str, name: &str, address: &str) {
        let labels = json!({ "kubernetes.io/service-name": name });
        self.admin
            .apply(&[
                json!({
                    "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
                    "spec": { "ports": [{ "name": "http", "port": 9080 }] },
                }),
                json!({
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": { "name": format!("{name}-1"), "namespace": namespace, "labels": labels },
                    "ports": [{ "name": "http", "port": 9080 }],
                    "endpoints": [{ "addresses": [address], "conditions": { "ready": true } }],
                }),
            ])
            .await;
    }
}

fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os("KUBEBUILDER_ASSETS");
    PathBuf::from(folder.expect("KUBEBUILDER_ASSETS names a folder with etcd and kube-apiserver"))
        .join(name)
}

/// The control plane as a process, watching as `pilot`.
pub(crate) struct Pilot {
    process: Process,
    pub(crate) grpc: SocketAddr,
    debug: String,
    pub(crate) monitoring: String,
}

impl Pilot {
    pub(crate) async fn start(server: &ApiServer, arguments: &[&str]) -> Self {
        Self::start_at(server, Ipv4Addr::LOCALHOST.into(), arguments).await
    }

    /// With the xDS port at this address.
    pub(crate) async fn start_at(server: &ApiServer, address: IpAddr, arguments: &[&str]) -> Self {
        let mut command = pilothouse(&[&["serve", "--source", "kube"], arguments].concat());
        command.env("KUBECONFIG", server.kubeconfig("pilot"));
        let any_port = SocketAddr::new(address, 0);
        let ControlPlane { process, grpc, http, monitoring, .. } =
            ControlPlane::start_command(command, any_port).await;
        let (debug, monitoring) = (format!("http://{http}"), format!("http://{monitoring}"));
        Self { process, grpc, debug, monitoring }
    }

    /// Waits until `/ready` has this status and a text that `wanted` accepts.
    pub(crate) async fn ready(&self, status: u16, wanted: impl Fn(&str) -> bool) {
        until(&format!("/ready {status}"), async || {
            let (seen, text) = get(&format!("{}/ready", self.monitoring))
                .await
                .map_err(|error| format!("{error}; its log: {}", self.process.log()))?;
            if seen == status && wanted(&text) { Ok(()) } else { Err(format!("{seen} {text}")) }
        })
        .await;
    }

    /// Waits until endpointz shows exactly these addresses, of all services but the API server's own.
    async fn has_endpoints(&self, wanted: &[&str]) {
        let wanted: BTreeSet<&str> = wanted.iter().copied().collect();
        until(&format!("the endpoints {wanted:?}"), async || {
            let page = json(&format!("{}/debug/endpointz", self.debug)).await?;
            let mut shown = BTreeSet::new();
            for (host, namespaces) in page.as_object().into_iter().flatten() {
                if !host.starts_with("kubernetes.default.") {
                    collect_addresses(namespaces, &mut shown);
                }
            }
            if shown == wanted.iter().map(|one| (*one).to_owned()).collect() {
                Ok(())
            } else {
                Err(page.to_string())
            }
        })
        .await;
    }
}

fn collect_addresses(value: &Value, into: &mut BTreeSet<String>) {
    for (key, value) in value.as_object().into_iter().flatten() {
        if key == "Addresses" {
            into.extend(
                value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned),
            );
        }
        collect_addresses(value, into);
    }
    for value in value.as_array().into_iter().flatten() {
        collect_addresses(value, into);
    }
}

/// A real Envoy with the sample bootstrap, and its admin page.
struct Envoy {
    envoy: envoy::Envoy,
    admin: String,
}

impl Envoy {
    async fn start(pilot: &Pilot) -> Self {
        Self::start_in(pilot, "").await
    }

    /// In a zone.
    async fn start_in(pilot: &Pilot, zone: &str) -> Self {
        let place = format!("cluster: sample\n  locality: {{ zone: \"{zone}\" }}\n");
        let grpc = pilot.grpc;
        let placed = [("cluster: sample\n", &*place)];
        let envoy = envoy::Envoy::start_with(Sample::Standalone, Wire::Sotw, grpc, &placed).await;
        Self { admin: format!("http://{}", envoy.admin), envoy }
    }

    /// Waits until Envoy has exactly these endpoints in its clusters for services.
    async fn has_endpoints(&self, wanted: &[&str]) {
        let wanted: BTreeSet<String> = wanted.iter().map(|one| (*one).to_owned()).collect();
        until(&format!("Envoy's endpoints {wanted:?}"), async || {
            let (_, text) = get(&format!("{}/clusters", self.admin)).await?;
            // outbound|9080||reviews.default.svc.cluster.local::10.0.0.1:9080::hostname::
            let shown: BTreeSet<String> = text
                .lines()
                .filter(|line| {
                    line.starts_with("outbound|") && !line.contains("||kubernetes.default.")
                })
                .filter_map(|line| Some(line.split("::").nth(1)?.rsplit_once(':')?.0.to_owned()))
                .collect();
            if shown == wanted {
                Ok(())
            } else {
                Err(format!("{text}; its log: {}", self.envoy.process.log()))
            }
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn endpoints_serve_where_there_are_no_slices() {
    let server = ApiServer::start(&["--runtime-config=discovery.k8s.io/v1=false"]).await;
    server.allow(None).await;
    let endpoints = |address: &str| {
        json!({
            "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "reviews", "namespace": "default" },
            "subsets": [{ "addresses": [{ "ip": address }], "ports": [{ "name": "http", "port": 9080 }] }],
        })
    };
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "reviews", "namespace": "default" },
        "spec": { "ports": [{ "name": "http", "port": 9080 }] },
    });
    server.admin.apply(&[service, endpoints("10.1.0.1")]).await;

    let pilot = Pilot::start(&server, &[]).await;
    pilot.ready(200, |_| true).await;
    let envoy = Envoy::start(&pilot).await;
    envoy.has_endpoints(&["10.1.0.1"]).await;

    server.admin.apply(&[endpoints("10.1.0.2")]).await;
    envoy.has_endpoints(&["10.1.0.2"]).await;
    pilot.has_endpoints(&["10.1.0.2"]).await;
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn endpoints_are_read_instead_of_slices_if_told_so() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    server.service("default", "by-slice", "10.1.0.1").await;
    server
        .admin
        .apply(&[
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "by-endpoints", "namespace": "default" },
                "spec": { "ports": [{ "name": "http", "port": 9080 }] },
            }),
            json!({
                "apiVersion": "v1", "kind": "Endpoints", "metadata": { "name": "by-endpoints", "namespace": "default" },
                "subsets": [{ "addresses": [{ "ip": "10.1.0.2" }], "ports": [{ "name": "http", "port": 9080 }] }],
            }),
        ])
        .await;
    let pilot = Pilot::start(&server, &["--endpoints", "endpoints"]).await;
    pilot.ready(200, |_| true).await;
    pilot.has_endpoints(&["10.1.0.2"]).await;
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn namespaces_that_are_left_out_need_no_rights_and_are_not_served() {
    let server = ApiServer::start(&[]).await;
    server.admin.run(&["create", "namespace", "other"]).await;
    server.allow(Some("default")).await;
    server.service("default", "reviews", "10.1.0.1").await;
    server.service("other", "reviews", "10.1.0.2").await;

    let pilot = Pilot::start(&server, &["--namespace", "default"]).await;
    pilot.ready(200, |_| true).await;
    let envoy = Envoy::start(&pilot).await;
    envoy.has_endpoints(&["10.1.0.1"]).await;

    // A change in each: once the one that counts is there, so would be the other.
    server.service("other", "ratings", "10.1.0.4").await;
    server.service("default", "ratings", "10.1.0.3").await;
    envoy.has_endpoints(&["10.1.0.1", "10.1.0.3"]).await;
    pilot.has_endpoints(&["10.1.0.1", "10.1.0.3"]).await;

    // With the same rights all namespaces cannot be watched, and it says what is missing.
    let greedy = Pilot::start(&server, &[]).await;
    greedy
        .ready(503, |text| text.contains("services") && text.to_lowercase().contains("forbidden"))
        .await;
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn rights_taken_away_take_no_configuration_away() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    server.service("default", "reviews", "10.1.0.1").await;
    let pilot = Pilot::start(&server, &[]).await;
    pilot.ready(200, |_| true).await;

    server.admin.run(&["delete", "clusterrolebinding", "istio-pilot-istio-system"]).await;
    // A watch keeps its rights until it is asked for anew; then the pages say what is wrong.
    until("sourcez to say what is forbidden", async || {
        let page = json(&format!("{}/debug/sourcez", pilot.debug)).await?;
        let mut watches = page["watches"].as_array().cloned().unwrap_or_default();
        watches.retain(|watch| watch["absent"].is_null());
        let forbidden = |watch: &Value| {
            watch["lastError"]
                .as_str()
                .is_some_and(|error| error.to_lowercase().contains("forbidden"))
        };
        if !watches.is_empty() && watches.iter().all(forbidden) {
            Ok(())
        } else {
            Err(page.to_string())
        }
    })
    .await;
    // Stale is better than empty: it stays ready, and an Envoy that comes now is served.
    pilot.ready(200, |_| true).await;
    let envoy = Envoy::start(&pilot).await;
    envoy.has_endpoints(&["10.1.0.1"]).await;

    // One that starts now has nothing to serve, does not claim to, and says why.
    let late = Pilot::start(&server, &[]).await;
    late.ready(503, |text| text.contains("services") && text.to_lowercase().contains("forbidden"))
        .await;

    // Given back, everything goes on by itself.
    server.service("default", "ratings", "10.1.0.2").await;
    server.allow(None).await;
    late.ready(200, |_| true).await;
    late.has_endpoints(&["10.1.0.1", "10.1.0.2"]).await;
    envoy.has_endpoints(&["10.1.0.1", "10.1.0.2"]).await;
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn lists_are_streamed_where_the_server_can_and_made_in_pages_elsewhere() {
    for (flags, wanted) in
        [(&[][..], "streamed"), (&["--feature-gates=WatchList=false"], "in pages")]
    {
        let server = ApiServer::start(flags).await;
        server.allow(None).await;
        server.service("default", "reviews", "10.1.0.1").await;
        let pilot = Pilot::start(&server, &[]).await;
        pilot.ready(200, |_| true).await;
        pilot.has_endpoints(&["10.1.0.1"]).await;
        let page = json(&format!("{}/debug/sourcez", pilot.debug)).await.unwrap();
        let all = page["watches"].as_array().unwrap().iter();
        let watches: Vec<_> = all.filter(|watch| watch["absent"].is_null()).collect();
        assert_eq!(watches.len(), 2, "{page}");
        assert!(watches.iter().all(|watch| watch["listed"] == wanted), "{flags:?}: {page}");
        // The watch goes on from there.
        server.service("default", "ratings", "10.1.0.2").await;
        pilot.has_endpoints(&["10.1.0.1", "10.1.0.2"]).await;
    }
}
