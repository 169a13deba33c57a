//! The debug pages: what the control plane knows, and who has what, in the shapes that Istio's
//! users and tools know (`/debug/syncz` and its like), plus a few fields of our own.
//!
//! All is read-only and may be asked of a loaded server: state is cloned out (pointers) before a
//! page is made, pages are made on blocking threads, two at a time and piece by piece (`output`),
//! and everything comes in a fixed order so that two pages can be compared by `diff`.
//!
//! There is no password. The listener is on loopback unless a flag opens it, which keeps other
//! machines out; a check of the `Host` header keeps web pages in an operator's own browser out
//! (`guard`).

use std::net::IpAddr;
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

use crate::model::Model;
use crate::proxies::Proxies;
use crate::readiness::Conditions;
use crate::snapshot::Snapshot;
use crate::source::health::Health;

mod client_status;
mod clients;
mod config_dump;
mod csds;
mod endpoints;
mod find;
mod guard;
mod index;
pub mod monitoring;
mod node_matcher;
mod output;
mod over_ads;
mod parameters;
mod registry;
mod status;
mod syncz;

use output::{Output, Pages};
pub use over_ads::OverAds;
use parameters::Parameters;

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
    pub readiness: Conditions,
    /// The cluster's DNS domain, usually `cluster.local`.
    pub domain: Arc<str>,
    /// Where the listener is. On loopback, requests must name a local host.
    pub address: IpAddr,
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

/// What makes a page of the state, or says why there is none.
type Make = fn(&DebugState, &Parameters, &mut Output) -> Result<(), Problem>;

/// One page.
#[derive(Debug)]
struct Page {
    path: &'static str,
    /// What may stand behind the question mark, `pretty` aside.
    parameters: &'static [&'static str],
    /// In one sentence.
    says: &'static str,
    make: Make,
}

/// All pages, in the order of the index.
static PAGES: [Page; 11] = [
    Page {
        path: "/debug/syncz",
        parameters: &["namespace", "proxyID"],
        says: "What each proxy was sent and has acknowledged or rejected, by resource type.",
        make: syncz::syncz,
    },
    Page {
        path: "/debug/connections",
        parameters: &["namespace", "proxyID"],
        says: "Every open xDS stream, with its peer and since when.",
        make: clients::connections,
    },
    Page {
        path: "/debug/adsz",
        parameters: &["namespace", "proxyID"],
        says: "The same with the proxy's labels and locality, and the names that it subscribes to.",
        make: clients::adsz,
    },
    Page {
        path: "/debug/config_dump",
        parameters: &["proxyID", "types", "include_eds"],
        says: "The resources that one proxy was sent, as Envoy's own config dump has them \
               (include_eds adds endpoints, types=CDS,RDS leaves those sections only).",
        make: config_dump::config_dump,
    },
    Page {
        path: "/debug/edsz",
        parameters: &["proxyID"],
        says: "The endpoints that one proxy was sent.",
        make: config_dump::edsz,
    },
    Page {
        path: "/debug/registryz",
        parameters: &["namespace"],
        says: "The services as they are known, with ports, addresses and the tuning in force.",
        make: registry::registryz,
    },
    Page {
        path: "/debug/endpointz",
        parameters: &["namespace"],
        says: "The endpoints of every service, the unready ones included.",
        make: endpoints::endpointz,
    },
    Page {
        path: "/debug/endpointShardz",
        parameters: &["namespace"],
        says: "The same by Istio's newer name.",
        make: endpoints::endpointz,
    },
    Page {
        path: "/debug/push_status",
        parameters: &[],
        says: "What is wrong now: rejected configuration, ports without endpoints.",
        make: status::push_status,
    },
    Page {
        path: "/debug/sourcez",
        parameters: &[],
        says: "The watches that all this comes from, and the objects that were left out.",
        make: status::sourcez,
    },
    Page {
        path: "/debug/list",
        parameters: &[],
        says: "The names of all pages.",
        make: index::list,
    },
];

/// What goes wrong with a request for a page; said in plain text.
#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error("{0}")]
    Query(String),
    #[error("{name:?} is no parameter of this page; there are: {known}.")]
    UnknownParameter { name: String, known: String },
    #[error("{0:?} is given twice.")]
    Twice(String),
    #[error("{name}={value:?} is neither true nor false.")]
    NoFlag { name: &'static str, value: String },
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

impl Problem {
    fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = match self {
            Self::Query(_)
            | Self::UnknownParameter { .. }
            | Self::Twice(_)
            | Self::NoFlag { .. }
            | Self::NoProxyId
            | Self::Ambiguous { .. }
            | Self::UnknownType(_) => StatusCode::BAD_REQUEST,
            Self::NotConnected(_) => StatusCode::NOT_FOUND,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (status, format!("{self}\n")).into_response()
    }
}

/// The debug port: `/debug…` and `/ready`, and by gRPC CSDS, health and reflection.
///
/// # Errors
/// The descriptors for reflection do not decode.
pub fn router(state: DebugState) -> Result<Router, tonic_reflection::server::Error> {
    pages_router(&Pages::new(state))
}

/// The debug port, and the same for those who ask on an xDS stream.
///
/// # Errors
/// The descriptors for reflection do not decode.
pub fn router_and_over_ads(
    state: DebugState,
) -> Result<(Router, OverAds), tonic_reflection::server::Error> {
    let pages = Pages::new(state);
    let router = pages_router(&pages)?;
    Ok((router.clone(), OverAds::new(pages, router)))
}

fn pages_router(pages: &Pages) -> Result<Router, tonic_reflection::server::Error> {
    let address = pages.state.address;
    let mut router = Router::new();
    for page in &PAGES {
        let answer = move |State(pages): State<Pages>, uri: Uri| async move {
            pages.make(Parameters::read(&uri, page.parameters)?, page.make).await
        };
        // Whoever types a path may end it with a slash.
        router =
            router.route(page.path, get(answer)).route(&format!("{}/", page.path), get(answer));
    }
    let index = |uri: Uri| async move {
        Parameters::read(&uri, &[])?;
        Ok::<_, Problem>(Html(index::index()))
    };
    let router = router
        .route("/", get(index))
        .route("/debug", get(index))
        .route("/debug/", get(index))
        .route(
            "/ready",
            get(|State(pages): State<Pages>| async move {
                monitoring::ready_page(&pages.state.readiness)
            }),
        )
        .fallback(|uri: Uri| async move {
            let said = format!("There is no page {:?}. /debug lists all pages.\n", uri.path());
            (StatusCode::NOT_FOUND, said)
        })
        .with_state(pages.clone())
        .merge(csds::router(pages.clone())?);
    // An IPv4 address in IPv6 form is the same loopback.
    let router = match address.to_canonical().is_loopback() {
        true => router.layer(middleware::from_fn(guard::local_hosts_only)),
        false => router,
    };
    Ok(router.layer(middleware::from_fn(guard::add_headers)))
}

/// A moment as RFC 3339 in UTC.
fn rfc3339(moment: SystemTime) -> String {
    Timestamp::from(moment).to_string()
}

#[cfg(test)]
mod tests;
