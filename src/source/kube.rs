//! The Kubernetes API as a source: one watch per kind and namespace.
//!
//! kube's watcher lists, watches and resumes; here its events become changes (`events`), its
//! failures become health. After an outage, a break in mid-watch or a silence (`heard`) it is
//! started anew instead of resumed: a server that came back with another history (a restored
//! backup) would accept the old position and stay silent for ever. No pods, no secrets: Services and EndpointSlices (or Endpoints, where the server is too
//! old), Nodes if asked for, and no more.
//! Objects are converted as they arrive and dropped, so what the model has no use for is never kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Api;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::{self, DefaultBackoff, Event, watcher};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::health::Health;
use crate::model::{Change, Scope};

mod client;
mod errors;
mod events;
mod heard;
mod lenient;
mod nodes;

use client::Server;
use events::{Ingest, Watched};
use lenient::Lenient;

/// Stands in the health's list of watches until the API server has been found and asked what it
/// has.
const SEARCH: &str = "API server";

/// How soon after a list another one may be made without a pause.
const RELIST_PAUSE: Duration = Duration::from_secs(30);

/// Which kind tells the endpoints.
#[derive(clap::ValueEnum, Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EndpointsKind {
    /// Whatever the API server has, EndpointSlices first.
    #[default]
    Auto,
    /// discovery.k8s.io/v1 EndpointSlice.
    Slices,
    /// core/v1 Endpoints.
    Endpoints,
}

/// What to watch, and how.
#[derive(Clone, Debug)]
pub struct Config {
    /// A context of the kubeconfig; none for its current one, or for the cluster that we run in.
    pub context: Option<String>,
    /// The namespaces to watch; empty for all.
    pub namespaces: Vec<String>,
    pub endpoints: EndpointsKind,
    /// Whether to watch Nodes, for the regions of their zones.
    pub nodes: bool,
    /// How long one watch request lasts before it is asked for anew, in whole seconds, at least
    /// one. It bounds the time in which a connection that died silently is noticed (this and four
    /// seconds), and how old "last heard from" may grow while nothing happens.
    pub watch_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            context: None,
            namespaces: Vec::new(),
            endpoints: EndpointsKind::Auto,
            nodes: false,
            // Load balancers drop idle connections after 60 s and more; half of that is noticed
            // soon and costs the API server two requests a minute and kind.
            watch_timeout: Duration::from_secs(30),
        }
    }
}

/// Watches until `shutdown` fires or nobody takes the changes any more. Never gives up on an API
/// server: what is wrong stands in `health`, and is tried again with growing pauses.
pub async fn run(
    config: Config,
    changes: Sender<Change>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) {
    // Dropping the future ends the watches: they are in a JoinSet that it owns.
    shutdown.run_until_cancelled(watch_all(config, changes, health)).await;
}

async fn watch_all(mut config: Config, changes: Sender<Change>, health: Arc<Health>) {
    health.expect(SEARCH);
    config.namespaces.sort();
    config.namespaces.dedup();
    let scopes = match config.namespaces.as_slice() {
        [] => vec![Scope::All],
        some => some.iter().map(|name| Scope::Namespace(name.as_str().into())).collect(),
    };
    for scope in &scopes {
        health.expect(&watch_name::<Service>(scope));
    }
    let (server, slices) = find_server(&config, &health).await;
    let mut plan = Plan {
        server,
        watch_timeout: config.watch_timeout,
        changes,
        health: health.clone(),
        unlisted: Arc::new(AtomicUsize::new(scopes.len() * 2 + usize::from(config.nodes))),
        watches: JoinSet::new(),
    };
    for scope in scopes {
        plan.watch::<Service>(scope.clone());
        if slices { plan.watch::<EndpointSlice>(scope) } else { plan.watch::<Endpoints>(scope) }
    }
    if config.nodes {
        plan.watch::<Node>(Scope::All);
    }
    // Only now, so that there is no moment in which nothing is waited for.
    health.forget(SEARCH);
    while let Some(ended) = plan.watches.join_next().await {
        if let Err(error) = ended {
            warn!(%error, "a watch ended that should not have");
        }
    }
}

/// Tries until there is a server, and it has said whether it has EndpointSlices.
async fn find_server(config: &Config, health: &Health) -> (Server, bool) {
    let mut backoff = DefaultBackoff::default();
    let mut last = String::new();
    loop {
        let error = match client::connect(config).await {
            Ok(server) => match config.endpoints {
                EndpointsKind::Slices => return (server, true),
                EndpointsKind::Endpoints => return (server, false),
                EndpointsKind::Auto => match client::has_endpoint_slices(&server.client).await {
                    Ok(has) => {
                        if !has {
                            info!("the API server has no EndpointSlices, so Endpoints are watched");
                        }
                        return (server, has);
                    }
                    Err(error) => {
                        let text = errors::explain(&error, &server.url, "the API's discovery");
                        format!("{text} ({})", client::describe(config))
                    }
                },
            },
            Err(error) => error,
        };
        if error != last {
            warn!(%error, "cannot use the API server yet; trying on");
            last.clone_from(&error);
        }
        health.failed(SEARCH, error);
        pause(&mut backoff, Duration::ZERO).await;
    }
}

