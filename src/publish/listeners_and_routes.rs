//! The listeners and route tables of every kind of proxy that is connected: tables first, since a
//! port has an HTTP listener exactly while its table has services.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::TypeSet;

use super::listeners::{Listeners, fixed_listeners};
use super::route_tables::RouteTables;
use super::service_index::{MeshChanges, ServiceIndex};
use crate::model::ServiceKey;
use crate::snapshot::Conflicts;
use crate::view::{ProxyKind, ViewKey};

#[derive(Debug)]
pub(super) struct ListenersAndRoutes {
    domain: Arc<str>,
    by_kind: BTreeMap<ProxyKind, ProxyKindIndex>,
    /// The listeners of standalone proxies, by where they listen.
    standalone: BTreeMap<ProxyKind, Arc<TypeSet>>,
}

/// What all proxies of one kind have in common.
#[derive(Debug)]
struct ProxyKindIndex {
    tables: RouteTables,
    listeners: Listeners,
}

impl ListenersAndRoutes {
    pub(super) fn new(domain: Arc<str>) -> Self {
        Self { domain, by_kind: BTreeMap::new(), standalone: BTreeMap::new() }
    }

    /// Makes the tables and listeners of the changed services, for every kind that is open.
    pub(super) fn update(
        &mut self,
        changes: &MeshChanges,
        services: &ServiceIndex,
        conflicts: &mut Conflicts,
    ) {
        if changes.listeners_and_routes.is_empty() {
            return;
        }
        for kind in self.by_kind.values_mut() {
            kind.update(&changes.listeners_and_routes, services, conflicts);
        }
    }

    /// Makes what this view has of its own, where it is not there.
    pub(super) fn open(
        &mut self,
        key: &ViewKey,
        services: &ServiceIndex,
        conflicts: &mut Conflicts,
    ) {
        let is_standalone = matches!(key.kind, ProxyKind::Standalone { .. });
        if is_standalone && !self.standalone.contains_key(&key.kind) {
            self.standalone.insert(key.kind.clone(), fixed_listeners(&key.kind));
        }
        let kind = shared_kind(&key.kind);
        let index = self.by_kind.entry(kind.clone()).or_insert_with(|| {
            let mut index = ProxyKindIndex {
                tables: RouteTables::new(kind.clone(), self.domain.clone(), services),
                listeners: Listeners::new(kind, self.domain.clone()),
            };
            index.update(services.keys(), services, conflicts);
            index
        });
        index.tables.open(key.namespace.as_ref(), services);
        index.listeners.open(key, &index.tables, services);
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
    fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = &'a ServiceKey> + Clone,
        services: &ServiceIndex,
        conflicts: &mut Conflicts,
    ) {
        let tables = self.tables.update(changed.clone(), services);
        self.listeners.update(changed, &tables, &self.tables, services, conflicts);
    }
}

/// Standalone proxies differ in where they listen, not in their table.
fn shared_kind(kind: &ProxyKind) -> ProxyKind {
    match kind {
        ProxyKind::Standalone { .. } => ProxyKind::DEFAULT_STANDALONE,
        other => other.clone(),
    }
}
