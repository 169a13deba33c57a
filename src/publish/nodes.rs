//! On which nodes the services have endpoints that are for their own node alone.
//!
//! No other node matters to a proxy, so one that names another, or makes one up, costs nothing: it has
//! the view of those that name none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::model::{Service, ServiceKey, SlicesOfService};

#[derive(Debug, Default)]
pub(super) struct Nodes {
    /// The nodes of each such service.
    of: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
    /// By how many services each is named.
    counts: BTreeMap<Arc<str>, usize>,
}

impl Nodes {
    /// Whether it makes a difference to be there.
    pub(super) fn matters(&self, node: &str) -> bool {
        self.counts.contains_key(node)
    }

    /// Puts a service in the place of what it was; adds the nodes that matter now and did not, and
    /// those that did and do not.
    pub(super) fn put(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        slices: &SlicesOfService,
        touched: &mut BTreeSet<Arc<str>>,
    ) {
        let new = match service {
            Some(service) if service.node_local => nodes(slices),
            _ => BTreeSet::new(),
        };
        let old = self.of.remove(key).unwrap_or_default();
        for node in new.difference(&old) {
            let count = self.counts.entry(node.clone()).or_default();
            *count += 1;
            if *count == 1 {
                touched.insert(node.clone());
            }
        }
        for node in old.difference(&new) {
            if super::inbound::release(&mut self.counts, node) {
                touched.insert(node.clone());
            }
        }
        if !new.is_empty() {
            self.of.insert(key.clone(), new);
        }
    }
}

fn nodes(slices: &SlicesOfService) -> BTreeSet<Arc<str>> {
    let subsets = slices.values().flat_map(|slice| &slice.subsets);
    let endpoints = subsets.flat_map(|subset| &subset.endpoints);
    endpoints.filter_map(|endpoint| endpoint.node.clone()).collect()
}
