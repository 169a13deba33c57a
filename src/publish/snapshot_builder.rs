//! The mesh as encoded sets, kept up to date service by service.
//!
//! [`SnapshotBuilder::update`] is the one pass that a change makes: the indexes of services and of
//! routes say what changed, then clusters, endpoints, listeners and routes follow, each the owner of its sets, for
//! the changed services alone and in the views that are open; last comes what to remove, and when.
//! No async.

use std::collections::BTreeSet;
use std::sync::Arc;

use pilothouse_xds::View;
use tokio::time::Instant;

use super::clusters::{ClusterChanges, Clusters};
use super::endpoints::Endpoints;
use super::listeners_and_routes::{ListenersAndRoutes, Mesh};
use super::removals::PendingRemovals;
use super::route_index::RouteIndex;
use super::service_index::{MeshChanges, ServiceIndex};
use crate::model::route::RouteReport;
use crate::model::{Dirty, Model};
use crate::names::Discovery;
use crate::snapshot::{Conflicts, Snapshot};
use crate::translate::listeners::OnDemandTimeout;
use crate::view::ViewKey;

/// Everything that snapshots are made of.
#[derive(Debug)]
pub struct SnapshotBuilder {
    domain: Arc<str>,
    generation: u64,
    pub(super) services: ServiceIndex,
    routes: RouteIndex,
    clusters: Clusters,
    endpoints: Endpoints,
    /// The same for on-demand sidecars, while some view is theirs.
    on_demand: Option<Box<OnDemandSets>>,
    listeners_and_routes: ListenersAndRoutes,
    pub(super) removals: PendingRemovals,
    pub(super) conflicts: Conflicts,
}

/// The clusters and endpoints of on-demand sidecars: everybody's, and some of them under other names
/// ([`super::renamed`]).
#[derive(Debug)]
struct OnDemandSets {
    clusters: Clusters,
    endpoints: Endpoints,
}

impl OnDemandSets {
    /// With the names that are made.
    fn new(domain: &Arc<str>, mesh: Mesh<'_>) -> (Self, ClusterChanges) {
        let mut sets = Self {
            clusters: Clusters::new(domain.clone(), Discovery::OnDemand),
            endpoints: Endpoints::new(domain.clone(), Discovery::OnDemand),
        };
        let all: BTreeSet<_> = mesh.services.keys().cloned().collect();
        let all = MeshChanges { clusters: all.clone(), endpoints: all, ..MeshChanges::default() };
        let made = sets.update(&all, mesh);
        (sets, made)
    }

    fn update(&mut self, changes: &MeshChanges, mesh: Mesh<'_>) -> ClusterChanges {
        // An address may have got another owner, which for others changes listeners and routes alone.
        let clusters = changes.clusters.union(&changes.listeners_and_routes);
        let clusters: BTreeSet<_> = clusters.chain(&changes.mirrored).cloned().collect();
        let endpoints = changes.endpoints.union(&clusters).cloned().collect();
        let changes = MeshChanges { clusters, endpoints, ..MeshChanges::default() };
        let changed = self.clusters.update(&changes, mesh);
        self.endpoints.update(&changes, mesh, &self.clusters);
        changed
    }
}

impl SnapshotBuilder {
    /// `domain` is the cluster's DNS domain, usually `cluster.local`.
    pub fn new(domain: &str) -> Self {
        let domain: Arc<str> = domain.into();
        Self {
            generation: 0,
            services: ServiceIndex::new(domain.clone()),
            routes: RouteIndex::default(),
            clusters: Clusters::new(domain.clone(), Discovery::All),
            endpoints: Endpoints::new(domain.clone(), Discovery::All),
            on_demand: None,
            listeners_and_routes: ListenersAndRoutes::new(domain.clone()),
            domain,
            removals: PendingRemovals::default(),
            conflicts: Conflicts::new(),
        }
    }

    /// With another time for which requests of on-demand sidecars wait for their clusters.
    pub fn with_on_demand_timeout(mut self, timeout: OnDemandTimeout) -> Self {
        self.listeners_and_routes.on_demand = timeout;
        self
    }

