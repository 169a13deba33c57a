//! The publisher and the proxies that come and go.

use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::built_views::KEEP_UNUSED;
use super::super::{Publisher, Timing};
use super::inbound_ports::{HTTP, ports, sidecar_at, web};
use super::*;
use crate::metrics::Metrics;
use crate::model::SourceEvent;
use crate::view::{TooManyViews, ViewLease, ViewLimits, ViewRegistry, ViewRequest};

/// Fails instead of waiting for ever.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), what).await.expect("it comes soon")
}

/// A publisher that runs on `changes` until dropped, and what it has to say.
struct Running {
    view_registry: Arc<ViewRegistry>,
    changes: mpsc::Sender<SourceEvent>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    _stop: DropGuard,
}

impl Running {
    async fn on(changes: Vec<Change>) -> Self {
        Self::with(ViewLimits::default(), changes).await
    }

    async fn with(limits: ViewLimits, changes: Vec<Change>) -> Self {
        let (view_registry, stop) = (Arc::new(ViewRegistry::default()), CancellationToken::new());
        let metrics = Metrics::new(&mut Default::default());
        let timing = Timing { pace: Duration::from_millis(1), ..Timing::default() };
        let (publisher, _, mut snapshots) =
            Publisher::new(DOMAIN, timing, limits, view_registry.clone(), metrics);
        let (sender, receiver) = mpsc::channel(16);
        tokio::spawn(publisher.run(receiver, stop.clone()));
        for change in changes.into_iter().chain([Change::Synced]) {
            sender.send(change.into()).await.unwrap();
        }
        snapshots.wait_for(Option::is_some).await.unwrap();
        Self { view_registry, changes: sender, snapshots, _stop: stop.drop_guard() }
    }

