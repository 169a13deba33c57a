//! Since when something has been so, to be looked at from another thread: milliseconds after a moment
//! that both sides know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The milliseconds plus one; 0 if it is not so.
#[derive(Debug, Default)]
pub(super) struct Since(AtomicU64);

impl Since {
    /// It has been so since then, or is not so.
    pub(super) fn set(&self, at: Option<u64>) {
        let at = at.map_or(0, |at| at + 1);
        // Its neighbours are read by other threads: what is the same is not written.
        if self.0.load(Ordering::Relaxed) != at {
            self.0.store(at, Ordering::Relaxed);
        }
    }

    pub(super) fn is_set(&self) -> bool {
        self.0.load(Ordering::Relaxed) != 0
    }

    /// For how long it has been so; zero if it is not.
    pub(super) fn lasts(&self, now: u64) -> Duration {
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
        let since = Since::default();
        assert!(!since.is_set() && since.lasts(7).is_zero());
        since.set(Some(0));
        assert!(since.is_set());
        assert_eq!(since.lasts(7), Duration::from_millis(7));
        since.set(Some(9));
        assert_eq!(since.lasts(7), Duration::ZERO, "clocks of two threads");
        since.set(None);
        assert!(!since.is_set());
    }
}
