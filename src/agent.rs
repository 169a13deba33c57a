//! The sidecar's agent, what Istio calls `pilot-agent`: it writes Envoy's bootstrap, starts Envoy,
//! answers for its readiness and sees to its end.
//!
//! Another house than the control plane, which it meets over the network only: of the rest of the
//! crate it uses `names`, `descriptors` (to write protoJSON), `version`, and `doctor` to find out why the
//! proxy is not ready.
//!
//! ```text
//! flags, ISTIO_META_* ──> config ──> bootstrap ──> envoy-rev.json ──> Envoy ──ADS──> control plane
//!                                    template ────┘                    │ admin
//!                     kubelet ──> status (15020) <── readiness <── stats
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use rustix::process;
use serde_json::{Map, Value};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

pub mod admin;
mod app_probes;
mod application;
mod args;
pub mod bootstrap;
mod cause;
pub mod config;
mod drain;
pub mod envoy;
mod node;
mod privilege;
mod proxy_config;
pub mod readiness;
mod reap;
mod status;
pub mod template;

pub use app_probes::{APP_HEALTH, APP_PROBERS};
pub use args::{Args, DEFAULT_DISCOVERY_ADDRESS, ProxyType, STATUS_PORT, Xds};
pub use envoy::{Tether, check_component_log_levels, check_log_level};
pub use proxy_config::{ProxyConfig, ProxyConfigError};

use admin::Admin;
use app_probes::AppProbes;
use config::Config;
use envoy::Envoy;
use readiness::State;

/// How long Envoy may take to end after SIGTERM.
const LAST_SECOND: Duration = Duration::from_secs(1);

/// Why the agent ends without having done its work.
#[derive(Debug, Error)]
pub enum Error {
    #[error(transparent)]
    Config(#[from] config::ConfigError),
    #[error(transparent)]
    Template(#[from] template::TemplateError),
    #[error(transparent)]
    Launch(#[from] envoy::LaunchError),
    #[error(
        "--status-addr {address}: {error}. If another process is there, choose another address \
         with --status-addr"
    )]
    Bind { address: SocketAddr, error: std::io::Error },
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
pub async fn run(args: Args) -> Result<u8, Error> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let config = Config::new(&args, &environment)?;
    let bootstrap = render(&config)?;
    if args.bootstrap_only {
        print!("{bootstrap}");
        return Ok(0);
    }
    let program = envoy::find(&config.envoy.program)?;
    let bind = |error| Error::Bind { address: config.status, error };
    let listener = TcpListener::bind(config.status).await.map_err(bind)?;
    let probes = AppProbes::new(config.probers.clone(), config.node.addresses[0]);
    let probes = probes.map_err(Error::Tls)?;
    let file = write(&config, &bootstrap)?;
    let mut signals = Signals::new().map_err(Error::Signals)?;

    info!(
        node = config.node.id, discovery = %format_args!("{}:{}", config.discovery.host,
        config.discovery.port), status = %config.status, "starting {}", program.display()
    );
    let mut envoy = Envoy::start(&program, &config.envoy, &file)?;
    let admin = Admin::new(config.admin);
    let (state, states) = watch::channel(State::at_start());
    let (cause, causes) = watch::channel(None);
    let (ending, quit) = (CancellationToken::new(), CancellationToken::new());
    let pages = status::Pages {
        admin: admin.clone(),
        state: states.clone(),
        ending: ending.clone(),
        quit: quit.clone(),
        inbound_only: config.is_sidecar(),
        probes,
        failed_scrapes: Default::default(),
    };
    let pid = envoy.pid();
    // All of it ends with the life of Envoy, by being dropped.
    let beside = async {
        let readiness = async {
            tokio::join!(
                readiness::follow(admin.clone(), state, causes),
                cause::follow(&config, states, cause),
            );
        };
        tokio::join!(status::serve(listener, pages), readiness, reap::reap(pid));
        std::future::pending().await
    };
    tokio::select! {
        code = live(&mut envoy, &admin, &config, &mut signals, &ending, &quit) => code,
        code = beside => code,
    }
}

/// Envoy's life: until it ends, or is ended.
async fn live(
    envoy: &mut Envoy,
    admin: &Admin,
    config: &Config,
    signals: &mut Signals,
    ending: &CancellationToken,
    quit: &CancellationToken,
) -> Result<u8, Error> {
    let asked = tokio::select! {
        status = envoy.ended() => {
            let (how, code) = envoy::describe(status.map_err(Error::Wait)?);
            error!("Envoy ended {how}, and the agent with it");
            return Ok(code);
        }
        name = signals.next() => name,
        () = quit.cancelled() => "/quitquitquit",
    };
    info!("{asked}: draining; a second signal ends at once");
    ending.cancel();
    tokio::select! {
        () = drain::drain(admin, config) => {}
        name = signals.next() => {
            error!("{name} again: ended at once");
            envoy.signal(process::Signal::KILL);
            _ = envoy.ended().await;
            return Ok(1);
        }
        status = envoy.ended() => {
            let (how, code) = envoy::describe(status.map_err(Error::Wait)?);
            error!("Envoy ended {how} before its connections were drained");
            return Ok(code);
        }
    }
    envoy.signal(process::Signal::TERM);
    if tokio::time::timeout(LAST_SECOND, envoy.ended()).await.is_err() {
        warn!("Envoy has not ended within {LAST_SECOND:?} of SIGTERM: killed");
        envoy.signal(process::Signal::KILL);
        _ = envoy.ended().await;
    }
    info!("ended");
    Ok(0)
}

/// The bootstrap as Envoy is to read it.
fn render(config: &Config) -> Result<String, Error> {
    let mut json = template::to_json(&bootstrap::bootstrap(config))?;
    if let Some(file) = &config.template {
        template::lay_over(&mut json, template::read(file)?);
    }
    Ok(pretty(json))
}

fn pretty(json: Map<String, Value>) -> String {
    format!("{:#}\n", Value::Object(json))
}

fn write(config: &Config, bootstrap: &str) -> Result<PathBuf, Error> {
    // Istio's name.
    let file = config.config_dir.join("envoy-rev.json");
    let written =
        std::fs::create_dir_all(&config.config_dir).and_then(|()| std::fs::write(&file, bootstrap));
    match written {
        Ok(()) => Ok(file),
        Err(error) => Err(Error::Write { file, error }),
    }
}

/// The two signals that ask for an end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
