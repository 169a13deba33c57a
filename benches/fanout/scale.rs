//! How a larger mesh costs: the work before the fan-out for one endpoint's change, and memory, in
//! a process without proxies (one view is kept, or `--views`, as if so many sorts of them were there).

use std::sync::Arc;
use std::time::{Duration, Instant};

use pilothouse::metrics::Metrics;
use pilothouse::model::{Change, RouteKind, Scope, SourceEvent};
use pilothouse::names::ResourceType;
use pilothouse::publish::{Publisher, Timing};
use pilothouse::snapshot::Snapshot;
use pilothouse::view::{ViewLimits, ViewRegistry, ViewRequest};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::figures::Spread;
use crate::process::Process;
use crate::{Options, Shape, mesh, say, write_json};

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
    routes: usize,
    /// The same for a route that is edited, and what of it a proxy is sent, in bytes; zero without routes.
    route_edited_us: f64,
    route_edited_bytes: usize,
    memory_kib: u64,
    peak_kib: u64,
}

pub(crate) fn run(options: &Options) -> anyhow::Result<()> {
    println!(
        "{:>9} {:>10} {:>7} {:>12} {:>18} {:>16} {:>16} {:>19} {:>11} {:>11}",
        "services",
        "endpoints",
        "routes",
        "first, ms",
        "endpoint change, us",
        "service added, us",
        "route edited, us",
        "route edited, bytes",
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
            "{:>9} {:>10} {:>7} {:>12.0} {:>18.0} {:>16.0} {:>16.0} {:>19} {:>11.0} {:>11.0}",
            scale.services,
            scale.endpoints,
            scale.routes,
            scale.first_ms,
            scale.endpoint_change_us,
            scale.service_added_us,
            scale.route_edited_us,
            scale.route_edited_bytes,
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
    let shape = Shape::new(options);
    let _leases: Vec<_> = (0..options.views.max(1))
        .map(|sidecar| {
            let (view, addresses) = (shape.view(sidecar), Arc::default());
            view_registry.lease(ViewRequest { view, addresses, peer: None })
        })
        .collect();
    let timing = Timing { pace: Duration::ZERO, ..Timing::default() };
    let metrics = Metrics::new(&mut Registry::default());
    let (publisher, _models, mut snapshots) = Publisher::new(
        "cluster.local",
        timing,
        ViewLimits { views: 0, per_peer: 0 },
        view_registry.clone(),
        metrics,
    );
    let (changes, from_source) = mpsc::channel(64);
    tokio::spawn(publisher.run(from_source, CancellationToken::new()));

    let services = (0..options.services).map(|at| Arc::new(shape.service(at))).collect();
    let slices = (0..options.services).map(|at| Arc::new(shape.slice(at, 0))).collect();
    let begun = Instant::now();
    changes.send(Change::Services(Scope::All, services).into()).await?;
    changes.send(Change::Slices(Scope::All, slices).into()).await?;
    let routes = options.routes.min(options.services);
    if routes > 0 {
        let all = (0..routes).map(|at| mesh::route(at, 0)).map(Arc::new).collect();
        changes.send(Change::Routes(Scope::All, RouteKind::Http, all).into()).await?;
    }
    changes.send(Change::Synced.into()).await?;
    snapshots.wait_for(Option::is_some).await?;
    let first_ms = begun.elapsed().as_secs_f64() * 1000.0;

    let (mut route_edited_us, mut route_edited_bytes) = (0.0, 0);
    if routes > 0 {
        let edited = (0..CHANGES)
            .map(|number| Change::Route(mesh::route(number % routes, 1 + number / routes)));
        route_edited_us = time_each(edited, &changes, &mut snapshots).await?;
        let before = snapshots.borrow_and_update().clone();
        changes.send(Change::Route(mesh::route(0, 99)).into()).await?;
        snapshots.changed().await?;
        let after = snapshots.borrow_and_update().clone();
        route_edited_bytes = sent(before.as_deref(), after.as_deref());
    }
    // One sort after the other: a table of all services leaves nothing in the processor's caches.
    let slices = (0..CHANGES).map(|number| {
        Change::Slice(shape.slice(shape.public(number % options.services), number + 1))
    });
    let added =
        (0..CHANGES).map(|number| Change::Service(shape.service(options.services + number)));
    let endpoint = time_each(slices, &changes, &mut snapshots).await?;
    let service = time_each(added, &changes, &mut snapshots).await?;
    Ok(Scale {
        services: options.services,
        endpoints: options.services * options.endpoints,
        first_ms,
        endpoint_change_us: endpoint,
        service_added_us: service,
        routes,
        route_edited_us,
        route_edited_bytes,
        ..Scale::default()
    })
}

/// The bytes of the resources that differ between two snapshots, for a proxy of the view that is there.
fn sent(before: Option<&Snapshot>, after: Option<&Snapshot>) -> usize {
    let view = mesh::view();
    let of = |snapshot: Option<&Snapshot>| snapshot.and_then(|one| one.views.get(&view).cloned());
    let (Some(before), Some(after)) = (of(before), of(after)) else { return 0 };
    let sets = ResourceType::IN_ORDER.into_iter().map(|of| (after.set(of), before.set(of)));
    let changed = sets.flat_map(|(after, before)| after.diff_from(before).changed.to_vec());
    changed.map(|one| one.value_len()).sum()
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
