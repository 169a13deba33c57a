//! The listeners of one kind of proxy, kept up to date service by service.
//!
//! A name has one listener. An HTTP port's is common to all services with that port; any other is
//! one service's (a TCP port's, or that of an HTTP port of a Service with rules), the first by key
//! of those that a proxy sees.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::listener::v3::Listener;
use pilothouse_xds::{Resource, TypeSet};

use super::clusters::inbound_variant;
use super::conflicts::RecordedConflicts;
use super::layers::{ChangedNames, LayeredSets, Override, ResourceChanges};
use super::listeners_and_routes::Mesh;
use super::route_tables::RouteTables;
use super::ruled_ports::{RuledPortChanges, RuledPorts};
use super::visibility::RestrictedServices;
use crate::model::ServiceKey;
use crate::names::ResourceType;
use crate::snapshot::Conflicts;
use crate::translate::listeners::{self, ListenerRules, OnDemandTimeout};
use crate::view::{InboundPorts, ProxyKind, ViewKey};

#[derive(Debug)]
pub(super) struct Listeners {
    claims: ListenerClaims,
    layers: LayeredSets<Arc<str>, InboundPorts>,
    conflicts: RecordedConflicts,
}

/// Who wants which listener.
#[derive(Debug)]
struct ListenerClaims {
    kind: ProxyKind,
    domain: Arc<str>,
    on_demand: OnDemandTimeout,
    /// Who wants a listener's name for itself. The first by key gets it, of those that a proxy sees;
    /// an HTTP port's common listener goes before all of them.
    own: BTreeMap<Arc<str>, BTreeMap<ServiceKey, Claim>>,
    /// HTTP ports' listeners by name, with the table that they lead to, as they are without any rules.
    http: BTreeMap<Arc<str>, (Arc<str>, Arc<Resource>)>,
    /// The names that each service wants for itself.
    contributions: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
}

/// The listener of a service's port.
#[derive(Debug)]
struct Claim {
    port: u16,
    /// Where the port has no rules; none for an HTTP port that the common listener serves.
    plain: Option<Arc<Resource>>,
    /// For clients that have rules there.
    ruled: Option<Arc<Resource>>,
}

/// What decides how listeners look, and who gets one, beside the claims: which ports have rules, which tables there
/// are, and who sees whom.
#[derive(Clone, Copy)]
pub(super) struct Behind<'a> {
    pub(super) ruled: &'a RuledPorts,
    pub(super) tables: &'a RouteTables,
    pub(super) mesh: Mesh<'a>,
}

impl<'a> Behind<'a> {
    fn restricted(self) -> &'a RestrictedServices {
        self.mesh.restricted()
    }
}

/// What else changed with the services.
#[derive(Clone, Copy)]
pub(super) struct ListenerChanges<'a> {
    /// Tables that changed for everybody.
    pub(super) tables: &'a BTreeSet<Arc<str>>,
    /// Where services have other ports with rules than before.
    pub(super) ruled: &'a BTreeMap<ServiceKey, RuledPortChanges>,
}

impl Listeners {
    pub(super) fn new(kind: ProxyKind, domain: Arc<str>, on_demand: OnDemandTimeout) -> Self {
        Self {
            layers: LayeredSets::new(fixed_listeners(&kind)),
            claims: ListenerClaims {
                kind,
                domain,
                on_demand,
                own: BTreeMap::new(),
                http: BTreeMap::new(),
                contributions: BTreeMap::new(),
            },
            conflicts: RecordedConflicts::default(),
        }
    }

