//! `pilothouse injector`: the webhook that an API server asks about each new pod, and that adds the sidecar.
//!
//! ```text
//! files (settings, certificate) ──> what is in force ──┐
//! API server's version ──> native sidecars? ───────────┼──> review ──> JSON patch ──> API server
//! API server ──TLS──> server ──> AdmissionReview ──────┘    pure, by `inject`
//! ```
//!
//! It makes what `pilothouse inject` makes, by the same code. It watches nothing and writes nothing: what it
//! knows of a pod is in the review, and what it knows of the cluster is the API server's version.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use prometheus_client::registry::Registry;
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::info;

mod args;
mod certificate;
mod cluster;
mod files;
mod manifests;
mod metrics;
mod review;
mod server;
mod settings;

pub use args::{FailurePolicy, InjectorArgs, InjectorCommand, ManifestsArgs};
pub use manifests::{manifests, print_manifests};
pub use review::{Outcome, Reviewed, review};
pub use settings::{InjectorSettings, OnError};

use crate::door::{self, LimitedListener, descriptors};
use crate::monitoring::{self, MonitoringState};
use crate::parts::{PartFailure, Parts};
use crate::readiness::{Conditions, Guard};

/// What a running injector needs to know.
#[derive(Clone, Debug)]
pub struct InjectorConfig {
    pub address: SocketAddr,
    pub monitoring_address: SocketAddr,
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub settings: PathBuf,
    /// How often the files are looked at.
    pub reload_interval: Duration,
    /// How long reviews are still answered once the process is to end.
    pub drain: Duration,
}

/// Why the injector does not start.
#[derive(Debug, Error)]
pub enum StartError {
    #[error(transparent)]
    Bind(#[from] door::BindError),
    #[error("cannot start the thread for the monitoring port: {0}")]
    Thread(io::Error),
}

/// What reviews are answered by: each has one writer, the part that reads it.
#[derive(Clone, Debug)]
pub(crate) struct InForce {
    /// None until they are read for the first time.
    settings: watch::Receiver<Option<Arc<InjectorSettings>>>,
    /// Whether every kubelet has native sidecars; none until the API server has said its version.
    native_sidecars: watch::Receiver<Option<bool>>,
}

/// A running injector.
#[derive(Debug)]
pub struct Injector {
    /// The addresses that are bound (port 0 asks for a free port).
    pub address: SocketAddr,
    pub monitoring: SocketAddr,
    parts: Parts,
    drain: Duration,
    /// Cancelled as the end begins: connections are to be closed after their next answer.
    draining: CancellationToken,
    serving: Guard,
}

/// Starts all parts. Files that are not there yet are waited for: `/ready` says so.
///
/// # Errors
/// A port is taken.
pub async fn start(config: InjectorConfig) -> Result<Injector, StartError> {
    let listener = door::bind("--addr", config.address, &[]).await?;
    let address = listener.local_addr().unwrap_or(config.address);
    let monitoring =
        door::bind("--monitoring-addr", config.monitoring_address, &[("--addr", address)]).await?;
    let monitoring_address = monitoring.local_addr().unwrap_or(config.monitoring_address);
    let limits = descriptors::agent_limits();
    let listener = LimitedListener::new("injector", listener, limits);
    let monitoring = LimitedListener::new("monitoring", monitoring, limits);
    let stats = [listener.stats(), monitoring.stats()];

    let mut registry = Registry::default();
    let metrics = metrics::Metrics::new(&mut registry);
    let readiness = Conditions::default();
    let serving = readiness.condition("serving", "the process is being started");
    let (watched, files::Usable { tls, settings }) =
        files::Files::new(&config, &readiness, metrics.clone());
    let (cluster, native_sidecars) = cluster::Cluster::new(&readiness, settings.clone());
    let in_force = InForce { settings, native_sidecars };

    let mut parts = Parts::default();
    let draining = CancellationToken::new();
    let server = server::Server { in_force, tls, metrics, draining: draining.clone() };
    parts.add("reviews", CancellationToken::new(), |stop| server.run(listener, stop));
    parts.add("files", CancellationToken::new(), |stop| watched.run(stop));
    parts.add("API server's version", CancellationToken::new(), |stop| cluster.run(stop));
    let state =
        MonitoringState { readiness, registry: Arc::new(registry), started: SystemTime::now() };
    let stop_monitoring = CancellationToken::new();
    let ended = monitoring::serve(monitoring, state, stop_monitoring.clone())
        .map_err(StartError::Thread)?;
    parts.add("monitoring", stop_monitoring, |stop| async move {
        // Dropping this part ends the thread.
        let _stop = stop.drop_guard();
        ended.await
    });
    for (name, listener) in ["listener", "monitoring listener"].into_iter().zip(stats) {
        parts.add(name, CancellationToken::new(), |stop| async move {
            stop.run_until_cancelled(listener.lost()).await;
        });
    }
    serving.meet();
    info!(%address, monitoring = %monitoring_address, "listening");
    Ok(Injector {
        address,
        monitoring: monitoring_address,
        parts,
        drain: config.drain,
        draining,
        serving,
    })
}

/// How long answers in progress may take once no connection is accepted any more.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

impl Injector {
    /// Waits until a part ends without having been asked to.
    pub async fn failed(&mut self) -> PartFailure {
        let failure = self.parts.failed().await;
        self.serving.lose(failure.to_string());
        failure
    }

    /// Ends: not ready from now on, but reviews are answered for a while longer, since the Service leads
    /// the API server here until the endpoint is gone everywhere.
    pub async fn shutdown(self) {
        self.serving.fail("the process is to end");
        self.draining.cancel();
        tokio::time::sleep(self.drain).await;
        self.parts.shutdown(SHUTDOWN_TIMEOUT).await;
        info!("ended");
    }
}
