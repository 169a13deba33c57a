//! A proxy comes to another replica with what it holds.

use rustix::process::Signal;

use super::{answers, cluster_ip, put, says};
use crate::outage::connection;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::balancer::Balancer;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Discovery, Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::{DEADLINE, eventually, namespace, places};

const TYPES: [&str; 4] = ["cds", "eds", "lds", "rds"];

#[tokio::test]
async fn another_replica_sends_nothing_of_what_a_proxy_holds() {
    let test = "on_demand::replicas::another_replica_sends_nothing_of_what_a_proxy_holds";
    if !namespace::entered(test) {
        return;
    }
    let manifests = Manifests::new(&[]);
    let first = ControlPlane::start(manifests.path()).await;
    let second = ControlPlane::start(manifests.path()).await;
    let balancer = Balancer::start(vec![first.grpc, second.grpc]).await;
    let pieces = Discovery::OnDemand.pieces();
    let envoy = Envoy::start_with(Sample::Sidecar, Wire::Delta, balancer.address, pieces).await;
    let mut lab = Lab { envoy, control: first, manifests };
    let client = places::address();
    namespace::capture_outbound(client);
    let [one, two] = [Backend::http("w-one").await, Backend::http("w-two").await];
    let data = Backend::tcp("w-data").await;
    let used = put(&lab, "used", "http", cluster_ip(80), &[&one]);
    let stored = put(&lab, "stored", "tcp", cluster_ip(5432), &[&data]);
    let late = put(&lab, "late", "http", cluster_ip(80), &[&one]);
    answers(client, used, "w-one").await;
    says(client, stored, "w-data").await;
    let load = Load::start_from(Some(client), used, "used", &[200]);
    lab.agrees().await;

    lab.control.stop(Signal::KILL).await;
    lab.control = second;
    eventually(DEADLINE, "the proxy at the other replica", async || {
        let sync = lab.control.sync().await?;
        TYPES.iter().try_for_each(|of| sync.type_status(of).map(drop))
    })
    .await;
    connection(&lab, 1).await;
    lab.agrees().await;
    let sync = lab.control.sync().await.unwrap();
    let sent: Vec<_> = TYPES.iter().filter(|of| sync.count(of, "responses") != Ok(0)).collect();
    assert!(sent.is_empty(), "{sent:?} were sent again: {}", sync.0);

    // It follows what it has, and asks for what it has not.
    put(&lab, "used", "http", used, &[&two]);
    answers(client, used, "w-two").await;
    answers(client, late, "w-one").await;
    says(client, stored, "w-data").await;
    load.assert_flawless();
    lab.agrees().await;
    lab.assert_untroubled().await;
}
