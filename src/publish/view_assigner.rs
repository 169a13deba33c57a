//! Which view each proxy has, and how many there may be.
//!
//! What a proxy says of itself is compared with what the mesh knows: the ports on which services
//! lead to it, whether its namespace and its zone are there at all. A change of the mesh concerns
//! those alone who named what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use pilothouse_xds_server::PeerKey;

use super::inbound_ports::InboundPortIndex;
use super::known_places::KnownPlaces;
use super::node_local::NodeLocalEndpoints;
use super::ref_counts::RefCounts;
use super::service_index::{MeshChanges, ServiceEntry, ServiceIndex};
use crate::snapshot::{Conflict, Conflicts};
use crate::view::{TooManyViews, ViewKey, ViewLimits, ViewRequest};

/// The one writer of who has which view.
#[derive(Debug, Default)]
pub(super) struct ViewAssigner {
    limits: ViewLimits,
    inbound: InboundPortIndex,
    places: KnownPlaces,
    node_local: NodeLocalEndpoints,
    assignments: BTreeMap<ViewRequest, Assignment>,
    dependents: BTreeMap<Dependency, BTreeSet<ViewRequest>>,
    /// Every view that is assigned, by how many requests.
    views: RefCounts<Arc<ViewKey>>,
    /// The same for each peer.
    views_of_peers: BTreeMap<PeerKey, RefCounts<Arc<ViewKey>>>,
    /// Views that nobody has any more since this was last asked for.
    unassigned: BTreeSet<Arc<ViewKey>>,
    /// By how many requests each conflict is met.
    conflicts: RefCounts<Conflict>,
}

/// Something about the mesh that a proxy's view may depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Dependency {
    /// The ports of the workload at an address.
    Address(IpAddr),
    /// Whether there is such a namespace.
    Namespace(Arc<str>),
    /// Whether there is such a zone.
    Zone(Arc<str>),
    /// Whether services have endpoints there that are for their own node alone.
    Node(Arc<str>),
}

#[derive(Debug)]
struct Assignment {
    view: Arc<ViewKey>,
    conflicts: Vec<Conflict>,
}

/// A view as it follows from the mesh, and the conflicts that are met on the way.
type ResolvedView = (ViewKey, Vec<(Conflict, Arc<str>)>);

