//! The listeners of one kind of proxy, kept up to date service by service.
//!
//! A name has one listener. An HTTP port's is common to all services with that port; any other is
//! one TCP service's, the first by key of those that a proxy sees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::{Resource, TypeSet};

use super::clusters::inbound_variant;
use super::conflicts::RecordedConflicts;
use super::layers::{LayeredSets, Override, ResourceChanges};
use super::route_tables::RouteTables;
use super::service_index::ServiceIndex;
use super::visibility::RestrictedServices;
use crate::model::{Service, ServiceKey};
use crate::names::ResourceType;
use crate::snapshot::Conflicts;
use crate::translate::listeners;
use crate::view::{InboundPorts, ProxyKind, ViewKey};

#[derive(Debug)]
pub(super) struct Listeners {
    claims: ListenerClaims,
    layers: LayeredSets<InboundPorts>,
    conflicts: RecordedConflicts,
}

/// Who wants which listener.
#[derive(Debug)]
struct ListenerClaims {
    kind: ProxyKind,
    domain: Arc<str>,
    /// Who wants a listener's name for itself. The first by key gets it, of those that a proxy sees;
    /// an HTTP port's common listener goes before all of them.
    tcp: BTreeMap<Arc<str>, BTreeMap<ServiceKey, Arc<Resource>>>,
    /// HTTP ports' listeners by name, with the table that they lead to.
    http: BTreeMap<Arc<str>, (Arc<str>, Arc<Resource>)>,
    /// The names that each service wants for itself.
    contributions: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
}

/// What decides who gets a listener beside the claims: which tables there are, and who sees whom.
#[derive(Clone, Copy)]
struct Visibility<'a> {
    tables: &'a RouteTables,
    restricted: &'a RestrictedServices,
}

impl Listeners {
    pub(super) fn new(kind: ProxyKind, domain: Arc<str>) -> Self {
        Self {
            layers: LayeredSets::new(fixed_listeners(&kind)),
            claims: ListenerClaims {
                kind,
                domain,
                tcp: BTreeMap::new(),
                http: BTreeMap::new(),
                contributions: BTreeMap::new(),
            },
            conflicts: RecordedConflicts::default(),
        }
    }

    /// Makes the listeners of these services, and those that lead to the tables that changed with
    /// them; records who goes without one.
    pub(super) fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = &'a ServiceKey>,
        changed_tables: &BTreeSet<Arc<str>>,
        tables: &RouteTables,
        services: &ServiceIndex,
        conflicts: &mut Conflicts,
    ) {
        let mut names = BTreeSet::new();
        for key in changed {
            self.claims.update(key, services.resolved(key).map(|service| &**service), &mut names);
        }
        let http = changed_tables.iter();
        names.extend(http.filter_map(|table| self.claims.update_http(table, tables)));
        let (claims, visibility) =
            (&self.claims, Visibility { tables, restricted: services.restricted() });
        let changes =
            names.iter().map(|name| (name.clone(), claims.winner(None, name, visibility)));
        self.layers.apply_changes(
            changes.collect(),
            |namespace, name| claims.listener_override(namespace, name, visibility),
            // `virtualInbound` is no service's.
            |_, _, _| Override::Inherit,
        );
        for name in names {
            let (winner, losers) = self.claims.public_conflict(&name, visibility);
            self.conflicts.replace(&name, winner, losers, conflicts);
        }
    }

    /// Makes what this view has of its own, where it is not there.
    pub(super) fn open(&mut self, key: &ViewKey, tables: &RouteTables, services: &ServiceIndex) {
        let (claims, visibility) =
            (&self.claims, Visibility { tables, restricted: services.restricted() });
        self.layers.open(
            key.namespace.as_ref(),
            inbound_variant(key),
            |namespace| claims.listener_overrides(namespace, visibility),
            |_, ports| inbound_listener(ports),
        );
    }

    /// Drops what none of these views has.
    pub(super) fn retain(&mut self, needed: &[&ViewKey]) {
        let variants = needed.iter().map(|key| (key.namespace.as_ref(), inbound_variant(key)));
        self.layers.retain(&variants.collect());
    }

    /// The set of a view that was opened.
    pub(super) fn set(&self, key: &ViewKey) -> &Arc<TypeSet> {
        self.layers.get(key.namespace.as_ref(), inbound_variant(key))
    }

    /// Takes the conflicts back that were recorded for this kind of proxy.
    pub(super) fn clear_conflicts(&mut self, conflicts: &mut Conflicts) {
        self.conflicts.clear(conflicts);
    }
}

impl ListenerClaims {
    /// Adds to `names` the listeners that the service wants or wanted for itself.
    fn update(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        names: &mut BTreeSet<Arc<str>>,
    ) {
        let before = self.contributions.remove(key).unwrap_or_default();
        for name in &before {
            if let Some(claims) = self.tcp.get_mut(name) {
                claims.remove(key);
                if claims.is_empty() {
                    self.tcp.remove(name);
                }
            }
        }
        let mut after = BTreeSet::new();
        for listener in service.into_iter().flat_map(|one| self.encode(one)).collect::<Vec<_>>() {
            after.insert(listener.name.clone());
            self.tcp.entry(listener.name.clone()).or_default().insert(key.clone(), listener);
        }
        names.extend(before.iter().chain(&after).cloned());
        if !after.is_empty() {
            self.contributions.insert(key.clone(), after);
        }
    }

