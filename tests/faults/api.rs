//! A stand-in API server: Services and EndpointSlices, and faults on command.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::pilot::{PATIENCE, eventually};

pub(crate) const SERVICES: &str = "services";
pub(crate) const SLICES: &str = "endpointslices";

/// What befalls every watch that is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Neither events nor the end, not even at the watch's timeout.
    Hang,
    /// An ERROR event: the version is too old.
    Gone,
    /// A clean end, and the version is too old for the next watch.
    Forget,
    /// Half an event, and the connection breaks.
    HalfThenBreak,
    /// Half an event, and a clean end.
    HalfThenEnd,
    /// An event that is no JSON.
    Garbage,
    /// A clean end.
    End,
}

#[derive(Default)]
struct World {
    version: u64,
    objects: BTreeMap<(&'static str, String), Value>,
    history: Vec<Event>,
    /// Watches cannot resume, nor lists go on, from before this version.
    floor: u64,
    /// Answered to every request of the kind (or of any).
    refused: Option<(Option<&'static str>, u16)>,
    /// What refusals say of when to come again, in seconds.
    retry_after: u32,
    /// When requests were refused.
    refusals: Vec<Instant>,
    down: bool,
    lists: BTreeMap<String, usize>,
    /// The watches that can be cut, by kind.
    open: BTreeMap<&'static str, usize>,
}

#[derive(Clone)]
struct Event {
    version: u64,
    kind: &'static str,
    what: &'static str,
    object: Value,
}

#[derive(Clone)]
struct Shared {
    world: Arc<Mutex<World>>,
    /// Moves whenever there is something to look at.
    changed: watch::Sender<u64>,
    cut: watch::Sender<Cut>,
    /// Later pages of lists wait while this is set.
    pages_held: watch::Sender<bool>,
}

pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    shared: Shared,
    _serving: AbortOnDropHandle<()>,
}

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Shared {
            world: Arc::default(),
            changed: watch::Sender::new(0),
            cut: watch::Sender::new(Cut::End),
            pages_held: watch::Sender::new(false),
        };
        // Version 0 means "any" to clients.
        shared.world().version = 1;
        let app = Router::new()
            .route("/apis/discovery.k8s.io/v1", get(discovery))
            .route("/api/v1/{kind}", get(collection))
            .route("/apis/discovery.k8s.io/v1/{kind}", get(collection))
            .with_state(shared.clone());
        let door = Door { listener, shared: shared.clone() };
        let serving = async move { axum::serve(door, app).await.unwrap() };
        let serving = AbortOnDropHandle::new(tokio::spawn(serving));
        Self { address, shared, _serving: serving }
    }

    /// Makes the changes known to watches and lists.
    pub(crate) fn change(&self, changes: impl FnOnce(&mut Changes<'_>)) {
        changes(&mut Changes { world: self.shared.world() });
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// Waits until a watch of each kind is open, which a cut or a broken connection takes along.
    pub(crate) async fn is_watched(&self) {
        drop(self.watched().await);
    }

    async fn watched(&self) -> MutexGuard<'_, World> {
        let begun = Instant::now();
        loop {
            assert!(begun.elapsed() < PATIENCE, "there is no open watch of each kind");
            {
                let world = self.shared.world();
                let open = |kind: &&str| world.open.get(kind).is_some_and(|&n| n > 0);
                if [SERVICES, SLICES].iter().all(open) {
                    return world;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Cuts the open watches, of which there is one of each kind at least, and makes changes that
    /// none of them has told.
    pub(crate) async fn cut(&self, cut: Cut, changes: impl FnOnce(&mut Changes<'_>)) {
        let mut guard = Changes { world: self.watched().await };
        changes(&mut guard);
        if matches!(cut, Cut::Gone | Cut::Forget) {
            guard.world.floor = guard.world.version;
        }
        // Under the lock, so that no watch sees the changes before the cut.
        self.shared.cut_all(cut);
    }

    /// Answers every new request (of one kind, or of all) with this status, and ends the watches.
    pub(crate) fn refuse(&self, kind: Option<&'static str>, status: u16) {
        self.shared.world().refused = Some((kind, status));
        self.shared.cut_all(Cut::End);
    }

    /// The same, and says when to come again.
    pub(crate) fn refuse_for(&self, kind: &'static str, status: u16, seconds: u32) {
        self.shared.world().retry_after = seconds;
        self.refuse(Some(kind), status);
    }

    /// When requests were refused.
    pub(crate) fn refusals(&self) -> Vec<Instant> {
        self.shared.world().refusals.clone()
    }

    /// Pages of lists that were begun cannot be gone on with.
    pub(crate) fn forget_lists(&self) {
        let mut world = self.shared.world();
        world.version += 1;
        world.floor = world.version;
    }

    /// Nobody is listening any more, and what was open breaks.
    pub(crate) fn go_down(&self) {
        self.shared.world().down = true;
        self.shared.cut_all(Cut::HalfThenBreak);
    }

    /// Takes refusals and the outage back.
    pub(crate) fn be_well(&self) {
        let mut world = self.shared.world();
        world.refused = None;
        world.down = false;
    }

    pub(crate) fn hold_pages(&self, held: bool) {
        self.shared.pages_held.send_replace(held);
    }

    /// How many first pages (and how many later ones, as `KIND+`) have been asked for.
    pub(crate) fn lists(&self, kind: &str) -> usize {
        self.shared.world().lists.get(kind).copied().unwrap_or_default()
    }

    pub(crate) async fn lists_more_than(&self, kind: &str, count: usize) {
        eventually(&format!("more than {count} lists of {kind}"), async || {
            let seen = self.lists(kind);
            if seen > count { Ok(()) } else { Err(seen.to_string()) }
        })
        .await;
    }
}

/// Changes of one moment.
pub(crate) struct Changes<'a> {
    world: MutexGuard<'a, World>,
}

impl Changes<'_> {
    /// Restored from a backup: other objects, and a history that is shorter than what watches know.
    pub(crate) fn restore(&mut self) {
        self.world.objects.clear();
        self.world.history.clear();
        self.world.version = 1;
    }

    /// A service of one HTTP port, and a slice with these endpoints.
    pub(crate) fn service(&mut self, name: &str, addresses: &[&str]) {
        self.put(
            SERVICES,
            json!({ "metadata": { "name": name, "namespace": "default" },
                "spec": { "ports": [{ "name": "http", "port": 80 }] } }),
        );
        self.slice(name, addresses);
    }

    pub(crate) fn slice(&mut self, name: &str, addresses: &[&str]) {
        let endpoints: Vec<_> =
            addresses.iter().map(|address| json!({ "addresses": [address] })).collect();
        self.put(
            SLICES,
            json!({ "metadata": { "name": format!("{name}-1"), "namespace": "default",
                    "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4", "ports": [{ "name": "http", "port": 8080 }],
                "endpoints": endpoints }),
        );
    }

    pub(crate) fn put(&mut self, kind: &'static str, mut object: Value) {
        let world = &mut *self.world;
        world.version += 1;
        object["metadata"]["resourceVersion"] = world.version.to_string().into();
        let name = object["metadata"]["name"].as_str().unwrap().to_owned();
        let old = world.objects.insert((kind, name), object.clone());
        let what = if old.is_some() { "MODIFIED" } else { "ADDED" };
        world.history.push(Event { version: world.version, kind, what, object });
    }

    pub(crate) fn delete(&mut self, kind: &'static str, name: &str) {
        let world = &mut *self.world;
        world.version += 1;
        let mut object = world.objects.remove(&(kind, name.to_owned())).unwrap();
        object["metadata"]["resourceVersion"] = world.version.to_string().into();
        world.history.push(Event { version: world.version, kind, what: "DELETED", object });
    }

    pub(crate) fn delete_service(&mut self, name: &str) {
        self.delete(SERVICES, name);
        self.delete(SLICES, &format!("{name}-1"));
    }
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut_all(&self, cut: Cut) {
        self.cut.send_replace(cut);
        self.changed.send_modify(|count| *count += 1);
    }
}

/// Accepts while the server is up; what comes otherwise is closed at once.
struct Door {
    listener: TcpListener,
    shared: Shared,
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

/// One answer a connection, so that an outage breaks them all.
fn answer(status: StatusCode, body: impl Into<Body>) -> Response {
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CONNECTION, "close")];
    (status, headers, body.into()).into_response()
}

fn status(code: u16) -> Value {
    let reason = match code {
        403 => "Forbidden",
        410 => "Expired",
        429 => "TooManyRequests",
        _ => "InternalError",
    };
    json!({ "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": format!("the stand-in says {code}"), "reason": reason, "code": code })
}

fn refusal(code: u16) -> Response {
    answer(StatusCode::from_u16(code).unwrap(), status(code).to_string())
}

fn refusal_for(code: u16, seconds: u32) -> Response {
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

async fn collection(
    State(shared): State<Shared>,
    Path(kind): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let kind = if kind == SERVICES { SERVICES } else { SLICES };
    {
        let mut world = shared.world();
        if let Some((of, code)) = world.refused
            && of.is_none_or(|of| of == kind)
        {
            world.refusals.push(Instant::now());
            return refusal_for(code, world.retry_after);
        }
    }
    if query.get("watch").is_some_and(|watch| watch == "true") {
        watch_from(shared, kind, &query)
    } else {
        list(&shared, kind, &query).await
    }
}

/// A page as of now; a token to go on is the place and the version.
async fn list(shared: &Shared, kind: &str, query: &BTreeMap<String, String>) -> Response {
    let token = query.get("continue").and_then(|token| token.split_once('-'));
    let counted = if token.is_some() { format!("{kind}+") } else { kind.to_owned() };
    *shared.world().lists.entry(counted).or_default() += 1;
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
    let all: Vec<_> = world.objects.iter().filter(|((of, _), _)| *of == kind).collect();
    let items: Vec<_> = all.iter().skip(skip).take(limit).map(|(_, object)| object).collect();
    let next = skip + items.len();
    let next = if next < all.len() { format!("{next}-{version}") } else { String::new() };
    let page = json!({ "kind": "List", "apiVersion": "v1", "items": items,
        "metadata": { "resourceVersion": version.to_string(), "continue": next } });
    answer(StatusCode::OK, page.to_string())
}

fn watch_from(shared: Shared, kind: &'static str, query: &BTreeMap<String, String>) -> Response {
    let mut position: u64 = query["resourceVersion"].parse().unwrap();
    if position < shared.world().floor {
        return refusal(410);
    }
    let seconds = query["timeoutSeconds"].parse().unwrap();
    let end = tokio::time::Instant::now() + Duration::from_secs(seconds);
    let mut changed = shared.changed.subscribe();
    let (mut open, mut cut) = Open::new(&shared, kind);
    let events = async_stream::stream! {
        loop {
            // Cuts are sent under the lock, so there is none between this look and the events.
            let (lines, cut_now, ended) = {
                let mut world = shared.world();
                let cut_now = cut.has_changed().unwrap_or(true).then(|| *cut.borrow_and_update());
                let news = world.history.iter().filter(|event| event.version > position);
                let news = news.filter(|event| event.kind == kind);
                let lines: Vec<_> = news.map(|event| line(event.what, &event.object)).collect();
                let ended = cut_now.is_none() && tokio::time::Instant::now() >= end;
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
    /// Also what the watch hears of cuts with, from the same moment on.
    fn new(shared: &Shared, kind: &'static str) -> (Self, watch::Receiver<Cut>) {
        let mut world = shared.world();
        *world.open.entry(kind).or_default() += 1;
        (Self { shared: shared.clone(), kind, counted: true }, shared.cut.subscribe())
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

fn line(what: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({ "type": what, "object": object })).into()
}
