//! Who is brought into sync now, and who waits for that.
//!
//! After a restart every proxy comes at once and wants everything. Served all together they would
//! fill every socket's buffer, share the processors, and all be ready at the end; so a number of
//! streams is admitted at a time, and a permit goes on to the next as soon as its stream has nothing
//! more to say. Waiting costs a stream nothing: its connection lives (HTTP/2 keepalive is answered
//! below) and its requests are taken in.
//!
//! Permits are fair by peer: addresses take turns, and on each its connections, so that a peer with
//! a thousand streams waits for itself. A newcomer whose address (or connection) holds none takes one
//! from the address that holds most. A permit ends after a while whatever its holder does, and at once if
//! its holder takes nothing while others wait; and nobody waits longer than [`MAX_WAIT`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::metrics::Metrics;

mod queue;

pub(super) use queue::Holder;
use queue::Queue;

/// How long a permit may be held. A proxy that is slower goes on without it, and the next one
/// begins.
const PERMIT: Duration = Duration::from_secs(2);

/// How long a stream waits for a permit; then it goes on without one. What it is sent is shared with
/// all others, so this costs the server little; Envoy gives up on its first configuration after 15 s.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// A stream that has said nothing and owes nothing for this long is in sync: between the answer to
/// one type and the request of the next there is a pause, but a short one.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// The permits of all streams.
#[derive(Debug)]
pub(super) struct Admission {
    // A std mutex, never held across an await; taken when a permit is asked for and given back.
    queue: Mutex<Queue>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

/// The right to be brought into sync, until dropped or until it has lasted too long.
#[derive(Debug)]
pub(super) struct Turn {
    admission: Arc<Admission>,
    id: u64,
}

impl Turn {
    /// For [`Admission::take_back`].
    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl Admission {
    /// `at_once` streams are admitted together; zero for no limit.
    pub(super) fn new(at_once: usize, metrics: Arc<Metrics>) -> Self {
        Self { queue: Mutex::new(Queue::new(at_once)), next: AtomicU64::new(0), metrics }
    }

    /// Waits for a permit. Whoever stops waiting loses its place.
    pub(super) async fn turn(self: Arc<Self>, holder: Holder) -> Turn {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        // Dropped with this future, and given back then.
        let turn = Turn { admission: self.clone(), id };
        let now = Instant::now();
        let granted = {
            let mut queue = self.queue();
            if queue.admit(id, holder, now) {
                return turn;
            }
            queue.wait(id, holder)
        };
        let _waiting = Waiting::new(&self.metrics);
        if timeout_at(now + MAX_WAIT, granted).await.is_err() {
            // It goes on without a permit.
            self.metrics.admission_overdue();
            self.take_back(id);
        }
        turn
    }

    /// Gives the permits that have lasted too long to others; to be called now and then.
    pub(super) fn expire(&self) {
        self.expire_after(PERMIT);
    }

    fn expire_after(&self, limit: Duration) {
        self.queue().expire(Instant::now(), limit);
    }

    /// Somebody waits.
    pub(super) fn is_contended(&self) -> bool {
        self.queue().is_contended()
    }

    /// The holder takes nothing, or waits no more: a permit that it has goes to the next.
    pub(super) fn take_back(&self, id: u64) {
        self.queue().give_back(id, Instant::now());
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.admission.queue().give_back(self.id, Instant::now());
    }
}

/// Counts a stream for as long as it waits.
struct Waiting<'a>(&'a Metrics);

impl<'a> Waiting<'a> {
    fn new(metrics: &'a Metrics) -> Self {
        metrics.turn_awaited();
        Self(metrics)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.turn_awaited_no_more();
    }
}

#[cfg(test)]
mod tests;
