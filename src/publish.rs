//! Decides when a new snapshot is published; the one writer of the model and of snapshots.
//!
//! When is the pace's to say (`pace`); what is in a snapshot, the builder's (`snapshot_builder`),
//! through which a change passes once; which view a proxy has, the assigner's (`view_assigner`).
//! All of them are pure: here are the channels and the clock.
//!
//! A change goes before new proxies: it is published for the views that are there, and views that
//! are not are built in short stretches between publications. Views come and go without waking
//! anybody but those who wait for them; what nobody has is kept for a moment, for the proxy that
//! comes back.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use pilothouse_xds::View;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::changes::{self, ChangeLog, Seen};
use crate::metrics::Metrics;
use crate::model::route::RouteReport;
use crate::model::{Change, Differences, Dirty, Model, SourceEvent};
use crate::names::ResourceType;
use crate::snapshot::Snapshot;
use crate::translate::listeners::DEFAULT_ON_DEMAND_TIMEOUT;
use crate::view::{ViewKey, ViewLimits, ViewRegistry, ViewRequest};

mod address_claims;
mod alias_index;
mod built_views;
mod clusters;
mod conflicts;
mod endpoints;
mod inbound_ports;
mod known_places;
mod layers;
mod listeners;
mod listeners_and_routes;
mod node_local;
mod pace;
mod ref_counts;
mod removals;
mod renamed;
mod route_index;
mod route_tables;
mod rule_tables;
mod ruled_ports;
mod service_index;
mod snapshot_builder;
mod view_assigner;
mod view_requests;
mod visibility;

use built_views::BuiltViews;
use pace::Pace;
pub use snapshot_builder::SnapshotBuilder;
use view_assigner::ViewAssigner;

/// Changes taken in at a stretch before the clock is looked at again.
const BATCH: usize = 1024;

/// When to publish.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// At least this long between two snapshots.
    pub pace: Duration,
    /// How long a cluster outlives its routes, so that requests on their way to it arrive.
    pub linger: Duration,
    /// How long requests of on-demand sidecars wait for their clusters.
    pub on_demand: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            pace: Duration::from_millis(100),
            linger: Duration::from_secs(1),
            on_demand: DEFAULT_ON_DEMAND_TIMEOUT,
        }
    }
}

/// Owns the model, makes snapshots of it.
#[derive(Debug)]
pub struct Publisher {
    model: Model,
    /// What has changed since the last snapshot.
    dirty: Dirty,
    pace: Pace,
    /// How long a cluster outlives its routes.
    removal_delay: Duration,
    builder: SnapshotBuilder,
    view_assigner: ViewAssigner,
    views: BuiltViews,
    /// Requests for views that are not built yet, in the order in which they came.
    pending_requests: VecDeque<(ViewRequest, Arc<ViewKey>)>,
    view_limits: ViewLimits,
    view_registry: Arc<ViewRegistry>,
    metrics: Arc<Metrics>,
    change_log: Arc<ChangeLog>,
    models: watch::Sender<Model>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    route_reports: watch::Sender<RouteReport>,
}

impl Publisher {
    /// A publisher and what it will publish: the model for people, snapshots for proxies (`None`
    /// until every watch has listed).
    pub fn new(
        domain: &str,
        timing: Timing,
        view_limits: ViewLimits,
        view_registry: Arc<ViewRegistry>,
        metrics: Arc<Metrics>,
    ) -> (Self, watch::Receiver<Model>, watch::Receiver<Option<Arc<Snapshot>>>) {
        let (models, model) = watch::channel(Model::default());
        let (snapshots, snapshot) = watch::channel(None);
        let publisher = Self {
            model: Model::default(),
            dirty: Dirty::default(),
            pace: Pace::new(timing.pace),
            removal_delay: timing.linger,
            builder: SnapshotBuilder::new(domain).with_on_demand_timeout(timing.on_demand),
            view_assigner: ViewAssigner::new(view_limits),
            view_limits,
            views: BuiltViews::default(),
            pending_requests: VecDeque::new(),
            view_registry,
            metrics,
            change_log: Arc::default(),
            models,
            snapshots,
            route_reports: watch::channel(RouteReport::default()).0,
        };
        (publisher, model, snapshot)
    }

    /// The last changes, for people.
    pub fn change_log(&self) -> Arc<ChangeLog> {
        self.change_log.clone()
    }

    /// What has become of each route, as of the newest snapshot.
    pub fn route_reports(&self) -> watch::Receiver<RouteReport> {
        self.route_reports.subscribe()
    }

