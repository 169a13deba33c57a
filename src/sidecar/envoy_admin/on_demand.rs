//! What an Envoy says of clusters that it asks for when they are called: how it stands, and which it has
//! used.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{AdminError, CONNECTED, EnvoyAdmin, counts};
use crate::names;

/// The oldest Envoy that asks for clusters on demand over ADS, for HTTP and for TCP: so do 1.36.4, 1.37.0,
/// 1.38.3, 1.39.3 and 1.40.0, and an older one was not tried.
pub const ON_DEMAND_SINCE: (u32, u32) = (1, 36);

/// How it stands with clusters that come on demand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OnDemandStats {
    /// Whether the ADS stream is open.
    pub connected: bool,
    /// Clusters that it has, those of its bootstrap too.
    pub clusters: u64,
    /// Of which it waits for endpoints.
    pub warming: u64,
    /// Requests and connections to services that were answered without a cluster: 503 with the flag NC,
    /// or closed.
    pub without_cluster: u64,
}

/// A cluster of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceCluster {
    pub name: String,
    /// That of its statistics, which says the service where `name` has an address.
    pub stat_name: String,
    /// Whether it leads wherever a connection was made to.
    pub passes_through: bool,
    /// Requests and connections so far.
    pub uses: u64,
}

const CLUSTERS: &str = "cluster_manager.active_clusters";
const WARMING: &str = "cluster_manager.warming_clusters";
/// The counts of requests and connections without a cluster, of listeners for services.
const NO_CLUSTER: (&str, &str) = ("http.outbound", ".no_cluster");
const TCP_NO_CLUSTER: [&str; 2] = [".on_demand_cluster_missing", ".on_demand_cluster_timeout"];
/// `usedonly` leaves out what was never counted. In a query `^`, `|`, `\` and `$` must be encoded.
const STATS_PAGE: &str = "/stats?usedonly&filter=%5E(control_plane%5C.connected_state%7C\
    cluster_manager%5C.(active%7Cwarming)_clusters%7Chttp%5C.outbound.*%5C.no_cluster%7C\
    tcp%5C.outbound.*%5C.on_demand_cluster_(missing%7Ctimeout))%24";

/// Names and types alone: a cluster as a whole is a hundred times as long.
const CLUSTERS_PAGE: &str = "/config_dump?resource=dynamic_active_clusters\
    &mask=cluster.name,cluster.alt_stat_name,cluster.type&name_regex=outbound.*";
const USES_PAGE: &str =
    "/stats?usedonly&filter=%5Ecluster%5C.outbound.*%5C.upstream_(cx%7Crq)_total%24";
const USES_OF: (&str, [&str; 2]) = ("cluster.", [".upstream_cx_total", ".upstream_rq_total"]);

const LISTENERS_PAGE: &str = "/config_dump?resource=dynamic_listeners";
/// In every listener that asks on demand, as the filter of HTTP and as the field of TCP's.
const ASKS: &str = "on_demand";

impl EnvoyAdmin {
    /// # Errors
    /// See [`AdminError`].
    pub async fn on_demand_stats(&self) -> Result<OnDemandStats, AdminError> {
        Ok(OnDemandStats::parse(&self.get(STATS_PAGE).await?))
    }

    /// The clusters of services that it has, the most used first.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn service_clusters(&self) -> Result<Vec<ServiceCluster>, AdminError> {
        let (clusters, uses) = (self.get(CLUSTERS_PAGE).await?, self.get(USES_PAGE).await?);
        Ok(service_clusters(&serde_json::from_str(&clusters).unwrap_or_default(), &uses))
    }

    /// Whether its listeners ask for clusters on demand; none where it has no listener for a service.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn asks_on_demand(&self) -> Result<Option<bool>, AdminError> {
        Ok(asks_on_demand(&self.get(LISTENERS_PAGE).await?))
    }
}

impl OnDemandStats {
    fn parse(page: &str) -> Self {
        let mut stats = Self::default();
        for (name, value) in counts(page) {
            match name {
                CONNECTED => stats.connected = value != 0,
                CLUSTERS => stats.clusters = value,
                WARMING => stats.warming = value,
                _ => {
                    let http = name.starts_with(NO_CLUSTER.0) && name.ends_with(NO_CLUSTER.1);
                    if http || TCP_NO_CLUSTER.iter().any(|end| name.ends_with(end)) {
                        stats.without_cluster += value;
                    }
                }
            }
        }
        stats
    }
}

