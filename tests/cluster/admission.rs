//! The injector by its own manifests: a namespace is labelled, what is applied unchanged gets its sidecars, and what
//! happens while the injector is down, its certificate is renewed or its settings change.

use std::path::Path;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use tokio::sync::OnceCell;

use crate::deployed::{NAMESPACE as SYSTEM, deployed, rolled_out};
use crate::harness::Kubectl;
use pilothouse_testkit::until;

const INJECTOR: &str = "pilothouse-injector";
const CONFIGURATION: &str = "mutatingwebhookconfiguration/pilothouse-injector";

/// The images of the tests, native sidecars as the cluster has them.
const SETTINGS: &str = "image: test/proxy:1\nimagePullPolicy: Never\n";

/// `pilothouse injector manifests … | kubectl apply -f -`.
async fn certified(kubectl: &Kubectl, policy: &str, former: Option<&str>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilothouse"));
    command.args(["injector", "manifests", "--failure-policy", policy]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    if former.is_some() {
        command.args(["--also-trust", "-"]);
    }
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(former.unwrap_or_default().as_bytes()).await.unwrap();
    drop(stdin);
    let made = child.wait_with_output().await.unwrap();
    assert!(made.status.success());
    let text = String::from_utf8(made.stdout).unwrap();
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    kubectl.apply(&documents).await;
}

async fn set(kubectl: &Kubectl, settings: &str) {
    let config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": INJECTOR, "namespace": SYSTEM, "labels": { "app": INJECTOR } },
        "data": { "config.yaml": settings },
    });
    kubectl.apply(&[config]).await;
}

/// The control plane, bookinfo and the injector, all serving. What the story of half-live has taken away is put back.
pub(crate) async fn injecting() -> Kubectl {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let kubectl = deployed().await;
    let install = async || {
        let overlay = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/overlay/injector");
        kubectl.run(&["apply", "-k", &overlay.display().to_string()]).await;
        set(&kubectl, SETTINGS).await;
        certified(&kubectl, "Fail", None).await;
        rolled_out(&kubectl, SYSTEM, INJECTOR).await;
    };
    APPLIED.get_or_init(install).await;
    if kubectl.attempt(&["get", CONFIGURATION]).await.is_err() {
        install().await;
        // With new settings and a new certificate, which the kubelet brings to running pods within a minute or two.
        let deployment = format!("deployment/{INJECTOR}");
        kubectl.run(&["-n", SYSTEM, "rollout", "restart", &deployment]).await;
        rolled_out(&kubectl, SYSTEM, INJECTOR).await;
    }
    kubectl
}

/// Pods that are made from now on get sidecars of this discovery.
pub(crate) async fn inject_with_discovery(kubectl: &Kubectl, discovery: &str) {
    set(kubectl, &format!("{SETTINGS}discovery: {discovery}\n")).await;
    // The kubelet brings new settings to running pods within a minute or two.
    kubectl.run(&["-n", SYSTEM, "rollout", "restart", &format!("deployment/{INJECTOR}")]).await;
    rolled_out(kubectl, SYSTEM, INJECTOR).await;
    let label = format!("app={INJECTOR}");
    let pods = ["-n", SYSTEM, "get", "pods", "-l", &label, "-o", "json"];
    until("the injectors with the old settings to be gone", async || {
        let found = kubectl.attempt(&pods).await?;
        if found.contains("deletionTimestamp") { Err(found) } else { Ok(()) }
    })
    .await;
}

/// An empty namespace with this label.
async fn namespace(kubectl: &Kubectl, name: &str, injection: Option<&str>) {
    kubectl.run(&["delete", "namespace", name, "--ignore-not-found", "--wait"]).await;
    let mut namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "labels": {} },
    });
    if let Some(injection) = injection {
        namespace["metadata"]["labels"]["istio-injection"] = injection.into();
    }
    kubectl.apply(&[namespace]).await;
    // A pod before its account is refused by the API server itself.
    let account = ["-n", name, "get", "serviceaccount", "default"];
    until("the namespace's account", async || kubectl.attempt(&account).await).await;
}

