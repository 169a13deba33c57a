//! What fan-out costs, against the physical limit and against what most write.
//!
//! One run measures three servers, each in a child process of its own, with the same simulated
//! sidecars in another: `pilothouse` (the real publisher, session and gRPC server), `raw` (one
//! task a socket that writes the same bytes: the limit) and `naive` (tonic's generated service that
//! encodes for every stream). Timings are noisy, so only ratios within a run mean something.
//!
//! `cargo bench --bench fanout -- --streams 1000 --services 1000 [--delta] [--json FILE]`

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use clap::Parser;
use serde::Serialize;

mod clients;
mod http2;
mod mesh;
mod naive;
mod raw;
mod server;

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
    /// The delta variant instead of state of the world
    #[arg(long)]
    pub(crate) delta: bool,
    /// Endpoint changes to time; the median run is reported
    #[arg(long, default_value_t = 9)]
    pub(crate) changes: usize,
    /// Of the streams, how many stop reading for the stall part
    #[arg(long, default_value_t = 0)]
    pub(crate) stalled: usize,
    /// Servers to measure
    #[arg(long, value_delimiter = ',', default_value = "pilothouse,raw,naive")]
    pub(crate) servers: Vec<String>,
    /// Write the figures to this file as JSON too
    #[arg(long)]
    pub(crate) json: Option<std::path::PathBuf>,
    /// What this process is; set by the run itself
    #[arg(long, hide = true, default_value = "run")]
    pub(crate) role: String,
    #[arg(long, hide = true, default_value_t = 0)]
    pub(crate) port: u16,
    /// The clients read bare messages instead of gRPC
    #[arg(long, hide = true)]
    pub(crate) raw: bool,
    /// `cargo bench` adds this
    #[arg(long, hide = true)]
    pub(crate) bench: bool,
}

fn main() -> anyhow::Result<()> {
    let options = Options::parse();
    match options.role.as_str() {
        "run" => run(&options),
        "clients" => clients::main(&options),
        "pilothouse" => server::main(&options),
        "raw" => raw::main(&options),
        "naive" => naive::main(&options),
        other => bail!("there is no role {other:?}"),
    }
}

/// One server's figures. Times in milliseconds, CPU in seconds, memory in KiB.
#[derive(Debug, Default, Serialize)]
struct Figures {
    server: String,
    streams: usize,
    /// From the first connection until every stream has everything.
    cold_start_ms: f64,
    cold_start_cpu_s: f64,
    bytes_per_stream_at_start: u64,
    idle_kib: u64,
    peak_kib: u64,
    idle_kib_per_stream: f64,
    /// One endpoint's change, until p50, p99 and all streams have it: median over the changes.
    change_p50_ms: f64,
    change_p99_ms: f64,
    change_max_ms: f64,
    change_cpu_s: f64,
    /// One service added (CDS, its endpoints, routes).
    service_max_ms: f64,
    service_cpu_s: f64,
    /// Growth of the server per stream that does not read, after 20 changes.
    stalled_kib_per_stream: f64,
    stalled_change_max_ms: f64,
}

fn run(options: &Options) -> anyhow::Result<()> {
    let mut all = Vec::new();
    for server in &options.servers {
        eprintln!("{server} …");
        all.push(measure(options, server).with_context(|| format!("measuring {server}"))?);
    }
    print(&all);
    if let Some(path) = &options.json {
        std::fs::write(path, serde_json::to_vec_pretty(&all)?)?;
    }
    Ok(())
}

fn measure(options: &Options, role: &str) -> anyhow::Result<Figures> {
    let mut server = Process::start(options, role, 0)?;
    let port: u16 = server.expect("port")?.parse()?;
    let idle_before = server.memory("VmRSS")?;
    let cpu = server.cpu()?;
    let of_clients = Options { raw: role == "raw", ..options.clone() };
    let mut clients = Process::start(&of_clients, "clients", port)?;
    let mut figures =
        Figures { server: role.to_owned(), streams: options.streams, ..Figures::default() };

    let cold: Cold = serde_json::from_str(&clients.expect("cold")?)?;
    figures.cold_start_ms = cold.ms;
    figures.bytes_per_stream_at_start = cold.bytes / options.streams as u64;
    figures.cold_start_cpu_s = server.cpu()? - cpu;
    figures.peak_kib = server.memory("VmHWM")?;
    std::thread::sleep(Duration::from_secs(2));
    figures.idle_kib = server.memory("VmRSS")?;
    figures.idle_kib_per_stream =
        figures.idle_kib.saturating_sub(idle_before) as f64 / options.streams as f64;

    let mut runs = Vec::new();
    for number in 0..options.changes {
        runs.push(change(&mut server, &mut clients, &format!("endpoint {number}"))?);
        std::thread::sleep(Duration::from_millis(300));
    }
    runs.sort_by(|a, b| a.0.max.total_cmp(&b.0.max));
    let (spread, cpu) = &runs[runs.len() / 2];
    figures.change_p50_ms = spread.p50;
    figures.change_p99_ms = spread.p99;
    figures.change_max_ms = spread.max;
    figures.change_cpu_s = *cpu;

    if role == "pilothouse" {
        let (spread, cpu) = change(&mut server, &mut clients, "service 0")?;
        figures.service_max_ms = spread.max;
        figures.service_cpu_s = cpu;
    }
    if options.stalled > 0 {
        clients.say("stall")?;
        clients.expect("stalled")?;
        let before = server.memory("VmRSS")?;
        for number in 0..20 {
            let (spread, _) = change(&mut server, &mut clients, &format!("endpoint {number}"))?;
            figures.stalled_change_max_ms = figures.stalled_change_max_ms.max(spread.max);
            std::thread::sleep(Duration::from_millis(150));
        }
        let grown = server.memory("VmRSS")?.saturating_sub(before);
        figures.stalled_kib_per_stream = grown as f64 / options.stalled as f64;
    }
    Ok(figures)
}

