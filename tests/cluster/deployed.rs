//! The project's own manifests and images: `istio-pilot` with two replicas, the sample Envoy, and
//! bookinfo, all as pods. One deployment serves all tests here; each leaves it as it found it.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::process::Child;
use tokio::sync::OnceCell;

use crate::harness::{Forward, Kubectl};
use pilothouse_testkit::until;

pub(crate) const NAMESPACE: &str = "istio-system";

/// Applies the overlay once and waits until all of it is available.
pub(crate) async fn deployed() -> Kubectl {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let kubectl = Kubectl::default();
    APPLIED
        .get_or_init(async || {
            let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/overlay");
            kubectl.run(&["apply", "-k", &overlay.display().to_string()]).await;
            for (namespace, deployment) in [(NAMESPACE, "istio-pilot"), ("default", "envoy")] {
                rolled_out(&kubectl, namespace, deployment).await;
            }
            for workload in [
                "details-v1",
                "ratings-v1",
                "reviews-v1",
                "reviews-v2",
                "reviews-v3",
                "productpage-v1",
            ] {
                rolled_out(&kubectl, "default", workload).await;
            }
        })
        .await;
    kubectl
}

pub(crate) async fn rolled_out(kubectl: &Kubectl, namespace: &str, deployment: &str) {
    let name = format!("deployment/{deployment}");
    let status =
        kubectl.attempt(&["-n", namespace, "rollout", "status", &name, "--timeout=120s"]).await;
    if let Err(error) = status {
        let selector = if deployment == "istio-pilot" { "istio=pilot" } else { "" };
        let pods = kubectl.run(&["-n", namespace, "describe", "pods", "-l", selector]).await;
        let logs = kubectl.attempt(&["-n", namespace, "logs", &name, "--tail=30"]).await;
        panic!("{error}\n{pods}\n{logs:?}");
    }
}

async fn scale(kubectl: &Kubectl, deployment: &str, replicas: u32) {
    kubectl
        .run(&["scale", &format!("deployment/{deployment}"), &format!("--replicas={replicas}")])
        .await;
}

/// One answer as a client pod saw it.
#[derive(Clone, Debug)]
struct Visit {
    place: String,
    /// The pod that answered 200, or what there was instead.
    answer: Result<String, String>,
}

/// A client pod that asks through Envoy without a pause.
struct Visitor {
    kubectl: Kubectl,
    name: &'static str,
    visits: Arc<Mutex<Vec<Visit>>>,
    _log: Child,
}

impl Visitor {
    /// Starts the pod and waits for its first answer.
    async fn start(kubectl: &Kubectl, name: &'static str, places: &[&str]) -> Self {
        kubectl.run(&["delete", "pod", name, "--ignore-not-found", "--grace-period=1"]).await;
        let visits = places.iter().flat_map(|place| ["--visit", place]);
        let arguments: Vec<&str> =
            ["--proxy=envoy:80", "--every-ms=20"].into_iter().chain(visits).collect();
        kubectl
            .apply(&[json!({
                "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "default" },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "visitor", "image": "test/bookinfo:1", "imagePullPolicy": "Never",
                        "args": arguments,
                    }],
                },
            })])
            .await;
        kubectl
            .run(&["wait", "--for=condition=Ready", &format!("pod/{name}"), "--timeout=60s"])
            .await;
        let (log, mut lines) = kubectl.spawn_following(&["logs", "-f", name]);
        let visits: Arc<Mutex<Vec<Visit>>> = Arc::default();
        let seen = visits.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                let line: Value = serde_json::from_str(&line).expect("the visitor prints JSON");
                let answer = match (line["status"].as_u64(), &line["error"]) {
                    (Some(200), _) => Ok(line["pod"].as_str().unwrap_or_default().to_owned()),
                    (Some(status), _) => Err(status.to_string()),
                    (None, error) => Err(error.to_string()),
                };
                let place = line["visit"].as_str().unwrap_or_default().to_owned();
                seen.lock().unwrap().push(Visit { place, answer });
            }
        });
        let visitor = Self { kubectl: kubectl.clone(), name, visits, _log: log };
        until("the first visit", async || {
            let visits = visitor.visits.lock().unwrap().len();
            if visits > 0 { Ok(()) } else { Err("none".to_owned()) }
        })
        .await;
        visitor
    }

    /// Waits until the newest answers for `place` (as many as it takes to meet every endpoint)
    /// satisfy `wanted`, which gets the distinct ones.
    async fn sees(
        &self,
        place: &str,
        what: &str,
        wanted: impl Fn(&BTreeSet<Result<String, String>>) -> bool,
    ) {
        until(&format!("{place}: {what}"), async || {
            let visits = self.visits.lock().unwrap();
            let newest: BTreeSet<_> = visits
                .iter()
                .rev()
                .filter(|visit| visit.place == place)
                .take(40)
                .map(|visit| visit.answer.clone())
                .collect();
            if wanted(&newest) { Ok(()) } else { Err(format!("{newest:?}")) }
        })
        .await;
    }

    /// Ends the pod; none of its visits may have failed.
    async fn met_no_failure(self) {
        let visits = self.visits.lock().unwrap().clone();
        let failed: Vec<_> =
            visits.iter().enumerate().filter(|(_, visit)| visit.answer.is_err()).collect();
        assert!(
            failed.is_empty(),
            "{} of {} visits failed: {failed:?}",
            failed.len(),
            visits.len()
        );
        self.end().await;
    }

    async fn end(self) {
        self.kubectl.run(&["delete", "pod", self.name, "--grace-period=1"]).await;
    }
}

