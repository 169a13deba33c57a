//! Assignments that depend on where the proxy is: made for the zones and nodes that proxies are in, and
//! for the services that ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Builder, Hidden, Known};
use crate::model::{Service, ServiceKey, SlicesOfService};
use crate::names::ResourceType;
use crate::snapshot::Resource;
use crate::translate::endpoints::{self, Place};
use crate::view::ViewKey;

/// A place that may matter; a proxy is in one of each at most.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Spot {
    Zone(Arc<str>),
    Node(Arc<str>),
}

impl Spot {
    /// Where proxies with this view are.
    pub(super) fn all_of(key: &ViewKey) -> Vec<Self> {
        let zone = key.zone.clone().map(Self::Zone);
        zone.into_iter().chain(key.node.clone().map(Self::Node)).collect()
    }

    /// Whether it is the sort of place on which a service depends that depends on any: those that are
    /// for their own node alone look at nothing else.
    fn concerns(&self, service: &Service) -> bool {
        matches!(self, Self::Node(_)) == service.node_local
    }
}

/// What is known of places.
#[derive(Debug, Default)]
pub(super) struct Zones {
    /// The assignments in which an open place differs from no place.
    pub(super) own: BTreeMap<Spot, Hidden>,
    /// The services that depend on the place.
    pub(super) aware: BTreeSet<ServiceKey>,
    /// The region of each zone, as far as known.
    pub(super) regions: BTreeMap<Arc<str>, Arc<str>>,
}

impl Builder {
    /// A service's assignments for proxies in this place, or in none.
    pub(super) fn assignments(
        &self,
        service: &Service,
        slices: &SlicesOfService,
        spot: Option<&Spot>,
    ) -> Vec<Arc<Resource>> {
        let slices = slices.values().map(|slice| &**slice);
        let mut place = Place { zone: None, node: None, regions: &self.zones.regions };
        match spot {
            Some(Spot::Zone(zone)) => place.zone = Some(zone),
            Some(Spot::Node(node)) => place.node = Some(node),
            None => {}
        }
        let assignments = endpoints::of_service(service, slices, &self.domain, place);
        let encoded = assignments.into_iter().map(|one| {
            Resource::new(ResourceType::Endpoint, one.cluster_name.as_str().into(), &one)
        });
        encoded.collect()
    }

    /// Notes in which places the service differs from `everybodys` assignments.
    pub(super) fn note_places(&mut self, known: &Known, everybodys: &[Arc<Resource>]) {
        let Known { source: _, service, slices, clusters } = known;
        let by_zone = endpoints::depends_on_zone(service, slices.values().map(|slice| &**slice));
        let depends = service.node_local || by_zone;
        if depends {
            self.zones.aware.insert(service.key.clone());
        } else {
            self.zones.aware.remove(&service.key);
        }
        let spots: Vec<_> = self.zones.own.keys().cloned().collect();
        for spot in spots {
            let concerned = depends && spot.concerns(service);
            let own = if concerned { self.there(known, everybodys, &spot) } else { Vec::new() };
            if let Some(there) = self.zones.own.get_mut(&spot) {
                // Also of a service that never asked for it: one of its name that did may have
                // gone and left its clusters to be buried.
                clusters.iter().for_each(|name| _ = there.remove(name));
                let export_to = &service.export_to;
                there.extend(
                    own.into_iter().map(|one| (one.name.clone(), (export_to.clone(), one))),
                );
            }
        }
    }

    /// Has what the places that proxies are in need, and no others.
    pub(super) fn open_places(&mut self, needed: &BTreeSet<ViewKey>) {
        let spots: BTreeSet<_> = needed.iter().flat_map(Spot::all_of).collect();
        self.zones.own.retain(|spot, _| spots.contains(spot));
        for spot in spots {
            if self.zones.own.contains_key(&spot) {
                continue;
            }
            let aware = self.zones.aware.iter().filter_map(|key| self.known.get(key));
            let aware = aware.filter(|known| spot.concerns(&known.service));
            let own = aware.flat_map(|known| {
                let everybodys = self.assignments(&known.service, &known.slices, None);
                let own = self.there(known, &everybodys, &spot).into_iter();
                own.map(|one| (one.name.clone(), (known.service.export_to.clone(), one)))
            });
            let own = own.collect();
            self.zones.own.insert(spot, own);
        }
    }

    fn there(
        &self,
        known: &Known,
        everybodys: &[Arc<Resource>],
        spot: &Spot,
    ) -> Vec<Arc<Resource>> {
        let mut own = self.assignments(&known.service, &known.slices, Some(spot));
        own.retain(|one| !everybodys.contains(one));
        own
    }
}
