//! Decides when a new snapshot is cut; the one writer of the model and of snapshots.
//!
//! The first change after a quiet time is published at once, further ones are gathered for the
//! pace, so a single change is as fast as it can be and a storm costs no more than one snapshot a
//! pace. Nothing is published before every watch has listed once.
//!
//! A change goes before newcomers: it is published for the views that are there, and views that are
//! not are built in short turns between publications. Views come and go without waking anybody but
//! those who wait for them; what nobody needs is kept for a moment, for the proxy that comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::metrics::Metrics;
use crate::model::{Change, Model, ServiceKey};
use crate::names::ResourceType;
use crate::snapshot::{Snapshot, View};
use crate::view::{ViewKey, ViewRegistry, ViewRequest};

mod aliases;
mod build;
mod conflicts;
mod inbound;
mod kinds;
mod layers;
mod needs;
mod newcomers;
mod nodes;
mod places;
mod visibility;

pub use build::Builder;
use needs::Needs;

/// Changes taken in at a stretch before the clock is looked at again.
const BATCH: usize = 1024;

/// When to publish.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// At least this long between two snapshots.
    pub pace: Duration,
    /// How long a cluster outlives its routes, so that requests on their way to it arrive.
    pub linger: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { pace: Duration::from_millis(100), linger: Duration::from_secs(1) }
    }
}

/// Owns the model, makes snapshots of it.
#[derive(Debug)]
pub struct Publisher {
    model: Model,
    builder: Builder,
    needs: Needs,
    dirty: BTreeSet<ServiceKey>,
    /// When the first change came that is not published yet.
    since: Option<Instant>,
    synced: bool,
    timing: Timing,
    /// When clusters may go that lost their routes with the snapshot of a generation.
    burials: VecDeque<(Instant, u64)>,
    /// The views that are built.
    open: BTreeSet<Arc<ViewKey>>,
    /// Those of them that nobody needs, and since when.
    idle: BTreeMap<Arc<ViewKey>, Instant>,
    /// When to let some of those go.
    release: Option<Instant>,
    /// Who waits for a view that is not built yet, in the order in which they came.
    newcomers: VecDeque<(ViewRequest, Arc<ViewKey>)>,
    view_registry: Arc<ViewRegistry>,
    metrics: Arc<Metrics>,
    models: watch::Sender<Model>,
    snapshots: watch::Sender<Option<Arc<Snapshot>>>,
}

impl Publisher {
    /// A publisher and what it will publish: the model for people, snapshots for proxies (`None`
    /// until every watch has listed).
    pub fn new(
        domain: &str,
        timing: Timing,
        view_registry: Arc<ViewRegistry>,
        metrics: Arc<Metrics>,
    ) -> (Self, watch::Receiver<Model>, watch::Receiver<Option<Arc<Snapshot>>>) {
        let (models, model) = watch::channel(Model::default());
        let (snapshots, snapshot) = watch::channel(None);
        let publisher = Self {
            model: Model::default(),
            builder: Builder::new(domain),
            needs: Needs::new(view_registry.limits()),
            dirty: BTreeSet::new(),
            since: None,
            synced: false,
            timing,
            burials: VecDeque::new(),
            open: BTreeSet::new(),
            idle: BTreeMap::new(),
            release: None,
            newcomers: VecDeque::new(),
            view_registry,
            metrics,
            models,
            snapshots,
        };
        (publisher, model, snapshot)
    }

    /// Runs until `shutdown`, or until the source is gone: then what is published stays.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>, shutdown: CancellationToken) {
        let view_registry = self.view_registry.clone();
        let mut last_cut: Option<Instant> = None;
        // When to cut next.
        let mut due: Option<Instant> = None;
        let mut source_lives = true;
        loop {
            let burial = self.burials.front().map(|(at, _)| *at);
            tokio::select! {
                () = shutdown.cancelled() => return,
                change = changes.recv(), if source_lives => match change {
                    Some(change) => {
                        self.take(change);
                        self.take_waiting(&mut changes);
                    }
                    None => source_lives = false,
                },
                () = view_registry.wait_for_changes() => {
                    if last_cut.is_some() {
                        self.take_leases();
                    }
                }
                () = tokio::task::yield_now(), if !self.newcomers.is_empty() => {
                    self.build_some();
                    self.take_waiting(&mut changes);
                }
                () = until(self.release), if self.release.is_some() => self.release_idle(),
                () = until(due), if due.is_some() => {}
                () = until(burial), if burial.is_some() => {
                    if let Some((_, generation)) = self.burials.pop_front() {
                        self.builder.bury(generation);
                    }
                    due.get_or_insert_with(Instant::now);
                }
            }
            if !self.synced {
                continue;
            }
            let now = Instant::now();
            if self.dirty.is_empty() && due.is_none() && last_cut.is_some() {
                continue;
            }
            let next = last_cut.map_or(now, |last| last + self.timing.pace);
            if next > now {
                due = Some(next);
                continue;
            }
            // What has come meanwhile belongs into the same snapshot.
            self.take_waiting(&mut changes);
            self.cut();
            last_cut = Some(Instant::now());
            due = None;
        }
    }

    fn take(&mut self, change: Change) {
        self.metrics.inbound(&change);
        if matches!(change, Change::Synced) && !self.synced {
            self.synced = true;
            info!(
                services = self.model.service_count(),
                slices = self.model.slice_count(),
                "everything has been listed once, serving"
            );
        }
        self.model.apply(change, &mut self.dirty);
        if !self.dirty.is_empty() {
            self.since.get_or_insert_with(Instant::now);
        }
    }

    fn take_waiting(&mut self, changes: &mut mpsc::Receiver<Change>) {
        for _ in 0..BATCH {
            match changes.try_recv() {
                Ok(change) => self.take(change),
                Err(_) => break,
            }
        }
    }

    fn cut(&mut self) {
        let begun = Instant::now();
        let dirty = std::mem::take(&mut self.dirty);
        self.builder.update(&self.model, &dirty);
        let moved = self.needs.update(&self.model, &dirty, &mut self.builder.conflicts);
        for (_, view) in &moved {
            self.idle.remove(view);
            self.open.insert(view.clone());
        }
        self.take_leases();
        if self.snapshots.borrow().is_none() {
            // Nobody waits for anything else.
            let views = self.newcomers.iter().map(|(_, view)| view.clone());
            self.open.extend(views);
        }
        let mut snapshot = self.builder.snapshot(self.open.iter().map(|view| &**view));
        snapshot.since = self.since.take().map(Instant::into_std);
        // Copies are O(1); readers never wait for the writer.
        self.models.send_replace(self.model.clone());
        let generation = snapshot.generation;
        if self.builder.has_dying(generation) {
            self.burials.push_back((Instant::now() + self.timing.linger, generation));
        }
        // Before the snapshot: a stream that is told of a view which it cannot see yet keeps its
        // old one until the snapshot comes, and so goes from one to the other in a single step.
        for (need, view) in &moved {
            self.view_registry.assign(need, view);
        }
        let published = self.snapshots.send_if_modified(|current| {
            let same = current.as_ref().is_some_and(|current| is_same(current, &snapshot));
            if !same {
                *current = Some(Arc::new(snapshot));
            }
            !same
        });
        if published {
            let took = begun.elapsed();
            self.metrics.snapshot_cut(took);
            debug!(generation, services = dirty.len(), ?took, "snapshot");
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

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests;
