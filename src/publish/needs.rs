//! Which view each proxy needs, and how many there may be.
//!
//! What a proxy says of itself is compared with what the mesh knows: the ports on which services
//! lead to it, whether its namespace and its zone are there at all. A change of the mesh concerns
//! those alone who named what has changed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::inbound::Index;
use super::nodes::Nodes;
use super::places::Places;
use crate::model::{Model, ServiceKey};
use crate::snapshot::{Conflict, Conflicts};
use crate::view::{TooManyViews, ViewKey, ViewLimits, ViewRequest};

/// The one writer of who needs what.
#[derive(Debug, Default)]
pub(super) struct Needs {
    limits: ViewLimits,
    index: Index,
    places: Places,
    nodes: Nodes,
    needs: BTreeMap<ViewRequest, Answer>,
    by_fact: BTreeMap<Fact, BTreeSet<ViewRequest>>,
    /// Every view that is needed, by how many needs.
    views: BTreeMap<Arc<ViewKey>, usize>,
    /// The same for each address that proxies come from.
    of_peers: BTreeMap<IpAddr, BTreeMap<Arc<ViewKey>, usize>>,
    /// Views that nobody needs any more since this was last asked for.
    unneeded: BTreeSet<Arc<ViewKey>>,
    /// By how many needs each conflict is met.
    conflicts: BTreeMap<Conflict, usize>,
}

/// Something about the mesh that a proxy's view may depend on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fact {
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
struct Answer {
    view: Arc<ViewKey>,
    conflicts: Vec<Conflict>,
}

/// A view as it follows from the mesh, and the conflicts that are met on the way.
type Found = (ViewKey, Vec<(Conflict, Arc<str>)>);

