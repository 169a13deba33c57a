//! How a larger mesh costs: the work before the fan-out for one endpoint's change, and memory, in
//! a process without proxies (one view is kept, as if one sort of them were there).

use std::sync::Arc;
use std::time::{Duration, Instant};

use pilothouse::metrics::Metrics;
use pilothouse::model::{Change, Scope, SourceEvent};
use pilothouse::publish::{Publisher, Timing};
use pilothouse::snapshot::Snapshot;
use pilothouse::view::{ViewLimits, ViewRegistry, ViewRequest};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::figures::Spread;
use crate::process::Process;
use crate::{Options, mesh, say, write_json};

const SERVICES: [usize; 3] = [100, 1000, 10_000];
const CHANGES: usize = 201;

#[derive(Debug, Default, Serialize, Deserialize)]
struct Scale {
    services: usize,
    endpoints: usize,
    /// Milliseconds from the source's list until the first snapshot.
    first_ms: f64,
    /// Microseconds from the source's change until the snapshot, median.
    endpoint_change_us: f64,
    service_added_us: f64,
    memory_kib: u64,
    peak_kib: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!(
        "{:>9} {:>10} {:>12} {:>18} {:>16} {:>11} {:>11}",
        "services",
        "endpoints",
        "first, ms",
        "endpoint change, us",
        "service added, us",
        "memory, MiB",
        "peak, MiB"
    );
    let mut all = Vec::new();
    for services in SERVICES {
        let mut child = Process::start(&Options { services, ..options.clone() }, "scale")?;
        let mut scale: Scale = serde_json::from_str(&child.expect("scale")?)?;
        scale.memory_kib = child.memory("VmRSS")?;
        scale.peak_kib = child.memory("VmHWM")?;
        println!(
            "{:>9} {:>10} {:>12.0} {:>18.0} {:>16.0} {:>11.0} {:>11.0}",
            scale.services,
            scale.endpoints,
            scale.first_ms,
            scale.endpoint_change_us,
            scale.service_added_us,
            scale.memory_kib as f64 / 1024.0,
            scale.peak_kib as f64 / 1024.0,
        );
        all.push(scale);
    }
    write_json(options, &all)
}

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let scale = runtime.block_on(measure(options))?;
    say("scale", serde_json::to_string(&scale)?);
    // The run looks at this process' memory now, and then ends it.
    let _ = std::io::stdin().lines().next();
    Ok(())
}

async fn measure(options: &Options) -> anyhow::Result<Scale> {
    let view_registry = Arc::new(ViewRegistry::default());
    let _lease = view_registry.lease(ViewRequest {
        view: mesh::view(),
        addresses: Arc::default(),
        peer: None,
    });
    let timing = Timing { pace: Duration::ZERO, ..Timing::default() };
    let metrics = Metrics::new(&mut Registry::default());
    let (publisher, _models, mut snapshots) = Publisher::new(
        "cluster.local",
        timing,
        ViewLimits::default(),
        view_registry.clone(),
        metrics,
    );
    let (changes, from_source) = mpsc::channel(64);
    tokio::spawn(publisher.run(from_source, CancellationToken::new()));

    let services = (0..options.services).map(mesh::service).map(Arc::new).collect();
    let slices = (0..options.services).map(|at| mesh::slice(at, options.endpoints, 0));
    let slices = slices.map(Arc::new).collect();
    let begun = Instant::now();
    changes.send(Change::Services(Scope::All, services).into()).await?;
    changes.send(Change::Slices(Scope::All, slices).into()).await?;
    changes.send(Change::Synced.into()).await?;
    snapshots.wait_for(Option::is_some).await?;
    let first_ms = begun.elapsed().as_secs_f64() * 1000.0;

    // One sort after the other: a table of all services leaves nothing in the processor's caches.
    let slices = (0..CHANGES).map(|number| {
        Change::Slice(mesh::slice(number % options.services, options.endpoints, number + 1))
    });
    let added =
        (0..CHANGES).map(|number| Change::Service(mesh::service(options.services + number)));
    let endpoint = time_each(slices, &changes, &mut snapshots).await?;
    let service = time_each(added, &changes, &mut snapshots).await?;
    Ok(Scale {
        services: options.services,
        endpoints: options.services * options.endpoints,
        first_ms,
        endpoint_change_us: endpoint,
        service_added_us: service,
        ..Scale::default()
    })
}

/// Microseconds from each change until its snapshot, median.
async fn time_each(
    all: impl Iterator<Item = Change>,
    changes: &mpsc::Sender<SourceEvent>,
    snapshots: &mut watch::Receiver<Option<Arc<Snapshot>>>,
) -> anyhow::Result<f64> {
    let mut took = Vec::new();
    for change in all {
        snapshots.borrow_and_update();
        let begun = Instant::now();
        changes.send(change.into()).await?;
        snapshots.changed().await?;
        took.push(begun.elapsed().as_secs_f64() * 1e6);
    }
    Ok(Spread::from_samples(&took).p50)
}
