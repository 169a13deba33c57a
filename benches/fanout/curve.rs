//! Latency against CPU: how long a change takes to all streams, and what the server spends, under
//! changes at a rate, for several paces of publishing.

use std::collections::{BTreeMap, HashMap};

use serde::Serialize;

use crate::figures::Spread;
use crate::process::Process;
use crate::{Arrival, Options, write_json};

const PACES: [u64; 6] = [0, 20, 50, 100, 200, 500];
const RATES: [u32; 4] = [1, 10, 100, 1000];
const SECONDS: u32 = 5;

/// From the first change that is new in a snapshot until a stream has it.
#[derive(Debug, Serialize)]
struct Point {
    pace_ms: u64,
    changes_per_second: u32,
    snapshots: usize,
    latency: Spread,
    /// Seconds of CPU in a second.
    server_cpu: f64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!(
        "{} streams, delta, ms until a stream has the oldest change of a snapshot",
        options.streams
    );
    println!(
        "{:>8} {:>10} {:>10} {:>9} {:>9} {:>9} {:>6}",
        "pace ms", "changes/s", "snapshots/s", "p50", "p99", "max", "CPU"
    );
    let mut points = Vec::new();
    for pace in PACES {
        let options = Options { pace, delta: true, stalled: 0, ..options.clone() };
        let mut server = Process::start(&options, "pilothouse")?;
        let port = server.expect("port")?.parse()?;
        let mut clients = Process::start(&Options { port, ..options }, "clients")?;
        clients.expect("cold")?;
        for rate in RATES {
            clients.ask("settle", "settled")?;
            clients.ask("record", "recording")?;
            let cpu = server.cpu()?;
            let cuts = server.ask(&format!("storm {rate} {SECONDS}"), "stormed")?;
            clients.ask("settle", "settled")?;
            let cpu = server.cpu()? - cpu;
            let arrivals: Vec<Arrival> =
                serde_json::from_str(&clients.ask("recorded", "recorded")?)?;
            let cuts: BTreeMap<String, f64> = serde_json::from_str(&cuts)?;
            let point = Point {
                pace_ms: pace,
                changes_per_second: rate,
                snapshots: cuts.len(),
                latency: Spread::from_samples(&latencies(&cuts, arrivals)),
                server_cpu: cpu / f64::from(SECONDS),
            };
            let Spread { p50, p99, max } = point.latency;
            let snapshots = point.snapshots as f64 / f64::from(SECONDS);
            println!(
                "{pace:>8} {rate:>10} {snapshots:>10.1} {p50:>9.1} {p99:>9.1} {max:>9.1} {:>5.0}%",
                point.server_cpu * 100.0
            );
            points.push(point);
        }
    }
    write_json(options, &points)
}

/// A stream that skips snapshots has what was new in those when the next one arrives.
fn latencies(cuts: &BTreeMap<String, f64>, arrivals: Vec<Arrival>) -> Vec<f64> {
    let mut since: Vec<f64> = cuts.values().copied().collect();
    since.sort_by(f64::total_cmp);
    let place = |at: f64| since.partition_point(|one| *one < at);
    let mut seen: HashMap<usize, usize> = HashMap::new();
    let mut took = Vec::new();
    for Arrival { stream, version, at } in arrivals {
        let Some(cut) = cuts.get(&version) else { continue };
        let next = seen.entry(stream).or_default();
        let upto = place(*cut) + 1;
        for since in since.get(*next..upto).unwrap_or_default() {
            took.push((at - since) * 1000.0);
        }
        *next = upto.max(*next);
    }
    took
}
