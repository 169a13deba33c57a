//! Why the proxy is not ready: the doctor's walk, in the background and at a pace of its own, only as
//! long as it is not.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use tokio::sync::watch;

use super::config::AgentConfig;
use crate::readiness::Conditions;
use crate::sidecar::credentials::TlsArgs;
use crate::sidecar::doctor::{self, Diagnosis, Outcome, ProbeOrigin, Target};

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub text: String,
    /// Empty if there is nothing to be done.
    pub fix: String,
}

impl Cause {
    /// None where nothing is found to be wrong, or it could not be told.
    fn from_diagnosis(diagnosis: Diagnosis) -> Option<Self> {
        let broken = diagnosis.outcome == Outcome::Broken;
        broken.then_some(Self { text: diagnosis.cause, fix: diagnosis.fix })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cause: {}", self.text)?;
        if self.fix.is_empty() {
            return Ok(());
        }
        write!(f, "; fix: {}", self.fix)
    }
}

/// How long the usual start may take before anything is looked for.
const START_GRACE: Duration = Duration::from_secs(2);
/// Between two walks, at first and at most: a control plane that is in trouble is asked by every
/// sidecar that waits for it, so the pause doubles for as long as the answer is the same.
const PAUSES: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(60));
/// For one walk.
const DIAGNOSIS_LIMIT: Duration = Duration::from_secs(5);

/// Searches until the proxy is ready.
pub(super) async fn diagnose_while_not_ready(
    config: &AgentConfig,
    ready: &Conditions,
    causes: watch::Sender<Option<Cause>>,
) {
    let target = target(config);
    let search = async {
        tokio::time::sleep(START_GRACE).await;
        let mut pause = None;
        loop {
            let found = Cause::from_diagnosis(doctor::diagnose(&target, DIAGNOSIS_LIMIT).await);
            let before = causes.send_replace(found.clone());
            let next = next_pause(pause, found == before);
            pause = Some(next);
            tokio::time::sleep(with_jitter(next)).await;
        }
    };
    tokio::select! {
        () = ready.all_met() => {}
        () = search => {}
    }
}

/// The pause after a walk, by the one before it and whether the walk found the same as the last.
fn next_pause(before: Option<Duration>, unchanged: bool) -> Duration {
    let (first, most) = PAUSES;
    before.filter(|_| unchanged).map_or(first, |before| (before * 2).min(most))
}

/// Up to a quarter less, at random: sidecars that a node or a rollout started together are not to ask
/// together for ever.
fn with_jitter(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) % 1_000;
    pause - pause / 4 * random as u32 / 1_000
}

/// What a walk from here has to look at. Not Kubernetes: thousands of sidecars would ask its API server
/// at once, most of them without the right to. Not the capture, which Envoy's configuration does not
/// wait for.
fn target(config: &AgentConfig) -> Target {
    Target {
        admin: Some(config.admin),
        discovery: Some(config.discovery.clone()),
        tls: TlsArgs::from(config.credentials.as_ref()),
        domain: config.domain.clone(),
        kubernetes: false,
        capture: false,
        origin: ProbeOrigin::Agent,
        ..Target::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn walks_become_rare_while_nothing_changes_and_begin_anew_when_something_does() {
        let mut pause = None;
        let mut seconds = Vec::new();
        for unchanged in [false, true, true, true, true, false, true] {
            let next = next_pause(pause, unchanged);
            pause = Some(next);
            seconds.push(next.as_secs());
        }
        assert_eq!(seconds, [10, 20, 40, 60, 60, 10, 20]);
    }

    #[test]
    fn a_pause_is_spread_and_never_longer() {
        let minute = Duration::from_secs(60);
        let all: Vec<Duration> = (0..100).map(|_| with_jitter(minute)).collect();
        assert!(all.iter().all(|one| *one <= minute && *one >= minute * 3 / 4), "{all:?}");
        assert!(all.iter().any(|one| *one != all[0]), "all are {:?}", all[0]);
    }
}
