//! What changed: the first stop of the one pass, and the only part that compares with the model.
//!
//! [`ServiceIndex`] holds every service as it was last published, with its alias resolved, its
//! slices, its claims of addresses and its visibility. [`MeshChanges`] says, for each kind of
//! resource, for which services it must be made anew. What comes after looks at those sets alone and
//! never asks why a service is in one. So another input than services (a route, a policy) takes an
//! index of its own, which says to which services it applies and adds those to the sets of the
//! resources that depend on it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::address_claims::AddressClaims;
use super::alias_index::AliasIndex;
use super::visibility::RestrictedServices;
use crate::model::{Model, Service, ServiceKey, SlicesOfService};
use crate::translate::routes::ClusterIpRanges;

/// One service as it was last published.
#[derive(Debug, Default)]
pub(super) struct ServiceEntry {
    /// As the model has it; the same allocation as long as it has not changed. None where there are
    /// slices only.
    pub(super) source: Option<Arc<Service>>,
    /// With its alias followed, if it is one.
    pub(super) resolved: Option<Arc<Service>>,
    pub(super) slices: SlicesOfService,
}

/// What differs from what was last published.
#[derive(Debug, Default)]
pub(super) struct MeshChanges {
    /// Services whose clusters must be made anew.
    pub(super) clusters: BTreeSet<ServiceKey>,
    /// Services whose endpoints must be made anew.
    pub(super) endpoints: BTreeSet<ServiceKey>,
    /// Services whose listeners and virtual hosts must be made anew.
    pub(super) listeners_and_routes: BTreeSet<ServiceKey>,
    /// Services to which routes have begun, or ceased, to mirror requests.
    pub(super) mirrored: BTreeSet<ServiceKey>,
    /// Everything that was looked at, as it was before: empty where there was nothing.
    pub(super) before: BTreeMap<ServiceKey, ServiceEntry>,
    /// Namespaces whose clients got their first rules of their own (true), or lost their last.
    pub(super) consuming: BTreeMap<Arc<str>, bool>,
    /// Zones whose region was unknown and is known now, or the other way round.
    pub(super) zones: BTreeSet<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct ServiceIndex {
    domain: Arc<str>,
    entries: BTreeMap<ServiceKey, ServiceEntry>,
    aliases: AliasIndex,
    addresses: AddressClaims,
    restricted: RestrictedServices,
    /// The region of each zone, as far as known.
    regions: BTreeMap<Arc<str>, Arc<str>>,
}

impl ServiceIndex {
    pub(super) fn new(domain: Arc<str>) -> Self {
        Self {
            domain,
            entries: BTreeMap::new(),
            aliases: AliasIndex::default(),
            addresses: AddressClaims::default(),
            restricted: RestrictedServices::default(),
            regions: BTreeMap::new(),
        }
    }

    /// Takes in the services in `dirty` as they are in the model now. Costs work for those, and for
    /// the aliases that lead to them.
    pub(super) fn update(&mut self, model: &Model, dirty: &BTreeSet<ServiceKey>) -> MeshChanges {
        let mut changes = MeshChanges { zones: self.update_regions(model), ..Default::default() };
        let is_changed = |key: &&ServiceKey| self.is_changed(model, key);
        let mut redefined: BTreeSet<_> = dirty.iter().filter(is_changed).cloned().collect();
        redefined.append(&mut self.aliases.update(model, &redefined, &self.domain));
        for key in dirty.union(&redefined) {
            let before = self.entries.remove(key).unwrap_or_default();
            let mut entry = ServiceEntry {
                source: model.service(key).cloned(),
                resolved: before.resolved.clone(),
                slices: model.slices_of(key),
            };
            if redefined.contains(key) {
                entry.resolved = model.resolved(key, &self.domain);
                let affected = &mut changes.listeners_and_routes;
                affected.insert(key.clone());
                self.addresses.update(key, before.cluster_ips(), entry.cluster_ips(), affected);
                let export_to = entry.resolved.as_ref().map(|service| &service.export_to);
                self.restricted.set_export(key, export_to);
            }
            if before.source.is_some() || entry.source.is_some() {
                changes.endpoints.insert(key.clone());
            }
            if entry.source.is_some() || !entry.slices.is_empty() {
                self.entries.insert(key.clone(), entry);
            }
            changes.before.insert(key.clone(), before);
        }
        changes.clusters = redefined;
        changes
    }

    fn is_changed(&self, model: &Model, key: &ServiceKey) -> bool {
        let before = self.entries.get(key).and_then(|entry| entry.source.as_ref());
        match (before, model.service(key)) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (None, None) => false,
            _ => true,
        }
    }

    /// Gives the zones whose region became known or unknown. The model itself names the services
    /// whose endpoints say another region by it.
    fn update_regions(&mut self, model: &Model) -> BTreeSet<Arc<str>> {
        let now = model.regions();
        if self.regions == *now {
            return BTreeSet::new();
        }
        let before = std::mem::replace(&mut self.regions, now.clone());
        let gone = before.keys().filter(|zone| !now.contains_key(*zone));
        let new = now.keys().filter(|zone| !before.contains_key(*zone));
        gone.chain(new).cloned().collect()
    }

    /// The region of each zone, as far as known.
    pub(super) fn regions(&self) -> &BTreeMap<Arc<str>, Arc<str>> {
        &self.regions
    }

    /// A service or the slices of one; none where there is neither.
    pub(super) fn entry(&self, key: &ServiceKey) -> Option<&ServiceEntry> {
        self.entries.get(key)
    }

    /// A service with its alias followed.
    pub(super) fn resolved(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.entries.get(key)?.resolved.as_ref()
    }

    /// All aliases that lead to one of these services.
    pub(super) fn aliases_of(&self, services: &BTreeSet<ServiceKey>) -> BTreeSet<ServiceKey> {
        self.aliases.leading_to(services)
    }

    /// Every service, in order.
    pub(super) fn keys(&self) -> impl Iterator<Item = &ServiceKey> + Clone {
        let services = self.entries.iter().filter(|(_, entry)| entry.resolved.is_some());
        services.map(|(key, _)| key)
    }

    /// The services of one namespace with their aliases followed, in the order of their keys.
    pub(super) fn resolved_in(&self, namespace: &Arc<str>) -> impl Iterator<Item = &Arc<Service>> {
        let first = ServiceKey { namespace: namespace.clone(), name: "".into() };
        let entries = self.entries.range(first..);
        let own = entries.take_while(move |(key, _)| key.namespace == *namespace);
        own.filter_map(|(_, entry)| entry.resolved.as_ref())
    }

    /// Where the addresses of all services are.
    pub(super) fn cluster_ip_ranges(&self) -> ClusterIpRanges {
        self.addresses.ranges()
    }

    /// The service's addresses that no other service claims before it.
    pub(super) fn owned_addresses(&self, service: &Service) -> Vec<IpAddr> {
        self.addresses.owned_by(service)
    }

    /// Which services not everybody sees.
    pub(super) fn restricted(&self) -> &RestrictedServices {
        &self.restricted
    }
}

impl ServiceEntry {
    fn cluster_ips(&self) -> &[IpAddr] {
        self.resolved.as_ref().map(|service| service.cluster_ips()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
