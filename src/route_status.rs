//! `status.parents` of HTTPRoutes and GRPCRoutes: what has become of each, for `kubectl get` and for whoever waits
//! for it.
//!
//! A reader at the end, as `events` is: it reads the publisher's report. What is to be written is decided without
//! I/O (`parents`), in which order and how fast by `pending`, and `api` asks the API server. There is no leader:
//! every replica has the same report and would write the same words, and none writes where nothing differs, so the
//! first one to come writes and the others find it done. Runs only where the mesh is an API server's. The right to
//! patch may be missing: then everything else works.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::metrics::{Metrics, StatusOutcome};
use crate::model::RouteKey;
use crate::model::route::RouteReport;

mod api;
mod parents;
mod pending;

use api::{ApiServer, Failure, Looked};
use pending::Pending;

/// Routes that are looked at at the same time.
const CONCURRENT: usize = 4;
/// How many are begun at once and in a second after that: 10,000 routes take less than four minutes, and
/// need 50 GETs a second, and as many PATCHes where nobody has written yet.
const BURST: f64 = 50.0;
const PER_SECOND: f64 = 50.0;
/// All are looked at again this often, after everything else: somebody else may have written over an entry.
const RESYNC: Duration = Duration::from_secs(30 * 60);
/// How long a kind is left alone where the right is missing.
const WITHOUT_RIGHT: Duration = Duration::from_secs(180);
/// Pauses while the API server cannot be asked: each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// What has been begun may end within this at a shutdown.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// How it goes, for `/debug/sourcez`.
#[derive(Debug, Default)]
pub struct RouteStatusHealth(Mutex<RouteStatusFacts>);

/// What [`RouteStatusHealth`] knows.
#[derive(Clone, Debug, Default)]
pub struct RouteStatusFacts {
    /// Routes whose status is still to be looked at.
    pub waiting: usize,
    /// When a status was written last.
    pub last_written: Option<SystemTime>,
    /// Why nothing can be written at the moment, and what to do.
    pub last_error: Option<String>,
}

