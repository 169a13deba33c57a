//! The moment at which a condition began, written by one thread and read by others.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Milliseconds since an epoch that writer and readers share, plus one; 0 while the condition does
/// not hold.
#[derive(Debug, Default)]
pub(super) struct AtomicTimestamp(AtomicU64);

impl AtomicTimestamp {
    /// The condition has held since `at` (milliseconds since the epoch), or does not hold.
    pub(super) fn set(&self, at: Option<u64>) {
        let at = at.map_or(0, |at| at + 1);
        // The fields beside it are read by other threads: an unchanged value is not written, so that
        // their cache line stays clean.
        if self.0.load(Ordering::Relaxed) != at {
            self.0.store(at, Ordering::Relaxed);
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// For how long the condition has held; zero if it does not. `now` is in milliseconds since the
    /// epoch.
    pub(super) fn elapsed(&self, now: u64) -> Duration {
        match self.0.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((now + 1).saturating_sub(since)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_lasts_from_the_moment_that_it_was_set_to() {
        let since = AtomicTimestamp::default();
        assert!(!since.is_set() && since.elapsed(7).is_zero());
        since.set(Some(0));
        assert!(since.is_set());
        assert_eq!(since.elapsed(7), Duration::from_millis(7));
        since.set(Some(9));
        assert_eq!(since.elapsed(7), Duration::ZERO, "clocks of two threads");
        since.set(None);
        assert!(!since.is_set());
    }
}
