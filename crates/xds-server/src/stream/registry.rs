//! The open streams of the server: to wake all of them, to close connections that are too old, to
//! reclaim permits, and to keep the charges for their memory up to date.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pilothouse_xds::session::Generations;
use pilothouse_xds::{Frame, Subscription, View};
use tokio::time::Instant;

use super::StreamOf;
use super::idle::{Idle, IdleGroups};
use super::stall_detector::SendProgress;
use crate::admission::memory_account::{Charge, ConnectionAccount, STREAM_BYTES};
use crate::admission::{Admission, AdmissionPermit};
use crate::http::connection_handle::ConnectionHandle;
use crate::mesh::Mesh;
use crate::metrics::ServerMetrics;
use crate::proxies::GenerationTimes;
use crate::proxies::ProxyStatus;

/// A stream that reads nothing for so long, while others wait for a permit, is not being brought into
/// sync.
const PERMIT_UNUSED_AFTER: Duration = Duration::from_millis(100);

/// All open streams, by [`XdsStream::id`](crate::proxies::XdsStream::id).
#[derive(Debug)]
pub(crate) struct StreamRegistry<M: Mesh> {
    // A std mutex, never held across an await; locked when a stream opens, ends or falls asleep, and to wake or
    // sweep all of them.
    streams: Mutex<OpenStreams<M>>,
}

#[derive(Debug)]
struct OpenStreams<M: Mesh> {
    /// What a sleeping stream leaves is beside its entry: a snapshot looks at thousands of them, and at nothing
    /// else of nearly all.
    by_id: BTreeMap<u64, (Arc<StreamEntry<M>>, Option<Idle>)>,
    groups: IdleGroups<M>,
}

/// What the server knows of one open stream.
#[derive(Debug)]
pub(crate) struct StreamEntry<M: Mesh> {
    pub(super) stream: Arc<StreamOf<M>>,
    pub(super) handle: Arc<ConnectionHandle>,
    pub(super) progress: SendProgress,
    /// Id of the permit under which the stream is brought into sync, plus one; 0 if it has none.
    permit: AtomicU64,
    /// What the stream alone holds, and its share of what other streams hold too.
    own_memory: Charge,
    shared_memory: Charge,
}

/// A stream's own entry; dropping it takes the stream off the registry.
#[derive(Debug)]
pub(crate) struct RegisteredStream<M: Mesh> {
    registry: Arc<StreamRegistry<M>>,
    entry: Arc<StreamEntry<M>>,
}

impl<M: Mesh> StreamRegistry<M> {
    pub(super) fn new() -> Self {
        let streams = OpenStreams { by_id: BTreeMap::new(), groups: IdleGroups::new() };
        Self { streams: Mutex::new(streams) }
    }

    /// Registers a stream on the connection that `handle` closes and `account` is charged for.
    pub(crate) fn register(
        self: &Arc<Self>,
        stream: &Arc<StreamOf<M>>,
        handle: &Arc<ConnectionHandle>,
        account: &ConnectionAccount,
    ) -> RegisteredStream<M> {
        let entry = Arc::new(StreamEntry {
            stream: stream.clone(),
            handle: handle.clone(),
            progress: SendProgress::new(),
            permit: AtomicU64::new(0),
            own_memory: account.new_charge(),
            shared_memory: account.new_charge(),
        });
        self.lock().by_id.insert(stream.id, (entry.clone(), None));
        entry.own_memory.set(STREAM_BYTES);
        RegisteredStream { registry: self.clone(), entry }
    }

    /// Polls every stream, so that it sees what is new. Cheaper than a list of ten thousand wakers that
    /// each stream enters again after every snapshot.
    pub(crate) fn wake_all(&self) {
        self.lock().entries().for_each(|entry| entry.handle.wake());
    }

    /// The same, but for streams that want nothing of this snapshot.
    pub(crate) fn wake_wanting(&self, snapshot: &M::Snapshot, times: &GenerationTimes) {
        let now = Instant::now();
        let OpenStreams { by_id, groups } = &mut *self.lock();
        let steps = groups.steps(snapshot);
        for (id, (entry, place)) in by_id.iter_mut() {
            let wakes_after = |limit| jittered(limit, *id);
            if let Some(idle) = place
                && steps.sleeps_on(idle, now, wakes_after)
            {
                continue;
            }
            entry.leave_group(groups, place.take());
            entry.handle.wake();
        }
        groups.advance(snapshot, times, now);
    }

    /// Takes the permits of streams that read nothing, if other streams wait for one.
    pub(crate) fn reclaim_unused_permits(&self, admission: &Admission) {
        if !admission.is_contended() {
            return;
        }
        for entry in self.lock().entries() {
            let permit = entry.permit.load(Ordering::Relaxed);
            if permit != 0 && entry.stalled_for() >= PERMIT_UNUSED_AFTER {
                entry.permit.store(0, Ordering::Relaxed);
                admission.reclaim(permit - 1);
            }
        }
    }

    /// Updates each stream's share of its subscriptions, which grows when other holders leave.
    pub(crate) fn charge_shares(&self) {
        self.entries().iter().for_each(|entry| entry.charge_share());
    }

