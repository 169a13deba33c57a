//! How much work a peer makes, and when the others have their turn.
//!
//! A request of ninety bytes and one of four megabytes are one request each, so what counts is what
//! they make the server do: names read, bytes looked at, bytes sent. A connection that has worked
//! for a while lets the other tasks and the sockets have their turn, whoever sends; and one that
//! keeps it up is read no faster than its rate, by flow control, which costs it nothing but time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Units of work that a request costs beside what is in it. A unit is about what it takes to read
/// one name and to look it up, 0.3 µs (release build).
const REQUEST: usize = 16;

/// Bytes that are compared or handed on for the price of one name.
const BYTES: usize = 1024;

/// Work at a stretch, about 0.6 ms: a usual start (a thousand names) is done in one go.
const STRETCH: u32 = 2_000;

/// Work a second, about 60 ms of a processor, and what may come at once after a quiet time. An
/// Envoy with 10,000 clusters that repeats all their names in ten ACKs a second stays below.
const PER_SECOND: f64 = 200_000.0;
const BURST: f64 = 1_000_000.0;

/// The work of one connection.
#[derive(Debug)]
pub(super) struct Work {
    /// Since its task was last polled.
    stretch: AtomicU32,
    // A std mutex, never held across an await; all who take it are one task.
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

/// What a request that has so many names to read and so many bytes costs.
pub(super) fn of_request(names: usize, bytes: usize) -> usize {
    REQUEST + names + bytes / BYTES
}

/// What a response of so many bytes costs.
pub(super) fn of_response(bytes: usize) -> usize {
    1 + bytes / BYTES
}

impl Work {
    pub(super) fn new() -> Self {
        let bucket = Bucket { left: BURST, at: Instant::now() };
        Self { stretch: AtomicU32::new(0), bucket: Mutex::new(bucket) }
    }

    /// The connection's task is polled: it may work for another stretch.
    pub(super) fn begin_stretch(&self) {
        self.stretch.store(0, Ordering::Relaxed);
    }

    /// Whether it is the others' turn.
    pub(super) fn is_stretch_over(&self) -> bool {
        self.stretch.load(Ordering::Relaxed) >= STRETCH
    }

    /// Counts work that was done.
    pub(super) fn done(&self, units: usize, now: Instant) {
        let stretch = self.stretch.load(Ordering::Relaxed);
        let more = u32::try_from(units).unwrap_or(u32::MAX);
        self.stretch.store(stretch.saturating_add(more), Ordering::Relaxed);
        let mut bucket = self.bucket();
        bucket.refill(now);
        bucket.left -= units as f64;
    }

    /// How long no further request is to be read, if so.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let mut bucket = self.bucket();
        bucket.refill(now);
        (bucket.left < 0.0).then(|| Duration::from_secs_f64(-bucket.left / PER_SECOND))
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        self.left = (self.left + gained).min(BURST);
        self.at = self.at.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_ends_and_begins_anew() {
        let (work, now) = (Work::new(), Instant::now());
        work.done(of_request(1000, 50_000), now);
        assert!(!work.is_stretch_over(), "a usual start is done in one go");
        work.done(of_request(1000, 50_000), now);
        assert!(work.is_stretch_over());
        work.begin_stretch();
        assert!(!work.is_stretch_over());
        work.done(usize::MAX / 2, now);
        assert!(work.is_stretch_over());
    }

    #[test]
    fn what_is_beyond_the_rate_waits_as_long_as_it_takes() {
        let (work, now) = (Work::new(), Instant::now());
        work.done(BURST as usize, now);
        assert_eq!(work.wait(now), None);
        work.done(PER_SECOND as usize, now);
        assert_eq!(work.wait(now), Some(Duration::from_secs(1)));
        assert_eq!(work.wait(now + Duration::from_millis(1001)), None);
        // Time does not go back, and an hour of quiet is worth no more than the burst.
        assert_eq!(work.wait(now), None);
        let later = now + Duration::from_secs(3600);
        work.done(BURST as usize + PER_SECOND as usize, later);
        assert_eq!(work.wait(later), Some(Duration::from_secs(1)));
    }

    #[test]
    fn an_envoy_with_ten_thousand_clusters_is_never_slowed_down() {
        let (work, mut now) = (Work::new(), Instant::now());
        for _ in 0..600 {
            work.done(of_request(10_000, 600_000) + of_response(4_000_000), now);
            now += Duration::from_millis(100);
            assert_eq!(work.wait(now), None);
        }
    }
}
