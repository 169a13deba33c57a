//! What is looked at from outside a stream, now and then: readers that have stopped, messages that
//! never become whole, and what each stream holds.
//!
//! A stream hands its response over in pieces, and runs again when HTTP/2 has taken one. A peer
//! that does not read stops it there, and then nothing that the stream itself does can end it. So
//! each stream notes here since when a piece has been waiting (HTTP/2's windows are closed), its
//! connection knows since when the socket is full, and whoever looks now and then ends the
//! connection of one that has waited too long.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::account::{Charge, ConnectionAccount, STREAM_BYTES};
use super::admission::{Admission, Turn};
use super::control::Control;
use super::since::Since;
use crate::metrics::Metrics;
use crate::proxies::{Connection, ProxyStatus};
use crate::snapshot::encode::Frame;

/// How long a message may take from its first byte to its last.
const MESSAGE: Duration = Duration::from_secs(30);

/// A stream that takes nothing for so long, while others wait, is not being brought into sync.
const TAKES_NOTHING: Duration = Duration::from_millis(100);

/// Bytes of responses that readers who take nothing may keep alive together, each response counted
/// once: they stop at the same one, or else each at its own.
const PINNED_BYTES: usize = 64 << 20;

/// From when on such a reader counts.
const PINNED: Duration = Duration::from_secs(2);

/// Of all open streams.
#[derive(Debug)]
pub(super) struct Outboxes {
    epoch: Instant,
    // A std mutex, never held across an await; taken when a stream opens, ends, to look, to wake.
    open: Mutex<BTreeMap<u64, Arc<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    /// A piece has been waiting, from the epoch on.
    piece: Since,
    /// Address and bytes of the response that it is a piece of.
    frame: (AtomicUsize, AtomicUsize),
    /// The permit to be brought into sync, plus one; 0 if it has none.
    permit: AtomicU64,
    /// What it holds alone, and its share of what others hold too.
    own: Charge,
    shared: Charge,
    connection: Arc<Connection>,
    control: Arc<Control>,
}

/// One stream's, until dropped.
#[derive(Debug)]
pub(super) struct Outbox {
    all: Arc<Outboxes>,
    waiting: Arc<Waiting>,
}

impl Outboxes {
    pub(super) fn new() -> Self {
        Self { epoch: Instant::now(), open: Mutex::default() }
    }

    /// For a stream on the connection that `control` ends and that `account` is of.
    pub(super) fn open(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        control: &Arc<Control>,
        account: &ConnectionAccount,
    ) -> Outbox {
        let waiting = Arc::new(Waiting {
            piece: Since::default(),
            frame: Default::default(),
            permit: AtomicU64::new(0),
            own: account.charge(),
            shared: account.charge(),
            connection: connection.clone(),
            control: control.clone(),
        });
        self.all().insert(connection.id, waiting.clone());
        waiting.own.set(STREAM_BYTES);
        Outbox { all: self.clone(), waiting }
    }

    /// Lets every stream look whether there is something new: cheaper than a list of ten thousand
    /// that wait, which each of them enters anew.
    pub(super) fn wake(&self) {
        self.all().values().for_each(|one| one.control.wake());
    }

    /// Ends the connections on which a piece has been waiting for longer than `limit`, or a message
    /// has been coming for too long; and the longest waiting ones if too much waits for them.
    pub(super) fn cut_stalled(&self, limit: Duration, metrics: &Metrics) {
        let mut pinned = Vec::new();
        let streams = self.streams();
        for one in &streams {
            let stalled = self.stalled_for(one);
            if stalled >= limit {
                warn!(
                    proxy = one.connection.connection_id(), peer = ?one.connection.peer,
                    "has taken nothing of a response for {limit:?} (--send-timeout), disconnected"
                );
                metrics.send_timeout();
                one.cut();
            } else if one.control.message_for() >= MESSAGE {
                warn!(
                    proxy = one.connection.connection_id(), peer = ?one.connection.peer,
                    "a request has been coming for {MESSAGE:?} and is not whole, disconnected"
                );
                one.cut();
            } else if stalled >= PINNED {
                pinned.push((stalled, one));
            }
        }
        pinned.sort_unstable_by_key(|(stalled, _)| *stalled);
        let (mut frames, mut kept) = (HashSet::new(), 0);
        for (stalled, one) in pinned {
            let (at, bytes) = one.frame();
            if frames.contains(&at) {
                continue;
            }
            if kept + bytes > PINNED_BYTES {
                warn!(
                    proxy = one.connection.connection_id(), peer = ?one.connection.peer,
                    "has taken nothing of a response for {stalled:?}, and too many responses are \
                     kept for such readers, disconnected"
                );
                metrics.send_timeout();
                one.cut();
            } else {
                frames.insert(at);
                kept += bytes;
            }
        }
    }

