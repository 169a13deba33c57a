//! The one wiring function: what is started, in which order, and how it ends.
//!
//! Addresses are bound before anything else, so that a port in use is reported at once. At shutdown the
//! streams end first, so that proxies connect to another replica, then the source and the publisher,
//! then the debug pages; what has not ended by the deadline is dropped.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pilothouse_xds::FrameBuilder;
use pilothouse_xds::Interner;
use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::ads::uses::UsesResolver;
use crate::ads::{
    AdsServer, AnsweredRequest, AnsweredTypes, IstioMesh, ServerContext, ServerLimits,
};
use crate::certificates::Certificates;
use crate::certificates::files::{ServerFiles, UnusableFile};
use crate::debug::{self, DebugRouters, DebugState, OverAds, ReaderGuard};
use crate::door::{self, LimitedListener, descriptors};
use crate::events::EventReporter;
use crate::http_server;
use crate::identity::tokens::{TokenSettings, TokenVerifier};
use crate::identity::{ActFor, Authenticator, Readers};
use crate::metrics::Metrics;
use crate::metrics::scrape::Scrape;
use crate::metrics::tls::TlsScrape;
use crate::monitoring::{self, MonitoringState};
use crate::names::{DEFAULT_DOMAIN, ResourceType};
use crate::parts::{PartFailure, Parts};
use crate::proxies::Proxies;
use crate::publish::{Publisher, Timing};
use crate::readiness::{Conditions, Guard};
use crate::route_status::{RouteStatusHealth, RouteStatusWriter};
use crate::source::health::Health;
use crate::source::{files, kube};
use crate::view::{ViewLimits, ViewRegistry};

mod grpc_listeners;
pub mod memory;
mod startup;

use grpc_listeners::{DOORS, GrpcListeners};
use startup::StartupConditions;

/// How many tasks are polled between two polls of sockets and timers, and between two of the queue that
/// the threads share. A push wakes thousands of streams, and each needs some ten microseconds: with
/// tokio's 61 the first proxies' ACKs would be read before the last proxies are sent the push, half of
/// them 20 % later.
const EVENT_INTERVAL: u32 = 1024;
const GLOBAL_QUEUE_INTERVAL: u32 = 31;

/// The runtime of the control plane.
///
/// # Errors
/// The system refuses threads or epoll.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
        .build()
}

/// Changes between the source and the publisher. A relist is one change, so this bounds bursts
/// of single changes; the source waits when the channel is full.
const MAX_QUEUED_CHANGES: usize = 1024;

/// Where the mesh comes from.
#[derive(Clone, Debug)]
pub enum SourceConfig {
    Kube(kube::KubeSourceConfig),
    Files(files::FileSourceConfig),
}

/// Who proxies must be, and what identities may do.
#[derive(Clone, Debug)]
pub struct IdentityConfig {
    pub trust_domain: String,
    /// Whether a proxy on an encrypted connection must prove who it is.
    pub required: bool,
    /// Who may claim any namespace.
    pub act_for: ActFor,
    /// Who may read the debug pages from another machine.
    pub readers: Readers,
}

impl Default for IdentityConfig {
    /// As without flags.
    fn default() -> Self {
        Self {
            trust_domain: DEFAULT_DOMAIN.to_owned(),
            required: true,
            act_for: ActFor::default(),
            readers: Readers::default(),
        }
    }
}

/// The listener with TLS.
#[derive(Clone, Debug)]
pub struct TlsConfig {
    pub address: SocketAddr,
    pub files: ServerFiles,
}

