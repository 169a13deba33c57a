//! Names in Envoy's statistics, both ways.

use pilothouse_xds::Resource;
use prost::Message;

/// Hosts are full of dots, which are separators in statistics, so a delimiter that occurs nowhere else ends a name
/// (Istio's `DelimitedStatsPrefix`).
const DELIMITER: char = ';';

/// The name for Envoy's statistics.
pub fn stat_name(name: &str) -> String {
    format!("{name}{DELIMITER}")
}

/// What has this name in statistics ([`stat_name`]).
pub fn named_by_stat_name(stat_name: &str) -> Option<&str> {
    stat_name.strip_suffix(DELIMITER)
}

/// The cluster that an outbound cluster is of its Service's: itself, or that whose statistics it has, being named after
/// an address.
pub fn service_cluster(cluster: &Resource) -> Option<String> {
    let AltStatName { alt_stat_name } = AltStatName::decode(cluster.value()).ok()?;
    named_by_stat_name(&alt_stat_name).map(str::to_owned)
}

/// `envoy.config.cluster.v3.Cluster` without what is not read.
#[derive(Clone, PartialEq, Message)]
struct AltStatName {
    #[prost(string, tag = "28")]
    alt_stat_name: String,
}
