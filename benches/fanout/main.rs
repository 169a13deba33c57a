//! What fan-out costs, against the physical limit and against what most write.
//!
//! One run measures several servers, each in a child process of its own, with the same simulated
//! sidecars in another: `pilothouse` (the real publisher, session and gRPC server), `raw` (one
//! task a socket that writes the same bytes to sidecars that never answer: the limit), `raw+acks`
//! (the same to sidecars that answer as xDS wants; what they say is thrown away), `hyper+acks` (that
//! through an HTTP/2 library) and `naive` (tonic's generated service that encodes for every stream).
//! Timings are noisy, so only ratios within a run mean something. `docs/performance.md` has the
//! figures.
//!
//! `cargo bench --bench fanout -- --streams 2000 --stalled 1000 --json target/fanout.json`

use std::io::Write;
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use pilothouse_testkit::model_mesh as mesh;
use pilothouse_testkit::raw_http2 as http2;
use serde::{Deserialize, Serialize};

mod bare;
mod clients;
mod curve;
mod figures;
mod naive;
mod process;
mod raw;
mod scale;
mod server;
mod shape;
mod tls;

use figures::{Figures, Spread};
use process::Process;
pub(crate) use shape::Shape;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Variant {
    Sotw,
    Delta,
}

/// Options of a run, and of the child processes it starts.
#[derive(Clone, Debug, Parser)]
pub(crate) struct Options {
    /// Simulated sidecars, each with a connection of its own
    #[arg(long, default_value_t = 1000)]
    pub(crate) streams: usize,
    #[arg(long, default_value_t = 1000)]
    pub(crate) services: usize,
    /// Endpoints of each service
    #[arg(long, default_value_t = 10)]
    pub(crate) endpoints: usize,
    /// State of the world, delta, or both
    #[arg(long, value_enum, value_delimiter = ',', default_value = "sotw,delta")]
    pub(crate) variants: Vec<Variant>,
    /// Endpoint changes to time; medians are reported
    #[arg(long, default_value_t = 15)]
    pub(crate) changes: usize,
    /// Of the streams, how many stop reading for the last part
    #[arg(long, default_value_t = 0)]
    pub(crate) stalled: usize,
    /// Servers to measure
    #[arg(long, value_delimiter = ',', default_value = "pilothouse,raw,raw+acks,hyper+acks,naive")]
    pub(crate) servers: Vec<String>,
    /// Instead: latency and CPU under 1, 10, 100 and 1,000 changes a second for several paces
    #[arg(long)]
    pub(crate) curve: bool,
    /// Instead: work before the fan-out and memory without proxies at 100, 1,000, 10,000 services
    #[arg(long)]
    pub(crate) scale: bool,
    /// Instead: one endpoint's change where all sidecars hold everything, and where they are on demand, hold ten
    /// services each, and --users of them the one that changes
    #[arg(long)]
    pub(crate) on_demand: bool,
    /// With --on-demand: sidecars that use the service that changes
    #[arg(long, default_value_t = 50)]
    pub(crate) users: usize,
    /// Namespaces that the services are spread over, every tenth of them visible in its own only; the
    /// sidecars as well. 0 or 1: one namespace, and everything visible
    #[arg(long, default_value_t = 1)]
    pub(crate) namespaces: usize,
    /// With --namespaces: all sidecars in the first one
    #[arg(long)]
    pub(crate) one_namespace: bool,
    /// Zones of sidecars and endpoints; every third service prefers the proxy's own
    #[arg(long, default_value_t = 0)]
    pub(crate) zones: usize,
    /// HTTP ports that the services are spread over
    #[arg(long, default_value_t = 1)]
    pub(crate) ports: usize,
    /// Route tables that each sidecar asks for, those of the first ports
    #[arg(long, default_value_t = 1)]
    pub(crate) tables: usize,
    /// Each service has an HTTP and a TCP port, with target ports of its own
    #[arg(long)]
    pub(crate) inbound: bool,
    /// The sidecars are pods of the services, one after the other
    #[arg(long)]
    pub(crate) pods: bool,
    /// Instead of sidecars, standalone proxies with so many different listen ports
    #[arg(long, default_value_t = 0)]
    pub(crate) listen_ports: usize,
    /// With --scale: views that are kept, those of the first so many sidecars
    #[arg(long, default_value_t = 1)]
    pub(crate) views: usize,
    /// Connections in the making at a time
    #[arg(long, default_value_t = 1000)]
    pub(crate) connecting: usize,
    /// Seconds of rest after the start, at whose end memory is looked at again
    #[arg(long, default_value_t = 0)]
    pub(crate) rest: u64,
    /// With --scale: HTTPRoutes, each on a service of its own, as far as there are services
    #[arg(long, default_value_t = 0)]
    pub(crate) routes: usize,
    /// Milliseconds between two snapshots
    #[arg(long, default_value_t = 100)]
    pub(crate) pace: u64,
    /// Sidecars that are brought into sync at the same time; 0 for no limit
    #[arg(long, default_value_t = 100)]
    pub(crate) starting: usize,
    /// MiB that all sidecars may make the server hold (`--max-peer-memory`); 0 for no limit. With one, a sidecar
    /// that is cut before all are in sync comes again
    #[arg(long, default_value_t = 0)]
    pub(crate) peer_memory: usize,
    /// Write the figures to this file as JSON too
    #[arg(long)]
    pub(crate) json: Option<std::path::PathBuf>,
    /// All servers and sidecars over mutual TLS (raw and hyper with rustls, as the real server; naive has none)
    #[arg(long)]
    pub(crate) tls: bool,
    /// The certificates of the run
    #[arg(long, hide = true)]
    pub(crate) certificates: Option<std::path::PathBuf>,
    /// What this process is; set by the run itself
    #[arg(long, hide = true, default_value = "run")]
    pub(crate) role: String,
    #[arg(long, hide = true)]
    pub(crate) delta: bool,
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) port: u16,
    /// The clients say nothing after their first request
    #[arg(long, hide = true)]
    pub(crate) mute: bool,
    /// `cargo bench` adds this
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

