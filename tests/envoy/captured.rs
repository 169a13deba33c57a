//! What goes out through a sidecar, captured for real in a network namespace of the test's own:
//! requests go where Envoy's tables say, or where the client's resolver led them.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::meaning::{apply_objects, pods, slice};
use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::envoy::{Discovery, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::{
    DEADLINE, VISIBLE, eventually, in_both_discoveries, namespace, places, same,
};

const PROXYS_OWN: [u16; 4] = [15001, 15006, 15021, 15090];

in_both_discoveries!(
    requests_for_pods_and_neighbours_go_where_dns_led_them,
    services_with_the_port_numbers_of_the_proxy_are_served_by_cluster_ip,
    a_tcp_connection_that_is_idle_for_too_long_is_closed,
    http_1_0_passes_through,
);

/// Whether the test runs in a namespace of its own; `module` and `test` are the names in its source.
pub(crate) fn entered(discovery: Discovery, module: &str, test: &str) -> bool {
    namespace::entered(&format!("{module}::{}::{test}", discovery.module()))
}

/// A sidecar, and the address of a client all of whose connections it captures.
pub(crate) async fn captured(discovery: Discovery) -> (Lab, IpAddr) {
    captured_with(&[], discovery).await
}

/// The same with these flags of the control plane.
pub(crate) async fn captured_with(flags: &[&str], discovery: Discovery) -> (Lab, IpAddr) {
    let lab = Lab::start_with(flags, Sample::Sidecar, Wire::Delta, discovery, &[]).await;
    let client = places::address();
    namespace::capture_outbound(client);
    (lab, client)
}

/// A Service in namespace `default` with this port.
pub(crate) fn service(
    name: &str,
    cluster_ip: &str,
    speaks: &str,
    port: u16,
    annotations: &Value,
) -> Value {
    let port = json!({ "name": "http", "port": port, "appProtocol": speaks });
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "annotations": annotations },
        "spec": { "clusterIP": cluster_ip, "ports": [port] } })
}

pub(crate) async fn connect(client: IpAddr, to: SocketAddr) -> Result<TcpStream, String> {
    let connected = async {
        let socket = TcpSocket::new_v4()?;
        socket.bind((client, 0).into())?;
        socket.connect(to).await
    };
    connected.await.map_err(|error: std::io::Error| error.to_string())
}

