//! Keeps in the warm file what a proxy on demand uses, and knows how it stands with its clusters.
//!
//! Envoy is asked for names and counts alone, every [`INTERVAL`]; where it turns out to hold a whole mesh,
//! because its control plane offers nothing else, no longer.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::uses::is_entry;
use super::warm_file::WarmFile;
use crate::names::{self, ClusterName, MAX_USES_ENTRIES};
use crate::readiness::Conditions;
use crate::sidecar::envoy_admin::{AdminError, EnvoyAdmin, OnDemandStats, ServiceCluster};

/// Between two questions to an Envoy that is ready.
const INTERVAL: Duration = Duration::from_secs(10);
/// Before that, since readiness says what it waits for.
const START_INTERVAL: Duration = Duration::from_secs(1);
/// Nobody calls so many services; names of so many are 200 KB.
const MAX_CLUSTERS: u64 = 2_000;

/// How it stands, as far as Envoy has said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct OnDemandState {
    pub(super) stats: OnDemandStats,
    /// Whether the control plane does what was asked for; none until something shows it.
    pub(super) offered: Option<bool>,
}

impl fmt::Display for OnDemandState {
    /// Who has seen nothing wrong need not read on after the number of clusters.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OnDemandStats { connected, clusters, warming, without_cluster } = self.stats;
        if self.offered == Some(false) {
            f.write_str("not offered by the control plane, which sends every cluster; ")?;
        }
        write!(f, "{clusters} clusters, {warming} of them warming; ")?;
        match connected {
            true => f.write_str("connected to Pilot")?,
            false => f.write_str(
                "not connected to Pilot, so that what was not called before is answered 503 (NC)",
            )?,
        }
        match without_cluster {
            0 => Ok(()),
            many => write!(f, "; requests and connections without a cluster so far: {many}"),
        }
    }
}

/// Who asks Envoy, and writes the file.
#[derive(Debug)]
pub(super) struct Memory {
    admin: EnvoyAdmin,
    file: WarmFile,
    /// Whose names are shortened.
    domain: String,
    /// What the file has.
    kept: BTreeSet<String>,
    state: watch::Sender<Option<OnDemandState>>,
    /// Said once and not every time.
    complained: bool,
}

impl Memory {
    /// `kept` is what was read of the file.
    pub(super) fn new(
        admin: EnvoyAdmin,
        file: WarmFile,
        domain: String,
        kept: &[String],
    ) -> (Self, watch::Receiver<Option<OnDemandState>>) {
        let (state, states) = watch::channel(None);
        let kept = kept.iter().cloned().collect();
        (Self { admin, file, domain, kept, state, complained: false }, states)
    }

    /// Follows Envoy; a last time as the end begins, after which `remembered` is cancelled. Never returns.
    pub(super) async fn follow(
        mut self,
        ready: &Conditions,
        ending: &CancellationToken,
        remembered: &CancellationToken,
    ) {
        // What was ready once has its configuration, though it may be draining.
        let mut was_ready = false;
        let mut ends = false;
        loop {
            was_ready |= ready.waiting_for().is_none();
            self.look(was_ready).await;
            if ends {
                remembered.cancel();
                return std::future::pending().await;
            }
            let pause = if was_ready { INTERVAL } else { START_INTERVAL };
            ends = ending.run_until_cancelled(tokio::time::sleep(pause)).await.is_none();
        }
    }

    async fn look(&mut self, is_ready: bool) {
        // One that does not answer is the readiness' matter.
        let Ok(stats) = self.admin.on_demand_stats().await else { return };
        let before = self.state.borrow().unwrap_or_default();
        let mut offered = before.offered;
        if is_ready && offered.is_none() {
            offered = self.admin.asks_on_demand().await.ok().flatten();
            match offered {
                Some(false) => warn!(
                    "discovery on-demand was asked for, and the control plane sends every cluster: it \
                     is older, or keeps this proxy at all"
                ),
                Some(true) => info!("clusters come on demand"),
                None => {}
            }
        }
        self.state.send_replace(Some(OnDemandState { stats, offered }));
        // Before it is ready it has not got what it is to begin with, and the file stays what it is.
        if is_ready && offered == Some(true) && stats.clusters <= MAX_CLUSTERS {
            match self.admin.service_clusters().await {
                Ok(clusters) => self.keep(&clusters).await,
                Err(AdminError::Refused { status: 404, .. }) => {}
                Err(error) => warn!("what this proxy uses cannot be kept: {error}"),
            }
        }
    }

