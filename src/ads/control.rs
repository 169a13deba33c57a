//! The means to look after a connection from outside: to wake it, to end it, and to see that its
//! socket takes nothing.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::since::Since;
use super::work::Work;
use crate::door::Place;

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
    // From `opened` on: a message has been coming, the socket takes nothing, no stream is open.
    message: Since,
    full: Since,
    idle: Since,
    /// Whether there ever was a stream.
    spoken: AtomicBool,
    /// Among the connections of its door.
    place: OnceLock<Place>,
}

impl Control {
    pub(super) fn new() -> Self {
        let idle = Since::default();
        idle.set(Some(0));
        Self {
            state: AtomicU8::new(OPEN),
            waker: OnceLock::new(),
            opened: Instant::now(),
            work: Work::new(),
            message: Since::default(),
            full: Since::default(),
            idle,
            spoken: AtomicBool::new(false),
            place: OnceLock::new(),
        }
    }

    /// How long the socket has been taking nothing.
    pub(super) fn full_for(&self) -> Duration {
        self.full.lasts(self.millis())
    }

    /// Notes since when the oldest message has been coming that is not whole.
    pub(super) fn message_begun(&self, at: Option<Instant>) {
        let since = |at: Instant| at.saturating_duration_since(self.opened).as_millis() as u64;
        self.message.set(at.map(since));
    }

    /// How long a message has been coming that is not whole.
    pub(super) fn message_for(&self) -> Duration {
        self.message.lasts(self.millis())
    }

    /// How long the connection has been there.
    pub(super) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// What the connection holds at its door.
    pub(super) fn holds(&self, place: Place) {
        _ = self.place.set(place);
    }

    /// A proxy is there: a stream has said who it is, and was accepted.
    pub(super) fn settle(&self) {
        if let Some(place) = self.place.get() {
            place.settle();
        }
    }

    /// Notes whether a stream is open.
    pub(super) fn has_streams(&self, open: bool) {
        match (open, self.idle.is_set()) {
            (true, true) => {
                self.spoken.store(true, Ordering::Relaxed);
                self.idle.set(None);
            }
            (false, false) => self.idle.set(Some(self.millis())),
            _ => {}
        }
    }

    /// How long there has been no stream.
    pub(super) fn idle_for(&self) -> Duration {
        self.idle.lasts(self.millis())
    }

    /// Whether there ever was a stream.
    pub(super) fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Notes what became of a write to the socket.
    pub(super) fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        match (&result, self.full.is_set()) {
            (Poll::Pending, false) => self.full.set(Some(self.millis())),
            (Poll::Ready(_), true) => self.full.set(None),
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
