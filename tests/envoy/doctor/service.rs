//! `--service`: why nobody is behind a name, from the control plane's pages and from Envoy.

use super::doctor;
use super::proxy::examine;
use crate::harness::backends::Backend;
use crate::harness::envoy::{Sample, Wire};
use crate::harness::lab::Lab;
use crate::harness::manifests::Service;
use crate::harness::places;

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
    crate::harness::eventually(crate::harness::DEADLINE, "the mismatch to be known", async || {
        let page = lab.control.debug("registryz").await?;
        if page.to_string().contains("mismatch") { Ok(()) } else { Err(page.to_string()) }
    })
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
    let arguments = ["--admin-address", &admin, "--debug-address", &nobody, "--service"];
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
    doctor(&arguments).await.is("service_not_examined", 2);
}
