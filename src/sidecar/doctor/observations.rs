//! What the walk along the path has found out so far.

use std::net::{IpAddr, SocketAddr};

use super::clock::OtherClock;
use super::envoy::Envoy;
use crate::sidecar::credentials::files::Validity;
use crate::sidecar::host_port::HostPort;

/// What the walk has learned that later links, and Kubernetes, need.
#[derive(Debug, Default)]
pub(super) struct Observations {
    pub(super) envoy: Option<Envoy>,
    pub(super) discovery: Option<HostPort>,
    pub(super) servers: Vec<IpAddr>,
    pub(super) addresses: Vec<IpAddr>,
    /// The one that took a connection.
    pub(super) reached: Option<SocketAddr>,
    /// Of what is said to be out of its time.
    pub(super) disputed: Option<Validity>,
    /// Clocks of others, read where time is what is wrong.
    pub(super) clocks: Vec<OtherClock>,
}

impl Observations {
    /// Envoy's, by its node.
    pub(super) fn namespace(&self) -> String {
        let node = self.envoy.as_ref().map(|envoy| &envoy.node);
        let told = node.and_then(|node| node["metadata"]["NAMESPACE"].as_str());
        told.unwrap_or("default").to_owned()
    }

    /// Whether Envoy has the clusters of those alone that it calls.
    pub(super) fn has_on_demand(&self) -> bool {
        let of_envoy = self.envoy.as_ref().and_then(|envoy| envoy.on_demand.as_ref());
        of_envoy.is_some_and(|on_demand| on_demand.is_in_force())
    }

    /// The pod's own addresses, by Envoy's node.
    pub(super) fn own_addresses(&self) -> Vec<IpAddr> {
        let Some(envoy) = &self.envoy else { return Vec::new() };
        let of_id = envoy.node["id"].as_str().and_then(|id| id.split('~').nth(1));
        let listed = envoy.node["metadata"]["INSTANCE_IPS"].as_str().unwrap_or_default();
        let all = of_id.into_iter().chain(listed.split(','));
        all.filter_map(|one| one.trim().parse().ok()).collect()
    }
}
