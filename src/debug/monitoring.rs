//! The monitoring port: `/metrics`, `/ready`, `/live`, `/version`.
//!
//! Open to the cluster (Prometheus, the kubelet), so it says nothing about anybody's traffic.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use super::rfc3339;
use crate::parts::Failure;
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
    /// Why the process is about to end.
    failure: OnceLock<String>,
}

impl Readiness {
    pub fn new(health: Arc<Health>, snapshot: watch::Receiver<Option<Arc<Snapshot>>>) -> Arc<Self> {
        let (reached, failure) = (AtomicBool::new(false), OnceLock::new());
        Arc::new(Self { health, snapshot, reached, failure })
    }

    /// A part of the process has ended: neither ready nor alive from now on, until it is restarted.
    pub fn fail(&self, failure: &Failure) {
        _ = self.failure.set(failure.to_string());
    }

    /// `None` when ready, else the reason in one sentence.
    pub fn waiting_for(&self) -> Option<String> {
        if let Some(failure) = self.failure.get() {
            return Some(failure.clone());
        }
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

    fn live(&self) -> Response {
        match self.failure.get() {
            None => "live\n".into_response(),
            Some(failure) => {
                (StatusCode::SERVICE_UNAVAILABLE, format!("not live: {failure}\n")).into_response()
            }
        }
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

/// Pages of metrics in the making at the same time; whoever asks for more waits.
const SCRAPES_AT_ONCE: usize = 2;

/// The monitoring port.
pub fn router(state: MonitoringState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/live", get(live))
        .route("/version", get(version))
        .with_state(state)
}

async fn ready(State(state): State<MonitoringState>) -> Response {
    state.readiness.response()
}

/// Alive as long as every part of the process is. That the threads of the data path are busy is no
/// reason to restart it.
async fn live(State(state): State<MonitoringState>) -> Response {
    state.readiness.live()
}

async fn metrics(State(state): State<MonitoringState>) -> Response {
    // Off the thread that answers probes: the collector walks all proxies and services.
    static SCRAPES: Semaphore = Semaphore::const_new(SCRAPES_AT_ONCE);
    let slot = SCRAPES.acquire().await;
    let made = tokio::task::spawn_blocking(move || {
        let _slot = slot;
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
