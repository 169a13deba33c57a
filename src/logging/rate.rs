//! A rate limit for the lines of each callsite: a burst, then a number per second. The lines that are left
//! out are counted, and the count is logged, so that a peer that causes lines cannot fill a disk.
//!
//! Debug and trace lines are not limited: who enables them wants all of them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one callsite at once: a hundred proxies that connect together, a folder of a hundred mistakes.
const BURST_LINES: u32 = 100;
/// Lines of one callsite per second, after the burst.
const LINES_PER_SECOND: u32 = 10;

pub(super) static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// The state of each callsite that has logged; their number is fixed.
#[derive(Clone, Debug, Default)]
pub(super) struct RateLimiter(Arc<Mutex<HashMap<Identifier, CallsiteState>>>);

#[derive(Debug)]
struct CallsiteState {
    metadata: &'static Metadata<'static>,
    tokens: u32,
    /// When `tokens` was last refilled.
    filled: Instant,
    left_out: u64,
}

impl RateLimiter {
    /// Whether one more line of this callsite is logged.
    fn admits(&self, metadata: &'static Metadata<'static>, now: Instant) -> bool {
        let mut callsites = self.callsites();
        let state = callsites.entry(metadata.callsite()).or_insert_with(|| CallsiteState {
            metadata,
            tokens: BURST_LINES,
            filled: now,
            left_out: 0,
        });
        let passed = now.saturating_duration_since(state.filled);
        let earned = passed.as_millis() * u128::from(LINES_PER_SECOND) / 1000;
        if earned > 0 {
            state.tokens = u32::try_from(earned)
                .unwrap_or(BURST_LINES)
                .saturating_add(state.tokens)
                .min(BURST_LINES);
            state.filled = now;
        }
        match state.tokens.checked_sub(1) {
            Some(rest) => {
                state.tokens = rest;
                true
            }
            None => {
                state.left_out += 1;
                LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// How many lines of each callsite were left out since the last call.
    pub(super) fn take_left_out(&self) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut callsites = self.callsites();
        let silent = callsites.values_mut().filter(|state| state.left_out > 0);
        silent.map(|state| (state.metadata, std::mem::take(&mut state.left_out))).collect()
    }

    fn callsites(&self) -> MutexGuard<'_, HashMap<Identifier, CallsiteState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer of the whole log and no filter of one layer: tracing-subscriber 0.3.23 keeps what such a
/// filter says of one event for the next one, if it says so in `event_enabled` (an assertion of debug
/// builds sees it).
impl<S: Subscriber> Layer<S> for RateLimiter {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let metadata = event.metadata();
        // The log's own lines are few.
        *metadata.level() > Level::INFO
            || metadata.target() == super::sink::TARGET
            || self.admits(metadata, Instant::now())
    }
}

/// How often the counts are logged.
pub(super) const SUMMARY_INTERVAL: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    /// Notes where each event comes from.
    struct Notes(Arc<Mutex<Vec<&'static Metadata<'static>>>>);

    impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Notes {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            self.0.lock().unwrap().push(event.metadata());
        }
    }

    /// Two places that log.
    fn places() -> [&'static Metadata<'static>; 2] {
        let notes = Arc::default();
        let log = tracing_subscriber::registry().with(Notes(Arc::clone(&notes)));
        tracing::subscriber::with_default(log, || {
            tracing::info!(target: "one", "");
            tracing::warn!(target: "other", "");
        });
        let places = notes.lock().unwrap();
        (*places).clone().try_into().unwrap()
    }

    #[test]
    fn a_burst_is_logged_then_a_rate_and_the_rest_is_counted() {
        let (rate, start, [one, other]) = (RateLimiter::default(), Instant::now(), places());
        let admitted = |of, count, at| (0..count).filter(|_| rate.admits(of, at)).count();
        assert_eq!(admitted(one, 1000, start), BURST_LINES as usize);
        // Another callsite is not held up by it.
        assert_eq!(admitted(other, 10, start), 10);
        let later = start + Duration::from_secs(2);
        assert_eq!(admitted(one, 1000, later), 2 * LINES_PER_SECOND as usize);
        let counts: Vec<_> =
            rate.take_left_out().into_iter().map(|(metadata, n)| (metadata.target(), n)).collect();
        assert_eq!(counts, [("one", 900 + 980)]);
        assert!(rate.take_left_out().is_empty());
        // Never more than a burst, however long it was quiet.
        assert_eq!(admitted(one, 1000, later + Duration::from_secs(3600)), BURST_LINES as usize);
    }

    #[test]
    fn a_slow_trickle_is_never_left_out() {
        let (rate, start, [one, _]) = (RateLimiter::default(), Instant::now(), places());
        let pause = Duration::from_millis(1000 / u64::from(LINES_PER_SECOND));
        assert!((0..1000).all(|number| rate.admits(one, start + pause * number)));
        assert!(rate.take_left_out().is_empty());
    }
}
