//! Faults between real pods, and what `pilothouse doctor` says of them beside the Envoy of a caller.

use std::panic::AssertUnwindSafe;

use futures::FutureExt as _;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use crate::deployed::{NAMESPACE as PILOTS, rolled_out};
use crate::doctor::Said;
use crate::half_live::story;
use crate::harness::Kubectl;
use pilothouse_testkit::until;

mod bound;

const NAMESPACE: &str = "faults";
/// How the API server refuses a watch that nobody allows.
const MISSING_RIGHT: &str = "cannot watch resource \"services\"";

/// Bookinfo's `details` on port 9080, which it declares.
fn web(name: &str) -> Value {
    json!({
        "name": name, "image": "test/bookinfo:1", "imagePullPolicy": "Never",
        "args": ["--workload=details-v1", "--address=0.0.0.0"],
        "env": [{ "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } }],
        "ports": [{ "containerPort": 9080 }],
    })
}

/// A server that greets whoever connects, as MySQL does.
fn database() -> Value {
    let greeting = json!({
        "name": "envoy.filters.network.direct_response",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.direct_response.v3.Config",
            "response": { "inline_string": "J 8.0.36-greeting" },
        },
    });
    let at = json!({ "socket_address": { "address": "0.0.0.0", "port_value": 3306 } });
    let listener = json!({ "address": at, "filter_chains": [{ "filters": [greeting] }] });
    let config = json!({ "static_resources": { "listeners": [listener] } });
    json!({
        "name": "database", "image": "test/envoy:1", "imagePullPolicy": "Never",
        "args": ["--config-yaml", config.to_string(), "--concurrency", "1"],
    })
}

fn pod(name: &str, container: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": NAMESPACE, "labels": { "app": name } },
        "spec": { "terminationGracePeriodSeconds": 1, "containers": [container] },
    })
}

fn service(name: &str, of: &str, port_name: &str, port: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": NAMESPACE },
        "spec": {
            "selector": { "app": of },
            "ports": [{ "name": port_name, "port": port, "targetPort": target }],
        },
    })
}

