//! What of a pod lives, and until when: probes without a control plane, requests while the pod ends.

use serde_json::{Value, json};

use super::{NAMESPACE, app, deployed};
use crate::deployed::rolled_out;
use crate::harness::Kubectl;
use pilothouse_testkit::until;

/// How a container of a pod is, as the kubelet says it.
async fn container(kubectl: &Kubectl, pod: &str, name: &str) -> Result<Value, String> {
    let pod = kubectl.json(&["-n", NAMESPACE, "get", "pod", pod]).await;
    let all = pod["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
    let found = all.into_iter().find(|container| container["name"] == name);
    found.ok_or_else(|| format!("no status of {name} yet: {}", pod["status"]))
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn without_a_control_plane_a_healthy_application_lives() {
    let kubectl = deployed().await;
    let pilot = ["-n", "istio-system", "scale", "deployment/istio-pilot"];
    kubectl.run(&[&pilot[..], &["--replicas=0"]].concat()).await;
    until("no control plane to be left", async || {
        let left = kubectl.pods("istio-system", "istio=pilot").await;
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;

    let get = json!({ "httpGet": { "path": "/health", "port": 9080 } });
    let socket = |port: u16| json!({ "tcpSocket": { "port": port } });
    let often = |mut probe: Value| {
        probe["periodSeconds"] = 1.into();
        probe["failureThreshold"] = 3.into();
        probe
    };
    let pods = [
        ("by-http", often(get.clone()), often(get)),
        ("by-tcp", often(socket(9080)), often(socket(9080))),
        // Nobody listens there, whatever Envoy accepts.
        ("deaf", often(socket(9080)), often(socket(9081))),
    ]
    .map(|(name, liveness, readiness)| {
        let mut app = app("app", "details-v1", 9080);
        app["livenessProbe"] = liveness;
        app["readinessProbe"] = readiness;
        json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": NAMESPACE },
            "spec": { "terminationGracePeriodSeconds": 1, "containers": [app] },
        })
    });
    kubectl.apply_injected(&pods, &[]).await;
    for name in ["by-http", "by-tcp"] {
        // Ready, so its probes are answered; and still the first one after ten of them.
        until(&format!("{name} to have lived"), async || {
            let app = container(&kubectl, name, "app").await?;
            assert_eq!(app["restartCount"], 0, "{app}");
            let log =
                kubectl.attempt(&["-n", NAMESPACE, "logs", name, "-c", "istio-proxy"]).await?;
            let lines = log.lines().filter(|line| line.contains("NOT ready")).count();
            // Said anew every 15 s.
            if app["ready"] == true && lines >= 3 { Ok(()) } else { Err(format!("{lines}: {app}")) }
        })
        .await;
        assert_eq!(container(&kubectl, name, "istio-proxy").await.unwrap()["ready"], false);
    }
    kubectl.run(&[&pilot[..], &["--replicas=2"]].concat()).await;
    rolled_out(&kubectl, "istio-system", "istio-pilot").await;
    let ready = ["wait", "--for=condition=Ready", "pod/by-http", "pod/by-tcp", "--timeout=120s"];
    kubectl.run(&[&["-n", NAMESPACE][..], &ready].concat()).await;

    until("the deaf one's Envoy to be ready", async || {
        let proxy = container(&kubectl, "deaf", "istio-proxy").await?;
        if proxy["ready"] == true { Ok(()) } else { Err(proxy.to_string()) }
    })
    .await;
    let app = container(&kubectl, "deaf", "app").await.unwrap();
    assert_eq!((&app["ready"], &app["restartCount"]), (&json!(false), &json!(0)));
    let gone = ["delete", "pod", "by-http", "by-tcp", "deaf", "--wait=false"];
    kubectl.run(&[&["-n", NAMESPACE][..], &gone].concat()).await;
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn requests_are_finished_while_the_pod_ends() {
    let kubectl = deployed().await;
    let mut app = app("app", "details-v1", 9080);
    app["args"].as_array_mut().unwrap().push("--linger=20".into());
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": "lingering", "namespace": NAMESPACE },
        "spec": { "terminationGracePeriodSeconds": 30, "containers": [app] },
    });
    kubectl.apply_injected(&[pod], &[]).await;
    let ready =
        ["-n", NAMESPACE, "wait", "--for=condition=Ready", "pod/lingering", "--timeout=120s"];
    kubectl.run(&ready).await;
    let asked = [8, 15].map(|seconds| {
        let pod = format!("/api/v1/namespaces/{NAMESPACE}/pods/lingering:9080");
        let (kubectl, path) = (kubectl.clone(), format!("{pod}/proxy/slow/{seconds}"));
        tokio::spawn(async move { kubectl.attempt(&["get", "--raw", &path]).await })
    });
    until("both requests to be under way", async || {
        let path =
            format!("/api/v1/namespaces/{NAMESPACE}/pods/lingering:15020/proxy/stats/prometheus");
        let page = kubectl.attempt(&["get", "--raw", &path]).await?;
        let active = page.lines().filter(|line| {
            line.starts_with("envoy_cluster_upstream_cx_active{")
                && line.contains("InboundPassthroughCluster")
                && line.ends_with(" 2")
        });
        if active.count() == 1 { Ok(()) } else { Err("not yet".to_owned()) }
    })
    .await;
    let log = ["-n", NAMESPACE, "logs", "-f", "pod/lingering", "-c", "istio-proxy"];
    let (_following, mut log) = kubectl.spawn_following(&log);
    kubectl.run(&["-n", NAMESPACE, "delete", "pod/lingering", "--wait=false"]).await;
    for request in asked {
        let answer = request.await.unwrap();
        assert!(
            answer.as_ref().is_ok_and(|body| body.contains("\"pod\":\"lingering\"")),
            "{answer:?}"
        );
    }
    // And the proxy ends for that reason, not because the kubelet kills it.
    let mut lines = Vec::new();
    while let Some(line) = log.next_line().await.unwrap() {
        lines.push(line);
    }
    assert!(lines.iter().any(|line| line.contains("the application has ended")), "{lines:#?}");
}
