//! `--service`: why nobody is behind a name, from the control plane's pages and from Envoy.

use super::doctor;
use super::proxy::examine;
use crate::captured::entered;
use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Discovery, Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{in_both_discoveries, namespace, places};

in_both_discoveries!(what_is_behind_another_pods_sidecar_shows_in_its_answer);

#[tokio::test]
async fn each_reason_is_told_apart() {
    let backend = Backend::http("one").await;
    let service = |name| Service::new(name, "http", places::port());
    let services = [
        service("good").with([&backend]),
        service("empty"),
        service("unready").with([&backend]).with_unready(&backend),
    ];
    let lab = Lab::start(Sample::Bound, Wire::Sotw, &services).await;
    lab.manifests.put_raw(
        "mismatch.json",
        &serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "mismatch", "namespace": "default" },
                "spec": { "ports": [{ "name": "http", "port": places::port() }] },
            },
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": "mismatch-1", "namespace": "default",
                    "labels": { "kubernetes.io/service-name": "mismatch" } },
                "ports": [{ "name": "web", "port": 9080 }],
                "endpoints": [{ "addresses": [backend.address] }],
            },
        ]})
        .to_string(),
    );
    pilothouse_testkit::eventually(
        pilothouse_testkit::DEADLINE,
        "the mismatch to be known",
        async || {
            let page = lab.control.debug("registryz").await?;
            if page.to_string().contains("mismatch") { Ok(()) } else { Err(page.to_string()) }
        },
    )
    .await;

    for (service, code, exit) in [
        ("good", "all_well", 0),
        ("good.default", "all_well", 0),
        ("good:1", "service_port_not_found", 1),
        ("none", "service_not_found", 1),
        ("empty", "service_selects_no_pod", 1),
        ("mismatch", "service_port_mismatch", 1),
        ("unready.default.svc.cluster.local", "service_pods_not_ready", 1),
    ] {
        examine(&lab.envoy, &lab.control, &["--service", service]).await.is(code, exit);
    }

    // Without those pages, by Envoy's own clusters: that there are none, not why.
    let admin = lab.envoy.admin.to_string();
    let nobody = std::net::SocketAddr::new(places::address(), places::port()).to_string();
    let monitoring = lab.control.monitoring.to_string();
    let places = ["--admin-address", &admin, "--monitoring-address", &monitoring];
    let arguments = [&places[..], &["--debug-address", &nobody, "--service"]].concat();
    for (service, code, exit) in [
        ("good", "all_well", 0),
        ("none", "service_not_found", 1),
        ("empty", "service_no_endpoints", 1),
    ] {
        doctor(&[&arguments[..], &[service]].concat()).await.is(code, exit);
    }

    // And with neither, it cannot be told.
    let discovery = lab.control.grpc.to_string();
    let arguments = ["--no-envoy", "--discovery-address", &discovery, "--service", "good"];
    doctor(&arguments).await.is("service_not_examined", 3);
}

#[tokio::test]
async fn what_is_behind_endpoints_is_tried() {
    let (web, db) = (Backend::http("web").await, Backend::tcp("5.7.44-log").await);
    let [http, mistaken, right, unsaid, shut] = [(); 5].map(|()| places::port());
    // At an address of no workload, so nobody listens there.
    let mut nobody = Backend::http("nobody").await;
    nobody.address = places::address();
    let services = [
        Service::new("web", "http", http).with([&web]),
        Service::new("mistaken", "http-db", mistaken).with([&db]),
        Service::new("right", "tcp-db", right).with([&db]),
        Service::new("unsaid", "web", unsaid).with([&web]),
        Service::new("shut", "http", shut).with([&nobody]),
    ];
    let lab = Lab::start(Sample::Bound, Wire::Delta, &services).await;
    let examine =
        async |service: &str| examine(&lab.envoy, &lab.control, &["--service", service]).await;
    for service in ["web", "right"] {
        let said = examine(service).await;
        said.is("all_well", 0);
        assert_eq!(said.json["notes"], serde_json::json!([]), "nothing to be worried about");
    }
    let said = examine("mistaken").await;
    said.is("service_speaks_first", 1);
    said.names(&["5.7.44-log", "speaks first", &mistaken.to_string()]);
    let said = examine("unsaid").await;
    said.is("all_well", 0);
    let note = said.json["notes"].to_string();
    assert!(note.contains("spoken to as TCP since its name"), "{note}");
    let said = examine("shut").await;
    said.is("service_connections_fail", 1);
    said.names(&["nobody listens there"]);

    // By Envoy alone: its routes tell that it is HTTP, its counters that every request failed.
    let (admin, none) = (lab.envoy.admin.to_string(), "127.0.0.1:1");
    let monitoring = lab.control.monitoring.to_string();
    let places = ["--admin-address", &admin, "--monitoring-address", &monitoring];
    let by_envoy = [&places[..], &["--debug-address", none, "--service"]].concat();
    let by_envoy = async |service: &str| doctor(&[&by_envoy[..], &[service]].concat()).await;
    by_envoy("mistaken").await.is("service_speaks_first", 1);
    by_envoy("right").await.is("all_well", 0);
}

