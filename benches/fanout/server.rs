//! The real thing: publisher, sessions and gRPC server, fed with changes from standard input.

use std::io::BufRead;
use std::sync::Arc;
use std::time::Duration;

use pilothouse::ads::server::AdsServer;
use pilothouse::ads::stream::{Limits, Shared};
use pilothouse::metrics::Metrics;
use pilothouse::model::{Change, Scope};
use pilothouse::proxies::Proxies;
use pilothouse::publish::{Publisher, Timing};
use pilothouse::snapshot::encode::FrameBuilder;
use pilothouse::subscription::Interner;
use pilothouse::view::Leases;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{Options, mesh, now, say};

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let metrics = Metrics::new(&mut Registry::default());
    let leases = Arc::new(Leases::default());
    let (publisher, _models, snapshots) =
        Publisher::new("cluster.local", Timing::default(), leases.clone(), metrics.clone());
    let shutdown = CancellationToken::new();
    let shared = Arc::new(Shared {
        snapshots: snapshots.clone(),
        leases,
        interner: Arc::new(Interner::default()),
        frames: Arc::new(FrameBuilder::new("bench")),
        proxies: Arc::new(Proxies::default()),
        metrics,
        limits: Limits::default(),
        shutdown: shutdown.clone(),
    });
    let server =
        AdsServer::new(shared, pilothouse::descriptors::encoded(), Duration::from_secs(30))?;
    let (changes, from_source) = mpsc::channel(64);
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let port = listener.local_addr()?.port();
    runtime.spawn(server.run(listener, shutdown.clone()));
    runtime.spawn(publisher.run(from_source, shutdown));

    let services = (0..options.services).map(mesh::service).collect();
    let slices = (0..options.services).map(|at| mesh::slice(at, options.endpoints, 0)).collect();
    changes.blocking_send(Change::Services(Scope::All, services))?;
    changes.blocking_send(Change::Slices(Scope::All, slices))?;
    changes.blocking_send(Change::Synced)?;
    runtime.block_on(async {
        let mut snapshots = snapshots;
        snapshots.wait_for(Option::is_some).await.map(drop)
    })?;
    say("port", port);

    let mut next = options.services;
    for (variant, line) in std::io::stdin().lock().lines().enumerate() {
        let line = line?;
        match line.split_once(' ') {
            Some(("endpoint", number)) => {
                let number = number.parse::<usize>()? % options.services;
                let slice = mesh::slice(number, options.endpoints, variant + 1);
                say("begun", now());
                changes.blocking_send(Change::Slice(slice))?;
            }
            Some(("service", _)) => {
                say("begun", now());
                changes.blocking_send(Change::Service(mesh::service(next)))?;
                next += 1;
            }
            _ => anyhow::bail!("what is {line:?}?"),
        }
    }
    Ok(())
}
