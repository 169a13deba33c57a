//! How many requests a peer may make.

use tokio::time::Instant;

/// A token bucket that holds ten seconds' worth of requests: an Envoy with many clusters starts in
/// bursts.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    per_second: f64,
    tokens: f64,
    refilled: Instant,
}

impl RateLimiter {
    pub(crate) fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, tokens: per_second * 10.0, refilled: Instant::now() }
    }

    /// Whether a request that came `now` is within the rate; a request that is not counts as well.
    pub(crate) fn allow_request(&mut self, now: Instant) -> bool {
        let gained = now.duration_since(self.refilled).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + gained).min(self.per_second * 10.0) - 1.0;
        self.refilled = now;
        self.tokens >= 0.0
    }
}
