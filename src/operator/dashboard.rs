//! `pilothouse dashboard`: the page of the debug port, for all replicas at once. A server on loopback gives
//! the page's own files, and the same JSON, merged from what the replicas say; each proxy's key has its
//! replica before it.
//!
//! It shows all configuration and has no password, as the debug port itself: it listens on loopback only,
//! and answers no request that a foreign web page could make.

mod events;
mod merge;
mod pages;

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::Outcome;
use super::args::ReplicaArgs;
use super::ask::Replica;
use super::print;
use super::replicas::Finder;
use crate::door::{ConnectionLimits, LimitedListener};
use crate::http_server;
use crate::local_host::foreign_host;
use crate::output::{self, Unwritten};
use crate::signals::Signals;

/// How often it is looked which replicas there are.
const LIST_PERIOD: Duration = Duration::from_secs(2);
/// Browsers open six connections for a page, and one for its events.
const MAX_CONNECTIONS: usize = 64;
/// Pages that listen at the same time; each reads the events of every replica.
const MAX_READERS: usize = 8;

#[derive(Clone, Debug, clap::Args)]
pub struct DashboardArgs {
    /// Port to listen on, on 127.0.0.1; 0 for one that is free
    #[arg(short, long, value_name = "PORT", default_value_t = 0)]
    pub port: u16,

    /// Do not open a browser
    #[arg(long)]
    pub no_browser: bool,

    #[command(flatten)]
    pub replicas: ReplicaArgs,
}

/// One file of the page.
#[derive(Clone, Copy, Debug)]
pub struct PageFile {
    pub content_type: &'static str,
    pub text: &'static str,
}

/// The page of the debug port, which belongs to the control plane.
#[derive(Clone, Copy, Debug)]
pub struct Page {
    /// The file at a path, `/` included.
    pub file: fn(&str) -> Option<PageFile>,
    /// What a browser may do for it.
    pub content_security_policy: &'static str,
}

/// What every request reads.
#[derive(Clone)]
struct Dashboard {
    page: Page,
    /// The replicas of now, or why they are not known; written by one task.
    replicas: Arc<Mutex<Result<Vec<Replica>, String>>>,
    readers: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Dashboard {
    fn replicas(&self) -> Result<Vec<Replica>, String> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl DashboardArgs {
    /// Serves until a signal asks for the end.
    ///
    /// # Errors
    /// Standard output does not take the address.
    pub async fn run(&self, page: Page) -> Result<Outcome, Unwritten> {
        let found = match Finder::new(&self.replicas).await {
            Ok(mut finder) => finder.list().await.map(|replicas| (finder, replicas)),
            Err(error) => Err(error),
        };
        let (mut finder, replicas) = match found {
            Ok(found) => found,
            Err(error) => {
                print::error(&error.to_string());
                return Ok(Outcome::Incomplete);
            }
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let bound = TcpListener::bind(address).await;
        let bound =
            bound.and_then(|listener| Ok((listener.local_addr()?, listener, Signals::new()?)));
        let (address, listener, mut signals) = match bound {
            Ok(bound) => bound,
            Err(error) => {
                print::error(&format!(
                    "cannot listen on {address}: {error}. --port chooses another port"
                ));
                return Ok(Outcome::Incomplete);
            }
        };
        let limits = ConnectionLimits { total: MAX_CONNECTIONS, per_address: MAX_CONNECTIONS };
        let listener = LimitedListener::new("dashboard", listener, limits);
        let stop = CancellationToken::new();
        let dashboard = Dashboard {
            page,
            replicas: Arc::new(Mutex::new(Ok(replicas.clone()))),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            stop: stop.clone(),
        };
        let known = dashboard.replicas.clone();
        let list = async {
            loop {
                sleep(LIST_PERIOD).await;
                let now = finder.list().await.map_err(|error| error.to_string());
                *known.lock().unwrap_or_else(PoisonError::into_inner) = now;
            }
        };
        let url = format!("http://{address}/");
        let names: Vec<&str> = replicas.iter().map(|replica| &*replica.name).collect();
        output::print(&format!("{url}\n"))?;
        output::eprint_line(crate::escape::line(&format!(
            "the page of {}; Ctrl-C ends it",
            names.join(", ")
        )));
        if !self.no_browser {
            open(&url);
        }
        tokio::select! {
            () = http_server::serve(listener, router(dashboard), stop.clone()) => {}
            () = list => {}
            _ = signals.next() => stop.cancel(),
        }
        Ok(Outcome::Done)
    }
}

/// Opens a browser where there is a display; elsewhere the address that was printed has to do.
fn open(url: &str) {
    let has = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    let program = match cfg!(target_os = "macos") {
        true => "open",
        false if has("DISPLAY") || has("WAYLAND_DISPLAY") => "xdg-open",
        false => return,
    };
    let quiet = || Stdio::null();
    let started =
        Command::new(program).arg(url).stdin(quiet()).stdout(quiet()).stderr(quiet()).spawn();
    if let Err(error) = started {
        print::warn(&format!("no browser was opened ({program}: {error}): open {url} yourself"));
    }
}

fn router(dashboard: Dashboard) -> Router {
    Router::new()
        .route("/debug/proxies", get(pages::proxies))
        .route("/debug/proxies/{key}", get(pages::proxy))
        .route("/debug/proxies/{key}/resources", get(pages::resources))
        .route("/debug/services", get(pages::services))
        .route("/debug/services/{namespace}/{name}", get(pages::service))
        .route("/debug/changes", get(pages::changes))
        .route("/debug/sourcez", get(pages::sources))
        .route("/debug/events", get(events::events))
        .fallback(get(file))
        .layer(middleware::from_fn_with_state(dashboard.page, guard))
        .with_state(dashboard)
}

async fn file(State(dashboard): State<Dashboard>, request: Request) -> Response {
    match (dashboard.page.file)(request.uri().path()) {
        Some(file) => ([(header::CONTENT_TYPE, file.content_type)], file.text).into_response(),
        None => {
            let said = "There is no such page here; a replica's own debug port has all of them.\n";
            (StatusCode::NOT_FOUND, said).into_response()
        }
    }
}

/// The same as the debug port's: a foreign page that has its name lead here is refused, and a browser is
/// told to run nothing that came as data.
async fn guard(State(page): State<Page>, request: Request, next: Next) -> Response {
    let mut response = match foreign_host(&request) {
        None => next.run(request).await,
        Some(host) => {
            let said =
                format!("The dashboard is on loopback: ask for localhost, not for {host:?}.\n");
            (StatusCode::FORBIDDEN, said).into_response()
        }
    };
    for (name, value) in [
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::CONTENT_SECURITY_POLICY, page.content_security_policy),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ] {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
