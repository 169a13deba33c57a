//! The monitoring port: `/metrics`, `/ready`, `/live`, `/version`.
//!
//! Open to the cluster (Prometheus, the kubelet), so it says nothing about anybody's traffic.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::rfc3339;
use crate::snapshot::Snapshot;
use crate::source::health::Health;
use crate::version::{REVISION, VERSION};

/// Whether proxies can be served: every watch has listed once and a snapshot was published.
///
/// Once ready, ready for good: what is known stays served when the source is lost, and a pod that
/// takes itself out of the Service then would only take configuration away from new proxies.
#[derive(Debug)]
pub struct Readiness {
    health: Arc<Health>,
    snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    reached: AtomicBool,
}

impl Readiness {
    pub fn new(health: Arc<Health>, snapshot: watch::Receiver<Option<Arc<Snapshot>>>) -> Arc<Self> {
        Arc::new(Self { health, snapshot, reached: AtomicBool::new(false) })
    }

    /// `None` when ready, else the reason in one sentence.
    pub fn waiting_for(&self) -> Option<String> {
        if self.reached.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(reason) = self.health.waiting_for() {
            return Some(reason);
        }
        if self.snapshot.borrow().is_none() {
            return Some("everything is listed, the first snapshot is being made".to_owned());
        }
        self.reached.store(true, Ordering::Relaxed);
        None
    }

    pub(super) fn response(&self) -> Response {
        match self.waiting_for() {
            None => "ready\n".into_response(),
            Some(reason) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
            }
        }
    }
}

/// What the monitoring port shows.
#[derive(Clone, Debug)]
pub struct MonitoringState {
    pub readiness: Arc<Readiness>,
    pub registry: Arc<Registry>,
    /// When the process started.
    pub started: SystemTime,
}

/// The monitoring port.
pub fn router(state: MonitoringState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        // That this is answered is the answer: the runtime's threads turn.
        .route("/live", get(|| async { "live\n" }))
        .route("/version", get(version))
        .with_state(state)
}

async fn ready(State(state): State<MonitoringState>) -> Response {
    state.readiness.response()
}

async fn metrics(State(state): State<MonitoringState>) -> Response {
    // Off the runtime's threads: the collector walks all proxies and services.
    let made = tokio::task::spawn_blocking(move || {
        let mut page = String::new();
        text::encode(&mut page, &state.registry).map(|()| page)
    });
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match made.await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, kind)], page).into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be encoded\n")
                .into_response()
        }
    }
}

async fn version(State(state): State<MonitoringState>) -> Json<Value> {
    let up = state.started.elapsed().unwrap_or_default();
    Json(json!({
        "version": VERSION,
        "revision": REVISION.unwrap_or("unknown"),
        "started": rfc3339(state.started),
        "uptimeSeconds": up.as_secs(),
    }))
}