    /// Drains connections after about `limit`, so that proxies spread again over the replicas that
    /// there are; zero for never. Not all at once: each connection has a limit of its own within a tenth.
    pub(crate) fn drain_aged(&self, limit: Duration, metrics: &ServerMetrics) {
        if limit.is_zero() {
            return;
        }
        let is_aged = |entry: &&Arc<StreamEntry<M>>| {
            !entry.handle.is_closing() && entry.handle.age() >= jittered(limit, entry.stream.id)
        };
        let aged: Vec<_> = self.lock().entries().filter(is_aged).cloned().collect();
        for entry in aged {
            // The streams of one connection end together.
            if !entry.handle.is_closing() {
                metrics.connection_aged();
                entry.handle.drain();
            }
        }
    }

    /// The streams that are open now. To be used where an action may end a stream, which locks.
    pub(super) fn entries(&self) -> Vec<Arc<StreamEntry<M>>> {
        self.lock().entries().cloned().collect()
    }

    fn lock(&self) -> MutexGuard<'_, OpenStreams<M>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<M: Mesh> OpenStreams<M> {
    fn entries(&self) -> impl Iterator<Item = &Arc<StreamEntry<M>>> {
        self.by_id.values().map(|(entry, _)| entry)
    }
}

/// Nine to eleven tenths of `limit`, by the stream's id.
fn jittered(limit: Duration, stream: u64) -> Duration {
    let part = xxhash_rust::xxh3::xxh3_64(&stream.to_le_bytes()) % 1000;
    limit.mul_f64(0.9 + 0.2 * part as f64 / 1000.0)
}

impl<M: Mesh> StreamEntry<M> {
    /// For how long the peer has read nothing of a response.
    pub(super) fn stalled_for(&self) -> Duration {
        self.progress.unsent_for().max(self.handle.socket_full_for())
    }

    /// It does not sleep any more, if it did.
    fn leave_group(&self, groups: &mut IdleGroups<M>, idle: Option<Idle>) {
        if let Some(idle) = idle
            && let Some(generation) = groups.leave(&idle)
        {
            self.stream.set_awake_at(generation);
        }
    }

    fn charge_share(&self) {
        self.shared_memory.set(self.stream.read(shared_bytes));
    }
}

/// A stream's share of its subscriptions, and the NACK texts that are kept for it.
fn shared_bytes<I, K>(status: &ProxyStatus<I, K>) -> usize {
    let by_type = status.types.iter().map(|status| {
        let share = status.subscription.as_ref();
        let share = share.map_or(0, |one| one.bytes_of_a_stream());
        share + status.last_error.as_ref().map_or(0, |text| text.len())
    });
    by_type.sum()
}

impl<M: Mesh> RegisteredStream<M> {
    /// The pieces that follow are this response's.
    pub(crate) fn begin_response(&self, frame: &Frame) {
        self.entry.progress.begin_response(frame);
    }

    /// A piece is handed over to HTTP/2.
    pub(crate) fn begin_piece(&self) {
        self.entry.progress.begin_piece();
    }

    /// The last piece was sent.
    pub(crate) fn finish_response(&self) {
        self.entry.progress.finish_response();
    }

    /// The permit under which the stream is brought into sync, or that it needs none any more.
    pub(crate) fn set_permit(&self, permit: Option<&AdmissionPermit>) {
        let permit = permit.map_or(0, |permit| permit.id() + 1);
        self.entry.permit.store(permit, Ordering::Relaxed);
    }

    /// Sets how many bytes the stream holds that no other stream holds.
    pub(crate) fn set_own_bytes(&self, bytes: usize) {
        self.entry.own_memory.set(STREAM_BYTES + bytes);
    }

    /// Charges the shared part again: the stream has another subscription, or a NACK text is kept.
    pub(crate) fn charge_share(&self) {
        self.entry.charge_share();
    }

    /// From now on the stream is woken for what it wants alone. False if it must not sleep: it is at another
    /// view than those that sleep with the same key.
    pub(super) fn fall_asleep(
        &self,
        key: Arc<M::ViewKey>,
        view: &Arc<View>,
        generation: u64,
        subscriptions: Box<[Option<Arc<Subscription>>]>,
    ) -> bool {
        let OpenStreams { by_id, groups } = &mut *self.registry.lock();
        let Some((_, place)) = by_id.get_mut(&self.entry.stream.id) else { return false };
        let Some((idle, at)) = groups.join(key, view, generation, subscriptions) else {
            return false;
        };
        self.entry.stream.set_asleep_at(at);
        *place = Some(idle);
        true
    }

    /// It is woken for everything again; what it was brought to while it slept.
    pub(super) fn wake_up(&self) -> Generations {
        let OpenStreams { by_id, groups } = &mut *self.registry.lock();
        let idle = by_id.get_mut(&self.entry.stream.id).and_then(|(_, place)| place.take());
        self.entry.leave_group(groups, idle);
        self.entry.stream.generations()
    }

    pub(crate) fn handle(&self) -> &Arc<ConnectionHandle> {
        &self.entry.handle
    }
}

impl<M: Mesh> Drop for RegisteredStream<M> {
    fn drop(&mut self) {
        let OpenStreams { by_id, groups } = &mut *self.registry.lock();
        let idle = by_id.remove(&self.entry.stream.id).and_then(|(_, idle)| idle);
        self.entry.leave_group(groups, idle);
    }
}
