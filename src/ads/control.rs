//! The means to look after a connection from outside: to wake it, to end it, and to see that its
//! socket takes nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::work::Work;

const OPEN: u8 = 0;
const ENDING: u8 = 1;
const EVICTED: u8 = 2;
const CUT: u8 = 3;

/// Looks after a connection that may be waiting for its peer.
#[derive(Debug)]
pub(super) struct Control {
    state: AtomicU8,
    /// Of the connection's task, which has but one.
    waker: OnceLock<Waker>,
    opened: Instant,
    /// What its peer has made it do.
    pub(super) work: Work,
    /// Milliseconds after `opened` since when a message has been coming, plus one; 0 if none is.
    message_since: AtomicU64,
    /// Milliseconds after `opened` since when the socket takes nothing, plus one; 0 if it does.
    full_since: AtomicU64,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(OPEN),
            waker: OnceLock::new(),
            opened: Instant::now(),
            work: Work::new(),
            message_since: AtomicU64::new(0),
            full_since: AtomicU64::new(0),
        }
    }

    /// How long the socket has been taking nothing.
    pub(super) fn full_for(&self) -> Duration {
        self.since(&self.full_since)
    }

    /// Notes since when the oldest message has been coming that is not whole.
    pub(super) fn message_begun(&self, at: Option<Instant>) {
        let since = at.map(|at| at.saturating_duration_since(self.opened).as_millis() as u64 + 1);
        let since = since.unwrap_or_default();
        if self.message_since.load(Ordering::Relaxed) != since {
            self.message_since.store(since, Ordering::Relaxed);
        }
    }

    /// How long a message has been coming that is not whole.
    pub(super) fn message_for(&self) -> Duration {
        self.since(&self.message_since)
    }

    fn since(&self, at: &AtomicU64) -> Duration {
        match at.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((self.millis() + 1).saturating_sub(since)),
        }
    }

    fn millis(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Notes what became of a write to the socket.
    pub(super) fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        match (&result, self.full_since.load(Ordering::Relaxed)) {
            (Poll::Pending, 0) => self.full_since.store(self.millis() + 1, Ordering::Relaxed),
            (Poll::Ready(_), 1..) => self.full_since.store(0, Ordering::Relaxed),
            _ => {}
        }
        result
    }

    /// How the connection's task is woken from now on.
    pub(super) fn wakes(&self, task: &Waker) {
        self.waker.get_or_init(|| task.clone());
    }

    pub(super) fn is_ending(&self) -> bool {
        self.state.load(Ordering::Acquire) != OPEN
    }

    pub(super) fn is_evicted(&self) -> bool {
        self.state.load(Ordering::Acquire) == EVICTED
    }

    pub(super) fn is_cut(&self) -> bool {
        self.state.load(Ordering::Acquire) == CUT
    }

    /// Lets the streams look whether there is something new.
    pub(super) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// No further streams; it closes when those that are open have ended.
    pub(super) fn end(&self) {
        let _ = self.state.compare_exchange(OPEN, ENDING, Ordering::AcqRel, Ordering::Acquire);
        self.wake();
    }

    /// Drops everything on the connection, which holds too much, and says so to its peer.
    pub(super) fn evict(&self) {
        let open = |state| (state < EVICTED).then_some(EVICTED);
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, open);
        self.wake();
    }

    /// Drops the connection with everything on it.
    pub(super) fn cut(&self) {
        self.state.store(CUT, Ordering::Release);
        self.wake();
    }
}
