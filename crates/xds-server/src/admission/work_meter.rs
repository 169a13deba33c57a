//! How much work a peer causes, and when the other tasks get to run.
//!
//! A request of ninety bytes and one of four megabytes are one request each, so what counts is what
//! they make the server do: names read, bytes compared, bytes sent. A connection that has worked for
//! one time slice yields to the other tasks and sockets, however much its peer sends; and a peer that
//! keeps exceeding the rate is read no faster than that, by flow control, which costs it only time.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Units of work that a request costs beside its names and bytes. One unit is about what it takes to
/// read a name and look it up, 0.3 µs (release build).
const REQUEST_UNITS: usize = 16;

/// Bytes that are compared or sent at the cost of one unit.
const BYTES_PER_UNIT: usize = 1024;

/// Units in one time slice, about 0.6 ms: a usual start (a thousand names) fits into one.
const SLICE: u32 = 2_000;

/// Units a second (about 60 ms of a processor), and the burst after a quiet time. An Envoy with 10,000
/// clusters that repeats all their names in ten ACKs a second stays below.
const PER_SECOND: f64 = 200_000.0;
const BURST: f64 = 1_000_000.0;

/// Counts the work of one connection.
#[derive(Debug)]
pub(crate) struct WorkMeter {
    /// Units since the connection's task was last polled.
    slice: AtomicU32,
    // A std mutex, never held across an await; all who take it are one task.
    bucket: Mutex<Bucket>,
}

#[derive(Debug)]
struct Bucket {
    units: f64,
    refilled: Instant,
}

/// Units that a request with so many names to read and so many bytes costs.
pub(crate) fn request_units(names: usize, bytes: usize) -> usize {
    REQUEST_UNITS + names + bytes / BYTES_PER_UNIT
}

/// Units that a response of so many bytes costs.
pub(crate) fn response_units(bytes: usize) -> usize {
    1 + bytes / BYTES_PER_UNIT
}

impl WorkMeter {
    pub(crate) fn new() -> Self {
        let bucket = Bucket { units: BURST, refilled: Instant::now() };
        Self { slice: AtomicU32::new(0), bucket: Mutex::new(bucket) }
    }

    /// The connection's task is polled: it gets another time slice.
    pub(crate) fn begin_slice(&self) {
        self.slice.store(0, Ordering::Relaxed);
    }

    /// Whether the task must yield.
    pub(crate) fn is_slice_over(&self) -> bool {
        self.slice.load(Ordering::Relaxed) >= SLICE
    }

    /// Charges work that was done.
    pub(crate) fn charge(&self, units: usize, now: Instant) {
        let slice = self.slice.load(Ordering::Relaxed);
        let more = u32::try_from(units).unwrap_or(u32::MAX);
        self.slice.store(slice.saturating_add(more), Ordering::Relaxed);
        let mut bucket = self.bucket();
        bucket.refill(now);
        bucket.units -= units as f64;
    }

    /// For how long no further request may be read; `None` if the rate is kept.
    pub(crate) fn throttle_delay(&self, now: Instant) -> Option<Duration> {
        let mut bucket = self.bucket();
        bucket.refill(now);
        (bucket.units < 0.0).then(|| Duration::from_secs_f64(-bucket.units / PER_SECOND))
    }

    fn bucket(&self) -> MutexGuard<'_, Bucket> {
        self.bucket.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let gained = now.saturating_duration_since(self.refilled).as_secs_f64() * PER_SECOND;
        self.units = (self.units + gained).min(BURST);
        self.refilled = self.refilled.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_slice_ends_and_begins_anew() {
        let (work, now) = (WorkMeter::new(), Instant::now());
        work.charge(request_units(1000, 50_000), now);
        assert!(!work.is_slice_over(), "a usual start is done in one go");
        work.charge(request_units(1000, 50_000), now);
        assert!(work.is_slice_over());
        work.begin_slice();
        assert!(!work.is_slice_over());
        work.charge(usize::MAX / 2, now);
        assert!(work.is_slice_over());
    }

    #[test]
    fn what_is_beyond_the_rate_waits_as_long_as_it_takes() {
        let (work, now) = (WorkMeter::new(), Instant::now());
        work.charge(BURST as usize, now);
        assert_eq!(work.throttle_delay(now), None);
        work.charge(PER_SECOND as usize, now);
        assert_eq!(work.throttle_delay(now), Some(Duration::from_secs(1)));
        assert_eq!(work.throttle_delay(now + Duration::from_millis(1001)), None);
        // Time does not go back, and an hour of quiet is worth no more than the burst.
        assert_eq!(work.throttle_delay(now), None);
        let later = now + Duration::from_secs(3600);
        work.charge(BURST as usize + PER_SECOND as usize, later);
        assert_eq!(work.throttle_delay(later), Some(Duration::from_secs(1)));
    }

    #[test]
    fn an_envoy_with_ten_thousand_clusters_is_never_slowed_down() {
        let (work, mut now) = (WorkMeter::new(), Instant::now());
        for _ in 0..600 {
            work.charge(request_units(10_000, 600_000) + response_units(4_000_000), now);
            now += Duration::from_millis(100);
            assert_eq!(work.throttle_delay(now), None);
        }
    }
}
