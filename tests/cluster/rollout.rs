//! What is rolled, killed and restarted in a real cluster while real Envoys, one in each variant of
//! the protocol, are under constant load: no request may fail.

use serde_json::json;

use crate::deployed::{NAMESPACE, deployed, replica_of, rolled_out};
use crate::harness::{Kubectl, until};
use crate::load::{LoadedEnvoy, Wire};

const URL: &str = "rolled:9080/details/0";

/// A Service and a Deployment `rolled`, made as bookinfo's are: readiness probe, a pause before the
/// end in which proxies hear of it, and new pods before old ones go.
async fn ten_pods(kubectl: &Kubectl) -> Vec<String> {
    let mut deployment = kubectl.json(&["get", "deployment", "details-v1"]).await;
    let labels = json!({ "app": "rolled" });
    deployment["metadata"] = json!({ "name": "rolled", "namespace": "default" });
    deployment["spec"]["selector"] = json!({ "matchLabels": labels });
    deployment["spec"]["template"]["metadata"] = json!({ "labels": labels });
    deployment["spec"]["replicas"] = json!(10);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "rolled", "namespace": "default" },
        "spec": { "selector": labels, "ports": [{ "name": "http", "port": 9080 }] },
    });
    kubectl.apply(&[service, deployment]).await;
    rolled_out(kubectl, "default", "rolled").await;
    pods(kubectl, 10).await
}

/// Waits until there are so many pods that are to stay.
async fn pods(kubectl: &Kubectl, count: usize) -> Vec<String> {
    until(&format!("{count} pods"), async || {
        let pods = kubectl.pods("default", "app=rolled").await;
        if pods.len() == count { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await
}

/// One in each variant of the protocol, both answered by all these pods.
async fn two_envoys(kubectl: &Kubectl, pods: &[String]) -> [LoadedEnvoy; 2] {
    let envoys = [
        LoadedEnvoy::start(kubectl, Wire::Sotw, URL).await,
        LoadedEnvoy::start(kubectl, Wire::Delta, URL).await,
    ];
    are_answered_by(&envoys, pods).await;
    envoys
}

async fn are_answered_by(envoys: &[LoadedEnvoy], pods: &[String]) {
    for envoy in envoys {
        envoy.is_answered_by(pods).await;
    }
}

async fn end(kubectl: &Kubectl, envoys: [LoadedEnvoy; 2]) {
    for envoy in &envoys {
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
    tokio::join!(rolled_out(&kubectl, NAMESPACE, "istio-pilot"), async {
        for replicas in [6, 9, 5] {
            let wanted = format!("--replicas={replicas}");
            kubectl.run(&["scale", "deployment/rolled", &wanted]).await;
            pods(&kubectl, replicas).await;
        }
    });
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