/// Tells the clients to watch, the server to change something, and waits until all have it.
fn change(
    server: &mut Process,
    clients: &mut Process,
    what: &str,
) -> anyhow::Result<(Spread, f64)> {
    clients.say(if what.starts_with("service") { "await service" } else { "await endpoint" })?;
    clients.expect("awaiting")?;
    let cpu = server.cpu()?;
    server.say(what)?;
    let begun: f64 = server.expect("begun")?.parse()?;
    let at: Vec<f64> = serde_json::from_str(&clients.expect("arrived")?)?;
    // What follows the arrival (ACKs) belongs to the cost.
    std::thread::sleep(Duration::from_millis(200));
    let used = server.cpu()? - cpu;
    let mut took: Vec<f64> = at.iter().map(|at| (at - begun) * 1000.0).collect();
    took.sort_by(f64::total_cmp);
    let part = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
    Ok((Spread { p50: part(0.5), p99: part(0.99), max: part(1.0) }, used))
}

#[derive(Debug)]
struct Spread {
    p50: f64,
    p99: f64,
    max: f64,
}

/// What the clients say after the start.
#[derive(Debug, Serialize, serde::Deserialize)]
pub(crate) struct Cold {
    pub(crate) ms: f64,
    pub(crate) bytes: u64,
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

struct Process {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Process {
    fn start(options: &Options, role: &str, port: u16) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--role", role])
            .args(["--port", &port.to_string()])
            .args(["--streams", &options.streams.to_string()])
            .args(["--services", &options.services.to_string()])
            .args(["--endpoints", &options.endpoints.to_string()])
            .args(["--stalled", &options.stalled.to_string()])
            .args(options.delta.then_some("--delta"))
            .args(options.raw.then_some("--raw"));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let to = child.stdin.take().context("no pipe")?;
        let from = BufReader::new(child.stdout.take().context("no pipe")?);
        Ok(Self { child, to, from })
    }

    fn say(&mut self, word: &str) -> anyhow::Result<()> {
        writeln!(self.to, "{word}")?;
        Ok(self.to.flush()?)
    }

    fn expect(&mut self, name: &str) -> anyhow::Result<String> {
        let mut line = String::new();
        if self.from.read_line(&mut line)? == 0 {
            bail!("the child ended before it said {name:?}");
        }
        match line.trim_end_matches('\n').split_once(' ') {
            Some((said, value)) if said == name => Ok(value.to_owned()),
            _ => bail!("expected {name:?}, got {line:?}"),
        }
    }

    /// Seconds of CPU used so far, all threads, in user and kernel.
    fn cpu(&self) -> anyhow::Result<f64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        let rest = stat.rsplit(')').next().context("stat")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let ticks: f64 = fields[11].parse::<f64>()? + fields[12].parse::<f64>()?;
        Ok(ticks / 100.0)
    }

    /// A line of /proc/PID/status in KiB.
    fn memory(&self, line: &str) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let found = status.lines().find(|one| one.starts_with(line)).context("status")?;
        Ok(found.split_whitespace().nth(1).context("status")?.parse()?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn print(all: &[Figures]) {
    type Row = (&'static str, fn(&Figures) -> f64);
    let rows: [Row; 15] = [
        ("cold start, all in sync, ms", |one| one.cold_start_ms),
        ("  server CPU, s", |one| one.cold_start_cpu_s),
        ("  bytes a stream, KiB", |one| one.bytes_per_stream_at_start as f64 / 1024.0),
        ("memory idle, KiB", |one| one.idle_kib as f64),
        ("memory peak, KiB", |one| one.peak_kib as f64),
        ("memory a stream, idle, KiB", |one| one.idle_kib_per_stream),
        ("endpoint change, p50, ms", |one| one.change_p50_ms),
        ("  p99, ms", |one| one.change_p99_ms),
        ("  all, ms", |one| one.change_max_ms),
        ("  server CPU, s", |one| one.change_cpu_s),
        ("service added, all, ms", |one| one.service_max_ms),
        ("  server CPU, s", |one| one.service_cpu_s),
        ("stalled: growth a stream, KiB", |one| one.stalled_kib_per_stream),
        ("  others' change, max of 20, ms", |one| one.stalled_change_max_ms),
        ("streams", |one| one.streams as f64),
    ];
    print!("{:34}", "");
    for one in all {
        print!("{:>14}", one.server);
    }
    println!();
    for (name, value) in rows {
        print!("{name:34}");
        for one in all {
            print!("{:>14.2}", value(one));
        }
        println!();
    }
}
