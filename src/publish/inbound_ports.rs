//! Which ports of a workload services lead to.
//!
//! An index from addresses to the slices that name them says for one proxy which services lead
//! to it, without a walk through the mesh; a change of a slice looks at the addresses that came
//! or went with it. Costs about 100 bytes an endpoint. Readiness does not matter: a pod that is not
//! ready yet has its listeners already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::service_index::{ServiceEntry, ServiceIndex};
use super::view_assigner::Dependency;
use crate::model::{EndpointSlice, Protocol, Service, ServiceKey, TrafficPolicy};
use crate::snapshot::{Conflict, ConflictKind};
use crate::translate::serves_inbound_port;
use crate::view::{InboundPort, InboundPorts, InboundProtocol};

#[derive(Debug, Default)]
pub(super) struct InboundPortIndex {
    /// Address, service, and the slice of it that has the address.
    entries: BTreeSet<(IpAddr, ServiceKey, Arc<str>)>,
}

impl InboundPortIndex {
    /// The ports of these addresses on which services lead there, and whose word about one was
    /// not the first: services go by their keys, so that all replicas agree.
    pub(super) fn ports(
        &self,
        addresses: &[IpAddr],
        services: &ServiceIndex,
    ) -> (InboundPorts, Vec<(Conflict, Arc<str>)>) {
        let mut ports: BTreeMap<u16, (InboundPort, &ServiceKey)> = BTreeMap::new();
        let mut lost = Vec::new();
        let mut claims: Vec<_> =
            addresses.iter().flat_map(|address| self.slices_naming(*address, services)).collect();
        claims.sort_by_key(|(key, ..)| *key);
        for (key, address, service, slice) in claims {
            for (port, protocol) in workload_ports(service, slice, address) {
                let new = InboundPort {
                    idle_timeout: service
                        .traffic_policy
                        .tcp_idle_timeout
                        .filter(|_| protocol == InboundProtocol::Tcp),
                    ..InboundPort::new(port, protocol)
                };
                let (known, owner) = ports.entry(port).or_insert((new, key));
                let first = known.protocol;
                if first == protocol {
                    known.idle_timeout = longer_timeout(known.idle_timeout, new.idle_timeout);
                } else {
                    let conflict = Conflict {
                        kind: ConflictKind::Inbound,
                        place: port.to_string().into(),
                        loser: key.to_string().into(),
                    };
                    let text = format!(
                        "{key} calls port {port} of its pods {protocol:?}, for {owner} it is \
                         {first:?}, and that comes first"
                    );
                    lost.push((conflict, text.into()));
                }
            }
        }
        (ports.into_values().map(|(port, _)| port).collect(), lost)
    }

    fn slices_naming<'a>(
        &self,
        address: IpAddr,
        services: &'a ServiceIndex,
    ) -> impl Iterator<Item = (&ServiceKey, IpAddr, &'a Service, &'a EndpointSlice)> {
        let first = (address, ServiceKey::new("", ""), Arc::from(""));
        let entries = self.entries.range(first..).take_while(move |(one, ..)| *one == address);
        entries.filter_map(move |(_, key, slice)| {
            let ServiceEntry { source, slices, .. } = services.entry(key)?;
            Some((key, address, &**source.as_ref()?, &**slices.get(slice)?))
        })
    }

    /// Puts what a service is `now` in the place of what it was; adds the addresses whose ports may
    /// differ.
    pub(super) fn update(
        &mut self,
        key: &ServiceKey,
        before: &ServiceEntry,
        now: &ServiceEntry,
        touched: &mut BTreeSet<Dependency>,
    ) {
        let same_service = match (&before.source, &now.source) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        let gone = before.slices.iter().filter(|(name, _)| !now.slices.contains_key(*name));
        for (name, slice) in gone {
            for address in addresses(slice) {
                self.entries.remove(&(address, key.clone(), name.clone()));
                touched.insert(Dependency::Address(address));
            }
        }
        for (name, slice) in &now.slices {
            let old = before.slices.get(name);
            if same_service && old.is_some_and(|old| Arc::ptr_eq(old, slice)) {
                continue;
            }
            let new_addresses = addresses(slice);
            let old_addresses = old.map(|old| addresses(old)).unwrap_or_default();
            for address in old_addresses.difference(&new_addresses) {
                self.entries.remove(&(*address, key.clone(), name.clone()));
            }
            for address in new_addresses.difference(&old_addresses) {
                self.entries.insert((*address, key.clone(), name.clone()));
            }
            if same_service && old.is_some_and(|old| same_ports(old, slice)) {
                let differ = new_addresses.symmetric_difference(&old_addresses);
                touched.extend(differ.copied().map(Dependency::Address));
            } else {
                let all = new_addresses.union(&old_addresses);
                touched.extend(all.copied().map(Dependency::Address));
            }
        }
    }
}

fn addresses(slice: &EndpointSlice) -> BTreeSet<IpAddr> {
    let endpoints = slice.subsets.iter().flat_map(|subset| &subset.endpoints);
    endpoints.map(|endpoint| endpoint.address).collect()
}

/// Whether an address that is in both has the same ports for certain.
fn same_ports(one: &EndpointSlice, other: &EndpointSlice) -> bool {
    match (one.subsets.as_slice(), other.subsets.as_slice()) {
        ([one], [other]) => one.ports == other.ports,
        _ => false,
    }
}

/// The workload's ports behind those of the service, in the order of the service's.
fn workload_ports(
    service: &Service,
    slice: &EndpointSlice,
    address: IpAddr,
) -> impl Iterator<Item = (u16, InboundProtocol)> {
    let has_address = move |endpoints: &[crate::model::Endpoint]| {
        endpoints.iter().any(|endpoint| endpoint.address == address)
    };
    let subsets: Vec<_> =
        slice.subsets.iter().filter(|subset| has_address(&subset.endpoints)).collect();
    service.ports.iter().flat_map(move |port| {
        let targets = subsets.clone().into_iter().flat_map(|subset| &subset.ports);
        let own = targets.filter(|target| target.name == port.name);
        let own = own.filter(|target| serves_inbound_port(target.port));
        own.map(|target| (target.port, inbound_protocol(port.protocol))).collect::<Vec<_>>()
    })
}

/// Which service a connection came for cannot be told, so that it may be idle for as long as any of
/// them allows.
fn longer_timeout(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    let length = |idle: &Option<Duration>| match idle {
        Some(Duration::ZERO) => Duration::MAX,
        Some(idle) => *idle,
        None => TrafficPolicy::TCP_IDLE_TIMEOUT,
    };
    std::cmp::max_by_key(one, other, length)
}

fn inbound_protocol(protocol: Protocol) -> InboundProtocol {
    match protocol {
        Protocol::Http => InboundProtocol::Http,
        Protocol::Http2 => InboundProtocol::Http2,
        Protocol::Grpc => InboundProtocol::Grpc,
        Protocol::Tls | Protocol::Tcp => InboundProtocol::Tcp,
    }
}
