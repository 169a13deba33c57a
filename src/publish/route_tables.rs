//! The route tables of one kind of proxy, kept up to date service by service.
//!
//! Each service's virtual hosts are encoded once; a table is its skeleton and those parts in a
//! row. A namespace has tables of its own where its services answer to their bare names or where
//! it sees services that others do not, and shares all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use pilothouse_xds::{Resource, TypeSet};
use prost::Message;
use prost::encoding::encode_varint;

use super::layers::{LayeredSets, Override, ResourceChanges};
use super::service_index::ServiceIndex;
use super::visibility::RestrictedServices;
use crate::model::{Service, ServiceKey};
use crate::names::{self, ResourceType};
use crate::translate::routes;
use crate::view::ProxyKind;

/// `RouteConfiguration.virtual_hosts`, field 2, length-delimited.
const VIRTUAL_HOSTS: u8 = 0x12;

/// Encoded virtual hosts by table, then by service.
type VirtualHosts = BTreeMap<Arc<str>, BTreeMap<ServiceKey, Vec<u8>>>;

#[derive(Debug)]
pub(super) struct RouteTables {
    hosts: VirtualHostIndex,
    /// Tables have no variants.
    layers: LayeredSets<()>,
}

/// What the tables are made of.
#[derive(Debug)]
struct VirtualHostIndex {
    kind: ProxyKind,
    domain: Arc<str>,
    /// As proxies of other namespaces see them.
    public: VirtualHosts,
    /// As proxies of the same namespace do, for the namespaces that are open.
    local: BTreeMap<Arc<str>, VirtualHosts>,
    /// The tables in which each service has virtual hosts.
    contributions: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
}

impl RouteTables {
    pub(super) fn new(kind: ProxyKind, domain: Arc<str>, services: &ServiceIndex) -> Self {
        let is_standalone = matches!(kind, ProxyKind::Standalone { .. });
        let hosts = VirtualHostIndex {
            kind,
            domain,
            public: VirtualHosts::new(),
            local: BTreeMap::new(),
            contributions: BTreeMap::new(),
        };
        let mut tables = Self { hosts, layers: LayeredSets::new(Arc::default()) };
        if is_standalone {
            // Its only table exists even where no service does, because its listener does.
            let only = BTreeSet::from([names::STANDALONE_TABLE.into()]);
            tables.rebuild(&only, services.restricted());
        }
        tables
    }

    /// Makes the virtual hosts of these services, and the tables that have or had them; gives those
    /// tables.
    pub(super) fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = &'a ServiceKey>,
        services: &ServiceIndex,
    ) -> BTreeSet<Arc<str>> {
        let mut tables = BTreeSet::new();
        for key in changed {
            self.hosts.update(key, services, &mut tables);
        }
        self.rebuild(&tables, services.restricted());
        tables
    }

    fn rebuild(&mut self, tables: &BTreeSet<Arc<str>>, restricted: &RestrictedServices) {
        let hosts = &self.hosts;
        let changes =
            tables.iter().map(|name| (name.clone(), hosts.public_table(name, restricted)));
        self.layers.apply_changes(
            changes.collect(),
            |namespace, name| hosts.table_override(namespace, name, restricted),
            |_, (), _| Override::Inherit,
        );
    }

    /// Makes what this namespace has of its own, where it is not there.
    pub(super) fn open(&mut self, namespace: Option<&Arc<str>>, services: &ServiceIndex) {
        if let Some(namespace) = namespace {
            self.hosts.open(namespace, services);
        }
        let (hosts, restricted) = (&self.hosts, services.restricted());
        let overrides = |namespace: &str| hosts.table_overrides(namespace, restricted);
        self.layers.open(namespace, None, overrides, |_, ()| ResourceChanges::new());
    }

    /// Drops what none of these namespaces has.
    pub(super) fn retain(&mut self, namespaces: &BTreeSet<Option<&Arc<str>>>) {
        self.hosts.local.retain(|namespace, _| namespaces.contains(&Some(namespace)));
        self.layers.retain(&namespaces.iter().map(|namespace| (*namespace, None)).collect());
    }

    /// The tables for proxies of this namespace, which must have been opened.
    pub(super) fn set(&self, namespace: Option<&Arc<str>>) -> &Arc<TypeSet> {
        self.layers.get(namespace, None)
    }

    /// Whether any service has virtual hosts in this table, whoever sees them.
    pub(super) fn has_services(&self, table: &str) -> bool {
        self.hosts.public.contains_key(table)
    }

    /// Whether proxies of this namespace (of none) see a service in this table.
    pub(super) fn is_visible(
        &self,
        namespace: Option<&str>,
        table: &str,
        restricted: &RestrictedServices,
    ) -> bool {
        self.hosts.is_visible(namespace, table, restricted)
    }

    /// The tables in which a service has virtual hosts.
    pub(super) fn tables_of(&self, key: &ServiceKey) -> impl Iterator<Item = &Arc<str>> {
        self.hosts.contributions.get(key).into_iter().flatten()
    }
}

