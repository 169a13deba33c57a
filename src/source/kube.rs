//! The Kubernetes API as a source: one watch per kind and namespace.
//!
//! kube's watcher lists (`list_strategy`), watches and resumes; here its events become changes (`events`), its
//! failures become health. After an outage, a break in mid-watch or a silence (`observed_body`) it is
//! started anew instead of resumed (`watch`): a server that came back with another history (a
//! restored backup) would accept the old position and stay silent for ever.
//!
//! No pods, no secrets: Services and EndpointSlices (or Endpoints, where the server is too old), routes and
//! their grants where there are any (`gateway_api`), Nodes if asked for, and no more. Objects are converted as they arrive and dropped, so what the model has
//! no use for is never kept.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Endpoints, Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::Client;
use kube::runtime::watcher::{self, DefaultBackoff};
use tokio::sync::mpsc::Sender;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::health::Health;
use crate::kubeconfig;
use crate::model::{Scope, SourceEvent};

mod client;
mod errors;
mod events;
mod gateway_api;
mod lenient_decode;
mod list_strategy;
mod nodes;
mod observed_body;
mod position;
mod watch;

use client::Server;
use events::{WatchIndex, Watched};
use gateway_api::{Discovery, OptionalWatch};
use list_strategy::ListStrategy;
use watch::{Optional, Watch, back_off};

/// Stands in the health's list of watches until the API server has been found and asked what it
/// has.
const SEARCH: &str = "API server";

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
pub struct KubeSourceConfig {
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

impl Default for KubeSourceConfig {
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
    config: KubeSourceConfig,
    changes: Sender<SourceEvent>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) {
    // Dropping the future ends the watches: they are in a JoinSet that it owns.
    shutdown.run_until_cancelled(watch_all(config, changes, health)).await;
}

async fn watch_all(
    mut config: KubeSourceConfig,
    changes: Sender<SourceEvent>,
    health: Arc<Health>,
) {
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
    let per_scope = 2 + gateway_api::KINDS;
    let (discovery, discovering) = gateway_api::discovery(server.clone());
    let mut watches = WatchSet {
        server,
        watch_timeout: config.watch_timeout,
        changes,
        health: health.clone(),
        unlisted: Arc::new(AtomicUsize::new(per_scope * scopes.len() + usize::from(config.nodes))),
        tasks: JoinSet::new(),
    };
    for scope in scopes {
        watches.start::<Service>(scope.clone());
        if slices {
            watches.start::<EndpointSlice>(scope.clone());
        } else {
            watches.start::<Endpoints>(scope.clone());
        }
        watches.start_optional::<gateway_api::HttpRoute>(scope.clone(), &discovery);
        watches.start_optional::<gateway_api::GrpcRoute>(scope.clone(), &discovery);
        watches.start_optional::<gateway_api::Grant>(scope, &discovery);
    }
    watches.tasks.spawn(discovering.run());
    if config.nodes {
        watches.start::<Node>(Scope::All);
    }
    // Only now, so that there is no moment in which nothing is waited for.
    health.forget(SEARCH);
    // The first that ends is the end of all: without it the mesh would be known in part, for ever.
    if let Some(Err(error)) = watches.tasks.join_next().await {
        error!(%error, "a watch ended that should not have");
    }
}

/// Tries until there is a server, and it has said whether it has EndpointSlices.
async fn find_server(config: &KubeSourceConfig, health: &Health) -> (Server, bool) {
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
                        format!("{text} ({})", kubeconfig::describe(config.context.as_deref()))
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
        back_off(&mut backoff).await;
    }
}

/// `services`, or `services in NAMESPACE`.
fn watch_name<K: Watched>(scope: &Scope) -> String {
    match scope {
        Scope::All => K::URL_PATH_SEGMENT.to_owned(),
        Scope::Namespace(namespace) => format!("{} in {namespace}", K::URL_PATH_SEGMENT),
    }
}

/// All watches, and what they share.
struct WatchSet {
    server: Server,
    watch_timeout: Duration,
    changes: Sender<SourceEvent>,
    health: Arc<Health>,
    /// Watches that have not listed yet.
    unlisted: Arc<AtomicUsize>,
    tasks: JoinSet<()>,
}

impl WatchSet {
    fn start<K: Watched>(&mut self, scope: Scope) {
        let (mut watch, client, settings) = self.watch::<K>(&scope, None);
        let api = K::api(client, &scope);
        self.tasks.spawn(async move { _ = watch.run(api, settings).await });
    }

    fn start_optional<K: Watched>(&mut self, scope: Scope, discovery: &Discovery) {
        let optional =
            Optional { told_of_right: discovery.told_of_right.clone(), started: Instant::now() };
        let (watch, client, settings) = self.watch::<K>(&scope, Some(optional));
        let discovery = discovery.clone();
        self.tasks.spawn(OptionalWatch { watch, client, scope, discovery }.run(settings));
    }

    fn watch<K: Watched>(
        &self,
        scope: &Scope,
        optional: Option<Optional>,
    ) -> (Watch<K>, Client, watcher::Config) {
        let name: Arc<str> = watch_name::<K>(scope).into();
        self.health.expect(&name);
        let seconds = u32::try_from(self.watch_timeout.as_secs()).unwrap_or(u32::MAX).max(1);
        let lasts = Duration::from_secs(seconds.into());
        self.health.lasts(&name, lasts);
        let (teller, position) = tokio::sync::watch::channel(0);
        let (server, health) = (&self.server.client, self.health.clone());
        let client = client::observed(server, health, name.clone(), lasts, teller);
        let settings = watcher::Config { label_selector: K::selector(), ..Default::default() }
            .timeout(seconds);
        let watch = Watch {
            index: WatchIndex::new(scope.clone(), self.health.clone()),
            name,
            url: self.server.url.clone(),
            changes: self.changes.clone(),
            health: self.health.clone(),
            unlisted: self.unlisted.clone(),
            counted: false,
            has_list: false,
            optional,
            backoff: DefaultBackoff::default(),
            list_strategy: ListStrategy::default(),
            last_list: None,
            last_warning: None,
            position,
        };
        (watch, client, settings)
    }
}
