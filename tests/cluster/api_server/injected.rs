//! What a real API server says to pods with a sidecar: it must take them.

use pilothouse::sidecar::inject::{Injected, Settings, inject_pod};
use serde_json::{Value, json};

use super::ApiServer;

fn pod(name: &str, namespace: &str, annotations: &Value, spec: &Value) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": { "name": name, "namespace": namespace, "annotations": annotations },
        // What admission of ServiceAccounts would write, which is off here.
        "spec": {
            "serviceAccountName": "default",
            "containers": [{ "name": "app", "image": "app:1", "args": ["\tfirst\nsecond", "y"] }],
        },
    });
    for (field, value) in spec.as_object().unwrap() {
        pod["spec"][field] = value.clone();
    }
    pod
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn pods_are_taken_whatever_is_said_of_their_sidecar() {
    let server = ApiServer::start(&[]).await;
    let resource = |name: &str, value: &str| json!({ format!("sidecar.istio.io/{name}"): value });
    let probed = json!({ "containers": [{
        "name": "app", "image": "app:1", "ports": [{ "name": "http", "containerPort": 8080 }],
        "livenessProbe": { "httpGet": { "port": "http" }, "terminationGracePeriodSeconds": 3 },
        "readinessProbe": { "tcpSocket": { "port": 8080 } },
        "startupProbe": { "grpc": { "port": 8080, "service": "s" } },
    }] });
    let own = json!({
        "containers": [
            { "name": "app", "image": "app:1" },
            {
                "name": "istio-proxy", "image": "auto",
                "resources": { "requests": { "memory": "2Gi", "cpu": 1 } },
                "env": [{ "name": "POD_NAME", "value": "other" }],
            },
        ],
        "initContainers": [{ "name": "istio-init", "image": "auto" }],
        "volumes": [{ "name": "istio-envoy", "emptyDir": { "sizeLimit": "1Mi" } }],
    });
    let annotated = json!({
        "sidecar.istio.io/userVolume": r#"{"mine": {"secret": {"secretName": "mine"}}}"#,
        "sidecar.istio.io/userVolumeMount": r#"{"mine": {"mountPath": "/etc/mine"}}"#,
        "readiness.status.sidecar.istio.io/initialDelaySeconds": "0",
        "readiness.status.sidecar.istio.io/failureThreshold": "9",
        "prometheus.io/port": "9102",
        "sidecar.istio.io/interceptionMode": "NONE",
    });
    for (name, annotations, spec) in [
        ("plain", json!({}), json!({})),
        ("memory", resource("proxyMemory", "2Gi"), json!({})),
        ("memory-limit", resource("proxyMemoryLimit", "16Mi"), json!({})),
        ("cpu-limit", resource("proxyCPULimit", "1m"), json!({})),
        ("probed", json!({}), probed),
        ("own", json!({}), own),
        ("annotated", annotated, json!({})),
    ] {
        for (suffix, flags) in [
            ("", &[][..]),
            ("-native", &["--native-sidecar", "--tls=token"]),
            ("-held", &["--hold-application-until-proxy-starts", "--tls=certificate"]),
            (
                "-set",
                &[
                    "--seccomp-profile=RuntimeDefault",
                    "--network=north",
                    "--image-pull-secret=registry",
                    "--status-port=16020",
                ],
            ),
        ] {
            let name = format!("{name}{suffix}");
            let pod = pod(&name, "default", &annotations, &spec);
            server.admin.apply_injected(&[pod], flags).await;
            let taken = server.admin.json(&["get", "pod", &name]).await;
            let containers = taken["spec"]["containers"].as_array().unwrap();
            assert!(containers.iter().any(|one| one["name"] == "app"), "{name}: {taken}");
        }
    }
    let taken = server.admin.json(&["get", "pod", "plain"]).await;
    assert_eq!(taken["spec"]["containers"][0]["args"], json!(["\tfirst\nsecond", "y"]));
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn a_quota_on_limits_lets_injected_pods_in() {
    let server = ApiServer::start(&[]).await;
    let hard = json!({ "limits.cpu": "4", "limits.memory": "8Gi", "requests.cpu": "4", "requests.memory": "8Gi" });
    server
        .admin
        .apply(&[
            json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "narrow" } }),
            json!({
                "apiVersion": "v1", "kind": "ResourceQuota",
                "metadata": { "name": "all", "namespace": "narrow" }, "spec": { "hard": hard },
            }),
        ])
        .await;
    // What a controller would write, which does not run here; admission counts by it.
    let none = json!({ "limits.cpu": "0", "limits.memory": "0", "requests.cpu": "0", "requests.memory": "0" });
    let status = json!({ "status": { "hard": hard, "used": none } }).to_string();
    let patch =
        ["patch", "resourcequota/all", "--subresource=status", "--type=merge", "-p", &status];
    server.admin.run(&[&["-n", "narrow"][..], &patch].concat()).await;
    let some = json!({ "cpu": "100m", "memory": "64Mi" });
    let spec = json!({ "containers": [{
        "name": "app", "image": "app:1", "resources": { "requests": some, "limits": some },
    }] });

    // With annotations of resources there are no defaults.
    let by_annotation = json!({
        "sidecar.istio.io/proxyCPULimit": "500m", "sidecar.istio.io/proxyMemoryLimit": "256Mi",
    });
    server.admin.apply_injected(&[pod("annotated", "narrow", &by_annotation, &spec)], &[]).await;
    let flags = ["--cpu-limit=500m"];
    server.admin.apply_injected(&[pod("flagged", "narrow", &json!({}), &spec)], &flags).await;
    let pods = server.admin.json(&["-n", "narrow", "get", "pods"]).await;
    assert_eq!(pods["items"].as_array().unwrap().len(), 2);
}

#[tokio::test]
#[ignore = "needs an API server: make test-cluster"]
async fn pod_security_restricted_takes_a_sidecar_without_capture_and_no_other() {
    let server = ApiServer::start(&[]).await;
    let labels = json!({ "pod-security.kubernetes.io/enforce": "restricted" });
    let namespace = json!({
        "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "strict", "labels": labels },
    });
    server.admin.apply(&[namespace]).await;
    let context = json!({
        "runAsNonRoot": true, "allowPrivilegeEscalation": false,
        "capabilities": { "drop": ["ALL"] }, "seccompProfile": { "type": "RuntimeDefault" },
    });
    let spec = json!({ "containers": [{
        "name": "app", "image": "app:1", "securityContext": context,
    }] });
    let bound = json!({ "sidecar.istio.io/interceptionMode": "NONE" });
    for (name, flags) in [("bound", &[][..]), ("native", &["--native-sidecar", "--tls=token"])] {
        server.admin.apply_injected(&[pod(name, "strict", &bound, &spec)], flags).await;
    }
    let pods = server.admin.json(&["-n", "strict", "get", "pods"]).await;
    assert_eq!(pods["items"].as_array().unwrap().len(), 2);

    let Injected::Pod { pod, .. } =
        inject_pod(&pod("captured", "strict", &json!({}), &spec), "strict", &Settings::default())
            .unwrap()
    else {
        panic!("it has a sidecar")
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), pod.to_string()).unwrap();
    let path = file.path().to_str().unwrap();
    let said = server.admin.attempt(&["create", "-f", path]).await.unwrap_err();
    assert!(said.contains("NET_ADMIN"), "{said}");
    assert!(said.contains("istio-init"), "{said}");
    assert!(!said.contains("istio-proxy"), "{said}");
}
