//! A large mesh that never rests: the program against the stand-in API server, which changes an
//! endpoint of one service after the other, and a proxy that has all of them.
//!
//! What is looked for is growth: of the time from a change at the API server until the proxy has it,
//! and of the program's memory. `docs/performance.md` has the figures.
//!
//! `cargo bench --bench churn -- --json target/churn.json`

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test on a larger scale

use clap::Parser;
use serde::Serialize;

mod cost;
mod follower;
mod mesh;

use cost::{cpu, memory};
use follower::Follower;
use mesh::Mesh;
use pilothouse_testkit::kube_control_plane::Pilot;
use pilothouse_testkit::spread::Spread;
use pilothouse_testkit::until;

#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    #[arg(long, default_value_t = 10_000)]
    pub(crate) services: usize,
    /// Endpoints of each service
    #[arg(long, default_value_t = 10)]
    pub(crate) endpoints: usize,
    /// Changes a second
    #[arg(long, default_value_t = 1000)]
    pub(crate) rate: u32,
    #[arg(long, default_value_t = 60)]
    pub(crate) seconds: u32,
    /// Seconds of a line of the report
    #[arg(long, default_value_t = 10)]
    pub(crate) window: u32,
    /// Write the figures to this file as JSON too
    #[arg(long)]
    json: Option<std::path::PathBuf>,
    /// `cargo bench` adds this
    #[arg(long, hide = true)]
    bench: bool,
}

/// Memory in KiB.
#[derive(Debug, Serialize)]
struct Figures {
    services: usize,
    endpoints: usize,
    /// Of the program with an empty mesh, with the services without endpoints, and with all.
    memory_empty_kib: u64,
    memory_services_kib: u64,
    memory_all_kib: u64,
    bytes_per_endpoint: f64,
    windows: Vec<Window>,
}

/// What was seen in some seconds.
#[derive(Debug, Serialize)]
struct Window {
    /// Changes made in it.
    changes: usize,
    /// Of them, those that the proxy was told of; the others were overtaken by later ones.
    told: usize,
    /// Milliseconds from the change until the proxy had it.
    lag: Spread,
    /// Of a core.
    cpu: f64,
    /// At its end.
    memory_kib: u64,
}

fn main() -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // `cargo bench` says so; `cargo test` says what it pleases.
    if std::env::args().any(|one| one == "--bench") {
        return runtime.block_on(run(Options::parse()));
    }
    let mut filters = std::env::args().skip(1).filter(|one| !one.starts_with('-')).peekable();
    if filters.peek().is_some() && !filters.any(|filter| "churn".contains(&filter)) {
        return Ok(());
    }
    let small = "churn --services 50 --endpoints 3 --rate 200 --seconds 2 --window 1";
    runtime.block_on(run(Options::parse_from(small.split(' '))))
}

async fn run(options: Options) -> anyhow::Result<()> {
    let nothing = Options { services: 0, endpoints: 0, ..options.clone() };
    let memory_empty_kib = memory_of(&nothing).await;
    let memory_services_kib = memory_of(&Options { endpoints: 0, ..options.clone() }).await;
    let memory_all_kib = memory_of(&options).await;
    let endpoints = options.services * options.endpoints;
    let of_endpoints = memory_all_kib.saturating_sub(memory_services_kib);
    let bytes_per_endpoint = of_endpoints as f64 * 1024.0 / endpoints as f64;
    println!(
        "memory without a proxy: empty {:.1} MiB, {} services {:.1} MiB, with {endpoints} endpoints \
         {:.1} MiB: {bytes_per_endpoint:.0} bytes an endpoint",
        mib(memory_empty_kib),
        options.services,
        mib(memory_services_kib),
        mib(memory_all_kib),
    );
    let windows = churn(&options).await;
    let figures = Figures {
        services: options.services,
        endpoints,
        memory_empty_kib,
        memory_services_kib,
        memory_all_kib,
        bytes_per_endpoint,
        windows,
    };
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&figures)?)?;
    }
    Ok(())
}

/// Of a program that has listed this much.
async fn memory_of(options: &Options) -> u64 {
    let mesh = Mesh::start(options).await;
    memory(listed(&mesh, options).await.process())
}

/// A program that has listed the mesh.
async fn listed(mesh: &Mesh, options: &Options) -> Pilot {
    let pilot = Pilot::start_with(mesh.address(), &[]).await;
    until("the program to be ready", async || pilot.ready().await).await;
    let page = pilot.sourcez().await.unwrap();
    assert_eq!(page["services"], options.services, "{page}");
    pilot
}

async fn churn(options: &Options) -> Vec<Window> {
    let mut mesh = Mesh::start(options).await;
    let pilot = listed(&mesh, options).await;
    let follower = Follower::start(pilot.grpc(), mesh.clusters(), mesh.last()).await;
    println!(
        "{:>8} {:>9} {:>9} {:>8} {:>8} {:>8} {:>8} {:>12}",
        "second", "changes", "told", "p50, ms", "p99, ms", "max, ms", "CPU", "memory, MiB"
    );
    println!("{:>75.1}", mib(memory(pilot.process())));
    let mut windows = Vec::new();
    let mut second = 0;
    while second < options.seconds {
        let length = options.window.min(options.seconds - second);
        let (first, used) = (mesh.last(), cpu(pilot.process()));
        let begun = tokio::time::Instant::now();
        mesh.change_for(length, options.rate).await;
        let used = (cpu(pilot.process()) - used) / begun.elapsed().as_secs_f64();
        second += length;
        windows.push((second, first, mesh.last(), used, memory(pilot.process())));
    }
    // What is still on its way counts, however long it takes.
    follower.has(mesh.newest()).await;
    let windows = windows.into_iter().map(|(second, first, last, cpu, memory_kib)| {
        let lags = follower.lags(&mesh, first..last);
        let window = Window {
            changes: (last - first) as usize,
            told: lags.len(),
            lag: Spread::from_samples(&lags),
            cpu,
            memory_kib,
        };
        println!(
            "{second:>8} {:>9} {:>9} {:>8.0} {:>8.0} {:>8.0} {:>7.0}% {:>12.1}",
            window.changes,
            window.told,
            window.lag.p50,
            window.lag.p99,
            window.lag.max,
            window.cpu * 100.0,
            mib(window.memory_kib)
        );
        window
    });
    windows.collect()
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
