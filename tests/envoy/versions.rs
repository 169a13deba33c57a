//! What every Envoy that the README lists must do: start with a whole configuration, follow a change,
//! and reject what it cannot use. `make test-envoys` runs these with each of them.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Discovery, Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{DEADLINE, eventually, on_both_wires, places, same};

on_both_wires!(it_starts_and_follows, it_rejects_and_goes_on);

/// Every annotation, so that every field that we ask Envoy for is there.
fn tuned(service: Service) -> Service {
    let annotations = [
        ("request-timeout", "2s"),
        ("connect-timeout", "1s"),
        ("retries", "2"),
        ("load-balancing", "round-robin"),
        ("outlier-consecutive-errors", "1000"),
        ("outlier-interval", "10s"),
        ("max-connections", "1000"),
        ("max-requests", "1000"),
    ];
    annotations.into_iter().fold(service, |service, (name, value)| {
        service.with_annotation(&format!("pilothouse.io/{name}"), value)
    })
}

async fn it_starts_and_follows(wire: Wire) {
    let (one, two) = (Backend::http("one").await, Backend::http("two").await);
    let service = tuned(Service::new("steady", "http", 80));
    let tcp = Service::new("plain", "tcp", 81).with([&one]);
    let services = [service.clone().with([&one]), tcp];
    let lab = Lab::start(Sample::Standalone, wire, &services).await;
    lab.answered_by("steady", &["one"]).await;
    lab.manifests.apply(&service.clone().with([&two]));
    lab.answered_by("steady", &["two"]).await;
    lab.manifests.apply(&service.with([&one, &two]).with_port_name("http2"));
    lab.answered_by("steady", &["one", "two"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn it_rejects_and_goes_on(wire: Wire) {
    let [good, taken] = [(); 2].map(|()| SocketAddr::from((Ipv4Addr::LOCALHOST, places::port())));
    let _occupant = TcpListener::bind(taken).expect("a free port");
    let (one, two) = (Backend::http("one").await, Backend::http("two").await);
    let service = Service::new("good", "http", good.port());
    let shut = Service::new("shut", "http", taken.port()).with([&one]);
    let lab = Lab::start(Sample::Bound, wire, &[service.clone().with([&one]), shut]).await;
    eventually(DEADLINE, "the NACK with Envoy's words", async || {
        let sync = lab.control.sync().await?;
        let error = sync.type_status("lds")?["lastError"].as_str().unwrap_or_default().to_owned();
        same(error.contains("Address already in use"), true).map_err(|_| sync.0.to_string())
    })
    .await;
    lab.answered_at(good, "good", &["one"]).await;
    lab.manifests.apply(&service.with([&two]));
    lab.answered_at(good, "good", &["two"]).await;
}

#[tokio::test]
async fn a_captured_sidecar_starts() {
    captured_sidecar_starts(Wire::Sotw, Discovery::All).await;
    captured_sidecar_starts(Wire::Delta, Discovery::All).await;
    captured_sidecar_starts(Wire::Delta, Discovery::OnDemand).await;
}

async fn captured_sidecar_starts(wire: Wire, discovery: Discovery) {
    let one = Backend::http("one").await;
    // Nothing here is bound to a port of ours but 15001 and 15006, which other tests have as well.
    let services = [
        tuned(Service::new("web", "http", 80)).with([&one]).with_cluster_ip("10.96.1.1"),
        Service::new("plain", "tcp", 81).with([&one]).with_cluster_ip("10.96.1.2"),
        Service::new("api", "grpc", 82).with([&one]).with_cluster_ip("10.96.1.3"),
    ];
    let manifests = Manifests::new(&services);
    let control = ControlPlane::start(manifests.path()).await;
    let pieces = discovery.pieces();
    let envoy = Envoy::start_unready(Sample::Sidecar, wire, control.grpc, pieces).await;
    // That its ports are free is not what is asked: that it understands every field is.
    eventually(DEADLINE, "clusters and routes to be accepted", async || {
        control.sync().await?.is_synced(match discovery {
            Discovery::All => &["cds", "eds", "rds"],
            Discovery::OnDemand => &["cds", "rds"],
        })
    })
    .await;
    eventually(DEADLINE, "listeners to be judged", async || {
        let sync = control.sync().await?;
        let error = sync.type_status("lds")?["lastError"].as_str().unwrap_or_default().to_owned();
        let judged = sync.count("lds", "acks")? + sync.count("lds", "nacks")? > 0;
        let ours = error.is_empty() || error.contains("Address already in use");
        same((judged, ours), (true, true)).map_err(|_| sync.0.to_string())
    })
    .await;
    drop(envoy);
}
