//! Clusters on demand: sound, asked for in vain, and asked for in a way that is refused.

use super::doctor_with;
use super::proxy::examine;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::places;

const ASKS: (&str, &str) =
    ("    NAMESPACE: default\n", "    NAMESPACE: default\n    DISCOVERY: on-demand\n");

#[tokio::test]
async fn a_captured_sidecar_has_them() {
    let backend = Backend::http("one").await;
    let service = Service::new("web", "http", 80).with([&backend]).with_cluster_ip("10.96.1.1");
    let manifests = Manifests::new(&[service]);
    let control = ControlPlane::start(manifests.path()).await;
    let envoy = Envoy::start_with(Sample::Sidecar, Wire::Delta, control.grpc, &[ASKS]).await;
    let [admin, monitoring, debug] =
        [envoy.admin, control.monitoring, control.http].map(|address| address.to_string());
    let arguments = ["--admin-address", &admin, "--monitoring-address", &monitoring];
    // Rules of a pod cannot be seen here: there is no iptables.
    let environment = [("PATH", "/none")];
    let arguments = [&arguments[..], &["--debug-address", &debug]].concat();
    let said = doctor_with(&arguments, &environment).await;
    said.is("all_well", 0);
    assert_eq!(said.link("on demand"), Some("well"), "{:#}", said.json);
}

#[tokio::test]
async fn a_sidecar_without_capture_has_all_clusters_instead() {
    let backend = Backend::http("one").await;
    let service = Service::new("web", "http", places::port()).with([&backend]);
    let manifests = Manifests::new(&[service]);
    let control = ControlPlane::start(manifests.path()).await;
    let envoy = Envoy::start_with(Sample::Bound, Wire::Delta, control.grpc, &[ASKS]).await;
    let said = examine(&envoy, &control, &[]).await;
    said.is("on_demand_not_served", 1);
    said.names(&["has the clusters of all Services"]);
    assert_eq!(said.link("configuration"), Some("well"), "{:#}", said.json);
}

#[tokio::test]
async fn an_agent_that_went_on_without_is_explained() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let fallback = "    NAMESPACE: default\n    DISCOVERY_FALLBACK: this is Envoy 1.35\n";
    let pieces = [(ASKS.0, fallback)];
    let envoy = Envoy::start_with(Sample::Bound, Wire::Delta, control.grpc, &pieces).await;
    let said = examine(&envoy, &control, &[]).await;
    said.is("on_demand_not_possible", 1);
    said.names(&["this is Envoy 1.35"]);
}

#[tokio::test]
async fn the_state_of_the_world_is_refused() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let envoy = Envoy::start_unready(Sample::Sidecar, Wire::Sotw, control.grpc, &[ASKS]).await;
    let said = examine(&envoy, &control, &[]).await;
    said.is("on_demand_needs_delta", 1);
    said.names(&["state of the world"]);
}
