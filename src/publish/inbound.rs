//! Which view each proxy needs, now that its inbound ports depend on the mesh, and whether its node
//! matters does too.
//!
//! An index from addresses to the slices that name them tells for one proxy which services lead
//! to it, without a walk through the mesh; a change of a slice looks at the addresses that came
//! or went with it, and works on those alone whose proxies are here. Costs about 100 bytes an
//! endpoint. Readiness does not matter: a pod that is not ready yet has its listeners already.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::nodes::Nodes;
use crate::model::{EndpointSlice, Model, Protocol, Service, ServiceKey, SlicesOfService};
use crate::snapshot::{Conflict, ConflictKind, Conflicts};
use crate::translate::serves_inbound_port;
use crate::view::{InboundPort, InboundPorts, InboundProtocol, Need, ViewKey};

/// Envoy's, where nothing else is said.
const DEFAULT_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// The one writer of who needs what.
#[derive(Debug, Default)]
pub(super) struct Needs {
    /// Address, service, and the slice of it that has the address.
    index: BTreeSet<(IpAddr, ServiceKey, Arc<str>)>,
    known: BTreeMap<ServiceKey, Indexed>,
    needs: BTreeMap<Need, Answer>,
    by_address: BTreeMap<IpAddr, BTreeSet<Need>>,
    nodes: Nodes,
    /// By the node that a proxy says it is on.
    by_node: BTreeMap<Arc<str>, BTreeSet<Need>>,
    /// Every view that is needed, by how many needs.
    views: BTreeMap<Arc<ViewKey>, usize>,
    /// By how many needs each conflict is met.
    conflicts: BTreeMap<Conflict, usize>,
}

/// A service as it stands in the index.
#[derive(Debug, Default)]
struct Indexed {
    service: Option<Arc<Service>>,
    slices: SlicesOfService,
}

#[derive(Debug)]
struct Answer {
    view: Arc<ViewKey>,
    conflicts: Vec<Conflict>,
}

impl Needs {
    /// The views that somebody needs.
    pub(super) fn views(&self) -> impl Iterator<Item = &ViewKey> {
        self.views.keys().map(|key| &**key)
    }

