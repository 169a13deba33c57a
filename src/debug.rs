//! The debug pages: what the control plane knows, and who has what, in the shapes that Istio's
//! users and tools know (`/debug/syncz` and its like), plus a few fields of our own.
//!
//! All is read-only and may be asked of a loaded server: state is cloned out (pointers) before a
//! page is written, pages are written on blocking threads, two at a time and chunk by chunk
//! (`response_writer`), and everything comes in a fixed order, so that `diff` can compare two pages.
//!
//! There is no password. The listener is on loopback, which keeps other machines out; a check of the `Host` header keeps web pages in an operator's own browser out
//! (`guard`). Other machines may have a listener of their own, with TLS, whose readers must prove who they
//! are. It is a second one because `kubectl port-forward` ends on loopback in plaintext, and one listener
//! that served both would tell them apart by address alone.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::middleware;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use prost_reflect::prost_types::Timestamp;
use tokio::sync::watch;

use crate::certificates::Certificates;
use crate::changes::ChangeLog;
use crate::identity::tokens::TokenVerifier;
use crate::model::Model;
use crate::model::route::RouteReport;
use crate::proxies::Proxies;
use crate::readiness::Conditions;
use crate::route_status::RouteStatusHealth;
use crate::snapshot::Snapshot;
use crate::source::health::Health;

mod changes;
mod client_status;
mod clients;
mod config_dump;
mod convergence;
mod csds;
mod endpoints;
mod find;
mod guard;
mod history;
mod index;
mod lagging;
mod live;
mod node_matcher;
mod over_ads;
pub mod page;
mod parameters;
mod proxies;
mod proxy;
mod registry;
mod replica;
mod response_writer;
mod routes;
mod sent;
mod services;
mod status;
mod syncz;
mod uses;

pub use guard::ReaderGuard;
pub use over_ads::OverAds;
use parameters::Parameters;
pub use replica::{instance, replica};
use response_writer::{HandlerPool, ResponseWriter};

/// Istio's name for the one cluster that is watched, in every page that groups by cluster.
const CLUSTER_ID: &str = "Kubernetes";

/// What the pages show.
#[derive(Clone, Debug)]
pub struct DebugState {
    pub proxies: Arc<Proxies>,
    pub health: Arc<Health>,
    pub model: watch::Receiver<Model>,
    pub snapshot: watch::Receiver<Option<Arc<Snapshot>>>,
    pub changes: Arc<ChangeLog>,
    /// What has become of each route.
    pub routes: watch::Receiver<RouteReport>,
    /// How it goes with writing that into their status; none if that is not done.
    pub route_status: Option<Arc<RouteStatusHealth>>,
    /// None if no tokens are verified.
    pub tokens: Option<Arc<TokenVerifier>>,
    /// Shared with the monitoring port, so that both say the same.
    pub readiness: Conditions,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub domain: Arc<str>,
    /// What xDS over TLS is served with, if it is.
    pub certificates: Option<Arc<Certificates>>,
}

impl DebugState {
    /// Cheap, and lets go of the watch at once: a held borrow would stop the writer.
    fn model(&self) -> Model {
        self.model.borrow().clone()
    }

    fn routes(&self) -> RouteReport {
        self.routes.borrow().clone()
    }

    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.snapshot.borrow().clone()
    }
}

/// Writes a page about the state; or the error that is sent in its place.
type HandlerFn = fn(&DebugState, &Parameters, &mut ResponseWriter) -> Result<(), DebugError>;

/// A page and the function that writes it.
#[derive(Debug)]
struct DebugHandler {
    path: &'static str,
    /// What may stand behind the question mark, `pretty` aside.
    parameters: &'static [&'static str],
    /// One sentence, for the index.
    help: &'static str,
    handler: HandlerFn,
}

