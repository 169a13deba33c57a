//! The sidecar's agent, what Istio calls `pilot-agent`: it writes Envoy's bootstrap, starts Envoy,
//! answers for its readiness and sees to its end.
//!
//! Another house than the control plane, which it meets over the network only: of the rest of the
//! crate it uses `names`, `descriptors` (to write protoJSON), what every process needs (`door`, `parts`
//! and their like), and `doctor` to find out why the proxy is not ready.
//!
//! ```text
//! flags, ISTIO_META_* ──> config ──> bootstrap ──> envoy-rev.json ──> Envoy ──ADS──> control plane
//!                           │        template ────┘                    │ admin
//!             uses.json ────┘          kubelet ──> status (15020) <── readiness <── stats
//!                 └───────────────────────────────────────────────── remember <─┘
//! ```

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rustix::process;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

mod app_metrics;
mod app_probes;
mod application;
mod args;
pub mod bootstrap;
mod cause;
pub mod config;
mod credentials;
mod discovery;
mod drain;
pub mod envoy;
mod node;
mod privilege;
mod proxy_config;
pub mod readiness;
mod reap;
mod remember;
mod status;
pub mod template;
mod uses;
mod wait;
mod warm_file;

pub use app_metrics::{APP_METRICS, check_metrics_path};
pub use app_probes::{APP_HEALTH, APP_LIFECYCLE, APP_PROBERS};
pub use args::{AgentArgs, ProxyType, Xds};
pub use discovery::{ClusterDiscovery, Discovery};
pub use envoy::{ParentDeathExec, check_component_log_levels, check_log_level};
pub use proxy_config::{ProxyConfig, ProxyConfigError};
pub use uses::parse_uses;
pub use wait::AgentWaitArgs;

use app_metrics::AppMetrics;
use app_probes::AppProbes;
use config::AgentConfig;
use credentials::CredentialsMissing;
use drain::NotDraining;
use envoy::Envoy;
use readiness::{EnvoyConditions, ProbeConditions};
use remember::{Memory, OnDemandState};
use warm_file::WarmFile;

use crate::door::{self, BindError, LimitedListener};
use crate::http_server;
use crate::output::{self, Unwritten};
use crate::parts::Parts;
use crate::sidecar::envoy_admin::EnvoyAdmin;
use crate::signals::Signals;

/// Longer than an admin page of a busy Envoy takes.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the end may wait for what the proxy used to be written down; draining takes longer as a rule.
const REMEMBER_TIMEOUT: Duration = Duration::from_millis(500);
/// How long Envoy may take to end after SIGTERM.
const ENVOY_EXIT_TIMEOUT: Duration = Duration::from_secs(1);

