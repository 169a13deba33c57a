//! Finds peers that have stopped reading a response or sending a request, and aborts their
//! connections.
//!
//! A stream hands its response over in pieces and is polled again when HTTP/2 has sent one. A peer that
//! does not read stops it there, and then the stream itself can end nothing. So each stream records when
//! it handed over the piece that is being sent (HTTP/2's windows may be closed), its connection records
//! since when the socket is full, and the server's sweep compares both with the limits.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pilothouse_xds::Frame;
use tracing::warn;

use super::registry::StreamEntry;
use crate::atomic_timestamp::AtomicTimestamp;
use crate::mesh::{Mesh, ServerTexts};
use crate::metrics::ServerMetrics;

/// How long a request message may take from its first byte to its last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(30);

/// Bytes of responses that stalled readers may keep alive together, each response counted once, and without what
/// it shares with earlier ones: readers stall at the same response, or else each at its own. (By their whole
/// lengths ten readers of ten views of 10,000 services would be too many, though their responses are one but
/// for some kilobytes.)
const PINNED_BYTES: usize = 64 << 20;

/// How long a reader must be stalled for its response to count as pinned.
const PINNED_AFTER: Duration = Duration::from_secs(2);

/// How far one stream is with sending a response; written by the stream, read by the sweep.
#[derive(Debug)]
pub(super) struct SendProgress {
    epoch: Instant,
    /// A piece of a response was handed over and is not sent yet; milliseconds after the epoch.
    piece_unsent: AtomicTimestamp,
    /// Address of the response that the piece belongs to, and the bytes that are its own.
    frame_address: AtomicUsize,
    own_bytes: AtomicUsize,
}

impl SendProgress {
    pub(super) fn new() -> Self {
        Self {
            epoch: Instant::now(),
            piece_unsent: AtomicTimestamp::default(),
            frame_address: AtomicUsize::new(0),
            own_bytes: AtomicUsize::new(0),
        }
    }

    /// The pieces that follow are this response's.
    pub(super) fn begin_response(&self, frame: &Frame) {
        self.frame_address.store(frame.head.address(), Ordering::Relaxed);
        self.own_bytes.store(frame.own_bytes(), Ordering::Relaxed);
    }

    /// A piece is handed over to HTTP/2.
    pub(super) fn begin_piece(&self) {
        self.piece_unsent.set(Some(self.millis()));
    }

    /// The last piece was sent.
    pub(super) fn finish_response(&self) {
        self.piece_unsent.set(None);
    }

    /// How long the current piece has been unsent; zero if there is none.
    pub(super) fn unsent_for(&self) -> Duration {
        self.piece_unsent.elapsed(self.millis())
    }

    fn frame(&self) -> (usize, usize) {
        let address = self.frame_address.load(Ordering::Relaxed);
        (address, self.own_bytes.load(Ordering::Relaxed))
    }

    fn millis(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }
}

/// Aborts the connections of stalled peers.
#[derive(Debug)]
pub(super) struct StallDetector {
    send_timeout: Duration,
    metrics: Arc<ServerMetrics>,
    texts: &'static ServerTexts,
}

impl StallDetector {
    /// `send_timeout` is how long a peer may read nothing of a response.
    pub(super) fn new(
        send_timeout: Duration,
        metrics: Arc<ServerMetrics>,
        texts: &'static ServerTexts,
    ) -> Self {
        Self { send_timeout, metrics, texts }
    }

    /// Aborts connections on which a response is stalled or a request incomplete for too long, and the
    /// ones stalled longest if stalled readers keep too many responses alive.
    pub(super) fn sweep<M: Mesh>(&self, streams: &[Arc<StreamEntry<M>>]) {
        let limit = self.send_timeout;
        let mut pinning = Vec::new();
        for entry in streams {
            let stalled = entry.stalled_for();
            if stalled >= limit {
                warn!(
                    proxy = entry.stream.connection_id(), peer = ?entry.stream.peer,
                    "has taken nothing of a response for {limit:?} ({}), disconnected",
                    self.texts.send,
                );
                self.metrics.send_timed_out();
                abort(entry);
            } else if entry.handle.message_incomplete_for() >= MESSAGE_TIMEOUT {
                warn!(
                    proxy = entry.stream.connection_id(), peer = ?entry.stream.peer,
                    "a request has been coming for {MESSAGE_TIMEOUT:?} and is not whole, disconnected"
                );
                abort(entry);
            } else if stalled >= PINNED_AFTER {
                pinning.push((stalled, entry));
            }
        }
        pinning.sort_unstable_by_key(|(stalled, _)| *stalled);
        let (mut frames, mut pinned_bytes) = (HashSet::new(), 0);
        for (stalled, entry) in pinning {
            let (address, len) = entry.progress.frame();
            if frames.contains(&address) {
                continue;
            }
            if pinned_bytes + len > PINNED_BYTES {
                warn!(
                    proxy = entry.stream.connection_id(), peer = ?entry.stream.peer,
                    "has taken nothing of a response for {stalled:?}, and too many responses are \
                     kept for such readers, disconnected"
                );
                self.metrics.send_timed_out();
                abort(entry);
            } else {
                frames.insert(address);
                pinned_bytes += len;
            }
        }
    }
}

/// The stream is no longer stalled, so that the next sweep does not report it again.
fn abort<M: Mesh>(entry: &StreamEntry<M>) {
    entry.progress.finish_response();
    entry.handle.abort();
}
