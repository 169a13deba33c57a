//! The endpoints of every service, and where they differ with the proxy's zone or node.
//!
//! Assignments that depend on the location are made for the locations that proxies are in, and for
//! the services that ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::{Resource, TypeSet};

use super::clusters::Clusters;
use super::layers::{LayeredSets, Override, ResourceChanges};
use super::listeners_and_routes::Mesh;
use super::renamed;
use super::service_index::MeshChanges;
use super::visibility::RestrictedResources;
use crate::model::{Service, ServiceKey, SlicesOfService};
use crate::names::{Discovery, ResourceType};
use crate::translate::endpoints::{self, ProxyLocation};
use crate::view::ViewKey;

#[derive(Debug)]
pub(super) struct Endpoints {
    domain: Arc<str>,
    /// Of the proxies that these are for.
    discovery: Discovery,
    /// A zone has thousands of its own, a namespace few: so namespaces are over zones.
    layers: LayeredSets<Vec<Location>, Arc<str>>,
    restricted: RestrictedResources,
    /// The assignments in which an open location differs from no location.
    by_location: BTreeMap<Location, RestrictedResources>,
    /// The services whose assignments depend on the location.
    location_aware: BTreeSet<ServiceKey>,
}

/// Where proxies are, as far as it may matter; a proxy is in one of each at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Location {
    Zone(Arc<str>),
    Node(Arc<str>),
}

impl Location {
    /// The locations of proxies with this view.
    fn all_of(key: &ViewKey) -> Vec<Self> {
        let zone = key.zone.clone().map(Self::Zone);
        zone.into_iter().chain(key.node.clone().map(Self::Node)).collect()
    }

    /// Whether a location of this sort matters to a service that depends on any: those that are for
    /// their own node alone look at nothing else.
    fn matters_to(&self, service: &Service) -> bool {
        matches!(self, Self::Node(_)) == service.node_local
    }
}

impl Endpoints {
    pub(super) fn new(domain: Arc<str>, discovery: Discovery) -> Self {
        Self {
            domain,
            discovery,
            layers: LayeredSets::new(Arc::new(TypeSet::default())),
            restricted: RestrictedResources::default(),
            by_location: BTreeMap::new(),
            location_aware: BTreeSet::new(),
        }
    }

    /// Makes the assignments of the changed services. Those of clusters that have no service any
    /// more stay until [`Self::remove`].
    pub(super) fn update(&mut self, changes: &MeshChanges, mesh: Mesh<'_>, clusters: &Clusters) {
        let mut resources = ResourceChanges::new();
        for key in &changes.endpoints {
            let Some(entry) = mesh.services.entry(key) else {
                self.location_aware.remove(key);
                continue;
            };
            let Some(service) = &entry.resolved else {
                self.location_aware.remove(key);
                continue;
            };
            let names = clusters.names(key);
            let everywhere = self.assignments(service, &entry.slices, mesh, None);
            if everywhere.is_empty() {
                // Found by DNS; there may be some of when the names were another kind's.
                for name in names {
                    self.restricted.remove(name);
                    resources.push((name.clone(), None));
                }
            }
            self.update_locations(service, &entry.slices, mesh, names, &everywhere);
            let separate = |one| self.restricted.separate(&service.export_to, one);
            resources.extend(everywhere.into_iter().map(separate));
        }
        self.apply_changes(resources);
    }

    /// Removes the assignments of clusters that no service has any more.
    pub(super) fn remove(&mut self, names: &[Arc<str>]) {
        for name in names {
            self.restricted.remove(name);
            self.by_location.values_mut().for_each(|own| own.remove(name));
        }
        self.apply_changes(names.iter().map(|name| (name.clone(), None)).collect());
    }

    fn apply_changes(&mut self, resources: ResourceChanges) {
        let (restricted, by_location) = (&self.restricted, &self.by_location);
        self.layers.apply_changes(
            resources,
            |locations, name| local_override(by_location, locations, None, name),
            |locations, namespace, name| {
                let own = restricted.override_in(Some(namespace), name);
                if matches!(own, Override::Inherit) {
                    return own;
                }
                let locations = locations.map(Vec::as_slice).unwrap_or_default();
                match local_override(by_location, locations, Some(namespace), name) {
                    Override::Inherit => own,
                    local => local,
                }
            },
        );
    }

    /// A service's assignments for proxies in this location, or in none.
    fn assignments(
        &self,
        service: &Service,
        slices: &SlicesOfService,
        mesh: Mesh<'_>,
        location: Option<&Location>,
    ) -> Vec<Arc<Resource>> {
        let slices = slices.values().map(|slice| &**slice);
        let mut place = ProxyLocation { zone: None, node: None, regions: mesh.services.regions() };
        match location {
            Some(Location::Zone(zone)) => place.zone = Some(zone),
            Some(Location::Node(node)) => place.node = Some(node),
            None => {}
        }
        let assignments = endpoints::service_endpoints(service, slices, &self.domain, place);
        let encoded = assignments.into_iter().map(|one| {
            Resource::new(ResourceType::Endpoint, one.cluster_name.as_str().into(), &one)
        });
        let mut all: Vec<_> = encoded.collect();
        if self.discovery == Discovery::OnDemand {
            renamed::add_renamed(&mut all, ResourceType::Endpoint, service, mesh, &self.domain);
        }
        all
    }

