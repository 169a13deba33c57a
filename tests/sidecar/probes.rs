//! The application's probes, asked by the agent: whatever Envoy and the control plane do, they say how
//! the application is.

use std::net::SocketAddr;

use rustix::process::Signal;
use serde_json::json;
use tokio::net::TcpListener;

use crate::agent::Agent;
use pilothouse_testkit::{DEADLINE, eventually, places, same};

/// Nobody listens there.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

#[tokio::test]
async fn an_outage_of_the_control_plane_fails_no_probe_of_the_application() {
    let pod = places::address();
    let listener = TcpListener::bind((pod, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let router = axum::Router::new().route("/live", axum::routing::get(async || "alive"));
    let application = tokio::spawn(async move { axum::serve(listener, router).await });
    let probers = json!({
        "/app-health/web/livez": { "httpGet": { "path": "/live", "port": port } },
        "/app-health/web/readyz": { "tcpSocket": { "port": port } },
        "/app-health/web/startupz": { "httpGet": { "path": "/none", "port": port } },
    });
    let probers = probers.to_string();
    let flags = [&*format!("--instance-ip={pod}"), "--termination-drain-duration=1h"];
    let agent = Agent::start_with_env(NOBODY, &flags, &[("ISTIO_KUBE_APP_PROBERS", &probers)]);
    let answer = async |kind: &str, status: u16| {
        eventually(DEADLINE, &format!("{kind} to answer {status}"), async || {
            same(agent.page(&format!("/app-health/web/{kind}")).await?.status, status)
        })
        .await;
    };

    for (kind, status) in [("livez", 200), ("readyz", 200), ("startupz", 404), ("other", 404)] {
        answer(kind, status).await;
    }
    agent.answers(503, "cds updates: 0 successful").await;
    // An Envoy that hangs is no fault of the application, nor is the end of the pod.
    let envoy = agent.envoy().await;
    envoy.signal(Signal::STOP);
    answer("livez", 200).await;
    envoy.signal(Signal::CONT);
    agent.process.signal(Signal::TERM);
    agent.says("SIGTERM: draining").await;
    answer("livez", 200).await;

    application.abort();
    answer("livez", 500).await;
    answer("readyz", 500).await;
}

#[tokio::test]
async fn probers_that_make_no_sense_are_refused_at_the_start() {
    let probers = json!({ "/healthz": { "tcpSocket": { "port": 80 } } }).to_string();
    let mut agent = Agent::start_with_env(NOBODY, &[], &[("ISTIO_KUBE_APP_PROBERS", &probers)]);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(1));
    let log = agent.process.log();
    assert!(log.contains("ISTIO_KUBE_APP_PROBERS: \"/healthz\" is neither /app-health/"), "{log}");
}
