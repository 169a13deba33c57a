//! One page of metrics for a pod: Envoy's, the agent's and the application's, and whatever the application
//! does costs its own part alone.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::agent::Agent;
use pilothouse_testkit::http::{self, Answer};
use pilothouse_testkit::{DEADLINE, eventually, places};

/// Nobody listens there.
const NOBODY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1);

const TEXT: &str = "# HELP app_requests_total Asked\n# TYPE app_requests_total counter\n\
                    app_requests_total{path=\"/\"} 7\n";
const OPENMETRICS: &str = "# HELP app_requests Asked\n# TYPE app_requests counter\n\
                           app_requests_total{path=\"/\"} 7 # {trace=\"1\"} 1\n# EOF\n";

/// What the application does with who asks for its metrics.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Text,
    OpenMetrics,
    Garbage,
    Fails,
    TooMuch,
    Hangs,
}

type Shared = Arc<Mutex<Behaviour>>;

fn application(listener: TcpListener, behaviour: Shared) -> JoinHandle<()> {
    let moved = axum::response::Redirect::permanent("/metrics/");
    let router = Router::new()
        .route("/metrics", axum::routing::get(async move || moved))
        .route("/metrics/", axum::routing::get(metrics))
        .with_state(behaviour);
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() })
}

async fn metrics(State(behaviour): State<Shared>, headers: HeaderMap) -> Response {
    let behaviour = *behaviour.lock().unwrap();
    let kind = |kind: &'static str| [(header::CONTENT_TYPE, kind)];
    assert!(headers[header::ACCEPT].to_str().unwrap().starts_with("text/plain"));
    match behaviour {
        Behaviour::Text => (kind("text/plain; version=0.0.4"), TEXT).into_response(),
        Behaviour::OpenMetrics => {
            (kind("application/openmetrics-text; version=1.0.0"), OPENMETRICS).into_response()
        }
        Behaviour::Garbage => (kind("text/html"), "<html>\n<p>hello</p>\n").into_response(),
        Behaviour::Fails => (StatusCode::INTERNAL_SERVER_ERROR, TEXT).into_response(),
        Behaviour::TooMuch => "app_a 1\n".repeat(3 << 20).into_response(),
        Behaviour::Hangs => std::future::pending().await,
    }
}

#[tokio::test]
async fn an_application_costs_its_own_part_of_the_page_alone() {
    let pod = places::address();
    let listener = TcpListener::bind((pod, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let behaviour = Arc::new(Mutex::new(Behaviour::Text));
    let running = application(listener, behaviour.clone());
    let annotations = json!({ "scrape": "true", "port": port.to_string(), "path": "" }).to_string();
    let flags = [&*format!("--instance-ip={pod}")];
    let agent =
        Agent::start_with_env(NOBODY, &flags, &[("ISTIO_PROMETHEUS_ANNOTATIONS", &annotations)]);
    let page = async || {
        let url = agent.url(15020, "/stats/prometheus");
        let timeout = ("x-prometheus-scrape-timeout-seconds", "2");
        let Answer { status, body } = http::get_with(&url, Some(timeout)).await?;
        match status {
            200 if body.contains("\nenvoy_server_live") => Ok(body),
            _ => Err(format!("{status} {body}")),
        }
    };
    let first = eventually(DEADLINE, "a page with Envoy's part", page).await;
    assert!(first.ends_with(TEXT), "{first}");
    assert!(first.contains("\npilothouse_agent_failed_application_scrapes_total 0\n"), "{first}");

    *behaviour.lock().unwrap() = Behaviour::OpenMetrics;
    let converted = page().await.unwrap();
    assert!(converted.ends_with(TEXT), "{converted}");

    let mut failed = 0;
    for (next, said) in [
        (Behaviour::Garbage, "its page is no metrics, line 1: \"<html>\""),
        (Behaviour::Fails, "it answers 500"),
        (Behaviour::TooMuch, "its page is larger than 16 MiB"),
        (Behaviour::Hangs, "no page within 1.8s"),
    ] {
        *behaviour.lock().unwrap() = next;
        let page = page().await.unwrap();
        assert!(!page.contains("\napp_"), "{next:?}: {page}");
        failed += 1;
        let counted = format!("\npilothouse_agent_failed_application_scrapes_total {failed}\n");
        assert!(page.contains(&counted), "{next:?}: {page}");
        agent
            .says(&format!(
                "a scrape is without the application's part: port {port}, path /metrics: {said}"
            ))
            .await;
    }

    // Nobody is there; then somebody who shows its metrics on loopback alone.
    running.abort();
    _ = running.await;
    let without = page().await.unwrap();
    assert!(!without.contains("\napp_"), "{without}");
    agent.says("cannot be reached").await;
    *behaviour.lock().unwrap() = Behaviour::Text;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    let running = application(listener, behaviour);
    let again = page().await.unwrap();
    assert!(again.ends_with(TEXT), "{again}");
    running.abort();
}

#[tokio::test]
async fn annotations_that_make_no_sense_are_refused_at_the_start() {
    let annotations = json!({ "port": "http" }).to_string();
    let mut agent =
        Agent::start_with_env(NOBODY, &[], &[("ISTIO_PROMETHEUS_ANNOTATIONS", &annotations)]);
    assert_eq!(agent.process.end(DEADLINE).await.code(), Some(1));
    let log = agent.process.log();
    assert!(log.contains("ISTIO_PROMETHEUS_ANNOTATIONS: port is \"http\""), "{log}");
}

/// What `holdApplicationUntilProxyStarts` makes of a pod: the kubelet waits for this command.
#[tokio::test]
async fn a_hook_waits_for_the_agent() {
    let agent = Agent::start(NOBODY, &[]);
    agent.answers(503, "cds updates: 0 successful").await;
    let wait = |timeout: &str| {
        let status = format!("--status-addr={}:15020", agent.address);
        let arguments = ["agent-wait", &status, &format!("--timeout={timeout}")];
        let mut command = pilothouse_testkit::control_plane::pilothouse(&arguments);
        command.stderr(std::process::Stdio::piped());
        tokio::process::Command::from(command)
    };
    let unready = wait("300ms").output().await.unwrap();
    let said = String::from_utf8_lossy(&unready.stderr).into_owned();
    assert_eq!(unready.status.code(), Some(1), "{said}");
    assert!(
        said.contains("not ready within 300ms: Envoy proxy is NOT ready: config not"),
        "{said}"
    );

    let manifests = pilothouse_testkit::manifests::Manifests::new(&[]);
    let control = pilothouse_testkit::control_plane::ControlPlane::start(manifests.path()).await;
    let ready = Agent::start(control.grpc, &[]);
    let status = format!("--status-addr={}:15020", ready.address);
    let command = pilothouse_testkit::control_plane::pilothouse(&["agent-wait", &status]);
    let ended = tokio::process::Command::from(command).status().await.unwrap();
    assert!(ended.success(), "{ended}");
    assert_eq!(ready.page("/healthz/ready").await.unwrap().status, 200);
}
