//! What changes in the manifests changes where requests go, soon, and without a failed request.

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Sample, Wire, endpoint};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{DEADLINE, VISIBLE, eventually, on_both_wires, same};

on_both_wires!(
    endpoints_come_and_go,
    services_come_and_go,
    a_changed_cluster_costs_no_request,
    routes_wait_for_their_clusters,
    many_changes_at_once_arrive,
);

async fn endpoints_come_and_go(wire: Wire) {
    let [v1, v2, v3] =
        [Backend::http("v1").await, Backend::http("v2").await, Backend::http("v3").await];
    let service = Service::new("reviews", "http", 9080);
    let services = [service.clone().with([&v1, &v2])];
    let lab = Lab::start(Sample::Standalone, wire, &services).await;
    lab.answered_by("reviews", &["v1", "v2"]).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    let others = async || {
        let sync = lab.control.sync().await.unwrap();
        ["cds", "lds", "rds"].map(|of| sync.count(of, "responses").unwrap())
    };
    let before = others().await;
    let load = Load::start(lab.envoy.listener, "reviews", &[200]);

    // As long as one endpoint is left that answers, no request fails.
    lab.manifests.apply(&service.clone().with([&v1, &v2, &v3]));
    lab.answered_by("reviews", &["v1", "v2", "v3"]).await;
    lab.manifests.apply(&service.clone().with([&v2, &v3]));
    lab.answered_by("reviews", &["v2", "v3"]).await;
    lab.manifests.apply(&service.clone().with([&v1, &v2, &v3]).with_unready(&v3).with_unready(&v1));
    lab.answered_by("reviews", &["v2"]).await;
    lab.manifests.apply(&service.clone().with([&v1, &v2, &v3]).with_unready(&v2));
    lab.answered_by("reviews", &["v1", "v3"]).await;
    load.assert_flawless();
    drop(load);

    lab.manifests.apply(&service.clone().with([&v1]).with_unready(&v1));
    lab.answers("reviews", 503).await;
    lab.manifests.apply(&service.clone().with([&v1]));
    lab.answered_by("reviews", &["v1"]).await;
    eventually(VISIBLE, "Envoy's /clusters to show the one endpoint", async || {
        let seen = lab.envoy.clusters().await?.remove(&service.cluster());
        same(seen, Some([endpoint(v1.address)].into()))
    })
    .await;
    assert_eq!(others().await, before, "endpoints change nothing but themselves");
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn services_come_and_go(wire: Wire) {
    let (old, new) = (Backend::http("old").await, Backend::http("new").await);
    let steady = Service::new("steady", "http", 80).with([&old]);
    let service = Service::new("passing", "http", 80);
    let lab = Lab::start(Sample::Standalone, wire, &[steady]).await;
    lab.answers("passing", 404).await;
    lab.answered_by("steady", &["old"]).await;
    let load = Load::start(lab.envoy.listener, "steady", &[200]);

    lab.manifests.apply(&service.clone().with([&old]));
    lab.answered_by("passing", &["old"]).await;
    {
        // Make before break: the route goes before its cluster does, so there is no 503 between.
        let load = Load::start(lab.envoy.listener, "passing", &[200, 404]);
        lab.manifests.delete(&service);
        lab.answers("passing", 404).await;
        eventually(DEADLINE, "the cluster to be gone", async || {
            same(lab.envoy.clusters().await?.contains_key(&service.cluster()), false)
        })
        .await;
        load.goes_on(10).await;
        load.assert_flawless();
    }
    // The same again, with other endpoints; Envoy must not wait for anything or remember the old.
    lab.manifests.apply(&service.clone().with([&new]));
    lab.answered_by("passing", &["new"]).await;
    // Gone and back before its cluster was taken away.
    lab.manifests.delete(&service);
    lab.answers("passing", 404).await;
    lab.manifests.apply(&service.clone().with([&old]));
    lab.answered_by("passing", &["old"]).await;

    load.assert_flawless();
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn a_changed_cluster_costs_no_request(wire: Wire) {
    let backends = [Backend::http("one").await, Backend::http("two").await];
    let service = Service::new("upgraded", "http", 80).with(&backends);
    let lab = Lab::start(Sample::Standalone, wire, std::slice::from_ref(&service)).await;
    lab.answered_by("upgraded", &["one", "two"]).await;
    let load = Load::start(lab.envoy.listener, "upgraded", &[200]);
    load.goes_on(20).await;

    // Another protocol is another cluster under the same name: Envoy prepares it beside the old
    // one, and until it has its endpoints the old one serves.
    for (name, version) in [("http2", "HTTP/2.0"), ("http", "HTTP/1.1"), ("grpc", "HTTP/2.0")] {
        lab.manifests.apply(&service.clone().with_port_name(name));
        eventually(VISIBLE, &format!("{version} upstream"), async || {
            let answer = lab.envoy.fetch("upgraded").await?;
            if answer.body.ends_with(version) { Ok(()) } else { Err(answer.body) }
        })
        .await;
        load.goes_on(20).await;
    }
    // Protocol and endpoints in one step.
    lab.manifests.apply(&service.clone().with(&backends[..1]));
    lab.answered_by("upgraded", &["one"]).await;

    load.assert_flawless();
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn routes_wait_for_their_clusters(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = |port| Service::new("moving", "http", port).with([&backend]);
    let lab = Lab::start(Sample::Standalone, wire, &[service(8000)]).await;
    lab.answered_by("moving", &["one"]).await;
    let load = Load::start(lab.envoy.listener, "moving", &[200]);
    let nobody_yet = Load::start(lab.envoy.listener, "new", &[200, 404]);

    // The bare name follows the only port to a new cluster each time. The route must not change
    // before that cluster is warm, nor the old one go before the route has changed.
    for port in 8001..8009 {
        lab.manifests.apply(&service(port));
        lab.answered_by(&format!("moving:{port}"), &["one"]).await;
        load.goes_on(10).await;
    }
    lab.manifests.apply(&Service::new("new", "http", 80).with([&backend]));
    lab.answered_by("new", &["one"]).await;
    load.assert_flawless();
    nobody_yet.assert_flawless();
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.assert_untroubled().await;
}

async fn many_changes_at_once_arrive(wire: Wire) {
    let backend = Backend::http("one").await;
    let service = |number: usize| Service::new(&format!("s{number}"), "http", 80).with([&backend]);
    let lab = Lab::start(Sample::Standalone, wire, &[]).await;
    for number in 0..60 {
        lab.manifests.apply(&service(number));
    }
    for number in (0..60).step_by(2) {
        lab.manifests.delete(&service(number));
    }
    for number in (1..60).step_by(4) {
        lab.manifests.apply(&service(number).with_port_name("http2"));
    }
    lab.answered_by("s1", &["one"]).await;
    lab.answered_by("s59", &["one"]).await;
    lab.answers("s58", 404).await;
    eventually(DEADLINE, "30 clusters", async || same(lab.envoy.clusters().await?.len(), 30)).await;
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}
