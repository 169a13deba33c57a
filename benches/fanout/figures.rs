//! What a run found out, for people and as JSON.

use serde::Serialize;

use crate::Variant;

pub(crate) use pilothouse_testkit::spread::Spread;

/// One server's figures with one variant. CPU in seconds, memory in KiB, both of the server's
/// process alone.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    pub(crate) server: String,
    pub(crate) delta: bool,
    pub(crate) streams: usize,
    pub(crate) services: usize,
    /// From the first connection until a stream has everything.
    pub(crate) cold_start: Spread,
    pub(crate) cold_start_cpu_s: f64,
    /// A stream's.
    pub(crate) cold_start_bytes: u64,
    pub(crate) cold_start_peak_kib: u64,
    /// The kernel's, for the sockets of both sides, at the peak.
    pub(crate) cold_start_kernel_kib: u64,
    pub(crate) without_streams_kib: u64,
    /// When all are in sync, before memory was given back.
    pub(crate) in_sync_kib: u64,
    /// After `--rest`.
    pub(crate) rested_kib: u64,
    /// Connections that were reset in the cold start.
    pub(crate) resets: usize,
    pub(crate) idle_kib: u64,
    /// One endpoint's change, until streams have it.
    pub(crate) change: Spread,
    pub(crate) change_cpu_s: f64,
    pub(crate) change_bytes: u64,
    /// One service added: its cluster, its endpoints and its routes.
    pub(crate) service: Spread,
    pub(crate) service_cpu_s: f64,
    /// Growth of the server for each stream that does not read, after 20 changes.
    pub(crate) stalled_kib_per_stream: f64,
    /// One endpoint's change meanwhile, for the others.
    pub(crate) stalled_change: Spread,
}

impl Figures {
    fn idle_per_stream(&self) -> f64 {
        self.idle_kib.saturating_sub(self.without_streams_kib) as f64 / self.streams as f64
    }
}

type Row = (&'static str, fn(&Figures) -> f64);

const ROWS: [Row; 24] = [
    ("cold start, half in sync, ms", |one| one.cold_start.p50),
    ("cold start, all in sync, ms", |one| one.cold_start.max),
    ("  server CPU, s", |one| one.cold_start_cpu_s),
    ("  bytes a stream, KiB", |one| one.cold_start_bytes as f64 / 1024.0),
    ("  peak memory / idle after", |one| one.cold_start_peak_kib as f64 / one.idle_kib as f64),
    ("  kernel's socket memory, MiB", |one| one.cold_start_kernel_kib as f64 / 1024.0),
    ("  connections reset", |one| one.resets as f64),
    ("memory without streams, MiB", |one| one.without_streams_kib as f64 / 1024.0),
    ("  in sync, MiB", |one| one.in_sync_kib as f64 / 1024.0),
    ("  peak, MiB", |one| one.cold_start_peak_kib as f64 / 1024.0),
    ("  after --rest, MiB", |one| one.rested_kib as f64 / 1024.0),
    ("memory idle, MiB", |one| one.idle_kib as f64 / 1024.0),
    ("memory a stream, idle, KiB", Figures::idle_per_stream),
    ("endpoint change, p50, ms", |one| one.change.p50),
    ("  p99, ms", |one| one.change.p99),
    ("  all, ms", |one| one.change.max),
    ("  server CPU, ms", |one| one.change_cpu_s * 1000.0),
    ("  bytes a stream", |one| one.change_bytes as f64),
    ("service added, p50, ms", |one| one.service.p50),
    ("  all, ms", |one| one.service.max),
    ("  server CPU, ms", |one| one.service_cpu_s * 1000.0),
    ("stalled: growth a stream, KiB", |one| one.stalled_kib_per_stream),
    ("  others' endpoint change, p50, ms", |one| one.stalled_change.p50),
    ("  all, ms", |one| one.stalled_change.max),
];

pub(crate) fn print(variant: Variant, all: &[Figures]) {
    let streams = all.first().map_or(0, |one| one.streams);
    print!("\n{:36}", format!("{variant:?}, {streams} streams").to_lowercase());
    for one in all {
        print!("{:>12}", one.server);
    }
    println!();
    for (name, value) in ROWS {
        print!("{name:36}");
        for one in all {
            print!("{:>12.2}", value(one));
        }
        println!();
    }
}
