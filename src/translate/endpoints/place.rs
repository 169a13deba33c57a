//! Which of a service's endpoints are near a proxy.
//!
//! Near endpoints have priority 0 and get all requests while enough of them are healthy; the others have
//! priority 1 and take over when they are not. Zones matter only for a service that asks for that
//! (`trafficDistribution`), or whose endpoints have Kubernetes' hints.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Candidate;
use crate::model::{EndpointSlice, Service};

/// Where a proxy is, and the regions of zones.
#[derive(Clone, Copy, Debug)]
pub struct ProxyLocation<'a> {
    /// `None` if the proxy's zone is unknown; then all endpoints are equally far.
    pub zone: Option<&'a str>,
    /// `None` if the proxy's node is unknown; then no endpoint is on its node.
    pub node: Option<&'a str>,
    /// The region of each zone, as far as known.
    pub regions: &'a BTreeMap<Arc<str>, Arc<str>>,
}

/// Whether the service's endpoints may depend on the proxy's zone. Those of a node-local service do not,
/// as in kube-proxy.
pub fn depends_on_zone<'a>(
    service: &Service,
    mut slices: impl Iterator<Item = &'a EndpointSlice>,
) -> bool {
    let hinted = |slice: &EndpointSlice| {
        let mut endpoints = slice.subsets.iter().flat_map(|subset| &subset.endpoints);
        endpoints.any(|endpoint| !endpoint.for_zones.is_empty())
    };
    !service.node_local && (service.prefers_own_zone || slices.any(hinted))
}

/// What makes an endpoint near.
#[derive(Clone, Copy, Debug)]
pub(super) enum Nearness<'a> {
    Equal,
    /// Kubernetes' hints name this zone.
    Hint(&'a str),
    /// The endpoint is in this zone.
    Zone(&'a str),
}

impl<'a> Nearness<'a> {
    /// `candidates` are the usable endpoints. Hints count if all of them have hints and any names this zone,
    /// as in kube-proxy; otherwise their zones count if the service asks for that.
    pub(super) fn choose(
        candidates: &[Candidate<'_>],
        service: &Service,
        zone: Option<&'a str>,
    ) -> Self {
        let Some(zone) = zone.filter(|_| !service.node_local) else { return Self::Equal };
        let any = |nearness: Self| candidates.iter().any(|one| nearness.is_near(one));
        let all_hinted = candidates.iter().all(|one| !one.for_zones.is_empty());
        match (Self::Hint(zone), Self::Zone(zone)) {
            (by_hint, _) if all_hinted && any(by_hint) => by_hint,
            (_, by_zone) if service.prefers_own_zone && any(by_zone) => by_zone,
            _ => Self::Equal,
        }
    }

    /// Priorities are contiguous from 0 because [`Self::choose`] checks that an endpoint is near.
    pub(super) fn priority(self, candidate: &Candidate<'_>) -> u32 {
        u32::from(!self.is_near(candidate))
    }

    fn is_near(self, candidate: &Candidate<'_>) -> bool {
        match self {
            Self::Equal => true,
            Self::Hint(zone) => candidate.for_zones.iter().any(|one| **one == *zone),
            Self::Zone(zone) => candidate.zone == zone,
        }
    }
}

#[cfg(test)]
mod tests;
