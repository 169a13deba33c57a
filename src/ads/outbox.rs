//! Readers that have stopped.
//!
//! A stream hands its response over in pieces, and runs again when HTTP/2 has taken one. A peer
//! that does not read stops it there, and then nothing that the stream itself does can end it. So
//! each stream notes here since when a piece has been waiting (HTTP/2's windows are closed), its
//! connection knows since when the socket is full, and whoever looks now and then ends the
//! connection of one that has waited too long.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::control::Control;
use crate::metrics::Metrics;
use crate::proxies::Connection;

/// Of all open streams.
#[derive(Debug)]
pub(super) struct Outboxes {
    epoch: Instant,
    // A std mutex, never held across an await; taken when a stream opens, ends, to look, to wake.
    open: Mutex<BTreeMap<u64, Arc<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    /// Milliseconds from the epoch to when the piece was handed over, plus one; 0 if none waits.
    since: AtomicU64,
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

    /// For a stream on the connection that `control` ends.
    pub(super) fn open(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        control: &Arc<Control>,
    ) -> Outbox {
        let waiting = Arc::new(Waiting {
            since: AtomicU64::new(0),
            connection: connection.clone(),
            control: control.clone(),
        });
        self.all().insert(connection.id, waiting.clone());
        Outbox { all: self.clone(), waiting }
    }

    /// Lets every stream look whether there is something new: cheaper than a list of ten thousand
    /// that wait, which each of them enters anew.
    pub(super) fn wake(&self) {
        self.all().values().for_each(|one| one.control.wake());
    }

    /// Ends the connections on which a piece has been waiting for longer than `limit`.
    pub(super) fn cut_stalled(&self, limit: Duration, metrics: &Metrics) {
        let now = self.millis();
        let stalled: Vec<_> = {
            let is_stalled = |waiting: &Waiting| {
                let since = waiting.since.load(Ordering::Relaxed);
                since != 0 && Duration::from_millis((now + 1).saturating_sub(since)) >= limit
                    || waiting.control.full_for() >= limit
            };
            self.all().values().filter(|one| is_stalled(one)).cloned().collect()
        };
        for one in stalled {
            warn!(
                proxy = one.connection.connection_id(), peer = ?one.connection.peer,
                "has taken nothing of a response for {limit:?} (--send-timeout), disconnected"
            );
            metrics.send_timeout();
            one.waiting_no_more();
            one.control.cut();
        }
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
        self.since.store(0, Ordering::Relaxed);
    }
}

impl Outbox {
    /// A piece is handed over.
    pub(super) fn put(&self) {
        self.waiting.since.store(self.all.millis() + 1, Ordering::Relaxed);
    }

    /// The last one was taken.
    pub(super) fn taken(&self) {
        self.waiting.waiting_no_more();
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.all.all().remove(&self.waiting.connection.id);
    }
}