async fn ready(kubectl: &Kubectl, pods: &[&str]) {
    let names: Vec<String> = pods.iter().map(|pod| format!("pod/{pod}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let wait = ["-n", NAMESPACE, "wait", "--for=condition=Ready", "--timeout=120s"];
    kubectl.run(&[&wait[..], &names].concat()).await;
}

/// The control plane, and the pod `caller` with a sidecar whose doctor may look at kube-dns, at Pilot,
/// and at everything of its own namespace.
async fn deployed() -> Kubectl {
    static APPLIED: OnceCell<()> = OnceCell::const_new();
    let kubectl = Kubectl::default();
    APPLIED
        .get_or_init(async || {
            story("control_plane").await;
            let group = format!("system:serviceaccounts:{NAMESPACE}");
            let subject =
                json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": group });
            let rule = |group: &str, resources: &[&str]| {
                json!({ "apiGroups": [group], "resources": resources, "verbs": ["get", "list"] })
            };
            let rbac = "rbac.authorization.k8s.io";
            let named = json!({ "name": "doctor", "namespace": NAMESPACE });
            kubectl
                .apply(&[
                    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": NAMESPACE } }),
                    json!({
                        "apiVersion": format!("{rbac}/v1"), "kind": "Role", "metadata": named,
                        "rules": [
                            rule("", &["services", "pods"]),
                            rule("discovery.k8s.io", &["endpointslices"]),
                        ],
                    }),
                    json!({
                        "apiVersion": format!("{rbac}/v1"), "kind": "RoleBinding", "metadata": named,
                        "roleRef": { "apiGroup": rbac, "kind": "Role", "name": "doctor" },
                        "subjects": [subject],
                    }),
                ])
                .await;
            let example = "examples/kubernetes/sidecars/doctor.yaml";
            let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(example);
            let rights = std::fs::read_to_string(example).unwrap();
            let rights = rights
                .replace("system:serviceaccounts:default", &group)
                .replace("name: pilothouse-doctor", "name: pilothouse-doctor-of-faults");
            let file = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("doctor-of-faults.yaml");
            std::fs::write(&file, rights).unwrap();
            kubectl.run(&["apply", "-f", &file.display().to_string()]).await;
            kubectl.apply_injected(&[pod("caller", &web("app"))], &[]).await;
            ready(&kubectl, &["caller"]).await;
        })
        .await;
    kubectl
}

/// `pilothouse doctor` in the sidecar of a pod.
async fn doctor(kubectl: &Kubectl, pod: &str, arguments: &[&str]) -> Said {
    let exec = ["-n", NAMESPACE, "exec", pod, "-c", "istio-proxy", "--"];
    let program = ["pilothouse", "doctor", "--json"];
    Said::parse(&kubectl.output(&[&exec[..], &program, arguments].concat()).await)
}

/// A visit by the application of `caller`: the status, or what there was instead.
async fn visit(kubectl: &Kubectl, pod: &str, place: &str) -> Result<Value, String> {
    let exec = ["-n", NAMESPACE, "exec", pod, "-c", "app", "--"];
    let line = kubectl
        .attempt(&[&exec[..], &["bookinfo", "--visit", place, "--times=1"]].concat())
        .await?;
    serde_json::from_str(&line).map_err(|error| format!("{line}: {error}"))
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_target_port_on_which_nobody_listens_is_named() {
    let kubectl = deployed().await;
    kubectl.apply(&[pod("bare-web", &web("app"))]).await;
    kubectl.apply_injected(&[pod("web", &web("app"))], &[]).await;
    let services = ["web", "bare-web"].map(|of| service(of, of, "http", 8000, 9999));
    kubectl.apply(&services).await;
    ready(&kubectl, &["web", "bare-web"]).await;
    for of in ["web", "bare-web"] {
        let place = format!("{of}:8000/details/0");
        // Before its Envoy has made any request: by what the endpoint does.
        until(&format!("{of} to be known"), async || {
            match doctor(&kubectl, "caller", &["--service", &format!("{of}:8000")]).await {
                Said(json, _) if json["code"] == "service_connections_fail" => Ok(()),
                Said(json, _) => Err(json.to_string()),
            }
        })
        .await;
        until(&format!("{place} to fail"), async || {
            match visit(&kubectl, "caller", &place).await? {
                answer if answer["status"] == 503 => Ok(()),
                answer => Err(answer.to_string()),
            }
        })
        .await;
        let said = doctor(&kubectl, "caller", &["--service", of]).await;
        said.is("service_connections_fail", 1, &["port 8000", "port 9999", "declare 9080"]);
        // Mended, it is well, whatever was counted before.
        kubectl.apply(&[service(of, of, "http", 8000, 9080)]).await;
        until(&format!("{place} to be answered"), async || {
            match visit(&kubectl, "caller", &place).await? {
                answer if answer["status"] == 200 => Ok(()),
                answer => Err(answer.to_string()),
            }
        })
        .await;
        doctor(&kubectl, "caller", &["--service", of]).await.is("all_well", 0, &[]);
    }
    let gone = ["delete", "pod/web", "pod/bare-web", "service/web", "service/bare-web"];
    kubectl.run(&[&["-n", NAMESPACE][..], &gone, &["--wait=false"]].concat()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_server_that_speaks_first_is_named_from_another_pod() {
    let kubectl = deployed().await;
    kubectl.apply(&[pod("bare-db", &database())]).await;
    kubectl.apply_injected(&[pod("db", &database())], &[]).await;
    let names =
        [("db", "http-db", "db"), ("bare-db", "http-db", "bare-db"), ("right", "mysql", "db")];
    kubectl.apply(&names.map(|(name, port, of)| service(name, of, port, 3306, 3306))).await;
    ready(&kubectl, &["db", "bare-db"]).await;
    for (name, code, exit) in [
        ("bare-db", "service_speaks_first", 1),
        ("db", "service_not_http", 1),
        ("right", "all_well", 0),
    ] {
        let mut said = Said(Value::Null, None);
        until(&format!("{name}: {code}"), async || {
            said = doctor(&kubectl, "caller", &["--service", name]).await;
            if said.0["code"] == code { Ok(()) } else { Err(said.0.to_string()) }
        })
        .await;
        said.is(code, exit, &[]);
    }
    let gone =
        ["delete", "pod/db", "pod/bare-db", "service/db", "service/bare-db", "service/right"];
    kubectl.run(&[&["-n", NAMESPACE][..], &gone, &["--wait=false"]].concat()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_right_that_the_control_plane_lacks_is_named() {
    let kubectl = deployed().await;
    let mut binding =
        kubectl.json(&["get", "clusterrolebinding", "istio-pilot-istio-system"]).await;
    binding["metadata"] = json!({
        "name": binding["metadata"]["name"], "labels": binding["metadata"]["labels"],
    });
    let told = AssertUnwindSafe(a_right_is_missing(&kubectl)).catch_unwind().await;
    // Whatever happened, the others get their control plane back; nobody has to restart it.
    kubectl.apply(&[binding]).await;
    if let Err(panic) = told {
        std::panic::resume_unwind(panic);
    }
    rolled_out(&kubectl, PILOTS, "istio-pilot").await;
    until("all to be well", async || match doctor(&kubectl, "caller", &[]).await {
        Said(json, Some(0)) if json["code"] == "all_well" => Ok(()),
        Said(json, _) => Err(json.to_string()),
    })
    .await;
}

async fn a_right_is_missing(kubectl: &Kubectl) {
    kubectl.run(&["delete", "clusterrolebinding", "istio-pilot-istio-system"]).await;
    let old = kubectl.pods(PILOTS, "istio=pilot").await;
    assert_eq!(old.len(), 2, "{old:?}");
    // One that knows everything is left, so proxies are served; then none is.
    for (killed, code) in old.iter().zip(["pilot_replica_not_ready", "pilot_pods_not_ready"]) {
        kubectl.run(&["-n", PILOTS, "delete", "pod", killed, "--grace-period=1"]).await;
        let mut said = Said(Value::Null, None);
        until(code, async || {
            said = doctor(kubectl, "caller", &[]).await;
            if said.0["code"] == code
                && said.0["cause"].as_str().is_some_and(|cause| cause.contains(MISSING_RIGHT))
            {
                Ok(())
            } else {
                Err(said.0.to_string())
            }
        })
        .await;
        said.is(code, 1, &["istio-pilot-", MISSING_RIGHT, "forbidden"]);
    }
}
