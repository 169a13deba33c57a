//! Endpoints: for each cluster of a service, where its requests may go.
//!
//! The rules are `reference/kubernetes.md`'s, section 1, and what gRPC clients insist on besides
//! (a locality, weights of at least 1, no address twice). The result depends on what the slices
//! say, never on their number or order: a controller that reshuffles them must not cause a push.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};

mod place;

use place::Nearness;
pub use place::{Place, depends_on_zone};

use super::{number, served_ports, tcp_address};
use crate::model::{EndpointSlice, EndpointState, Service};
use crate::names;

/// One address and port, as some slice has it. The order of the fields is the order of
/// preference if slices disagree about the same address and port: whoever calls it more usable is
/// right (an endpoint that moves between slices is in both for a while), and a known zone is
/// better than none.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate<'a> {
    address: IpAddr,
    port: u16,
    state: EndpointState,
    zone_unknown: bool,
    /// Empty if unknown.
    zone: &'a str,
    unhinted: bool,
    /// The zones that Kubernetes means it for; empty if it says nothing.
    for_zones: &'a [Arc<str>],
}

/// The assignment of each cluster that [`super::clusters::of_service`] makes, in the same order
/// and by the same name. One without endpoints is there too: a proxy waits for it.
///
/// `slices` are the service's own, in any order. If both address families occur, only that of the
/// service's first address is used (IPv4 for a headless service, which has none), since a
/// dual-stack pod would count twice.
///
/// `place` is the proxy's: endpoints near it go first where the service wants that.
pub fn of_service<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    domain: &str,
    place: Place<'_>,
) -> Vec<ClusterLoadAssignment> {
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    let prefers_ipv4 = service.cluster_ips().first().is_none_or(IpAddr::is_ipv4);
    let slices: Vec<&EndpointSlice> = slices.collect();
    served_ports(service)
        .map(|port| {
            let mut candidates = of_port(&slices, &port.name);
            keep_usable(&mut candidates, prefers_ipv4);
            ClusterLoadAssignment {
                cluster_name: names::outbound_cluster(port.port, &host),
                endpoints: by_locality(
                    &candidates,
                    Nearness::of(&candidates, service, place.zone),
                    place.regions,
                ),
                ..Default::default()
            }
        })
        .collect()
}

fn of_port<'a>(slices: &[&'a EndpointSlice], port_name: &str) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for subset in slices.iter().flat_map(|slice| &slice.subsets) {
        for port in subset.ports.iter().filter(|port| *port.name == *port_name) {
            candidates.extend(subset.endpoints.iter().map(|endpoint| Candidate {
                address: endpoint.address,
                port: port.port,
                state: endpoint.state,
                zone_unknown: endpoint.zone.is_none(),
                zone: endpoint.zone.as_deref().unwrap_or_default(),
                unhinted: endpoint.for_zones.is_empty(),
                for_zones: &endpoint.for_zones,
            }));
        }
    }
    candidates
}

/// Sorts, and leaves each address and port once, one family and one state: ready, or draining if
/// nothing is ready (as kube-proxy does), or nothing.
fn keep_usable(candidates: &mut Vec<Candidate<'_>>, prefers_ipv4: bool) {
    if candidates.iter().any(|one| one.address.is_ipv4() == prefers_ipv4) {
        candidates.retain(|one| one.address.is_ipv4() == prefers_ipv4);
    }
    candidates.sort_unstable();
    candidates.dedup_by(|later, first| (later.address, later.port) == (first.address, first.port));
    let best = candidates.iter().map(|one| one.state).min();
    match best {
        Some(EndpointState::NotReady) | None => candidates.clear(),
        Some(best) => candidates.retain(|one| one.state == best),
    }
}

/// `candidates` are sorted by address and stay so within each zone; zones are sorted by priority
/// and name, the unknown one first. A zone may stand in both priorities if hints divide it.
fn by_locality(
    candidates: &[Candidate<'_>],
    nearness: Nearness<'_>,
    regions: &BTreeMap<Arc<str>, Arc<str>>,
) -> Vec<LocalityLbEndpoints> {
    let mut zones: BTreeMap<(u32, &str), Vec<LbEndpoint>> = BTreeMap::new();
    for candidate in candidates {
        let group = zones.entry((nearness.priority(candidate), candidate.zone)).or_default();
        group.push(lb_endpoint(candidate));
    }
    zones
        .into_iter()
        .map(|((priority, zone), lb_endpoints)| LocalityLbEndpoints {
            locality: Some(Locality {
                region: regions.get(zone).map(|region| (**region).to_owned()).unwrap_or_default(),
                zone: zone.to_owned(),
                ..Default::default()
            }),
            load_balancing_weight: Some(number(
                u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX),
            )),
            lb_endpoints,
            priority,
            ..Default::default()
        })
        .collect()
}

fn lb_endpoint(candidate: &Candidate<'_>) -> LbEndpoint {
    LbEndpoint {
        load_balancing_weight: Some(number(1)),
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(tcp_address(candidate.address, candidate.port)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
