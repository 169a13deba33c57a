//! How many streams are brought into sync at a time, and in which order.
//!
//! After a restart every proxy connects at once and wants everything. Served all together they would
//! fill every socket's buffer, share the processors, and all be ready at the end. So a stream gets its
//! first responses under a permit, of which there is a limited number, and the permit passes to the next
//! stream as soon as its holder is in sync. Waiting costs a stream nothing: its connection stays alive
//! (HTTP/2 answers keepalive pings) and its requests are read.
//!
//! Permits are fair by peer (its principal, or its address where there is none): peers take turns, and of each
//! peer its connections, so that a peer with a thousand streams delays only itself. A newcomer whose peer (or
//! connection) holds no permit takes one from the peer that holds most. A permit expires after a while whatever its holder does,
//! and is reclaimed at once if its holder reads nothing while others wait; and no stream waits longer
//! than [`MAX_WAIT`].
//!
//! Beside the permits: `rate_limiter` and `work_meter` bound what one peer may ask for,
//! `memory_account` what all peers make the server hold.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::metrics::ServerMetrics;

pub(crate) mod memory_account;
mod queue;
pub(crate) mod rate_limiter;
pub(crate) mod round_robin;
pub(crate) mod work_meter;

pub(crate) use queue::PermitHolder;
use queue::Queue;

/// How long a permit may be held. A slower proxy continues without it, and the next one starts.
const PERMIT_TTL: Duration = Duration::from_secs(2);

/// How long a stream waits for a permit; then it starts without one. Its responses are shared with all
/// other streams, so this costs the server little; Envoy gives up on its first configuration after 15 s.
const MAX_WAIT: Duration = Duration::from_secs(4);

/// A stream without requests and without unacknowledged responses for this long is in sync: between the
/// response of one type and the request of the next there is a pause, but a short one.
pub(crate) const IN_SYNC_AFTER: Duration = Duration::from_millis(20);

/// The permits of all streams.
#[derive(Debug)]
pub(crate) struct Admission {
    // A std mutex, never held across an await; locked when a permit is requested and released.
    queue: Mutex<Queue>,
    next: AtomicU64,
    metrics: Arc<ServerMetrics>,
}

/// The right to be brought into sync; ends when it is dropped, expired or reclaimed.
#[derive(Debug)]
pub(crate) struct AdmissionPermit {
    admission: Arc<Admission>,
    id: u64,
}

impl AdmissionPermit {
    /// For [`Admission::reclaim`].
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
}

impl Admission {
    /// `at_once` streams are admitted together; zero for no limit.
    pub(crate) fn new(at_once: usize, metrics: Arc<ServerMetrics>) -> Self {
        Self { queue: Mutex::new(Queue::new(at_once)), next: AtomicU64::new(0), metrics }
    }

    /// Waits for a permit. Dropping the future gives up the place in the queue.
    pub(crate) async fn acquire(self: Arc<Self>, holder: PermitHolder) -> AdmissionPermit {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        // Dropped with this future, which releases it.
        let permit = AdmissionPermit { admission: self.clone(), id };
        let now = Instant::now();
        let granted = {
            let mut queue = self.queue();
            if queue.admit(id, holder.clone(), now) {
                return permit;
            }
            queue.enqueue(id, holder)
        };
        let _waiting = WaitingGauge::new(&self.metrics);
        if timeout_at(now + MAX_WAIT, granted).await.is_err() {
            // The stream starts without a permit.
            self.metrics.admission_timed_out();
            self.reclaim(id);
        }
        permit
    }

    /// Passes expired permits on to waiting streams; to be called periodically.
    pub(crate) fn expire(&self) {
        self.expire_after(PERMIT_TTL);
    }

    fn expire_after(&self, limit: Duration) {
        self.queue().expire(Instant::now(), limit);
    }

    /// Whether a stream waits for a permit.
    pub(crate) fn is_contended(&self) -> bool {
        self.queue().is_contended()
    }

    /// Takes a permit (or a place in the queue) away and admits the next stream.
    pub(crate) fn reclaim(&self, id: u64) {
        self.queue().release(id, Instant::now());
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AdmissionPermit {
    fn drop(&mut self) {
        self.admission.queue().release(self.id, Instant::now());
    }
}

/// Counts a stream in the metrics while it waits.
struct WaitingGauge<'a>(&'a ServerMetrics);

impl<'a> WaitingGauge<'a> {
    fn new(metrics: &'a ServerMetrics) -> Self {
        metrics.admission_queued();
        Self(metrics)
    }
}

impl Drop for WaitingGauge<'_> {
    fn drop(&mut self) {
        self.0.admission_dequeued();
    }
}

#[cfg(test)]
mod tests;
