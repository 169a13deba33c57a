//! The mesh with TLS, identities and the injector, as docs/security.md turns it on: bookinfo applied
//! unchanged into labelled namespaces, one with client certificates and one with tokens.

use std::collections::BTreeSet;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::deployed::{NAMESPACE as PILOTS, debug_pages, rolled_out};
use crate::half_live::story;
use crate::harness::Kubectl;
use pilothouse_testkit::{repository, until};

mod rotation;

const CERTIFICATES: &str = "with-certificates";
const TOKENS: &str = "with-tokens";
const BOOKINFO: &str = "app in (details,ratings,reviews,productpage)";

/// A line of docs/security.md, by bash in the repository, with the images of the tests.
pub(crate) async fn shell(line: &str) -> String {
    let programs = std::path::Path::new(env!("CARGO_BIN_EXE_pilothouse")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-o", "pipefail", "-ec", line])
        .current_dir(repository())
        .env("PATH", path)
        .kill_on_drop(true)
        .output()
        .await
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{line}: {printed}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    printed
}

/// Certificates by the CA of this run, which tools/make-ca keeps.
async fn certificates(accounts: &str) {
    let folder = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("ca");
    shell(&format!("tools/make-ca --dir {} {accounts} | kubectl apply -f -", folder.display()))
        .await;
}

/// A folder of the manifests, with the images that are there.
async fn apply(overlay: &str) {
    let images = "s#image: pilothouse:0.1.0#image: test/pilothouse:1#";
    shell(&format!("kubectl kustomize {overlay} | sed '{images}' | kubectl apply -f -")).await;
}

/// The injector as manifests/secure has it, but for tokens in one namespace.
async fn injector(kubectl: &Kubectl) {
    shell("pilothouse injector manifests | kubectl apply -f -").await;
    let images =
        "-e s#pilothouse:0.1.0#test/pilothouse:1# -e s#pilothouse-proxy:0.1.0#test/proxy:1#";
    let tokens = format!(
        "-e 's#^    tls: certificate#&\\n    namespaces: {{{TOKENS}: {{tls: token, discovery: on-demand}}}}#'"
    );
    let overlay = "kubectl kustomize manifests/secure/injector";
    shell(&format!("{overlay} | sed {images} {tokens} | kubectl apply -f -")).await;
    rolled_out(kubectl, PILOTS, "pilothouse-injector").await;
}

pub(crate) async fn labelled(kubectl: &Kubectl, namespace: &str) {
    kubectl.apply(&[namespace_of(namespace)]).await;
    kubectl.run(&["label", "namespace", namespace, "istio-injection=enabled", "--overwrite"]).await;
}

fn namespace_of(name: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })
}

/// Waits until six pods show 2/2.
pub(crate) async fn two_of_two(kubectl: &Kubectl, namespace: &str) {
    until(&format!("six pods at 2/2 in {namespace}"), async || {
        let printed = kubectl
            .attempt(&["-n", namespace, "get", "pods", "-l", BOOKINFO, "--no-headers"])
            .await?;
        let ready = printed.lines().filter(|line| line.contains("2/2") && line.contains("Running"));
        if ready.count() == 6 { Ok(()) } else { Err(printed) }
    })
    .await;
}

/// productpage answers with what it has from the others.
async fn traffic_flows(kubectl: &Kubectl, namespace: &str) {
    let visit = ["exec", "deploy/ratings-v1", "-c", "ratings", "--", "bookinfo", "--times", "3"];
    let place = ["--visit", "productpage:9080/api/v1/products/0"];
    let command = [&["-n", namespace][..], &visit, &place].concat();
    until(&format!("productpage of {namespace}"), async || {
        let printed = kubectl.attempt(&command).await?;
        let fine = printed.lines().filter(|line| line.contains("\"status\":200")).count();
        if fine == 3 { Ok(()) } else { Err(printed) }
    })
    .await;
}

/// Each sidecar of a namespace and the identity that the control plane has of it, over all replicas.
async fn identities(
    kubectl: &Kubectl,
    namespace: &str,
) -> Result<BTreeSet<(String, String)>, String> {
    let mut found = BTreeSet::new();
    for (_, page) in debug_pages(kubectl).await? {
        let proxies = page.json("/debug/syncz").await?;
        for proxy in proxies.as_array().into_iter().flatten() {
            let text = |field: &str| proxy[field].as_str().unwrap_or_default().to_owned();
            if text("proxy").ends_with(&format!(".{namespace}")) && proxy["probe"] != true {
                found.insert((text("proxy"), text("identity")));
            }
        }
    }
    Ok(found)
}

async fn all_are(kubectl: &Kubectl, namespace: &str) {
    let wanted = format!("spiffe://cluster.local/ns/{namespace}/sa/default");
    until(&format!("six proxies of {namespace} with their identity"), async || {
        let found = identities(kubectl, namespace).await?;
        let theirs = found.iter().filter(|(_, identity)| *identity == wanted).count();
        if theirs == 6 && found.len() == 6 { Ok(()) } else { Err(format!("{found:?}")) }
    })
    .await;
}

/// The open ports of a pod, by asking all of them from the node.
async fn open_ports(kubectl: &Kubectl, pod: &str) -> BTreeSet<u16> {
    let address = kubectl.json(&["-n", PILOTS, "get", "pod", pod]).await["status"]["podIP"].clone();
    let address = address.as_str().expect("the pod has an address").to_owned();
    let mut open = BTreeSet::new();
    for port in 1..=u16::MAX {
        let connecting = TcpStream::connect((address.as_str(), port));
        // Nobody listens: refused at once. The time is for a port that says nothing at all.
        if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_secs(5), connecting).await {
            open.insert(port);
        }
    }
    open
}

