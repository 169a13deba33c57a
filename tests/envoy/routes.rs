//! HTTPRoutes on Services, from manifests to what proxies do with requests: what depends on several routes, on time,
//! or on who asks. What one rule means is in `route_rules`.

use serde_json::{Value, json};

use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::manifests::Service;
use pilothouse_testkit::{DEADLINE, VISIBLE, eventually, http, on_both_wires, places, same};

mod captured;
mod kept_alive;

on_both_wires!(
    several_routes_are_in_the_order_of_the_specification,
    shares_of_backends_that_are_not_there_are_errors_and_nobodys_else,
    an_edited_route_costs_no_request,
    a_mirror_that_does_not_answer_holds_nobody_up,
    a_bound_sidecar_goes_by_name,
    producer_and_consumer_routes_are_there_at_once,
);

/// Puts an HTTPRoute in this namespace for the Service `default/web`.
pub(crate) fn put_route(lab: &Lab, namespace: &str, name: &str, rules: &Value) {
    let route = json!({ "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "rules": rules,
            "parentRefs": [{ "group": "", "kind": "Service", "name": "web", "namespace": "default" }] } });
    lab.manifests.put_raw(&format!("route-{namespace}-{name}.json"), &route.to_string());
}

fn remove_route(lab: &Lab, namespace: &str, name: &str) {
    let file = lab.manifests.path().join(format!("route-{namespace}-{name}.json"));
    std::fs::remove_file(file).expect("it was put there");
}

/// References to Services of namespace `default`, on port 80, with their weights.
fn backends(all: &[(&str, u32)]) -> Value {
    let one = |(name, weight): &(&str, u32)| json!({ "name": name, "namespace": "default", "port": 80, "weight": weight });
    all.iter().map(one).collect()
}

/// The rules of a route with one, for all requests.
fn all_to(all: &[(&str, u32)]) -> Value {
    json!([{ "backendRefs": backends(all) }])
}

/// A Service `default/NAME` for each backend, and `web`, which leads to the last.
fn services(all: &[&Backend]) -> Vec<Service> {
    let own = all.iter().map(|one| Service::new(&one.name, "http", 80).with([*one]));
    let web = all.last().map(|last| Service::new("web", "http", 80).with([*last]));
    own.chain(web).collect()
}

