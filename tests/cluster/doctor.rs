//! `pilothouse doctor` against a real API server, and against packet filters in a network of the
//! test's own.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::process::Command;

use crate::api_server::{ApiServer, Pilot};
use pilothouse_testkit::{Process, until};

const PILOT: &str = "istio-pilot.istio-system:15010";

pub(crate) struct Said(pub(crate) Value, pub(crate) Option<i32>);

impl Said {
    pub(crate) fn parse(output: &Output) -> Self {
        let text = String::from_utf8_lossy(&output.stdout);
        let json = serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{error}: {text} {output:?}"));
        Self(json, output.status.code())
    }

    pub(crate) fn is(&self, code: &str, exit: i32, words: &[&str]) {
        assert_eq!((self.0["code"].as_str(), self.1), (Some(code), Some(exit)), "{:#}", self.0);
        let cause = self.0["cause"].as_str().unwrap_or_default();
        for word in words {
            assert!(cause.contains(word), "{word:?} is not in {cause:?}");
        }
        assert!(self.0["seconds"].as_f64().unwrap() <= 6.0, "{:#}", self.0);
    }
}

async fn doctor(kubeconfig: &Path, arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_pilothouse"))
        .args(["doctor", "--json", "--no-envoy"])
        .args(arguments)
        .env("KUBECONFIG", kubeconfig)
        .output();
    Said::parse(&output.await.unwrap())
}

/// A name server: silent, or says of every name that it does not exist, or has this address.
#[derive(Clone, Copy)]
enum Names {
    Silent,
    None,
    /// NXDOMAIN inside the cluster, SERVFAIL for all other names.
    Inside,
    Are(Ipv4Addr),
}

/// Where it listens, and a resolv.conf that names it. It ends with the test's process.
fn name_server(folder: &TempDir, names: Names) -> (u16, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    std::thread::spawn(move || {
        let mut buffer = [0; 512];
        while let Ok((length, peer)) = socket.recv_from(&mut buffer) {
            let mut reply = buffer[..length].to_vec();
            let is_a = reply[length - 4..length - 2] == [0, 1];
            reply[2] |= 0x80;
            match names {
                Names::Silent => continue,
                Names::None => reply[3] |= 3,
                Names::Inside => {
                    let inside = reply.windows(4).any(|four| four == b"\x03svc");
                    reply[3] |= if inside { 3 } else { 2 };
                }
                Names::Are(address) if is_a => {
                    reply[7] = 1;
                    reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
                    reply.extend(address.octets());
                }
                Names::Are(_) => {}
            }
            _ = socket.send_to(&reply, peer);
        }
    });
    let file = folder.path().join(format!("resolv-{port}.conf"));
    let search = "search default.svc.cluster.local svc.cluster.local cluster.local";
    let text = format!("nameserver 127.0.0.1\n{search}\noptions ndots:5\n");
    std::fs::write(&file, text).unwrap();
    (port, file.display().to_string())
}

async fn by_name(kubeconfig: &Path, folder: &TempDir, names: Names) -> Said {
    let (port, conf) = name_server(folder, names);
    let port = port.to_string();
    let arguments = ["--discovery-address", PILOT, "--dns-port", &port, "--resolv-conf", &conf];
    doctor(kubeconfig, &arguments).await
}

fn service(namespace: &str, name: &str, cluster_ip: &str, selector: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "clusterIP": cluster_ip, "selector": { "app": selector },
            "ports": [{ "name": "grpc", "port": 15010 }],
        },
    })
}