    /// Takes the permits of those back that take nothing, if others wait for one.
    pub(super) fn take_permits_back(&self, admission: &Admission) {
        if !admission.is_contended() {
            return;
        }
        for one in self.all().values() {
            let permit = one.permit.load(Ordering::Relaxed);
            if permit != 0 && self.stalled_for(one) >= TAKES_NOTHING {
                one.permit.store(0, Ordering::Relaxed);
                admission.take_back(permit - 1);
            }
        }
    }

    /// Charges the shares of subscriptions anew: they grow when others leave.
    pub(super) fn charge_shares(&self) {
        self.streams().iter().for_each(|one| one.charge_share());
    }

    fn stalled_for(&self, one: &Waiting) -> Duration {
        one.piece.lasts(self.millis()).max(one.control.full_for())
    }

    /// Ends connections after about `limit`, so that proxies spread again over the replicas that
    /// there are; zero for never. Not all at once: each has a limit of its own within a tenth.
    pub(super) fn end_aged(&self, limit: Duration, metrics: &Metrics) {
        if limit.is_zero() {
            return;
        }
        let is_aged = |one: &&Arc<Waiting>| {
            !one.control.is_ending() && one.control.age() >= jittered(limit, one.connection.id)
        };
        let aged: Vec<_> = self.all().values().filter(is_aged).cloned().collect();
        for one in aged {
            // The streams of one connection end together.
            if !one.control.is_ending() {
                metrics.connection_aged();
                one.control.end();
            }
        }
    }

    /// All of them as they are now: what is done to one may end it, which takes the lock.
    fn streams(&self) -> Vec<Arc<Waiting>> {
        self.all().values().cloned().collect()
    }

    fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Waiting>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Nine to eleven tenths of it, by the connection.
fn jittered(limit: Duration, connection: u64) -> Duration {
    let part = xxhash_rust::xxh3::xxh3_64(&connection.to_le_bytes()) % 1000;
    limit.mul_f64(0.9 + 0.2 * part as f64 / 1000.0)
}

impl Waiting {
    fn waiting_no_more(&self) {
        self.piece.set(None);
    }

    fn cut(&self) {
        self.waiting_no_more();
        self.control.cut();
    }

    fn frame(&self) -> (usize, usize) {
        (self.frame.0.load(Ordering::Relaxed), self.frame.1.load(Ordering::Relaxed))
    }

    fn charge_share(&self) {
        self.shared.set(self.connection.read(share));
    }
}

/// What a stream's subscriptions and kept words hold, as far as it is this stream's part.
fn share(status: &ProxyStatus) -> usize {
    let of_type = status.types.iter().map(|one| {
        let share = one.subscription.as_ref().map_or(0, |subscription| {
            // Held by the session and by the status of each stream.
            subscription.bytes() / (Arc::strong_count(subscription) / 2).max(1)
        });
        share + one.last_error.as_ref().map_or(0, |text| text.len())
    });
    of_type.sum()
}

impl Outbox {
    /// A response is handed over next.
    pub(super) fn begin(&self, frame: &Frame) {
        self.waiting.frame.0.store(frame.head.as_ptr() as usize, Ordering::Relaxed);
        self.waiting.frame.1.store(frame.head.len(), Ordering::Relaxed);
    }

    /// A piece is handed over.
    pub(super) fn put(&self) {
        self.waiting.piece.set(Some(self.all.millis()));
    }

    /// The last one was taken.
    pub(super) fn taken(&self) {
        self.waiting.waiting_no_more();
    }

    /// It is being brought into sync by this permit, or needs none any more.
    pub(super) fn admitted(&self, permit: Option<&Turn>) {
        let permit = permit.map_or(0, |permit| permit.id() + 1);
        self.waiting.permit.store(permit, Ordering::Relaxed);
    }

    /// The stream holds so many bytes that no other stream holds.
    pub(super) fn holds(&self, bytes: usize) {
        self.waiting.own.set(STREAM_BYTES + bytes);
    }

    /// It has another subscription, or words are kept of it that were not.
    pub(super) fn shares_others(&self) {
        self.waiting.charge_share();
    }

    pub(super) fn control(&self) -> &Arc<Control> {
        &self.waiting.control
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.all.all().remove(&self.waiting.connection.id);
    }
}