fn main() -> anyhow::Result<()> {
    // `cargo bench` says so, and so do our own children; `cargo test` says what it pleases.
    if !std::env::args().any(|one| one == "--bench" || one == "--role") {
        return smoke(std::env::args().skip(1));
    }
    let options = Options::parse();
    match options.role.as_str() {
        "run" if options.curve => curve::run(&options),
        "run" if options.scale => scale::run(&options),
        "run" if options.on_demand => on_demand(&options),
        "run" => run(&options),
        "clients" => clients::main(&options),
        "pilothouse" => server::main(&options),
        "raw" => raw::main(&options, raw::By::Hand),
        "hyper" => raw::main(&options, raw::By::Hyper),
        "naive" => naive::main(&options),
        "scale" => scale::main(&options),
        other => bail!("there is no role {other:?}"),
    }
}

/// All servers in the small, as a test among others: `filters` are the names of those wanted.
fn smoke(filters: impl Iterator<Item = String>) -> anyhow::Result<()> {
    let mut filters = filters.filter(|one| !one.starts_with('-')).peekable();
    if filters.peek().is_some() && !filters.any(|filter| "fanout".contains(&filter)) {
        return Ok(());
    }
    let small = "fanout --streams 20 --services 5 --changes 1 --stalled 5";
    run(&Options::parse_from(small.split(' ')))?;
    run(&Options::parse_from("fanout --streams 20 --services 5 --changes 1 --tls".split(' ')))
}