fn service_clusters(dump: &Value, uses: &str) -> Vec<ServiceCluster> {
    let mut used: BTreeMap<&str, u64> = BTreeMap::new();
    for (stat, value) in counts(uses) {
        let name = stat
            .strip_prefix(USES_OF.0)
            .and_then(|stat| USES_OF.1.into_iter().find_map(|end| stat.strip_suffix(end)));
        if let Some(name) = name {
            *used.entry(name).or_default() += value;
        }
    }
    let all = dump["configs"].as_array().into_iter().flatten().map(|one| &one["cluster"]);
    let clusters = all.filter_map(|cluster| {
        let name = cluster["name"].as_str().filter(|name| names::is_outbound(name))?;
        let stat_name = cluster["alt_stat_name"].as_str().unwrap_or(name);
        Some(ServiceCluster {
            name: name.to_owned(),
            stat_name: stat_name.to_owned(),
            passes_through: cluster["type"] == "ORIGINAL_DST",
            uses: used.get(stat_name).copied().unwrap_or_default(),
        })
    });
    let mut clusters: Vec<_> = clusters.collect();
    clusters.sort_by(|a, b| b.uses.cmp(&a.uses).then_with(|| a.name.cmp(&b.name)));
    clusters
}

fn asks_on_demand(page: &str) -> Option<bool> {
    if page.contains(ASKS) {
        return Some(true);
    }
    // Those for services have clusters or tables of routes by name; virtualOutbound has neither.
    (page.contains("\"outbound|") || page.contains("route_config_name")).then_some(false)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Seen with Envoy 1.40; the last lines are not on the page that is asked for.
    #[test]
    fn requests_and_connections_without_a_cluster_are_summed() {
        let page = "cluster_manager.active_clusters: 6\ncluster_manager.warming_clusters: 1\n\
                    control_plane.connected_state: 1\n\
                    http.outbound_0.0.0.0_9080;.no_cluster: 2\n\
                    tcp.outbound|81||a.b.svc.cluster.local;.on_demand_cluster_missing: 3\n\
                    tcp.outbound|81||a.b.svc.cluster.local;.on_demand_cluster_timeout: 4\n\
                    http.inbound_9080;.no_cluster: 9\nno number: x\n";
        let wanted = OnDemandStats { connected: true, clusters: 6, warming: 1, without_cluster: 9 };
        assert_eq!(OnDemandStats::parse(page), wanted);
        assert_eq!(OnDemandStats::parse(""), OnDemandStats::default());
    }

    #[test]
    fn the_most_used_clusters_come_first() {
        let cluster = |name: &str, stat_name: &str, kind: &str| json!({ "cluster": { "name": name, "alt_stat_name": stat_name, "type": kind } });
        let dump = json!({ "configs": [
            cluster("outbound|80||10.96.1.1", "outbound|80||a.b.svc.x;", "EDS"),
            cluster("outbound|80||10.96.9.9", "outbound|80||10.96.9.9;", "ORIGINAL_DST"),
            cluster("outbound|81||d.b.svc.x", "outbound|81||d.b.svc.x;", "EDS"),
            cluster("PassthroughCluster", "", "ORIGINAL_DST"),
            json!({ "cluster": { "name": "outbound|82||e.b.svc.x" } }),
        ]});
        let uses = "cluster.outbound|80||a.b.svc.x;.upstream_cx_total: 1\n\
                    cluster.outbound|80||a.b.svc.x;.upstream_rq_total: 4\n\
                    cluster.outbound|81||d.b.svc.x;.upstream_cx_total: 7\n";
        let found = service_clusters(&dump, uses);
        let found: Vec<_> =
            found.iter().map(|one| (&*one.name, one.uses, one.passes_through)).collect();
        assert_eq!(
            found,
            [
                ("outbound|81||d.b.svc.x", 7, false),
                ("outbound|80||10.96.1.1", 5, false),
                ("outbound|80||10.96.9.9", 0, true),
                ("outbound|82||e.b.svc.x", 0, false),
            ]
        );
        assert_eq!(service_clusters(&Value::Null, ""), []);
    }

    #[test]
    fn that_listeners_ask_is_told_where_there_is_one() {
        assert_eq!(asks_on_demand(r#"{"cluster": "PassthroughCluster"}"#), None);
        assert_eq!(asks_on_demand(r#"{"cluster": "outbound|81||a.b"}"#), Some(false));
        let tcp = r#"{"cluster": "outbound|81||a.b", "on_demand": {"odcds_config": {}}}"#;
        assert_eq!(asks_on_demand(tcp), Some(true));
        let rds = r#"{"rds": {"route_config_name": "80"}}"#;
        assert_eq!(asks_on_demand(rds), Some(false));
    }
}
