//! The debug pages: what the control plane knows, and who has what, in the shapes that Istio's
//! users and tools know (`/debug/syncz` and its like), plus a few fields of our own.
//!
//! All is read-only and may be asked of a loaded server: state is cloned out (pointers) before a
//! page is made, pages are made on blocking threads and two at a time, and everything comes in a
//! fixed order so that two pages can be compared by `diff`.
//!
//! There is no password. The listener is on loopback unless a flag opens it, which keeps other
//! machines out; a check of the `Host` header keeps web
//! pages in an operator's own browser out.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::{Query, Request, State};
use axum::http::{StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use prost_reflect::prost_types::Timestamp;
use serde::Serialize;
use tokio::sync::{Semaphore, watch};

use crate::model::Model;
use crate::proxies::{Connection, Proxies};
use crate::snapshot::Snapshot;
use crate::source::health::Health;
use crate::version::VERSION;

mod config_dump;
pub mod monitoring;
mod registry;
mod status;
mod streams;

use monitoring::Readiness;

/// Pages in the making at the same time: a dump of a large mesh is tens of megabytes.
const PAGES_AT_ONCE: usize = 2;

/// Istio's name for the one cluster that is watched, in every page that groups by cluster.
const CLUSTER_ID: &str = "Kubernetes";

/// What the pages show.
#[derive(Clone, Debug)]
pub struct DebugState {
    pub proxies: Arc<Proxies>,
    pub health: Arc<Health>,
    pub model: watch::Receiver<Model>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Shared with the monitoring port, so that both say the same.
    pub readiness: Arc<Readiness>,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub domain: Arc<str>,
    /// Whether the listener is on loopback, hence requests must name a local host.
    pub loopback: bool,
}

impl DebugState {
    /// Cheap, and lets go of the watch at once: a held borrow would stop the writer.
    fn model(&self) -> Model {
        self.model.borrow().clone()
    }

    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }
}

/// What stands behind the question mark, `pretty` among it.
type Parameters = HashMap<String, String>;

/// What makes a page of the state.
type Make<T> = fn(&DebugState, &Parameters) -> Result<T, Problem>;

/// What goes wrong with a request for a page; said in plain text.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(
        "You must provide a proxyID in the query string: the connection id of a proxy or a part of \
         it, as in /debug/config_dump?proxyID=productpage. /debug/connections lists them."
    )]
    NoProxyId,
    /// The first sentence is Istio's, which tools look for.
    #[error(
        "Proxy not connected to this Pilot instance. It may be connected to another instance. \
         No connection id contains {0:?}; /debug/connections lists those that are here."
    )]
    NotConnected(String),
    #[error(
        "types={0:?} is no resource type. Give CDS, EDS, LDS, RDS or type URLs, separated by commas."
    )]
    UnknownType(String),
    #[error("the page could not be made: {0}")]
    Failed(String),
}

impl Problem {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self {
            Self::NoProxyId | Self::UnknownType(_) => StatusCode::BAD_REQUEST,
            Self::NotConnected(_) => StatusCode::NOT_FOUND,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{self}\n")).into_response()
    }
}

#[derive(Clone, Debug)]
struct Pages {
    state: DebugState,
    slots: Arc<Semaphore>,
}

impl Pages {
    /// Makes a page off the runtime's threads, so that no stream waits for it.
    async fn make<T: Serialize + 'static>(
        self,
        parameters: Parameters,
        make: Make<T>,
    ) -> Result<Response, Problem> {
        let slot = self.slots.acquire_owned().await.map_err(Problem::failed)?;
        let state = self.state;
        let made = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let page = make(&state, &parameters)?;
            let mut text = match parameters.contains_key("pretty") {
                true => serde_json::to_vec_pretty(&page),
                false => serde_json::to_vec(&page),
            }
            .map_err(Problem::failed)?;
            text.push(b'\n');
            Ok(text)
        });
        let text = made.await.map_err(Problem::failed)??;
        Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response())
    }
}

/// One page for the index: where, and what it says in one sentence.
const INDEX: [(&str, &str); 7] = [
    (
        "/debug/syncz",
        "What each proxy was sent and has acknowledged or rejected, by resource type.",
    ),
    ("/debug/connections", "Every open xDS stream, with its peer and since when."),
    (
        "/debug/config_dump?proxyID=",
        "The resources that one proxy was sent, as Envoy's own config dump has them \
         (add &amp;include_eds=true for endpoints, &amp;types=CDS,RDS for some sections only).",
    ),
    ("/debug/registryz", "The services as they are known, with ports and addresses."),
    ("/debug/endpointz", "The endpoints of every service, the unready ones included."),
    ("/debug/push_status", "What is wrong now: rejected configuration, ports without endpoints."),
    ("/debug/sourcez", "The watches that all this comes from, and the objects that were left out."),
];

