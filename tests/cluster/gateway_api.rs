//! The Gateway API in the cluster: its custom resources, of the standard channel, and the rights that they need.

use std::path::PathBuf;

use serde_json::Value;
use tokio::process::Command;

use crate::harness::Kubectl;
use pilothouse_testkit::repository;

/// Those that an implementation for meshes reads.
pub(crate) const KINDS: [&str; 3] = ["httproutes", "grpcroutes", "referencegrants"];

/// The folder of a Go module of the version that tools/gateway-api pins.
pub(crate) async fn module(name: &str) -> PathBuf {
    let output = Command::new("go")
        .args(["mod", "download", "-json", name])
        .current_dir(repository().join("tools/gateway-api"))
        .output()
        .await
        .expect("go is installed");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    said["Dir"].as_str().unwrap_or_else(|| panic!("{output:?}")).into()
}

/// All of the channel, as the Go module has them: the suite wants them of its own version.
pub(crate) async fn crds() -> Vec<String> {
    let folder = module("sigs.k8s.io/gateway-api").await.join("config/crd/standard");
    let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let mut crds: Vec<String> = files.map(|file| file.display().to_string()).collect();
    // Besides them there is a policy against older versions.
    crds.retain(|file| file.contains("/gateway.networking.k8s.io_") && !file.contains("_vap_"));
    crds.sort();
    assert!(crds.len() >= 8, "{crds:?}");
    crds
}

/// Brings the custom resources and waits until the API server serves them.
pub(crate) async fn install(kubectl: &Kubectl) {
    for crd in crds().await {
        kubectl.run(&["apply", "--server-side", "-f", &crd]).await;
    }
    for kind in KINDS {
        let crd = format!("crd/{kind}.gateway.networking.k8s.io");
        kubectl.run(&["wait", "--for=condition=Established", "--timeout=60s", &crd]).await;
    }
}

/// Takes them away, and with them every object of their kinds.
pub(crate) async fn uninstall(kubectl: &Kubectl) {
    for crd in crds().await {
        kubectl.run(&["delete", "--ignore-not-found", "-f", &crd]).await;
    }
}

pub(crate) async fn grant_rights(kubectl: &Kubectl) {
    kubectl.run(&["apply", "-k", &rights()]).await;
}

pub(crate) async fn take_rights(kubectl: &Kubectl) {
    kubectl.run(&["delete", "--ignore-not-found", "-k", &rights()]).await;
}

fn rights() -> String {
    repository().join("manifests/routes").display().to_string()
}
