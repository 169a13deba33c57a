//! What Kubernetes' own controllers make of Services, pods and Endpoints, and what comes of it here.
//! There is no kubelet, so the test itself says what becomes of pods.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use super::{ApiServer, Envoy, Pilot, program};
use crate::harness::Kubectl;
use pilothouse_testkit::{Process, json as page, until};

const CONTROLLERS: &str = "--controllers=deployment-controller,replicaset-controller,\
    statefulset-controller,endpoints-controller,endpointslice-controller,\
    endpointslice-mirroring-controller";

/// An endpoint as `/debug/endpointz` has it: `ADDRESS:PORT HEALTH HOSTNAME`, the health being 0
/// (ready), 1 (not ready) or 2 (on its way out).
async fn shows(pilot: &Pilot, service: &str, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|one| (*one).to_owned()).collect();
    until(&format!("the endpoints of {service}: {wanted:?}"), async || {
        let page = page(&format!("{}/debug/endpointz", pilot.debug)).await?;
        let shards = &page[format!("{service}.default.svc.cluster.local")]["default"]["Shards"];
        let endpoints = shards["Kubernetes/Kubernetes"].as_array().into_iter().flatten();
        let text = |one: &Value| {
            let (address, port) = (one["Addresses"][0].as_str()?, one["EndpointPort"].as_u64()?);
            let name = one["HostName"].as_str().unwrap_or("-");
            Some(format!("{address}:{port} {} {name}", one["HealthStatus"]))
        };
        let shown: BTreeSet<String> = endpoints.filter_map(text).collect();
        if shown == wanted { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
}

/// Istio's number for how a service is reached: 0 by an address, 2 headless, 4 an alias.
async fn is_resolved(pilot: &Pilot, service: &str, wanted: u64) {
    until(&format!("{service} to be of kind {wanted}"), async || {
        let page = page(&format!("{}/debug/registryz", pilot.debug)).await?;
        let mut all = page.as_array().into_iter().flatten();
        let own = all.find(|one| one["Attributes"]["Name"] == service);
        let own = own.ok_or_else(|| format!("no {service}"))?;
        if own["Resolution"] == wanted { Ok(()) } else { Err(own.to_string()) }
    })
    .await;
}

/// The pods with this label, once there are so many.
async fn pods(kubectl: &Kubectl, label: &str, count: usize) -> Vec<String> {
    until(&format!("{count} pods {label}"), async || {
        let list = kubectl.json(&["get", "pods", "-l", label]).await;
        let names = list["items"].as_array().into_iter().flatten();
        let names = names.filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned));
        let mut names: Vec<_> = names.collect();
        names.sort();
        if names.len() == count { Ok(names) } else { Err(format!("{names:?}")) }
    })
    .await
}

async fn runs(kubectl: &Kubectl, pod: &str, address: &str, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = json!({ "status": {
        "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": ready }],
    }});
    kubectl
        .run(&[
            "patch",
            "pod",
            pod,
            "--subresource=status",
            "--type=merge",
            "-p",
            &status.to_string(),
        ])
        .await;
}

fn workload(kind: &str, name: &str, label: &Value, port: u16, more: &Value) -> Value {
    let mut spec = json!({
        "selector": { "matchLabels": label },
        "template": {
            "metadata": { "labels": label },
            "spec": { "nodeName": "node-1", "containers": [{
                "name": "web", "image": "none", "ports": [{ "name": "web", "containerPort": port }],
            }]},
        },
    });
    for (key, value) in more.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "apps/v1", "kind": kind, "spec": spec,
        "metadata": { "name": name, "namespace": "default" } })
}