/// Why the agent ends without having done its work.
#[derive(Debug, Error)]
pub enum AgentError {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    #[error(transparent)]
    Launch(#[from] envoy::LaunchError),
    #[error(transparent)]
    Credentials(#[from] CredentialsMissing),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Unwritten(#[from] Unwritten),
    #[error("the bootstrap cannot be written to {}: {error}; --config-dir names another folder", .file.display())]
    Write { file: PathBuf, error: std::io::Error },
    #[error("signals cannot be waited for: {0}")]
    Signals(std::io::Error),
    #[error("Envoy cannot be waited for: {0}")]
    Wait(std::io::Error),
    #[error("TLS for the application's probes cannot be set up: {0}")]
    Tls(rustls::Error),
}

/// Runs until Envoy ends or a signal has ended both; gives the exit code. To be polled on the main
/// thread, see [`Envoy::start`].
///
/// # Errors
/// It could not be started.
pub async fn run(args: AgentArgs) -> Result<u8, AgentError> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut config = AgentConfig::new(&args, &environment)?;
    let warm_file = WarmFile::in_folder(&config.config_dir);
    if config.clusters.is_on_demand() {
        config.clusters.remember(warm_file.read());
    }
    if args.bootstrap_only {
        output::print(&render(&config)?)?;
        return Ok(0);
    }
    // All that can be wrong first, and the port last: the bootstrap names the one that was had.
    render(&config)?;
    let program = envoy::find(&config.envoy.program)?;
    if config.clusters.is_on_demand() {
        config.clusters.check_envoy(envoy::version(&program).await);
    }
    match config.clusters.fallback() {
        Some(_) => warn!("{}", config.clusters),
        None if config.clusters.is_on_demand() => info!(
            named = config.clusters.named().len(),
            remembered = config.clusters.remembered().len(),
            "{}",
            config.clusters
        ),
        None if !config.clusters.named().is_empty() => {
            warn!(
                "--uses (PILOTHOUSE_USES) is for --discovery on-demand: all clusters are had anyway"
            );
        }
        None => {}
    }
    let listener = door::bind("--status-addr", config.status, &[]).await?;
    config.status = listener.local_addr().unwrap_or(config.status);
    let probes = AppProbes::new(config.probers.clone(), config.node.addresses[0]);
    let probes = probes.map_err(AgentError::Tls)?;
    let file = write(&config, &render(&config)?)?;
    let mut signals = Signals::new().map_err(AgentError::Signals)?;
    let admin = EnvoyAdmin::new(config.admin, ADMIN_TIMEOUT);
    let conditions = ProbeConditions::default();
    let credentials_there = conditions.ready.condition("TLS", "the files for TLS are being read");
    let of_envoy = EnvoyConditions::new(&conditions);
    let not_draining = Arc::new(NotDraining::new(&conditions.ready));
    let shutdown = Shutdown::new(not_draining);
    let memory = config.clusters.is_on_demand().then(|| {
        let (domain, kept) =
            (config.node.cluster_domain().to_owned(), config.clusters.remembered());
        Memory::new(admin, warm_file, domain, kept)
    });
    let (memory, on_demand) = memory.unzip();
    let door = LimitedListener::new("status", listener, door::descriptors::agent_limits());
    // The application's probes are answered from now on, whatever is waited for.
    let mut parts = start_pages(door, probes, &config, &admin, &conditions, &shutdown, on_demand);
    if let Some(credentials) = &config.credentials {
        let there = credentials::wait(credentials, &credentials_there, credentials::LIMIT);
        tokio::select! {
            there = there => there?,
            name = signals.next() => {
                info!("{name}: ended before Envoy was started");
                return Ok(0);
            }
            () = shutdown.quit.cancelled() => return Ok(0),
        }
    }
    credentials_there.meet();

    info!(
        node = config.node.id, discovery = %config.discovery, status = %config.status, "starting {}", program.display()
    );
    let mut envoy = Envoy::start(&program, &config.envoy, &file)?;
    follow_envoy(&mut parts, of_envoy, &config, &admin, &conditions, envoy.pid());
    match memory {
        Some(memory) => {
            let (ready, shutdown) = (conditions.ready.clone(), shutdown.clone());
            parts.add("memory of what is used", CancellationToken::new(), |stop| async move {
                let follow = memory.follow(&ready, &shutdown.ending, &shutdown.remembered);
                stop.run_until_cancelled(follow).await;
            });
        }
        None => shutdown.remembered.cancel(),
    }
    supervise(&mut envoy, &admin, &config, &mut signals, &shutdown, &mut parts).await
}

/// How the end begins: by whom it is asked for, and what is told of it.
#[derive(Clone)]
struct Shutdown {
    not_draining: Arc<NotDraining>,
    /// To be cancelled to begin it.
    quit: CancellationToken,
    /// Cancelled as it begins.
    ending: CancellationToken,
    /// Cancelled once what the proxy used is written down, if it is to be.
    remembered: CancellationToken,
}

impl Shutdown {
    fn new(not_draining: Arc<NotDraining>) -> Self {
        let [quit, ending, remembered] = [(); 3].map(|()| CancellationToken::new());
        Self { not_draining, quit, ending, remembered }
    }
}

/// The agent's own pages. What works beside Envoy ends with the runtime: Envoy ends first, in its own
/// order.
fn start_pages(
    door: LimitedListener,
    probes: AppProbes,
    config: &AgentConfig,
    admin: &EnvoyAdmin,
    conditions: &ProbeConditions,
    shutdown: &Shutdown,
    on_demand: Option<watch::Receiver<Option<OnDemandState>>>,
) -> Parts {
    let pages = status::Pages {
        admin: *admin,
        conditions: conditions.clone(),
        not_draining: shutdown.not_draining.clone(),
        quit: shutdown.quit.clone(),
        inbound_only: config.is_sidecar(),
        probes,
        application: config
            .app_metrics
            .clone()
            .map(|target| AppMetrics::new(target, config.node.addresses[0])),
        clusters: config.clusters.clone(),
        on_demand,
        failed_scrapes: Default::default(),
        failed_app_scrapes: Default::default(),
    };
    let pages = status::router(Arc::new(pages));
    let mut parts = Parts::default();
    let stats = door.stats();
    parts.add("status listener", CancellationToken::new(), |stop| async move {
        stop.run_until_cancelled(stats.lost()).await;
    });
    parts.add("status pages", CancellationToken::new(), |stop| {
        http_server::serve(door, pages, stop)
    });
    parts
}

/// Whatever follows a running Envoy.
fn follow_envoy(
    parts: &mut Parts,
    of_envoy: EnvoyConditions,
    config: &AgentConfig,
    admin: &EnvoyAdmin,
    conditions: &ProbeConditions,
    pid: process::Pid,
) {
    let (cause, causes) = watch::channel(None);
    let ready = conditions.ready.clone();
    let (admin, config) = (*admin, config.clone());
    parts.add("readiness", CancellationToken::new(), |stop| async move {
        tokio::join!(
            of_envoy.follow_admin(admin, causes),
            cause::diagnose_while_not_ready(&config, &ready, cause)
        );
        // Ready for good: there is nothing more to be asked.
        stop.cancelled().await;
    });
    parts.add("reaper", CancellationToken::new(), |stop| async move {
        stop.run_until_cancelled(reap::reap(pid)).await;
    });
}

/// Envoy's life: until it ends, or is ended.
async fn supervise(
    envoy: &mut Envoy,
    admin: &EnvoyAdmin,
    config: &AgentConfig,
    signals: &mut Signals,
    shutdown: &Shutdown,
    parts: &mut Parts,
) -> Result<u8, AgentError> {
    let asked = tokio::select! {
        status = envoy.ended() => {
            let (how, code) = envoy::describe(status.map_err(AgentError::Wait)?);
            error!("Envoy ended {how}, and the agent with it");
            return Ok(code);
        }
        name = signals.next() => Ok(name),
        () = shutdown.quit.cancelled() => Ok("/quitquitquit"),
        failure = parts.failed() => Err(failure),
    };
    match &asked {
        Ok(name) => info!("{name}: draining; a second signal ends at once"),
        Err(failure) => error!("{failure}: draining, to end with exit code 1"),
    }
    shutdown.not_draining.end();
    shutdown.ending.cancel();
    let remembered = tokio::time::timeout(REMEMBER_TIMEOUT, shutdown.remembered.cancelled());
    tokio::select! {
        _ = async { tokio::join!(drain::drain(admin, config), remembered) } => {}
        name = signals.next() => {
            error!("{name} again: ended at once");
            envoy.signal(process::Signal::KILL);
            _ = envoy.ended().await;
            return Ok(1);
        }
        status = envoy.ended() => {
            let (how, code) = envoy::describe(status.map_err(AgentError::Wait)?);
            error!("Envoy ended {how} before its connections were drained");
            return Ok(code);
        }
    }
    envoy.signal(process::Signal::TERM);
    if tokio::time::timeout(ENVOY_EXIT_TIMEOUT, envoy.ended()).await.is_err() {
        warn!("Envoy has not ended within {ENVOY_EXIT_TIMEOUT:?} of SIGTERM: killed");
        envoy.signal(process::Signal::KILL);
        _ = envoy.ended().await;
    }
    info!("ended");
    Ok(u8::from(asked.is_err()))
}

/// The bootstrap as Envoy is to read it.
fn render(config: &AgentConfig) -> Result<String, AgentError> {
    let mut json = template::to_json(&bootstrap::bootstrap(config))?;
    if let Some(file) = &config.template {
        template::merge_patch(&mut json, template::read(file)?);
    }
    Ok(pretty(json))
}

fn pretty(json: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(json))
}

fn write(config: &AgentConfig, bootstrap: &str) -> Result<PathBuf, AgentError> {
    // Istio's name.
    let file = config.config_dir.join("envoy-rev.json");
    let secrets = config.credentials.as_ref();
    let secrets =
        secrets.map(|credentials| bootstrap::secret_files(credentials, &config.config_dir));
    let mut files = secrets.unwrap_or_default();
    files.push((file.clone(), bootstrap.to_owned()));
    let wrong = |file, error| AgentError::Write { file, error };
    std::fs::create_dir_all(&config.config_dir).map_err(|error| wrong(file.clone(), error))?;
    for (file, content) in files {
        std::fs::write(&file, content).map_err(|error| wrong(file, error))?;
    }
    Ok(file)
}
