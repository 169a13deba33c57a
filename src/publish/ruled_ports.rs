//! Which Services have rules on which of their ports, for proxies of one kind: what common listeners and tables of a
//! port number need to know of the rules of all Services behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::listeners_and_routes::Mesh;
use super::route_index::set;
use super::visibility::RestrictedServices;
use crate::model::ServiceKey;
use crate::translate::listeners::ListenerRules;
use crate::view::ProxyKind;

#[derive(Debug)]
pub(super) struct RuledPorts {
    kind: ProxyKind,
    services: BTreeMap<ServiceKey, RuledService>,
    /// The Services with rules on a port for everybody.
    by_port: BTreeMap<u16, BTreeSet<ServiceKey>>,
    /// The Services with rules for clients of this namespace, in the place of those for everybody.
    by_namespace: BTreeMap<Arc<str>, BTreeSet<ServiceKey>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct RuledService {
    /// Where the Service is told by its cluster IPs: a hash of its name and of these.
    by_address: Option<u64>,
    producer: BTreeSet<u16>,
    consumers: BTreeMap<Arc<str>, BTreeSet<u16>>,
}

/// The ports on which a Service got its first rule or lost its last, or moved to other addresses.
#[derive(Debug, Default)]
pub(super) struct RuledPortChanges {
    pub(super) everywhere: BTreeSet<u16>,
    pub(super) by_namespace: BTreeMap<Arc<str>, BTreeSet<u16>>,
}

impl RuledPortChanges {
    pub(super) fn is_empty(&self) -> bool {
        self.everywhere.is_empty() && self.by_namespace.is_empty()
    }
}

impl RuledPorts {
    pub(super) fn new(kind: ProxyKind) -> Self {
        let (services, by_port, by_namespace) = Default::default();
        Self { kind, services, by_port, by_namespace }
    }

    /// Takes in the rules of a Service as they are now; gives where that differs from before.
    pub(super) fn update(&mut self, key: &ServiceKey, mesh: Mesh<'_>) -> RuledPortChanges {
        let now = self.ruled_service(key, mesh);
        let before = self.services.remove(key).unwrap_or_default();
        let mut changes = RuledPortChanges::default();
        if before != now {
            let moved = before.by_address != now.by_address;
            changes.everywhere = differing(&before.producer, &now.producer, moved);
            for namespace in before.consumers.keys().chain(now.consumers.keys()) {
                // A namespace without rules of its own has the producer's.
                let ports = |service: &RuledService| {
                    service.consumers.get(namespace).unwrap_or(&service.producer).clone()
                };
                let differing = differing(&ports(&before), &ports(&now), moved);
                changes.by_namespace.insert(namespace.clone(), differing);
            }
            self.set(key, &before, false);
            self.set(key, &now, true);
        }
        if now != RuledService::default() {
            self.services.insert(key.clone(), now);
        }
        changes
    }

    fn ruled_service(&self, key: &ServiceKey, mesh: Mesh<'_>) -> RuledService {
        let Some((service, rules)) = mesh.services.resolved(key).zip(mesh.routes.rules(key)) else {
            return RuledService::default();
        };
        let addresses = mesh.services.owned_addresses(service);
        let by_address = (self.kind.is_captured() && !addresses.is_empty())
            .then(|| xxh3_64(format!("{key} {addresses:?}").as_bytes()));
        let consumers = rules.consumers.iter();
        RuledService {
            by_address,
            producer: rules.producer.keys().copied().collect(),
            consumers: consumers
                .map(|(namespace, ports)| (namespace.clone(), ports.keys().copied().collect()))
                .collect(),
        }
    }

    fn set(&mut self, key: &ServiceKey, service: &RuledService, is_there: bool) {
        for port in &service.producer {
            set(&mut self.by_port, port, key, is_there);
        }
        for namespace in service.consumers.keys() {
            set(&mut self.by_namespace, namespace, key, is_there);
        }
    }

    /// Whether clients of this namespace have rules of their own for any Service.
    pub(super) fn has_own(&self, namespace: &str) -> bool {
        self.by_namespace.contains_key(namespace)
    }

    /// What the rules for proxies of this namespace (of none) ask of a port's common listener.
    pub(super) fn of_listener(
        &self,
        namespace: Option<&str>,
        port: u16,
        restricted: &RestrictedServices,
    ) -> ListenerRules {
        let mut all = ListenerRules::default();
        if self.services.is_empty() {
            return all;
        }
        let own = namespace.and_then(|namespace| self.by_namespace.get(namespace));
        let producers = self.by_port.get(&port).into_iter().flatten();
        let producers = producers.filter(|key| own.is_none_or(|own| !own.contains(*key)));
        let is_consumed = |key: &&ServiceKey| {
            let consumers = self.services.get(*key).map(|service| &service.consumers);
            let ports = namespace.and_then(|namespace| consumers?.get(namespace));
            ports.is_some_and(|ports| ports.contains(&port))
        };
        let consumed = own.into_iter().flatten().filter(is_consumed);
        for key in producers.chain(consumed) {
            if !restricted.is_visible(namespace, key) {
                continue;
            }
            all.any = true;
            if let Some(hash) = self.services.get(key).and_then(|service| service.by_address) {
                // A sum does not depend on the order.
                all.by_address = Some(all.by_address.unwrap_or_default().wrapping_add(hash));
            }
        }
        all
    }
}

/// The ports that only one of them has; all of both if the Service `moved`.
fn differing(before: &BTreeSet<u16>, now: &BTreeSet<u16>, moved: bool) -> BTreeSet<u16> {
    if moved {
        before.union(now).copied().collect()
    } else {
        before.symmetric_difference(now).copied().collect()
    }
}
