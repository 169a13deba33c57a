//! Endpoints: one `ClusterLoadAssignment` for each cluster of a service.
//!
//! The rules are those of `docs/kubernetes.md`, and what gRPC clients insist on besides (a locality,
//! weights of at least 1, no address twice). The result depends on the content of the slices, never on
//! their number or order: a controller that reshuffles them must not cause a push.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Locality, Metadata};
use envoy_types::pb::envoy::config::endpoint::v3::endpoint::AdditionalAddress;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};

use envoy_types::pb::google::protobuf::{Struct, Value, value};

mod place;

use place::Nearness;
pub use place::{ProxyLocation, depends_on_zone};

use super::{HOSTNAME_KEY, SUBSET_NAMESPACE, served_ports, tcp_address, uint32_value};
use crate::model::{
    Endpoint as ModelEndpoint, EndpointSlice, EndpointState, IpFamily, Service, ServiceKind,
};
use crate::names;

/// An endpoint of one slice: an address and port. If slices disagree about the same address and port, the
/// least by the order of the fields is used: the more usable state (an endpoint that moves between slices
/// is in both for a while), and a known zone rather than none.
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
    hostname_unknown: bool,
    /// Empty if unknown.
    hostname: &'a str,
    pod: Option<NonZeroU64>,
}

/// Pods whose address of the second family is known, with that address and its port.
type SecondAddresses = BTreeMap<NonZeroU64, (IpAddr, u16)>;

/// The assignment of each cluster of [`super::clusters::service_clusters`], in the same order and by the
/// same name. A cluster without endpoints has an empty one, because a proxy waits for it.
///
/// `slices` are the service's, in any order. Endpoints are of one address family, because a dual-stack pod
/// would count twice: the first of the service's families (of its cluster IPs if it names none, else IPv4)
/// that has a usable endpoint. If the service is dual-stack, the pod's address of the other family is an
/// additional address, which Envoy tries if the first does not answer.
///
/// `proxy` is the location of the proxy: by the service's traffic distribution or hints, endpoints near it
/// have a higher priority; by its internal traffic policy, those of its node are the only ones.
pub fn service_endpoints<'a>(
    service: &Service,
    slices: impl Iterator<Item = &'a EndpointSlice>,
    domain: &str,
    proxy: ProxyLocation<'_>,
) -> Vec<ClusterLoadAssignment> {
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    // Envoy resolves these itself.
    if matches!(service.kind, ServiceKind::ExternalName(_)) {
        return Vec::new();
    }
    let families = families(service);
    let is_dual = service.families.len() > 1;
    let by_name = service.kind == ServiceKind::Headless;
    let slices: Vec<&EndpointSlice> = slices.collect();
    served_ports(service)
        .map(|port| {
            let is_here =
                |one: &ModelEndpoint| proxy.node.is_some() && one.node.as_deref() == proxy.node;
            let mut candidates =
                port_candidates(&slices, &port.name, |one| !service.node_local || is_here(one));
            candidates.sort_unstable();
            candidates.dedup_by_key(|one| (one.address, one.port));
            let second_addresses = if is_dual {
                second_addresses(&candidates, &families)
            } else {
                SecondAddresses::new()
            };
            keep_usable(&mut candidates, &families);
            ClusterLoadAssignment {
                cluster_name: names::outbound_cluster(port.port, &host),
                endpoints: group_by_locality(
                    &candidates,
                    Nearness::choose(&candidates, service, proxy.zone),
                    proxy.regions,
                    |one| {
                        let second = one.pod.and_then(|pod| second_addresses.get(&pod));
                        lb_endpoint(one, second, by_name)
                    },
                ),
                ..Default::default()
            }
        })
        .collect()
}

fn port_candidates<'a>(
    slices: &[&'a EndpointSlice],
    port_name: &str,
    is_meant: impl Fn(&ModelEndpoint) -> bool,
) -> Vec<Candidate<'a>> {
    let mut candidates = Vec::new();
    for subset in slices.iter().flat_map(|slice| &slice.subsets) {
        for port in subset.ports.iter().filter(|port| *port.name == *port_name) {
            let meant = subset.endpoints.iter().filter(|one| is_meant(one));
            candidates.extend(meant.map(|endpoint| Candidate {
                address: endpoint.address,
                port: port.port,
                state: endpoint.state,
                zone_unknown: endpoint.zone.is_none(),
                zone: endpoint.zone.as_deref().unwrap_or_default(),
                unhinted: endpoint.for_zones.is_empty(),
                for_zones: &endpoint.for_zones,
                hostname_unknown: endpoint.hostname.is_none(),
                hostname: endpoint.hostname.as_deref().unwrap_or_default(),
                pod: endpoint.pod,
            }));
        }
    }
    candidates
}

