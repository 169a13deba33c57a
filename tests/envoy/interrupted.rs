//! A stream that breaks or stands still in the middle of something.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use prost::Message as _;

use crate::wire::Client;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::dump::Config;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::relay::Relay;
use pilothouse_testkit::{DEADLINE, VISIBLE, eventually, on_both_wires, same};

on_both_wires!(
    a_cluster_still_warming_gets_its_endpoints_on_the_next_stream,
    a_proxy_that_lagged_behind_loses_no_request,
);

const CLUSTERS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";

async fn a_cluster_still_warming_gets_its_endpoints_on_the_next_stream(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = Service::new("upgraded", "http", 80).with([&backend]);
    let other = Service::new("other", "http", 80).with([&backend]);
    let manifests = Manifests::new(&[service.clone(), other.clone()]);
    let control = ControlPlane::start(manifests.path()).await;
    let relay = Relay::start(control.grpc).await;
    let envoy = Envoy::start(Sample::Standalone, wire, relay.address).await;
    let lab = Lab { envoy, control, manifests };
    lab.answered_by("upgraded", &["one"]).await;
    let load = Load::start(lab.envoy.listener, "upgraded", &[200]);

    // It changes, and the endpoints that Envoy wants anew for it are lost with the stream.
    relay.hold(ENDPOINTS);
    lab.manifests.apply(&service.clone().with_port_name("http2"));
    eventually(DEADLINE, "the cluster to wait", async || {
        same(Config::waiting(&lab.envoy.config_dump().await?), vec![service.cluster()])
    })
    .await;
    relay.cut();
    eventually(VISIBLE, "HTTP/2 upstream", async || {
        same(lab.envoy.fetch("upgraded").await?.body.as_str(), "one HTTP/2.0")
            .map_err(|seen| format!("{seen}; {:?}", relay.opened()))
    })
    .await;
    eventually(DEADLINE, "clusters to be asked for", async || {
        same(relay.opened().iter().any(|one| one == CLUSTERS), true)
    })
    .await;
    lab.manifests.apply(&other.with_port_name("http2"));
    eventually(VISIBLE, "HTTP/2 upstream", async || {
        same(lab.envoy.fetch("other").await?.body.as_str(), "one HTTP/2.0")
    })
    .await;
    load.assert_flawless();
    lab.agrees().await;
    lab.envoy.assert_untroubled().await;
}

async fn a_proxy_that_lagged_behind_loses_no_request(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = |port| Service::new("moving", "http", port).with([&backend]);
    let other = Service::new("other", "http", 80).with([&backend]);
    let manifests = Manifests::new(&[service(8000), other.clone()]);
    let control = ControlPlane::start(manifests.path()).await;
    let relay = Relay::start(control.grpc).await;
    let envoy = Envoy::start(Sample::Standalone, wire, relay.address).await;
    let lab = Lab { envoy, control, manifests };
    lab.answered_by("moving", &["one"]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    let load = Load::start(lab.envoy.listener, "moving", &[200]);

    // While it is told of one change, a service moves from one cluster to another: it sees the new
    // one come, the old one go and the route change in one step.
    relay.pause(true);
    lab.manifests.apply(&other.with_port_name("http2"));
    eventually(DEADLINE, "clusters on their way", async || {
        let sync = lab.control.sync().await?;
        same(sync.count("cds", "responses")? > sync.count("cds", "acks")?, true)
    })
    .await;
    lab.manifests.apply(&service(8001));
    eventually(DEADLINE, "the old cluster to be gone", async || {
        let mut observer = Client::open(lab.control.grpc).await;
        observer.subscribe(CLUSTERS).await;
        let response = observer.response().await.map_err(|status| status.to_string())?;
        let names = response.resources.iter().map(|any| Cluster::decode(&*any.value).unwrap().name);
        same(names.filter(|name| name.contains("moving")).collect(), vec![service(8001).cluster()])
    })
    .await;
    relay.pause(false);
    lab.answered_by("moving:8001", &["one"]).await;
    lab.answers("moving:8000", 404).await;
    load.goes_on(20).await;
    load.assert_flawless();
    eventually(DEADLINE, "the observers to be forgotten", async || {
        lab.control.sync().await.map(drop)
    })
    .await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}
