//! A sidecar whose traffic is captured. Capture itself needs a pod; here Envoy must take all of
//! the configuration and use it.

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::dump::Config;
use pilothouse_testkit::envoy::{Discovery, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{DEADLINE, eventually, on_both_wires_and_on_demand, same};

on_both_wires_and_on_demand!(all_of_it_is_accepted_and_used);

async fn all_of_it_is_accepted_and_used(wire: Wire, discovery: Discovery) {
    let backend = Backend::http("one").await;
    let service = |name, port_name, port| Service::new(name, port_name, port).with([&backend]);
    let services = [
        service("reviews", "http", 9080).with_cluster_ip("10.96.1.4"),
        service("ratings", "http2", 9080).with_cluster_ip("10.96.1.2"),
        service("calls", "grpc", 7070).with_cluster_ip("10.96.1.5"),
        service("stored", "tcp", 5432).with_cluster_ip("10.96.1.8"),
        service("secret", "tls", 8443).with_cluster_ip("fd00:10:96::9"),
        service("pods", "http", 8081).with_cluster_ip("None"),
        service("pods-tcp", "tcp", 9042).with_cluster_ip("None"),
    ];
    let lab = Lab::start_with(&[], Sample::Sidecar, wire, discovery, &services).await;
    lab.manifests.put_raw(
        "alias.yaml",
        "{apiVersion: v1, kind: Service, metadata: {name: alias, namespace: default}, \
         spec: {type: ExternalName, externalName: example.com, ports: [{name: http, port: 80}]}}",
    );
    lab.manifests.apply(&service("late", "http", 9090).with_cluster_ip("10.96.1.10"));

    eventually(DEADLINE, "Envoy to use all listeners", async || {
        let own = lab.envoy.config_dump().await?;
        same(Config::waiting(&own), Vec::new())?;
        let listeners: Vec<String> = Config::read(&own).listeners.into_keys().collect();
        let wanted = [
            "0.0.0.0_7070",
            "0.0.0.0_80",
            "0.0.0.0_8081",
            "0.0.0.0_9080",
            "0.0.0.0_9090",
            "10.96.1.8_5432",
            "fd00:10:96::9_8443",
            "virtualInbound",
            "virtualOutbound",
        ];
        same(listeners, wanted.map(str::to_owned).to_vec())
    })
    .await;
    match discovery {
        Discovery::All => lab.is_synced(&["cds", "eds", "lds", "rds"]).await,
        // Nothing was called: no cluster of a service, and no endpoints.
        Discovery::OnDemand => {
            lab.is_synced(&["cds", "lds", "rds"]).await;
            assert_eq!(lab.envoy.clusters().await, Ok(std::collections::BTreeMap::new()));
        }
    }
    lab.agrees().await;
    lab.assert_untroubled().await;
}
