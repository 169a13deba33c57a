//! Where a proxy is decides where its requests go first, for the services that ask for it.

use std::net::IpAddr;

use serde_json::{Value, json};

use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::on_both_wires;

on_both_wires!(
    traffic_stays_in_the_zone_for_as_long_as_it_has_endpoints,
    internal_traffic_of_a_local_service_stays_on_the_node,
);

async fn traffic_stays_in_the_zone_for_as_long_as_it_has_endpoints(wire: Wire) {
    let near = Backend::http("near").await;
    let far = Backend::http("far").await;
    let both = [(near.address, "zone-a"), (far.address, "zone-b")];
    let manifests = Manifests::new(&[]);
    let apply_service = |name: &str, asks: &Asks, endpoints: &[(IpAddr, &str)]| {
        manifests.put_raw(&format!("{name}.json"), &service(name, asks, endpoints));
    };
    apply_service("close", &Asks::Distribution, &both);
    apply_service("hinted", &Asks::Hints, &both);
    apply_service("plain", &Asks::Nothing, &both);
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
        apply_service("close", &Asks::Distribution, endpoints);
        apply_service("hinted", &Asks::Hints, endpoints);
        for name in ["close", "hinted"] {
            lab.answered_by(name, &[answering]).await;
        }
    }
    // It asks no more.
    apply_service("close", &Asks::Nothing, &both);
    lab.answered_by("close", &["near", "far"]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// istio PR 42551.
async fn internal_traffic_of_a_local_service_stays_on_the_node(wire: Wire) {
    let (here, there) = (Backend::http("here").await, Backend::http("there").await);
    let manifests = Manifests::new(&[]);
    let apply_service = |name: &str, policy: &str, endpoints: &[(IpAddr, &str)]| {
        manifests.put_raw(&format!("{name}.json"), &local_service(name, policy, endpoints));
    };
    let both = [(here.address, "node-a"), (there.address, "node-b")];
    apply_service("local", "Local", &both);
    apply_service("everywhere", "Cluster", &both);
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
    apply_service("local", "Local", &both[1..]);
    lab.answers("local", 503).await;
    apply_service("local", "Local", &both);
    lab.answered_by("local", &["here"]).await;
    apply_service("local", "Cluster", &both);
    lab.answered_by("local", &["here", "there"]).await;
    apply_service("local", "Local", &both);
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
