//! What a mesh costs each of its sidecars: a real Envoy whose traffic is captured, in a mesh of many services
//! of which it calls a few, with each way of discovery.
//!
//! Everything runs in a network namespace of the benchmark's own: the stand-in API server, the program, one
//! Envoy after the other with the bootstrap that the agent writes, and workloads that answer for every
//! endpoint. A first call is one to a service that this Envoy was never asked for; the second follows it. Both
//! have a connection of their own. `docs/performance.md` has the figures.
//!
//! `cargo bench --bench sidecar -- --json target/sidecar.json`
//!
//! Memory and bytes do not depend on how the program was built: `cargo bench --profile dev --bench sidecar`
//! measures them without a release build, and its milliseconds are not worth anything.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test on a larger scale

use std::time::Duration;

use clap::{Parser, ValueEnum};
use serde::Serialize;

mod calls;
mod mesh;
mod proxy;
mod report;
mod run;

/// What the proxy asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Every cluster.
    All,
    /// Those that it calls.
    OnDemand,
    /// The same, told at its start which ones it will call.
    OnDemandUses,
}

#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 1000)]
    pub(crate) services: usize,
    /// Endpoints of each service
    #[arg(long, default_value_t = 10)]
    pub(crate) endpoints: usize,
    #[arg(long, default_value_t = 100)]
    pub(crate) namespaces: usize,
    /// Ways of discovery to measure
    #[arg(
        long = "mode",
        value_enum,
        value_delimiter = ',',
        default_value = "all,on-demand,on-demand-uses"
    )]
    pub(crate) modes: Vec<Mode>,
    /// Services that the sidecar calls before its memory is looked at
    #[arg(long, default_value_t = 10)]
    pub(crate) calls: usize,
    /// Further services whose first and second call are timed, at rest and as many again under changes
    #[arg(long, default_value_t = 300)]
    pub(crate) samples: usize,
    /// Endpoint changes a second, over all services
    #[arg(long, default_value_t = 1000)]
    pub(crate) rate: u32,
    /// Pause before each service that is called for the first time, ms
    #[arg(long, default_value_t = 20)]
    pub(crate) pause: u64,
    /// Pause before memory is looked at and after changes have begun, ms
    #[arg(long, default_value_t = 2000)]
    pub(crate) settle: u64,
    /// Worker threads of Envoy, the agent's default
    #[arg(long, default_value_t = 2)]
    pub(crate) concurrency: u32,
    /// Write the figures to this file as JSON too
    #[arg(long)]
    pub(crate) json: Option<std::path::PathBuf>,
    /// `cargo bench` adds this
    #[arg(long, hide = true)]
    bench: bool,
}

impl Options {
    pub(crate) fn pause(&self) -> Duration {
        Duration::from_millis(self.pause)
    }

    pub(crate) fn settle(&self) -> Duration {
        Duration::from_millis(self.settle)
    }
}

fn main() -> anyhow::Result<()> {
    // `cargo bench` says so; `cargo test` says what it pleases, and runs it in the small.
    let options = if std::env::args().any(|one| one == "--bench") {
        Options::parse()
    } else {
        let mut filters = std::env::args().skip(1).filter(|one| !one.starts_with('-')).peekable();
        if filters.peek().is_some() && !filters.any(|filter| "sidecar".contains(&filter)) {
            return Ok(());
        }
        let small = "sidecar --services 40 --endpoints 2 --namespaces 4 --samples 5 --rate 50 --pause 0 --settle 100";
        Options::parse_from(small.split(' '))
    };
    let enough = options.calls + 2 * options.samples <= options.services;
    anyhow::ensure!(enough, "--services must be --calls and twice --samples at least");
    if let Some(status) = pilothouse_testkit::namespace::reentered() {
        anyhow::ensure!(status.success(), "in a network namespace of its own: {status}");
        return Ok(());
    }
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let figures = runtime.block_on(run::all(&options));
    report::print(&figures);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}