fn run(options: &Options) -> anyhow::Result<()> {
    if options.tables > options.ports {
        bail!("--tables {}: no more than --ports {}", options.tables, options.ports);
    }
    if options.stalled >= options.streams {
        bail!("--stalled {}: fewer than --streams {}", options.stalled, options.streams);
    }
    // Seen with 5,000 streams: the raw writer and a sidecar each wait for the other to read, since neither reads
    // while it writes and TLS leaves less between them.
    if options.tls && options.stalled > 0 {
        bail!("--stalled is not measured with --tls");
    }
    let folder = options.tls.then(tls::Certificates::new).transpose()?;
    let certificates = folder.as_ref().map(|folder| folder.path().to_owned());
    let options = &Options { certificates, ..options.clone() };
    let mut all = Vec::new();
    for variant in &options.variants {
        let options = Options { delta: *variant == Variant::Delta, ..options.clone() };
        let mut of_variant = Vec::new();
        for server in options.servers.iter().filter(|one| !options.tls || *one != "naive") {
            let figures = measure(&options, server);
            of_variant.push(figures.with_context(|| format!("measuring {server}"))?);
        }
        figures::print(*variant, &of_variant);
        all.extend(of_variant);
    }
    write_json(options, &all)
}

/// The same server twice, in delta: with sidecars that hold everything, and with sidecars on demand.
fn on_demand(options: &Options) -> anyhow::Result<()> {
    if options.users == 0 || options.users > options.streams {
        bail!("--users {}: from 1 to --streams {}", options.users, options.streams);
    }
    let mut both = Vec::new();
    for (on_demand, name) in [(false, "all"), (true, "on demand")] {
        let options = Options { on_demand, delta: true, stalled: 0, ..options.clone() };
        let figures =
            measure(&options, "pilothouse").with_context(|| format!("measuring {name}"))?;
        both.push(Figures { server: name.to_owned(), ..figures });
    }
    figures::print(Variant::Delta, &both);
    if let [all, on_demand] = &*both {
        let ratio = on_demand.change_cpu_s / all.change_cpu_s;
        println!("endpoint change, CPU on demand / all: 1/{:.1}", 1.0 / ratio);
    }
    write_json(options, &both)
}

pub(crate) fn write_json(options: &Options, what: &impl Serialize) -> anyhow::Result<()> {
    match &options.json {
        Some(path) => Ok(std::fs::write(path, serde_json::to_vec_pretty(what)?)?),
        None => Ok(()),
    }
}

fn measure(options: &Options, name: &str) -> anyhow::Result<Figures> {
    let role = name.trim_end_matches("+acks");
    let mut server = Process::start(options, role)?;
    let port = server.expect("port")?.parse()?;
    let mut figures = Figures {
        server: name.to_owned(),
        delta: options.delta,
        streams: options.streams,
        services: options.services,
        without_streams_kib: server.memory("VmRSS")?,
        ..Figures::default()
    };
    let kernel = process::kernel_memory();
    server.forget_peak()?;
    let cpu = server.cpu()?;

    let of_clients = Options { mute: name == "raw", port, ..options.clone() };
    let mut clients = Process::start(&of_clients, "clients")?;
    let watched = KernelMemory::watch();
    let cold: Cold = serde_json::from_str(&clients.expect("cold")?)?;
    clients.ask("settle", "settled")?;
    figures.cold_start = Spread::from_samples(&cold.took);
    figures.cold_start_bytes = cold.bytes / options.streams as u64;
    figures.cold_start_cpu_s = server.cpu()? - cpu;
    figures.resets = cold.resets;
    figures.in_sync_kib = server.memory("VmRSS")?;
    figures.cold_start_peak_kib = server.memory("VmHWM")?;
    figures.cold_start_kernel_kib = watched.peak().saturating_sub(kernel);
    // Time for memory to be given back.
    std::thread::sleep(Duration::from_millis(options.streams as u64).min(Duration::from_secs(2)));
    figures.idle_kib = server.memory("VmRSS")?;
    if options.rest > 0 {
        std::thread::sleep(Duration::from_secs(options.rest));
        figures.rested_kib = server.memory("VmRSS")?;
    }

    let mut spreads = Vec::new();
    let cpu = server.cpu()?;
    let before: u64 = clients.ask("settle", "settled")?.parse()?;
    for number in 0..options.changes {
        // On demand, that of the service that --users have.
        let of = if options.on_demand { 0 } else { number };
        spreads.push(change(&mut server, &mut clients, &format!("endpoint {of}"))?);
        clients.ask("settle", "settled")?;
    }
    figures.change_cpu_s = (server.cpu()? - cpu) / options.changes as f64;
    let after: u64 = clients.ask("settle", "settled")?.parse()?;
    figures.change_bytes = (after - before) / (options.changes * options.streams) as u64;
    figures.change = Spread::median(&spreads);

    let cpu = server.cpu()?;
    let mut spreads = Vec::new();
    // On demand nobody waits for a new one.
    let services = if options.on_demand { 0 } else { options.changes.div_ceil(3) };
    for number in 0..services {
        spreads.push(change(&mut server, &mut clients, &format!("service {number}"))?);
        clients.ask("settle", "settled")?;
    }
    if services > 0 {
        figures.service = Spread::median(&spreads);
        figures.service_cpu_s = (server.cpu()? - cpu) / services as f64;
    }

    if options.stalled > 0 {
        clients.ask("stall", "stalled")?;
        let before = server.memory("VmRSS")?;
        let mut spreads = Vec::new();
        // Both sorts of change: small ones, and those of whole sets that fill the sockets.
        for number in 0..options.changes.min(10) {
            spreads.push(change(&mut server, &mut clients, &format!("endpoint {number}"))?);
            clients.ask("settle", "settled")?;
            change(&mut server, &mut clients, &format!("service {number}"))?;
            clients.ask("settle", "settled")?;
        }
        let grown = server.memory("VmRSS")?.saturating_sub(before);
        figures.stalled_kib_per_stream = grown as f64 / options.stalled as f64;
        figures.stalled_change = Spread::median(&spreads);
    }
    if figures.change_bytes == 0 || figures.cold_start_bytes < figures.change_bytes {
        bail!("no fan-out was measured: {figures:?}");
    }
    Ok(figures)
}

