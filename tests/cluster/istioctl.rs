//! istioctl as it is, against injected sidecars: what it reads from pods through port-forwarding of its own.

use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::sidecars;
use pilothouse_testkit::{in_time, repository, until};

async fn istioctl(arguments: &[&str]) -> String {
    let program = repository().join(".tools/bin/istioctl");
    assert!(program.exists(), "there is no {}: run `make test-cluster`", program.display());
    let output = Command::new(program).args(arguments).kill_on_drop(true).output();
    let output: Output = in_time(&format!("istioctl {arguments:?}"), output).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    text
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn proxy_config_reads_an_injected_sidecar() {
    let kubectl = sidecars::deployed().await;
    let pods = kubectl.pods(sidecars::NAMESPACE, "app=web").await;
    // Whose sidecar has every cluster, and not, as that of `web`, those that it has called.
    let pod = format!("store-0.{}", sidecars::NAMESPACE);
    let service = format!("web.{}.svc.cluster.local", sidecars::NAMESPACE);
    let cluster = format!("outbound|8000||{service}");
    let address =
        kubectl.json(&["-n", sidecars::NAMESPACE, "get", "pod", &pods[0]]).await["status"]["podIP"]
            .as_str()
            .expect("the pod has an address")
            .to_owned();
    let endpoint = format!("{address}:9080");
    let expected: [(&str, &[&str]); 5] = [
        ("clusters", &[&service, "8000", "outbound", "EDS"]),
        ("listeners", &["0.0.0.0", "15006", "InboundPassthroughCluster"]),
        ("routes", &["8000", &service]),
        ("endpoints", &[&endpoint, "HEALTHY", "OK", &cluster]),
        ("bootstrap", &["xds-grpc", "istio-pilot.istio-system"]),
    ];
    for (page, words) in expected {
        let output = if page == "bootstrap" { "json" } else { "short" };
        let shown = istioctl(&["proxy-config", page, &pod, "-o", output]).await;
        let found = match page {
            "bootstrap" => words.iter().all(|word| shown.contains(word)),
            _ => shown.lines().any(|line| words.iter().all(|word| line.contains(word))),
        };
        assert!(found, "{page} has no line with {words:?}:\n{shown}");
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn version_names_both_replicas() {
    let kubectl = sidecars::deployed().await;
    // Replicas of an older rollout may be on their way out, and are listed until they are gone.
    until("istioctl version to name two replicas", async || {
        let replicas = kubectl.pods("istio-system", "istio=pilot").await.len();
        let printed = istioctl(&["version", "-o", "json"]).await;
        let said: Value = serde_json::from_str(&printed).map_err(|error| format!("{error}: {printed}"))?;
        let ours = json!({
            "Component": "pilot", "Revision": "default",
            "Info": {
                "version": env!("CARGO_PKG_VERSION"), "revision": said["meshVersion"][0]["Info"]["revision"],
                "golang_version": "none (Rust)", "status": "unknown", "tag": env!("CARGO_PKG_VERSION"),
            },
        });
        let wanted = json!([ours, ours]);
        if replicas == 2 && said["meshVersion"] == wanted { Ok(()) } else { Err(said.to_string()) }
    })
    .await;
}
