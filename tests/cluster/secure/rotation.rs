//! Certificates that change while the mesh runs.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::{CERTIFICATES, TOKENS, all_are, certificates, traffic_flows};
use crate::deployed::NAMESPACE as PILOTS;
use crate::harness::Kubectl;
use pilothouse_testkit::eventually;

/// The kubelet looks at a pod's Secrets once a minute or so, and takes a moment more.
const KUBELET_DEADLINE: Duration = Duration::from_secs(180);

/// uid and restarts of each pod, which say whether anything was restarted.
async fn lives(kubectl: &Kubectl, namespace: &str) -> BTreeMap<String, (Value, u64)> {
    let list = kubectl.json(&["-n", namespace, "get", "pods"]).await;
    let pods = list["items"].as_array().unwrap().iter();
    pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null())
        .map(|pod| {
            let all = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
            let restarts = all.filter_map(|container| container["restartCount"].as_u64()).sum();
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            (name, (pod["metadata"]["uid"].clone(), restarts))
        })
        .collect()
}

/// That of the CA for clients stays as it is.
const SERVER_EXPIRY: &str = "pilothouse_certificate_expiry_seconds{certificate=\"server\"}";

/// When the control plane's certificate expires, as each replica says: in seconds since 1970.
async fn expiries(kubectl: &Kubectl) -> Result<Vec<String>, String> {
    let mut found = Vec::new();
    for pod in kubectl.pods(PILOTS, "istio=pilot").await {
        let page = kubectl.forward(PILOTS, &pod, 15014).await?;
        let (_, text) = page.get("/metrics").await?;
        let lines = text.lines().filter(|line| line.starts_with(SERVER_EXPIRY));
        found.extend(lines.map(str::to_owned));
    }
    if found.is_empty() { Err("no replica has the metric".to_owned()) } else { Ok(found) }
}

/// tools/make-ca once more: all replicas serve the new certificate, the sidecars have theirs, and neither a
/// pod nor a container was restarted.
pub(super) async fn without_a_restart(kubectl: &Kubectl) {
    let namespaces = [PILOTS, CERTIFICATES, TOKENS];
    let mut before = Vec::new();
    for namespace in namespaces {
        before.push(lives(kubectl, namespace).await);
    }
    let old = expiries(kubectl).await.unwrap();
    certificates(&format!("--days 20 {CERTIFICATES}")).await;
    eventually(KUBELET_DEADLINE, "every replica to serve its new certificate", async || {
        let new = expiries(kubectl).await?;
        let changed = new.len() == old.len() && new.iter().all(|line| !old.contains(line));
        if changed { Ok(()) } else { Err(format!("{old:?} and now {new:?}")) }
    })
    .await;
    for (namespace, before) in namespaces.iter().zip(&before) {
        assert_eq!(lives(kubectl, namespace).await, *before, "{namespace}");
    }
    for namespace in [CERTIFICATES, TOKENS] {
        traffic_flows(kubectl, namespace).await;
        all_are(kubectl, namespace).await;
    }
}