fn service(name: &str, more: &Value) -> Value {
    let mut spec = json!({ "ports": [{ "name": "http", "port": 80, "targetPort": "web" }] });
    for (key, value) in more.as_object().expect("an object") {
        spec[key] = value.clone();
    }
    json!({ "apiVersion": "v1", "kind": "Service", "spec": spec,
        "metadata": { "name": name, "namespace": "default" } })
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn what_the_controllers_make_of_services_is_served() {
    let server = ApiServer::start(&[]).await;
    let kubectl = &server.admin;
    let _controllers = Process::start(
        "kube-controller-manager",
        Command::new(program("kube-controller-manager"))
            .arg(format!("--kubeconfig={}", server.kubeconfig("admin").display()))
            .args(["--leader-elect=false", "--secure-port=0", CONTROLLERS]),
    );
    server.allow(None).await;
    let app = |name: &str| json!({ "app": name });
    kubectl
        .apply(&[
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "node-1" } }),
            service("db", &json!({ "clusterIP": "None", "selector": app("db") })),
            service("early", &json!({ "publishNotReadyAddresses": true, "selector": app("db") })),
            workload(
                "StatefulSet",
                "db",
                &app("db"),
                8080,
                &json!({ "serviceName": "db", "replicas": 2, "podManagementPolicy": "Parallel" }),
            ),
            // Two workloads behind one service, in which the same name means another number.
            service("web", &json!({ "selector": app("web") })),
            workload("Deployment", "a", &json!({ "app": "web", "v": "a" }), 8080, &json!({})),
            workload("Deployment", "b", &json!({ "app": "web", "v": "b" }), 9090, &json!({})),
            // Without selector: endpoints of one's own, as a slice and in the old way.
            service("manual", &json!({})),
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
                "metadata": { "name": "manual-1", "namespace": "default",
                    "labels": { "kubernetes.io/service-name": "manual" } },
                "ports": [{ "name": "http", "port": 7070 }],
                "endpoints": [{ "addresses": ["10.9.0.1"] }],
            }),
            service("mirrored", &json!({})),
            json!({
                "apiVersion": "v1", "kind": "Endpoints",
                "metadata": { "name": "mirrored", "namespace": "default" },
                "subsets": [{ "addresses": [{ "ip": "10.9.0.2" }],
                    "notReadyAddresses": [{ "ip": "10.9.0.3" }],
                    "ports": [{ "name": "http", "port": 7071 }] }],
            }),
        ])
        .await;
    let pilot = Pilot::start(&server, &[]).await;
    pilot.ready(200, |_| true).await;
    shows(&pilot, "manual", &["10.9.0.1:7070 0 -"]).await;
    shows(&pilot, "mirrored", &["10.9.0.2:7071 0 -", "10.9.0.3:7071 1 -"]).await;

    let names = pods(kubectl, "app=db", 2).await;
    assert_eq!(names, ["db-0", "db-1"]);
    runs(kubectl, "db-0", "10.8.0.1", true).await;
    runs(kubectl, "db-1", "10.8.0.2", false).await;
    shows(&pilot, "db", &["10.8.0.1:8080 0 db-0", "10.8.0.2:8080 1 db-1"]).await;
    shows(&pilot, "early", &["10.8.0.1:8080 0 -", "10.8.0.2:8080 0 -"]).await;
    for (label, address) in [("v=a", "10.8.1.1"), ("v=b", "10.8.1.2")] {
        let names = pods(kubectl, label, 1).await;
        runs(kubectl, &names[0], address, true).await;
    }
    shows(&pilot, "web", &["10.8.1.1:8080 0 -", "10.8.1.2:9090 0 -"]).await;
    let envoy = Envoy::start(&pilot).await;
    envoy
        .has_endpoints(&["10.8.0.1", "10.8.0.2", "10.8.1.1", "10.8.1.2", "10.9.0.1", "10.9.0.2"])
        .await;

    // Nobody ends the pod, so it is on its way out for good.
    kubectl.run(&["delete", "pod", "db-0", "--wait=false"]).await;
    shows(&pilot, "db", &["10.8.0.1:8080 2 db-0", "10.8.0.2:8080 1 db-1"]).await;
    runs(kubectl, "db-1", "10.8.0.2", true).await;
    shows(&pilot, "db", &["10.8.0.1:8080 2 db-0", "10.8.0.2:8080 0 db-1"]).await;
    shows(&pilot, "early", &["10.8.0.1:8080 0 -", "10.8.0.2:8080 0 -"]).await;

    // There and back through all types.
    is_resolved(&pilot, "web", 0).await;
    let alias = json!({ "spec": { "type": "ExternalName", "clusterIP": null, "clusterIPs": null,
        "externalName": "manual.default.svc.cluster.local" } });
    let back = json!({ "spec": { "type": "ClusterIP", "externalName": null } });
    let headless =
        json!({ "spec": { "type": "ClusterIP", "externalName": null, "clusterIP": "None" } });
    for (patch, kind) in [(&alias, 4), (&headless, 2), (&alias, 4), (&back, 0)] {
        kubectl.run(&["patch", "service", "web", "--type=merge", "-p", &patch.to_string()]).await;
        is_resolved(&pilot, "web", kind).await;
    }
    shows(&pilot, "web", &["10.8.1.1:8080 0 -", "10.8.1.2:9090 0 -"]).await;
    envoy
        .has_endpoints(&["10.8.0.1", "10.8.0.2", "10.8.1.1", "10.8.1.2", "10.9.0.1", "10.9.0.2"])
        .await;
}
