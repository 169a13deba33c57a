//! The mesh as encoded sets, kept up to date service by service.
//!
//! [`SnapshotBuilder::update`] is the one pass that a change makes: the service index says what
//! changed, then clusters, endpoints, listeners and routes follow, each the owner of its sets, for
//! the changed services alone and in the views that are open; last comes what to remove, and when.
//! No async.

use std::collections::BTreeSet;
use std::sync::Arc;

use pilothouse_xds::View;
use tokio::time::Instant;

use super::clusters::Clusters;
use super::endpoints::Endpoints;
use super::listeners_and_routes::ListenersAndRoutes;
use super::removals::PendingRemovals;
use super::service_index::{MeshChanges, ServiceIndex};
use crate::model::{Model, ServiceKey};
use crate::snapshot::{Conflicts, Snapshot};
use crate::view::ViewKey;

/// Everything that snapshots are made of.
#[derive(Debug)]
pub struct SnapshotBuilder {
    generation: u64,
    pub(super) services: ServiceIndex,
    clusters: Clusters,
    endpoints: Endpoints,
    listeners_and_routes: ListenersAndRoutes,
    pub(super) removals: PendingRemovals,
    pub(super) conflicts: Conflicts,
}

impl SnapshotBuilder {
    /// `domain` is the cluster's DNS domain, usually `cluster.local`.
    pub fn new(domain: &str) -> Self {
        let domain: Arc<str> = domain.into();
        Self {
            generation: 0,
            services: ServiceIndex::new(domain.clone()),
            clusters: Clusters::new(domain.clone()),
            endpoints: Endpoints::new(domain.clone()),
            listeners_and_routes: ListenersAndRoutes::new(domain),
            removals: PendingRemovals::default(),
            conflicts: Conflicts::new(),
        }
    }

    /// Brings everything up to date for the services in `dirty`, from the model as it is now.
    pub fn update(&mut self, model: &Model, dirty: &BTreeSet<ServiceKey>) {
        self.apply(model, dirty);
    }

    /// The same, and gives what changed.
    pub(super) fn apply(&mut self, model: &Model, dirty: &BTreeSet<ServiceKey>) -> MeshChanges {
        let changes = self.services.update(model, dirty);
        self.make_resources(&changes);
        changes
    }

    /// Makes anew what depends on what changed, whatever that is.
    pub(super) fn make_resources(&mut self, changes: &MeshChanges) {
        let clusters = self.clusters.update(changes, &self.services);
        self.endpoints.update(changes, &self.services, &self.clusters);
        self.listeners_and_routes.update(changes, &self.services, &mut self.conflicts);
        self.removals.update(clusters, self.generation + 1);
    }

    /// Removes the clusters whose time has come, with their endpoints.
    pub(super) fn remove_expired(&mut self, now: Instant) {
        let expired = self.removals.take_expired(now);
        self.remove(&expired);
    }

    /// Removes the clusters that lost their routes with the snapshot of this generation or before.
    #[cfg(test)]
    pub(super) fn remove_until(&mut self, generation: u64) {
        let expired = self.removals.take_until(generation);
        self.remove(&expired);
    }

    fn remove(&mut self, clusters: &[Arc<str>]) {
        self.clusters.remove(clusters);
        self.endpoints.remove(clusters);
    }

    /// A new snapshot with these views; what none of them needs is forgotten.
    pub fn snapshot<'a>(
        &mut self,
        needed: impl IntoIterator<Item = &'a ViewKey> + Clone,
    ) -> Snapshot {
        self.generation += 1;
        let views = needed.clone().into_iter();
        let views = views.filter_map(|key| Some((key.clone(), self.open_view(key)?))).collect();
        self.retain_views(needed);
        let conflicts = self.conflicts.clone();
        Snapshot { generation: self.generation, since: None, views, conflicts }
    }

    /// The view as it is now, made if it is not there. Costs what it has of its own.
    pub fn open_view(&mut self, key: &ViewKey) -> Option<Arc<View>> {
        self.clusters.open(key);
        self.endpoints.open(key, &self.services);
        self.listeners_and_routes.open(key, &self.services, &mut self.conflicts);
        let (listeners, routes) = self.listeners_and_routes.sets(key)?;
        let sets = [self.clusters.set(key), self.endpoints.set(key), listeners, routes];
        Some(Arc::new(View::new(sets.map(Arc::clone))))
    }

    /// Drops what none of these views needs.
    pub fn retain_views<'a>(&mut self, needed: impl IntoIterator<Item = &'a ViewKey>) {
        let needed: Vec<&ViewKey> = needed.into_iter().collect();
        self.clusters.retain(&needed);
        self.endpoints.retain(&needed);
        self.listeners_and_routes.retain(&needed, &mut self.conflicts);
    }
}