/// All pages, in the order of the index.
static HANDLERS: [DebugHandler; 15] = [
    DebugHandler {
        path: "/debug/syncz",
        parameters: &["namespace", "proxyID"],
        help: "What each proxy was sent and has acknowledged or rejected, by resource type.",
        handler: syncz::syncz,
    },
    DebugHandler {
        path: "/debug/connections",
        parameters: &["namespace", "proxyID"],
        help: "Every open xDS stream, with its peer and since when.",
        handler: clients::connections,
    },
    DebugHandler {
        path: "/debug/adsz",
        parameters: &["namespace", "proxyID"],
        help: "The same with the proxy's labels and locality, and the names that it subscribes to.",
        handler: clients::adsz,
    },
    DebugHandler {
        path: "/debug/config_dump",
        parameters: &["proxyID", "types", "include_eds"],
        help: "The resources that one proxy was sent, as Envoy's own config dump has them \
               (include_eds adds endpoints, types=CDS,RDS leaves those sections only).",
        handler: config_dump::config_dump,
    },
    DebugHandler {
        path: "/debug/edsz",
        parameters: &["proxyID"],
        help: "The endpoints that one proxy was sent.",
        handler: config_dump::edsz,
    },
    DebugHandler {
        path: "/debug/registryz",
        parameters: &["namespace"],
        help: "The services as they are known, with ports, addresses, the tuning in force and the \
               rules of routes.",
        handler: registry::registryz,
    },
    DebugHandler {
        path: "/debug/routes",
        parameters: &["namespace", "kind", "search", "problems", "offset", "limit"],
        help: "The HTTPRoutes and GRPCRoutes, and what has become of each at its parents (problems \
               leaves those that are not in effect as they were meant).",
        handler: routes::routes,
    },
    DebugHandler {
        path: "/debug/endpointz",
        parameters: &["namespace"],
        help: "The endpoints of every service, the unready ones included.",
        handler: endpoints::endpointz,
    },
    DebugHandler {
        path: "/debug/endpointShardz",
        parameters: &["namespace"],
        help: "The same by Istio's newer name.",
        handler: endpoints::endpointz,
    },
    DebugHandler {
        path: "/debug/push_status",
        parameters: &[],
        help: "What is wrong now: rejected configuration, ports without endpoints.",
        handler: status::push_status,
    },
    DebugHandler {
        path: "/debug/sourcez",
        parameters: &[],
        help: "The watches that all this comes from, and the objects that were left out.",
        handler: status::sourcez,
    },
    DebugHandler {
        path: "/debug/changes",
        parameters: &["search", "offset", "limit"],
        help: "The last 1,000 changes of the source: when each was seen and published, how many \
               proxies have it, and which have not.",
        handler: changes::changes,
    },
    DebugHandler {
        path: "/debug/convergence",
        parameters: &["kind", "namespace", "name", "resource_version", "generation"],
        help: "Is a change everywhere: which generation has it (kind=, namespace=, name=, \
               resource_version=), and which proxies have a generation (generation=).",
        handler: convergence::convergence,
    },
    DebugHandler {
        path: "/debug/uses",
        parameters: &["service", "proxy", "namespace", "offset", "limit"],
        help: "Who uses what: the services that proxies on demand have named, by service, by namespace \
               and by proxy.",
        handler: uses::uses,
    },
    DebugHandler {
        path: "/debug/list",
        parameters: &[],
        help: "The names of all pages.",
        handler: index::list,
    },
];

/// Why a request gets no page; sent as plain text.
#[derive(Debug, thiserror::Error)]
enum DebugError {
    #[error("{0}")]
    Query(String),
    #[error("{name:?} is no parameter of this page; there are: {known}.")]
    UnknownParameter { name: String, known: String },
    #[error("{0:?} is given twice.")]
    Twice(String),
    #[error("{name}={value:?} is neither true nor false.")]
    NoFlag { name: &'static str, value: String },
    #[error("{name}={value:?} is no number.")]
    NoNumber { name: &'static str, value: String },
    #[error("state={0:?} is no state: there are SYNCED, STALE, REJECTED and NOT SENT.")]
    UnknownState(String),
    #[error("No proxy {0:?} is connected to this replica; it may have gone, or be at another one.")]
    Gone(String),
    #[error("The proxy was sent no resource named {0:?}.")]
    NotSent(String),
    #[error("There is no Service {0:?}, and no EndpointSlice of it.")]
    NoService(String),
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
        "proxyID={wanted:?} fits {count} connections and this page is about one: give a whole \
         connection id. There are {examples}."
    )]
    Ambiguous { wanted: String, count: usize, examples: String },
    #[error(
        "types={0:?} is no resource type. Give CDS, EDS, LDS, RDS or type URLs, separated by commas."
    )]
    UnknownType(String),
    #[error("Too many pages are being made, try again later.")]
    Busy,
    #[error("the page could not be made: {0}")]
    Failed(String),
}

