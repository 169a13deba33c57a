//! Whether the proxy is ready, by Istio's conditions: CDS and LDS accepted once, then the server live
//! and its workers started. What was true once stays true: a proxy that lost its control plane goes on
//! with what it has. What has to stay true is that Envoy answers at all: one that hangs takes the
//! pod's connections and does nothing with them, so it is unready, and in the end not live.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::admin::{Admin, AdminError};
use super::cause::Cause;

/// Between two questions to Envoy: at first often, because a pod's start waits for the answer.
const POLL: Duration = Duration::from_millis(200);
const POLL_LATER: Duration = Duration::from_secs(1);
const AT_FIRST: Duration = Duration::from_secs(30);
/// What Envoy usually needs to open its admin port, so no news before that.
const STARTING: Duration = Duration::from_secs(1);
/// A line that says nothing new is said again after this long.
const REPEAT: Duration = Duration::from_secs(15);

const QUESTION: &str = "/stats?usedonly&filter=^(cluster_manager\\.cds\\.update_(success|rejected)\
    |listener_manager\\.(lds\\.update_(success|rejected)|workers_started)|server\\.state)$";

/// Between two questions to an Envoy that is ready.
const WATCH: Duration = Duration::from_secs(2);
/// An Envoy whose admin port has been silent for this long is not live: its main thread has hung. Six
/// times what one question may take ([`super::admin`]), so that a configuration of a large mesh, which
/// keeps that thread busy for seconds, restarts nothing.
const DEAD: Duration = Duration::from_secs(30);
/// A page that costs Envoy next to nothing.
const SIGN_OF_LIFE: &str = "/ready";

/// The state that Envoy calls live, of `server.state`.
const LIVE: u64 = 0;

/// How often a type was accepted and rejected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Updates {
    pub successful: u64,
    pub rejected: u64,
}

/// What Envoy's statistics say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub cds: Updates,
    pub lds: Updates,
    pub server_state: Option<u64>,
    pub workers_started: u64,
}

impl Stats {
    /// Reads the page; what is not on it was never counted.
    pub fn parse(page: &str) -> Self {
        let mut stats = Self::default();
        for line in page.lines() {
            let Some((name, value)) = line.split_once(": ") else { continue };
            let Ok(value) = value.trim().parse() else { continue };
            match name {
                "cluster_manager.cds.update_success" => stats.cds.successful = value,
                "cluster_manager.cds.update_rejected" => stats.cds.rejected = value,
                "listener_manager.lds.update_success" => stats.lds.successful = value,
                "listener_manager.lds.update_rejected" => stats.lds.rejected = value,
                "listener_manager.workers_started" => stats.workers_started = value,
                "server.state" => stats.server_state = Some(value),
                _ => {}
            }
        }
        stats
    }

    /// What is missing, in Istio's words (those of 1.4, with "Pilot").
    pub fn missing(&self) -> Option<String> {
        let Self { cds, lds, server_state, workers_started } = *self;
        let counts = format!(
            "cds updates: {} successful, {} rejected; lds updates: {} successful, {} rejected",
            cds.successful, cds.rejected, lds.successful, lds.rejected
        );
        let refused = |one: Updates| one.successful == 0 && one.rejected > 0;
        if cds == Updates::default() && lds == Updates::default() {
            Some(format!("config not received from Pilot (is Pilot running?): {counts}"))
        } else if refused(cds) || refused(lds) {
            Some(format!("config received from Pilot, but was rejected: {counts}"))
        } else if cds.successful == 0 || lds.successful == 0 {
            Some(format!("config not fully received from Pilot: {counts}"))
        } else if server_state != Some(LIVE) {
            let state = match server_state {
                Some(1) => "DRAINING",
                Some(2) => "PRE_INITIALIZING",
                Some(3) => "INITIALIZING",
                _ => "unknown",
            };
            Some(format!("server is not live, current state is: {state}"))
        } else if workers_started == 0 {
            Some("workers have not yet started".to_owned())
        } else {
            None
        }
    }
}

/// What a probe is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    Ready,
    NotReady {
        why: String,
        cause: Option<Cause>,
    },
    /// It was ready, and its admin port answers no more; `dead` if that has been so for long.
    Hung {
        why: String,
        dead: bool,
    },
}

impl State {
    /// Whether a restart would not help, or is not needed.
    pub fn is_live(&self) -> bool {
        !matches!(self, Self::Hung { dead: true, .. })
    }

