//! The stand-in's answers: discovery, lists, watches.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant as Deadline;

use super::world::{Shared, World, line};
use super::{Cut, ROUTE_KINDS, SERVICES, SLICES, Streaming};

type Parameters = BTreeMap<String, String>;

pub(crate) fn router(shared: Shared) -> Router {
    Router::new()
        .route("/apis/discovery.k8s.io/v1", get(discovery))
        .route("/api/v1/{kind}", get(collection))
        .route("/apis/discovery.k8s.io/v1/{kind}", get(collection))
        .route("/apis/gateway.networking.k8s.io/{version}", get(gateway_discovery))
        .route("/apis/gateway.networking.k8s.io/{version}/{kind}", get(gateway_collection))
        .with_state(shared)
}

/// Accepts while the server is up; what comes otherwise is closed at once.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) shared: Shared,
}

impl axum::serve::Listener for Door {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        loop {
            if let Ok(accepted) = self.listener.accept().await
                && !self.shared.world().down
            {
                return accepted;
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// The server's clock is decades ahead of everybody else's, here and in the objects: nothing may
/// depend on it.
const DATE: &str = "Thu, 01 Jan 2060 00:00:00 GMT";

/// One answer a connection, so that an outage breaks them all.
pub(crate) fn answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "application/json"),
        (header::CONNECTION, "close"),
        (header::DATE, DATE),
    ];
    (status, headers, body.into()).into_response()
}

