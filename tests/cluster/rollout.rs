//! What is rolled, killed and restarted in a real cluster while real Envoys, one in each variant of
//! the protocol, are under constant load: no request may fail.

use std::net::SocketAddr;

use serde_json::json;

use crate::deployed::{NAMESPACE, deployed, replica_of, rolled_out};
use crate::harness::Kubectl;
use crate::node::{Killed, Replicas};
use pilothouse_testkit::envoy::Wire;
use pilothouse_testkit::loaded_envoy::LoadedEnvoy;
use pilothouse_testkit::until;

pub(crate) const URL: &str = "rolled:9080/details/0";

/// A Service and a Deployment `rolled`, made as bookinfo's are: readiness probe, a pause before the
/// end in which proxies hear of it, and new pods before old ones go.
pub(crate) async fn ten_pods(kubectl: &Kubectl) -> Vec<String> {
    let mut deployment = kubectl.json(&["get", "deployment", "details-v1"]).await;
    let labels = json!({ "app": "rolled" });
    deployment["metadata"] = json!({ "name": "rolled", "namespace": "default" });
    deployment["spec"]["selector"] = json!({ "matchLabels": labels });
    deployment["spec"]["template"]["metadata"] = json!({ "labels": labels });
    deployment["spec"]["replicas"] = json!(10);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "rolled", "namespace": "default",
            // A request that fails shows as one.
            "annotations": { "pilothouse.io/retries": "0" } },
        "spec": { "selector": labels, "ports": [{ "name": "http", "port": 9080 }] },
    });
    kubectl.apply(&[service, deployment]).await;
    rolled_out(kubectl, "default", "rolled").await;
    pods(kubectl, 10).await
}

