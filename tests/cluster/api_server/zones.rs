//! Hints as Kubernetes' own controller makes them of `trafficDistribution`, and the regions of
//! Nodes. There is no kubelet, so the test itself says what becomes of pods.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::{Value, json};

use super::{ApiServer, Envoy, Pilot, program};
use crate::harness::Kubectl;
use pilothouse_testkit::{Process, json as page, until};

const ZONE: &str = "topology.kubernetes.io/zone";
const REGION: &str = "topology.kubernetes.io/region";

fn node(name: &str, zone: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": name, "labels": { ZONE: zone, REGION: "north" } } })
}

fn pod(name: &str, node: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": "default", "labels": { "app": "web" } },
        "spec": { "nodeName": node, "containers": [{ "name": "web", "image": "none" }] } })
}

async fn runs(kubectl: &Kubectl, pod: &str, address: &str, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = json!({ "status": { "phase": "Running", "podIP": address,
        "podIPs": [{ "ip": address }], "conditions": [{ "type": "Ready", "status": ready }] } });
    let status = status.to_string();
    let patch = ["patch", "pod", pod, "--subresource=status", "--type=merge", "-p", &status];
    kubectl.run(&patch).await;
}

/// Waits until Envoy has these: `PRIORITY REGION/ZONE ADDRESS`.
async fn has(envoy: &Envoy, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|one| (*one).to_owned()).collect();
    until(&format!("Envoy's endpoints {wanted:?}"), async || {
        let clusters = page(&format!("{}/clusters?format=json", envoy.admin)).await?;
        let mut all = clusters["cluster_statuses"].as_array().into_iter().flatten();
        let own = all.find(|one| one["name"] == "outbound|80||web.default.svc.cluster.local");
        let hosts = own.ok_or("no cluster")?["host_statuses"].as_array().into_iter().flatten();
        let host = |one: &Value| {
            let place = &one["locality"];
            format!(
                "{} {}/{} {}",
                one["priority"].as_u64().unwrap_or_default(),
                place["region"].as_str().unwrap_or_default(),
                place["zone"].as_str().unwrap_or_default(),
                one["address"]["socket_address"]["address"].as_str().unwrap_or_default(),
            )
        };
        let shown: BTreeSet<String> = hosts.map(host).collect();
        if shown == wanted { Ok(()) } else { Err(format!("{shown:?}")) }
    })
    .await;
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn hints_of_the_controllers_keep_traffic_in_its_zone() {
    let server = ApiServer::start(&[]).await;
    let kubectl = &server.admin;
    let _controllers = Process::start(
        "kube-controller-manager",
        Command::new(program("kube-controller-manager"))
            .arg(format!("--kubeconfig={}", server.kubeconfig("admin").display()))
            .args(["--leader-elect=false", "--secure-port=0"])
            .arg("--controllers=endpointslice-controller"),
    );
    server.allow(None).await;
    let rights = ["create", "clusterrole", "nodes", "--verb=get,list,watch", "--resource=nodes"];
    kubectl.run(&rights).await;
    kubectl
        .run(&["create", "clusterrolebinding", "nodes", "--clusterrole=nodes", "--user=pilot"])
        .await;
    kubectl
        .apply(&[
            node("node-a", "zone-a"),
            node("node-b", "zone-b"),
            pod("web-a", "node-a"),
            pod("web-b", "node-b"),
            json!({ "apiVersion": "v1", "kind": "Service",
                "metadata": { "name": "web", "namespace": "default" },
                "spec": { "selector": { "app": "web" }, "trafficDistribution": "PreferClose",
                    "ports": [{ "name": "http", "port": 80, "targetPort": 8080 }] } }),
        ])
        .await;
    runs(kubectl, "web-a", "10.1.0.1", true).await;
    runs(kubectl, "web-b", "10.1.0.2", true).await;
    until("the controller's hints", async || {
        let slices =
            kubectl.json(&["get", "endpointslices", "-l", "kubernetes.io/service-name=web"]).await;
        let endpoints = slices["items"][0]["endpoints"].as_array().into_iter().flatten();
        let hinted = endpoints.filter(|one| one["hints"]["forZones"][0]["name"] == one["zone"]);
        if hinted.count() == 2 { Ok(()) } else { Err(slices.to_string()) }
    })
    .await;

    let pilot = Pilot::start(&server, &["--watch-nodes"]).await;
    pilot.ready(200, |_| true).await;
    let envoy = Envoy::start_in(&pilot, "zone-a").await;
    has(&envoy, &["0 north/zone-a 10.1.0.1", "1 north/zone-b 10.1.0.2"]).await;
    runs(kubectl, "web-a", "10.1.0.1", false).await;
    has(&envoy, &["0 north/zone-b 10.1.0.2"]).await;
    runs(kubectl, "web-a", "10.1.0.1", true).await;
    has(&envoy, &["0 north/zone-a 10.1.0.1", "1 north/zone-b 10.1.0.2"]).await;

    // Nobody asks any more: the controller takes its hints back.
    let patch = r#"{"spec":{"trafficDistribution":null}}"#;
    kubectl.run(&["patch", "service", "web", "--type=merge", "-p", patch]).await;
    has(&envoy, &["0 north/zone-a 10.1.0.1", "0 north/zone-b 10.1.0.2"]).await;
}
