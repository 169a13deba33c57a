//! Which namespaces and zones the mesh knows of.
//!
//! A proxy says itself where it is, and may say anything. A namespace that no service lives in and
//! none is exported to, and a zone that no endpoint and no node is in, are the same as none: proxies
//! that name them share the view of those that name nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::inbound::Indexed;
use super::needs::{Fact, release};
use crate::model::{EndpointSlice, ExportTo};

#[derive(Debug, Default)]
pub(super) struct Places {
    /// By how many services name it.
    namespaces: BTreeMap<Arc<str>, usize>,
    /// By how many slices name it.
    zones: BTreeMap<Arc<str>, usize>,
    /// The zones whose region is known, with that.
    regions: BTreeMap<Arc<str>, Arc<str>>,
}

impl Places {
    pub(super) fn knows_namespace(&self, name: &str) -> bool {
        self.namespaces.contains_key(name)
    }

    pub(super) fn knows_zone(&self, name: &str) -> bool {
        self.zones.contains_key(name) || self.regions.contains_key(name)
    }

    /// Puts what a service is `now` in the place of what it was; adds what came or went by it.
    pub(super) fn update(
        &mut self,
        before: &Indexed,
        now: Option<&Indexed>,
        touched: &mut BTreeSet<Fact>,
    ) {
        let (old, new) = (namespaces(before), now.map(namespaces).unwrap_or_default());
        if old != new {
            count(&mut self.namespaces, old, new, Fact::Namespace, touched);
        }
        let nothing = Indexed::default();
        let now = now.unwrap_or(&nothing);
        for (name, slice) in &now.slices {
            let old = before.slices.get(name);
            if old.is_none_or(|old| !Arc::ptr_eq(old, slice)) {
                let old = old.map(|old| zones(old)).unwrap_or_default();
                count(&mut self.zones, old, zones(slice), Fact::Zone, touched);
            }
        }
        for (_, slice) in before.slices.iter().filter(|(name, _)| !now.slices.contains_key(*name)) {
            count(&mut self.zones, zones(slice), BTreeSet::new(), Fact::Zone, touched);
        }
    }

    pub(super) fn update_regions(
        &mut self,
        regions: &BTreeMap<Arc<str>, Arc<str>>,
        touched: &mut BTreeSet<Fact>,
    ) {
        if self.regions == *regions {
            return;
        }
        let before = std::mem::replace(&mut self.regions, regions.clone());
        let gone = before.keys().filter(|zone| !regions.contains_key(*zone));
        let come = regions.keys().filter(|zone| !before.contains_key(*zone));
        touched.extend(gone.chain(come).cloned().map(Fact::Zone));
    }
}

/// The service's own, and those that it is exported to by name.
fn namespaces(one: &Indexed) -> BTreeSet<&Arc<str>> {
    let Some(service) = &one.service else { return BTreeSet::new() };
    let exported = match &service.export_to {
        ExportTo::Everyone => None,
        ExportTo::Only(namespaces) => Some(namespaces.iter()),
    };
    exported.into_iter().flatten().chain([&service.key.namespace]).collect()
}

/// Where the endpoints are, and whom they are meant for.
fn zones(slice: &EndpointSlice) -> BTreeSet<&Arc<str>> {
    let endpoints = slice.subsets.iter().flat_map(|subset| &subset.endpoints);
    endpoints.flat_map(|endpoint| endpoint.zone.iter().chain(&endpoint.for_zones)).collect()
}

fn count(
    counts: &mut BTreeMap<Arc<str>, usize>,
    old: BTreeSet<&Arc<str>>,
    new: BTreeSet<&Arc<str>>,
    fact: fn(Arc<str>) -> Fact,
    touched: &mut BTreeSet<Fact>,
) {
    for name in new.difference(&old) {
        let count = counts.entry((*name).clone()).or_default();
        *count += 1;
        if *count == 1 {
            touched.insert(fact((*name).clone()));
        }
    }
    for name in old.difference(&new) {
        if release(counts, *name) {
            touched.insert(fact((*name).clone()));
        }
    }
}
