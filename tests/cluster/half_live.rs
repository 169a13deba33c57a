//! The half-live story, by the same commands that `make half-live` shows (tools/half-live).

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::process::Command;

use crate::harness::Kubectl;
use pilothouse_testkit::until;

const NAMESPACE: &str = "half-live";
const APPS: [&str; 4] = ["details", "productpage", "ratings", "reviews"];
const SENTENCE: &str = "Envoy proxy is NOT ready: config not received from Pilot (is Pilot running?): \
                        cds updates: 0 successful, 0 rejected; lds updates: 0 successful, 0 rejected";

/// Plays one step of the story and gives what it printed.
pub(crate) async fn story(step: &str) -> String {
    let repository = env!("CARGO_MANIFEST_DIR");
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_pilothouse")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = Command::new(format!("{repository}/tools/half-live"))
        .arg(step)
        .env("PATH", path)
        .env("STORY_NAMESPACE", NAMESPACE)
        .env("STORY_DIR", env!("CARGO_TARGET_TMPDIR"))
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{step}: {printed}\n{errors}");
    printed
}

/// Each pod of bookinfo: its column READY as kubectl shows it, and uid and restarts.
async fn pods(kubectl: &Kubectl) -> BTreeMap<String, (String, (String, u64))> {
    let list = kubectl.json(&["-n", NAMESPACE, "get", "pods"]).await;
    let pods = list["items"].as_array().unwrap().iter();
    pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| {
            let empty = Vec::new();
            let all = pod["status"]["containerStatuses"].as_array().unwrap_or(&empty);
            let ready = all.iter().filter(|container| container["ready"] == true).count();
            let restarts =
                all.iter().filter_map(|container| container["restartCount"].as_u64()).sum();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let uid = text(&pod["metadata"]["uid"]);
            let running = pod["status"]["phase"] == "Running";
            let phase =
                if running { format!("{ready}/{}", all.len()) } else { "not running".to_owned() };
            (text(&pod["metadata"]["name"]), (phase, (uid, restarts)))
        })
        .collect()
}

/// Waits until six pods are there and each shows this.
async fn all_show(kubectl: &Kubectl, ready: &str) -> BTreeMap<String, (String, u64)> {
    until(&format!("six pods at {ready}"), async || {
        let pods = pods(kubectl).await;
        if pods.len() == 6 && pods.values().all(|(shown, _)| shown == ready) {
            Ok(pods.into_iter().map(|(name, (_, identity))| (name, identity)).collect())
        } else {
            Err(format!("{pods:?}"))
        }
    })
    .await
}

async fn dns_address(kubectl: &Kubectl) -> String {
    kubectl
        .run(&[
            "-n",
            "kube-system",
            "get",
            "service",
            "kube-dns",
            "-o",
            "jsonpath={.spec.clusterIP}",
        ])
        .await
}

/// Requests that an app's Envoy counted, by cluster.
async fn requests(kubectl: &Kubectl, app: &str) -> Result<BTreeMap<String, u64>, String> {
    let mut requests = BTreeMap::new();
    for pod in kubectl.pods(NAMESPACE, &format!("app={app}")).await {
        let path =
            format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:15020/proxy/stats/prometheus");
        let text = kubectl.attempt(&["get", "--raw", &path]).await?;
        for line in text.lines().filter(|line| line.starts_with("envoy_cluster_upstream_rq_total{"))
        {
            let cluster =
                line.split("envoy_cluster_name=\"").nth(1).and_then(|l| l.split('"').next());
            let count = line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok());
            if let (Some(cluster), Some(count)) = (cluster, count) {
                *requests.entry(cluster.to_owned()).or_default() += count;
            }
        }
    }
    Ok(requests)
}

/// productpage answers with details, reviews and ratings, and the Envoys on both sides of each of
/// these calls have counted it.
async fn traffic_passes_both_sides(kubectl: &Kubectl) {
    let mut before = BTreeMap::new();
    for app in APPS {
        before.insert(app, requests(kubectl, app).await.unwrap());
    }
    let calls = [("productpage", "details"), ("productpage", "reviews"), ("reviews", "ratings")];
    until("requests in all Envoys", async || {
        // Not every version of reviews asks ratings, so it takes some.
        let printed = story("traffic").await;
        let answers: Vec<&str> = printed.lines().filter(|line| line.starts_with('{')).collect();
        assert!(
            !answers.is_empty() && answers.iter().all(|l| l.contains("\"status\":200")),
            "{printed}"
        );
        for (from, to) in calls {
            let outbound = format!("outbound|9080||{to}.{NAMESPACE}.svc.cluster.local");
            for (app, cluster) in [(from, outbound.as_str()), (to, "inbound|9080||")] {
                let after = requests(kubectl, app).await?;
                if after.get(cluster).unwrap_or(&0) <= before[app].get(cluster).unwrap_or(&0) {
                    return Err(format!("{app} has not counted {cluster}: {after:?}"));
                }
            }
        }
        Ok(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn from_half_live_to_the_named_cause_and_back() {
    let kubectl = Kubectl::default();
    let namespace =
        json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } });
    kubectl.apply(&[namespace]).await;
    let outcome = AssertUnwindSafe(assert_walk_through(&kubectl)).catch_unwind().await;
    // Whatever happened, the cluster gets its name server back.
    story("repair_if_broken").await;
    let webhook = ["delete", "mutatingwebhookconfiguration", "pilothouse-injector"];
    kubectl.run(&[&webhook[..], &["--ignore-not-found"]].concat()).await;
    kubectl.run(&["delete", "namespace", NAMESPACE, "--wait=false"]).await;
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

async fn assert_walk_through(kubectl: &Kubectl) {
    story("control_plane").await;
    story("injector").await;
    story("deploy").await;
    all_show(kubectl, "2/2").await;
    traffic_passes_both_sides(kubectl).await;

    let in_resolv_conf = dns_address(kubectl).await;
    story("break_dns").await;
    let of_the_service = dns_address(kubectl).await;
    assert_ne!(in_resolv_conf, of_the_service);

    let looked = story("look").await;
    assert!(looked.contains(SENTENCE), "{looked}");
    let broken = all_show(kubectl, "1/2").await;
    for name in broken.keys() {
        let page = kubectl.forward(NAMESPACE, name, 15020).await.unwrap();
        let (status, body) = page.get("/healthz/ready").await.unwrap();
        assert!(status == 503 && body.starts_with(SENTENCE), "{name}: {status} {body}");
    }

    let diagnosis = story("doctor").await;
    assert!(
        diagnosis.contains(&in_resolv_conf) && diagnosis.contains(&of_the_service),
        "{in_resolv_conf} and {of_the_service} are wanted in: {diagnosis}"
    );

    story("repair").await;
    let repaired = Instant::now();
    let well = all_show(kubectl, "2/2").await;
    let took = repaired.elapsed();
    assert!(took < Duration::from_secs(15), "{took:?} until every pod was ready");
    assert_eq!(well, broken, "no pod may have been restarted");
    traffic_passes_both_sides(kubectl).await;
}