impl VirtualHostIndex {
    /// Adds to `tables` those that have or had virtual hosts of the service.
    fn update(
        &mut self,
        key: &ServiceKey,
        services: &ServiceIndex,
        tables: &mut BTreeSet<Arc<str>>,
    ) {
        let service = services.resolved(key);
        let before = self.contributions.remove(key).unwrap_or_default();
        let hosts = service.map(|one| self.encode(None, one, services)).unwrap_or_default();
        let after: BTreeSet<_> = hosts.keys().cloned().collect();
        replace(&mut self.public, key, &before, hosts);

        let namespace = &key.namespace;
        let is_local = self.local.contains_key(namespace)
            && services.restricted().is_visible(Some(namespace), key);
        let local = service.filter(|_| is_local);
        let hosts = local.map(|one| self.encode(Some(namespace), one, services));
        if let Some(own) = self.local.get_mut(namespace) {
            replace(own, key, &before, hosts.unwrap_or_default());
        }
        tables.extend(before.iter().chain(&after).cloned());
        if !after.is_empty() {
            self.contributions.insert(key.clone(), after);
        }
    }

    fn open(&mut self, namespace: &Arc<str>, services: &ServiceIndex) {
        if self.local.contains_key(namespace) {
            return;
        }
        let restricted = services.restricted();
        let own = services.resolved_in(namespace);
        let visible = own.filter(|one| restricted.is_visible(Some(namespace), &one.key));
        let mut local = VirtualHosts::new();
        for service in visible {
            for (table, hosts) in self.encode(Some(namespace), service, services) {
                local.entry(table).or_default().insert(service.key.clone(), hosts);
            }
        }
        self.local.insert(namespace.clone(), local);
    }

    /// A service's virtual hosts by table, as proxies of this namespace (of others) see them.
    fn encode(
        &self,
        namespace: Option<&str>,
        service: &Service,
        services: &ServiceIndex,
    ) -> BTreeMap<Arc<str>, Vec<u8>> {
        let addresses = services.owned_addresses(service);
        let hosts = routes::virtual_hosts(&self.kind, namespace, service, &addresses, &self.domain);
        let mut encoded: BTreeMap<Arc<str>, Vec<u8>> = BTreeMap::new();
        for (table, host) in hosts {
            let part = encoded.entry(table.into()).or_default();
            part.push(VIRTUAL_HOSTS);
            encode_varint(host.encoded_len() as u64, part);
            part.extend_from_slice(&host.encode_to_vec());
        }
        encoded
    }

    fn public_table(
        &self,
        name: &Arc<str>,
        restricted: &RestrictedServices,
    ) -> Option<Arc<Resource>> {
        let standalone = matches!(self.kind, ProxyKind::Standalone { .. });
        let exists = standalone || self.is_visible(None, name, restricted);
        exists.then(|| self.table(None, name, restricted))
    }