fn all_by(answers: &BTreeSet<Result<String, String>>, pods: &[String]) -> bool {
    let wanted: BTreeSet<_> = pods.iter().cloned().map(Ok).collect();
    !pods.is_empty() && *answers == wanted
}

/// The debug pages of every replica, by pod.
pub(crate) async fn debug_pages(kubectl: &Kubectl) -> Result<Vec<(String, Forward)>, String> {
    let mut pages = Vec::new();
    for pod in kubectl.pods(NAMESPACE, "istio=pilot").await {
        pages.push((pod.clone(), kubectl.forward(NAMESPACE, &pod, 8080).await?));
    }
    Ok(pages)
}

/// The replica that this Envoy pod's stream is on, once everything that it was sent is acked.
pub(crate) async fn replica_of(kubectl: &Kubectl, envoy: &str) -> String {
    until("a replica that has the Envoy, all acked", async || {
        let mut seen = Vec::new();
        let pages = debug_pages(kubectl).await?;
        for (replica, page) in &pages {
            let proxies = page.json("/debug/syncz").await?;
            for proxy in proxies.as_array().into_iter().flatten() {
                // A type of which a reconnected proxy had the newest already is not sent again.
                let acked = ["cluster", "endpoint", "listener", "route"]
                    .iter()
                    .all(|kind| proxy[format!("{kind}_sent")] == proxy[format!("{kind}_acked")]);
                if acked && proxy["proxy"].as_str().is_some_and(|id| id.contains(envoy)) {
                    return Ok(replica.clone());
                }
            }
            seen.push(format!("{replica}: {proxies}"));
        }
        Err(seen.join("\n"))
    })
    .await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn two_replicas_run_with_the_rights_they_need_and_no_others() {
    let kubectl = deployed().await;
    let deployment = kubectl.json(&["-n", NAMESPACE, "get", "deployment", "istio-pilot"]).await;
    assert_eq!(deployment["status"]["readyReplicas"], 2, "{deployment}");

    let account = "--as=system:serviceaccount:istio-system:istio-pilot";
    let resources = [
        "services",
        "endpointslices.discovery.k8s.io",
        "endpoints",
        "pods",
        "secrets",
        "configmaps",
    ];
    for resource in resources {
        let watched = resources[..3].contains(&resource);
        for verb in ["get", "list", "watch", "create", "update", "patch", "delete"] {
            let allowed = watched && ["get", "list", "watch"].contains(&verb);
            // `can-i` answers no with a status of 1.
            let answer = kubectl.attempt(&["auth", "can-i", verb, resource, account, "-A"]).await;
            assert_eq!(answer.is_ok(), allowed, "{verb} {resource}: {answer:?}");
        }
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_client_pod_is_served_while_the_mesh_changes() {
    let kubectl = deployed().await;
    let (reviews, details, page) = (
        "reviews:9080/reviews/0",
        "details.default:9080/details/0",
        "productpage:9080/api/v1/products/0",
    );
    let visitor = Visitor::start(&kubectl, "visitor", &[reviews, details, page]).await;
    let pods = kubectl.pods("default", "app=reviews").await;
    assert_eq!(pods.len(), 3);
    visitor.sees(reviews, "all three versions", |answers| all_by(answers, &pods)).await;

    // Scaled up: the new pods answer too.
    scale(&kubectl, "reviews-v1", 3).await;
    rolled_out(&kubectl, "default", "reviews-v1").await;
    let pods = kubectl.pods("default", "app=reviews").await;
    assert_eq!(pods.len(), 5);
    visitor.sees(reviews, "five pods", |answers| all_by(answers, &pods)).await;

    // Rolled: another pod answers, and the old one no more.
    let before = kubectl.pods("default", "app=details").await;
    kubectl.run(&["rollout", "restart", "deployment/details-v1"]).await;
    rolled_out(&kubectl, "default", "details-v1").await;
    let pods = until("the old pod to be on its way out", async || {
        let pods = kubectl.pods("default", "app=details").await;
        if pods.len() == 1 && pods != before { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await;
    visitor.sees(details, "the new pod alone", |answers| all_by(answers, &pods)).await;

    // Scaled down, one version to nothing.
    scale(&kubectl, "reviews-v1", 1).await;
    scale(&kubectl, "reviews-v3", 0).await;
    let pods = until("two pods of reviews", async || {
        let pods = kubectl.pods("default", "app=reviews").await;
        if pods.len() == 2 { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await;
    visitor.sees(reviews, "v1 and v2 alone", |answers| all_by(answers, &pods)).await;

    scale(&kubectl, "reviews-v3", 1).await;
    rolled_out(&kubectl, "default", "reviews-v3").await;
    visitor.met_no_failure().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_service_comes_and_goes() {
    let kubectl = deployed().await;
    let place = "leaflets.default.svc.cluster.local:8000/details/0";
    let visitor = Visitor::start(&kubectl, "early-visitor", &[place]).await;
    visitor
        .sees(place, "404 before it exists", |answers| *answers == [Err("404".to_owned())].into())
        .await;

    let mut deployment = kubectl.json(&["get", "deployment", "details-v1"]).await;
    let labels = json!({ "app": "leaflets" });
    deployment["metadata"] = json!({ "name": "leaflets", "namespace": "default" });
    deployment["spec"]["selector"] = json!({ "matchLabels": labels });
    deployment["spec"]["template"]["metadata"] = json!({ "labels": labels });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "leaflets", "namespace": "default" },
        "spec": { "selector": labels, "ports": [{ "name": "http", "port": 8000, "targetPort": 9080 }] },
    });
    kubectl.apply(&[service]).await;
    visitor
        .sees(place, "503 without endpoints", |answers| *answers == [Err("503".to_owned())].into())
        .await;
    kubectl.apply(&[deployment]).await;
    rolled_out(&kubectl, "default", "leaflets").await;
    let pods = kubectl.pods("default", "app=leaflets").await;
    visitor.sees(place, "its pod", |answers| all_by(answers, &pods)).await;

    kubectl.run(&["delete", "service", "leaflets"]).await;
    visitor
        .sees(place, "404 after it is gone", |answers| *answers == [Err("404".to_owned())].into())
        .await;
    kubectl.run(&["delete", "deployment", "leaflets"]).await;
    visitor.end().await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn logs_and_debug_pages_are_reached_by_kubectl() {
    let kubectl = deployed().await;
    let pages = debug_pages(&kubectl).await.unwrap();
    assert_eq!(pages.len(), 2);
    for (pod, page) in &pages {
        let log = kubectl.run(&["-n", NAMESPACE, "logs", pod]).await;
        assert!(log.contains("15010"), "the log of {pod} says where it listens: {log}");

        // Every replica knows what the real controllers wrote.
        until("endpointz to agree with the slices", async || {
            let slices = kubectl
                .json(&["get", "endpointslices", "-l", "kubernetes.io/service-name=reviews"])
                .await;
            let mut wanted: BTreeSet<String> = BTreeSet::new();
            for endpoint in slices["items"]
                .as_array()
                .into_iter()
                .flatten()
                .flat_map(|s| s["endpoints"].as_array())
                .flatten()
            {
                if endpoint["conditions"]["ready"] == true {
                    wanted.extend(endpoint["addresses"][0].as_str().map(str::to_owned));
                }
            }
            let endpointz = page.json("/debug/endpointz").await?;
            let shards = &endpointz["reviews.default.svc.cluster.local"]["default"]["Shards"];
            let shown: BTreeSet<String> = shards
                .as_object()
                .into_iter()
                .flat_map(|shards| shards.values())
                .filter_map(Value::as_array)
                .flatten()
                .filter_map(|endpoint| endpoint["Addresses"][0].as_str().map(str::to_owned))
                .collect();
            if !wanted.is_empty() && shown == wanted {
                Ok(())
            } else {
                Err(format!("{shown:?} for {wanted:?}"))
            }
        })
        .await;
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_killed_replica_is_not_missed() {
    let kubectl = deployed().await;
    let reviews = "reviews:9080/reviews/0";
    let visitor = Visitor::start(&kubectl, "unmoved-visitor", &[reviews]).await;
    let envoy = kubectl.pods("default", "app=envoy").await.remove(0);

    let killed = replica_of(&kubectl, &envoy).await;
    kubectl.run(&["-n", NAMESPACE, "delete", "pod", &killed, "--grace-period=0", "--force"]).await;
    let other = replica_of(&kubectl, &envoy).await;
    assert_ne!(other, killed);

    // What changes now gets there by the other replica.
    scale(&kubectl, "reviews-v2", 2).await;
    rolled_out(&kubectl, "default", "reviews-v2").await;
    let pods = kubectl.pods("default", "app=reviews").await;
    visitor.sees(reviews, "the pod that came afterwards", |answers| all_by(answers, &pods)).await;
    rolled_out(&kubectl, NAMESPACE, "istio-pilot").await;

    // The whole control plane rolled: streams move, requests go on.
    kubectl.run(&["-n", NAMESPACE, "rollout", "restart", "deployment/istio-pilot"]).await;
    rolled_out(&kubectl, NAMESPACE, "istio-pilot").await;
    replica_of(&kubectl, &envoy).await;
    scale(&kubectl, "reviews-v2", 1).await;
    let pods = until("three pods of reviews", async || {
        let pods = kubectl.pods("default", "app=reviews").await;
        if pods.len() == 3 { Ok(pods) } else { Err(format!("{pods:?}")) }
    })
    .await;
    visitor.sees(reviews, "the pods that are left", |answers| all_by(answers, &pods)).await;
    visitor.met_no_failure().await;
}