/// A pod of one namespace whose sidecar says that it is of another.
fn impostor() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": "impostor", "namespace": CERTIFICATES },
        "spec": {
            "terminationGracePeriodSeconds": 1,
            "containers": [
                {
                    "name": "app", "image": "test/bookinfo:1", "imagePullPolicy": "Never",
                    "args": ["--workload=details-v1", "--address=0.0.0.0"],
                },
                {
                    // Without a policy the API server takes `auto` for `auto:latest`, and writes Always.
                    "name": "istio-proxy", "image": "auto", "imagePullPolicy": "Never",
                    "env": [{ "name": "POD_NAMESPACE", "value": TOKENS }],
                },
            ],
        },
    })
}

async fn refused_as_another_namespace(kubectl: &Kubectl) {
    kubectl.apply(&[impostor()]).await;
    let ours = format!("spiffe://cluster.local/ns/{CERTIFICATES}/sa/default");
    let log = ["-n", CERTIFICATES, "logs", "impostor", "-c", "istio-proxy"];
    until("the impostor's log to name both namespaces", async || {
        let log = kubectl.attempt(&log).await?;
        let said = log.lines().any(|line| line.contains(&ours) && line.contains(TOKENS));
        if said { Ok(()) } else { Err(log) }
    })
    .await;
    // The same by the doctor, with its code.
    let doctor = ["exec", "impostor", "-c", "istio-proxy", "--", "pilothouse", "doctor"];
    let output = kubectl.output(&[&["-n", CERTIFICATES][..], &doctor].concat()).await;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("[namespace_mismatch]") && said.contains(TOKENS), "{said}");
    let pod = kubectl.json(&["-n", CERTIFICATES, "get", "pod", "impostor"]).await;
    let all = ["containerStatuses", "initContainerStatuses"];
    let mut statuses = all.iter().flat_map(|of| pod["status"][of].as_array().into_iter().flatten());
    let proxy = statuses.find(|status| status["name"] == "istio-proxy").unwrap();
    assert_eq!(proxy["ready"], false, "{pod}");
    kubectl.run(&["-n", CERTIFICATES, "delete", "pod", "impostor", "--wait=false"]).await;
}

async fn walk_through(kubectl: &Kubectl) {
    shell("kubectl apply -f manifests/base/namespace.yaml").await;
    for namespace in [CERTIFICATES, TOKENS] {
        labelled(kubectl, namespace).await;
    }
    certificates(&format!("{CERTIFICATES} {TOKENS}")).await;
    apply("manifests/secure").await;
    rolled_out(kubectl, PILOTS, "istio-pilot").await;
    injector(kubectl).await;
    apply("manifests/secure/network-policies").await;

    // Certificates from Secrets.
    let bookinfo = "examples/kubernetes/sidecars/bookinfo.yaml";
    shell(&format!("kubectl -n {CERTIFICATES} apply -f {bookinfo}")).await;
    two_of_two(kubectl, CERTIFICATES).await;
    traffic_flows(kubectl, CERTIFICATES).await;
    all_are(kubectl, CERTIFICATES).await;
    refused_as_another_namespace(kubectl).await;

    // Tokens, without any Secret.
    kubectl.run(&["-n", TOKENS, "delete", "secret", "pilothouse-proxy-tls"]).await;
    shell(&format!("kubectl -n {TOKENS} apply -f {bookinfo}")).await;
    two_of_two(kubectl, TOKENS).await;
    traffic_flows(kubectl, TOKENS).await;
    all_are(kubectl, TOKENS).await;

    // The ports that are open are those that the policies name.
    for (selector, wanted) in
        [("istio=pilot", [15012, 15014]), ("app=pilothouse-injector", [9443, 15014])]
    {
        let pod = kubectl.pods(PILOTS, selector).await.remove(0);
        assert_eq!(open_ports(kubectl, &pod).await, BTreeSet::from(wanted), "{pod}");
    }
    rotation::without_a_restart(kubectl).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn bookinfo_unchanged_in_labelled_namespaces_over_tls() {
    let kubectl = Kubectl::default();
    let outcome = AssertUnwindSafe(walk_through(&kubectl)).catch_unwind().await;
    if let Err(panic) = outcome {
        for namespace in [PILOTS, CERTIFICATES, TOKENS] {
            let pods = kubectl.attempt(&["-n", namespace, "get", "pods", "-o", "wide"]).await;
            let events = kubectl.attempt(&["-n", namespace, "get", "events"]).await;
            eprintln!("{namespace}: {pods:?}\n{events:?}");
        }
        std::panic::resume_unwind(panic);
    }
    // The cluster as the other tests want it: nothing injects, and plaintext is back.
    shell("pilothouse injector manifests | kubectl delete --ignore-not-found -f -").await;
    shell("kubectl delete -k manifests/secure/injector --ignore-not-found").await;
    shell("kubectl delete -k manifests/secure/network-policies").await;
    for namespace in [CERTIFICATES, TOKENS] {
        kubectl.run(&["delete", "namespace", namespace, "--wait=false"]).await;
    }
    story("control_plane").await;
}
