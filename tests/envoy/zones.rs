//! Where a proxy is decides where its requests go first, for the services that ask for it.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::harness::backends::{Backend, target_port};
use crate::harness::control_plane::ControlPlane;
use crate::harness::envoy::{Envoy, Sample, Wire};
use crate::harness::lab::Lab;
use crate::harness::manifests::Manifests;
use crate::harness::on_both_wires;

on_both_wires!(
    traffic_stays_in_the_zone_for_as_long_as_it_has_endpoints,
    internal_traffic_of_a_local_service_stays_on_the_node,
);

async fn traffic_stays_in_the_zone_for_as_long_as_it_has_endpoints(wire: Wire) {
    let near = Backend::http("near").await;
    let far = Backend::http("far").await;
    let both = [(near.address, "zone-a"), (far.address, "zone-b")];
    let manifests = Manifests::new(&[]);
    let put = |name: &str, asks: &Asks, endpoints: &[(IpAddr, &str)]| {
        manifests.put_raw(&format!("{name}.json"), &service(name, asks, endpoints));
    };
    put("close", &Asks::Distribution, &both);
    put("hinted", &Asks::Hints, &both);
    put("plain", &Asks::Nothing, &both);
    let control = ControlPlane::start(manifests.path()).await;
    let node = ("cluster: sample\n", "cluster: sample\n  locality: { zone: zone-a }\n");
    let envoy = Envoy::start_with(Sample::Standalone, wire, control.grpc, &[node]).await;
    let lab = Lab { envoy, control, manifests: Manifests::new(&[]) };

    for name in ["close", "hinted"] {
        lab.answered_by(name, &["near"]).await;
    }
    lab.answered_by("plain", &["near", "far"]).await;

    // The zone empties, then it has an endpoint again.
    for (endpoints, answering) in [(&both[1..], "far"), (&both[..], "near")] {
        put("close", &Asks::Distribution, endpoints);
        put("hinted", &Asks::Hints, endpoints);
        for name in ["close", "hinted"] {
            lab.answered_by(name, &[answering]).await;
        }
    }
    // It asks no more.
    put("close", &Asks::Nothing, &both);
    lab.answered_by("close", &["near", "far"]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// istio PR 42551.
async fn internal_traffic_of_a_local_service_stays_on_the_node(wire: Wire) {
    let (here, there) = (Backend::http("here").await, Backend::http("there").await);
    let manifests = Manifests::new(&[]);
    let put = |name: &str, policy: &str, endpoints: &[(IpAddr, &str)]| {
        manifests.put_raw(&format!("{name}.json"), &local_service(name, policy, endpoints));
    };
    let both = [(here.address, "node-a"), (there.address, "node-b")];
    put("local", "Local", &both);
    put("everywhere", "Cluster", &both);
    let control = ControlPlane::start(manifests.path()).await;
    let on = |node: &str| {
        let named = format!("NAMESPACE: default\n    NODE_NAME: {node}\n");
        let control = control.grpc;
        async move {
            let replace = [("NAMESPACE: default\n", &*named)];
            Envoy::start_with(Sample::Standalone, wire, control, &replace).await
        }
    };
    let (envoy, elsewhere) = (on("node-a").await, on("nowhere").await);
    let mut lab = Lab { envoy, control, manifests: Manifests::new(&[]) };
    lab.answered_by("local", &["here"]).await;
    lab.answered_by("everywhere", &["here", "there"]).await;

    // The node loses its endpoint, which serves others, and has one again.
    put("local", "Local", &both[1..]);
    lab.answers("local", 503).await;
    put("local", "Local", &both);
    lab.answered_by("local", &["here"]).await;
    put("local", "Cluster", &both);
    lab.answered_by("local", &["here", "there"]).await;
    put("local", "Local", &both);
    lab.answered_by("local", &["here"]).await;
    lab.envoy.assert_untroubled().await;

    // On a node that has none, or that nobody knows of.
    lab.envoy = elsewhere;
    lab.answered_by("everywhere", &["here", "there"]).await;
    lab.answers("local", 503).await;
    lab.envoy.assert_untroubled().await;
}

fn local_service(name: &str, policy: &str, endpoints: &[(IpAddr, &str)]) -> String {
    let endpoint =
        |(address, node): &(IpAddr, &str)| json!({ "addresses": [address], "nodeName": node });
    let endpoints: Vec<Value> = endpoints.iter().map(endpoint).collect();
    let ports = json!([{ "name": "http", "port": 80 }]);
    list(name, &json!({ "ports": ports, "internalTrafficPolicy": policy }), &endpoints)
}

enum Asks {
    Nothing,
    Distribution,
    /// As Kubernetes' controller makes them: each endpoint for its own zone.
    Hints,
}

fn service(name: &str, asks: &Asks, endpoints: &[(IpAddr, &str)]) -> String {
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, zone)| {
            let mut endpoint = json!({ "addresses": [address], "zone": zone });
            if matches!(asks, Asks::Hints) {
                endpoint["hints"] = json!({ "forZones": [{ "name": zone }] });
            }
            endpoint
        })
        .collect();
    let mut spec = json!({ "ports": [{ "name": "http", "port": 80 }] });
    if matches!(asks, Asks::Distribution) {
        spec["trafficDistribution"] = "PreferClose".into();
    }
    list(name, &spec, &endpoints)
}

fn list(name: &str, spec: &Value, endpoints: &[Value]) -> String {
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "default" },
            "spec": spec,
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
            "ports": [{ "name": "http", "port": target_port(), "protocol": "TCP" }],
            "endpoints": endpoints,
        },
    ]})
    .to_string()
}
