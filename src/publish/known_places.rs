//! Which namespaces and zones the mesh knows of.
//!
//! A proxy says itself where it is, and may say anything. A namespace that no service lives in, none
//! is exported to and whose clients have no rules of their own, and a zone that no endpoint and no node is in, are the same as none: proxies
//! that name them share the view of those that name nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ref_counts::RefCounts;
use super::service_index::ServiceEntry;
use super::view_assigner::Dependency;
use crate::model::{EndpointSlice, ExportTo};

#[derive(Debug, Default)]
pub(super) struct KnownPlaces {
    /// By how many services name it, and one more if its clients have rules of their own.
    namespaces: RefCounts<Arc<str>>,
    /// By how many slices name it.
    zones: RefCounts<Arc<str>>,
}

impl KnownPlaces {
    pub(super) fn has_namespace(&self, name: &str) -> bool {
        self.namespaces.contains(name)
    }

    /// `regions` are those of the zones that some node is in.
    pub(super) fn has_zone(&self, name: &str, regions: &BTreeMap<Arc<str>, Arc<str>>) -> bool {
        self.zones.contains(name) || regions.contains_key(name)
    }

    /// The clients of a namespace got their first rules of their own, or lost their last.
    pub(super) fn update_consuming(
        &mut self,
        namespace: &Arc<str>,
        has_rules: bool,
        touched: &mut BTreeSet<Dependency>,
    ) {
        let (none, one) = (BTreeSet::new(), BTreeSet::from([namespace]));
        let (old, new) = if has_rules { (none, one) } else { (one, none) };
        recount(&mut self.namespaces, old, new, Dependency::Namespace, touched);
    }

    /// Puts what a service is `now` in the place of what it was; adds what came or went by it.
    pub(super) fn update(
        &mut self,
        before: &ServiceEntry,
        now: &ServiceEntry,
        touched: &mut BTreeSet<Dependency>,
    ) {
        let (old, new) = (namespaces(before), namespaces(now));
        recount(&mut self.namespaces, old, new, Dependency::Namespace, touched);
        for (name, slice) in &now.slices {
            let old = before.slices.get(name);
            if old.is_none_or(|old| !Arc::ptr_eq(old, slice)) {
                let old = old.map(|old| zones(old)).unwrap_or_default();
                recount(&mut self.zones, old, zones(slice), Dependency::Zone, touched);
            }
        }
        for (_, slice) in before.slices.iter().filter(|(name, _)| !now.slices.contains_key(*name)) {
            recount(&mut self.zones, zones(slice), BTreeSet::new(), Dependency::Zone, touched);
        }
    }
}

/// The service's own, and those that it is exported to by name.
fn namespaces(entry: &ServiceEntry) -> BTreeSet<&Arc<str>> {
    let Some(service) = &entry.source else { return BTreeSet::new() };
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

fn recount(
    counts: &mut RefCounts<Arc<str>>,
    old: BTreeSet<&Arc<str>>,
    new: BTreeSet<&Arc<str>>,
    dependency: fn(Arc<str>) -> Dependency,
    touched: &mut BTreeSet<Dependency>,
) {
    for name in new.difference(&old) {
        if counts.add((*name).clone()) {
            touched.insert(dependency((*name).clone()));
        }
    }
    for name in old.difference(&new) {
        if counts.release(*name) {
            touched.insert(dependency((*name).clone()));
        }
    }
}