#[tokio::test]
async fn a_service_whose_every_request_fails_is_told_by_envoys_own_count() {
    // It takes connections and ends them, as the Envoy of a pod does whose application is not there.
    let listener = tokio::net::TcpListener::bind((places::address(), 0)).await.unwrap();
    let place = listener.local_addr().unwrap();
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let port = places::port();
    let lab = Lab::start(Sample::Bound, Wire::Sotw, &[]).await;
    lab.manifests.put_raw(
        "broken.json",
        &serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [
            {
                "apiVersion": "v1", "kind": "Service", "metadata": { "name": "broken", "namespace": "default" },
                "spec": { "ports": [{ "name": "http", "port": port, "targetPort": place.port() }] },
            },
            {
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": "broken-1", "namespace": "default",
                    "labels": { "kubernetes.io/service-name": "broken" } },
                "ports": [{ "name": "http", "port": place.port() }],
                "endpoints": [{ "addresses": [place.ip()] }],
            },
        ]})
        .to_string(),
    );
    let at = ([127, 0, 0, 1], port).into();
    pilothouse_testkit::eventually(pilothouse_testkit::DEADLINE, "a request to fail", async || {
        let answer = lab.envoy.fetch_at(at, "broken").await?;
        pilothouse_testkit::same(answer.status, 503)
    })
    .await;
    let said = examine(&lab.envoy, &lab.control, &["--service", "broken"]).await;
    said.is("service_requests_fail", 1);
    said.names(&["requests to it failed", &port.to_string()]);
}

/// From another pod, which reaches the application through the Envoy beside it: that one takes every
/// connection, and waits for a request before it looks what is behind it.
async fn what_is_behind_another_pods_sidecar_shows_in_its_answer(discovery: Discovery) {
    let test = "what_is_behind_another_pods_sidecar_shows_in_its_answer";
    if !entered(discovery, "doctor::service", test) {
        return;
    }
    let workload = Backend::http("workload").await;
    let own = workload.address;
    let mut databases = Vec::new();
    for name in ["db", "right"] {
        databases.push(Backend::tcp_at(name, own, places::port()).await);
    }
    namespace::capture_inbound(own);
    let manifests = Manifests::new(&[]);
    let nobody = places::port();
    for (name, port_name, target) in [
        ("web", "http", target_port()),
        ("db", "http-db", databases[0].port),
        ("right", "tcp-db", databases[1].port),
        ("shut", "http", nobody),
    ] {
        let port = serde_json::json!({ "name": port_name, "port": target });
        manifests.put_raw(
            &format!("{name}.json"),
            &serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": [
                {
                    "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "default" },
                    "spec": { "ports": [port] },
                },
                {
                    "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                    "metadata": { "name": format!("{name}-1"), "namespace": "default",
                        "labels": { "kubernetes.io/service-name": name } },
                    "ports": [port], "endpoints": [{ "addresses": [own] }],
                },
            ]})
            .to_string(),
        );
    }
    let control = ControlPlane::start(manifests.path()).await;
    let id = format!("sidecar~{own}~sample-0.default~default.svc.cluster.local");
    let sample = "sidecar~10.244.0.10~sample-0.default~default.svc.cluster.local";
    let pieces = [&[(sample, &*id)], discovery.pieces()].concat();
    let envoy = Envoy::start_with(Sample::Sidecar, Wire::Delta, control.grpc, &pieces).await;
    pilothouse_testkit::eventually(
        pilothouse_testkit::DEADLINE,
        "the Envoy to serve",
        async || {
            let at = std::net::SocketAddr::new(own, target_port());
            pilothouse_testkit::same(envoy.fetch_at(at, "web").await?.status, 200)
        },
    )
    .await;

    let (discovery, monitoring) = (control.grpc.to_string(), control.monitoring.to_string());
    let debug = control.http.to_string();
    let places = ["--discovery-address", &discovery, "--monitoring-address", &monitoring];
    let caller = [&["--no-envoy"], &places[..], &["--debug-address", &debug, "--service"]].concat();
    for (service, code, exit, words) in [
        ("web", "all_well", 0, ""),
        ("db", "service_not_http", 1, "protocol error"),
        ("right", "all_well", 0, ""),
        ("shut", "service_connections_fail", 1, "connection failure"),
    ] {
        let said = doctor(&[&caller[..], &[service]].concat()).await;
        said.is(code, exit);
        said.names(&[words]);
    }
}