impl Needs {
    pub(super) fn new(limits: ViewLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The views that somebody needs.
    #[cfg(test)]
    pub(super) fn views(&self) -> impl Iterator<Item = &ViewKey> {
        self.views.keys().map(|key| &**key)
    }

    /// The view of a need that was added.
    pub(super) fn get(&self, need: &ViewRequest) -> Option<&Arc<ViewKey>> {
        self.needs.get(need).map(|answer| &answer.view)
    }

    /// The views that nobody needs any more since this was last called.
    pub(super) fn take_unneeded(&mut self) -> BTreeSet<Arc<ViewKey>> {
        std::mem::take(&mut self.unneeded)
    }

    /// Takes in what has changed in `dirty`; gives the needs that have another view by it. Those
    /// are never refused: the mesh has changed, not what they ask for.
    pub(super) fn update(
        &mut self,
        model: &Model,
        dirty: &BTreeSet<ServiceKey>,
        conflicts: &mut Conflicts,
    ) -> Vec<(ViewRequest, Arc<ViewKey>)> {
        let (mut touched, mut nodes) = (BTreeSet::new(), BTreeSet::new());
        for key in dirty {
            let before = self.index.update(model, key, &mut touched);
            self.places.update(&before, self.index.get(key), &mut touched);
            let service = model.service(key).map(|service| &**service);
            self.nodes.put(key, service, &model.slices_of(key), &mut nodes);
        }
        touched.extend(nodes.into_iter().map(Fact::Node));
        self.places.update_regions(model.regions(), &mut touched);
        let needs = touched.iter().filter_map(|fact| self.by_fact.get(fact)).flatten();
        let needs: BTreeSet<ViewRequest> = needs.cloned().collect();
        let moved = needs.into_iter().filter_map(|need| {
            let before = self.get(&need).cloned();
            let found = self.find(&need);
            let view = self.put(&need, found, conflicts);
            (before.as_ref() != Some(&view)).then_some((need, view))
        });
        moved.collect()
    }

    /// Somebody needs this; gives the view.
    ///
    /// # Errors
    /// It is one more than there may be.
    pub(super) fn add(
        &mut self,
        need: &ViewRequest,
        conflicts: &mut Conflicts,
    ) -> Result<Arc<ViewKey>, TooManyViews> {
        let found = self.find(need);
        if !self.needs.contains_key(need) {
            self.admit(need.peer, &found.0)?;
        }
        for fact in facts(need) {
            self.by_fact.entry(fact).or_default().insert(need.clone());
        }
        Ok(self.put(need, found, conflicts))
    }

    /// Nobody needs this any more.
    pub(super) fn remove(&mut self, need: &ViewRequest, conflicts: &mut Conflicts) {
        for fact in facts(need) {
            if let Some(needs) = self.by_fact.get_mut(&fact) {
                needs.remove(need);
                if needs.is_empty() {
                    self.by_fact.remove(&fact);
                }
            }
        }
        self.forget(need, conflicts);
    }

    fn admit(&self, peer: Option<IpAddr>, view: &ViewKey) -> Result<(), TooManyViews> {
        let ViewLimits { views, per_peer } = self.limits;
        if views != 0 && self.views.len() >= views && !self.views.contains_key(view) {
            return Err(TooManyViews::InAll { limit: views });
        }
        if per_peer != 0
            && let Some(peer) = peer
            && let Some(own) = self.of_peers.get(&peer)
            && own.len() >= per_peer
            && !own.contains_key(view)
        {
            return Err(TooManyViews::OfPeer { peer, limit: per_peer });
        }
        Ok(())
    }

    fn find(&self, need: &ViewRequest) -> Found {
        let (inbound, lost) = self.index.ports(&need.addresses);
        let ViewKey { kind, namespace, zone, node, inbound: _ } = need.view.clone();
        let namespace = namespace.filter(|name| self.places.knows_namespace(name));
        let zone = zone.filter(|name| self.places.knows_zone(name));
        let node = node.filter(|name| self.nodes.matters(name));
        (ViewKey { kind, namespace, zone, node, inbound }, lost)
    }

    fn put(&mut self, need: &ViewRequest, found: Found, conflicts: &mut Conflicts) -> Arc<ViewKey> {
        let (view, lost) = found;
        self.forget(need, conflicts);
        for (conflict, text) in &lost {
            *self.conflicts.entry(conflict.clone()).or_default() += 1;
            conflicts.insert(conflict.clone(), text.clone());
        }
        // One allocation for all that are equal.
        let known = self.views.get_key_value(&view).map(|(known, _)| known.clone());
        let view = known.unwrap_or_else(|| Arc::new(view));
        *self.views.entry(view.clone()).or_default() += 1;
        self.unneeded.remove(&view);
        if let Some(peer) = need.peer {
            *self.of_peers.entry(peer).or_default().entry(view.clone()).or_default() += 1;
        }
        let conflicts = lost.into_iter().map(|(conflict, _)| conflict).collect();
        self.needs.insert(need.clone(), Answer { view: view.clone(), conflicts });
        view
    }

    fn forget(&mut self, need: &ViewRequest, conflicts: &mut Conflicts) {
        let Some(answer) = self.needs.remove(need) else { return };
        if release(&mut self.views, &answer.view) {
            self.unneeded.insert(answer.view.clone());
        }
        if let Some(peer) = need.peer
            && let Some(own) = self.of_peers.get_mut(&peer)
        {
            release(own, &answer.view);
            if own.is_empty() {
                self.of_peers.remove(&peer);
            }
        }
        for conflict in &answer.conflicts {
            if release(&mut self.conflicts, conflict) {
                conflicts.remove(conflict);
            }
        }
    }
}

/// What its view may depend on.
fn facts(need: &ViewRequest) -> impl Iterator<Item = Fact> {
    let ViewKey { namespace, zone, node, .. } = &need.view;
    let addresses = need.addresses.iter().copied().map(Fact::Address);
    let places =
        namespace.clone().map(Fact::Namespace).into_iter().chain(zone.clone().map(Fact::Zone));
    addresses.chain(places).chain(node.clone().map(Fact::Node))
}

/// One less; whether that was the last.
pub(super) fn release<K: Ord>(counts: &mut BTreeMap<K, usize>, key: &K) -> bool {
    let Some(count) = counts.get_mut(key) else { return false };
    *count -= 1;
    let last = *count == 0;
    if last {
        counts.remove(key);
    }
    last
}
