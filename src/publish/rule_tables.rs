//! The route tables that captured sidecars have for one port of one Service alone: its rules, for everybody or in
//! the place of that for clients of a namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::Resource;

use super::layers::{ChangedNames, Override};
use super::listeners_and_routes::Mesh;
use super::visibility::RestrictedServices;
use crate::model::route::PortRules;
use crate::model::{Service, ServiceKey};
use crate::names::{self, ResourceType};
use crate::translate::routes;
use crate::view::ProxyKind;

#[derive(Debug)]
pub(super) struct RuleTables {
    kind: ProxyKind,
    domain: Arc<str>,
    tables: BTreeMap<Arc<str>, RuleTable>,
    /// The tables of each Service.
    contributions: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
}

#[derive(Debug)]
struct RuleTable {
    service: ServiceKey,
    producer: Option<Made>,
    /// For clients of these namespaces in the place of the producer's, be it nothing.
    consumers: BTreeMap<Arc<str>, Option<Made>>,
}

/// A table with what it was made of: of a change of one namespace's rules the others' are not made anew.
#[derive(Clone, Debug)]
struct Made {
    service: Arc<Service>,
    rules: Arc<PortRules>,
    resource: Arc<Resource>,
}

impl RuleTables {
    pub(super) fn new(kind: ProxyKind, domain: Arc<str>) -> Self {
        Self { kind, domain, tables: BTreeMap::new(), contributions: BTreeMap::new() }
    }

    /// Makes the tables of a Service; adds those that changed to `changed`. They depend on who sees the Service,
    /// too: `redefined` if that may have changed.
    pub(super) fn update(
        &mut self,
        key: &ServiceKey,
        mesh: Mesh<'_>,
        redefined: bool,
        changed: &mut ChangedNames,
    ) {
        let before = self.contributions.remove(key).unwrap_or_default();
        let service = mesh.services.resolved(key);
        let is_by_address = |one: &&Arc<Service>| !mesh.services.owned_addresses(one).is_empty();
        let rules = service.filter(is_by_address).zip(mesh.routes.rules(key));
        let mut old: BTreeMap<_, _> =
            before.iter().filter_map(|name| self.tables.remove_entry(name)).collect();
        if let Some((service, rules)) = rules {
            let host = names::host(&key.name, &key.namespace, &self.domain);
            for port in rules.ports() {
                let name: Arc<str> = names::service_table(&host, port).into();
                let old = old.remove(&name);
                let make = |rules: Option<&Arc<PortRules>>, old: Option<&Made>| {
                    Some(self.make(service, port, rules?, old))
                };
                let producer = rules.producer.get(&port);
                let table = RuleTable {
                    service: key.clone(),
                    producer: make(producer, old.as_ref().and_then(|old| old.producer.as_ref())),
                    consumers: rules
                        .consumers
                        .iter()
                        .map(|(namespace, ports)| {
                            let old = old.as_ref().and_then(|old| old.consumers.get(namespace));
                            let old = old.and_then(Option::as_ref);
                            (namespace.clone(), make(ports.get(&port), old))
                        })
                        .collect(),
                };
                table.record_changes(&name, old.as_ref(), redefined, changed);
                self.contributions.entry(key.clone()).or_default().insert(name.clone());
                self.tables.insert(name, table);
            }
        }
        changed.everywhere.extend(old.into_keys());
    }

    fn make(
        &self,
        service: &Arc<Service>,
        port: u16,
        rules: &Arc<PortRules>,
        old: Option<&Made>,
    ) -> Made {
        let same =
            |old: &&Made| Arc::ptr_eq(&old.service, service) && Arc::ptr_eq(&old.rules, rules);
        if let Some(old) = old.filter(same) {
            return old.clone();
        }
        let table = routes::rules_table(&self.kind, service, port, rules, &self.domain);
        let name = table.name.as_str().into();
        let resource = Resource::new(ResourceType::Route, name, &table);
        Made { service: service.clone(), rules: rules.clone(), resource }
    }

    /// Whether there is such a table, whoever sees it.
    pub(super) fn has(&self, name: &str) -> bool {
        self.tables.contains_key(name)
    }

    /// What everybody has under this name.
    pub(super) fn public(
        &self,
        name: &str,
        restricted: &RestrictedServices,
    ) -> Option<Arc<Resource>> {
        let table = self.tables.get(name)?;
        let is_visible = restricted.is_visible(None, &table.service);
        table.producer.as_ref().filter(|_| is_visible).map(|made| made.resource.clone())
    }

    pub(super) fn table_override(
        &self,
        namespace: &str,
        name: &str,
        restricted: &RestrictedServices,
    ) -> Override {
        let Some(table) = self.tables.get(name) else { return Override::Inherit };
        let is_visible = restricted.is_visible(Some(namespace), &table.service);
        let own = table.consumers.get(namespace).unwrap_or(&table.producer).as_ref();
        let own = own.filter(|_| is_visible).map(|made| made.resource.clone());
        if own == self.public(name, restricted) {
            return Override::Inherit;
        }
        own.map_or(Override::Hide, Override::Replace)
    }

    /// The names of the tables of a Service.
    pub(super) fn names(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<str>> {
        self.contributions.get(key).into_iter().flatten()
    }
}

impl RuleTable {
    fn record_changes(
        &self,
        name: &Arc<str>,
        old: Option<&Self>,
        redefined: bool,
        changed: &mut ChangedNames,
    ) {
        let resource = |made: &Option<Made>| made.as_ref().map(|made| made.resource.clone());
        let Some(old) = old.filter(|_| !redefined) else {
            changed.everywhere.insert(name.clone());
            return;
        };
        if resource(&old.producer) != resource(&self.producer) {
            changed.everywhere.insert(name.clone());
        }
        for namespace in old.consumers.keys().chain(self.consumers.keys()) {
            let of =
                |table: &Self| resource(table.consumers.get(namespace).unwrap_or(&table.producer));
            if of(old) != of(self) {
                changed.in_namespace(namespace, [name.clone()]);
            }
        }
    }
}