/// One endpoint behind a service, under a port of this name.
fn slice(namespace: &str, name: &str, port: &str, ready: bool) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": format!("{name}-1"), "namespace": namespace,
            "labels": { "kubernetes.io/service-name": name } },
        "ports": [{ "name": port, "port": 9080 }],
        "endpoints": [{ "addresses": ["10.1.0.1"], "conditions": { "ready": ready } }],
    })
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn kube_dns_with_another_address_is_named_and_so_is_one_that_is_gone() {
    let server = ApiServer::start(&[]).await;
    let folder = TempDir::new().unwrap();
    let admin = server.kubeconfig("admin");
    server.admin.apply(&[service("kube-system", "kube-dns", "10.96.0.77", "dns")]).await;
    let said = by_name(&admin, &folder, Names::Silent).await;
    said.is("kube_dns_moved", 1, &["127.0.0.1", "10.96.0.77"]);

    // Who may not look is told so, and what can be seen all the same.
    let said = by_name(&server.kubeconfig("pilot"), &folder, Names::Silent).await;
    said.is("name_server_silent", 1, &["127.0.0.1"]);
    assert!(said.0["notes"].to_string().contains("not allowed"), "{:#}", said.0);

    server.admin.run(&["-n", "kube-system", "delete", "service", "kube-dns"]).await;
    by_name(&admin, &folder, Names::Silent).await.is("kube_dns_missing", 1, &[]);

    // The right address, and nobody behind it.
    server.admin.apply(&[service("kube-system", "kube-dns", "10.96.0.53", "dns")]).await;
    let conf = folder.path().join("resolv.conf");
    std::fs::write(&conf, "nameserver 10.96.0.53\n").unwrap();
    let conf = conf.display().to_string();
    let said = doctor(&admin, &["--discovery-address", PILOT, "--resolv-conf", &conf]).await;
    said.is("kube_dns_no_endpoints", 1, &["10.96.0.53", "app=dns"]);
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn what_is_wrong_with_pilots_service_is_named() {
    let server = ApiServer::start(&[]).await;
    let folder = TempDir::new().unwrap();
    let admin = server.kubeconfig("admin");
    by_name(&admin, &folder, Names::None).await.is("pilot_not_installed", 1, &["istio-system"]);
    // A kube-dns that fails at names outside is not to blame for a Service that is not there.
    by_name(&admin, &folder, Names::Inside).await.is("pilot_not_installed", 1, &["istio-system"]);

    for namespace in ["mesh", "istio-system"] {
        server.admin.run(&["create", "namespace", namespace]).await;
    }
    server.admin.apply(&[service("mesh", "istio-pilot", "10.96.7.1", "pilot")]).await;
    by_name(&admin, &folder, Names::None).await.is("pilot_in_another_namespace", 1, &["mesh"]);

    server.admin.apply(&[service("istio-system", "istio-pilot", "10.96.7.2", "pilot")]).await;
    let nobody = Names::Are(Ipv4Addr::new(127, 9, 9, 9));
    let said = by_name(&admin, &folder, nobody).await;
    said.is("address_not_of_service", 1, &["127.9.9.9", "10.96.7.2"]);
    let right = Names::Are(Ipv4Addr::new(10, 96, 7, 2));
    by_name(&admin, &folder, right).await.is("pilot_selects_no_pod", 1, &["app=pilot"]);

    let behind = |port: &str| slice("istio-system", "istio-pilot", port, false);
    server.admin.apply(&[behind("grpc")]).await;
    by_name(&admin, &folder, right).await.is("pilot_pods_not_ready", 1, &["istio-pilot"]);
    server.admin.apply(&[behind("web")]).await;
    by_name(&admin, &folder, right).await.is("pilot_port_mismatch", 1, &["web"]);
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn why_a_service_has_nobody_behind_it_is_named() {
    let server = ApiServer::start(&[]).await;
    server.allow(None).await;
    let pilot = Pilot::start(&server, &[]).await;
    pilot.ready(200, |_| true).await;
    let slice = |name: &str, port: &str, ready: bool| slice("default", name, port, ready);
    let own = |name: &str, address: &str| service("default", name, address, name);
    server
        .admin
        .apply(&[
            own("good", "10.96.8.1"),
            slice("good", "grpc", true),
            own("empty", "10.96.8.2"),
            own("mismatch", "10.96.8.3"),
            slice("mismatch", "web", true),
            own("unready", "10.96.8.4"),
            slice("unready", "grpc", false),
        ])
        .await;
    let discovery = pilot.grpc.to_string();
    let monitoring = pilot.monitoring.trim_start_matches("http://");
    let places = ["--discovery-address", &discovery, "--monitoring-address", monitoring];
    let admin = server.kubeconfig("admin");
    for (name, code, exit, word) in [
        ("good", "all_well", 0, ""),
        ("good:80", "service_port_not_found", 1, "15010"),
        ("none", "service_not_found", 1, "default/none"),
        ("empty", "service_selects_no_pod", 1, "app=empty"),
        ("mismatch", "service_port_mismatch", 1, "web"),
        ("unready", "service_pods_not_ready", 1, "default/unready"),
    ] {
        doctor(&admin, &[&places[..], &["--service", name]].concat()).await.is(code, exit, &[word]);
    }
}

/// A network with nothing in it but what the test puts there; it goes when dropped.
struct Network(String);

impl Network {
    async fn new(name: &str) -> Self {
        let network = Self(format!("{name}-{}", std::process::id()));
        network.ip(&["netns", "add", &network.0]).await;
        network.inside(&["ip", "link", "set", "lo", "up"]).await;
        network
    }

    async fn ip(&self, arguments: &[&str]) {
        let output =
            Command::new("ip").args(arguments).output().await.expect("iproute2 is installed");
        assert!(output.status.success(), "ip {arguments:?}: {output:?}");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.0]).args(arguments);
        command
    }

    async fn inside(&self, arguments: &[&str]) {
        let output = self.command(arguments).output().await.unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    async fn doctor(&self, arguments: &[&str]) -> Said {
        let program = [env!("CARGO_BIN_EXE_pilothouse"), "doctor", "--json", "--no-kubernetes"];
        Said::parse(&self.command(&[&program[..], arguments].concat()).output().await.unwrap())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        _ = std::process::Command::new("ip").args(["netns", "del", &self.0]).status();
    }
}

#[tokio::test]
#[ignore = "needs root and network namespaces: make test-cluster"]
async fn dropped_packets_and_addresses_of_nobody() {
    let network = Network::new("doctor-drop").await;
    let to =
        async |address: &str| network.doctor(&["--no-envoy", "--discovery-address", address]).await;
    let drop = ["iptables", "-A", "INPUT", "-p", "tcp", "--dport", "15010", "-j", "DROP"];
    network.inside(&drop).await;
    to("127.0.0.1:15010").await.is("packets_dropped", 1, &["127.0.0.1:15010"]);
    to("192.0.2.1:15010").await.is("address_unreachable", 1, &["192.0.2.1"]);
    // On the same wire, where the kernel asks in vain who has the address.
    network.inside(&["ip", "link", "add", "one", "type", "veth", "peer", "name", "two"]).await;
    network.inside(&["ip", "address", "add", "198.51.100.1/24", "dev", "one"]).await;
    for end in ["one", "two"] {
        network.inside(&["ip", "link", "set", end, "up"]).await;
    }
    to("198.51.100.9:15010").await.is("address_unreachable", 1, &["198.51.100.9"]);
}

#[tokio::test]
#[ignore = "needs root and network namespaces: make test-cluster"]
async fn capture_that_is_missing_or_loops() {
    let network = Network::new("doctor-capture").await;
    let folder = TempDir::new().unwrap();
    let path = |name: &str| -> PathBuf { folder.path().join(name) };
    std::fs::create_dir(path("manifests")).unwrap();
    let pilothouse = env!("CARGO_BIN_EXE_pilothouse");
    let manifests = path("manifests").display().to_string();
    let _pilot = Process::start(
        "pilothouse",
        network.command(&[pilothouse, "serve", "--manifests", &manifests]).as_std_mut(),
    );
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/envoy/sidecar.yaml");
    let bootstrap = std::fs::read_to_string(sample)
        .unwrap()
        .replace("address: istio-pilot.istio-system", "address: 127.0.0.1");
    std::fs::write(path("envoy.yaml"), bootstrap).unwrap();
    let envoy = std::env::var("PILOTHOUSE_ENVOY").expect("PILOTHOUSE_ENVOY names an Envoy");
    let config = path("envoy.yaml").display().to_string();
    let arguments = [&*envoy, "-c", &config, "--disable-hot-restart", "--concurrency", "1"];
    let _envoy = Process::start("envoy", network.command(&arguments).as_std_mut());
    let admin = SocketAddr::from(([127, 0, 0, 1], 15000)).to_string();
    let look = async || network.doctor(&["--admin-address", &admin]).await;
    until("Envoy to serve", async || match look().await {
        Said(json, _) if json["code"] == "capture_missing" => Ok(()),
        Said(json, _) => Err(json.to_string()),
    })
    .await;
    look().await.is("capture_missing", 1, &["outbound", "15001"]);

    network.inside(&[pilothouse, "iptables"]).await;
    look().await.is("all_well", 0, &[]);

    network
        .inside(&[
            "iptables",
            "-t",
            "nat",
            "-I",
            "OUTPUT",
            "-p",
            "tcp",
            "--dport",
            "9080",
            "-j",
            "REDIRECT",
            "--to-ports",
            "15001",
        ])
        .await;
    look().await.is("capture_loops", 1, &["1337"]);
}