/// The configuration of a control plane.
#[derive(Clone, Debug)]
pub struct ControlPlaneConfig {
    pub source: SourceConfig,
    /// Which ServiceAccount tokens of proxies are accepted; `None` for none.
    pub tokens: Option<TokenSettings>,
    pub identity: IdentityConfig,
    pub domain: String,
    /// xDS without TLS, if it is served.
    pub grpc_addr: Option<SocketAddr>,
    /// xDS over TLS, if it is served.
    pub tls: Option<TlsConfig>,
    pub http_addr: SocketAddr,
    /// The debug pages over TLS for those who may read them, if they are served; needs `tls`.
    pub secure_http_addr: Option<SocketAddr>,
    pub monitoring_addr: SocketAddr,
    pub timing: Timing,
    pub limits: ServerLimits,
    pub view_limits: ViewLimits,
    /// Whether to write Kubernetes Events; only with an API server as the source.
    pub events: bool,
    pub keepalive: Duration,
    pub shutdown_timeout: Duration,
}

/// Why the control plane does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] door::BindError),
    #[error("cannot start the thread for the monitoring port: {0}")]
    Thread(io::Error),
    #[error(transparent)]
    Certificate(#[from] UnusableFile),
    #[error(transparent)]
    Manifests(#[from] files::UnusablePath),
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running control plane.
#[derive(Debug)]
pub struct ControlPlane {
    /// The addresses that are bound (port 0 asks for a free port).
    pub grpc: Option<SocketAddr>,
    pub secure_grpc: Option<SocketAddr>,
    pub http: SocketAddr,
    pub secure_http: Option<SocketAddr>,
    pub monitoring: SocketAddr,
    shutdown_timeout: Duration,
    parts: Parts,
    /// A condition of readiness and liveness: lost when one of the parts ends.
    all_parts_run: Guard,
}

/// Starts all parts of the control plane.
///
/// # Errors
/// A port is taken, or a manifest path or a certificate cannot be read. An API server that cannot be reached is no
/// error: it is waited for, and `/ready` says so.
pub async fn start(config: ControlPlaneConfig) -> Result<ControlPlane, StartError> {
    let mut taken = Vec::new();
    let mut bind = async |flag, address| {
        let listener = door::bind(flag, address, &taken).await?;
        let bound = listener.local_addr().unwrap_or(address);
        taken.push((flag, bound));
        Ok::<_, door::BindError>((listener, bound))
    };
    let mut grpc = Vec::new();
    if let Some(address) = config.grpc_addr {
        grpc.push((DOORS[0], bind("--grpc-addr", address).await?));
    }
    if let Some(tls) = &config.tls {
        grpc.push((DOORS[1], bind("--secure-grpc-addr", tls.address).await?));
    }
    let (http, http_addr) = bind("--http-addr", config.http_addr).await?;
    let secure_http = match config.secure_http_addr.filter(|_| config.tls.is_some()) {
        Some(address) => Some(bind("--secure-http-addr", address).await?),
        None => None,
    };
    let (monitoring, monitoring_addr) = bind("--monitoring-addr", config.monitoring_addr).await?;
    let listener_limits = descriptors::listener_limits(config.limits.connections);
    let grpc = GrpcListeners::new(grpc, listener_limits.grpc);
    let certificates = config.tls.map(|tls| Certificates::load(tls.files)).transpose()?;
    let (certificates, reloader) = certificates.unzip();
    let debug_limits = match secure_http {
        Some(_) => descriptors::halved(listener_limits.http),
        None => listener_limits.http,
    };
    let http = LimitedListener::new("debug", http, debug_limits);
    let secure_http = secure_http.map(|(listener, address)| {
        (LimitedListener::new("secure debug", listener, debug_limits), address)
    });
    let secure_http_addr = secure_http.as_ref().map(|(_, address)| *address);
    let monitoring = LimitedListener::new("monitoring", monitoring, listener_limits.http);
    if let SourceConfig::Files(files) = &config.source {
        files::check_paths(files)?;
    }

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let health = Arc::new(Health::default());
    let proxies = Arc::new(Proxies::new(ResourceType::TABLE));
    let view_registry = Arc::new(ViewRegistry::default());

    let (publisher, models, snapshots) = Publisher::new(
        &config.domain,
        config.timing,
        config.view_limits,
        view_registry.clone(),
        metrics.clone(),
    );
    let (changes, queued_changes) = mpsc::channel(MAX_QUEUED_CHANGES);

    let tokens = config.tokens.map(|tokens| TokenVerifier::new(tokens, metrics.tokens.clone()));
    let (tokens, token_keys) = tokens.unzip();
    let readiness = Conditions::default();
    let status_writer = match &config.source {
        SourceConfig::Kube(kube) => Some(RouteStatusWriter {
            context: kube.context.clone(),
            reports: publisher.route_reports(),
            metrics: metrics.clone(),
            health: Arc::new(RouteStatusHealth::default()),
        }),
        SourceConfig::Files(_) => None,
    };
    let debug = DebugState {
        routes: publisher.route_reports(),
        route_status: status_writer.as_ref().map(|writer| writer.health.clone()),
        tokens: tokens.clone(),
        proxies: proxies.clone(),
        health: health.clone(),
        model: models.clone(),
        snapshot: snapshots.clone(),
        changes: publisher.change_log(),
        readiness: readiness.clone(),
        domain: config.domain.as_str().into(),
        certificates: certificates.clone(),
    };
    let authenticator = Authenticator {
        tokens,
        required: config.identity.required,
        ..Authenticator::new(&config.identity.trust_domain, &config.domain)
    };
    let reader_guard = ReaderGuard {
        authenticator: Authenticator { required: false, ..authenticator.clone() },
        readers: config.identity.readers,
    };
    let DebugRouters { plaintext: debug, secure: secure_debug, over_ads } =
        debug::routers(debug, reader_guard)?;

    let stop_streams = CancellationToken::new();
    let frames = Arc::new(FrameBuilder::new(&crate::version::control_plane_identifier()));
    let context = Arc::new(ServerContext {
        mesh: IstioMesh {
            metrics: metrics.clone(),
            authenticator,
            act_for: config.identity.act_for,
            uses: UsesResolver::default(),
        },
        snapshots: snapshots.clone(),
        view_registry,
        interner: Arc::new(Interner::default()),
        frames: frames.clone(),
        proxies: proxies.clone(),
        metrics: metrics.server.clone(),
        limits: config.limits.clone(),
        answered: Some(debug_types(over_ads)),
        shutdown: stop_streams.clone(),
    });
    let startup = StartupConditions::new(&readiness);
    let all_parts_run = readiness.condition("all parts run", "the process is being started");
    let watch_startup = {
        let (health, snapshots) = (health.clone(), snapshots.clone());
        |stop| startup.watch(health, snapshots, stop)
    };
    let reporter = match &config.source {
        SourceConfig::Kube(kube) if config.events => Some(EventReporter {
            context: kube.context.clone(),
            proxies: proxies.clone(),
            model: models.clone(),
            snapshot: snapshots.clone(),
            metrics: metrics.clone(),
            domain: config.domain.as_str().into(),
        }),
        SourceConfig::Kube(_) | SourceConfig::Files(_) => None,
    };
    let others = [("debug listener", &http), ("monitoring listener", &monitoring)];
    let others = others.map(|(part, listener)| (part, listener.stats()));
    let secure_debug_listener = secure_http.as_ref();
    let secure_debug_listener =
        secure_debug_listener.map(|(listener, _)| ("secure debug listener", listener.stats()));
    let listeners: Vec<_> =
        grpc.stats().into_iter().chain(others).chain(secure_debug_listener).collect();
    let started = SystemTime::now();
    registry.register_collector(Box::new(Scrape {
        proxies,
        health: health.clone(),
        model: models,
        snapshot: snapshots,
        frames,
        domain: config.domain.as_str().into(),
        started,
        listeners: listeners.iter().map(|(_, stats)| stats.clone()).collect(),
        memory_limit: memory::limit(),
    }));
    if let Some(certificates) = &certificates {
        registry.register_collector(Box::new(TlsScrape(certificates.clone())));
    }
    let monitoring_state = MonitoringState { readiness, registry: Arc::new(registry), started };

    let server =
        AdsServer::new(context, config.keepalive).with_reflection(crate::descriptors::encoded())?;
    let mut parts = Parts::default();
    let (grpc_addr, secure_addr) = (grpc.plaintext_address(), grpc.secure_address());
    let served = grpc.served(certificates.as_deref());
    parts.add("gRPC", stop_streams, |stop| server.run(served, stop));
    if let Some(reloader) = reloader {
        parts.add("certificates", CancellationToken::new(), |stop| reloader.run(stop));
    }
    parts.add("source", CancellationToken::new(), |stop| async move {
        match config.source {
            SourceConfig::Kube(kube) => kube::run(kube, changes, health, stop).await,
            SourceConfig::Files(files) => files::run(files, changes, health, stop).await,
        }
    });
    parts.add("publisher", CancellationToken::new(), |stop| publisher.run(queued_changes, stop));
    if let Some(token_keys) = token_keys {
        parts.add("token keys", CancellationToken::new(), |stop| token_keys.run(stop));
    }
    if let Some(writer) = status_writer {
        parts.add("route status", CancellationToken::new(), |stop| writer.run(stop));
    }
    if let Some(reporter) = reporter {
        parts.add("events", CancellationToken::new(), |stop| reporter.run(stop));
    }
    parts.add("debug pages", CancellationToken::new(), |stop| {
        http_server::serve_with_grpc(http, debug, stop)
    });
    if let (Some((listener, _)), Some(certificates)) = (secure_http, &certificates) {
        let acceptor = certificates.acceptor().clone();
        parts.add("debug pages over TLS", CancellationToken::new(), |stop| {
            http_server::serve_secure(listener, secure_debug, acceptor, stop)
        });
    }
    let stop_monitoring = CancellationToken::new();
    let ended = monitoring::serve(monitoring, monitoring_state, stop_monitoring.clone())
        .map_err(StartError::Thread)?;
    parts.add("monitoring", stop_monitoring, |stop| async move {
        // Dropping this part ends the thread.
        let _stop = stop.drop_guard();
        ended.await
    });
    for (name, listener) in listeners {
        parts.add(name, CancellationToken::new(), |stop| async move {
            stop.run_until_cancelled(listener.lost()).await;
        });
    }
    // Last to end, since its conditions are lost then.
    parts.add("readiness", CancellationToken::new(), watch_startup);
    all_parts_run.meet();
    info!(
        grpc = grpc_addr.map(tracing::field::display),
        secure_grpc = secure_addr.map(tracing::field::display),
        http = %http_addr,
        secure_http = secure_http_addr.map(tracing::field::display),
        monitoring = %monitoring_addr, "listening"
    );
    Ok(ControlPlane {
        grpc: grpc_addr,
        secure_grpc: secure_addr,
        http: http_addr,
        secure_http: secure_http_addr,
        monitoring: monitoring_addr,
        shutdown_timeout: config.shutdown_timeout,
        parts,
        all_parts_run,
    })
}

/// The debug pages for those who ask on an xDS stream.
fn debug_types(over_ads: OverAds) -> AnsweredTypes {
    AnsweredTypes::new(OverAds::TYPE, move |request| {
        let over_ads = over_ads.clone();
        let AnsweredRequest { type_url, names, peer, principal } = request;
        async move { over_ads.answer(peer, principal.as_deref(), &type_url, names).await }
    })
}

impl ControlPlane {
    /// Waits until a part ends without having been asked to. From then on `/live` and `/ready` fail, and
    /// the only thing left to do is [`Self::shutdown`].
    pub async fn failed(&mut self) -> PartFailure {
        let failure = self.parts.failed().await;
        self.all_parts_run.lose(failure.to_string());
        failure
    }

    /// Ends every part in order, and drops what has not ended at the deadline.
    pub async fn shutdown(self) {
        self.parts.shutdown(self.shutdown_timeout).await;
        info!("ended");
    }
}
