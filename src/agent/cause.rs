//! Why the proxy is not ready: the doctor's walk, in the background and at a pace of its own, only as
//! long as it is not.

use std::fmt;
use std::time::Duration;

use tokio::sync::watch;

use super::config::Config;
use super::readiness::State;
use crate::doctor::{self, Diagnosis, HostPort, Outcome, Target};

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cause {
    pub text: String,
    /// Empty if there is nothing to be done.
    pub fix: String,
}

impl Cause {
    /// None where nothing is found to be wrong, or it could not be told.
    fn of(diagnosis: Diagnosis) -> Option<Self> {
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
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two walks: a control plane that is in trouble is asked by every sidecar that waits for it.
const PACE: Duration = Duration::from_secs(10);
/// For one walk.
const LIMIT: Duration = Duration::from_secs(5);

/// Searches until the proxy is ready.
pub(super) async fn follow(
    config: &Config,
    mut state: watch::Receiver<State>,
    causes: watch::Sender<Option<Cause>>,
) {
    let ready = state.wait_for(|state| *state == State::Ready);
    let target = target(config);
    let search = async {
        tokio::time::sleep(PATIENCE).await;
        loop {
            causes.send_replace(Cause::of(doctor::diagnose(&target, LIMIT).await));
            tokio::time::sleep(PACE).await;
        }
    };
    tokio::select! {
        _ = ready => {}
        () = search => {}
    }
}

/// What a walk from here has to look at. Not Kubernetes: thousands of sidecars would ask its API server
/// at once, most of them without the right to. Not the capture, which Envoy's configuration does not
/// wait for.
fn target(config: &Config) -> Target {
    let discovery = &config.discovery;
    Target {
        admin: Some(config.admin),
        discovery: Some(HostPort { host: discovery.host.clone(), port: discovery.port }),
        domain: config.domain.clone(),
        kubernetes: false,
        capture: false,
        ..Target::default()
    }
}
