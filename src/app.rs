//! The one wiring function: what is started, in which order, and how it ends.
//!
//! Addresses are bound before anything else, so that a taken port is said at once. At shutdown
//! proxies are told first (their streams end, they go to another replica), then the source and the
//! publisher stop, then the pages for people; what has not ended by the deadline is dropped.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::ads::server::AdsServer;
use crate::ads::stream::{Limits, Shared};
use crate::debug::DebugState;
use crate::debug::monitoring::{self, MonitoringState, Readiness};
use crate::metrics::Metrics;
use crate::metrics::scrape::Scrape;
use crate::proxies::Proxies;
use crate::publish::{Publisher, Timing};
use crate::snapshot::encode::FrameBuilder;
use crate::source::health::Health;
use crate::source::{files, kube};
use crate::subscription::Interner;
use crate::view::Leases;

pub mod memory;

/// Task polls between two looks at sockets and timers, and between two at the queue that threads
/// share. A push wakes thousands of streams, and each is ready in some ten microseconds: with tokio's
/// 61 the first ones' ACKs would be read before the last ones are told, half of them 20 % later.
const EVENT_INTERVAL: u32 = 1024;
const GLOBAL_QUEUE_INTERVAL: u32 = 31;

/// What the control plane runs on.
///
/// # Errors
/// The system gives no threads, or no epoll.
pub fn runtime() -> io::Result<Runtime> {
    Builder::new_multi_thread()
        .enable_all()
        .event_interval(EVENT_INTERVAL)
        .global_queue_interval(GLOBAL_QUEUE_INTERVAL)
        .build()
}

/// Changes between the source and the publisher. A relist is one change, so this is about bursts
/// of single ones; the source waits when it is full.
const CHANGES: usize = 1024;

/// Where the mesh comes from.
#[derive(Clone, Debug)]
pub enum Source {
    Kube(kube::Config),
    Files(files::Config),
}

/// Everything that can be chosen.
#[derive(Clone, Debug)]
pub struct Config {
    pub source: Source,
    pub domain: String,
    pub grpc_addr: SocketAddr,
    pub http_addr: SocketAddr,
    pub monitoring_addr: SocketAddr,
    pub timing: Timing,
    pub limits: Limits,
    pub keepalive: Duration,
    pub shutdown_timeout: Duration,
}

/// Why it does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(
        "cannot listen on {address}: {error}. If another process is there, choose another address \
         with {flag}"
    )]
    Bind { flag: &'static str, address: SocketAddr, error: std::io::Error },
    #[error(transparent)]
    Manifests(#[from] files::Unusable),
    #[error("cannot serve reflection: {0}")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// A running control plane.
#[derive(Debug)]
pub struct Running {
    /// The addresses really bound (port 0 asks for a free one).
    pub grpc: SocketAddr,
    pub http: SocketAddr,
    pub monitoring: SocketAddr,
    timeout: Duration,
    /// In the order in which they are ended.
    parts: Vec<Part>,
}

#[derive(Debug)]
struct Part {
    name: &'static str,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// Starts everything.
///
/// # Errors
/// A port is taken, or a manifest path cannot be read. An API server that is away is no error: it
/// is waited for, and `/ready` says so.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let grpc = bind("--grpc-addr", config.grpc_addr).await?;
    let http = bind("--http-addr", config.http_addr).await?;
    let monitoring = bind("--monitoring-addr", config.monitoring_addr).await?;
    if let Source::Files(files) = &config.source {
        files::check(files)?;
    }

    let mut registry = Registry::default();
    let metrics = Metrics::new(&mut registry);
    let health = Arc::new(Health::default());
    let proxies = Arc::new(Proxies::default());
    let leases = Arc::new(Leases::default());

    let (publisher, models, snapshots) =
        Publisher::new(&config.domain, config.timing, leases.clone(), metrics.clone());
    let (changes, from_source) = mpsc::channel(CHANGES);

    let stop_streams = CancellationToken::new();
    let shared = Arc::new(Shared {
        snapshots: snapshots.clone(),
        leases,
        interner: Arc::new(Interner::default()),
        frames: Arc::new(FrameBuilder::new(&crate::version::control_plane_identifier())),
        proxies: proxies.clone(),
        metrics: metrics.clone(),
        limits: config.limits.clone(),
        shutdown: stop_streams.clone(),
    });
    let debug = DebugState {
        proxies: proxies.clone(),
        health: health.clone(),
        model: models.clone(),
        snapshot: snapshots.clone(),
        readiness: Readiness::new(health.clone(), snapshots.clone()),
        domain: config.domain.as_str().into(),
        address: config.http_addr.ip(),
    };
    let started = SystemTime::now();
    registry.register_collector(Box::new(Scrape {
        proxies,
        health: health.clone(),
        model: models,
        snapshot: snapshots,
        domain: config.domain.as_str().into(),
        started,
    }));
    let monitored = MonitoringState {
        readiness: debug.readiness.clone(),
        registry: Arc::new(registry),
        started,
    };

    let running = Running {
        grpc: local(&grpc, config.grpc_addr),
        http: local(&http, config.http_addr),
        monitoring: local(&monitoring, config.monitoring_addr),
        timeout: config.shutdown_timeout,
        parts: Vec::new(),
    };
    let server = AdsServer::new(shared, crate::descriptors::encoded(), config.keepalive)?;
    let mut parts = Parts::default();
    parts.add("gRPC", stop_streams, |stop| server.run(grpc, stop));
    parts.add("source", CancellationToken::new(), |stop| async move {
        match config.source {
            Source::Kube(kube) => kube::run(kube, changes, health, stop).await,
            Source::Files(files) => files::run(files, changes, health, stop).await,
        }
    });
    parts.add("publisher", CancellationToken::new(), |stop| publisher.run(from_source, stop));
    parts.add("debug pages", CancellationToken::new(), |stop| {
        serve_http(http, crate::debug::router(debug), stop)
    });
    parts.add("monitoring", CancellationToken::new(), |stop| {
        serve_http(monitoring, monitoring::router(monitored), stop)
    });
    info!(
        grpc = %running.grpc, http = %running.http, monitoring = %running.monitoring, "listening"
    );
    Ok(Running { parts: parts.0, ..running })
}

impl Running {
    /// Ends every part in its order, then drops what is left at the deadline.
    pub async fn shutdown(self) {
        let deadline = tokio::time::Instant::now() + self.timeout;
        for mut part in self.parts {
            part.stop.cancel();
            if tokio::time::timeout_at(deadline, &mut part.task).await.is_err() {
                warn!(part = part.name, "has not ended in {:?}, dropped", self.timeout);
                part.task.abort();
            }
        }
        info!("ended");
    }
}

#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn add<F: Future<Output = ()> + Send + 'static>(
        &mut self,
        name: &'static str,
        stop: CancellationToken,
        run: impl FnOnce(CancellationToken) -> F,
    ) {
        let task = tokio::spawn(run(stop.clone()));
        self.0.push(Part { name, stop, task });
    }
}

async fn bind(flag: &'static str, address: SocketAddr) -> Result<TcpListener, StartError> {
    TcpListener::bind(address).await.map_err(|error| StartError::Bind { flag, address, error })
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

async fn serve_http(listener: TcpListener, router: axum::Router, stop: CancellationToken) {
    let served = axum::serve(listener, router.into_make_service())
        .with_graceful_shutdown(stop.cancelled_owned())
        .await;
    if let Err(error) = served {
        warn!(%error, "an HTTP server ended");
    }
}
