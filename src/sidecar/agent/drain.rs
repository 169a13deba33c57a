//! The end that was asked for: connections get a chance to end by themselves.
//!
//! Readiness has failed by then, so that nobody sends new ones. Envoy says on every connection that
//! its listeners are going away, while they still accept: other proxies hear of the pod's end a little
//! later than the pod does. Shortly before the deadline they stop, so that what is in flight at the
//! very end is as little as possible. A sidecar closes its inbound side only, because the workload
//! needs the other one to finish what it does.
//!
//! How long is for the pod's grace period to say where it is known: then the proxy goes on until the
//! application beside it has ended (`application`), since whatever that one still does needs it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::application;
use super::config::{AgentConfig, DrainPolicy};
use crate::readiness::{Conditions, Guard};
use crate::sidecar::envoy_admin::EnvoyAdmin;

/// The part of the time, at most, in which nothing new is accepted.
const CLOSING_TIME: Duration = Duration::from_secs(1);
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The condition of readiness that the proxy is not draining.
#[derive(Debug)]
pub(super) struct NotDraining(Guard);

impl NotDraining {
    pub(super) fn new(ready: &Conditions) -> Self {
        let guard = ready.condition("not draining", "");
        guard.meet();
        Self(guard)
    }

    /// Draining begins: unready for good, in Istio's words.
    pub(super) fn end(&self) {
        self.0.lose("server is not live, current state is: DRAINING");
    }
}

/// Returns when Envoy may be ended.
pub(super) async fn drain(admin: &EnvoyAdmin, config: &AgentConfig) {
    let start = Instant::now();
    let (at_least, at_most) = match config.drain_policy {
        DrainPolicy::Fixed(total) => (total, total),
        DrainPolicy::UntilIdle { at_least, at_most }
        | DrainPolicy::UntilApplicationEnds { at_least, at_most } => (at_least, at_most),
    };
    start_draining(admin, config.is_sidecar(), ListenersAfter::KeepOpen).await;
    let deadline = start + at_most;
    let closing = CLOSING_TIME.min(at_most / 5);
    let enough = async {
        sleep_until(start + at_least).await;
        match config.drain_policy {
            DrainPolicy::Fixed(_) => {}
            DrainPolicy::UntilIdle { .. } => no_connections(admin, config).await,
            DrainPolicy::UntilApplicationEnds { .. } => application_ended(admin).await,
        }
    };
    tokio::select! {
        () = enough => {}
        () = sleep_until(deadline - closing) => {}
    }
    stop_accepting(admin, config.is_sidecar()).await;
    let last = deadline.min(Instant::now() + closing);
    if matches!(config.drain_policy, DrainPolicy::Fixed(_)) {
        // To its end although nobody may be connected: of a sidecar the workload still uses the
        // outbound side, which nothing counts here.
        return sleep_until(last).await;
    }
    tokio::select! {
        () = no_connections(admin, config) => {}
        () = sleep_until(last) => info!("connections are still open after {:?}: cut", start.elapsed()),
    }
}

/// What listeners do at the end of Envoy's own time for draining.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ListenersAfter {
    Close,
    /// For the agent closes them.
    KeepOpen,
}

/// Tells every connection that this is the end; Envoy goes on accepting.
pub(super) async fn start_draining(admin: &EnvoyAdmin, inbound_only: bool, then: ListenersAfter) {
    let inbound = if inbound_only { "inboundonly&" } else { "" };
    let then = if then == ListenersAfter::KeepOpen { "&skip_exit" } else { "" };
    if let Err(error) = admin.post(&format!("/drain_listeners?{inbound}graceful{then}")).await {
        warn!("listeners cannot be drained: {error}");
    }
}

async fn stop_accepting(admin: &EnvoyAdmin, inbound_only: bool) {
    let inbound = if inbound_only { "?inboundonly" } else { "" };
    if let Err(error) = admin.post(&format!("/drain_listeners{inbound}")).await {
        warn!("listeners cannot be stopped: {error}");
    }
}

/// Waits until there is no connection; forever, if Envoy does not say.
async fn no_connections(admin: &EnvoyAdmin, config: &AgentConfig) {
    let own = [config.health, config.prometheus].map(stat_prefix);
    loop {
        let page = admin.get("/stats?usedonly&filter=^listener\\..*downstream_cx_active$").await;
        if page.is_ok_and(|page| sum_of_counts(&page, &own) == 0) {
            return;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Waits until the application is gone and the last answers are delivered.
async fn application_ended(admin: &EnvoyAdmin) {
    loop {
        if application::has_ended() && active_requests(admin).await == 0 {
            info!("the application has ended");
            return;
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Requests under way, of both directions; none where Envoy does not say.
async fn active_requests(admin: &EnvoyAdmin) -> u64 {
    let page =
        admin.get("/stats?usedonly&filter=^http\\.(in|out)bound.*downstream_rq_active$").await;
    page.map_or(0, |page| sum_of_counts(&page, &[]))
}

/// Connections that the page counts, without those to Envoy's own pages.
fn sum_of_counts(page: &str, own: &[String]) -> u64 {
    let counts = page.lines().filter_map(|line| line.split_once(": "));
    counts
        // The workers' counts are those of the listeners once more.
        .filter(|(name, _)| !name.starts_with("listener.admin.") && !name.contains(".worker_"))
        .filter(|(name, _)| !own.iter().any(|prefix| name.starts_with(prefix)))
        .filter_map(|(_, count)| count.trim().parse::<u64>().ok())
        .sum()
}

/// How the names of a listener's statistics begin.
fn stat_prefix(address: SocketAddr) -> String {
    format!("listener.{}.", address.to_string().replace(':', "_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_connections_of_others_count() {
        let own = [SocketAddr::from(([0, 0, 0, 0], 15021)), "[::]:15090".parse().unwrap()];
        let page = "listener.0.0.0.0_15006.downstream_cx_active: 2\n\
                    listener.0.0.0.0_15006.worker_0.downstream_cx_active: 2\n\
                    listener.0.0.0.0_15021.downstream_cx_active: 4\n\
                    listener.[__]_15090.downstream_cx_active: 8\n\
                    listener.admin.downstream_cx_active: 16\n\
                    listener.admin.main_thread.downstream_cx_active: 16\n";
        assert_eq!(sum_of_counts(page, &own.map(stat_prefix)), 2);
    }
}