    /// Waits until this lease has a view that is in the newest snapshot; gives the view's ports.
    async fn assigned(&mut self, lease: &ViewLease) -> Vec<String> {
        let mut watch = lease.watch();
        loop {
            let snapshot = self.snapshots.borrow_and_update().clone().unwrap();
            if let Some(view) = lease.view().filter(|view| snapshot.views.contains_key(&**view)) {
                return ports(&view);
            }
            soon(async {
                tokio::select! {
                    changed = self.snapshots.changed() => changed.unwrap(),
                    () = watch.reassigned() => {}
                }
            })
            .await;
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshots.borrow().clone().unwrap()
    }

    fn views(&self) -> usize {
        self.snapshot().views.len()
    }

    /// Nobody is woken when views go, so that one has to look.
    async fn has_views(&self, views: usize) {
        soon(async {
            while self.views() != views {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_newcomer_whose_view_is_there_makes_no_snapshot() {
    let web_key = key("one", "web");
    let hosts: Vec<u8> = (1..=100).collect();
    let slice = Change::Slice(slice(&web_key, "web-1", &[80], &hosts));
    let mut running = Running::on(vec![web(&[HTTP]), slice]).await;
    let sidecar = |host: u8| sidecar_at(&[&format!("10.0.0.{host}")]);
    let first = running.view_registry.lease(sidecar(1));
    assert_eq!(running.assigned(&first).await, ["8080 Http"]);
    let generation = running.snapshots.borrow().as_ref().unwrap().generation;
    let mut others = Vec::new();
    for host in 2..=100 {
        others.push(running.view_registry.lease(sidecar(host)));
    }
    for lease in &others {
        assert_eq!(running.assigned(lease).await, ["8080 Http"]);
    }
    assert_eq!(running.snapshots.borrow().as_ref().unwrap().generation, generation);

    // One with other ports does, by one view more; it goes when nobody needs it.
    let stranger = running.view_registry.lease(sidecar(200));
    assert!(running.assigned(&stranger).await.is_empty());
    assert_eq!(running.views(), 2);
    drop(stranger);
    running.has_views(1).await;
}

#[tokio::test]
async fn a_pod_that_joins_is_told_even_if_no_snapshot_comes_of_it() {
    let web_key = key("one", "web");
    let with = |hosts: &[u8]| {
        // Nothing in it is ready, so that nothing but the ports of pods follows from it.
        let mut slice = slice(&web_key, "web-1", &[80], hosts);
        let endpoints = &mut slice.subsets[0].endpoints;
        endpoints.iter_mut().for_each(|one| one.state = EndpointState::NotReady);
        Change::Slice(slice)
    };
    let mut running = Running::on(vec![web(&[HTTP]), with(&[1])]).await;
    let (there, late) = (sidecar_at(&["10.0.0.1"]), sidecar_at(&["10.0.0.2"]));
    let (there, late) = (running.view_registry.lease(there), running.view_registry.lease(late));
    assert_eq!(running.assigned(&there).await, ["8080 Http"]);
    assert!(running.assigned(&late).await.is_empty());
    running.changes.send(with(&[1, 2]).into()).await.unwrap();
    let mut watch = late.watch();
    while running.assigned(&late).await.is_empty() {
        soon(watch.reassigned()).await;
    }
    assert_eq!(running.assigned(&late).await, ["8080 Http"]);
}

fn standalone_at(port: u16) -> ViewRequest {
    let kind = ProxyKind::Standalone { address: [127, 0, 0, 1].into(), port };
    ViewRequest { view: ViewKey::new(kind, None), addresses: Arc::default(), peer: None }
}

#[tokio::test(start_paused = true)]
async fn a_view_that_nobody_needs_goes_without_a_change_and_without_waking_anybody() {
    let mut running = Running::on(vec![web(&[HTTP])]).await;
    let (stays, leaves) = (standalone_at(1), standalone_at(2));
    let (stays, leaves) = (running.view_registry.lease(stays), running.view_registry.lease(leaves));
    running.assigned(&stays).await;
    running.assigned(&leaves).await;
    running.snapshots.mark_unchanged();
    let before = running.snapshot();
    assert_eq!(before.views.len(), 2);

    // One that comes back in time finds its view.
    let view = leaves.view().unwrap();
    drop(leaves);
    tokio::time::sleep(KEEP_UNUSED / 2).await;
    let back = running.view_registry.lease(standalone_at(2));
    running.assigned(&back).await;
    tokio::time::sleep(2 * KEEP_UNUSED).await;
    assert!(Arc::ptr_eq(&running.snapshot().views[&*view], &before.views[&*view]));

    drop(back);
    running.has_views(1).await;
    drop(stays);
    running.has_views(0).await;
    assert_eq!(running.snapshot().generation, before.generation);
    assert!(!running.snapshots.has_changed().unwrap(), "no news for those who are there");
}

#[tokio::test(start_paused = true)]
async fn one_view_too_many_is_refused_and_another_may_have_its_place() {
    let limits = ViewLimits { views: 2, per_peer: 0 };
    let mut running = Running::with(limits, vec![web(&[HTTP])]).await;
    let first = running.view_registry.lease(standalone_at(1));
    let second = running.view_registry.lease(standalone_at(2));
    running.assigned(&first).await;
    running.assigned(&second).await;
    let third = running.view_registry.lease(standalone_at(3));
    soon(third.watch().reassigned()).await;
    let too_many = TooManyViews::InAll { limit: 2 }.to_string();
    assert_eq!((third.view(), third.refusal()), (None, Some(too_many.into())));
    drop((second, third));
    // What is kept for those who may come back has no place of its own.
    let third = running.view_registry.lease(standalone_at(3));
    running.assigned(&third).await;
    assert_eq!(running.views(), 2);
}

#[tokio::test]
async fn a_change_goes_before_newcomers_whose_views_are_not_built() {
    let namespaces = 500;
    let name = |number: usize| format!("n{number}");
    let services = (0..namespaces)
        .map(|number| Change::Service(service(&key(&name(number), "web"), at(&[]), &[HTTP])));
    let mut running = Running::on(services.collect()).await;
    let lease = |running: &Running, namespace: &str| {
        let view = ViewKey::new(ProxyKind::Sidecar, Some(namespace));
        running.view_registry.lease(ViewRequest { view, addresses: Arc::default(), peer: None })
    };
    let there = lease(&running, "n0");
    running.assigned(&there).await;
    running.snapshots.mark_unchanged();
    let newcomers: Vec<_> = (1..namespaces).map(|number| lease(&running, &name(number))).collect();
    let new = Change::Service(service(&key("n0", "new"), at(&[]), &[HTTP]));
    running.changes.send(new.into()).await.unwrap();
    soon(running.snapshots.changed()).await.unwrap();
    let view = running.snapshot().views[&*there.view().unwrap()].clone();
    assert!(domains(&view, "80").contains(&"new".to_owned()));
    let waiting = newcomers.iter().filter(|one| one.view().is_none()).count();
    assert!(waiting > 0, "the change has waited for all of them");
    for one in &newcomers {
        running.assigned(one).await;
    }
    assert_eq!(running.views(), namespaces);
}
