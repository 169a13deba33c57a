//! The real thing: publisher, sessions and gRPC server, fed with changes from standard input.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pilothouse::ads::uses::UsesResolver;
use pilothouse::ads::{AdsServer, IstioMesh, ServerContext, ServerLimits};
use pilothouse::door::{ConnectionLimits, LimitedListener, ServedListener};
use pilothouse::identity::{ActFor, Authenticator};
use pilothouse::metrics::Metrics;
use pilothouse::model::{Change, Scope};
use pilothouse::names::ResourceType;
use pilothouse::proxies::Proxies;
use pilothouse::publish::{Publisher, Timing};
use pilothouse::snapshot::Snapshot;
use pilothouse::view::{ViewKey, ViewLimits, ViewRegistry};
use pilothouse_xds::FrameBuilder;
use pilothouse_xds::Interner;
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{Options, Shape, now, process, say, tls};

/// Version of the endpoints, and when the first change came that is new in it.
type Cuts = Arc<Mutex<BTreeMap<String, f64>>>;

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    process::raise_files(options.streams)?;
    let runtime = pilothouse::app::runtime()?;
    let metrics = Metrics::new(&mut Registry::default());
    let view_registry = Arc::new(ViewRegistry::default());
    let timing = Timing { pace: Duration::from_millis(options.pace), ..Timing::default() };
    let (publisher, _models, snapshots) = Publisher::new(
        "cluster.local",
        timing,
        // All sidecars are at one address here.
        ViewLimits { views: 0, per_peer: 0 },
        view_registry.clone(),
        metrics.clone(),
    );
    let shutdown = CancellationToken::new();
    let shared = Arc::new(ServerContext {
        mesh: IstioMesh {
            metrics: metrics.clone(),
            authenticator: Authenticator::new("cluster.local", "cluster.local"),
            act_for: ActFor::default(),
            uses: UsesResolver::default(),
        },
        snapshots: snapshots.clone(),
        view_registry,
        interner: Arc::new(Interner::default()),
        frames: Arc::new(FrameBuilder::new("bench")),
        proxies: Arc::new(Proxies::new(ResourceType::TABLE)),
        metrics: metrics.server.clone(),
        limits: ServerLimits {
            starting: options.starting,
            peer_memory: options.peer_memory << 20,
            // Thousands of sidecars share one process here, which may take longer than theirs to say anything.
            first_request: Duration::from_secs(120),
            ..ServerLimits::default()
        },
        answered: None,
        shutdown: shutdown.clone(),
    });
    let server = AdsServer::new(shared, Duration::from_secs(30))
        .with_reflection(pilothouse::descriptors::encoded())?;
    let (changes, from_source) = mpsc::channel(1024);
    let (listener, port) = runtime.block_on(async {
        let listener = process::listen()?;
        let port = listener.local_addr()?.port();
        anyhow::Ok((listener, port))
    })?;
    let room = ConnectionLimits { total: usize::MAX, per_address: usize::MAX };
    let listener = LimitedListener::new("gRPC", listener, room);
    let listener = match &options.certificates {
        Some(folder) => ServedListener::tls(listener, tls::real_acceptor(folder)?),
        None => ServedListener::plaintext(listener),
    };
    runtime.spawn(server.run(vec![listener], shutdown.clone()));
    runtime.spawn(publisher.run(from_source, shutdown));

    let shape = Shape::new(options);
    let services = (0..options.services).map(|at| Arc::new(shape.service(at))).collect();
    let slices = (0..options.services).map(|at| Arc::new(shape.slice(at, 0))).collect();
    changes.blocking_send(Change::Services(Scope::All, services).into())?;
    changes.blocking_send(Change::Slices(Scope::All, slices).into())?;
    changes.blocking_send(Change::Synced.into())?;
    runtime.block_on(async {
        let mut snapshots = snapshots.clone();
        snapshots.wait_for(Option::is_some).await.map(drop)
    })?;
    let cuts = Cuts::default();
    runtime.spawn(note_cuts(snapshots, shape.view(0), cuts.clone()));
    say("port", port);

    let mut next = options.services;
    for (variant, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        let change = |number: usize, variant| {
            Change::Slice(shape.slice(shape.public(number % options.services), variant))
        };
        match line.split_whitespace().collect::<Vec<_>>()[..] {
            ["endpoint", number] => {
                let change = change(number.parse()?, variant + 1);
                say("begun", now());
                changes.blocking_send(change.into())?;
            }
            ["service", _] => {
                let slice = shape.slice(next, 0);
                say("begun", now());
                changes.blocking_send(Change::Service(shape.service(next)).into())?;
                changes.blocking_send(Change::Slice(slice).into())?;
                next += 1;
            }
            // Endpoint changes a second, for so many seconds.
            ["storm", rate, seconds] => {
                let (rate, seconds): (f64, f64) = (rate.parse()?, seconds.parse()?);
                let begun = Instant::now();
                cuts.lock().map(|mut cuts| cuts.clear()).ok();
                for at in 0..(rate * seconds) as usize {
                    let due = begun + Duration::from_secs_f64(at as f64 / rate);
                    std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    changes.blocking_send(change(at, (variant << 20) + at + 1).into())?;
                }
                // What is gathered still.
                std::thread::sleep(Duration::from_millis(options.pace + 100));
                let cuts = cuts.lock().map(|cuts| cuts.clone()).unwrap_or_default();
                say("stormed", serde_json::to_string(&cuts)?);
            }
            _ => anyhow::bail!("what is {line:?}?"),
        }
    }
    Ok(())
}

async fn note_cuts(
    mut snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    view: ViewKey,
    cuts: Cuts,
) {
    while snapshots.changed().await.is_ok() {
        let Some(snapshot) = snapshots.borrow_and_update().clone() else { continue };
        let (Some(view), Some(since)) = (snapshot.views.get(&view), snapshot.since) else {
            continue;
        };
        let version = view.set(ResourceType::Endpoint).version().to_string();
        let since = now() - since.elapsed().as_secs_f64();
        cuts.lock().map(|mut cuts| cuts.insert(version, since)).ok();
    }
}