/// The debug port: `/debug…` and `/ready`.
pub fn router(state: DebugState) -> Router {
    let loopback = state.loopback;
    let pages = Pages { state, slots: Arc::new(Semaphore::new(PAGES_AT_ONCE)) };
    let router = Router::new()
        .route("/", get(index))
        .route("/debug", get(index))
        .route("/debug/", get(index))
        .route("/debug/syncz", page(streams::syncz))
        .route("/debug/connections", page(streams::connections))
        .route("/debug/config_dump", page(config_dump::of_proxy))
        .route("/debug/registryz", page(registry::registryz))
        .route("/debug/endpointz", page(registry::endpointz))
        // Istio's own name for the same.
        .route("/debug/endpointShardz", page(registry::endpointz))
        .route("/debug/push_status", page(status::push_status))
        .route("/debug/sourcez", page(status::sourcez))
        .route(
            "/ready",
            get(|State(pages): State<Pages>| async move { pages.state.readiness.response() }),
        )
        .fallback(|uri: Uri| async move {
            let said = format!("There is no page {}. /debug lists all pages.\n", uri.path());
            (StatusCode::NOT_FOUND, said)
        })
        .with_state(pages);
    match loopback {
        true => router.layer(middleware::from_fn(guard_host)),
        false => router,
    }
}

/// Refuses requests for a host that is not this machine's own name or an address.
///
/// A web page can let its own name point to 127.0.0.1 and then read what is served there (DNS
/// rebinding), but its requests carry its name.
async fn guard_host(request: Request, next: Next) -> Response {
    let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    match host.or_else(|| request.uri().host()).is_none_or(is_local_name) {
        true => next.run(request).await,
        false => {
            let said = "The debug pages are on loopback: ask for localhost or an IP address.\n";
            (StatusCode::FORBIDDEN, said).into_response()
        }
    }
}

fn is_local_name(authority: &str) -> bool {
    // [v6]:port, v4:port, name:port, all with or without the port.
    let host = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((v6, _)) => v6,
        None => authority.split_once(':').map_or(authority, |(host, _)| host),
    };
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || host.parse::<IpAddr>().is_ok()
}

async fn index() -> Html<String> {
    let rows = INDEX.map(|(path, says)| {
        // The page that needs an argument is not worth a click without it.
        let name = match path.ends_with('=') {
            true => path.to_owned(),
            false => format!("<a href=\"{path}\">{path}</a>"),
        };
        format!("<tr><td>{name}</td><td>{says}</td></tr>\n")
    });
    Html(format!(
        "<!DOCTYPE html>\n<html lang=\"en\"><head><title>Pilothouse</title>\n\
         <style>body {{ font-family: sans-serif; margin: 2em }} td {{ padding: .3em 1em .3em 0 }}\
         </style></head>\n<body><h1>Pilothouse {VERSION}</h1>\n\
         <p>Every page is JSON; add <code>?pretty</code> to read it. <a href=\"/ready\">/ready</a> \
         says whether proxies are served.</p>\n<table>\n{}</table></body></html>\n",
        rows.concat()
    ))
}

/// A route to a JSON page.
fn page<T: Serialize + 'static>(make: Make<T>) -> MethodRouter<Pages> {
    get(move |State(pages): State<Pages>, Query(parameters)| pages.make(parameters, make))
}

/// The proxy that `?proxyID=` means: its connection id, its name, or a part of the connection id;
/// the youngest if several fit, since an older one is most likely on its way out.
fn find(state: &DebugState, parameters: &Parameters) -> Result<Arc<Connection>, Problem> {
    let wanted = parameters.get("proxyID").filter(|id| !id.is_empty()).ok_or(Problem::NoProxyId)?;
    let mut found = None;
    for connection in state.proxies.all() {
        let id = connection.connection_id();
        let name = id.rsplit_once('-').map_or(&*id, |(name, _)| name);
        let fit = match () {
            () if id == *wanted => 3,
            () if name == wanted => 2,
            () if id.contains(wanted) => 1,
            () => continue,
        };
        if found.as_ref().is_none_or(|(best, _)| fit >= *best) {
            found = Some((fit, connection));
        }
    }
    found.map(|(_, connection)| connection).ok_or_else(|| Problem::NotConnected(wanted.clone()))
}

/// A moment as RFC 3339 in UTC.
fn rfc3339(moment: SystemTime) -> String {
    Timestamp::from(moment).to_string()
}

#[cfg(test)]
mod tests;
