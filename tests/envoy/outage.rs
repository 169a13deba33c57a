//! The control plane goes away and comes back while requests run.

use rustix::process::Signal;

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{DEADLINE, eventually, on_both_wires, same};

on_both_wires!(
    no_request_fails,
    what_changed_meanwhile_arrives,
    a_port_that_moves_meanwhile_costs_no_request,
    all_clusters_may_go_and_one_return,
    a_frozen_envoy_is_dropped_and_may_come_back,
);

async fn no_request_fails(wire: Wire) {
    let backends = [Backend::http("one").await, Backend::http("two").await];
    let service = Service::new("steady", "http", 80).with(&backends);
    let mut lab = Lab::start(Sample::Standalone, wire, std::slice::from_ref(&service)).await;
    lab.answered_by("steady", &["one", "two"]).await;
    let load = Load::start(lab.envoy.listener, "steady", &[200]);
    load.goes_on(10).await;

    for signal in [Signal::TERM, Signal::KILL] {
        lab.control.stop(signal).await;
        connection(&lab, 0).await;
        load.goes_on(100).await;
        lab.control.start_again().await;
        connection(&lab, 1).await;
        load.goes_on(20).await;
        lab.is_synced(&["lds"]).await;
        lab.agrees().await;
        // Another process, and the same versions: what Envoy has is not sent again.
        let spared: &[&str] = match wire {
            Wire::Sotw => &["cds", "lds"],
            Wire::Delta => &["cds", "eds", "lds", "rds"],
        };
        let sync = lab.control.sync().await.unwrap();
        let sent = |of: &&str| sync.count(of, "responses") != Ok(0);
        assert!(!spared.iter().any(sent), "{}", sync.0);
    }
    lab.manifests.apply(&service.clone().with(&backends[..1]));
    lab.answered_by("steady", &["one"]).await;
    load.assert_flawless();
    lab.assert_untroubled().await;
}

async fn what_changed_meanwhile_arrives(wire: Wire) {
    let (one, two) = (Backend::http("one").await, Backend::http("two").await);
    let kept = Service::new("kept", "http", 80).with([&one]);
    let moved = Service::new("moved", "http", 80).with([&one]);
    let upgraded = Service::new("upgraded", "http", 80).with([&one]);
    let gone = Service::new("gone", "http", 80).with([&one]);
    let services = [kept, moved.clone(), upgraded.clone(), gone.clone()];
    let mut lab = Lab::start(Sample::Standalone, wire, &services).await;
    for service in ["kept", "moved", "upgraded", "gone"] {
        lab.answered_by(service, &["one"]).await;
    }
    let load = Load::start(lab.envoy.listener, "kept", &[200]);

    lab.control.stop(Signal::TERM).await;
    lab.manifests.apply(&moved.with([&two]));
    lab.manifests.apply(&upgraded.with_port_name("http2"));
    lab.manifests.apply(&Service::new("new", "http", 80).with([&two]));
    lab.manifests.delete(&gone);
    lab.control.start_again().await;
    connection(&lab, 1).await;

    lab.answered_by("moved", &["two"]).await;
    lab.answered_by("new", &["two"]).await;
    lab.answers("gone", 404).await;
    eventually(DEADLINE, "HTTP/2 upstream", async || {
        same(lab.envoy.fetch("upgraded").await?.body.as_str(), "one HTTP/2.0")
    })
    .await;
    load.assert_flawless();
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn a_port_that_moves_meanwhile_costs_no_request(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = |port| Service::new("moving", "http", port).with([&backend]);
    let mut lab = Lab::start(Sample::Standalone, wire, &[service(8000)]).await;
    lab.answered_by("moving", &["one"]).await;
    // The bare name follows the only port from one cluster to the next. In the state of the world
    // the old one vanishes with the very response that brings the new one, which is not warm then.
    let expected: &[u16] = if wire == Wire::Delta { &[200] } else { &[200, 503] };
    let load = Load::start(lab.envoy.listener, "moving", expected);

    for port in 8001..8006 {
        lab.control.stop(Signal::KILL).await;
        connection(&lab, 0).await;
        lab.manifests.apply(&service(port));
        lab.control.start_again().await;
        lab.answered_by(&format!("moving:{port}"), &["one"]).await;
        lab.answered_by("moving", &["one"]).await;
        load.goes_on(10).await;
    }
    load.assert_flawless();
    lab.agrees().await;
    assert_eq!(lab.envoy.clusters().await.unwrap().len(), 1, "those before are gone");
    lab.assert_untroubled().await;
}

async fn all_clusters_may_go_and_one_return(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = Service::new("passing", "http", 80).with([&backend]);
    let mut lab = Lab::start(Sample::Standalone, wire, std::slice::from_ref(&service)).await;
    lab.answered_by("passing", &["one"]).await;
    lab.manifests.delete(&service);
    eventually(DEADLINE, "no cluster", async || same(lab.envoy.clusters().await?.len(), 0)).await;
    // It comes back with an empty list of endpoints, which is not a wildcard (rule 6).
    lab.control.stop(Signal::TERM).await;
    connection(&lab, 0).await;
    lab.control.start_again().await;
    connection(&lab, 1).await;
    lab.is_synced(&["lds", "rds"]).await;
    lab.manifests.apply(&service);
    lab.answered_by("passing", &["one"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn a_frozen_envoy_is_dropped_and_may_come_back(wire: Wire) {
    let (one, two) = (Backend::http("one").await, Backend::http("two").await);
    let service = Service::new("steady", "http", 80);
    let manifests = Manifests::new(&[service.clone().with([&one])]);
    let folder = manifests.path().to_str().unwrap();
    let arguments = ["--manifests", folder, "--keepalive", "1500ms"];
    let control = ControlPlane::start_with(&arguments, &[]).await;
    control.becomes_ready().await;
    let envoy = Envoy::start(Sample::Standalone, wire, control.grpc).await;
    let lab = Lab { envoy, control, manifests };
    lab.answered_by("steady", &["one"]).await;

    lab.envoy.signal(Signal::STOP);
    eventually(DEADLINE, "no stream to be left", async || {
        same(lab.control.debug("syncz").await?.as_array().map(Vec::len), Some(0))
    })
    .await;
    let log = lab.control.process.log();
    assert!(log.contains("no answer to a ping within 500ms (--keepalive)"), "{log}");
    lab.manifests.apply(&service.with([&two]));
    lab.envoy.signal(Signal::CONT);
    lab.answered_by("steady", &["two"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// Waits until Envoy's stream to the control plane is open (1) or closed (0).
pub(crate) async fn connection(lab: &Lab, wanted: u64) {
    eventually(DEADLINE, &format!("control_plane.connected_state {wanted}"), async || {
        same(lab.envoy.stat("control_plane.connected_state").await?, wanted)
    })
    .await;
}