    /// Takes in what has changed in `dirty`; gives the needs that have another view by it.
    pub(super) fn update(
        &mut self,
        model: &Model,
        dirty: &BTreeSet<ServiceKey>,
        conflicts: &mut Conflicts,
    ) -> Vec<(Need, Arc<ViewKey>)> {
        let (mut addresses, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for key in dirty {
            self.index(model, key, &mut addresses);
            let service = model.service(key).map(|service| &**service);
            self.nodes.put(key, service, &model.slices_of(key), &mut nodes);
        }
        let needs = addresses.iter().filter_map(|address| self.by_address.get(address));
        let needs = needs.chain(nodes.iter().filter_map(|node| self.by_node.get(node))).flatten();
        let needs: BTreeSet<Need> = needs.cloned().collect();
        let moved = needs.into_iter().filter_map(|need| {
            let before = self.needs.get(&need).map(|answer| answer.view.clone());
            let view = self.put(&need, conflicts);
            (before.as_ref() != Some(&view)).then_some((need, view))
        });
        moved.collect()
    }

    /// Somebody needs this; gives the view.
    pub(super) fn add(&mut self, need: &Need, conflicts: &mut Conflicts) -> Arc<ViewKey> {
        for address in need.addresses.iter() {
            self.by_address.entry(*address).or_default().insert(need.clone());
        }
        if let Some(node) = &need.view.node {
            self.by_node.entry(node.clone()).or_default().insert(need.clone());
        }
        self.put(need, conflicts)
    }

    /// Nobody needs this any more.
    pub(super) fn remove(&mut self, need: &Need, conflicts: &mut Conflicts) {
        for address in need.addresses.iter() {
            if let Some(needs) = self.by_address.get_mut(address) {
                needs.remove(need);
                if needs.is_empty() {
                    self.by_address.remove(address);
                }
            }
        }
        if let Some(node) = &need.view.node
            && let Some(needs) = self.by_node.get_mut(node)
        {
            needs.remove(need);
            if needs.is_empty() {
                self.by_node.remove(node);
            }
        }
        self.forget(need, conflicts);
    }

    fn put(&mut self, need: &Need, conflicts: &mut Conflicts) -> Arc<ViewKey> {
        let (inbound, lost) = self.inbound(&need.addresses);
        self.forget(need, conflicts);
        for (conflict, text) in &lost {
            *self.conflicts.entry(conflict.clone()).or_default() += 1;
            conflicts.insert(conflict.clone(), text.clone());
        }
        let node = need.view.node.clone().filter(|node| self.nodes.matters(node));
        let view = ViewKey { inbound, node, ..need.view.clone() };
        // One allocation for all that are equal.
        let known = self.views.get_key_value(&view).map(|(known, _)| known.clone());
        let view = known.unwrap_or_else(|| Arc::new(view));
        *self.views.entry(view.clone()).or_default() += 1;
        let conflicts = lost.into_iter().map(|(conflict, _)| conflict).collect();
        self.needs.insert(need.clone(), Answer { view: view.clone(), conflicts });
        view
    }

    fn forget(&mut self, need: &Need, conflicts: &mut Conflicts) {
        let Some(answer) = self.needs.remove(need) else { return };
        release(&mut self.views, &answer.view);
        for conflict in &answer.conflicts {
            if release(&mut self.conflicts, conflict) {
                conflicts.remove(conflict);
            }
        }
    }

    /// The ports of these addresses on which services lead there, and whose word about one was
    /// not the first: services go by their keys, so that all replicas agree.
    fn inbound(&self, addresses: &[IpAddr]) -> (InboundPorts, Vec<(Conflict, Arc<str>)>) {
        let mut ports: BTreeMap<u16, (InboundPort, &ServiceKey)> = BTreeMap::new();
        let mut lost = Vec::new();
        let mut named: Vec<_> =
            addresses.iter().flat_map(|address| self.naming(*address)).collect();
        named.sort_by_key(|(key, ..)| *key);
        for (key, address, service, slice) in named {
            for (port, protocol) in ports_of(service, slice, address) {
                let new = InboundPort {
                    idle_timeout: service
                        .tuning
                        .tcp_idle_timeout
                        .filter(|_| protocol == InboundProtocol::Tcp),
                    ..InboundPort::new(port, protocol)
                };
                let (known, owner) = ports.entry(port).or_insert((new, key));
                let first = known.protocol;
                if first == protocol {
                    known.idle_timeout = longer(known.idle_timeout, new.idle_timeout);
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

    fn naming(
        &self,
        address: IpAddr,
    ) -> impl Iterator<Item = (&ServiceKey, IpAddr, &Service, &EndpointSlice)> {
        let first = (address, ServiceKey::new("", ""), Arc::from(""));
        let entries = self.index.range(first..).take_while(move |(one, ..)| *one == address);
        entries.filter_map(move |(_, key, slice)| {
            let Indexed { service, slices } = self.known.get(key)?;
            Some((key, address, &**service.as_ref()?, &**slices.get(slice)?))
        })
    }

    /// Brings the index up to date for one service; adds the addresses whose ports may differ.
    fn index(&mut self, model: &Model, key: &ServiceKey, touched: &mut BTreeSet<IpAddr>) {
        let now = Indexed { service: model.service(key).cloned(), slices: model.slices_of(key) };
        let before = self.known.remove(key).unwrap_or_default();
        let same_service = match (&before.service, &now.service) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        let gone = before.slices.iter().filter(|(name, _)| !now.slices.contains_key(*name));
        for (name, slice) in gone {
            for address in addresses(slice) {
                self.index.remove(&(address, key.clone(), name.clone()));
                touched.insert(address);
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
                self.index.remove(&(*address, key.clone(), name.clone()));
            }
            for address in new_addresses.difference(&old_addresses) {
                self.index.insert((*address, key.clone(), name.clone()));
            }
            if same_service && old.is_some_and(|old| same_ports(old, slice)) {
                touched.extend(new_addresses.symmetric_difference(&old_addresses));
            } else {
                touched.extend(new_addresses.union(&old_addresses));
            }
        }
        if now.service.is_some() || !now.slices.is_empty() {
            self.known.insert(key.clone(), now);
        }
    }
}

/// One less; whether that was the last.
pub(super) fn release<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(key);
    }
    last
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
fn ports_of(
    service: &Service,
    slice: &EndpointSlice,
    address: IpAddr,
) -> impl Iterator<Item = (u16, InboundProtocol)> {
    let has_it = move |endpoints: &[crate::model::Endpoint]| {
        endpoints.iter().any(|endpoint| endpoint.address == address)
    };
    let subsets: Vec<_> = slice.subsets.iter().filter(|subset| has_it(&subset.endpoints)).collect();
    service.ports.iter().flat_map(move |port| {
        let targets = subsets.clone().into_iter().flat_map(|subset| &subset.ports);
        let own = targets.filter(|target| target.name == port.name);
        let own = own.filter(|target| serves_inbound_port(target.port));
        own.map(|target| (target.port, inbound_protocol(port.protocol))).collect::<Vec<_>>()
    })
}

/// Which service a connection came for cannot be told, so that it may be idle for as long as any of
/// them allows.
fn longer(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    let length = |idle: &Option<Duration>| match idle {
        Some(Duration::ZERO) => Duration::MAX,
        Some(idle) => *idle,
        None => DEFAULT_IDLE_TIMEOUT,
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
