//! The end that was asked for: connections get a chance to end by themselves.
//!
//! Readiness has failed by then, so that nobody sends new ones. Envoy says on every connection that
//! its listeners are going away, while they still accept: other proxies hear of the pod's end a little
//! later than the pod does. Shortly before the deadline they stop, so that what is in flight at the
//! very end is as little as possible. A sidecar closes its inbound side only, because the workload
//! needs the other one to finish what it does.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tracing::{info, warn};

use super::admin::Admin;
use super::config::{Config, Ending};

/// The part of the time, at most, in which nothing new is accepted.
const CLOSING: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(100);

/// Returns when Envoy may be ended.
pub(super) async fn drain(admin: &Admin, config: &Config) {
    let start = Instant::now();
    let inbound_only = config.is_sidecar();
    begin(admin, inbound_only).await;
    match config.ending {
        // To its end although nobody may be connected: of a sidecar the workload still uses the
        // outbound side, which nothing counts here.
        Ending::After(total) => {
            let deadline = start + total;
            sleep_until(deadline - CLOSING.min(total / 5)).await;
            stop_accepting(admin, inbound_only).await;
            sleep_until(deadline).await;
        }
        Ending::WhenQuiet { at_least, at_most } => {
            sleep_until(start + at_least).await;
            let closing = start + (at_most - CLOSING.min(at_most / 5)).max(at_least);
            tokio::select! {
                () = quiet(admin, config) => return,
                () = sleep_until(closing) => {}
            }
            stop_accepting(admin, inbound_only).await;
            tokio::select! {
                () = quiet(admin, config) => {}
                () = sleep_until(start + at_most) => {
                    info!("connections are still open after {at_most:?}: cut");
                }
            }
        }
    }
}

/// Tells every connection that this is the end; Envoy goes on accepting.
pub(super) async fn begin(admin: &Admin, inbound_only: bool) {
    let inbound = if inbound_only { "inboundonly&" } else { "" };
    if let Err(error) = admin.post(&format!("/drain_listeners?{inbound}graceful")).await {
        warn!("listeners cannot be drained: {error}");
    }
}

async fn stop_accepting(admin: &Admin, inbound_only: bool) {
    let inbound = if inbound_only { "?inboundonly" } else { "" };
    if let Err(error) = admin.post(&format!("/drain_listeners{inbound}")).await {
        warn!("listeners cannot be stopped: {error}");
    }
}

/// Waits until there is no connection; forever, if Envoy does not say.
async fn quiet(admin: &Admin, config: &Config) {
    let own = [config.health, config.prometheus].map(stat_prefix);
    loop {
        let page = admin.get("/stats?usedonly&filter=^listener\\..*downstream_cx_active$").await;
        if page.is_ok_and(|page| active(&String::from_utf8_lossy(&page), &own) == 0) {
            return;
        }
        sleep(POLL).await;
    }
}

/// Connections that the page counts, without those to Envoy's own pages.
fn active(page: &str, own: &[String]) -> u64 {
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
        assert_eq!(active(page, &own.map(stat_prefix)), 2);
    }
}
