//! The listeners and route tables of every kind of proxy that is connected: tables first, since a
//! port has an HTTP listener exactly while its table has services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::TypeSet;

use super::listeners::{Behind, ListenerChanges, Listeners, fixed_listeners};
use super::route_index::RouteIndex;
use super::route_tables::RouteTables;
use super::ruled_ports::RuledPorts;
use super::service_index::{MeshChanges, ServiceIndex};
use super::visibility::RestrictedServices;
use crate::model::route::PortRules;
use crate::model::{Service, ServiceKey};
use crate::snapshot::Conflicts;
use crate::translate::listeners::{DEFAULT_ON_DEMAND_TIMEOUT, OnDemandTimeout};
use crate::translate::target_service;
use crate::view::{ProxyKind, ViewKey};

/// What listeners and tables are made of.
#[derive(Clone, Copy)]
pub(super) struct Mesh<'a> {
    pub(super) services: &'a ServiceIndex,
    pub(super) routes: &'a RouteIndex,
}

impl<'a> Mesh<'a> {
    pub(super) fn restricted(self) -> &'a RestrictedServices {
        self.services.restricted()
    }

    /// The rules by port for requests to this service (an alias has its target's) by clients of this namespace
    /// (of none), if it has any; and the service whose they are.
    pub(super) fn rules_for(
        self,
        namespace: Option<&str>,
        service: &'a Service,
    ) -> (Option<&'a BTreeMap<u16, Arc<PortRules>>>, &'a Service) {
        let target = target_service(service);
        let rules = if self.routes.is_empty() { None } else { self.routes.rules(&target.key) };
        (rules.map(|rules| rules.for_clients_of(namespace)), target)
    }

    /// The namespaces whose clients have rules of their own for this service (for an alias's target).
    pub(super) fn consumers(self, service: &Service) -> impl Iterator<Item = &'a Arc<str>> {
        let rules = self.routes.rules(&target_service(service).key);
        rules.into_iter().flat_map(|rules| rules.consumers.keys())
    }
}

#[derive(Debug)]
pub(super) struct ListenersAndRoutes {
    domain: Arc<str>,
    /// How long requests of on-demand sidecars wait for their clusters. Set before anything is opened.
    pub(super) on_demand: OnDemandTimeout,
    by_kind: BTreeMap<ProxyKind, ProxyKindIndex>,
    /// The listeners of standalone proxies, by where they listen.
    standalone: BTreeMap<ProxyKind, Arc<TypeSet>>,
}

/// What all proxies of one kind have in common.
#[derive(Debug)]
struct ProxyKindIndex {
    ruled: RuledPorts,
    tables: RouteTables,
    listeners: Listeners,
}

impl ListenersAndRoutes {
    pub(super) fn new(domain: Arc<str>) -> Self {
        let on_demand = DEFAULT_ON_DEMAND_TIMEOUT;
        Self { domain, on_demand, by_kind: BTreeMap::new(), standalone: BTreeMap::new() }
    }

    /// Makes the tables and listeners of the changed services, for every kind that is open.
    pub(super) fn update(
        &mut self,
        changes: &MeshChanges,
        mesh: Mesh<'_>,
        conflicts: &mut Conflicts,
    ) {
        if changes.listeners_and_routes.is_empty() {
            return;
        }
        for kind in self.by_kind.values_mut() {
            let redefined = |key: &ServiceKey| changes.clusters.contains(key);
            kind.update(&changes.listeners_and_routes, redefined, mesh, conflicts);
        }
    }

    /// Makes what this view has of its own, where it is not there.
    pub(super) fn open(&mut self, key: &ViewKey, mesh: Mesh<'_>, conflicts: &mut Conflicts) {
        let is_standalone = matches!(key.kind, ProxyKind::Standalone { .. });
        if is_standalone && !self.standalone.contains_key(&key.kind) {
            self.standalone.insert(key.kind.clone(), fixed_listeners(&key.kind));
        }
        let kind = shared_kind(&key.kind);
        let index = self.by_kind.entry(kind.clone()).or_insert_with(|| {
            let mut index = ProxyKindIndex {
                ruled: RuledPorts::new(kind.clone()),
                tables: RouteTables::new(kind.clone(), self.domain.clone(), mesh),
                listeners: Listeners::new(kind, self.domain.clone(), self.on_demand),
            };
            index.update(mesh.services.keys(), |_| true, mesh, conflicts);
            index
        });
        let ProxyKindIndex { ruled, tables, listeners } = index;
        tables.open(key.namespace.as_ref(), ruled, mesh);
        listeners.open(key, Behind { ruled, tables, mesh });
    }

    /// Drops what none of these views has.
    pub(super) fn retain(&mut self, needed: &[&ViewKey], conflicts: &mut Conflicts) {
        let exact: BTreeSet<_> = needed.iter().map(|key| &key.kind).collect();
        self.standalone.retain(|kind, _| exact.contains(kind));
        let mut by_kind: BTreeMap<ProxyKind, Vec<&ViewKey>> = BTreeMap::new();
        for key in needed {
            by_kind.entry(shared_kind(&key.kind)).or_default().push(key);
        }
        let is_unused = |kind: &ProxyKind, _: &mut ProxyKindIndex| !by_kind.contains_key(kind);
        for (_, mut index) in self.by_kind.extract_if(.., is_unused) {
            index.listeners.clear_conflicts(conflicts);
        }
        for (kind, needed) in &by_kind {
            if let Some(index) = self.by_kind.get_mut(kind) {
                index.tables.retain(&needed.iter().map(|key| key.namespace.as_ref()).collect());
                index.listeners.retain(needed);
            }
        }
    }

    /// The sets of listeners and of tables of a view that was opened.
    pub(super) fn sets(&self, key: &ViewKey) -> Option<(&Arc<TypeSet>, &Arc<TypeSet>)> {
        let index = self.by_kind.get(&shared_kind(&key.kind))?;
        let standalone = self.standalone.get(&key.kind);
        let listeners = standalone.unwrap_or_else(|| index.listeners.set(key));
        Some((listeners, index.tables.set(key.namespace.as_ref())))
    }
}

impl ProxyKindIndex {
    /// `redefined`: those of the changed services that differ in more than their rules.
    fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = &'a ServiceKey> + Clone,
        redefined: impl Fn(&ServiceKey) -> bool,
        mesh: Mesh<'_>,
        conflicts: &mut Conflicts,
    ) {
        let keys = changed.clone().into_iter();
        let ruled = keys.filter_map(|key| {
            let changes = self.ruled.update(key, mesh);
            (!changes.is_empty()).then(|| (key.clone(), changes))
        });
        let ruled_changes: BTreeMap<_, _> = ruled.collect();
        let tables = self.tables.update(changed.clone(), &redefined, &self.ruled, mesh);
        let changes = ListenerChanges { tables: &tables.everywhere, ruled: &ruled_changes };
        let Self { ruled, tables, listeners } = self;
        listeners.update(changed, redefined, changes, Behind { ruled, tables, mesh }, conflicts);
    }
}

/// Standalone proxies differ in where they listen, not in their table.
fn shared_kind(kind: &ProxyKind) -> ProxyKind {
    match kind {
        ProxyKind::Standalone { .. } => ProxyKind::DEFAULT_STANDALONE,
        other => other.clone(),
    }
}
