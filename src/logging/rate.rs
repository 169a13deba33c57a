//! How many lines of one kind (of one place in the code) are logged: so many at once, then so many a
//! second; the others are counted, and the count is said. Who makes us log cannot fill a disk.
//!
//! Debug and trace are for whoever asked for all of it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// Lines of one kind at once: a hundred proxies that connect together, a folder of a hundred mistakes.
const BURST: u32 = 100;
/// And a second, after that.
const A_SECOND: u32 = 10;

pub(super) static LEFT_OUT: AtomicU64 = AtomicU64::new(0);

/// One for each place in the code that has logged, of which there is a fixed number.
#[derive(Clone, Debug, Default)]
pub(super) struct Rate(Arc<Mutex<HashMap<Identifier, Kind>>>);

#[derive(Debug)]
struct Kind {
    of: &'static Metadata<'static>,
    tokens: u32,
    /// What `tokens` are as of.
    filled: Instant,
    left_out: u64,
}

impl Rate {
    /// Whether one more line of this kind is logged.
    fn admits(&self, of: &'static Metadata<'static>, now: Instant) -> bool {
        let mut kinds = self.kinds();
        let kind = kinds.entry(of.callsite()).or_insert_with(|| Kind {
            of,
            tokens: BURST,
            filled: now,
            left_out: 0,
        });
        let passed = now.saturating_duration_since(kind.filled);
        let earned = passed.as_millis() * u128::from(A_SECOND) / 1000;
        if earned > 0 {
            kind.tokens =
                u32::try_from(earned).unwrap_or(BURST).saturating_add(kind.tokens).min(BURST);
            kind.filled = now;
        }
        match kind.tokens.checked_sub(1) {
            Some(rest) => {
                kind.tokens = rest;
                true
            }
            None => {
                kind.left_out += 1;
                LEFT_OUT.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// What was left out since the last call.
    pub(super) fn take_left_out(&self) -> Vec<(&'static Metadata<'static>, u64)> {
        let mut kinds = self.kinds();
        let silent = kinds.values_mut().filter(|kind| kind.left_out > 0);
        silent.map(|kind| (kind.of, std::mem::take(&mut kind.left_out))).collect()
    }

    fn kinds(&self) -> MutexGuard<'_, HashMap<Identifier, Kind>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A layer of the whole log and no filter of one layer: tracing-subscriber 0.3.23 keeps what such a
/// filter says of one event for the next one, if it says so in `event_enabled` (an assertion of debug
/// builds sees it).
impl<S: Subscriber> Layer<S> for Rate {
    fn event_enabled(&self, event: &Event<'_>, _: Context<'_, S>) -> bool {
        let of = event.metadata();
        // What the log says of itself is little by itself.
        *of.level() > Level::INFO
            || of.target() == super::sink::OWN
            || self.admits(of, Instant::now())
    }
}

/// How often the counts are said.
pub(super) const PERIOD: Duration = Duration::from_secs(5);

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
        let (rate, start, [one, other]) = (Rate::default(), Instant::now(), places());
        let admitted = |of, count, at| (0..count).filter(|_| rate.admits(of, at)).count();
        assert_eq!(admitted(one, 1000, start), BURST as usize);
        // Another kind is not held up by it.
        assert_eq!(admitted(other, 10, start), 10);
        let later = start + Duration::from_secs(2);
        assert_eq!(admitted(one, 1000, later), 2 * A_SECOND as usize);
        let counts: Vec<_> =
            rate.take_left_out().into_iter().map(|(of, n)| (of.target(), n)).collect();
        assert_eq!(counts, [("one", 900 + 980)]);
        assert!(rate.take_left_out().is_empty());
        // Never more than a burst, however long it was quiet.
        assert_eq!(admitted(one, 1000, later + Duration::from_secs(3600)), BURST as usize);
    }

    #[test]
    fn a_slow_trickle_is_never_left_out() {
        let (rate, start, [one, _]) = (Rate::default(), Instant::now(), places());
        let pause = Duration::from_millis(1000 / u64::from(A_SECOND));
        assert!((0..1000).all(|number| rate.admits(one, start + pause * number)));
        assert!(rate.take_left_out().is_empty());
    }
}
