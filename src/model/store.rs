//! The mesh as the source tells of it, and which services a change really touches.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use imbl::OrdMap;

use super::{
    Change, Dirty, Endpoint, EndpointSlice, Flaw, Node, ReferenceGrant, Route, RouteKey, Service,
    ServiceKey, ServiceKind, ServicePort, SlicesOfService,
};
use routes::RouteStore;

mod routes;

/// All that is known of the mesh. Cloning is O(1).
#[derive(Clone, Debug, Default)]
pub struct Model {
    services: OrdMap<ServiceKey, Arc<Service>>,
    slices: OrdMap<ServiceKey, SlicesOfService>,
    /// (namespace, slice name) → service, because a deletion names the slice alone and because a
    /// slice may be moved to another service by its label.
    owners: OrdMap<(Arc<str>, Arc<str>), ServiceKey>,
    nodes: OrdMap<Arc<str>, Node>,
    /// The region of each zone, from the nodes; if they disagree, the first by name is believed.
    regions: Arc<BTreeMap<Arc<str>, Arc<str>>>,
    routes: RouteStore,
}

impl Model {
    /// Takes a change in and adds to `dirty` the services that it really touched.
    ///
    /// A change that says what is already known touches nothing: watches repeat themselves, and a
    /// repetition must not wake ten thousand proxies.
    pub fn apply(&mut self, change: Change, dirty: &mut Dirty) {
        match change {
            Change::Service(service) => self.put_service(Arc::new(service), dirty),
            Change::ServiceGone(key) => self.remove_service(&key, dirty),
            Change::Slice(slice) => self.put_slice(Arc::new(slice), dirty),
            Change::SliceGone { namespace, name } => self.remove_slice(&(namespace, name), dirty),
            Change::Services(scope, list) => {
                let kept: BTreeSet<_> = list.iter().map(|service| service.key.clone()).collect();
                let gone: Vec<_> = self
                    .services
                    .keys()
                    .filter(|key| scope.covers(&key.namespace) && !kept.contains(key))
                    .cloned()
                    .collect();
                for key in gone {
                    self.remove_service(&key, dirty);
                }
                for service in list {
                    self.put_service(service, dirty);
                }
            }
            Change::Slices(scope, list) => {
                let kept: BTreeSet<_> =
                    list.iter().map(|slice| (&slice.service.namespace, &slice.name)).collect();
                let gone: Vec<_> = self
                    .owners
                    .keys()
                    .filter(|key| scope.covers(&key.0) && !kept.contains(&(&key.0, &key.1)))
                    .cloned()
                    .collect();
                for key in gone {
                    self.remove_slice(&key, dirty);
                }
                for slice in list {
                    self.put_slice(slice, dirty);
                }
            }
            Change::Node(node) => {
                let known = self.nodes.insert(node.name.clone(), node.clone());
                if known.as_ref() != Some(&node) {
                    self.update_regions(dirty);
                }
            }
            Change::NodeGone(name) => {
                if self.nodes.remove(&name).is_some() {
                    self.update_regions(dirty);
                }
            }
            Change::Nodes(list) => {
                self.nodes = list.into_iter().map(|node| (node.name.clone(), node)).collect();
                self.update_regions(dirty);
            }
            Change::Route(route) => self.routes.put(Arc::new(route), dirty),
            Change::RouteGone(key) => self.routes.remove(&key, dirty),
            Change::Routes(scope, kind, list) => self.routes.replace(&scope, kind, list, dirty),
            Change::Grant(grant) => self.routes.put_grant(Arc::new(grant), dirty),
            Change::GrantGone { namespace, name } => {
                self.routes.remove_grant(&(namespace, name), dirty);
            }
            Change::Grants(scope, list) => self.routes.replace_grants(&scope, list, dirty),
            Change::Synced => {}
        }
    }

