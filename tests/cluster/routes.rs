//! Bookinfo with sidecars, steered by the HTTPRoutes of examples/routes as `kubectl apply` brings them: who answers
//! whom, the status that kubectl shows, rights that are missing, and CRDs that come late and go.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::admission::injecting;
use crate::deployed::{NAMESPACE as SYSTEM, rolled_out};
use crate::gateway_api;
use crate::harness::Kubectl;
use crate::secure::{labelled, shell, two_of_two};
use pilothouse_testkit::{eventually, until};

const NAMESPACE: &str = "steered";

/// What is promised for CRDs and rights that come, and slack for a busy machine.
const A_MINUTE: Duration = Duration::from_secs(75);

/// Bookinfo as a user has it, in a labelled namespace, and a Service for each version of reviews.
async fn bookinfo(kubectl: &Kubectl) {
    labelled(kubectl, NAMESPACE).await;
    let apply = format!("kubectl -n {NAMESPACE} apply -f -");
    let images = "sed 's#pilothouse-bookinfo:0.1.0#test/bookinfo:1#'";
    shell(&format!("{images} examples/kubernetes/sidecars/bookinfo.yaml | {apply}")).await;
    shell(&format!("{apply} <examples/routes/versions.yaml")).await;
    two_of_two(kubectl, NAMESPACE).await;
}

async fn apply(route: &str) {
    shell(&format!("kubectl -n {NAMESPACE} apply -f examples/routes/{route}.yaml")).await;
}

/// How often each version of reviews (`v1`) or status (`500`) answered the application of ratings, through its sidecar.
async fn answers(
    kubectl: &Kubectl,
    user: Option<&str>,
    times: usize,
) -> Result<BTreeMap<String, usize>, String> {
    let times = format!("--times={times}");
    let program = ["--", "bookinfo", "--visit=reviews:9080/reviews/0", "--every-ms=5", &times];
    let user = user.map(|user| format!("--user={user}"));
    let exec = ["-n", NAMESPACE, "exec", "deploy/ratings-v1", "-c", "ratings"];
    let user: Vec<&str> = user.as_deref().into_iter().collect();
    let printed = kubectl.attempt(&[&exec[..], &program[..], &user[..]].concat()).await?;
    let mut answers = BTreeMap::new();
    for line in printed.lines() {
        let answer: Value =
            serde_json::from_str(line).map_err(|error| format!("{line}: {error}"))?;
        let who = match answer["pod"].as_str() {
            // reviews-v1-7d9f8c6b5-x2x4z
            Some(pod) => pod.split('-').nth(1).unwrap_or_default().to_owned(),
            None => answer["status"].to_string(),
        };
        *answers.entry(who).or_default() += 1;
    }
    Ok(answers)
}

/// Waits until these and no others have answered; the first visits may be from before the change.
async fn only(kubectl: &Kubectl, user: Option<&str>, wanted: &[&str]) {
    eventually(A_MINUTE, &format!("{wanted:?} to answer {user:?}"), async || {
        let seen = answers(kubectl, user, 30).await?;
        if seen.keys().eq(wanted) { Ok(()) } else { Err(format!("{seen:?}")) }
    })
    .await;
}

/// The conditions of our status for the route's only parent, each as `True Accepted`, once they are of the route as it
/// stands now.
async fn conditions(kubectl: &Kubectl) -> BTreeMap<String, String> {
    until("the status of the newest generation", async || {
        let get = ["-n", NAMESPACE, "get", "httproute", "reviews", "-o", "json"];
        let route: Value = serde_json::from_str(&kubectl.attempt(&get).await?).unwrap();
        let parents = route["status"]["parents"].as_array().into_iter().flatten();
        let mut ours = parents.filter(|parent| parent["controllerName"] == "pilothouse.io/mesh");
        let (Some(parent), None) = (ours.next(), ours.next()) else {
            return Err(format!("{}", route["status"]));
        };
        assert_eq!(parent["parentRef"], route["spec"]["parentRefs"][0]);
        let mut conditions = BTreeMap::new();
        for condition in parent["conditions"].as_array().unwrap() {
            if condition["observedGeneration"] != route["metadata"]["generation"] {
                return Err(format!("{condition}"));
            }
            let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
            conditions.insert(text("type"), format!("{} {}", text("status"), text("reason")));
        }
        Ok(conditions)
    })
    .await
}

async fn assert_well(kubectl: &Kubectl) {
    let conditions = conditions(kubectl).await;
    assert_eq!(conditions["Accepted"], "True Accepted");
    assert_eq!(conditions["ResolvedRefs"], "True ResolvedRefs");
}

