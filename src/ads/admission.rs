//! Who is brought into sync now, and who waits for that.
//!
//! After a restart every proxy comes at once and wants everything. Served all together they would
//! fill every socket's buffer, share the processors, and all be ready at the end; so a number of
//! them has a turn, in the order in which they came, and a turn goes on to the next as soon as its
//! stream has nothing more to say. Waiting costs a stream nothing: its connection lives (HTTP/2
//! keepalive is answered below) and its requests are taken in. Nobody waits forever: a turn ends
//! after a while, whatever its holder does.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::metrics::Metrics;

/// How long a turn may last. A proxy that is slower goes on without it, and the next one begins.
const TURN: Duration = Duration::from_secs(2);

/// A stream that has said nothing and owes nothing for this long is in sync: between the answer to
/// one type and the request of the next there is a pause, but a short one.
pub(super) const QUIET: Duration = Duration::from_millis(20);

/// The turns of all streams.
#[derive(Debug)]
pub(super) struct Admission {
    /// Fair: in the order of asking. `None` for no limit.
    free: Option<Arc<Semaphore>>,
    // A std mutex, never held across an await; taken when a turn begins and ends.
    turns: Mutex<HashMap<u64, (Instant, OwnedSemaphorePermit)>>,
    next: AtomicU64,
    metrics: Arc<Metrics>,
}

/// The right to be brought into sync, until dropped or until it has lasted too long.
#[derive(Debug)]
pub(super) struct Turn {
    admission: Arc<Admission>,
    id: u64,
}

impl Admission {
    /// `at_once` streams have a turn together; zero for no limit.
    pub(super) fn new(at_once: usize, metrics: Arc<Metrics>) -> Self {
        let free = (at_once > 0).then(|| Arc::new(Semaphore::new(at_once)));
        Self { free, turns: Mutex::default(), next: AtomicU64::new(0), metrics }
    }

    /// Waits for a turn. Whoever stops waiting loses its place.
    pub(super) async fn turn(self: Arc<Self>) -> Turn {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        if let Some(free) = &self.free {
            let permit = match free.clone().try_acquire_owned() {
                Ok(permit) => Some(permit),
                Err(_) => {
                    let _waiting = Waiting::new(&self.metrics);
                    free.clone().acquire_owned().await.ok()
                }
            };
            // Closed: it never is, and then there is no limit.
            if let Some(permit) = permit {
                self.turns().insert(id, (Instant::now(), permit));
            }
        }
        Turn { admission: self, id }
    }

    /// Gives away the turns that have lasted too long; to be called now and then.
    pub(super) fn expire(&self) {
        self.expire_after(TURN);
    }

    fn expire_after(&self, limit: Duration) {
        self.turns().retain(|_, (since, _)| since.elapsed() < limit);
    }

    fn turns(&self) -> MutexGuard<'_, HashMap<u64, (Instant, OwnedSemaphorePermit)>> {
        self.turns.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.admission.turns().remove(&self.id);
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
mod tests {
    use futures::FutureExt as _;
    use prometheus_client::registry::Registry;

    use super::*;

    fn admission(at_once: usize) -> Arc<Admission> {
        Arc::new(Admission::new(at_once, Metrics::new(&mut Registry::default())))
    }

    #[tokio::test]
    async fn turns_go_in_the_order_of_asking() {
        let admission = admission(1);
        let first = admission.clone().turn().now_or_never().expect("one is free");
        let mut second = Box::pin(admission.clone().turn());
        let mut third = Box::pin(admission.clone().turn());
        assert!(second.as_mut().now_or_never().is_none());
        assert!(third.as_mut().now_or_never().is_none());
        assert_eq!(admission.metrics.turns_awaited(), 2);
        drop(first);
        assert!(third.as_mut().now_or_never().is_none(), "it came later");
        let second = second.now_or_never().expect("its turn");
        drop(third);
        assert_eq!(admission.metrics.turns_awaited(), 0, "one has it, one has gone");
        drop(second);
        assert!(admission.turn().now_or_never().is_some());
    }

    #[tokio::test]
    async fn a_turn_that_lasts_goes_to_the_next() {
        let admission = admission(1);
        let slow = admission.clone().turn().await;
        let mut next = Box::pin(admission.clone().turn());
        assert!(next.as_mut().now_or_never().is_none());
        admission.expire();
        assert!(next.as_mut().now_or_never().is_none(), "not at once");
        admission.expire_after(Duration::ZERO);
        let next = next.now_or_never().expect("it is taken from the slow one");
        drop(slow);
        assert!(
            admission.clone().turn().now_or_never().is_none(),
            "the slow one gave nothing back"
        );
        drop(next);
    }

    #[test]
    fn no_limit_lets_everybody_in() {
        let admission = admission(0);
        let turns: Vec<_> = (0..100).map(|_| admission.clone().turn().now_or_never()).collect();
        assert!(turns.iter().all(Option::is_some));
    }
}
