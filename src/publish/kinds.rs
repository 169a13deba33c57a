//! Listeners and route tables of one kind of proxy, kept up to date service by service.
//!
//! Each service's virtual hosts are encoded once; a table is its skeleton and those parts in a
//! row. A namespace whose services answer to their bare names has tables of its own where it has
//! such services and shares all others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use prost::encoding::encode_varint;

use crate::model::{Service, ServiceKey};
use crate::names::ResourceType;
use crate::snapshot::{Resource, TypeSet};
use crate::translate::{listeners, routes};
use crate::view::ProxyKind;

/// `RouteConfiguration.virtual_hosts`, field 2, length-delimited.
const VIRTUAL_HOSTS: u8 = 0x12;

/// Encoded virtual hosts by table, then by service.
type Parts = BTreeMap<Arc<str>, BTreeMap<ServiceKey, Vec<u8>>>;

/// Who wants a listener's name: an HTTP port's common listener (`None`) comes before every
/// service's TCP listener, and those go by key. The first one gets it.
type Claims = BTreeMap<Option<ServiceKey>, Arc<Resource>>;

/// What all proxies of one kind have in common.
#[derive(Debug)]
pub(super) struct KindState {
    kind: ProxyKind,
    domain: Arc<str>,
    listeners: Arc<TypeSet>,
    routes: Arc<TypeSet>,
    parts: Parts,
    claims: BTreeMap<Arc<str>, Claims>,
    by_service: BTreeMap<ServiceKey, Footprint>,
    namespaces: BTreeMap<Arc<str>, LocalRoutes>,
}

/// Where a service has left something.
#[derive(Debug, Default)]
struct Footprint {
    tables: BTreeSet<Arc<str>>,
    listeners: BTreeSet<Arc<str>>,
}

/// The tables as proxies of one namespace see them.
#[derive(Debug, Default)]
struct LocalRoutes {
    routes: Arc<TypeSet>,
    /// Only of the namespace's own services.
    parts: Parts,
}

impl KindState {
    pub(super) fn new(kind: ProxyKind, domain: Arc<str>) -> Self {
        let mut state = Self {
            listeners: super::build::listener_set(&kind),
            routes: Arc::new(TypeSet::default()),
            kind,
            domain,
            parts: Parts::new(),
            claims: BTreeMap::new(),
            by_service: BTreeMap::new(),
            namespaces: BTreeMap::new(),
        };
        if matches!(state.kind, ProxyKind::Standalone { .. }) {
            // Its only table exists even where no service does, because its listener does.
            state.rebuild(BTreeSet::from([crate::names::STANDALONE_TABLE.into()]));
        }
        state
    }

    pub(super) fn listeners(&self) -> &Arc<TypeSet> {
        &self.listeners
    }

    /// The tables for proxies of `namespace`, which must have been opened.
    pub(super) fn routes(&self, namespace: Option<&str>) -> &Arc<TypeSet> {
        let local = namespace.and_then(|namespace| self.namespaces.get(namespace));
        local.map_or(&self.routes, |local| &local.routes)
    }

    /// Makes the tables of a namespace, from its services and the addresses each may claim.
    pub(super) fn open_namespace<'a>(
        &mut self,
        namespace: &Arc<str>,
        services: impl Iterator<Item = (&'a Arc<Service>, Vec<IpAddr>)>,
    ) {
        if self.namespaces.contains_key(namespace) {
            return;
        }
        let mut parts = Parts::new();
        for (service, addresses) in services {
            for (table, part) in self.encode_parts(Some(namespace), service, &addresses) {
                parts.entry(table).or_default().insert(service.key.clone(), part);
            }
        }
        let local: Vec<Arc<str>> = parts.keys().cloned().collect();
        let routes = self.routes.clone();
        self.namespaces.insert(namespace.clone(), LocalRoutes { routes, parts });
        self.rebuild_local(namespace, &local);
    }

    /// Forgets the namespaces that nobody needs any more.
    pub(super) fn keep_namespaces(&mut self, needed: impl Fn(&str) -> bool) {
        self.namespaces.retain(|namespace, _| needed(namespace));
    }

    /// Puts `service` in the place of what `key` was before; `None` if it is gone.
    /// `addresses` are the cluster IPs that it may claim. Tables are built anew for all changed
    /// services at once, by [`Self::rebuild`] with the tables returned here.
    pub(super) fn put(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        addresses: &[IpAddr],
        touched: &mut BTreeSet<Arc<str>>,
    ) {
        let before = self.by_service.remove(key).unwrap_or_default();
        let mut after = Footprint::default();

        let parts = service.map(|one| self.encode_parts(None, one, addresses)).unwrap_or_default();
        after.tables.extend(parts.keys().cloned());
        replace(&mut self.parts, key, &before.tables, parts);
        let local = service.filter(|_| self.namespaces.contains_key(&key.namespace));
        let parts = local.map(|one| self.encode_parts(Some(&key.namespace), one, addresses));
        if let Some(own) = self.namespaces.get_mut(&key.namespace) {
            replace(&mut own.parts, key, &before.tables, parts.unwrap_or_default());
        }
        touched.extend(before.tables.iter().chain(&after.tables).cloned());

        let tcp = service.into_iter().flat_map(|one| self.tcp_listeners(one)).collect::<Vec<_>>();
        after.listeners.extend(tcp.iter().map(|listener| listener.name.clone()));
        for name in before.listeners.difference(&after.listeners) {
            self.claim(name, Some(key.clone()), None);
        }
        for listener in tcp {
            self.claim(&listener.name.clone(), Some(key.clone()), Some(listener));
        }
        if service.is_some() {
            self.by_service.insert(key.clone(), after);
        }
    }

