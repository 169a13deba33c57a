//! How much a peer may ask for.

use tokio::time::Instant;

/// A token bucket that holds ten seconds' worth: an Envoy with many clusters starts in bursts.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    pub(super) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, left: per_second * 10.0, at: Instant::now() }
    }

    /// Whether a request that came `now` is within the budget; it counts either way.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.per_second * 10.0) - 1.0;
        self.at = now;
        self.left >= 0.0
    }
}
