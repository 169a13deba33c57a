//! grpcurl on both gRPC doors.

use crate::tool::run;
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::xds_client::{CDS, connect, open_sotw, sotw};

const CSDS: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";

#[tokio::test]
#[ignore = "needs grpcurl: make test-tools"]
async fn grpcurl_lists_describes_and_calls() {
    let manifests = Manifests::new(&[Service::new("web", "http", 80)]);
    let control = ControlPlane::start(manifests.path()).await;
    let (grpc, http) = (control.grpc.to_string(), control.http.to_string());

    // Each port names what it serves, and nothing else.
    let listed = run("grpcurl", &["-plaintext", &grpc, "list"]).await.text;
    let services = [
        "envoy.service.cluster.v3.ClusterDiscoveryService",
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        "envoy.service.listener.v3.ListenerDiscoveryService",
        "envoy.service.route.v3.RouteDiscoveryService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
    ];
    assert_eq!(listed.lines().collect::<Vec<_>>(), services);
    let listed = run("grpcurl", &["-plaintext", &http, "list"]).await.text;
    assert_eq!(listed.lines().collect::<Vec<_>>(), [CSDS, services[5], services[6]]);
    for (address, service, method) in [
        (&grpc, services[1], "rpc DeltaAggregatedResources"),
        (&http, CSDS, "rpc FetchClientStatus"),
        (&http, "envoy.config.cluster.v3.Cluster", "message Cluster {"),
    ] {
        let described = run("grpcurl", &["-plaintext", address, "describe", service]).await.text;
        assert!(described.contains(method), "{described}");
    }
    for address in [&grpc, &http] {
        let health = run("grpcurl", &["-plaintext", address, "grpc.health.v1.Health/Check"]).await;
        assert!(health.text.contains("\"SERVING\""), "{health:?}");
    }

    let mut proxy = open_sotw(connect(control.grpc).await).await;
    proxy.say(sotw(CDS, &[])).await;
    proxy.response().await;
    let method = format!("{CSDS}/FetchClientStatus");
    let asked = r#"{"node_matchers":[{"node_id":{"exact":"test"}}]}"#;
    let shown = run("grpcurl", &["-plaintext", "-d", asked, &http, &method]).await.text;
    let shown: serde_json::Value = serde_json::from_str(&shown).expect(&shown);
    assert_eq!(shown["config"][0]["node"]["id"], "test");
    let entries = shown["config"][0]["genericXdsConfigs"].as_array().unwrap();
    let web = entries.iter().find(|one| one["name"].as_str().unwrap().contains("web")).unwrap();
    assert_eq!((&web["configStatus"], &web["xdsConfig"]["type"]), (&"STALE".into(), &"EDS".into()));
    let regex = r#"{"node_matchers":[{"node_id":{"safe_regex":{"regex":"x"}}}]}"#;
    let refused = run("grpcurl", &["-plaintext", "-d", regex, &http, &method]).await;
    assert!(!refused.succeeded && refused.text.contains("safe_regex is not supported"));
}