    /// Has the listener that leads to this table exactly while the table has services, whoever
    /// sees them; gives its name.
    fn update_http(&mut self, table: &Arc<str>, tables: &RouteTables) -> Option<Arc<str>> {
        let listener = listeners::http_port_listener(&self.kind, table.parse().ok()?)?;
        let name: Arc<str> = listener.name.as_str().into();
        if !tables.has_services(table) {
            self.http.remove(&name);
        } else if !self.http.contains_key(&name) {
            let resource = Resource::new(ResourceType::Listener, name.clone(), &listener);
            self.http.insert(name.clone(), (table.clone(), resource));
        }
        Some(name)
    }

    /// The listeners that a service wants for itself.
    fn encode(&self, service: &Service) -> Vec<Arc<Resource>> {
        let ports = service.ports.iter();
        let listeners = ports
            .flat_map(|port| listeners::port_listeners(&self.kind, service, port, &self.domain));
        listeners
            .map(|one| Resource::new(ResourceType::Listener, one.name.as_str().into(), &one))
            .collect()
    }

    /// The HTTP listener of this name, if proxies of this namespace (of none) have it.
    fn http_listener(
        &self,
        namespace: Option<&str>,
        name: &str,
        visibility: Visibility<'_>,
    ) -> Option<&Arc<Resource>> {
        let (table, resource) = self.http.get(name)?;
        let is_visible = visibility.tables.is_visible(namespace, table, visibility.restricted);
        is_visible.then_some(resource)
    }

    /// Who has this name, among those that proxies of this namespace (of none) see.
    fn winner(
        &self,
        namespace: Option<&str>,
        name: &str,
        visibility: Visibility<'_>,
    ) -> Option<Arc<Resource>> {
        let tcp = || {
            let mut claims = self.tcp.get(name)?.iter();
            let first = claims.find(|(key, _)| visibility.restricted.is_visible(namespace, key));
            first.map(|(_, resource)| resource)
        };
        self.http_listener(namespace, name, visibility).or_else(tcp).cloned()
    }

    fn listener_override(
        &self,
        namespace: &str,
        name: &str,
        visibility: Visibility<'_>,
    ) -> Override {
        let own = self.winner(Some(namespace), name, visibility);
        if own == self.winner(None, name, visibility) {
            return Override::Inherit;
        }
        own.map_or(Override::Hide, Override::Replace)
    }

    fn listener_overrides(&self, namespace: &str, visibility: Visibility<'_>) -> ResourceChanges {
        let mut names = BTreeSet::<Arc<str>>::new();
        for key in visibility.restricted.visible_in(namespace) {
            names.extend(self.contributions.get(key).into_iter().flatten().cloned());
            let ports = visibility.tables.tables_of(key).filter_map(|table| table.parse().ok());
            let http = ports.filter_map(|port| listeners::http_port_listener(&self.kind, port));
            names.extend(http.map(|listener| listener.name.into()));
        }
        let listener =
            |name: Arc<str>| self.listener_override(namespace, &name, visibility).into_change(name);
        names.into_iter().filter_map(listener).collect()
    }

    /// The TCP service that has this listener, if one has, and those that go without it. Among those
    /// that everybody sees: a conflict that only a namespace sees is its own affair.
    fn public_conflict(
        &self,
        name: &str,
        visibility: Visibility<'_>,
    ) -> (Option<&ServiceKey>, Vec<ServiceKey>) {
        let claims = self.tcp.get(name).into_iter().flat_map(BTreeMap::keys);
        let mut tcp = claims.filter(|key| visibility.restricted.is_visible(None, key));
        let is_http = self.http_listener(None, name, visibility).is_some();
        let winner = if is_http { None } else { tcp.next() };
        (winner, tcp.cloned().collect())
    }
}

/// The listeners that do not depend on the mesh.
pub(super) fn fixed_listeners(kind: &ProxyKind) -> Arc<TypeSet> {
    let fixed = listeners::fixed_listeners(kind).into_iter().map(|listener| {
        let name: Arc<str> = listener.name.as_str().into();
        (name.clone(), Some(Resource::new(ResourceType::Listener, name, &listener)))
    });
    Arc::new(TypeSet::default()).with(fixed)
}

/// The listener in which the layer of these inbound ports differs.
fn inbound_listener(inbound: &InboundPorts) -> ResourceChanges {
    let listener = listeners::virtual_inbound(inbound);
    let name: Arc<str> = listener.name.as_str().into();
    let resource = Resource::new(ResourceType::Listener, name.clone(), &listener);
    vec![(name, Some(resource))]
}
