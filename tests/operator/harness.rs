//! A command's run, and a server that stands in for a replica.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::task::JoinHandle;

use pilothouse_testkit::control_plane::pilothouse;
use pilothouse_testkit::places;

/// How a command ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
    pub(crate) took: Duration,
}

impl Ran {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// Runs a command to its end, with nothing of whoever runs the tests.
pub(crate) async fn run(arguments: &[&str]) -> Ran {
    let mut command = Command::from(pilothouse(arguments));
    for name in ["KUBECONFIG", "COLUMNS", "NO_COLOR", "DISPLAY", "WAYLAND_DISPLAY"] {
        command.env_remove(name);
    }
    let start = Instant::now();
    let output = command.kill_on_drop(true).output().await.expect("it runs");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("it prints UTF-8");
    Ran {
        code: output.status.code(),
        out: text(&output.stdout),
        err: text(&output.stderr),
        took: start.elapsed(),
    }
}

/// The same about these servers.
pub(crate) async fn ask(command: &[&str], servers: &[SocketAddr]) -> Ran {
    let addresses: Vec<String> = servers.iter().map(|one| format!("--address={one}")).collect();
    let arguments = command.iter().copied().chain(addresses.iter().map(String::as_str));
    run(&arguments.collect::<Vec<_>>()).await
}

/// What a stand-in answers.
pub(crate) enum Answer {
    Json(Value),
    Text(u16, String),
    /// Accepts the question and says nothing.
    Silence,
    /// A body that never ends.
    Endless,
}

impl Answer {
    pub(crate) fn not_found() -> Self {
        Self::Text(404, "There is no such page.\n".to_owned())
    }
}

/// A server at an address of its own.
pub(crate) struct StandIn {
    pub(crate) address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    server: JoinHandle<()>,
}

impl Drop for StandIn {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl StandIn {
    /// `answers` gets path and query, and how many were asked before.
    pub(crate) async fn start(
        answers: impl Fn(&str, usize) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (answers, seen) = (Arc::new(answers), asked.clone());
        let router = Router::new().fallback(move |request: Request| {
            let path = request.uri().to_string();
            let number = {
                let mut seen = seen.lock().unwrap();
                seen.push(path.clone());
                seen.len() - 1
            };
            let answer = answers(&path, number);
            async { respond(answer).await }
        });
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { address, asked, server }
    }

    /// One that has these proxies and nothing else.
    pub(crate) async fn with_proxies(rows: Vec<Value>) -> Self {
        Self::start(move |path, _| match path.starts_with("/debug/proxies?") {
            true => Answer::Json(page(&rows)),
            false => Answer::not_found(),
        })
        .await
    }

    pub(crate) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

async fn respond(answer: Answer) -> Response {
    match answer {
        Answer::Json(value) => axum::Json(value).into_response(),
        Answer::Text(status, text) => (StatusCode::from_u16(status).unwrap(), text).into_response(),
        Answer::Silence => std::future::pending().await,
        Answer::Endless => {
            let piece = axum::body::Bytes::from(vec![b' '; 1 << 16]);
            let pieces = tokio_stream::iter(std::iter::repeat_with(move || {
                Ok::<_, std::convert::Infallible>(piece.clone())
            }));
            Body::from_stream(pieces).into_response()
        }
    }
}

/// One page with all rows.
pub(crate) fn page(rows: &[Value]) -> Value {
    json!({
        "replica": "host", "instance": "host/2026-11-26T14:00:00.000Z", "generation": 7,
        "total": rows.len(), "matched": rows.len(), "states": { "SYNCED": rows.len() },
        "namespaces": [], "kinds": [], "proxies": rows,
    })
}

/// A row of `/debug/proxies` with one state for all types.
pub(crate) fn row(key: u64, name: &str, state: &str) -> Value {
    let status = json!({
        "state": state, "since": "2026-11-26T14:00:00.000Z", "sent": 3, "acknowledged": 3,
        "rejected": 0, "resources": 12,
    });
    let namespace = name.rsplit('.').next();
    json!({
        "key": key.to_string(), "name": name, "node_id": format!("sidecar~10.0.0.1~{name}~x"),
        "kind": "sidecar", "namespace": namespace, "zone": null, "version": "envoy/1.40.0",
        "replica": "host", "connected": "2026-11-26T13:00:00.000Z", "address": "10.0.0.1:4711",
        "protocol": "delta", "probe": false, "state": state, "generation_acknowledged": 6,
        "types": { "CDS": status, "EDS": status, "LDS": status, "RDS": status },
    })
}
