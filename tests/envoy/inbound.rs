//! What comes in to a sidecar's workload, captured for real in a network namespace of the test's
//! own.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::dump::Config;
use pilothouse_testkit::envoy::{Discovery, Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::{
    DEADLINE, VISIBLE, eventually, namespace, on_both_wires_and_on_demand, places, same,
};

on_both_wires_and_on_demand!(each_port_of_the_pod_is_taken_for_what_it_speaks);

async fn each_port_of_the_pod_is_taken_for_what_it_speaks(wire: Wire, discovery: Discovery) {
    let way = match (wire, discovery) {
        (Wire::Sotw, _) => "sotw",
        (Wire::Delta, Discovery::All) => "delta",
        (Wire::Delta, Discovery::OnDemand) => "on_demand",
    };
    let test = format!("inbound::{way}::each_port_of_the_pod_is_taken_for_what_it_speaks");
    if !namespace::entered(&test) {
        return;
    }
    let workload = Backend::http("workload").await;
    let own = workload.address;
    let data = Backend::tcp_at("data", own, places::port()).await;
    let unknown = Backend::tcp_at("unknown", own, places::port()).await;
    namespace::capture_inbound(own);

    // At first the pod is part of one service; another pod is behind it as well.
    let other = places::address();
    let manifests = Manifests::new(&[]);
    let web = |hosts: &[IpAddr]| {
        manifests.put_raw("web.json", &service("web", "http", target_port(), hosts))
    };
    web(&[own]);
    let control = ControlPlane::start(manifests.path()).await;
    let id = format!("sidecar~{own}~sample-0.default~default.svc.cluster.local");
    let sample = "sidecar~10.244.0.10~sample-0.default~default.svc.cluster.local";
    let pieces = [&[(sample, &*id)], discovery.pieces()].concat();
    let envoy = Envoy::start_with(Sample::Sidecar, wire, control.grpc, &pieces).await;
    let lab = Lab { envoy, control, manifests: Manifests::new(&[]) };

    chains_are(&lab, &[(target_port(), "http")]).await;
    let at = SocketAddr::new(own, target_port());
    answered(&lab, at, "workload").await;
    let port = target_port();
    let stat = |name: String| async { lab.envoy.stat(&{ name }).await };
    for name in [
        format!("http.inbound_0.0.0.0_{port};.downstream_rq_2xx"),
        format!("cluster.inbound|{port}||;.upstream_rq_200"),
    ] {
        let seen = stat(name.clone()).await;
        assert!(seen.as_ref().is_ok_and(|count| *count > 0), "{name}: {seen:?}");
    }
    // Checks of old load balancers, with a Host and without.
    for request in ["GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nHost: any\r\n\r\n"] {
        let answer = answer_to(at, request).await;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head.split(' ').nth(1);
        assert_eq!((status, body), (Some("200"), "workload HTTP/1.1"), "{request:?}: {answer}");
    }
    // A port that no service names passes through.
    said(SocketAddr::new(own, unknown.port), "unknown").await;
    let through = "cluster.InboundPassthroughCluster.upstream_cx_total";
    assert_eq!(lab.envoy.stat(through).await, Ok(1));

    // It becomes part of a second service, by a port that is TCP; no stream is opened anew.
    let streams = lab.envoy.stat("cluster.xds-grpc.upstream_rq_total").await.unwrap();
    let second = service("data", "tcp", data.port, &[own]);
    manifests.put_raw("data.json", &second);
    chains_are(&lab, &[(target_port(), "http"), (data.port, "tcp")]).await;
    said(SocketAddr::new(own, data.port), "data").await;
    let name = format!("cluster.inbound|{}||;.upstream_cx_total", data.port);
    assert_eq!(lab.envoy.stat(&name).await, Ok(1));
    assert_eq!(lab.envoy.stat("cluster.xds-grpc.upstream_rq_total").await, Ok(streams));

    // What other pods do is none of this one's listeners and clusters.
    match discovery {
        Discovery::All => lab.is_synced(&["cds", "eds", "lds"]).await,
        Discovery::OnDemand => lab.is_synced(&["cds", "lds"]).await,
    }
    let responses = async |short: &str| lab.control.sync().await.unwrap().count(short, "responses");
    let before = (responses("cds").await, responses("lds").await);
    web(&[own, other]);
    let wanted = [own, other].map(|host| format!("{host}:{}", target_port())).into();
    eventually(VISIBLE, "the other pod to be known", async || match discovery {
        Discovery::All => {
            let clusters = lab.envoy.clusters().await?;
            same(&clusters["outbound|8000||web.default.svc.cluster.local"], &wanted)
        }
        // Envoy does not: it never called the service.
        Discovery::OnDemand => {
            same(lab.envoy.clusters().await?, BTreeMap::new())?;
            let page = lab.control.debug("endpointz").await?.to_string();
            same(page.contains(&other.to_string()), true).map_err(|_| page)
        }
    })
    .await;
    assert_eq!((responses("cds").await, responses("lds").await), before);
    lab.agrees().await;

    // It leaves the first service: the port passes through again.
    web(&[other]);
    chains_are(&lab, &[(data.port, "tcp")]).await;
    answered(&lab, at, "workload").await;
    lab.assert_untroubled().await;
}

/// With a port 8000 that leads to `target` of these hosts.
fn service(name: &str, port_name: &str, target: u16, hosts: &[IpAddr]) -> String {
    let endpoints: Vec<Value> = hosts.iter().map(|host| json!({ "addresses": [host] })).collect();
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "default" },
            "spec": { "ports": [{ "name": port_name, "port": 8000 }] },
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-1"),
                "namespace": "default",
                "labels": { "kubernetes.io/service-name": name },
            },
            "addressType": "IPv4",
            "ports": [{ "name": port_name, "port": target, "protocol": "TCP" }],
            "endpoints": endpoints,
        },
    ]})
    .to_string()
}