/// Who answers a request that a client of this address sends there, in HTTP/1.1 or whatever
/// `version` is; its status, if that is not 200.
pub(crate) async fn asked(
    client: IpAddr,
    to: SocketAddr,
    host: &str,
    version: &str,
) -> Result<String, String> {
    let mut stream = connect(client, to).await?;
    let request = format!("GET / {version}\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let exchange = async {
        stream.write_all(request.as_bytes()).await?;
        // Envoy may take seconds to close a connection whose listener has changed meanwhile.
        while !is_whole(&answer) && stream.read_buf(&mut answer).await? > 0 {}
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    let answer = exchange.await.map_err(|error: std::io::Error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(|| answer.clone())?;
    if head.split(' ').nth(1) != Some("200") {
        return Err(answer.clone());
    }
    let word = body.split_whitespace().find(|word| word.starts_with('w'));
    word.map(str::to_owned).ok_or_else(|| answer.clone())
}

/// Whether an answer has all that its `content-length` tells.
fn is_whole(answer: &[u8]) -> bool {
    let text = String::from_utf8_lossy(answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let mut lengths = lines.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    lengths.next().is_some_and(|(_, length)| length.parse() == Ok(body.len()))
}

async fn answers(client: IpAddr, to: &Backend, host: &str) {
    eventually(VISIBLE, &format!("{} for {host}", to.name), async || {
        let at = SocketAddr::new(to.address, to.port);
        same(asked(client, at, host, "HTTP/1.1").await?.as_str(), &*to.name)
    })
    .await;
}

/// istio#34679, #48239, linkerd2#11065: only DNS knows whether a name is one of a pod.
async fn requests_for_pods_and_neighbours_go_where_dns_led_them(discovery: Discovery) {
    if !entered(discovery, "captured", "requests_for_pods_and_neighbours_go_where_dns_led_them") {
        return;
    }
    let (lab, client) = captured(discovery).await;
    let all = [
        Backend::http("w-nats-0").await,
        Backend::http("w-nats-1").await,
        Backend::http("w-leaf").await,
        Backend::http("w-app").await,
        Backend::http("w-outside").await,
    ];
    let [zero, one, leaf, app, outside] = &all;
    let headless = |name: &str| service(name, "None", "http", target_port(), &Value::Null);
    // Two pods of a Deployment: neither has a hostname.
    let [nats, app_pods, leaf_pods] = [vec![zero, one], vec![app], vec![leaf]].map(|backends| {
        backends.iter().map(|one| json!({ "addresses": [one.address] })).collect::<Vec<_>>()
    });
    apply_objects(&lab, "nats", &[headless("nats"), slice("nats", "IPv4", &nats)]);
    apply_objects(&lab, "leaf", &[headless("leaf"), slice("leaf", "IPv4", &leaf_pods)]);
    apply_objects(&lab, "app", &[headless("app"), slice("app", "IPv4", &app_pods)]);
    apply_objects(&lab, "db", &[headless("db"), slice("db", "IPv4", &pods(&[zero]))]);
    answers(client, app, "app").await;
    answers(client, leaf, "leaf").await;

    for pod in [zero, one] {
        let dashed = pod.address.to_string().replace('.', "-");
        for form in ["nats", "nats.default", "nats.default.svc.cluster.local"] {
            answers(client, pod, &format!("{dashed}.{form}")).await;
            answers(client, pod, &format!("{dashed}.{form}:{}", pod.port)).await;
        }
    }
    for form in ["db", "db.default", "db.default.svc", "db.default.svc.cluster.local."] {
        answers(client, zero, &format!("w-nats-0.{form}")).await;
    }
    // A service of another namespace, a host outside, what was a pod a moment ago.
    for (to, host) in [
        (leaf, "leaf.nats"),
        (leaf, "0.leaf.nats"),
        (outside, "www.app"),
        (outside, "www.app.default"),
        (outside, "www.example.com"),
        (outside, "gone-0.db.default.svc.cluster.local"),
    ] {
        answers(client, to, host).await;
    }
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// istio#41239.
async fn services_with_the_port_numbers_of_the_proxy_are_served_by_cluster_ip(
    discovery: Discovery,
) {
    let test = "services_with_the_port_numbers_of_the_proxy_are_served_by_cluster_ip";
    if !entered(discovery, "captured", test) {
        return;
    }
    let (lab, client) = captured(discovery).await;
    let workload = Backend::http("w-one").await;
    let endpoints = [json!({ "addresses": [workload.address] })];
    for (name, kind) in [("web", "http"), ("stored", "tcp")] {
        for port in PROXYS_OWN {
            let (own, ip) = (format!("{name}-{port}"), places::address());
            let one = service(&own, &ip.to_string(), kind, port, &Value::Null);
            apply_objects(&lab, &own, &[one, slice(&own, "IPv4", &endpoints)]);
            eventually(VISIBLE, &format!("an answer by {own}"), async || {
                let answer = asked(client, SocketAddr::new(ip, port), &own, "HTTP/1.1").await?;
                same(answer.as_str(), "w-one")
            })
            .await;
        }
    }
    for port in PROXYS_OWN {
        let name = format!(
            "cluster.outbound|{port}||web-{port}.default.svc.cluster.local;.upstream_rq_200"
        );
        let seen = lab.envoy.stat(&name).await;
        assert!(seen.as_ref().is_ok_and(|count| *count > 0), "by its routes: {name} {seen:?}");
    }

    // Without a cluster IP there is nothing to tell it by, and that is said.
    let headless = service("bare", "None", "http", 15021, &Value::Null);
    apply_objects(&lab, "bare", &[headless, slice("bare", "IPv4", &endpoints)]);
    let flaw = "default/bare: spec.ports[port=15021]";
    eventually(VISIBLE, "the flaw in push_status", async || {
        let page = lab.control.debug("push_status").await?;
        let message = page["pilothouse_service_flaws"][flaw]["message"].as_str();
        let message = message.ok_or_else(|| page.to_string())?;
        if message.contains("15021 is a port of every sidecar itself") {
            Ok(())
        } else {
            Err(message.to_owned())
        }
    })
    .await;
    assert_eq!(lab.control.metric("pilothouse_service_flaws").await, Ok(1.0));
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// istio#24387.
async fn a_tcp_connection_that_is_idle_for_too_long_is_closed(discovery: Discovery) {
    if !entered(discovery, "captured", "a_tcp_connection_that_is_idle_for_too_long_is_closed") {
        return;
    }
    let (lab, client) = captured(discovery).await;
    let silent = Backend::silent("silent").await;
    let address = places::address();
    let annotations = json!({ "pilothouse.io/tcp-idle-timeout": "300ms" });
    let stored = service("stored", &address.to_string(), "tcp", 5432, &annotations);
    let endpoints = [json!({ "addresses": [silent.address] })];
    apply_objects(&lab, "stored", &[stored, slice("stored", "IPv4", &endpoints)]);
    let stat = "tcp.outbound|5432||stored.default.svc.cluster.local.idle_timeout";
    eventually(DEADLINE, "Envoy to close it", async || {
        let mut stream = connect(client, SocketAddr::new(address, 5432)).await?;
        let mut nothing = String::new();
        let read = tokio::time::timeout(DEADLINE, stream.read_to_string(&mut nothing)).await;
        let read = read.map_err(|_| "still open")?.map_err(|error| error.to_string())?;
        same(read, 0)?;
        let closed = lab.envoy.stat(stat).await?;
        if closed > 0 { Ok(()) } else { Err(format!("closed, but not for that: {closed}")) }
    })
    .await;
    lab.assert_untroubled().await;
}

/// What a sidecar does not read passes through; kube-proxy knows the way.
async fn http_1_0_passes_through(discovery: Discovery) {
    if !entered(discovery, "captured", "http_1_0_passes_through") {
        return;
    }
    let (lab, client) = captured(discovery).await;
    let workload = Backend::http("w-one").await;
    let web = service("web", "None", "http", target_port(), &Value::Null);
    let endpoints = [json!({ "addresses": [workload.address] })];
    apply_objects(&lab, "web", &[web, slice("web", "IPv4", &endpoints)]);
    answers(client, &workload, "web").await;
    let at = SocketAddr::new(workload.address, workload.port);
    assert_eq!(asked(client, at, "web", "HTTP/1.0").await.as_deref(), Ok("w-one"));
}