async fn several_routes_are_in_the_order_of_the_specification(wire: Wire) {
    let [v1, v2, v3, web] = [
        Backend::http("v1").await,
        Backend::http("v2").await,
        Backend::http("v3").await,
        Backend::http("plain").await,
    ];
    let lab = Lab::start(Sample::Standalone, wire, &services(&[&v1, &v2, &v3, &web])).await;
    let path = |kind: &str, value: &str, to: &str, more: &Value| {
        let mut matched = json!({ "path": { "type": kind, "value": value } });
        for (field, value) in more.as_object().into_iter().flatten() {
            matched[field] = value.clone();
        }
        json!([{ "matches": [matched], "backendRefs": backends(&[(to, 1)]) }])
    };
    let method = json!({ "method": "GET" });
    // The names are in the opposite order of what matters.
    put_route(&lab, "default", "a", &path("PathPrefix", "/", "v1", &Value::Null));
    put_route(&lab, "default", "b", &path("PathPrefix", "/shop", "v2", &Value::Null));
    put_route(&lab, "default", "c", &path("Exact", "/shop/cart", "v3", &Value::Null));
    put_route(&lab, "default", "d", &path("PathPrefix", "/meth", "v1", &Value::Null));
    put_route(&lab, "default", "e", &path("PathPrefix", "/meth", "v2", &method));
    // Of two with the same match the first by name.
    put_route(&lab, "default", "f", &path("PathPrefix", "/same", "v3", &Value::Null));
    put_route(&lab, "default", "g", &path("PathPrefix", "/same", "v1", &Value::Null));
    for (path, wanted) in [
        ("/", "v1"),
        ("/shop", "v2"),
        ("/shop/car", "v2"),
        ("/shop/cart", "v3"),
        ("/shopping", "v1"),
        ("/meth/x", "v2"),
        ("/same", "v3"),
    ] {
        let url = format!("http://{}{path}", lab.envoy.listener);
        eventually(VISIBLE, &format!("{wanted} for {path}"), async || {
            let answer = http::get(&url, Some("web")).await?;
            same(answer.body.split(' ').next().unwrap_or_default(), wanted)
        })
        .await;
    }
    // What no rule matches is no longer the Service's own.
    remove_route(&lab, "default", "a");
    lab.answers("web", 404).await;
    lab.answers("web.default:80", 404).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn shares_of_backends_that_are_not_there_are_errors_and_nobodys_else(wire: Wire) {
    let [v1, v2, web] =
        [Backend::http("v1").await, Backend::http("v2").await, Backend::http("plain").await];
    let all = services(&[&v1, &v2, &web]);
    let lab = Lab::start(Sample::Standalone, wire, &all).await;
    put_route(&lab, "default", "r", &all_to(&[("v1", 1), ("v2", 1)]));
    lab.answered_by("web", &["v1", "v2"]).await;
    put_route(&lab, "default", "r", &all_to(&[("v1", 0), ("v2", 1)]));
    lab.answered_by("web", &["v2"]).await;
    put_route(&lab, "default", "r", &all_to(&[("v1", 0), ("v2", 0)]));
    lab.answers("web", 500).await;
    put_route(&lab, "default", "r", &all_to(&[("v1", 1), ("nobody", 1)]));
    let statuses = async |lab: &Lab| {
        let mut seen = std::collections::BTreeSet::new();
        for _ in 0..40 {
            seen.insert(lab.envoy.fetch("web").await?.status);
        }
        Ok::<_, String>(seen)
    };
    eventually(VISIBLE, "its share to be 500", async || {
        same(statuses(&lab).await?, [200, 500].into())
    })
    .await;
    // The Service of the other goes, too; then one comes back; then it has no endpoints.
    lab.manifests.delete(&all[0]);
    lab.answers("web", 500).await;
    eventually(DEADLINE, "the cluster to be gone", async || {
        same(lab.envoy.clusters().await?.contains_key(&all[0].cluster()), false)
    })
    .await;
    lab.answers("web", 500).await;
    lab.manifests.apply(&Service::new("nobody", "http", 80).with([&v2]));
    eventually(VISIBLE, "the other's share to be 500", async || {
        same(statuses(&lab).await?, [200, 500].into())
    })
    .await;
    put_route(&lab, "default", "r", &all_to(&[("nobody", 1)]));
    lab.answered_by("web", &["v2"]).await;
    lab.manifests.apply(&Service::new("nobody", "http", 80));
    lab.answers("web", 503).await;
    lab.answered_by("v2", &["v2"]).await;
    remove_route(&lab, "default", "r");
    lab.answered_by("web", &["plain"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn an_edited_route_costs_no_request(wire: Wire) {
    let [v1, v2, web] =
        [Backend::http("v1").await, Backend::http("v2").await, Backend::http("plain").await];
    let all = services(&[&v1, &v2, &web]);
    let lab = Lab::start(Sample::Standalone, wire, &all).await;
    lab.answered_by("web", &["plain"]).await;
    let load = Load::start(lab.envoy.listener, "web", &[200]);
    for round in 0..6 {
        put_route(&lab, "default", "r", &all_to(&[("v1", 1)]));
        lab.answered_by("web", &["v1"]).await;
        load.goes_on(10).await;
        // To a Service that is new each time, and gone after.
        let new = Service::new(&format!("new-{round}"), "http", 80).with([&v2]);
        put_route(&lab, "default", "r", &all_to(&[("v1", 1), (&new_name(round), 0)]));
        lab.manifests.apply(&new);
        load.goes_on(10).await;
        put_route(&lab, "default", "r", &all_to(&[(&new_name(round), 1)]));
        lab.answered_by("web", &["v2"]).await;
        put_route(&lab, "default", "r", &all_to(&[("v1", 1), ("v2", 1)]));
        lab.answered_by("web", &["v1", "v2"]).await;
        lab.manifests.delete(&new);
        if round % 2 == 1 {
            remove_route(&lab, "default", "r");
            lab.answered_by("web", &["plain"]).await;
        }
    }
    load.assert_flawless();
    lab.agrees().await;
    lab.assert_untroubled().await;
}

fn new_name(round: usize) -> String {
    format!("new-{round}")
}

async fn a_mirror_that_does_not_answer_holds_nobody_up(wire: Wire) {
    let [v1, web] = [Backend::http("v1").await, Backend::http("plain").await];
    let silent = Backend::silent("silent").await;
    let lab = Lab::start(Sample::Standalone, wire, &services(&[&v1, &web])).await;
    lab.manifests.apply(&Service::new("silent", "http", 80).with([&silent]));
    let mirror = json!({ "type": "RequestMirror", "requestMirror": {
        "backendRef": { "name": "silent", "port": 80 } } });
    let rules = json!([{ "filters": [mirror], "backendRefs": backends(&[("v1", 1)]) }]);
    put_route(&lab, "default", "r", &rules);
    // An answer that waited for the mirror's would never come.
    lab.answered_by("web", &["v1"]).await;
    let stat = "cluster.outbound|80||silent.default.svc.cluster.local;.upstream_rq_active";
    eventually(VISIBLE, "requests to wait at the mirror", async || {
        let waiting = lab.envoy.stat(stat).await?;
        if waiting > 0 { Ok(()) } else { Err("none".to_owned()) }
    })
    .await;
    lab.answered_by("web", &["v1"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn a_bound_sidecar_goes_by_name(wire: Wire) {
    let [v1, web] = [Backend::http("v1").await, Backend::http("plain").await];
    let at = std::net::SocketAddr::new(std::net::Ipv4Addr::LOCALHOST.into(), places::port());
    let lab = Lab::start(Sample::Bound, wire, &services(&[&v1])).await;
    lab.manifests.apply(&Service::new("web", "http", at.port()).with([&web]));
    lab.answered_at(at, "web", &["plain"]).await;
    put_route(&lab, "default", "r", &all_to(&[("v1", 1)]));
    for host in ["web", "web.default", "web.default.svc.cluster.local"] {
        lab.answered_at(at, host, &["v1"]).await;
    }
    remove_route(&lab, "default", "r");
    lab.answered_at(at, "web", &["plain"]).await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

async fn producer_and_consumer_routes_are_there_at_once(wire: Wire) {
    let [v1, v2, web] =
        [Backend::http("v1").await, Backend::http("v2").await, Backend::http("plain").await];
    let lab = Lab::start(Sample::Standalone, wire, &services(&[&v1, &v2, &web])).await;
    let namespace = ("NAMESPACE: default", "NAMESPACE: client");
    let client = Envoy::start_with(Sample::Standalone, wire, lab.control.grpc, &[namespace]).await;
    let answered = async |producer: &str, consumer: &str| {
        for (envoy, wanted) in [(&lab.envoy, producer), (&client, consumer)] {
            eventually(VISIBLE, &format!("{wanted} to answer"), async || {
                let answer = envoy.fetch("web.default").await?;
                same(answer.body.split(' ').next().unwrap_or_default(), wanted)
            })
            .await;
        }
    };
    answered("plain", "plain").await;
    put_route(&lab, "client", "r", &all_to(&[("v2", 1)]));
    answered("plain", "v2").await;
    put_route(&lab, "default", "r", &all_to(&[("v1", 1)]));
    answered("v1", "v2").await;
    remove_route(&lab, "client", "r");
    answered("v1", "v1").await;
    put_route(&lab, "client", "r", &all_to(&[("v2", 1)]));
    remove_route(&lab, "default", "r");
    answered("plain", "v2").await;
    client.assert_untroubled().await;
    lab.envoy.assert_untroubled().await;
}