fn status(code: u16) -> Value {
    let reason = match code {
        403 => "Forbidden",
        404 => "NotFound",
        409 => "AlreadyExists",
        410 => "Expired",
        422 => "Invalid",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the stand-in says {code}"), "reason": reason, "code": code })
}

pub(crate) fn refusal(code: u16) -> Response {
    answer(StatusCode::from_u16(code).unwrap(), status(code).to_string())
}

pub(crate) fn refusal_for(code: u16, seconds: u32) -> Response {
    let mut status = status(code);
    status["details"] = json!({ "retryAfterSeconds": seconds });
    let mut response = answer(StatusCode::from_u16(code).unwrap(), status.to_string());
    response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    response
}

async fn discovery(State(shared): State<Shared>) -> Response {
    if let Some((None, code)) = shared.world().refused {
        return refusal(code);
    }
    let list = json!({ "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": "discovery.k8s.io/v1", "resources": [{ "name": SLICES,
            "singularName": "endpointslice", "namespaced": true, "kind": "EndpointSlice",
            "verbs": ["get", "list", "watch"] }] });
    answer(StatusCode::OK, list.to_string())
}

async fn gateway_discovery(State(shared): State<Shared>, Path(version): Path<String>) -> Response {
    let mut world = shared.world();
    world.discoveries += 1;
    if let Some((None, code)) = world.refused {
        return refusal(code);
    }
    let resources: Vec<_> = world.crds.iter().filter(|(_, served)| **served == version).collect();
    if resources.is_empty() {
        return refusal(404);
    }
    let resources: Vec<_> = resources
        .into_iter()
        .map(|(kind, _)| {
            json!({ "name": kind, "singularName": "", "namespaced": true, "kind": kind,
                "verbs": ["get", "list", "watch"] })
        })
        .collect();
    let list = json!({ "kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": format!("gateway.networking.k8s.io/{version}"), "resources": resources });
    answer(StatusCode::OK, list.to_string())
}

async fn gateway_collection(
    State(shared): State<Shared>,
    Path((version, kind)): Path<(String, String)>,
    Query(query): Query<Parameters>,
) -> Response {
    let kind = ROUTE_KINDS.into_iter().find(|known| *known == kind);
    let served = kind.filter(|kind| shared.world().crds.get(kind).is_some_and(|is| *is == version));
    match served {
        Some(kind) => collection_of(shared, kind, query).await,
        None => refusal(404),
    }
}

async fn collection(
    State(shared): State<Shared>,
    Path(kind): Path<String>,
    Query(query): Query<Parameters>,
) -> Response {
    collection_of(shared, if kind == SERVICES { SERVICES } else { SLICES }, query).await
}

async fn collection_of(shared: Shared, kind: &'static str, query: Parameters) -> Response {
    {
        let mut world = shared.world();
        if let Some((of, code)) = world.refused
            && of.is_none_or(|of| of == kind)
        {
            world.refusals.push(Instant::now());
            return refusal_for(code, world.retry_after);
        }
    }
    let is = |name, value| query.get(name).is_some_and(|given| given == value);
    if !is("watch", "true") {
        list(&shared, kind, &query).await
    } else if !is("sendInitialEvents", "true") {
        let position = query["resourceVersion"].parse().unwrap();
        watch_from(shared, kind, &query, position, None)
    } else if is("resourceVersionMatch", "NotOlderThan") && is("allowWatchBookmarks", "true") {
        streamed(shared, kind, &query)
    } else {
        refusal(422)
    }
}

/// A page as of now; a token to go on is the place and the version.
async fn list(shared: &Shared, kind: &str, query: &Parameters) -> Response {
    let token = query.get("continue").and_then(|token| token.split_once('-'));
    let counted = if token.is_some() { format!("{kind}+") } else { kind.to_owned() };
    shared.world().count_list(counted);
    if token.is_some() {
        let mut held = shared.pages_held.subscribe();
        let _ = held.wait_for(|held| !held).await;
    }
    let world = shared.world();
    let (skip, version) = match token {
        Some((skip, version)) => (skip.parse().unwrap(), version.parse().unwrap()),
        None => (0, world.version),
    };
    if version < world.floor {
        return refusal(410);
    }
    let limit = query.get("limit").map_or(usize::MAX, |limit| limit.parse().unwrap());
    let all = world.of_kind(kind);
    let items: Vec<_> = all.iter().skip(skip).take(limit).collect();
    let next = skip + items.len();
    let next = if next < all.len() { format!("{next}-{version}") } else { String::new() };
    let page = json!({ "kind": "List", "apiVersion": "v1", "items": items,
        "metadata": { "resourceVersion": version.to_string(), "continue": next } });
    answer(StatusCode::OK, page.to_string())
}

/// A watch that begins with everything there is, and says where that ends.
fn streamed(shared: Shared, kind: &'static str, query: &Parameters) -> Response {
    let (streaming, version, mut lines) = {
        let mut world = shared.world();
        if world.streaming == Streaming::Unknown {
            return refusal(422);
        }
        world.count_list(format!("{kind} streamed"));
        if world.streaming == Streaming::Whole {
            world.count_list(kind);
        }
        let objects = world.of_kind(kind).into_iter();
        let lines: Vec<_> = objects.map(|object| line("ADDED", object)).collect();
        (world.streaming, world.version, lines)
    };
    let mark = json!({ "kind": "Bookmark", "apiVersion": "v1",
        "metadata": { "resourceVersion": version.to_string(),
            "annotations": { "k8s.io/initial-events-end": "true" } } });
    match streaming {
        Streaming::Whole => lines.push(line("BOOKMARK", &mark)),
        Streaming::Unmarked => {}
        Streaming::HalfThenHang | Streaming::HalfThenBreak | Streaming::HalfThenEnd => {
            lines.truncate(lines.len() / 2);
        }
        Streaming::Endless | Streaming::Unknown => {}
    }
    watch_from(shared, kind, query, version, Some((lines, streaming)))
}

fn watch_from(
    shared: Shared,
    kind: &'static str,
    query: &Parameters,
    mut position: u64,
    initial: Option<(Vec<Bytes>, Streaming)>,
) -> Response {
    if position < shared.world().floor {
        return refusal(410);
    }
    let seconds = query["timeoutSeconds"].parse().unwrap();
    let end = Deadline::now() + Duration::from_secs(seconds);
    let mut changed = shared.changed.subscribe();
    // A cut during the initial events is obeyed after them.
    let mut cut = shared.cut.subscribe();
    let events = async_stream::stream! {
        if let Some((lines, streaming)) = initial {
            for line in &lines {
                yield Ok(line.clone());
            }
            match streaming {
                Streaming::Whole | Streaming::Unmarked | Streaming::Unknown => {}
                Streaming::HalfThenHang => std::future::pending().await,
                Streaming::HalfThenBreak => {
                    // Else what is still in the buffer would go down with it.
                    tokio::time::sleep(Duration::from_millis(200)).await;
                    yield Err(io::Error::from(io::ErrorKind::ConnectionReset));
                }
                Streaming::HalfThenEnd => return,
                Streaming::Endless => {
                    for line in lines.iter().cycle() {
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        yield Ok(line.clone());
                    }
                }
            }
        }
        let mut open = Open::new(&shared, kind);
        loop {
            // Cuts are sent under the lock, so there is none between this look and the events.
            let (lines, cut_now, ended) = {
                let mut world = shared.world();
                let cut_now = cut.has_changed().unwrap_or(true).then(|| *cut.borrow_and_update());
                let lines = world.news(kind, position);
                let ended = cut_now.is_none() && Deadline::now() >= end;
                if cut_now.is_none() {
                    position = world.version;
                }
                if cut_now.is_some() || ended {
                    open.close(&mut world);
                }
                (lines, cut_now, ended)
            };
            if let Some(cut_now) = cut_now {
                match cut_now {
                    Cut::Hang => std::future::pending().await,
                    Cut::Gone => yield Ok(line("ERROR", &status(410))),
                    Cut::HalfThenBreak | Cut::HalfThenEnd => {
                        yield Ok(Bytes::from_static(br#"{"type":"MODIFIED","object":{"kind":"Se"#));
                        if cut_now == Cut::HalfThenBreak {
                            yield Err(io::Error::from(io::ErrorKind::ConnectionReset));
                        }
                    }
                    Cut::NoNewline => {
                        if let Some(line) = lines.first() {
                            yield Ok(line.slice(..line.len() - 1));
                        }
                    }
                    Cut::Garbage => yield Ok(Bytes::from_static(b"{\"type\":\"ADDED\",]\n")),
                    Cut::End | Cut::Forget => {}
                }
                return;
            }
            for line in lines {
                yield Ok(line);
            }
            if ended {
                let bookmark = json!({ "kind": "Bookmark", "apiVersion": "v1",
                    "metadata": { "resourceVersion": position.to_string() } });
                yield Ok(line("BOOKMARK", &bookmark));
                return;
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(end) => {}
            }
        }
    };
    answer(StatusCode::OK, Body::from_stream(events))
}

/// Counts a watch for as long as it obeys cuts.
struct Open {
    shared: Shared,
    kind: &'static str,
    counted: bool,
}

impl Open {
    fn new(shared: &Shared, kind: &'static str) -> Self {
        *shared.world().open.entry(kind).or_default() += 1;
        Self { shared: shared.clone(), kind, counted: true }
    }

    fn close(&mut self, world: &mut World) {
        if std::mem::take(&mut self.counted) {
            *world.open.entry(self.kind).or_default() -= 1;
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        self.close(&mut shared.world());
    }
}
