//! The monitoring port: `/metrics`, `/ready`, `/live`, `/version`.
//!
//! Open to the cluster (Prometheus, the kubelet), so it says nothing about anybody's traffic. On a thread and a
//! runtime of its own: however busy the data path is, the kubelet gets its answer and does not restart a
//! replica that serves. Of the control plane and of the injector.

use std::sync::Arc;
use std::time::SystemTime;
use std::{io, thread};

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::runtime::Builder;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::error;

use crate::door::LimitedListener;
use crate::exposition::{OPENMETRICS, PROMETHEUS_TEXT, to_prometheus_text, wants_openmetrics};
use crate::http_server;
use crate::readiness::Conditions;
use crate::version::{REVISION, VERSION};

/// The page for a readiness probe.
pub(crate) fn ready_page(readiness: &Conditions) -> Response {
    match readiness.waiting_for() {
        None => "ready\n".into_response(),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {reason}\n")).into_response()
        }
    }
}

/// The page for a liveness probe: alive as long as nothing is lost.
fn live_page(readiness: &Conditions) -> Response {
    match readiness.lost() {
        None => "live\n".into_response(),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, format!("not live: {reason}\n")).into_response()
        }
    }
}

/// What the monitoring port shows.
#[derive(Clone, Debug)]
pub struct MonitoringState {
    pub readiness: Conditions,
    pub registry: Arc<Registry>,
    /// When the process started.
    pub started: SystemTime,
}

/// HandlerPool of metrics in the making at the same time; whoever asks for more waits.
const SCRAPES_AT_ONCE: usize = 2;

/// Serves the monitoring port on a thread of its own; the future ends as the thread does.
///
/// # Errors
/// The system refuses the thread or its runtime.
pub fn serve(
    listener: LimitedListener,
    state: MonitoringState,
    stop: CancellationToken,
) -> io::Result<impl Future<Output = ()> + Send + use<>> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = listener.into_std()?;
    let (ending, ended) = oneshot::channel::<()>();
    let serve = move || {
        // Dropped when the thread ends, however it does.
        let _ending = ending;
        runtime.block_on(async {
            match listener.into_tokio() {
                Ok(listener) => http_server::serve(listener, router(state), stop).await,
                Err(error) => error!(%error, "cannot serve the monitoring port"),
            }
        });
        // A page that is still being made has no reader any more.
        runtime.shutdown_background();
    };
    let thread = thread::Builder::new().name("monitoring".to_owned()).spawn(serve)?;
    Ok(async move {
        _ = ended.await;
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    })
}

/// The monitoring port.
pub fn router(state: MonitoringState) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .route("/ready", get(ready))
        .route("/live", get(live))
        .route("/version", get(version))
        // istioctl puts a slash before the slash of its path.
        .route("//version", get(version))
        .with_state(state)
}

async fn ready(State(state): State<MonitoringState>) -> Response {
    ready_page(&state.readiness)
}

/// Alive as long as every part of the process is. That the threads of the data path are busy is no
/// reason to restart it.
async fn live(State(state): State<MonitoringState>) -> Response {
    live_page(&state.readiness)
}

async fn metrics(State(state): State<MonitoringState>, headers: HeaderMap) -> Response {
    // Off the thread that answers probes: the collector walks all proxies and services.
    static SCRAPES: Semaphore = Semaphore::const_new(SCRAPES_AT_ONCE);
    let slot = SCRAPES.acquire().await;
    let accepted = headers.get_all(header::ACCEPT).iter().filter_map(|one| one.to_str().ok());
    let openmetrics = accepted.into_iter().any(wants_openmetrics);
    let made = tokio::task::spawn_blocking(move || {
        let _slot = slot;
        let mut page = String::new();
        text::encode(&mut page, &state.registry)?;
        Ok::<_, std::fmt::Error>(if openmetrics { page } else { to_prometheus_text(&page) })
    });
    let kind = if openmetrics { OPENMETRICS } else { PROMETHEUS_TEXT };
    match made.await {
        Ok(Ok(page)) => ([(header::CONTENT_TYPE, kind)], page).into_response(),
        Ok(Err(_)) | Err(_) => {
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics could not be encoded\n")
                .into_response()
        }
    }
}

/// `clientVersion` is what istioctl reads: Istio's `version.BuildInfo` (pkg/version, August 2026), under
/// the name that istiod uses. istioctl reads through it unchecked, so it must never be missing.
async fn version(State(state): State<MonitoringState>) -> Json<Value> {
    let up = state.started.elapsed().unwrap_or_default();
    let revision = REVISION.unwrap_or("unknown");
    Json(json!({
        "clientVersion": {
            "version": VERSION,
            "revision": revision,
            "golang_version": "none (Rust)",
            "status": "unknown",
            "tag": VERSION,
        },
        "version": VERSION,
        "revision": revision,
        "started": humantime::format_rfc3339(state.started).to_string(),
        "uptimeSeconds": up.as_secs(),
    }))
}