/// Waits until Envoy uses exactly these chains of the workload's ports, and has their clusters.
async fn chains_are(lab: &Lab, wanted: &[(u16, &str)]) {
    let wanted: BTreeMap<String, &str> =
        wanted.iter().map(|(port, kind)| (format!("0.0.0.0_{port}"), *kind)).collect();
    eventually(DEADLINE, &format!("inbound chains {wanted:?}"), async || {
        let dump = lab.envoy.config_dump().await?;
        same(Config::waiting(&dump), Vec::new())?;
        let config = Config::read(&dump);
        let chains = config.listeners.get("virtualInbound").ok_or("no virtualInbound")?;
        let chains = chains["filterchains"].as_array().ok_or("no chains")?.iter();
        let chains = chains.filter_map(|chain| {
            let name = chain["name"].as_str()?.strip_prefix("0.0.0.0_")?;
            let filter = chain["filters"][0]["name"].as_str()?;
            let kind = if filter.ends_with("tcp_proxy") { "tcp" } else { "http" };
            Some((format!("0.0.0.0_{name}"), kind))
        });
        same(&chains.collect(), &wanted)?;
        let clusters = config.clusters.keys().filter(|name| name.starts_with("inbound|")).count();
        same(clusters, wanted.len())
    })
    .await;
}

async fn answered(lab: &Lab, at: SocketAddr, wanted: &str) {
    eventually(VISIBLE, &format!("an answer from {at}"), async || {
        let answer = lab.envoy.fetch_at(at, "any.host").await?;
        same((answer.status, answer.body.split(' ').next()), (200, Some(wanted)))
    })
    .await;
}

/// All that comes until the other side closes.
async fn answer_to(at: SocketAddr, request: &str) -> String {
    let mut text = String::new();
    let mut connection = TcpStream::connect(at).await.expect("it listens");
    connection.write_all(request.as_bytes()).await.expect("it listens");
    connection.read_to_string(&mut text).await.expect("it answers and closes");
    text
}

async fn said(at: SocketAddr, wanted: &str) {
    let mut text = String::new();
    let mut connection = TcpStream::connect(at).await.expect("it listens");
    connection.read_to_string(&mut text).await.expect("it speaks");
    assert_eq!(text, wanted);
}
