//! Assignments that depend on the proxy's zone: made for the zones that proxies are in, and for
//! the services that ask for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Builder, Hidden, Known};
use crate::model::{Service, ServiceKey, SlicesOfService};
use crate::names::ResourceType;
use crate::snapshot::Resource;
use crate::translate::endpoints::{self, Place};

/// What is known of places.
#[derive(Debug, Default)]
pub(super) struct Zones {
    /// The assignments in which an open zone differs from no zone, by zone.
    pub(super) own: BTreeMap<Arc<str>, Hidden>,
    /// The services that depend on the zone.
    pub(super) aware: BTreeSet<ServiceKey>,
    /// The region of each zone, as far as known.
    pub(super) regions: BTreeMap<Arc<str>, Arc<str>>,
}

impl Builder {
    /// A service's assignments for proxies of this zone, or of none.
    pub(super) fn assignments(
        &self,
        service: &Service,
        slices: &SlicesOfService,
        zone: Option<&str>,
    ) -> Vec<Arc<Resource>> {
        let slices = slices.values().map(|slice| &**slice);
        let place = Place { zone, regions: &self.zones.regions };
        let assignments = endpoints::of_service(service, slices, &self.domain, place);
        let encoded = assignments.into_iter().map(|one| {
            Resource::new(ResourceType::Endpoint, one.cluster_name.as_str().into(), &one)
        });
        encoded.collect()
    }

    /// Notes in which zones the service differs from `everybodys` assignments.
    pub(super) fn note_zones(&mut self, known: &Known, everybodys: &[Arc<Resource>]) {
        let Known { source: _, service, slices, clusters } = known;
        let depends = endpoints::depends_on_zone(service, slices.values().map(|slice| &**slice));
        if depends {
            self.zones.aware.insert(service.key.clone());
        } else {
            self.zones.aware.remove(&service.key);
        }
        let zones: Vec<_> = self.zones.own.keys().cloned().collect();
        for zone in zones {
            let own = if depends { self.in_zone(known, everybodys, &zone) } else { Vec::new() };
            if let Some(zoned) = self.zones.own.get_mut(&zone) {
                // Also of a service that never asked for it: one of its name that did may have
                // gone and left its clusters to be buried.
                clusters.iter().for_each(|name| _ = zoned.remove(name));
                let export_to = &service.export_to;
                zoned.extend(
                    own.into_iter().map(|one| (one.name.clone(), (export_to.clone(), one))),
                );
            }
        }
    }

    /// Has what proxies of this zone need.
    pub(super) fn open_zone(&mut self, zone: &Arc<str>) {
        if self.zones.own.contains_key(zone) {
            return;
        }
        let aware = self.zones.aware.iter().filter_map(|key| self.known.get(key));
        let own = aware.flat_map(|known| {
            let everybodys = self.assignments(&known.service, &known.slices, None);
            let own = self.in_zone(known, &everybodys, zone).into_iter();
            own.map(|one| (one.name.clone(), (known.service.export_to.clone(), one)))
        });
        let own = own.collect();
        self.zones.own.insert(zone.clone(), own);
    }

    fn in_zone(
        &self,
        known: &Known,
        everybodys: &[Arc<Resource>],
        zone: &str,
    ) -> Vec<Arc<Resource>> {
        let mut own = self.assignments(&known.service, &known.slices, Some(zone));
        own.retain(|one| !everybodys.contains(one));
        own
    }
}