fn deployment(namespace: &str, name: &str, labels: Value, annotations: Value) -> Value {
    let mut template_labels = json!({ "app": name });
    template_labels.as_object_mut().unwrap().extend(labels.as_object().unwrap().clone());
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": namespace },
        "spec": {
            "selector": { "matchLabels": { "app": name } },
            "template": {
                "metadata": { "labels": template_labels, "annotations": annotations },
                "spec": {
                    "terminationGracePeriodSeconds": 1,
                    "containers": [{
                        "name": "app", "image": "test/bookinfo:1", "imagePullPolicy": "Never",
                        "args": ["--workload=details-v1", "--address=0.0.0.0", "--port=9080"],
                        "env": [{
                            "name": "POD_NAME",
                            "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } },
                        }],
                    }],
                },
            },
        },
    })
}

/// Names of all containers of the pod that a Deployment has made.
async fn containers(kubectl: &Kubectl, namespace: &str, app: &str) -> Vec<String> {
    let selector = format!("app={app}");
    let made = async || {
        let pods = kubectl.json(&["-n", namespace, "get", "pods", "-l", &selector]).await;
        match pods["items"].as_array().and_then(|pods| pods.first().cloned()) {
            Some(pod) => Ok(pod),
            None => Err(format!("no pod of {app}")),
        }
    };
    let pod = until("a pod", made).await;
    let lists = ["initContainers", "containers"].map(|list| pod["spec"][list].clone());
    let all = lists.iter().filter_map(Value::as_array).flatten();
    all.filter_map(|one| one["name"].as_str().map(str::to_owned)).collect()
}

fn has_proxy(containers: &[String]) -> bool {
    containers.iter().any(|name| name == "istio-proxy")
}