impl DebugError {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl IntoResponse for DebugError {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Query(_)
            | Self::UnknownParameter { .. }
            | Self::Twice(_)
            | Self::NoFlag { .. }
            | Self::NoNumber { .. }
            | Self::UnknownState(_)
            | Self::NoProxyId
            | Self::Ambiguous { .. }
            | Self::UnknownType(_) => StatusCode::BAD_REQUEST,
            Self::NotConnected(_) | Self::Gone(_) | Self::NotSent(_) | Self::NoService(_) => {
                StatusCode::NOT_FOUND
            }
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{self}\n")).into_response()
    }
}

/// The debug port: the page, `/debug…` and `/ready`, and by gRPC CSDS, health and reflection.
///
/// # Errors
/// The descriptors for reflection do not decode.
pub fn router(state: DebugState) -> Result<Router, tonic_reflection::server::Error> {
    pool_router(&HandlerPool::new(state))
}

/// The debug port by its ways in.
#[derive(Clone, Debug)]
pub struct DebugRouters {
    /// In plaintext, for loopback: requests must name a local host.
    pub plaintext: Router,
    /// Over TLS, for those of `--debug-identities`.
    pub secure: Router,
    /// On an xDS stream.
    pub over_ads: OverAds,
}

/// The debug port, and the same for those who ask from another machine or on an xDS stream.
///
/// # Errors
/// The descriptors for reflection do not decode.
pub fn routers(
    state: DebugState,
    guard: ReaderGuard,
) -> Result<DebugRouters, tonic_reflection::server::Error> {
    let pool = HandlerPool::new(state);
    let plaintext = pool_router(&pool)?;
    let readers = guard.readers.clone();
    let secure = pages(&pool)?
        .layer(middleware::from_fn_with_state(guard, guard::readers_only))
        .layer(middleware::from_fn(guard::add_headers));
    let over_ads = OverAds::new(pool, plaintext.clone(), readers);
    Ok(DebugRouters { plaintext, secure, over_ads })
}

fn pool_router(pool: &HandlerPool) -> Result<Router, tonic_reflection::server::Error> {
    Ok(pages(pool)?
        .layer(middleware::from_fn(guard::local_hosts_only))
        .layer(middleware::from_fn(guard::add_headers)))
}

/// Everything that the debug port serves, to anybody who gets here.
fn pages(pool: &HandlerPool) -> Result<Router, tonic_reflection::server::Error> {
    // The process begins to count from here on.
    instance();
    let mut router = Router::new();
    for page in &HANDLERS {
        let respond = move |State(pool): State<HandlerPool>, uri: Uri| async move {
            pool.run(Parameters::read(&uri, page.parameters)?, page.handler).await
        };
        // Whoever types a path may end it with a slash.
        router =
            router.route(page.path, get(respond)).route(&format!("{}/", page.path), get(respond));
    }
    let index = |uri: Uri| async move {
        Parameters::read(&uri, &[])?;
        Ok::<_, DebugError>(Html(index::index()))
    };
    Ok(router
        .merge(page::routes())
        .route("/debug", get(index))
        .route("/debug/", get(index))
        .route(
            "/ready",
            get(|State(pool): State<HandlerPool>| async move {
                crate::monitoring::ready_page(&pool.state.readiness)
            }),
        )
        .fallback(|uri: Uri| async move {
            let said = format!("There is no page {:?}. /debug lists all pages.\n", uri.path());
            (StatusCode::NOT_FOUND, said)
        })
        .with_state(pool.clone())
        .merge(csds::router(pool.clone())?))
}

/// A moment as RFC 3339 in UTC, always with milliseconds.
fn milliseconds(moment: SystemTime) -> String {
    humantime::format_rfc3339_millis(moment).to_string()
}

/// A moment as RFC 3339 in UTC.
fn rfc3339(moment: SystemTime) -> String {
    Timestamp::from(moment).to_string()
}

#[cfg(test)]
mod tests;