impl ViewAssigner {
    pub(super) fn new(limits: ViewLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The views that somebody has.
    #[cfg(test)]
    pub(super) fn views(&self) -> impl Iterator<Item = &ViewKey> {
        self.views.keys().map(|key| &**key)
    }

    /// The view of a request that was added.
    pub(super) fn view(&self, request: &ViewRequest) -> Option<&Arc<ViewKey>> {
        self.assignments.get(request).map(|assignment| &assignment.view)
    }

    /// The views that nobody has any more since this was last called.
    pub(super) fn take_unassigned(&mut self) -> BTreeSet<Arc<ViewKey>> {
        std::mem::take(&mut self.unassigned)
    }

    /// Takes in what has changed; gives the requests that have another view by it. Those are never
    /// refused: the mesh has changed, not what they ask for.
    pub(super) fn update(
        &mut self,
        changes: &MeshChanges,
        services: &ServiceIndex,
        conflicts: &mut Conflicts,
    ) -> Vec<(ViewRequest, Arc<ViewKey>)> {
        let mut touched: BTreeSet<_> =
            changes.zones.iter().cloned().map(Dependency::Zone).collect();
        let gone = ServiceEntry::default();
        for (key, before) in &changes.before {
            let now = services.entry(key).unwrap_or(&gone);
            self.inbound.update(key, before, now, &mut touched);
            self.places.update(before, now, &mut touched);
            self.node_local.update(key, now, &mut touched);
        }
        for (namespace, has_rules) in &changes.consuming {
            self.places.update_consuming(namespace, *has_rules, &mut touched);
        }
        let requests = touched.iter().filter_map(|one| self.dependents.get(one)).flatten();
        let requests: BTreeSet<ViewRequest> = requests.cloned().collect();
        let reassigned = requests.into_iter().filter_map(|request| {
            let before = self.view(&request).cloned();
            let resolved = self.resolve(&request, services);
            let view = self.assign(&request, resolved, conflicts);
            (before.as_ref() != Some(&view)).then_some((request, view))
        });
        reassigned.collect()
    }

    /// Somebody asks for this; gives the view.
    ///
    /// # Errors
    /// It is one more than there may be.
    pub(super) fn add_request(
        &mut self,
        request: &ViewRequest,
        services: &ServiceIndex,
        conflicts: &mut Conflicts,
    ) -> Result<Arc<ViewKey>, TooManyViews> {
        let resolved = self.resolve(request, services);
        if !self.assignments.contains_key(request) {
            self.check_limits(request.peer.as_ref(), &resolved.0)?;
        }
        for dependency in dependencies(request) {
            self.dependents.entry(dependency).or_default().insert(request.clone());
        }
        Ok(self.assign(request, resolved, conflicts))
    }

    /// Nobody asks for this any more.
    pub(super) fn remove_request(&mut self, request: &ViewRequest, conflicts: &mut Conflicts) {
        for dependency in dependencies(request) {
            if let Some(requests) = self.dependents.get_mut(&dependency) {
                requests.remove(request);
                if requests.is_empty() {
                    self.dependents.remove(&dependency);
                }
            }
        }
        self.unassign(request, conflicts);
    }

    fn check_limits(&self, peer: Option<&PeerKey>, view: &ViewKey) -> Result<(), TooManyViews> {
        let ViewLimits { views, per_peer } = self.limits;
        if views != 0 && self.views.len() >= views && !self.views.contains(view) {
            return Err(TooManyViews::InAll { limit: views });
        }
        if per_peer != 0
            && let Some(peer) = peer
            && let Some(own) = self.views_of_peers.get(peer)
            && own.len() >= per_peer
            && !own.contains(view)
        {
            let (peer, limit) = (peer.clone(), per_peer);
            return Err(match peer {
                PeerKey::Address(_) => TooManyViews::OfAddress { peer, limit },
                PeerKey::Principal(_) => TooManyViews::OfPrincipal { peer, limit },
            });
        }
        Ok(())
    }

    fn resolve(&self, request: &ViewRequest, services: &ServiceIndex) -> ResolvedView {
        let (inbound, lost) = self.inbound.ports(&request.addresses, services);
        let ViewKey { kind, namespace, zone, node, inbound: _ } = request.view.clone();
        let namespace = namespace.filter(|name| self.places.has_namespace(name));
        let zone = zone.filter(|name| self.places.has_zone(name, services.regions()));
        let node = node.filter(|name| self.node_local.has_node(name));
        (ViewKey { kind, namespace, zone, node, inbound }, lost)
    }

    fn assign(
        &mut self,
        request: &ViewRequest,
        resolved: ResolvedView,
        conflicts: &mut Conflicts,
    ) -> Arc<ViewKey> {
        let (view, lost) = resolved;
        self.unassign(request, conflicts);
        for (conflict, text) in &lost {
            self.conflicts.add(conflict.clone());
            conflicts.insert(conflict.clone(), text.clone());
        }
        // One allocation for all that are equal.
        let view = self.views.get(&view).cloned().unwrap_or_else(|| Arc::new(view));
        self.views.add(view.clone());
        self.unassigned.remove(&view);
        if let Some(peer) = request.peer.clone() {
            self.views_of_peers.entry(peer).or_default().add(view.clone());
        }
        let conflicts = lost.into_iter().map(|(conflict, _)| conflict).collect();
        self.assignments.insert(request.clone(), Assignment { view: view.clone(), conflicts });
        view
    }

    fn unassign(&mut self, request: &ViewRequest, conflicts: &mut Conflicts) {
        let Some(assignment) = self.assignments.remove(request) else { return };
        if self.views.release(&assignment.view) {
            self.unassigned.insert(assignment.view.clone());
        }
        if let Some(peer) = &request.peer
            && let Some(own) = self.views_of_peers.get_mut(peer)
        {
            own.release(&assignment.view);
            if own.is_empty() {
                self.views_of_peers.remove(peer);
            }
        }
        for conflict in &assignment.conflicts {
            if self.conflicts.release(conflict) {
                conflicts.remove(conflict);
            }
        }
    }
}

/// What its view may depend on.
fn dependencies(request: &ViewRequest) -> impl Iterator<Item = Dependency> {
    let ViewKey { namespace, zone, node, .. } = &request.view;
    let addresses = request.addresses.iter().copied().map(Dependency::Address);
    let namespace = namespace.clone().map(Dependency::Namespace);
    let zone = zone.clone().map(Dependency::Zone);
    addresses.chain(namespace).chain(zone).chain(node.clone().map(Dependency::Node))
}
