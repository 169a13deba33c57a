//! Whether the proxy is ready, by Istio's conditions: CDS and LDS accepted once, then the server live
//! and its workers started. What was true once stays true: a proxy that lost its control plane goes on
//! with what it has. What has to stay true is that Envoy answers at all: one that hangs takes the
//! pod's connections and does nothing with them, so it is unready, and in the end not live.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::cause::Cause;
use crate::readiness::{Conditions, Guard};
use crate::sidecar::envoy_admin::{AdminError, EnvoyAdmin, Stats, UpdateCounts};

/// Between two questions to Envoy: at first often, because a pod's start waits for the answer.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
const SLOW_POLL_INTERVAL: Duration = Duration::from_secs(1);
const FAST_POLL_PERIOD: Duration = Duration::from_secs(30);
/// What Envoy usually needs to open its admin port, so no news before that.
const STARTUP_GRACE: Duration = Duration::from_secs(1);
/// A line that says nothing new is said again after this long.
const LOG_REPEAT_INTERVAL: Duration = Duration::from_secs(15);

/// Between two questions to an Envoy that is ready.
const LIVENESS_INTERVAL: Duration = Duration::from_secs(2);
/// An Envoy whose admin port has been silent for this long is not live: its main thread has hung. Six
/// times what one question may take (`ADMIN_TIMEOUT`), so that a configuration of a large mesh, which
/// keeps that thread busy for seconds, restarts nothing.
const NOT_LIVE_AFTER: Duration = Duration::from_secs(30);
/// A page that costs Envoy next to nothing.
const LIVENESS_PAGE: &str = "/ready";

/// The state that Envoy calls live, of `server.state`.
const SERVER_LIVE: u64 = 0;

/// What Envoy lacks before it is ready, in Istio's words (those of 1.4, with "Pilot").
fn missing(stats: &Stats) -> Option<String> {
    let Stats { cds, lds, server_state, workers_started, .. } = *stats;
    let counts = format!(
        "cds updates: {} successful, {} rejected; lds updates: {} successful, {} rejected",
        cds.successful, cds.rejected, lds.successful, lds.rejected
    );
    let rejected = |counts: UpdateCounts| counts.successful == 0 && counts.rejected > 0;
    if cds == UpdateCounts::default() && lds == UpdateCounts::default() {
        Some(format!("config not received from Pilot (is Pilot running?): {counts}"))
    } else if rejected(cds) || rejected(lds) {
        Some(format!("config received from Pilot, but was rejected: {counts}"))
    } else if cds.successful == 0 || lds.successful == 0 {
        Some(format!("config not fully received from Pilot: {counts}"))
    } else if server_state != Some(SERVER_LIVE) {
        let state = match server_state {
            Some(1) => "DRAINING",
            Some(2) => "PRE_INITIALIZING",
            Some(3) => "INITIALIZING",
            _ => "unknown",
        };
        Some(format!("server is not live, current state is: {state}"))
    } else if !workers_started {
        Some("workers have not yet started".to_owned())
    } else {
        None
    }
}

/// What the kubelet's probes are told.
#[derive(Clone, Debug, Default)]
pub struct ProbeConditions {
    pub ready: Conditions,
    /// What only a restart of the container mends.
    pub live: Conditions,
}

/// What this module decides of [`ProbeConditions`].
#[derive(Debug)]
pub struct EnvoyConditions {
    /// Envoy has a configuration and uses it; once met, for good.
    configured: Guard,
    /// Envoy's admin answers.
    answering: Guard,
    /// It has answered within [`NOT_LIVE_AFTER`].
    live: Guard,
}

impl EnvoyConditions {
    pub fn new(probes: &ProbeConditions) -> Self {
        let reason = "it is being started";
        let conditions = Self {
            configured: probes.ready.condition("Envoy is configured", reason),
            answering: probes.ready.condition("Envoy answers", reason),
            live: probes.live.condition("Envoy answers", reason),
        };
        // An Envoy that does not answer yet is not configured either, and that says it better.
        conditions.answering.meet();
        conditions.live.meet();
        conditions
    }

    /// Asks Envoy until it is ready, and from then on whether it still answers. Never returns: it is
    /// dropped when Envoy has ended.
    pub async fn follow_admin(self, admin: EnvoyAdmin, causes: watch::Receiver<Option<Cause>>) {
        self.become_ready(&admin, &causes).await;
        self.watch_liveness(&admin).await;
    }