/// The address families whose endpoints may be used, the preferred one first.
fn families(service: &Service) -> Vec<IpFamily> {
    if !service.families.is_empty() {
        return service.families.clone();
    }
    let first = service
        .cluster_ips()
        .first()
        .map_or(IpFamily::V4, |address| IpFamily::of_address(*address));
    vec![first, first.other()]
}

/// Keeps the candidates of one state and one family: ready ones, or draining ones if none is ready (as
/// kube-proxy does), or none at all; of these, the first family that has any.
fn keep_usable(candidates: &mut Vec<Candidate<'_>>, families: &[IpFamily]) {
    let rank = |one: &Candidate<'_>| {
        let family = IpFamily::of_address(one.address);
        let at = families.iter().position(|own| *own == family)?;
        (one.state != EndpointState::NotReady).then_some((one.state, at))
    };
    let best = candidates.iter().filter_map(rank).min();
    candidates.retain(|one| best.is_some() && rank(one) == best);
}

/// The address of the second family of each pod that has exactly one address and port of each family, both
/// in the same state.
fn second_addresses(candidates: &[Candidate<'_>], families: &[IpFamily]) -> SecondAddresses {
    let mut pods: BTreeMap<NonZeroU64, Vec<&Candidate<'_>>> = BTreeMap::new();
    for candidate in candidates {
        if let Some(pod) = candidate.pod {
            pods.entry(pod).or_default().push(candidate);
        }
    }
    let second = |(pod, own): (NonZeroU64, Vec<&Candidate<'_>>)| {
        let &[one, other] = own.as_slice() else { return None };
        let is_second =
            |one: &Candidate<'_>| families.get(1) == Some(&IpFamily::of_address(one.address));
        let second = match (is_second(one), is_second(other)) {
            (true, false) => one,
            (false, true) => other,
            _ => return None,
        };
        (one.state == other.state).then_some((pod, (second.address, second.port)))
    };
    pods.into_iter().filter_map(second).collect()
}

/// Groups `candidates`, which are sorted by address and stay so, by priority and zone, the unknown zone
/// first. If hints divide a zone, it is in both priorities.
fn group_by_locality<'a>(
    candidates: &[Candidate<'a>],
    nearness: Nearness<'_>,
    regions: &BTreeMap<Arc<str>, Arc<str>>,
    endpoint: impl Fn(&Candidate<'a>) -> LbEndpoint,
) -> Vec<LocalityLbEndpoints> {
    let mut zones: BTreeMap<(u32, &str), Vec<LbEndpoint>> = BTreeMap::new();
    for candidate in candidates {
        let group = zones.entry((nearness.priority(candidate), candidate.zone)).or_default();
        group.push(endpoint(candidate));
    }
    zones
        .into_iter()
        .map(|((priority, zone), lb_endpoints)| LocalityLbEndpoints {
            locality: Some(Locality {
                region: regions.get(zone).map(|region| (**region).to_owned()).unwrap_or_default(),
                zone: zone.to_owned(),
                ..Default::default()
            }),
            load_balancing_weight: Some(uint32_value(
                u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX),
            )),
            lb_endpoints,
            priority,
            ..Default::default()
        })
        .collect()
}

fn lb_endpoint(
    candidate: &Candidate<'_>,
    second: Option<&(IpAddr, u16)>,
    by_name: bool,
) -> LbEndpoint {
    let second = second
        .map(|&(address, port)| AdditionalAddress { address: Some(tcp_address(address, port)) });
    LbEndpoint {
        load_balancing_weight: Some(uint32_value(1)),
        metadata: by_name.then(|| pod_name_metadata(&pod_name(candidate))),
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(tcp_address(candidate.address, candidate.port)),
            additional_addresses: second.into_iter().collect(),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The DNS label of a headless service's pod: its hostname, else its address with dashes, as in CoreDNS
/// (`endpointHostname` of its kubernetes plugin; a name cannot end in a dash).
fn pod_name(candidate: &Candidate<'_>) -> String {
    if !candidate.hostname_unknown {
        return candidate.hostname.to_owned();
    }
    let dashed = candidate.address.to_string().replace(['.', ':'], "-");
    if dashed.ends_with('-') { dashed + "0" } else { dashed }
}

/// The pod's name for subset load balancing. Each of the two maps has one entry, so that the encoding is
/// always the same.
fn pod_name_metadata(hostname: &str) -> Metadata {
    let value = Value { kind: Some(value::Kind::StringValue(hostname.to_owned())) };
    let fields = Struct { fields: [(HOSTNAME_KEY.to_owned(), value)].into() };
    Metadata {
        filter_metadata: [(SUBSET_NAMESPACE.to_owned(), fields)].into(),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
