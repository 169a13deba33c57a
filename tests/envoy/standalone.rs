//! A standalone Envoy: one listener that routes to every HTTP service by Host.

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire, endpoint};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{DEADLINE, eventually, on_both_wires, same};

on_both_wires!(
    hosts_lead_to_their_workloads,
    bare_names_are_those_of_the_own_namespace,
    an_empty_mesh_fills_up,
    a_service_without_endpoints_gets_some,
    a_restarted_envoy_has_all_again,
    http2_ports_are_spoken_to_in_http2,
    envoy_says_who_its_control_plane_is,
);

async fn hosts_lead_to_their_workloads(wire: Wire) {
    let reviews = [Backend::http("v1").await, Backend::http("v2").await, Backend::http("v3").await];
    let ratings = Backend::http("ratings").await;
    let shop = Backend::http("shop").await;
    let services = [
        Service::new("reviews", "http", 9080).with_cluster_ip("10.96.1.4").with(&reviews),
        Service::new("ratings", "http", 80).with([&ratings]),
        Service::new("reviews", "http", 9080).in_namespace("shop").with([&shop]),
    ];
    let lab = Lab::start(Sample::Standalone, wire, &services).await;

    for host in [
        "reviews",
        "reviews:9080",
        "reviews.default",
        "reviews.default.svc:9080",
        "reviews.default.svc.cluster.local",
        "reviews.default.svc.cluster.local.:9080",
        "10.96.1.4:9080",
    ] {
        lab.answered_by(host, &["v1", "v2", "v3"]).await;
    }
    // What a client has in its Host that came to Envoy by the service's name.
    let by_name = format!("ratings.default:{}", lab.envoy.listener.port());
    for host in ["ratings", "ratings:80", &by_name] {
        lab.answered_by(host, &["ratings"]).await;
    }
    lab.answered_by("reviews.shop:9080", &["shop"]).await;
    for host in ["nobody", "reviews:9081", "reviews.elsewhere"] {
        lab.answers(host, 404).await;
    }

    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    let clusters = lab.envoy.clusters().await.unwrap();
    let wanted = reviews.iter().map(|one| endpoint(one.address)).collect();
    assert_eq!(clusters.get(&services[0].cluster()), Some(&wanted));
    assert_eq!(clusters.len(), 3, "{clusters:?}");
    lab.assert_untroubled().await;
}

async fn bare_names_are_those_of_the_own_namespace(wire: Wire) {
    let (own, other) = (Backend::http("default").await, Backend::http("shop").await);
    let services = [
        Service::new("cart", "http", 80).with([&own]),
        Service::new("cart", "http", 80).in_namespace("shop").with([&other]),
    ];
    let mut lab = Lab::start(Sample::Standalone, wire, &services).await;
    lab.answered_by("cart", &["default"]).await;

    let control = lab.control.grpc;
    let nowhere = ("NAMESPACE: default", "UNUSED: none");
    for (namespace, status) in [(("NAMESPACE: default", "NAMESPACE: shop"), 200), (nowhere, 404)] {
        lab.envoy = Envoy::start_with(Sample::Standalone, wire, control, &[namespace]).await;
        lab.answers("cart", status).await;
        lab.answered_by("cart.default", &["default"]).await;
        lab.answered_by("cart.shop", &["shop"]).await;
        if status == 200 {
            lab.answered_by("cart", &["shop"]).await;
        }
        lab.envoy.assert_untroubled().await;
    }
}

async fn an_empty_mesh_fills_up(wire: Wire) {
    let lab = Lab::start(Sample::Standalone, wire, &[]).await;
    lab.answers("first", 404).await;
    lab.is_synced(&["cds", "lds", "rds"]).await;

    let backend = Backend::http("one").await;
    let service = Service::new("first", "http", 80).with([&backend]);
    lab.manifests.apply(&service);
    lab.answered_by("first", &["one"]).await;
    lab.manifests.delete(&service);
    lab.answers("first", 404).await;
    eventually(DEADLINE, "no cluster to be left", async || {
        same(lab.envoy.clusters().await?.len(), 0)
    })
    .await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn a_service_without_endpoints_gets_some(wire: Wire) {
    let service = Service::new("idle", "http", 80);
    let lab = Lab::start(Sample::Standalone, wire, std::slice::from_ref(&service)).await;
    lab.answers("idle", 503).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;

    let backend = Backend::http("awake").await;
    lab.manifests.apply(&service.with([&backend]));
    lab.answered_by("idle", &["awake"]).await;
    lab.assert_untroubled().await;
}

async fn a_restarted_envoy_has_all_again(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = Service::new("steady", "http", 80).with([&backend]);
    let mut lab = Lab::start(Sample::Standalone, wire, &[service]).await;
    lab.answered_by("steady", &["one"]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    let first = lab.control.sync().await.unwrap().0["connection_id"].clone();

    lab.envoy.restart().await;
    lab.answered_by("steady", &["one"]).await;
    // The stream of the one before is gone from the pages, the new one has all.
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    assert_ne!(lab.control.sync().await.unwrap().0["connection_id"], first);
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn http2_ports_are_spoken_to_in_http2(wire: Wire) {
    let backend = Backend::http("one").await;
    let ports = [("plain", "http"), ("two", "http2"), ("calls", "grpc-api")];
    let services = ports.map(|(name, port)| Service::new(name, port, 80).with([&backend]));
    let lab = Lab::start(Sample::Standalone, wire, &services).await;
    for (host, version) in [("plain", "HTTP/1.1"), ("two", "HTTP/2.0"), ("calls", "HTTP/2.0")] {
        eventually(DEADLINE, &format!("{host} in {version}"), async || {
            same(lab.envoy.fetch(host).await?.body, format!("{} {version}", backend.name))
        })
        .await;
    }
    lab.assert_untroubled().await;
}

async fn envoy_says_who_its_control_plane_is(wire: Wire) {
    let lab = Lab::start(Sample::Standalone, wire, &[]).await;
    let stats = lab.envoy.page("/stats?type=TextReadouts&filter=control_plane.identifier").await;
    let body = stats.unwrap().body;
    assert!(body.contains("pilothouse") && body.contains(env!("CARGO_PKG_VERSION")), "{body}");
}
