//! Two processes on the same input are one control plane to a proxy.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use pilothouse::names::ResourceType;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::process::NOWHERE;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::balancer::Balancer;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{DEADLINE, eventually, on_both_wires, same};

on_both_wires!(a_replica_without_a_snapshot_lets_its_proxies_go);

/// The version of each type, and that of each resource in it.
type Versions = BTreeMap<&'static str, (String, BTreeMap<String, String>)>;

/// Everything that a delta client is sent, by version.
async fn versions(control: SocketAddr, endpoints: &[String]) -> Versions {
    let mut client =
        AggregatedDiscoveryServiceClient::connect(format!("http://{control}")).await.unwrap();
    let (requests, outgoing) = mpsc::channel(8);
    let opened = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await;
    let mut responses = opened.unwrap().into_inner();
    let mut versions = Versions::new();
    for of in ResourceType::IN_ORDER {
        let names = match of {
            ResourceType::Endpoint => endpoints.to_vec(),
            ResourceType::Route => vec!["http".to_owned()],
            ResourceType::Cluster | ResourceType::Listener => Vec::new(),
        };
        let request = DeltaDiscoveryRequest {
            node: Some(Node { id: "client".to_owned(), ..Default::default() }),
            type_url: of.type_url().to_owned(),
            resource_names_subscribe: names,
            ..Default::default()
        };
        requests.send(request).await.unwrap();
        let response = tokio::time::timeout(DEADLINE, responses.message()).await.expect("in time");
        let response = response.unwrap().expect("the stream goes on");
        assert_eq!(response.type_url, of.type_url());
        let each = response.resources.into_iter().map(|one| (one.name, one.version)).collect();
        versions.insert(of.short(), (response.system_version_info, each));
    }
    versions
}

#[tokio::test]
async fn rule_13_two_processes_agree_on_every_version() {
    let backends = [Backend::http("one").await, Backend::http("two").await];
    let [a, b, c] = ["a", "b", "c"].map(|name| Service::new(name, "http", 80).with(&backends));
    let endpoints = [&a, &b, &c].map(Service::cluster);
    // One finds everything as it is; the other one was there while it became so.
    let at_once = Manifests::new(&[a.clone(), b.clone(), c.clone()]);
    let in_steps = Manifests::new(std::slice::from_ref(&c));
    let one = ControlPlane::start(at_once.path()).await;
    let other = ControlPlane::start(in_steps.path()).await;
    let wanted = versions(one.grpc, &endpoints).await;
    assert_eq!(wanted["eds"].1.len(), 3, "{wanted:?}");

    let passing = Service::new("passing", "tcp", 81).with(&backends);
    in_steps.apply(&passing);
    in_steps.apply(&b.clone().with_port_name("http2").with_unready(&backends[0]));
    in_steps.apply(&a.clone().with(&backends[..1]));
    let seen = async || other.debug("registryz").await.map(|page| page.to_string());
    eventually(DEADLINE, "the passing service", async || {
        same(seen().await?.contains("passing"), true)
    })
    .await;
    in_steps.apply(&b);
    in_steps.delete(&passing);
    in_steps.apply(&a);
    eventually(DEADLINE, "equal versions", async || {
        same(&versions(other.grpc, &endpoints).await, &wanted)
    })
    .await;
}

/// Behind one address, as a Service has it: what a connection leads to stays, so a proxy that is refused
/// must come back on another.
async fn a_replica_without_a_snapshot_lets_its_proxies_go(wire: Wire) {
    let folder = tempfile::TempDir::new().unwrap();
    let kubeconfig = folder.path().join("config");
    std::fs::write(&kubeconfig, NOWHERE).unwrap();
    let environment = [("KUBECONFIG", kubeconfig.to_str().unwrap())];
    let waiting = ControlPlane::start_with(&["--source", "kube"], &environment).await;
    let backend = Backend::http("one").await;
    let manifests = Manifests::new(&[Service::new("steady", "http", 80).with([&backend])]);
    let ready = ControlPlane::start(manifests.path()).await;

    let service = Balancer::start(vec![waiting.grpc, ready.grpc]).await;
    let envoy = Envoy::start_unready(Sample::Standalone, wire, service.address, &[]).await;
    eventually(DEADLINE, "the proxy to reach the replica that is ready", async || {
        same(envoy.stat("control_plane.connected_state").await?, 1)?;
        same(envoy.stat("listener_manager.lds.update_success").await?, 1)
    })
    .await;
    assert_eq!(
        ready.sync().await.unwrap().0["protocol"],
        match wire {
            Wire::Sotw => "sotw",
            Wire::Delta => "delta",
        }
    );
    // It did come to the other one first.
    assert_eq!(waiting.metric("pilothouse_streams_opened_total").await, Ok(1.0));
}