    /// Makes the listeners of these services, and those that lead to the tables that changed with
    /// them; records who goes without one. `redefined`: those of them that differ in more than their
    /// rules.
    pub(super) fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = &'a ServiceKey>,
        redefined: impl Fn(&ServiceKey) -> bool,
        changes: ListenerChanges<'_>,
        behind: Behind<'_>,
        conflicts: &mut Conflicts,
    ) {
        let mut names = ChangedNames::default();
        for key in changed {
            let ruled = changes.ruled.get(key);
            if redefined(key) || ruled.is_some() {
                self.claims.update(key, redefined(key), ruled, behind, &mut names);
            }
        }
        let http = changes.tables.iter();
        names.everywhere.extend(http.filter_map(|table| self.claims.update_http(table, behind)));
        let claims = &self.claims;
        let public =
            names.everywhere.iter().map(|name| (name.clone(), claims.winner(None, name, behind)));
        let in_namespace =
            |namespace: &Arc<str>, name: &str| claims.listener_override(namespace, name, behind);
        // `virtualInbound` is no service's.
        self.layers.apply_changes(public.collect(), in_namespace, |_, _, _| Override::Inherit);
        for (namespace, names) in names.in_namespaces_alone() {
            let in_variant = |_: Option<&Arc<str>>, _: &InboundPorts, _: &str| Override::Inherit;
            self.layers.apply_changes_in(namespace, &names, in_namespace, in_variant);
        }
        for name in names.everywhere {
            let (winner, losers) = self.claims.public_conflict(&name, behind);
            self.conflicts.replace(&name, winner, losers, conflicts);
        }
    }

    /// Makes what this view has of its own, where it is not there.
    pub(super) fn open(&mut self, key: &ViewKey, behind: Behind<'_>) {
        let claims = &self.claims;
        self.layers.open(
            key.namespace.as_ref(),
            inbound_variant(key),
            |namespace| claims.listener_overrides(namespace, behind),
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
    /// Adds to `names` the listeners that the service wants or wanted for itself, and the common ones of the ports
    /// on which it got its first rule or lost its last.
    fn update(
        &mut self,
        key: &ServiceKey,
        redefined: bool,
        ruled: Option<&RuledPortChanges>,
        behind: Behind<'_>,
        names: &mut ChangedNames,
    ) {
        let mut own = self.contributions.remove(key).unwrap_or_default();
        for name in &own {
            if let Some(claims) = self.own.get_mut(name) {
                claims.remove(key);
                if claims.is_empty() {
                    self.own.remove(name);
                }
            }
        }
        let claims = self.encode(key, behind.mesh);
        let after: BTreeSet<Arc<str>> = claims.keys().cloned().collect();
        for (name, claim) in claims {
            self.own.entry(name).or_default().insert(key.clone(), claim);
        }
        own.extend(after.iter().cloned());
        if !after.is_empty() {
            self.contributions.insert(key.clone(), after);
        }
        let common = |port: &u16| listeners::http_port_listener_name(&self.kind, *port);
        for (namespace, ports) in ruled.iter().flat_map(|ruled| &ruled.by_namespace) {
            let common = ports.iter().filter_map(common).map(Arc::from);
            names.in_namespace(namespace, own.iter().cloned().chain(common));
        }
        let everywhere = ruled.iter().flat_map(|ruled| &ruled.everywhere);
        let common: Vec<String> = everywhere.filter_map(common).collect();
        if redefined || !common.is_empty() || ruled.is_some_and(|one| !one.everywhere.is_empty()) {
            names.everywhere.extend(own);
        }
        names.everywhere.extend(common.into_iter().map(Arc::from));
    }

    /// Has the listener that leads to this table exactly while the table has services, whoever
    /// sees them; gives its name.
    fn update_http(&mut self, table: &Arc<str>, behind: Behind<'_>) -> Option<Arc<str>> {
        let port = table.parse().ok()?;
        let name: Arc<str> = listeners::http_port_listener_name(&self.kind, port)?.into();
        if !behind.tables.has_services(table) {
            self.http.remove(&name);
        } else if !self.http.contains_key(&name) {
            let rules = ListenerRules::default();
            let listener = listeners::http_port_listener(&self.kind, port, rules, self.on_demand)?;
            let resource = Resource::new(ResourceType::Listener, name.clone(), &listener);
            self.http.insert(name.clone(), (table.clone(), resource));
        }
        Some(name)
    }

    /// The listeners that a service wants for itself, by name.
    fn encode(&self, key: &ServiceKey, mesh: Mesh<'_>) -> BTreeMap<Arc<str>, Claim> {
        let mut claims = BTreeMap::<Arc<str>, Claim>::new();
        let Some(service) = mesh.services.resolved(key) else { return claims };
        let (kind, domain, on_demand) = (&self.kind, &self.domain, self.on_demand);
        let encoded =
            |one: &Listener| Resource::new(ResourceType::Listener, one.name.as_str().into(), one);
        for port in &service.ports {
            for one in listeners::port_listeners(kind, service, port, domain, on_demand) {
                let claim = Claim { port: port.port, plain: Some(encoded(&one)), ruled: None };
                claims.insert(one.name.into(), claim);
            }
        }
        let Some(rules) = mesh.routes.rules(key) else { return claims };
        let addresses = mesh.services.owned_addresses(service);
        for port in rules.ports() {
            let of_port =
                listeners::rule_listeners(kind, service, &addresses, port, domain, on_demand);
            for one in of_port {
                let name = Arc::from(one.name.as_str());
                let plain = Claim { port, plain: None, ruled: None };
                claims.entry(name).or_insert(plain).ruled = Some(encoded(&one));
            }
        }
        claims
    }

    /// The HTTP listener of this name without any rules, and its table, if proxies of this namespace (of none)
    /// have it.
    fn visible_http(
        &self,
        namespace: Option<&str>,
        name: &str,
        behind: Behind<'_>,
    ) -> Option<&(Arc<str>, Arc<Resource>)> {
        let found = self.http.get(name)?;
        behind.tables.is_visible(namespace, &found.0, behind.restricted()).then_some(found)
    }

    /// The HTTP listener of this name, if proxies of this namespace (of none) have it.
    fn http_listener(
        &self,
        namespace: Option<&str>,
        name: &str,
        behind: Behind<'_>,
    ) -> Option<Arc<Resource>> {
        let (table, plain) = self.visible_http(namespace, name, behind)?;
        let port = table.parse().ok()?;
        let rules = behind.ruled.of_listener(namespace, port, behind.restricted());
        if rules == ListenerRules::default() {
            return Some(plain.clone());
        }
        let listener = listeners::http_port_listener(&self.kind, port, rules, self.on_demand)?;
        Some(Resource::new(ResourceType::Listener, plain.name.clone(), &listener))
    }

    /// Who has this name, among those that proxies of this namespace (of none) see.
    fn winner(
        &self,
        namespace: Option<&str>,
        name: &str,
        behind: Behind<'_>,
    ) -> Option<Arc<Resource>> {
        let own = || self.own_listener(namespace, name, behind).map(|(_, one)| one.clone());
        self.http_listener(namespace, name, behind).or_else(own)
    }

    /// The first service by key that has this listener for itself, of those that proxies of this namespace (of
    /// none) see.
    fn own_listener(
        &self,
        namespace: Option<&str>,
        name: &str,
        behind: Behind<'_>,
    ) -> Option<(&ServiceKey, &Arc<Resource>)> {
        let claims = self.own.get(name)?.iter();
        let mut visible = claims.filter(|(key, _)| behind.restricted().is_visible(namespace, key));
        visible.find_map(|(key, claim)| {
            let rules = claim.ruled.as_ref().and_then(|_| behind.mesh.routes.rules(key));
            let is_ruled =
                rules.is_some_and(|one| one.for_clients_of(namespace).contains_key(&claim.port));
            let own = if is_ruled { &claim.ruled } else { &claim.plain };
            Some((key, own.as_ref()?))
        })
    }

    fn listener_override(&self, namespace: &str, name: &str, behind: Behind<'_>) -> Override {
        let sees_more = behind.restricted().visible_in(namespace).next().is_some();
        if !sees_more && !behind.ruled.has_own(namespace) {
            return Override::Inherit;
        }
        let own = self.winner(Some(namespace), name, behind);
        if own == self.winner(None, name, behind) {
            return Override::Inherit;
        }
        own.map_or(Override::Hide, Override::Replace)
    }

    fn listener_overrides(&self, namespace: &str, behind: Behind<'_>) -> ResourceChanges {
        let mut names = BTreeSet::<Arc<str>>::new();
        let consumed = behind.mesh.routes.consumed_in(namespace);
        for key in behind.restricted().visible_in(namespace).chain(consumed) {
            names.extend(self.contributions.get(key).into_iter().flatten().cloned());
            let ports = behind.tables.tables_of(key).filter_map(|table| table.parse().ok());
            let http =
                ports.filter_map(|port| listeners::http_port_listener_name(&self.kind, port));
            names.extend(http.map(Arc::from));
        }
        let listener =
            |name: Arc<str>| self.listener_override(namespace, &name, behind).into_change(name);
        names.into_iter().filter_map(listener).collect()
    }

    /// The service that has this listener for itself, if one has, and those that go without it. Among those
    /// that everybody sees: a conflict that only a namespace sees is its own affair.
    fn public_conflict(
        &self,
        name: &str,
        behind: Behind<'_>,
    ) -> (Option<&ServiceKey>, Vec<ServiceKey>) {
        let is_http = self.visible_http(None, name, behind).is_some();
        let winner = if is_http { None } else { self.own_listener(None, name, behind) };
        let winner = winner.map(|(key, _)| key);
        let claims = self.own.get(name).into_iter().flatten();
        let without = claims.filter(|(key, claim)| {
            claim.plain.is_some()
                && Some(*key) != winner
                && behind.restricted().is_visible(None, key)
        });
        (winner, without.map(|(key, _)| key.clone()).collect())
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