    fn is_visible(
        &self,
        namespace: Option<&str>,
        table: &str,
        restricted: &RestrictedServices,
    ) -> bool {
        let services = self.public.get(table).into_iter().flat_map(BTreeMap::keys);
        services.into_iter().any(|key| restricted.is_visible(namespace, key))
    }

    /// Differs from everybody's if some service there has its bare name in this namespace, or is
    /// seen here alone.
    fn table_override(
        &self,
        namespace: &str,
        name: &str,
        restricted: &RestrictedServices,
    ) -> Override {
        let local = self.local.get(namespace).is_some_and(|hosts| hosts.contains_key(name));
        let public = self.public.get(name);
        let mut visible = restricted.visible_in(namespace);
        if local || public.is_some_and(|hosts| visible.any(|key| hosts.contains_key(key))) {
            Override::Replace(self.table(Some(namespace), &name.into(), restricted))
        } else {
            Override::Inherit
        }
    }

    fn table_overrides(&self, namespace: &str, restricted: &RestrictedServices) -> ResourceChanges {
        let local = self.local.get(namespace).into_iter().flat_map(BTreeMap::keys);
        let visible = restricted.visible_in(namespace);
        let visible = visible.filter_map(|key| self.contributions.get(key)).flatten();
        let names: BTreeSet<Arc<str>> = local.chain(visible).cloned().collect();
        let table =
            |name: Arc<str>| self.table_override(namespace, &name, restricted).into_change(name);
        names.into_iter().filter_map(table).collect()
    }

    fn table(
        &self,
        namespace: Option<&str>,
        name: &Arc<str>,
        restricted: &RestrictedServices,
    ) -> Arc<Resource> {
        let parts = self.parts(namespace, name, restricted);
        // The skeleton's catch-all stands before the services' virtual hosts; Envoy matches by
        // domain, not by order.
        let skeleton = routes::table_without_services(&self.kind, name).encode_to_vec();
        let len = skeleton.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        let mut table = Vec::with_capacity(len);
        table.extend_from_slice(&skeleton);
        parts.iter().for_each(|part| table.extend_from_slice(part));
        Resource::from_encoded(ResourceType::Route, name.clone(), &table)
    }

    /// The virtual hosts that proxies of this namespace (of none) see in a table, by service.
    ///
    /// Both maps are walked once, side by side. In a mesh of one namespace of 10,000 services, a search of the
    /// second map for each service of the first cost a fifth of what a new service costs.
    fn parts(
        &self,
        namespace: Option<&str>,
        table: &str,
        restricted: &RestrictedServices,
    ) -> Vec<&[u8]> {
        let Some(public) = self.public.get(table) else { return Vec::new() };
        let local = namespace.and_then(|namespace| self.local.get(namespace)?.get(table));
        // A service that has local virtual hosts is visible, and has public ones too.
        if let Some(local) = local.filter(|local| local.len() == public.len()) {
            return local.values().map(Vec::as_slice).collect();
        }
        let mut local = local.into_iter().flatten().peekable();
        let mut parts = Vec::new();
        for (key, public) in public.iter().filter(|(key, _)| restricted.is_visible(namespace, key))
        {
            while local.next_if(|(before, _)| *before < key).is_some() {}
            let own = local.next_if(|(same, _)| *same == key);
            parts.push(own.map_or(public, |(_, hosts)| hosts).as_slice());
        }
        parts
    }
}

/// Puts a service's virtual hosts in the place of those that it had in the tables `before`.
fn replace(
    all: &mut VirtualHosts,
    key: &ServiceKey,
    before: &BTreeSet<Arc<str>>,
    hosts: BTreeMap<Arc<str>, Vec<u8>>,
) {
    for table in before {
        if let Some(services) = all.get_mut(table) {
            services.remove(key);
            if services.is_empty() && !hosts.contains_key(table) {
                all.remove(table);
            }
        }
    }
    for (table, encoded) in hosts {
        all.entry(table).or_default().insert(key.clone(), encoded);
    }
}
