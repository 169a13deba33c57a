//! The sidecar's agent, what Istio calls `pilot-agent`: it writes Envoy's bootstrap, starts Envoy,
//! answers for its readiness and sees to its end.
//!
//! Another house than the control plane, which it meets over the network only: of the rest of the
//! crate it uses `names`, `descriptors` (to write protoJSON), what every process needs (`door`, `parts`
//! and their like), and `doctor` to find out why the proxy is not ready.
//!
//! ```text
//! flags, ISTIO_META_* ──> config ──> bootstrap ──> envoy-rev.json ──> Envoy ──ADS──> control plane
//!                                    template ────┘                    │ admin
//!                     kubelet ──> status (15020) <── readiness <── stats
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

use crate::door::{self, BindError, Door};
use crate::http_server;
use crate::output::{self, Unwritten};
use crate::parts::Parts;
use crate::signals::Signals;

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
pub async fn run(args: Args) -> Result<u8, Error> {
    let environment: BTreeMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let mut config = Config::new(&args, &environment)?;
    if args.bootstrap_only {
        output::print(&render(&config)?)?;
        return Ok(0);
    }
    // All that can be wrong first, and the port last: the bootstrap names the one that was had.
    render(&config)?;
    let program = envoy::find(&config.envoy.program)?;
    let listener = door::bind("--status-addr", config.status, &[]).await?;
    config.status = listener.local_addr().unwrap_or(config.status);
    let probes = AppProbes::new(config.probers.clone(), config.node.addresses[0]);
    let probes = probes.map_err(Error::Tls)?;
    let file = write(&config, &render(&config)?)?;
    let mut signals = Signals::new().map_err(Error::Signals)?;

    info!(
        node = config.node.id, discovery = %format_args!("{}:{}", config.discovery.host,
        config.discovery.port), status = %config.status, "starting {}", program.display()
    );
    let mut envoy = Envoy::start(&program, &config.envoy, &file)?;
    let admin = Admin::new(config.admin);
    let ask = Ask { ending: CancellationToken::new(), quit: CancellationToken::new() };
    let door = Door::new("status", listener, door::descriptors::room_of_agent());
    let mut parts = beside(door, probes, &config, &admin, &ask, envoy.pid());
    live(&mut envoy, &admin, &config, &mut signals, &ask, &mut parts).await
}

/// What others may ask for.
#[derive(Clone)]
struct Ask {
    /// Cancelled when the end has begun.
    ending: CancellationToken,
    /// To be cancelled to begin it.
    quit: CancellationToken,
}

/// What works beside Envoy. It ends with the runtime: Envoy ends first, in its own order.
fn beside(
    door: Door,
    probes: AppProbes,
    config: &Config,
    admin: &Admin,
    ask: &Ask,
    pid: process::Pid,
) -> Parts {
    let (state, states) = watch::channel(State::at_start());
    let (cause, causes) = watch::channel(None);
    let pages = status::Pages {
        admin: admin.clone(),
        state: states.clone(),
        ending: ask.ending.clone(),
        quit: ask.quit.clone(),
        inbound_only: config.is_sidecar(),
        probes,
        failed_scrapes: Default::default(),
    };
    let pages = status::router(Arc::new(pages));
    let mut parts = Parts::default();
    let stats = door.stats();
    parts.add("status listener", CancellationToken::new(), |stop| async move {
        stop.run_until_cancelled(stats.broken()).await;
    });
    parts.add("status pages", CancellationToken::new(), |stop| {
        http_server::serve(door, pages, stop)
    });
    let (admin, config) = (admin.clone(), config.clone());
    parts.add("readiness", CancellationToken::new(), |stop| async move {
        tokio::join!(
            readiness::follow(admin, state, causes),
            cause::follow(&config, states, cause)
        );
        // Ready for good: there is nothing more to be asked.
        stop.cancelled().await;
    });
    parts.add("reaper", CancellationToken::new(), |stop| async move {
        stop.run_until_cancelled(reap::reap(pid)).await;
    });
    parts
}

/// Envoy's life: until it ends, or is ended.
async fn live(
    envoy: &mut Envoy,
    admin: &Admin,
    config: &Config,
    signals: &mut Signals,
    ask: &Ask,
    parts: &mut Parts,
) -> Result<u8, Error> {
    let asked = tokio::select! {
        status = envoy.ended() => {
            let (how, code) = envoy::describe(status.map_err(Error::Wait)?);
            error!("Envoy ended {how}, and the agent with it");
            return Ok(code);
        }
        name = signals.next() => Ok(name),
        () = ask.quit.cancelled() => Ok("/quitquitquit"),
        failure = parts.failed() => Err(failure),
    };
    match &asked {
        Ok(name) => info!("{name}: draining; a second signal ends at once"),
        Err(failure) => error!("{failure}: draining, to end with exit code 1"),
    }
    ask.ending.cancel();
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
    Ok(u8::from(asked.is_err()))
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
