//! On which nodes the services have endpoints that are for their own node alone.
//!
//! No other node matters to a proxy, so one that names another, or makes one up, costs nothing: it has
//! the view of those that name none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::ref_counts::RefCounts;
use super::service_index::ServiceEntry;
use super::view_assigner::Dependency;
use crate::model::{ServiceKey, SlicesOfService};

#[derive(Debug, Default)]
pub(super) struct NodeLocalEndpoints {
    /// The nodes of each such service.
    by_service: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
    /// By how many services each is named.
    nodes: RefCounts<Arc<str>>,
}

impl NodeLocalEndpoints {
    /// Whether it makes a difference to be there.
    pub(super) fn has_node(&self, node: &str) -> bool {
        self.nodes.contains(node)
    }

    /// Puts what a service is `now` in the place of what it was; adds the nodes that matter now and
    /// did not, and those that did and do not.
    pub(super) fn update(
        &mut self,
        key: &ServiceKey,
        now: &ServiceEntry,
        touched: &mut BTreeSet<Dependency>,
    ) {
        let new = match &now.source {
            Some(service) if service.node_local => nodes(&now.slices),
            _ => BTreeSet::new(),
        };
        let old = self.by_service.remove(key).unwrap_or_default();
        for node in new.difference(&old) {
            if self.nodes.add(node.clone()) {
                touched.insert(Dependency::Node(node.clone()));
            }
        }
        for node in old.difference(&new) {
            if self.nodes.release(node) {
                touched.insert(Dependency::Node(node.clone()));
            }
        }
        if !new.is_empty() {
            self.by_service.insert(key.clone(), new);
        }
    }
}

fn nodes(slices: &SlicesOfService) -> BTreeSet<Arc<str>> {
    let subsets = slices.values().flat_map(|slice| &slice.subsets);
    let endpoints = subsets.flat_map(|subset| &subset.endpoints);
    endpoints.filter_map(|endpoint| endpoint.node.clone()).collect()
}