impl RouteStatusHealth {
    /// All of it now.
    pub fn facts(&self) -> RouteStatusFacts {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, RouteStatusFacts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose status is written, and where.
#[derive(Debug)]
pub struct RouteStatusWriter {
    /// The context of the kubeconfig, as for the source.
    pub context: Option<String>,
    pub reports: watch::Receiver<RouteReport>,
    pub metrics: Arc<Metrics>,
    pub health: Arc<RouteStatusHealth>,
}

impl RouteStatusWriter {
    /// Writes until `stop` fires. What still waits then is left to another replica, or to the next start.
    pub async fn run(mut self, stop: CancellationToken) {
        let api = ApiServer::new(self.context.clone());
        let mut pending = Pending::default();
        let mut looks = FuturesUnordered::new();
        let mut pace = Pace { tokens: BURST, at: Instant::now(), pause: None };
        let mut resync = Instant::now() + RESYNC;
        let (mut is_published, mut told) = (true, None);
        pending.see(&self.reports.borrow_and_update().clone());
        loop {
            let now = Instant::now();
            if now >= resync {
                pending.resync();
                resync = now + RESYNC;
            }
            while looks.len() < CONCURRENT
                && pace.may_begin(now)
                && let Some((key, verdict)) = pending.begin(now)
            {
                pace.tokens -= 1.0;
                let api = &api;
                // Boxed: a request to the API server and its answer are most of twenty KiB.
                looks.push(Box::pin(async move {
                    let looked = api.look(&key, &verdict).await;
                    (key, looked)
                }));
            }
            self.show(&pending);
            let wake = match looks.len() < CONCURRENT {
                true => pending.due(now).map_or(resync, |due| due.max(pace.next(now)).min(resync)),
                false => resync,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.reports.changed(), if is_published => match changed {
                    Ok(()) => pending.see(&self.reports.borrow_and_update().clone()),
                    // The publisher has ended, which is a shutdown.
                    Err(_) => is_published = false,
                },
                Some((key, looked)) = looks.next() => {
                    self.take(key, looked, &mut pending, &mut pace, &mut told);
                }
                () = sleep_until(wake) => {}
            }
        }
        let last = async {
            while let Some((key, looked)) = looks.next().await {
                self.take(key, looked, &mut pending, &mut pace, &mut told);
            }
        };
        // What is cut off has been written or has not; the next to look finds out.
        let _cut_off = timeout(LAST_ANSWERS, last).await;
    }

    /// Notes what became of a route, and when it is to be looked at again.
    fn take(
        &self,
        key: RouteKey,
        looked: Looked,
        pending: &mut Pending,
        pace: &mut Pace,
        told: &mut Option<Told>,
    ) {
        (0..looked.conflicts).for_each(|_| self.metrics.route_status(StatusOutcome::Conflict));
        let now = Instant::now();
        let answered = !matches!(looked.outcome, Err(Failure::NotNow(..)));
        let mut words = None;
        let (outcome, error) = match looked.outcome {
            Ok(outcome) => {
                pending.settled(&key);
                (outcome, None)
            }
            Err(Failure::NoRight(error)) => {
                pending.without_right(&key, now + WITHOUT_RIGHT);
                (StatusOutcome::Forbidden, Some(error))
            }
            Err(Failure::NotNow(error, at_least)) => {
                pending.again(&key);
                pace.fail(now, at_least);
                (StatusOutcome::Failed, Some(error))
            }
            Err(Failure::Contended) => {
                pending.later(&key, now);
                (StatusOutcome::Failed, None)
            }
            Err(Failure::Refused(error, message)) => {
                pending.settled(&key);
                words = Some(message);
                (StatusOutcome::Failed, Some(error))
            }
        };
        if answered {
            pace.pause = None;
        }
        self.metrics.route_status(outcome);
        // What was waited for may have been done by another replica.
        let is_done = told.as_ref().is_some_and(|told| told.waits) && pending.len() == 0;
        if outcome == StatusOutcome::Written {
            self.health.lock().last_written = Some(SystemTime::now());
        }
        if outcome == StatusOutcome::Written || is_done {
            self.health.lock().last_error = None;
            if told.take().is_some() {
                info!("the status of routes is written again");
            }
        }
        let Some(error) = error else { return };
        self.health.lock().last_error = Some(error.clone());
        // Once for all that fails alike.
        if told.as_ref().is_none_or(|told| told.error != error) {
            warn!(route = %key, %error, words, "cannot write the status of routes");
            *told = Some(Told { error, waits: words.is_none() });
        }
    }

    fn show(&self, pending: &Pending) {
        self.metrics.route_status_waits(pending.len());
        self.health.lock().waiting = pending.len();
    }
}

/// What went wrong last.
#[derive(Debug)]
struct Told {
    error: String,
    /// It is tried again, until it is done.
    waits: bool,
}

/// How fast: a token bucket, and pauses while the API server cannot be asked.
#[derive(Debug)]
struct Pace {
    tokens: f64,
    at: Instant,
    /// Until when nothing is begun, and how long that was.
    pause: Option<(Instant, Duration)>,
}

impl Pace {
    fn may_begin(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        self.tokens = (self.tokens + gained).min(BURST);
        self.at = now;
        self.tokens >= 1.0 && self.pause.is_none_or(|(until, _)| now >= until)
    }

    /// When something may begin.
    fn next(&self, now: Instant) -> Instant {
        let missing = ((1.0 - self.tokens) / PER_SECOND).max(0.0);
        let next = now + Duration::from_secs_f64(missing);
        self.pause.map_or(next, |(until, _)| until.max(next))
    }

    fn fail(&mut self, now: Instant, at_least: Duration) {
        // Those that were under way at the same time fail for the same reason.
        if self.pause.is_some_and(|(until, _)| now < until) {
            return;
        }
        let pause = self.pause.map_or(FIRST_PAUSE, |(_, last)| (last * 2).min(MAX_PAUSE));
        self.pause = Some((now + pause.max(at_least), pause));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_thousand_are_begun_at_fifty_a_second() {
        let start = Instant::now();
        let mut pace = Pace { tokens: BURST, at: start, pause: None };
        let (mut now, mut begun) = (start, 0);
        while begun < 10_000 {
            match pace.may_begin(now) {
                true => {
                    pace.tokens -= 1.0;
                    begun += 1;
                }
                false => now = pace.next(now) + Duration::from_micros(1),
            }
        }
        let took = (now - start).as_secs_f64();
        assert!((198.0..200.0).contains(&took), "{took}");
    }

    #[test]
    fn pauses_grow_while_nothing_is_answered() {
        let mut now = Instant::now();
        let mut pace = Pace { tokens: BURST, at: now, pause: None };
        let mut lasted = Vec::new();
        for _ in 0..8 {
            pace.fail(now, Duration::ZERO);
            pace.fail(now, Duration::ZERO);
            assert!(!pace.may_begin(now));
            lasted.push((pace.next(now) - now).as_secs());
            now = pace.next(now);
            assert!(pace.may_begin(now));
        }
        assert_eq!(lasted, [1, 2, 4, 8, 16, 32, 60, 60]);
        pace.pause = None;
        pace.fail(now, Duration::from_secs(7));
        assert_eq!((pace.next(now) - now).as_secs(), 7);
    }
}
