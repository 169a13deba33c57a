//! Sidecars without capture, whose Envoy binds the ports of services itself.

use serde_json::json;

use super::{NAMESPACE, deployed, doctor, pod, ready, service, visit, web};
use crate::harness::Kubectl;
use pilothouse_testkit::until;

/// `/config_dump` of a pod's Envoy: its listeners that were rejected.
async fn rejected(kubectl: &Kubectl, pod: &str) -> Vec<String> {
    let path =
        format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}:15020/proxy/stats/prometheus?usedonly");
    let page = kubectl.run(&["get", "--raw", &path]).await;
    let counters = page.lines().filter(|line| {
        line.starts_with("envoy_listener_manager_lds_update_rejected")
            || line.starts_with("envoy_listener_manager_listener_create_failure")
            || line.starts_with("envoy_cluster_manager_cds_update_rejected")
    });
    counters.filter(|line| !line.ends_with(" 0")).map(str::to_owned).collect()
}

#[tokio::test]
#[ignore = "needs a cluster: make test-cluster"]
async fn a_sidecar_that_may_not_bind_low_ports_becomes_ready_and_serves() {
    let kubectl = deployed().await;
    let mut bound = pod("bound", &web("app"));
    bound["metadata"]["annotations"] = json!({ "sidecar.istio.io/interceptionMode": "NONE" });
    // The kernel's own value; containerd 2 lets everybody bind every port.
    bound["spec"]["securityContext"] = json!({
        "sysctls": [{ "name": "net.ipv4.ip_unprivileged_port_start", "value": "1024" }],
    });
    kubectl
        .apply(&[
            service("low-http", "target", "http", 53, 9080),
            service("low-tcp", "target", "tcp", 443, 9080),
            // The application's own port, by its own Service and by another's.
            service("own", "bound", "http", 9080, 9080),
            service("target", "target", "http", 8000, 9080),
            service("target-tcp", "target", "tcp", 8001, 9080),
            pod("target", &web("app")),
        ])
        .await;
    ready(&kubectl, &["target"]).await;
    kubectl.apply_injected(&[bound], &[]).await;
    ready(&kubectl, &["bound"]).await;
    for port in [8000, 8001] {
        let place = format!("127.0.0.1:{port}/details/0");
        until(&format!("{place} to be answered"), async || {
            let arguments = ["-n", NAMESPACE, "exec", "bound", "-c", "app", "--", "bookinfo"];
            let visit =
                ["--proxy", &format!("127.0.0.1:{port}"), "--visit", "target:8000/details/0"];
            let line = kubectl.attempt(&[&arguments[..], &visit, &["--times=1"]].concat()).await?;
            if line.contains("\"pod\":\"target\"") {
                Ok(())
            } else {
                Err(format!("{place}: {line}"))
            }
        })
        .await;
    }
    // Its own port is the application's.
    let own = visit(&kubectl, "bound", "127.0.0.1:9080/details/0").await.unwrap();
    assert_eq!((&own["status"], &own["pod"]), (&json!(200), &json!("bound")), "{own}");
    assert_eq!(rejected(&kubectl, "bound").await, Vec::<String>::new());
    doctor(&kubectl, "bound", &[]).await.is("all_well", 0, &[]);
    let gone = ["pod/bound", "pod/target", "service/low-http", "service/low-tcp", "service/own"];
    let more = ["service/target", "service/target-tcp", "--wait=false"];
    kubectl.run(&[&["-n", NAMESPACE, "delete"][..], &gone, &more].concat()).await;
}