    /// Brings everything up to date for what is `dirty`, from the model as it is now.
    pub fn update(&mut self, model: &Model, dirty: &Dirty) {
        self.apply(model, dirty);
    }

    /// The same, and gives what changed.
    pub(super) fn apply(&mut self, model: &Model, dirty: &Dirty) -> MeshChanges {
        let mut changes = self.services.update(model, &dirty.services);
        let ruled = self.routes.update(model, dirty, &self.services, &changes.clusters);
        let has_routes = !ruled.services.is_empty() || !self.routes.is_empty();
        changes.listeners_and_routes.extend(ruled.services);
        if has_routes {
            // An alias has its target's rules, which also depend on the addresses that the target owns.
            let others = changes.listeners_and_routes.difference(&changes.clusters);
            let aliases = self.services.aliases_of(&others.cloned().collect());
            changes.listeners_and_routes.extend(aliases);
        }
        (changes.consuming, changes.mirrored) = (ruled.consuming, ruled.mirrored);
        self.make_resources(&changes);
        changes
    }

    /// Makes anew what depends on what changed, whatever that is.
    pub(super) fn make_resources(&mut self, changes: &MeshChanges) {
        let mesh = Mesh { services: &self.services, routes: &self.routes };
        let mut clusters = self.clusters.update(changes, mesh);
        self.endpoints.update(changes, mesh, &self.clusters);
        if let Some(on_demand) = &mut self.on_demand {
            let on_demand = on_demand.update(changes, mesh);
            clusters.made.extend(on_demand.made);
            clusters.orphaned.extend(on_demand.orphaned);
        }
        self.listeners_and_routes.update(changes, mesh, &mut self.conflicts);
        self.removals.update(clusters, self.generation + 1);
    }

    /// What has become of each route.
    pub(super) fn route_report(&self) -> &RouteReport {
        self.routes.report()
    }

    /// Removes the clusters whose time has come, with their endpoints.
    pub(super) fn remove_expired(&mut self, now: Instant) {
        let expired = self.removals.take_expired(now);
        self.remove(&expired);
    }

    /// Whether anything is kept for on-demand sidecars.
    #[cfg(test)]
    pub(super) fn has_on_demand_sets(&self) -> bool {
        self.on_demand.is_some()
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
        if let Some(on_demand) = &mut self.on_demand {
            on_demand.clusters.remove(clusters);
            on_demand.endpoints.remove(clusters);
        }
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
        let mesh = Mesh { services: &self.services, routes: &self.routes };
        let (clusters, endpoints) = match key.kind.discovery() {
            Discovery::All => (&mut self.clusters, &mut self.endpoints),
            Discovery::OnDemand => {
                let new = || {
                    let (sets, made) = OnDemandSets::new(&self.domain, mesh);
                    // Removals of names that these sets had when they were there before may be due still.
                    self.removals.update(made, self.generation);
                    Box::new(sets)
                };
                let sets = &mut **self.on_demand.get_or_insert_with(new);
                (&mut sets.clusters, &mut sets.endpoints)
            }
        };
        clusters.open(key);
        endpoints.open(key, mesh);
        self.listeners_and_routes.open(key, mesh, &mut self.conflicts);
        let (listeners, routes) = self.listeners_and_routes.sets(key)?;
        let sets = [clusters.set(key), endpoints.set(key), listeners, routes];
        Some(Arc::new(View::new(sets.map(Arc::clone))))
    }

    /// Drops what none of these views needs.
    pub fn retain_views<'a>(&mut self, needed: impl IntoIterator<Item = &'a ViewKey>) {
        let needed: Vec<&ViewKey> = needed.into_iter().collect();
        let is_on_demand = |key: &&ViewKey| key.kind.discovery() == Discovery::OnDemand;
        let (on_demand, all): (Vec<_>, Vec<_>) = needed.iter().copied().partition(is_on_demand);
        self.clusters.retain(&all);
        self.endpoints.retain(&all);
        if on_demand.is_empty() {
            self.on_demand = None;
        }
        if let Some(sets) = &mut self.on_demand {
            sets.clusters.retain(&on_demand);
            sets.endpoints.retain(&on_demand);
        }
        self.listeners_and_routes.retain(&needed, &mut self.conflicts);
    }
}