    /// Records in which open locations the service's assignments differ from those `everywhere`
    /// else.
    fn update_locations(
        &mut self,
        service: &Service,
        slices: &SlicesOfService,
        mesh: Mesh<'_>,
        clusters: &[Arc<str>],
        everywhere: &[Arc<Resource>],
    ) {
        let by_zone = endpoints::depends_on_zone(service, slices.values().map(|slice| &**slice));
        let is_aware = service.node_local || by_zone;
        if is_aware {
            self.location_aware.insert(service.key.clone());
        } else {
            self.location_aware.remove(&service.key);
        }
        let locations: Vec<_> = self.by_location.keys().cloned().collect();
        for location in locations {
            let differing = if is_aware && location.matters_to(service) {
                self.differing(service, slices, mesh, everywhere, &location)
            } else {
                Vec::new()
            };
            if let Some(own) = self.by_location.get_mut(&location) {
                // Also of a service that never asked for it: one of its name that did may have
                // gone and left its clusters to be removed later.
                clusters.iter().for_each(|name| own.remove(name));
                differing.into_iter().for_each(|one| own.insert(&service.export_to, one));
            }
        }
    }

    /// The assignments in which this location differs from `everywhere` else.
    fn differing(
        &self,
        service: &Service,
        slices: &SlicesOfService,
        mesh: Mesh<'_>,
        everywhere: &[Arc<Resource>],
        location: &Location,
    ) -> Vec<Arc<Resource>> {
        let mut own = self.assignments(service, slices, mesh, Some(location));
        own.retain(|one| !everywhere.contains(one));
        own
    }

    fn open_location(&mut self, location: &Location, mesh: Mesh<'_>) {
        if self.by_location.contains_key(location) {
            return;
        }
        let mut own = RestrictedResources::default();
        for entry in self.location_aware.iter().filter_map(|key| mesh.services.entry(key)) {
            let Some(service) = entry.resolved.as_ref().filter(|one| location.matters_to(one))
            else {
                continue;
            };
            let everywhere = self.assignments(service, &entry.slices, mesh, None);
            let differing = self.differing(service, &entry.slices, mesh, &everywhere, location);
            differing.into_iter().for_each(|one| own.insert(&service.export_to, one));
        }
        self.by_location.insert(location.clone(), own);
    }

    /// Makes what this view has of its own, where it is not there.
    pub(super) fn open(&mut self, key: &ViewKey, mesh: Mesh<'_>) {
        let locations = Location::all_of(key);
        locations.iter().for_each(|location| self.open_location(location, mesh));
        let (restricted, by_location) = (&self.restricted, &self.by_location);
        self.layers.open(
            Some(&locations).filter(|locations| !locations.is_empty()),
            key.namespace.as_ref(),
            |locations| {
                let own = locations.iter().filter_map(|location| by_location.get(location));
                own.flat_map(RestrictedResources::overrides_everywhere).collect()
            },
            |locations, namespace| {
                let locations = locations.map(Vec::as_slice).unwrap_or_default();
                let own = restricted.overrides_in(namespace).into_iter();
                let nearest = |(name, everywhere): (Arc<str>, _)| {
                    let local = local_override(by_location, locations, Some(namespace), &name);
                    local.into_change(name.clone()).unwrap_or((name, everywhere))
                };
                own.map(nearest).collect()
            },
        );
    }

    /// Drops what none of these views has.
    pub(super) fn retain(&mut self, needed: &[&ViewKey]) {
        let needed: BTreeSet<_> =
            needed.iter().map(|key| (key.namespace.as_ref(), Location::all_of(key))).collect();
        let sorts = needed.iter().map(|(namespace, locations)| {
            (Some(locations).filter(|locations| !locations.is_empty()), *namespace)
        });
        self.layers.retain(&sorts.collect());
        let locations: BTreeSet<_> = needed.iter().flat_map(|(_, locations)| locations).collect();
        self.by_location.retain(|location, _| locations.contains(location));
    }

    /// The set of a view that was opened.
    pub(super) fn set(&self, key: &ViewKey) -> &Arc<TypeSet> {
        let locations = Some(Location::all_of(key)).filter(|locations| !locations.is_empty());
        self.layers.get(locations.as_ref(), key.namespace.as_ref())
    }
}

/// What the first of these locations that has anything under a name has, for proxies of this namespace (of
/// none).
fn local_override(
    by_location: &BTreeMap<Location, RestrictedResources>,
    locations: &[Location],
    namespace: Option<&str>,
    name: &str,
) -> Override {
    let own = locations.iter().filter_map(|location| by_location.get(location));
    let mut own = own.map(|own| own.override_in(namespace, name));
    own.find(|own| !matches!(own, Override::Inherit)).unwrap_or(Override::Inherit)
}