    /// Runs until `shutdown`, or until the source is gone: then what is published stays.
    pub async fn run(
        mut self,
        mut changes: mpsc::Receiver<SourceEvent>,
        shutdown: CancellationToken,
    ) {
        let view_registry = self.view_registry.clone();
        let mut source_lives = true;
        loop {
            let due = self.pace.due();
            let removal = self.builder.removals.next();
            let eviction = self.views.next_eviction();
            tokio::select! {
                () = shutdown.cancelled() => return,
                event = changes.recv(), if source_lives => match event {
                    Some(event) => {
                        self.apply_event(event);
                        self.apply_waiting_changes(&mut changes);
                    }
                    None => source_lives = false,
                },
                () = view_registry.wait_for_changes() => {
                    if self.pace.has_published() {
                        self.take_view_requests();
                    }
                }
                () = tokio::task::yield_now(), if !self.pending_requests.is_empty() => {
                    self.build_pending_views();
                    self.apply_waiting_changes(&mut changes);
                }
                () = sleep(eviction), if eviction.is_some() => self.evict_expired_views(),
                () = sleep(due), if due.is_some() => {}
                () = sleep(removal), if removal.is_some() => {
                    let now = Instant::now();
                    self.builder.remove_expired(now);
                    self.pace.request(now);
                }
            }
            if self.pace.due().is_some_and(|due| due <= Instant::now()) {
                // What has come meanwhile belongs into the same snapshot.
                self.apply_waiting_changes(&mut changes);
                self.publish_snapshot();
                self.pace.published(Instant::now());
            }
        }
    }

    /// Applies the change of an event and records the event.
    fn apply_event(&mut self, event: SourceEvent) {
        let seen = Seen::of(&event);
        let mut differences = Differences::default();
        if let Some(change) = event.change {
            // What is listed first is all new.
            if self.pace.has_published() {
                differences = self.model.differences(&change, changes::MAX_DIFFERENCES);
            }
            self.apply_change(change);
        }
        // What is dirty by an earlier change holds this one up, too, whatever it touched.
        let current = if self.dirty.is_empty() { self.published_generation() } else { None };
        self.change_log.record(&seen, differences, current, SystemTime::now());
    }

    fn published_generation(&self) -> Option<u64> {
        self.snapshots.borrow().as_ref().map(|snapshot| snapshot.generation)
    }

    fn apply_change(&mut self, change: Change) {
        self.metrics.change_received(&change);
        if matches!(change, Change::Synced) && self.pace.all_listed(Instant::now()) {
            info!(
                services = self.model.service_count(),
                slices = self.model.slice_count(),
                "everything has been listed once, serving"
            );
        }
        self.model.apply(change, &mut self.dirty);
        if !self.dirty.is_empty() {
            self.pace.change_arrived(Instant::now());
        }
    }

    fn apply_waiting_changes(&mut self, changes: &mut mpsc::Receiver<SourceEvent>) {
        for _ in 0..BATCH {
            match changes.try_recv() {
                Ok(event) => self.apply_event(event),
                Err(_) => break,
            }
        }
    }

    fn publish_snapshot(&mut self) {
        let started = Instant::now();
        let dirty = std::mem::take(&mut self.dirty);
        let changes = self.builder.apply(&self.model, &dirty);
        let (services, conflicts) = (&self.builder.services, &mut self.builder.conflicts);
        let reassigned = self.view_assigner.update(&changes, services, conflicts);
        for (_, view) in &reassigned {
            self.views.insert(view.clone());
        }
        self.take_view_requests();
        if self.snapshots.borrow().is_none() {
            // Nobody waits for anything else.
            for (_, view) in &self.pending_requests {
                self.views.insert(view.clone());
            }
        }
        let mut snapshot = self.builder.snapshot(self.views.keys());
        snapshot.since = self.pace.first_change().map(Instant::into_std);
        // Copies are O(1); readers never wait for the writer.
        self.models.send_replace(self.model.clone());
        let generation = snapshot.generation;
        self.builder.removals.schedule(generation, Instant::now() + self.removal_delay);
        // Before the snapshot: a stream that is assigned a view which it cannot see yet keeps its
        // old one until the snapshot comes, and so goes from one to the other in a single step.
        for (request, view) in &reassigned {
            self.view_registry.assign(request, view);
        }
        let published = self.snapshots.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| is_same(current, &snapshot));
            if !same {
                *current = Some(Arc::new(snapshot));
            }
            !same
        });
        self.route_reports.send_if_modified(|current| {
            let newest = self.builder.route_report();
            let is_new = !newest.is_same(current);
            if is_new {
                *current = newest.clone();
            }
            is_new
        });
        if published {
            let took = started.elapsed();
            self.metrics.snapshot_published(took);
            debug!(
                generation,
                services = dirty.services.len(),
                routes = dirty.routes.len(),
                ?took,
                "snapshot"
            );
        }
        if let Some(newest) = self.published_generation() {
            self.change_log.publish(newest, SystemTime::now());
        }
    }
}

/// Nothing that any proxy, or a reader of the debug pages, could notice differs.
fn is_same(one: &Snapshot, other: &Snapshot) -> bool {
    let same_view = |a: &View, b: &View| {
        ResourceType::IN_ORDER.into_iter().all(|of| a.set(of).version() == b.set(of).version())
    };
    one.conflicts == other.conflicts
        && one.views.len() == other.views.len()
        && one
            .views
            .iter()
            .all(|(key, view)| other.views.get(key).is_some_and(|other| same_view(view, other)))
}

async fn sleep(until: Option<Instant>) {
    match until {
        Some(until) => sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