    /// Every route, in the order of its key.
    pub fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.routes.routes()
    }

    pub fn route(&self, key: &RouteKey) -> Option<&Arc<Route>> {
        self.routes.route(key)
    }

    /// The ReferenceGrants of a namespace, in the order of their names.
    pub fn grants(&self, namespace: &str) -> impl Iterator<Item = &Arc<ReferenceGrant>> {
        self.routes.grants(namespace)
    }

    /// The region of each zone, as far as known.
    pub fn regions(&self) -> &BTreeMap<Arc<str>, Arc<str>> {
        &self.regions
    }

    /// Zones hardly ever change their region, so when one does, every service may be looked at.
    fn update_regions(&mut self, dirty: &mut Dirty) {
        let mut regions = BTreeMap::new();
        for node in self.nodes.values() {
            if let (Some(zone), Some(region)) = (&node.zone, &node.region) {
                regions.entry(zone.clone()).or_insert_with(|| region.clone());
            }
        }
        if regions != *self.regions {
            self.regions = Arc::new(regions);
            dirty.services.extend(self.slices.keys().cloned());
        }
    }

    pub fn service(&self, key: &ServiceKey) -> Option<&Arc<Service>> {
        self.services.get(key)
    }

    /// Every service, in the order of its key.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.services.values()
    }

    /// The slices of a service, in the order of their names; none if it has none.
    pub fn slices(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<EndpointSlice>> {
        self.slices.get(key).into_iter().flat_map(OrdMap::values)
    }

    /// The slice of this name, if it is the service's.
    pub(super) fn slice(&self, service: &ServiceKey, name: &str) -> Option<&Arc<EndpointSlice>> {
        self.slices.get(service)?.get(name)
    }

    /// Whether there is a slice of this name.
    pub fn has_slice(&self, namespace: &str, name: &str) -> bool {
        self.owners.contains_key(&(Arc::from(namespace), Arc::from(name)))
    }

    /// Namespace and name of every slice.
    pub(super) fn slice_names(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<str>)> {
        self.owners.keys().map(|(namespace, name)| (namespace, name))
    }

    /// The same as they are now, to be kept.
    pub fn slices_of(&self, key: &ServiceKey) -> SlicesOfService {
        self.slices.get(key).cloned().unwrap_or_default()
    }

    /// Every service that has slices, whether or not there is a Service of that name, in order.
    pub fn sliced_services(&self) -> impl Iterator<Item = &ServiceKey> {
        self.slices.keys()
    }

    /// Ports behind which nothing is ready or draining, in the order of services. Aliases have no
    /// endpoints to miss.
    pub fn ports_without_endpoints(&self) -> impl Iterator<Item = (&Arc<Service>, &ServicePort)> {
        let expected =
            |service: &&Arc<Service>| !matches!(service.kind, ServiceKind::ExternalName(_));
        self.services().filter(expected).flat_map(move |service| {
            let reached: BTreeSet<&str> = self
                .slices(&service.key)
                .flat_map(|slice| &slice.subsets)
                .filter(|subset| subset.endpoints.iter().any(Endpoint::is_usable))
                .flat_map(|subset| subset.ports.iter().map(|port| &*port.name))
                .collect();
            let unreached = move |port: &&ServicePort| !reached.contains(&*port.name);
            service.ports.iter().filter(unreached).map(move |port| (service, port))
        })
    }

    /// What is wrong with services that are served all the same, aliases that lead nowhere
    /// included, in the order of services.
    pub fn flaws(&self, domain: &str) -> impl Iterator<Item = (ServiceKey, Flaw)> {
        self.services().flat_map(move |service| {
            let resolved = self.resolved(&service.key, domain);
            let flaws = resolved.map(|resolved| resolved.flaws.clone()).unwrap_or_default();
            flaws.into_iter().map(|flaw| (service.key.clone(), flaw))
        })
    }

    pub fn service_count(&self) -> usize {
        self.services.len()
    }

    pub fn slice_count(&self) -> usize {
        self.owners.len()
    }

    fn put_service(&mut self, service: Arc<Service>, dirty: &mut Dirty) {
        match self.services.get(&service.key) {
            Some(known) if known.same_meaning(&service) => return,
            _ => dirty.services.insert(service.key.clone()),
        };
        self.services.insert(service.key.clone(), service);
    }

    fn remove_service(&mut self, key: &ServiceKey, dirty: &mut Dirty) {
        if self.services.remove(key).is_some() {
            dirty.services.insert(key.clone());
        }
    }

    fn put_slice(&mut self, slice: Arc<EndpointSlice>, dirty: &mut Dirty) {
        let id = (slice.service.namespace.clone(), slice.name.clone());
        if self.owners.get(&id).is_some_and(|owner| *owner != slice.service) {
            self.remove_slice(&id, dirty);
        }
        let mut siblings = self.slices.get(&slice.service).cloned().unwrap_or_default();
        if siblings.get(&slice.name).is_some_and(|known| *known == slice) {
            return;
        }
        dirty.services.insert(slice.service.clone());
        self.owners.insert(id, slice.service.clone());
        let service = slice.service.clone();
        siblings.insert(slice.name.clone(), slice);
        self.slices.insert(service, siblings);
    }

    fn remove_slice(&mut self, id: &(Arc<str>, Arc<str>), dirty: &mut Dirty) {
        let Some(owner) = self.owners.remove(id) else { return };
        if let Some(mut siblings) = self.slices.remove(&owner) {
            siblings.remove(&id.1);
            // An empty entry for every service that ever was would be a slow leak.
            if !siblings.is_empty() {
                self.slices.insert(owner.clone(), siblings);
            }
        }
        dirty.services.insert(owner);
    }
}

#[cfg(test)]
mod tests;