async fn remove(kubectl: &Kubectl) {
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait"]).await;
    gateway_api::uninstall(kubectl).await;
    gateway_api::take_rights(kubectl).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn bookinfo_is_steered_by_version_by_share_and_by_user() {
    let kubectl = injecting().await;
    gateway_api::install(&kubectl).await;
    gateway_api::grant_rights(&kubectl).await;
    bookinfo(&kubectl).await;
    only(&kubectl, None, &["v1", "v2", "v3"]).await;

    apply("all-v1").await;
    assert_well(&kubectl).await;
    only(&kubectl, None, &["v1"]).await;

    apply("ninety-ten").await;
    assert_well(&kubectl).await;
    only(&kubectl, None, &["v1", "v3"]).await;
    // Four standard deviations around 40.
    let shares = answers(&kubectl, None, 400).await.unwrap();
    assert!(shares.len() == 2 && (16..=64).contains(&shares["v3"]), "{shares:?}");

    apply("by-user").await;
    assert_well(&kubectl).await;
    only(&kubectl, Some("jason"), &["v2"]).await;
    only(&kubectl, None, &["v1", "v2", "v3"]).await;

    // A backend that does not exist: 500 for its share, and the status says which.
    let patch = json!([
        { "op": "replace", "path": "/spec/rules/0/backendRefs/0/name", "value": "reviews-v4" },
    ]);
    let patch = patch.to_string();
    kubectl
        .run(&["-n", NAMESPACE, "patch", "httproute", "reviews", "--type=json", "-p", &patch])
        .await;
    let told = conditions(&kubectl).await;
    assert_eq!(told["Accepted"], "True Accepted");
    assert_eq!(told["ResolvedRefs"], "False BackendNotFound");
    only(&kubectl, Some("jason"), &["500"]).await;
    only(&kubectl, None, &["v1", "v2", "v3"]).await;

    kubectl.run(&["-n", NAMESPACE, "delete", "httproute", "reviews"]).await;
    only(&kubectl, Some("jason"), &["v1", "v2", "v3"]).await;
    remove(&kubectl).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn crds_and_rights_may_come_late_and_go() {
    let kubectl = injecting().await;
    gateway_api::uninstall(&kubectl).await;
    gateway_api::take_rights(&kubectl).await;
    let restart = async || {
        kubectl.run(&["-n", SYSTEM, "rollout", "restart", "deployment/istio-pilot"]).await;
        rolled_out(&kubectl, SYSTEM, "istio-pilot").await;
    };

    // Neither CRDs nor rights, from the start: it is ready, and what else there is works.
    restart().await;
    bookinfo(&kubectl).await;
    only(&kubectl, None, &["v1", "v2", "v3"]).await;

    // CRDs without the right to read them, and a route: nobody knows of it.
    gateway_api::install(&kubectl).await;
    until("the kind to be served", async || kubectl.attempt(&["get", "httproutes"]).await).await;
    apply("all-v1").await;
    restart().await;
    only(&kubectl, None, &["v1", "v2", "v3"]).await;
    let get = ["-n", NAMESPACE, "get", "httproute", "reviews", "-o", "jsonpath={.status.parents}"];
    assert_eq!(kubectl.run(&get).await, "");

    gateway_api::grant_rights(&kubectl).await;
    only(&kubectl, None, &["v1"]).await;
    assert_well(&kubectl).await;

    // Rights that are taken away leave what is known, as with every watch.
    gateway_api::take_rights(&kubectl).await;
    kubectl.run(&["-n", NAMESPACE, "rollout", "restart", "deployment/details-v1"]).await;
    rolled_out(&kubectl, NAMESPACE, "details-v1").await;
    only(&kubectl, None, &["v1"]).await;

    // The CRDs go, and with them all routes.
    gateway_api::grant_rights(&kubectl).await;
    gateway_api::uninstall(&kubectl).await;
    only(&kubectl, None, &["v1", "v2", "v3"]).await;
    // They come back, to a control plane that has been running all the time.
    gateway_api::install(&kubectl).await;
    until("the kind to be served", async || kubectl.attempt(&["get", "httproutes"]).await).await;
    apply("by-user").await;
    only(&kubectl, Some("jason"), &["v2"]).await;
    for pod in kubectl.pods(SYSTEM, "istio=pilot").await {
        let log = kubectl.run(&["-n", SYSTEM, "logs", &pod]).await;
        let told =
            log.lines().filter(|line| line.contains("httproutes") || line.contains("HTTPRoute"));
        let told: Vec<_> = told.collect();
        assert!(told.len() <= 20, "a line at each change, not at each try: {told:#?}");
    }
    remove(&kubectl).await;
}
