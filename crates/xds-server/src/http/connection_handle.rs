//! A handle to a connection for the rest of the server: it wakes the connection, closes it, and says how
//! long the connection has been idle or its socket full.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use crate::admission::work_meter::WorkMeter;
use crate::atomic_timestamp::AtomicTimestamp;
use crate::listener::ConnectionSlot;

// In this order: a connection only ever goes to a later state.
const OPEN: u8 = 0;
const DRAINING: u8 = 1;
const EVICTED: u8 = 2;
const ABORTED: u8 = 3;

/// State that a connection's task shares with the rest of the server.
#[derive(Debug)]
pub(crate) struct ConnectionHandle {
    state: AtomicU8,
    /// Wakes the connection's task, which keeps the same waker for its whole life.
    waker: OnceLock<Waker>,
    opened: Instant,
    /// The work that the peer has caused.
    pub(crate) work: WorkMeter,
    // All three count from `opened`: a request message is incomplete, the socket accepts no bytes, no
    // stream is open.
    message_incomplete: AtomicTimestamp,
    socket_full: AtomicTimestamp,
    no_streams: AtomicTimestamp,
    /// Whether there ever was a stream.
    had_stream: AtomicBool,
    /// The connection's slot among those of its port.
    slot: OnceLock<ConnectionSlot>,
}

impl ConnectionHandle {
    pub(crate) fn new() -> Self {
        let no_streams = AtomicTimestamp::default();
        no_streams.set(Some(0));
        Self {
            state: AtomicU8::new(OPEN),
            waker: OnceLock::new(),
            opened: Instant::now(),
            work: WorkMeter::new(),
            message_incomplete: AtomicTimestamp::default(),
            socket_full: AtomicTimestamp::default(),
            no_streams,
            had_stream: AtomicBool::new(false),
            slot: OnceLock::new(),
        }
    }

    /// How long the socket has accepted no bytes.
    pub(crate) fn socket_full_for(&self) -> Duration {
        self.socket_full.elapsed(self.millis())
    }

    /// Records when the oldest incomplete request message began, if there is one.
    pub(crate) fn set_message_begun(&self, at: Option<Instant>) {
        let since = |at: Instant| at.saturating_duration_since(self.opened).as_millis() as u64;
        self.message_incomplete.set(at.map(since));
    }

    /// How long a request message has been incomplete.
    pub(crate) fn message_incomplete_for(&self) -> Duration {
        self.message_incomplete.elapsed(self.millis())
    }

    /// Time since the connection was accepted.
    pub(crate) fn age(&self) -> Duration {
        self.opened.elapsed()
    }

    /// Stores the connection's slot of the listener; to be called once.
    pub(crate) fn set_slot(&self, slot: ConnectionSlot) {
        _ = self.slot.set(slot);
    }

    /// A proxy has identified itself on this connection and was accepted, so the listener no longer counts
    /// the connection among the strangers.
    pub(crate) fn mark_established(&self) {
        if let Some(slot) = self.slot.get() {
            slot.mark_established();
        }
    }

    /// Records whether a stream is open.
    pub(crate) fn set_has_streams(&self, has_streams: bool) {
        match (has_streams, self.no_streams.is_set()) {
            (true, true) => {
                self.had_stream.store(true, Ordering::Relaxed);
                self.no_streams.set(None);
            }
            (false, false) => self.no_streams.set(Some(self.millis())),
            _ => {}
        }
    }

    /// The TLS handshake is done: from now on the peer may open a stream.
    pub(crate) fn restart_idle(&self) {
        self.no_streams.set(Some(self.millis()));
    }

    /// How long there has been no stream.
    pub(crate) fn idle_for(&self) -> Duration {
        self.no_streams.elapsed(self.millis())
    }

    /// Whether there ever was a stream.
    pub(crate) fn had_stream(&self) -> bool {
        self.had_stream.load(Ordering::Relaxed)
    }

    fn millis(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    /// Records whether the socket accepted a write, and passes the result on.
    pub(crate) fn record_write<T>(&self, result: Poll<T>) -> Poll<T> {
        match (&result, self.socket_full.is_set()) {
            (Poll::Pending, false) => self.socket_full.set(Some(self.millis())),
            (Poll::Ready(_), true) => self.socket_full.set(None),
            _ => {}
        }
        result
    }

    /// Stores the waker of the connection's task, once.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        self.waker.get_or_init(|| waker.clone());
    }

    /// Whether the connection is draining, evicted or aborted.
    pub(crate) fn is_closing(&self) -> bool {
        self.state.load(Ordering::Acquire) != OPEN
    }

    pub(crate) fn is_evicted(&self) -> bool {
        self.state.load(Ordering::Acquire) == EVICTED
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.state.load(Ordering::Acquire) == ABORTED
    }

    /// Polls the connection's task, so that its streams see a new snapshot.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
    }

    /// Accepts no further streams (GOAWAY); the connection closes when the open ones have ended.
    pub(crate) fn drain(&self) {
        let _ = self.state.compare_exchange(OPEN, DRAINING, Ordering::AcqRel, Ordering::Acquire);
        self.wake();
    }

    /// Drops every stream of a connection that holds too much memory, and sends the peer the reason.
    pub(crate) fn evict(&self) {
        let evicted = |state| (state < EVICTED).then_some(EVICTED);
        let _ = self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, evicted);
        self.wake();
    }

    /// Drops the connection with everything on it, without a word to the peer.
    pub(crate) fn abort(&self) {
        self.state.store(ABORTED, Ordering::Release);
        self.wake();
    }
}
