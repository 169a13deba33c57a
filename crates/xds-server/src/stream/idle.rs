//! Streams on demand are not woken for what they do not use.
//!
//! A proxy on demand holds a few of thousands of clusters, so nearly every snapshot has nothing for it, and to poll
//! its connection costs more than to see that. A stream that is in sync leaves in the registry what it is
//! subscribed to, and joins the streams that sleep at the same view. Whoever wakes the streams for a snapshot
//! compares: those for whom the new view differs in nothing that they want sleep on and count as brought to that
//! snapshot, all of them at once. A stream adopts the newest snapshot before whatever it does next, and is woken
//! after a while all the same, so that it lets go of old sets.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pilothouse_xds::session::Generations;
use pilothouse_xds::{NameFilter, Subscription, TypeIndex, View, ViewChange};
use tokio::time::Instant;
use tonic::Status;

use super::{Admitted, AdsStream};
use crate::mesh::Mesh;
use crate::proxies::GenerationTimes;

/// For about how long a stream sleeps through snapshots.
const MAX_SLEEP: Duration = Duration::from_secs(10);

/// What a stream leaves that sleeps.
#[derive(Debug)]
pub(super) struct Idle {
    group: GroupId,
    filter: NameFilter,
    /// By type; `None` for those that it has not opened.
    subscriptions: Box<[Option<Arc<Subscription>>]>,
    /// Set when it has slept through a first snapshot.
    wake_at: Option<Instant>,
}

/// The address of the key that the streams of a group have in common; the group keeps that.
type GroupId = usize;

/// The streams that sleep, by the key of their view.
#[derive(Debug)]
pub(super) struct IdleGroups<M: Mesh>(HashMap<GroupId, IdleGroup<M>>);

/// Streams that sleep at one view.
#[derive(Debug)]
struct IdleGroup<M: Mesh> {
    key: Arc<M::ViewKey>,
    view: Arc<View>,
    /// The snapshot that all of them count as brought to. Read by who asks for the status of one of them.
    generation: Arc<AtomicU64>,
    streams: usize,
}

impl<M: Mesh> IdleGroups<M> {
    pub(super) fn new() -> Self {
        Self(HashMap::new())
    }

    /// Adds a stream that has everything of a view. `None` if the others of its group are at another one: then a
    /// snapshot is on its way, to it or to them. Otherwise what it leaves, and the generation that it counts as
    /// brought to from now on.
    pub(super) fn join(
        &mut self,
        key: Arc<M::ViewKey>,
        view: &Arc<View>,
        generation: u64,
        subscriptions: Box<[Option<Arc<Subscription>>]>,
    ) -> Option<(Idle, Arc<AtomicU64>)> {
        let id = Arc::as_ptr(&key).addr();
        let group = match self.0.entry(id) {
            Entry::Occupied(group) => group.into_mut(),
            Entry::Vacant(place) => place.insert(IdleGroup {
                key,
                view: view.clone(),
                generation: Arc::new(AtomicU64::new(generation)),
                streams: 0,
            }),
        };
        let is_there = Arc::ptr_eq(&group.view, view) && group.generation() == generation;
        if !is_there {
            return None;
        }
        group.streams += 1;
        let filter = NameFilter::new(&subscriptions);
        let idle = Idle { group: id, filter, subscriptions, wake_at: None };
        Some((idle, group.generation.clone()))
    }

    /// Takes a stream out; the generation that it was brought to.
    pub(super) fn leave(&mut self, idle: &Idle) -> Option<u64> {
        let Entry::Occupied(mut group) = self.0.entry(idle.group) else { return None };
        let generation = group.get().generation();
        group.get_mut().streams -= 1;
        if group.get().streams == 0 {
            group.remove();
        }
        Some(generation)
    }

    /// How each group gets to a snapshot.
    pub(super) fn steps(&self, snapshot: &M::Snapshot) -> IdleSteps {
        let step = |(id, group): (&GroupId, &IdleGroup<M>)| {
            let change = ViewChange::new(&group.view, &*M::view(snapshot, &group.key)?);
            Some((*id, change))
        };
        IdleSteps { by_group: self.0.iter().filter_map(step).collect() }
    }

    /// Brings the streams to a snapshot that sleep on, after those have left that do not.
    pub(super) fn advance(
        &mut self,
        snapshot: &M::Snapshot,
        times: &GenerationTimes,
        now: Instant,
    ) {
        let generation = M::generation(snapshot);
        for group in self.0.values_mut() {
            let Some(view) = M::view(snapshot, &group.key) else { continue };
            group.view = view;
            let before = group.generation.swap(generation, Ordering::Relaxed);
            if before < generation {
                times.acknowledged(before, generation, now.into_std());
            }
        }
    }
}

impl<M: Mesh> IdleGroup<M> {
    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }
}

/// How the views of the groups change with one snapshot. A group has none whose view is not in it.
#[derive(Debug)]
pub(super) struct IdleSteps {
    by_group: HashMap<GroupId, ViewChange>,
}

impl IdleSteps {
    /// Whether a stream wants nothing of the snapshot, and has not slept for long. `wakes_after`: for how long
    /// it may.
    pub(super) fn sleeps_on(
        &self,
        idle: &mut Idle,
        now: Instant,
        wakes_after: impl FnOnce(Duration) -> Duration,
    ) -> bool {
        let Some(change) = self.by_group.get(&idle.group) else { return false };
        if change.may_be_wanted(&idle.filter) && change.is_wanted(&idle.subscriptions) {
            return false;
        }
        now < *idle.wake_at.get_or_insert_with(|| now + wakes_after(MAX_SLEEP))
    }
}

impl<M: Mesh> AdsStream<M> {
    /// To be called when there is nothing to send.
    pub(super) fn fall_asleep(&mut self) {
        let at = self.session.generation();
        let in_sync = Generations { sent: at, acknowledged: at };
        // Those whose acknowledgements do not count (probes) are few.
        if !self.view.is_on_demand()
            || !matches!(self.admitted, Admitted::Done)
            || self.session.generations() != in_sync
            || self.generations.counted != at
        {
            return;
        }
        let Some(key) = self.lease.view() else { return };
        let types = self.context.types().len();
        let is_open = |index: TypeIndex| self.session.sent_set(index).is_some();
        let subscriptions = (0..types)
            .map(TypeIndex)
            .map(|index| is_open(index).then(|| self.session.subscription(index).clone()));
        // The status holds sets as well: of what changed without being wanted, those of now.
        self.stream.update(|status| {
            for (at, status) in status.types.iter_mut().enumerate() {
                if let (Some(set), Some(sent)) =
                    (&mut status.set, self.session.sent_set(TypeIndex(at)))
                {
                    set.clone_from(sent);
                }
            }
        });
        self.is_idle = self.registered.fall_asleep(key, &self.view, at, subscriptions.collect());
    }

    /// To be called when something has come, before it is dealt with.
    pub(super) fn wake_up(&mut self) -> Result<(), Status> {
        if !std::mem::take(&mut self.is_idle) {
            return Ok(());
        }
        let at = self.registered.wake_up();
        if at.acknowledged > self.session.generation() {
            self.generations.told = at;
            self.generations.counted = at.acknowledged;
            return self.adopt_snapshot(false);
        }
        Ok(())
    }
}