    async fn keep(&mut self, clusters: &[ServiceCluster]) {
        let uses = uses(clusters, &self.domain);
        let now: BTreeSet<String> = uses.iter().cloned().collect();
        if now == self.kept || now.is_empty() {
            return;
        }
        let file = self.file.clone();
        let written = tokio::task::spawn_blocking(move || file.write(&uses)).await;
        match written.unwrap_or_else(|error| Err(error.into())) {
            Ok(()) => (self.kept, self.complained) = (now, false),
            Err(error) if !self.complained => {
                self.complained = true;
                warn!(
                    "what this proxy uses cannot be written to {}, so that it starts without after a \
                     restart: {error}; --config-dir names another folder",
                    self.file.path().display()
                );
            }
            Err(_) => {}
        }
    }
}

/// What the control plane is to be told of these clusters after a restart, the most used first.
fn uses(clusters: &[ServiceCluster], domain: &str) -> Vec<String> {
    let mut uses: Vec<String> = Vec::new();
    for cluster in clusters {
        let Some(entry) = entry(cluster, domain).filter(|entry| is_entry(entry)) else { continue };
        if uses.len() < MAX_USES_ENTRIES && !uses.contains(&entry) {
            uses.push(entry);
        }
    }
    uses
}

/// A cluster by address is the Service's whose statistics it has, which may have another address by then.
/// Any other is what something names as it is.
fn entry(cluster: &ServiceCluster, domain: &str) -> Option<String> {
    let ClusterName::Outbound { host, .. } = ClusterName::parse(&cluster.name)? else {
        return None;
    };
    if host.parse::<std::net::IpAddr>().is_err() {
        return Some(cluster.name.clone());
    }
    // Of an address that no Service has.
    if cluster.passes_through {
        return None;
    }
    let canonical = names::named_by_stat_name(&cluster.stat_name).unwrap_or(&cluster.stat_name);
    let Some(ClusterName::Outbound { host, .. }) = ClusterName::parse(canonical) else {
        return Some(cluster.name.clone());
    };
    match names::service_of_host(host, domain) {
        Some((name, namespace)) => Some(format!("{name}.{namespace}")),
        None => Some(cluster.name.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cluster(name: &str, stat_name: &str, passes_through: bool) -> ServiceCluster {
        ServiceCluster {
            name: name.to_owned(),
            stat_name: names::stat_name(stat_name),
            passes_through,
            uses: 1,
        }
    }

    #[test]
    fn clusters_are_kept_as_the_control_plane_reads_them() {
        let reviews = "outbound|80||reviews.default.svc.cluster.local";
        let stored = "outbound|81||stored.default.svc.cluster.local";
        let clusters = [
            cluster("outbound|80||10.96.1.1", reviews, false),
            cluster("outbound|80||fd00::1", reviews, false),
            cluster(
                "outbound|90||10.96.1.1",
                "outbound|90||reviews.default.svc.cluster.local",
                false,
            ),
            cluster(stored, stored, false),
            cluster("outbound|9||10.96.7.7", "outbound|9||10.96.7.7", true),
            cluster("outbound|9||10.96.8.8", "outbound|9||elsewhere.example", false),
            cluster("outbound|80||pods.default.svc.cluster.local", "", true),
            cluster("outbound|80||A_B", "", false),
            cluster("PassthroughCluster", "", true),
        ];
        assert_eq!(
            uses(&clusters, "cluster.local"),
            [
                "reviews.default",
                stored,
                "outbound|9||10.96.8.8",
                "outbound|80||pods.default.svc.cluster.local",
            ]
        );
        let many: Vec<_> = (1..=300)
            .map(|port| cluster(&format!("outbound|{port}||a.b.svc.cluster.local"), "", false))
            .collect();
        assert_eq!(uses(&many, "cluster.local").len(), MAX_USES_ENTRIES);
    }
}
