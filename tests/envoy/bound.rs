//! Proxies whose listeners are really bound: a sidecar without capture, and a router.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Discovery, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{VISIBLE, eventually, on_both_wires, places, same};

on_both_wires!(a_sidecar_without_capture, a_router);

async fn a_sidecar_without_capture(wire: Wire) {
    serves_http_and_tcp(Sample::Bound, wire, Discovery::All, Ipv4Addr::LOCALHOST.into()).await;
}

/// Discovery on demand is for sidecars whose traffic is captured.
#[tokio::test]
async fn a_sidecar_without_capture_has_everything_on_demand_too() {
    let at = Ipv4Addr::LOCALHOST.into();
    serves_http_and_tcp(Sample::Bound, Wire::Delta, Discovery::OnDemand, at).await;
}

async fn a_router(wire: Wire) {
    // Any address of the machine will do.
    serves_http_and_tcp(Sample::Router, wire, Discovery::All, places::address()).await;
}

async fn serves_http_and_tcp(
    sample: Sample,
    wire: Wire,
    discovery: Discovery,
    at: std::net::IpAddr,
) {
    let [web, tcp] = [places::port(), places::port()].map(|port| SocketAddr::new(at, port));
    let reviews = [Backend::http("v1").await, Backend::http("v2").await];
    let ratings = Backend::http("ratings").await;
    let (database, other) = (Backend::tcp("database").await, Backend::tcp("other").await);
    let stored = Service::new("stored", "tcp-data", tcp.port()).with_cluster_ip("10.96.1.8");
    let services = [
        Service::new("reviews", "http", web.port()).with(&reviews),
        Service::new("ratings", "http", web.port()).with([&ratings]),
        stored.clone().with([&database]),
    ];
    let lab = Lab::start_with(&[], sample, wire, discovery, &services).await;
    lab.answered_at(web, "reviews", &["v1", "v2"]).await;
    lab.answered_at(web, "ratings.default.svc.cluster.local", &["ratings"]).await;
    // The port in Host is the client's business: the listener's port has chosen the table.
    lab.answered_at(web, &format!("reviews:{}", web.port()), &["v1", "v2"]).await;
    eventually(VISIBLE, "404 for nobody's host", async || {
        same(lab.envoy.fetch_at(web, "nobody").await?.status, 404)
    })
    .await;
    said(tcp, "database").await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;

    lab.manifests.apply(&stored.clone().with([&other]));
    said(tcp, "other").await;
    // A port of its own, and the TCP service gone: one listener comes, one goes.
    let late = SocketAddr::new(at, places::port());
    lab.manifests.apply(&Service::new("late", "http", late.port()).with(&reviews));
    lab.answered_at(late, "late", &["v1", "v2"]).await;
    lab.manifests.delete(&stored);
    eventually(VISIBLE, "the TCP listener to be gone", async || {
        match TcpStream::connect(tcp).await {
            Err(error) => same(error.kind(), std::io::ErrorKind::ConnectionRefused),
            Ok(_) => Err("connected".to_owned()),
        }
    })
    .await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// Waits until a connection to `at` is answered by that workload.
async fn said(at: SocketAddr, wanted: &str) {
    eventually(VISIBLE, &format!("{at} to be answered by {wanted}"), async || {
        let mut text = String::new();
        let mut connection = TcpStream::connect(at).await.map_err(|error| error.to_string())?;
        connection.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
        same(text.as_str(), wanted)
    })
    .await;
}