/// Tells the clients to watch, the server to change something, and waits until all have it.
fn change(server: &mut Process, clients: &mut Process, what: &str) -> anyhow::Result<Spread> {
    let kind = if what.starts_with("service") { "await service" } else { "await endpoint" };
    clients.ask(kind, "awaiting")?;
    let begun: f64 = server.ask(what, "begun")?.parse()?;
    let at: Vec<f64> = serde_json::from_str(&clients.expect("arrived")?)?;
    let took: Vec<f64> = at.iter().map(|at| (at - begun) * 1000.0).collect();
    Ok(Spread::from_samples(&took))
}

/// The kernel's memory for sockets, looked at every now and then.
struct KernelMemory {
    stop: std::sync::mpsc::Sender<()>,
    peak: std::thread::JoinHandle<u64>,
}

impl KernelMemory {
    fn watch() -> Self {
        let (stop, stopped) = std::sync::mpsc::channel::<()>();
        let peak = std::thread::spawn(move || {
            let mut peak = 0;
            let pause = Duration::from_millis(20);
            while stopped.recv_timeout(pause) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                peak = peak.max(process::kernel_memory());
            }
            peak
        });
        Self { stop, peak }
    }

    fn peak(self) -> u64 {
        drop(self.stop);
        self.peak.join().unwrap_or_default()
    }
}

/// What the clients say after the start: milliseconds from the first connection until each stream
/// has everything, and the bytes of all of them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Cold {
    pub(crate) took: Vec<f64>,
    pub(crate) bytes: u64,
    /// Connections that were reset before that, and made again.
    pub(crate) resets: usize,
}

/// One EDS response at one stream.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Arrival {
    pub(crate) stream: usize,
    pub(crate) version: String,
    pub(crate) at: f64,
}

/// Seconds since 1970; one clock for all processes of the run.
pub(crate) fn now() -> f64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.unwrap_or_default().as_secs_f64()
}

/// Says a word to the run: `name value` on a line.
pub(crate) fn say(name: &str, value: impl std::fmt::Display) {
    println!("{name} {value}");
    let _ = std::io::stdout().flush();
}