    /// Before anything is known.
    pub fn at_start() -> Self {
        Self::NotReady { why: "it is being started".to_owned(), cause: None }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => f.write_str("ready"),
            Self::NotReady { why, cause } => {
                write!(f, "Envoy proxy is NOT ready: {why}")?;
                match cause {
                    Some(cause) => write!(f, "; {cause}"),
                    None => Ok(()),
                }
            }
            Self::Hung { why, .. } => write!(f, "Envoy proxy is NOT ready: {why}"),
        }
    }
}

/// Asks Envoy until it is ready, and from then on whether it still answers.
pub async fn follow(
    admin: Admin,
    state: watch::Sender<State>,
    causes: watch::Receiver<Option<Cause>>,
) {
    become_ready(&admin, &state, &causes).await;
    stay_alive(&admin, &state).await;
}

/// Watches an Envoy that is ready. Never returns: it is dropped when Envoy has ended.
async fn stay_alive(admin: &Admin, state: &watch::Sender<State>) {
    let mut answered = Instant::now();
    loop {
        tokio::time::sleep(WATCH).await;
        let now = match admin.get(SIGN_OF_LIFE).await {
            // One that is draining refuses the page, which is an answer as well.
            Ok(_) | Err(AdminError::Refused { .. }) => {
                answered = Instant::now();
                State::Ready
            }
            Err(error) => State::Hung { why: error.to_string(), dead: answered.elapsed() >= DEAD },
        };
        let changed = state.send_if_modified(|before| {
            let news = *before != now;
            before.clone_from(&now);
            news
        });
        match (&now, changed) {
            (_, false) => {}
            (State::Ready, true) => info!("Envoy answers again, and is ready"),
            (_, true) if now.is_live() => warn!("{now}"),
            (_, true) => error!(
                "{now}, for {DEAD:?} now: /healthz/live fails, so that the container is restarted"
            ),
        }
    }
}

/// Says what is missing: when that changes, and now and then.
async fn become_ready(
    admin: &Admin,
    state: &watch::Sender<State>,
    causes: &watch::Receiver<Option<Cause>>,
) {
    let start = Instant::now();
    let mut said: Option<(State, Instant)> = None;
    loop {
        let answer = admin.get(QUESTION).await;
        let expected = answer.is_err() && start.elapsed() < STARTING;
        let why = match answer {
            Ok(page) => Stats::parse(&String::from_utf8_lossy(&page)).missing(),
            Err(error) => Some(error.to_string()),
        };
        let now = match why {
            Some(why) => State::NotReady { why, cause: causes.borrow().clone() },
            None => State::Ready,
        };
        state.send_if_modified(|before| {
            let news = *before != now;
            before.clone_from(&now);
            news
        });
        if now == State::Ready {
            info!("Envoy proxy is ready");
            return;
        }
        let due = said.as_ref().is_none_or(|(line, at)| *line != now || at.elapsed() > REPEAT);
        if due && !expected {
            warn!("{now}");
            said = Some((now, Instant::now()));
        }
        let pause = if start.elapsed() < AT_FIRST { POLL } else { POLL_LATER };
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(cds: [u64; 2], lds: [u64; 2]) -> Stats {
        let updates = |[successful, rejected]: [u64; 2]| Updates { successful, rejected };
        Stats { cds: updates(cds), lds: updates(lds), server_state: Some(0), workers_started: 1 }
    }

    #[test]
    fn what_is_missing_is_said_in_istios_words() {
        let said = |stats: Stats| stats.missing().unwrap_or_default();
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
        let idle = Stats { workers_started: 0, ..stats([1, 0], [1, 0]) };
        assert_eq!(said(idle), "workers have not yet started");
        // A rejection after a success is trouble, but the proxy serves what it has.
        assert_eq!(stats([1, 5], [1, 5]).missing(), None);
    }

    #[test]
    fn the_page_is_read() {
        let page = "cluster_manager.cds.update_rejected: 2\ncluster_manager.cds.update_success: 3\n\
                    listener_manager.lds.update_success: 4\nlistener_manager.workers_started: 1\n\
                    server.state: 0\n";
        assert_eq!(Stats::parse(page), stats([3, 2], [4, 0]));
        assert_eq!(Stats::parse(""), Stats::default());
    }
}