/// A sentence among the events of a namespace.
async fn event(kubectl: &Kubectl, namespace: &str, words: &[&str]) -> String {
    let look = async || {
        let events = kubectl.json(&["-n", namespace, "get", "events"]).await;
        let events = events["items"].as_array().into_iter().flatten();
        let said: Vec<_> = events.filter_map(|event| event["message"].as_str()).collect();
        let found = said.iter().find(|said| words.iter().all(|word| said.contains(word)));
        found.map(|found| (*found).to_owned()).ok_or_else(|| format!("{said:#?}"))
    };
    until("an event", look).await
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn in_a_labelled_namespace_what_is_applied_unchanged_has_its_sidecar() {
    let kubectl = injecting().await;
    namespace(&kubectl, "admitted", Some("enabled")).await;
    kubectl.apply(&[deployment("admitted", "web", json!({}), json!({}))]).await;
    rolled_out(&kubectl, "admitted", "web").await;
    let pods = kubectl.pods("admitted", "app=web").await;
    let row = kubectl.run(&["-n", "admitted", "get", "pod", &pods[0], "--no-headers"]).await;
    assert!(row.contains("2/2"), "{row}");
    // The kit's Kubernetes is new enough for native sidecars, and was asked without a right.
    let pod = kubectl.json(&["-n", "admitted", "get", "pod", &pods[0]]).await;
    let init = pod["spec"]["initContainers"].as_array().unwrap();
    let proxy = init.iter().find(|one| one["name"] == "istio-proxy").unwrap();
    assert_eq!(proxy["restartPolicy"], "Always");
    assert_eq!(proxy["image"], "test/proxy:1");
    // A dry run is answered as well, and by the same.
    let dry = deployment("admitted", "dry", json!({}), json!({}));
    let mut pod = dry["spec"]["template"].clone();
    pod["apiVersion"] = "v1".into();
    pod["kind"] = "Pod".into();
    pod["metadata"]["name"] = "dry".into();
    pod["metadata"]["namespace"] = "admitted".into();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("pod.json");
    std::fs::write(&file, pod.to_string()).unwrap();
    let file = file.display().to_string();
    let made = kubectl.json(&["create", "--dry-run=server", "-f", &file]).await;
    assert!(made.to_string().contains("istio-proxy"), "{made}");
    kubectl.run(&["delete", "namespace", "admitted", "--wait=false"]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn labels_and_annotations_have_istios_precedence() {
    const INJECT: &str = "sidecar.istio.io/inject";
    let kubectl = injecting().await;
    for (name, injection) in
        [("asked", Some("enabled")), ("never", Some("disabled")), ("silent", None)]
    {
        namespace(&kubectl, name, injection).await;
    }
    let with = |value: Option<&str>| value.map_or(json!({}), |value| json!({ INJECT: value }));
    for (place, name, label, annotation, injected) in [
        ("asked", "plain", None, None, true),
        ("asked", "label-false", Some("false"), Some("true"), false),
        ("asked", "label-true", Some("true"), Some("false"), true),
        ("asked", "annotation-false", None, Some("false"), false),
        ("never", "label-true", Some("true"), None, false),
        ("silent", "plain", None, None, false),
        ("silent", "label-true", Some("true"), None, true),
        ("silent", "annotation-true", None, Some("true"), false),
    ] {
        kubectl.apply(&[deployment(place, name, with(label), with(annotation))]).await;
        let containers = containers(&kubectl, place, name).await;
        assert_eq!(has_proxy(&containers), injected, "{place}/{name}: {containers:?}");
    }
    for name in ["asked", "never", "silent"] {
        kubectl.run(&["delete", "namespace", name, "--wait=false"]).await;
    }
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_wrong_value_is_told_in_the_events_of_the_replica_set() {
    let kubectl = injecting().await;
    namespace(&kubectl, "wrong", Some("enabled")).await;
    let annotations = json!({ "sidecar.istio.io/proxyCPU": "lots" });
    kubectl.apply(&[deployment("wrong", "web", json!({}), annotations)]).await;
    let said = event(&kubectl, "wrong", &["denied the request", "sidecar.istio.io/proxyCPU"]).await;
    assert!(said.contains("namespace.sidecar-injector.istio.io"), "{said}");
    assert!(said.contains("\"lots\" is no quantity"), "{said}");
    kubectl.run(&["delete", "namespace", "wrong", "--wait=false"]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn while_it_is_down_the_policy_decides() {
    let kubectl = injecting().await;
    namespace(&kubectl, "outage", Some("enabled")).await;
    let replicas = async |number: &str| {
        let number = format!("--replicas={number}");
        kubectl.run(&["-n", SYSTEM, "scale", "deployment", INJECTOR, &number]).await;
    };
    replicas("0").await;
    let gone = async || {
        let pods =
            kubectl.json(&["-n", SYSTEM, "get", "pods", "-l", "app=pilothouse-injector"]).await;
        let left = pods["items"].as_array().map_or(0, Vec::len);
        if left == 0 { Ok(()) } else { Err(format!("{left} pods are left")) }
    };
    until("no injector", gone).await;
    kubectl.apply(&[deployment("outage", "refused", json!({}), json!({}))]).await;
    let said = event(&kubectl, "outage", &["failed calling webhook"]).await;
    assert!(said.contains("namespace.sidecar-injector.istio.io"), "{said}");
    // Nobody is asked about these, so they start.
    let other = deployment("default", "aside", json!({}), json!({}));
    kubectl.apply(&[other]).await;
    assert!(!has_proxy(&containers(&kubectl, "default", "aside").await));
    kubectl.run(&["-n", "default", "delete", "deployment", "aside"]).await;

    // The certificate stays, the policy changes.
    let patch: Vec<Value> = (0..4)
        .map(|at| {
            json!({ "op": "replace", "path": format!("/webhooks/{at}/failurePolicy"), "value": "Ignore" })
        })
        .collect();
    let ignore = Value::from(patch.clone()).to_string();
    kubectl.run(&["patch", CONFIGURATION, "--type=json", "-p", &ignore]).await;
    kubectl.apply(&[deployment("outage", "passed", json!({}), json!({}))]).await;
    assert!(!has_proxy(&containers(&kubectl, "outage", "passed").await));
    let fail = ignore.replace("Ignore", "Fail");
    kubectl.run(&["patch", CONFIGURATION, "--type=json", "-p", &fail]).await;

    // It comes up again by itself, since nobody is asked about its own pods, and then the others do.
    replicas("2").await;
    rolled_out(&kubectl, SYSTEM, INJECTOR).await;
    kubectl.run(&["-n", "outage", "rollout", "restart", "deployment/refused"]).await;
    rolled_out(&kubectl, "outage", "refused").await;
    let row =
        kubectl.run(&["-n", "outage", "get", "pods", "-l", "app=refused", "--no-headers"]).await;
    assert!(row.contains("2/2"), "{row}");
    kubectl.run(&["delete", "namespace", "outage", "--wait=false"]).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_renewed_certificate_and_changed_settings_are_taken_up_without_a_restart() {
    let kubectl = injecting().await;
    namespace(&kubectl, "renewed", Some("enabled")).await;
    let before = kubectl.pods(SYSTEM, "app=pilothouse-injector").await;
    let bundle = "jsonpath={.webhooks[0].clientConfig.caBundle}";
    let former = kubectl.run(&["get", CONFIGURATION, "-o", bundle]).await;
    let former: k8s_openapi::ByteString = serde_json::from_value(former.into()).unwrap();
    let former = String::from_utf8(former.0).unwrap();
    let expiry = async |pod: &str| {
        let path = format!("/api/v1/namespaces/{SYSTEM}/pods/{pod}:15014/proxy/metrics");
        let page = kubectl.run(&["get", "--raw", &path]).await;
        let line = page
            .lines()
            .find_map(|line| line.strip_prefix("pilothouse_certificate_expiry_seconds "));
        line.unwrap_or_else(|| panic!("{page}")).parse::<f64>().unwrap()
    };
    let expired_before = expiry(&before[0]).await;

    certified(&kubectl, "Fail", Some(&former)).await;
    set(&kubectl, &format!("{SETTINGS}cpu: 123m\n")).await;
    // Until then, and after it, every pod is admitted.
    let mut asked = 0;
    let taken_up = async || {
        asked += 1;
        let name = format!("web-{asked}");
        kubectl.apply(&[deployment("renewed", &name, json!({}), json!({}))]).await;
        assert!(has_proxy(&containers(&kubectl, "renewed", &name).await));
        let pods = kubectl.run(&["-n", "renewed", "get", "pods", "-o", "json"]).await;
        kubectl.run(&["-n", "renewed", "delete", "deployment", &name, "--wait=false"]).await;
        let mut newer = true;
        for pod in &before {
            newer &= expiry(pod).await > expired_before;
        }
        match newer && pods.contains("123m") {
            true => Ok(()),
            false => {
                Err(format!("certificate taken up: {newer}, settings: {}", pods.contains("123m")))
            }
        }
    };
    let began = std::time::Instant::now();
    let mut taken_up = taken_up;
    while let Err(missing) = taken_up().await {
        assert!(began.elapsed() < std::time::Duration::from_secs(180), "{missing}");
    }
    println!("taken up after {:?}, {asked} pods meanwhile", began.elapsed());
    assert_eq!(kubectl.pods(SYSTEM, "app=pilothouse-injector").await, before, "no restart");
    let events = kubectl.run(&["-n", "renewed", "get", "events", "-o", "json"]).await;
    assert!(!events.contains("failed calling webhook"), "{events}");

    // Settings that are wrong change nothing, and are said.
    set(&kubectl, "imagee: test/proxy:1\n").await;
    let said = async || {
        let log = kubectl.run(&["-n", SYSTEM, "logs", &before[0], "--tail=5"]).await;
        if log.contains("imagee") { Ok(()) } else { Err(log) }
    };
    let began = std::time::Instant::now();
    while let Err(log) = said().await {
        assert!(began.elapsed() < std::time::Duration::from_secs(180), "{log}");
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    }
    kubectl.apply(&[deployment("renewed", "still", json!({}), json!({}))]).await;
    assert!(has_proxy(&containers(&kubectl, "renewed", "still").await));
    set(&kubectl, SETTINGS).await;
    kubectl.run(&["delete", "namespace", "renewed", "--wait=false"]).await;
}