/// Grows from a second to half a minute, with jitter; no less than `at_least`.
async fn pause(backoff: &mut DefaultBackoff, at_least: Duration) {
    let next = backoff.next().unwrap_or(Duration::from_secs(30));
    tokio::time::sleep(next.max(at_least)).await;
}

/// `services`, or `services in NAMESPACE`.
fn watch_name<K: Watched>(scope: &Scope) -> String {
    match scope {
        Scope::All => K::URL_PATH_SEGMENT.to_owned(),
        Scope::Namespace(namespace) => format!("{} in {namespace}", K::URL_PATH_SEGMENT),
    }
}

/// What all watches share.
struct Plan {
    server: Server,
    watch_timeout: Duration,
    changes: Sender<Change>,
    health: Arc<Health>,
    /// Watches that have not listed yet.
    unlisted: Arc<AtomicUsize>,
    watches: JoinSet<()>,
}

impl Plan {
    fn watch<K: Watched>(&mut self, scope: Scope) {
        let name: Arc<str> = watch_name::<K>(&scope).into();
        self.health.expect(&name);
        let seconds = u32::try_from(self.watch_timeout.as_secs()).unwrap_or(u32::MAX).max(1);
        let lasts = Duration::from_secs(seconds.into());
        let client =
            client::observed(&self.server.client, self.health.clone(), name.clone(), lasts);
        let api = K::api(client, &scope);
        let settings = watcher::Config { label_selector: K::selector(), ..Default::default() }
            .timeout(seconds);
        let watch = Watch {
            ingest: Ingest::new(scope, self.health.clone()),
            name,
            url: self.server.url.clone(),
            changes: self.changes.clone(),
            health: self.health.clone(),
            unlisted: self.unlisted.clone(),
            backoff: DefaultBackoff::default(),
            last_list: None,
            last_warning: None,
        };
        self.watches.spawn(watch.run(api, settings));
    }
}

/// One watch, for as long as the process wants it.
struct Watch<K: Watched> {
    name: Arc<str>,
    url: Arc<str>,
    ingest: Ingest<K>,
    changes: Sender<Change>,
    health: Arc<Health>,
    unlisted: Arc<AtomicUsize>,
    backoff: DefaultBackoff,
    last_list: Option<Instant>,
    last_warning: Option<String>,
}

impl<K: Watched> Watch<K> {
    async fn run(mut self, api: Api<Lenient<K>>, settings: watcher::Config) {
        loop {
            let stream = watcher(api.clone(), settings.clone());
            pin_mut!(stream);
            while let Some(event) = stream.next().await {
                match event {
                    Ok(event) => {
                        if self.take(event).await.is_err() {
                            return;
                        }
                    }
                    Err(error) => {
                        self.report(&error);
                        // The server has forgotten our position, which is normal: list at once,
                        // but not in a circle.
                        let soon = errors::is_expired(&error)
                            && self.last_list.is_none_or(|last| last.elapsed() > RELIST_PAUSE);
                        if !soon {
                            pause(&mut self.backoff, errors::retry_after(&error)).await;
                        }
                        if errors::needs_new_list(&error) {
                            // The old state is kept until the new list is complete.
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Sends what the event means; waits where the model is behind. Fails when nobody listens.
    async fn take(&mut self, event: Event<Lenient<K>>) -> Result<(), ()> {
        let listed = matches!(event, Event::InitDone);
        if listed {
            self.last_list = Some(Instant::now());
        }
        let watching = matches!(event, Event::Apply(_) | Event::Delete(_));
        if watching {
            // Not at the end of a list: where listing works and watching does not, the pauses
            // between the lists must grow. (They shrink by themselves after two good minutes.)
            self.backoff.reset();
        }
        if (listed || watching) && self.last_warning.take().is_some() {
            info!(watch = %self.name, "the watch is well again");
        }
        if let Some(change) = self.ingest.take(event) {
            self.changes.send(change).await.map_err(drop)?;
        }
        if listed && self.first_list() {
            self.changes.send(Change::Synced).await.map_err(drop)?;
        }
        if listed {
            self.health.synced(&self.name);
        }
        Ok(())
    }

    /// Counts this watch's first list; true if every watch has listed now.
    fn first_list(&mut self) -> bool {
        let first = self.ingest.is_first_list();
        first && self.unlisted.fetch_sub(1, Ordering::AcqRel) == 1
    }

    fn report(&mut self, error: &watcher::Error) {
        let text = errors::explain_watch(error, &self.url, K::URL_PATH_SEGMENT, K::RESOURCE);
        if errors::is_expired(error) {
            // Normal after a long pause: the server has forgotten our version. Listed anew.
            debug!(watch = %self.name, error = %text, "listing anew");
        } else if self.last_warning.as_deref() != Some(text.as_str()) {
            // The same trouble once, not every thirty seconds for a night.
            warn!(watch = %self.name, error = %text, "a watch failed; the last known state is kept");
            self.last_warning = Some(text.clone());
        }
        self.health.failed(&self.name, text);
    }
}
