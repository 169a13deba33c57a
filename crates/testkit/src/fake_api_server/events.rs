//! The stand-in's events (`events.k8s.io/v1`): what was written, and faults of their own.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use axum::routing::{patch, post};
use serde_json::Value;

use super::answers::{answer, refusal, refusal_for};
use super::world::Shared;

/// What becomes of requests about events.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Writes {
    #[default]
    Taken,
    /// This status, and when to come again in seconds.
    Refused(u16, u32),
    /// No answer ever.
    Hang,
}

#[derive(Debug, Default)]
pub(crate) struct Events {
    pub(crate) writes: Writes,
    /// By namespace and name.
    pub(crate) all: BTreeMap<(String, String), Value>,
    /// Requests, refused ones included.
    pub(crate) requests: usize,
}

pub(crate) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/apis/events.k8s.io/v1/namespaces/{namespace}/events", post(create))
        .route("/apis/events.k8s.io/v1/namespaces/{namespace}/events/{name}", patch(count))
        .with_state(shared)
}

/// The answer to a request that is not simply carried out.
async fn fault(shared: &Shared) -> Option<Response> {
    let writes = {
        let mut world = shared.world();
        world.events.requests += 1;
        world.events.writes
    };
    match writes {
        Writes::Taken => None,
        Writes::Refused(status, seconds) => Some(refusal_for(status, seconds)),
        Writes::Hang => std::future::pending().await,
    }
}

async fn create(
    State(shared): State<Shared>,
    Path(namespace): Path<String>,
    body: String,
) -> Response {
    if let Some(response) = fault(&shared).await {
        return response;
    }
    let event: Value = serde_json::from_str(&body).unwrap();
    let key = (namespace, event["metadata"]["name"].as_str().unwrap().to_owned());
    let events = &mut shared.world().events.all;
    if events.contains_key(&key) {
        return refusal(409);
    }
    events.insert(key, event);
    answer(StatusCode::CREATED, body)
}

/// A merge patch, of which only the series is known.
async fn count(
    State(shared): State<Shared>,
    Path(key): Path<(String, String)>,
    body: String,
) -> Response {
    if let Some(response) = fault(&shared).await {
        return response;
    }
    let patch: Value = serde_json::from_str(&body).unwrap();
    match shared.world().events.all.get_mut(&key) {
        None => refusal(404),
        Some(event) => {
            event["series"] = patch["series"].clone();
            answer(StatusCode::OK, event.to_string())
        }
    }
}