    /// Builds these tables anew from their parts, and with them the listeners that lead to them.
    pub(super) fn rebuild(&mut self, tables: BTreeSet<Arc<str>>) {
        let standalone = matches!(self.kind, ProxyKind::Standalone { .. });
        let mut changes = Vec::with_capacity(tables.len());
        for name in &tables {
            let parts = self.parts.get(name);
            let exists = standalone || parts.is_some();
            let table = exists
                .then(|| self.table(name, parts.into_iter().flat_map(|parts| parts.values())));
            changes.push((name.clone(), table));
            if let Some(port) = name.parse().ok().filter(|_| !standalone) {
                self.http_listener(port, exists);
            }
        }
        self.routes = self.routes.with(changes);
        let namespaces: Vec<_> = self.namespaces.keys().cloned().collect();
        let tables: Vec<_> = tables.into_iter().collect();
        for namespace in namespaces {
            self.rebuild_local(&namespace, &tables);
        }
    }

    fn rebuild_local(&mut self, namespace: &Arc<str>, tables: &[Arc<str>]) {
        let Some(local) = self.namespaces.get(namespace) else { return };
        let changes = tables.iter().map(|name| {
            let table = match (local.parts.get(name), self.parts.get(name)) {
                (Some(own), Some(all)) => {
                    let parts = all.iter().map(|(key, part)| own.get(key).unwrap_or(part));
                    Some(self.table(name, parts))
                }
                _ => self.routes.get(name).cloned(),
            };
            (name.clone(), table)
        });
        let routes = local.routes.with(changes.collect::<Vec<_>>());
        if let Some(local) = self.namespaces.get_mut(namespace) {
            local.routes = routes;
        }
    }

    fn table<'a>(
        &self,
        name: &Arc<str>,
        parts: impl Iterator<Item = &'a Vec<u8>>,
    ) -> Arc<Resource> {
        // The skeleton's catch-all stands before the services' virtual hosts; Envoy matches by
        // domain, not by order.
        let mut table = routes::table(&self.kind, name).encode_to_vec();
        for part in parts {
            table.extend_from_slice(part);
        }
        Resource::from_encoded(ResourceType::Route, name.clone(), &table)
    }

    fn encode_parts(
        &self,
        namespace: Option<&str>,
        service: &Service,
        addresses: &[IpAddr],
    ) -> BTreeMap<Arc<str>, Vec<u8>> {
        let mut parts: BTreeMap<Arc<str>, Vec<u8>> = BTreeMap::new();
        for (table, host) in
            routes::virtual_hosts(&self.kind, namespace, service, addresses, &self.domain)
        {
            let part = parts.entry(table.into()).or_default();
            part.push(VIRTUAL_HOSTS);
            encode_varint(host.encoded_len() as u64, part);
            part.extend_from_slice(&host.encode_to_vec());
        }
        parts
    }

    fn tcp_listeners(&self, service: &Service) -> Vec<Arc<Resource>> {
        let ports = service.ports.iter().filter(|port| !port.protocol.is_http());
        let listeners =
            ports.flat_map(|port| listeners::tcp_port(&self.kind, service, port, &self.domain));
        listeners
            .map(|one| Resource::new(ResourceType::Listener, one.name.as_str().into(), &one))
            .collect()
    }

    fn http_listener(&mut self, port: u16, wanted: bool) {
        let Some(listener) = listeners::http_port(&self.kind, port) else { return };
        let name: Arc<str> = listener.name.as_str().into();
        let resource =
            wanted.then(|| Resource::new(ResourceType::Listener, name.clone(), &listener));
        self.claim(&name, None, resource);
    }

    /// Notes or withdraws a claim, and gives the listener's name to the first that is left.
    fn claim(&mut self, name: &Arc<str>, who: Option<ServiceKey>, what: Option<Arc<Resource>>) {
        let claims = self.claims.entry(name.clone()).or_default();
        match what {
            Some(resource) => claims.insert(who, resource),
            None => claims.remove(&who),
        };
        let first = claims.values().next().cloned();
        if first.is_none() {
            self.claims.remove(name);
        }
        self.listeners = self.listeners.with([(name.clone(), first)]);
    }

    /// Services whose TCP listener somebody else has, with the listener's name.
    pub(super) fn conflicts(&self) -> impl Iterator<Item = (&Arc<str>, &ServiceKey)> {
        self.claims
            .iter()
            .flat_map(|(name, claims)| claims.keys().skip(1).flatten().map(move |key| (name, key)))
    }
}

/// Puts a service's parts in the place of those it had in the tables `before`.
fn replace(
    all: &mut Parts,
    key: &ServiceKey,
    before: &BTreeSet<Arc<str>>,
    parts: BTreeMap<Arc<str>, Vec<u8>>,
) {
    for table in before {
        if let Some(services) = all.get_mut(table) {
            services.remove(key);
            if services.is_empty() && !parts.contains_key(table) {
                all.remove(table);
            }
        }
    }
    for (table, part) in parts {
        all.entry(table).or_default().insert(key.clone(), part);
    }
}