/// Waits until there are so many pods that are to stay.
pub(crate) async fn pods(kubectl: &Kubectl, count: usize) -> Vec<String> {
    until(&format!("{count} pods"), async || {
        let pods = kubectl.pods("default", "app=rolled").await;
        if pods.len() == count { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await
}

/// Of the control plane, whichever replica answers there.
pub(crate) async fn cluster_address(kubectl: &Kubectl) -> SocketAddr {
    let service = kubectl.json(&["-n", NAMESPACE, "get", "service", "istio-pilot"]).await;
    let address = service["spec"]["clusterIP"].as_str().unwrap();
    SocketAddr::new(address.parse().unwrap(), 15010)
}

/// One in each variant of the protocol, both answered by all these pods.
async fn two_envoys(kubectl: &Kubectl, pods: &[String]) -> [LoadedEnvoy; 2] {
    let pilot = cluster_address(kubectl).await;
    let envoys = [
        LoadedEnvoy::start(pilot, Wire::Sotw, "loaded-sotw", URL).await,
        LoadedEnvoy::start(pilot, Wire::Delta, "loaded-delta", URL).await,
    ];
    are_answered_by(&envoys, pods).await;
    envoys
}

pub(crate) async fn are_answered_by(envoys: &[LoadedEnvoy], pods: &[String]) {
    for envoy in envoys {
        envoy.is_answered_by(pods).await;
    }
}

pub(crate) async fn end(kubectl: &Kubectl, envoys: impl AsRef<[LoadedEnvoy]>) {
    for envoy in envoys.as_ref() {
        envoy.met_no_failure();
    }
    drop(envoys);
    kubectl.run(&["delete", "service/rolled", "deployment/rolled"]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn ten_pods_are_rolled_under_load() {
    let kubectl = deployed().await;
    let before = ten_pods(&kubectl).await;
    let envoys = two_envoys(&kubectl, &before).await;

    kubectl.run(&["rollout", "restart", "deployment/rolled"]).await;
    rolled_out(&kubectl, "default", "rolled").await;
    let after = pods(&kubectl, 10).await;
    assert!(after.iter().all(|pod| !before.contains(pod)), "all are new: {before:?}, {after:?}");
    are_answered_by(&envoys, &after).await;

    // The old ones are gone for good, not only on their way out.
    let old: Vec<String> = before.iter().map(|pod| format!("pod/{pod}")).collect();
    let mut wait = vec!["wait", "--for=delete", "--timeout=60s"];
    wait.extend(old.iter().map(String::as_str));
    kubectl.run(&wait).await;
    for envoy in &envoys {
        envoy.carries(100).await;
    }
    end(&kubectl, envoys).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn the_control_plane_is_rolled_under_load_while_the_mesh_changes() {
    let kubectl = deployed().await;
    let before = ten_pods(&kubectl).await;
    let envoys = two_envoys(&kubectl, &before).await;
    let old = kubectl.pods(NAMESPACE, "istio=pilot").await;
    assert_eq!(old.len(), 2, "{old:?}");

    kubectl.run(&["-n", NAMESPACE, "rollout", "restart", "deployment/istio-pilot"]).await;
    // Scaled for as long as there is an old replica.
    let (mut meanwhile, mut replicas) = (0, [6, 9].into_iter().cycle());
    loop {
        let replicas = replicas.next().unwrap();
        let pilots = kubectl.pods(NAMESPACE, "istio=pilot").await;
        if !pilots.iter().any(|pilot| old.contains(pilot)) {
            break;
        }
        kubectl.run(&["scale", "deployment/rolled", &format!("--replicas={replicas}")]).await;
        pods(&kubectl, replicas).await;
        meanwhile += 1;
    }
    assert!(meanwhile > 1, "the mesh changed {meanwhile} times while the control plane was rolled");
    kubectl.run(&["scale", "deployment/rolled", "--replicas=5"]).await;
    pods(&kubectl, 5).await;
    rolled_out(&kubectl, NAMESPACE, "istio-pilot").await;
    until("two new replicas alone", async || {
        let new = kubectl.pods(NAMESPACE, "istio=pilot").await;
        let all_new = new.len() == 2 && new.iter().all(|pod| !old.contains(pod));
        if all_new { Ok(()) } else { Err(format!("{new:?} after {old:?}")) }
    })
    .await;
    // The streams have moved, and what they carry is the mesh as it is now.
    for id in ["loaded-sotw", "loaded-delta"] {
        let replica = replica_of(&kubectl, id).await;
        assert!(!old.contains(&replica), "{id} is on {replica}");
    }
    are_answered_by(&envoys, &pods(&kubectl, 5).await).await;
    // By a stream of the new replicas, not only of the old ones' last word.
    kubectl.run(&["scale", "deployment/rolled", "--replicas=7"]).await;
    rolled_out(&kubectl, "default", "rolled").await;
    are_answered_by(&envoys, &pods(&kubectl, 7).await).await;
    end(&kubectl, envoys).await;
}

#[tokio::test]
#[ignore = "needs the kit's cluster: make test-cluster"]
async fn the_api_server_and_etcd_are_killed_under_load() {
    let kubectl = deployed().await;
    let before = ten_pods(&kubectl).await;
    let envoys = two_envoys(&kubectl, &before).await;
    let replicas = Replicas::watch(&kubectl).await;

    // Without an API server: both replicas say what is wrong and how old what they have is.
    let errors = replicas.watch_errors().await.unwrap();
    let server = Killed::kill("kube-apiserver");
    replicas.say_what_is_wrong(&errors).await;
    for envoy in &envoys {
        envoy.carries(600).await;
    }
    drop(server);
    serving(&kubectl).await;
    // One pod more shows that Kubernetes' own controllers are watching again: their pauses grow to half a
    // minute, and an EndpointSlice that is late by more than a pod's last pause (5 s) leads to pods that are gone.
    kubectl.run(&["scale", "deployment/rolled", "--replicas=11"]).await;
    are_answered_by(&envoys, &pods(&kubectl, 11).await).await;
    kubectl.run(&["scale", "deployment/rolled", "--replicas=6"]).await;
    let fewer = pods(&kubectl, 6).await;
    are_answered_by(&envoys, &fewer).await;

    // Without etcd the API server is there, but neither healthy nor able to do anything.
    let etcd = Killed::kill("etcd");
    until("the API server to miss etcd", async || match etcd_is_there(&kubectl).await {
        Ok(_) => Err("it says that etcd is well".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
    let write = ["annotate", "service/rolled", "while=away", "--request-timeout=3s"];
    kubectl.attempt(&write).await.expect_err("a write without etcd");
    for envoy in &envoys {
        envoy.carries(600).await;
    }
    drop(etcd);
    serving(&kubectl).await;
    etcd_is_there(&kubectl).await.unwrap();
    kubectl.run(&["scale", "deployment/rolled", "--replicas=8"]).await;
    rolled_out(&kubectl, "default", "rolled").await;
    are_answered_by(&envoys, &pods(&kubectl, 8).await).await;

    replicas.were_ready_all_along(&kubectl).await;
    end(&kubectl, envoys).await;
}

async fn etcd_is_there(kubectl: &Kubectl) -> Result<String, String> {
    kubectl.attempt(&["get", "--raw", "/readyz/etcd", "--request-timeout=5s"]).await
}

async fn serving(kubectl: &Kubectl) {
    until("the API server", async || {
        kubectl.attempt(&["get", "--raw", "/readyz", "--request-timeout=5s"]).await.map(|_| ())
    })
    .await;
}