    async fn watch_liveness(&self, admin: &EnvoyAdmin) {
        let mut answered = Instant::now();
        let mut logged = Liveness::Answering;
        loop {
            tokio::time::sleep(LIVENESS_INTERVAL).await;
            let (now, error) = match admin.get(LIVENESS_PAGE).await {
                // One that is draining refuses the page, which is an answer as well.
                Ok(_) | Err(AdminError::Refused { .. }) => {
                    answered = Instant::now();
                    (Liveness::Answering, String::new())
                }
                Err(error) if answered.elapsed() < NOT_LIVE_AFTER => {
                    (Liveness::Silent, error.to_string())
                }
                Err(error) => (Liveness::NotLive, error.to_string()),
            };
            match now {
                Liveness::Answering => self.answering.meet(),
                Liveness::Silent | Liveness::NotLive => self.answering.fail(error.clone()),
            }
            match now {
                Liveness::Answering | Liveness::Silent => self.live.meet(),
                Liveness::NotLive => self.live.fail(error.clone()),
            }
            match now {
                _ if now == logged => {}
                Liveness::Answering => info!("Envoy answers again, and is ready"),
                Liveness::Silent => warn!("{}", NotReady(&error)),
                Liveness::NotLive => error!(
                    "{}, for {NOT_LIVE_AFTER:?} now: /healthz/live fails, so that the container is \
                     restarted",
                    NotReady(&error)
                ),
            }
            logged = now;
        }
    }

    /// Says what is missing: when that changes, and now and then.
    async fn become_ready(&self, admin: &EnvoyAdmin, causes: &watch::Receiver<Option<Cause>>) {
        let start = Instant::now();
        let mut logged: Option<(String, Instant)> = None;
        loop {
            let stats = admin.stats().await;
            let expected = stats.is_err() && start.elapsed() < STARTUP_GRACE;
            let missing = match stats {
                Ok(stats) => missing(&stats),
                Err(error) => Some(error.to_string()),
            };
            let Some(missing) = missing else {
                self.configured.meet();
                info!("Envoy proxy is ready");
                return;
            };
            let reason = match &*causes.borrow() {
                Some(cause) => format!("{missing}; {cause}"),
                None => missing,
            };
            self.configured.fail(reason.clone());
            let due = logged
                .as_ref()
                .is_none_or(|(line, at)| *line != reason || at.elapsed() > LOG_REPEAT_INTERVAL);
            if due && !expected {
                warn!("{}", NotReady(&reason));
                logged = Some((reason, Instant::now()));
            }
            let fast = start.elapsed() < FAST_POLL_PERIOD;
            tokio::time::sleep(if fast { POLL_INTERVAL } else { SLOW_POLL_INTERVAL }).await;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Liveness {
    Answering,
    Silent,
    NotLive,
}

/// The line that Istio's agent writes, with the reason.
#[derive(Debug)]
pub(super) struct NotReady<'a>(pub(super) &'a str);

impl fmt::Display for NotReady<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Envoy proxy is NOT ready: {}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(cds: [u64; 2], lds: [u64; 2]) -> Stats {
        let counts = |[successful, rejected]: [u64; 2]| UpdateCounts { successful, rejected };
        Stats {
            cds: counts(cds),
            lds: counts(lds),
            server_state: Some(0),
            workers_started: true,
            ..Stats::default()
        }
    }

    #[test]
    fn what_is_missing_is_said_in_istios_words() {
        let said = |stats: Stats| missing(&stats).unwrap_or_default();
        assert_eq!(
            said(stats([0, 0], [0, 0])),
            "config not received from Pilot (is Pilot running?): \
             cds updates: 0 successful, 0 rejected; lds updates: 0 successful, 0 rejected"
        );
        assert_eq!(
            said(stats([1, 0], [0, 2])),
            "config received from Pilot, but was rejected: \
             cds updates: 1 successful, 0 rejected; lds updates: 0 successful, 2 rejected"
        );
        assert_eq!(
            said(stats([1, 0], [0, 0])),
            "config not fully received from Pilot: \
             cds updates: 1 successful, 0 rejected; lds updates: 0 successful, 0 rejected"
        );
        let initializing = Stats { server_state: Some(3), ..stats([1, 0], [1, 0]) };
        assert_eq!(said(initializing), "server is not live, current state is: INITIALIZING");
        let idle = Stats { workers_started: false, ..stats([1, 0], [1, 0]) };
        assert_eq!(said(idle), "workers have not yet started");
        // A rejection after a success is a fault, but the proxy serves what it has.
        assert_eq!(missing(&stats([1, 5], [1, 5])), None);
    }
}
