//! Listeners and route tables of one kind of proxy, kept up to date service by service.
//!
//! Each service's virtual hosts are encoded once; a table is its skeleton and those parts in a
//! row. A namespace has tables of its own where its services answer to their bare names or where
//! it sees services that others do not, and shares all others.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use prost::Message;
use prost::encoding::encode_varint;

use super::conflicts::Losers;
use super::layers::{Changes, Layers, Own};
use super::visibility::Visibility;
use crate::model::{Service, ServiceKey};
use crate::names::{self, ResourceType};
use crate::snapshot::{Conflicts, Resource, TypeSet};
use crate::translate::{listeners, routes};
use crate::view::{InboundPorts, ProxyKind};

/// `RouteConfiguration.virtual_hosts`, field 2, length-delimited.
const VIRTUAL_HOSTS: u8 = 0x12;

/// Encoded virtual hosts by table, then by service.
type Parts = BTreeMap<Arc<str>, BTreeMap<ServiceKey, Vec<u8>>>;

/// What all proxies of one kind have in common.
#[derive(Debug)]
pub(super) struct KindState {
    mesh: Mesh,
    listeners: Layers<InboundPorts>,
    /// Tables have no variants.
    routes: Layers<()>,
}

/// What the listeners and tables are made of.
#[derive(Debug)]
struct Mesh {
    kind: ProxyKind,
    domain: Arc<str>,
    visibility: Visibility,
    /// As proxies of other namespaces see them.
    parts: Parts,
    /// As proxies of the same namespace do, for the namespaces that are open.
    local: BTreeMap<Arc<str>, Parts>,
    /// Who wants a listener's name for itself. The first by key gets it, of those that a proxy sees; an
    /// HTTP port's common listener goes before all of them.
    claims: BTreeMap<Arc<str>, BTreeMap<ServiceKey, Arc<Resource>>>,
    /// HTTP ports' listeners by name, with the table that they lead to.
    http: BTreeMap<Arc<str>, (Arc<str>, Arc<Resource>)>,
    by_service: BTreeMap<ServiceKey, Footprint>,
    losers: Losers,
}

/// Where a service has left something.
#[derive(Debug, Default)]
struct Footprint {
    tables: BTreeSet<Arc<str>>,
    listeners: BTreeSet<Arc<str>>,
}

/// What must be made anew, by name.
#[derive(Debug, Default)]
pub(super) struct Touched {
    tables: BTreeSet<Arc<str>>,
    listeners: BTreeSet<Arc<str>>,
}

impl KindState {
    pub(super) fn new(kind: ProxyKind, domain: Arc<str>, conflicts: &mut Conflicts) -> Self {
        let mut touched = Touched::default();
        if matches!(kind, ProxyKind::Standalone { .. }) {
            // Its only table exists even where no service does, because its listener does.
            touched.tables.insert(names::STANDALONE_TABLE.into());
        }
        let mut state = Self {
            listeners: Layers::new(super::build::listener_set(&kind)),
            routes: Layers::new(Arc::new(TypeSet::default())),
            mesh: Mesh {
                kind,
                domain,
                visibility: Visibility::default(),
                parts: Parts::new(),
                local: BTreeMap::new(),
                claims: BTreeMap::new(),
                http: BTreeMap::new(),
                by_service: BTreeMap::new(),
                losers: Losers::default(),
            },
        };
        state.rebuild(touched, conflicts);
        state
    }

    /// The listeners for proxies of this namespace and with these inbound ports, which must have
    /// been opened.
    pub(super) fn listeners(
        &self,
        namespace: Option<&Arc<str>>,
        inbound: Option<&InboundPorts>,
    ) -> &Arc<TypeSet> {
        self.listeners.get(namespace, inbound)
    }

    /// The tables for proxies of this namespace, which must have been opened.
    pub(super) fn routes(&self, namespace: Option<&Arc<str>>) -> &Arc<TypeSet> {
        self.routes.get(namespace, None)
    }

    /// Has what these namespaces and inbound ports need and no more. `services` gives those of a
    /// namespace, and the addresses that each may claim.
    pub(super) fn open<'a, S: Iterator<Item = (&'a Arc<Service>, Vec<IpAddr>)>>(
        &mut self,
        needed: &BTreeSet<(Option<&Arc<str>>, Option<&InboundPorts>)>,
        services: impl Fn(&Arc<str>) -> S,
    ) {
        let namespaces: BTreeSet<_> =
            needed.iter().map(|(namespace, _)| (*namespace, None)).collect();
        let mesh = &mut self.mesh;
        mesh.local.retain(|namespace, _| namespaces.contains(&(Some(namespace), None)));
        for (namespace, _) in &namespaces {
            let Some(namespace) = *namespace else { continue };
            if !mesh.local.contains_key(namespace) {
                let parts = mesh.local_parts(namespace, services(namespace));
                mesh.local.insert(namespace.clone(), parts);
            }
        }
        let mesh = &self.mesh;
        let own_tables = |namespace: &str| mesh.own_tables(namespace);
        self.routes.open(&namespaces, own_tables, |_, ()| Vec::new());
        let own_listeners = |namespace: &str| mesh.own_listeners(namespace);
        self.listeners.open(needed, own_listeners, |_, inbound| inbound_listener(inbound));
    }

    /// Puts `service` in the place of what `key` was before; `None` if it is gone.
    /// `addresses` are the cluster IPs that it may claim. Tables and listeners are made anew for
    /// all changed services at once, by [`Self::rebuild`] with what is noted in `touched`.
    pub(super) fn put(
        &mut self,
        key: &ServiceKey,
        service: Option<&Service>,
        addresses: &[IpAddr],
        touched: &mut Touched,
    ) {
        let mesh = &mut self.mesh;
        let before = mesh.by_service.remove(key).unwrap_or_default();
        mesh.visibility.put(key, service.map(|service| &service.export_to));
        let mut after = Footprint::default();

        let parts = service.map(|one| mesh.encode_parts(None, one, addresses)).unwrap_or_default();
        after.tables.extend(parts.keys().cloned());
        replace(&mut mesh.parts, key, &before.tables, parts);
        let is_local = |service: &&Service| {
            let namespace = &service.key.namespace;
            mesh.local.contains_key(namespace) && mesh.visibility.sees(Some(namespace), key)
        };
        let local = service.filter(is_local);
        let parts = local.map(|one| mesh.encode_parts(Some(&key.namespace), one, addresses));
        if let Some(own) = mesh.local.get_mut(&key.namespace) {
            replace(own, key, &before.tables, parts.unwrap_or_default());
        }
        touched.tables.extend(before.tables.iter().chain(&after.tables).cloned());

        for name in &before.listeners {
            if let Some(claims) = mesh.claims.get_mut(name) {
                claims.remove(key);
                if claims.is_empty() {
                    mesh.claims.remove(name);
                }
            }
        }
        for listener in service.into_iter().flat_map(|one| mesh.own_ports(one)).collect::<Vec<_>>()
        {
            after.listeners.insert(listener.name.clone());
            mesh.claims.entry(listener.name.clone()).or_default().insert(key.clone(), listener);
        }
        touched.listeners.extend(before.listeners.iter().chain(&after.listeners).cloned());
        if service.is_some() {
            mesh.by_service.insert(key.clone(), after);
        }
    }

    /// Makes these tables anew from their parts, and the listeners that lead to them, and these
    /// other listeners.
    pub(super) fn rebuild(&mut self, touched: Touched, conflicts: &mut Conflicts) {
        let Touched { tables, mut listeners } = touched;
        listeners.extend(tables.iter().filter_map(|table| self.mesh.note_http_listener(table)));
        let mesh = &self.mesh;
        let changes = tables.into_iter().map(|name| (name.clone(), mesh.public_table(&name)));
        self.routes.apply(
            changes.collect(),
            |namespace, name| mesh.own_table(namespace, name),
            |_, (), _| None,
        );
        let changes = listeners.iter().map(|name| (name.clone(), mesh.winner(None, name)));
        self.listeners.apply(
            changes.collect(),
            |namespace, name| mesh.own_listener(namespace, name),
            // `virtualInbound` is no service's.
            |_, _, _| None,
        );
        for name in listeners {
            self.mesh.note_conflicts(&name, conflicts);
        }
    }

    /// Takes what it noted there back.
    pub(super) fn forget_conflicts(&mut self, conflicts: &mut Conflicts) {
        self.mesh.losers.clear(conflicts);
    }
}

impl Mesh {
    // === tables ===

    fn public_table(&self, name: &Arc<str>) -> Option<Arc<Resource>> {
        let standalone = matches!(self.kind, ProxyKind::Standalone { .. });
        let exists = standalone || self.has_table(None, name);
        exists.then(|| self.table(None, name))
    }

    fn has_table(&self, namespace: Option<&str>, name: &str) -> bool {
        let services = self.parts.get(name).into_iter().flat_map(BTreeMap::keys);
        services.into_iter().any(|key| self.visibility.sees(namespace, key))
    }

    /// Differs from everybody's if some service there has its bare name in this namespace, or is
    /// seen here alone.
    fn own_table(&self, namespace: &str, name: &str) -> Own {
        let local = self.local.get(namespace).is_some_and(|parts| parts.contains_key(name));
        let all = self.parts.get(name);
        let mut seen = self.visibility.seen_by(namespace);
        let differs = local || all.is_some_and(|all| seen.any(|key| all.contains_key(key)));
        differs.then(|| Some(self.table(Some(namespace), &name.into())))
    }

    fn own_tables(&self, namespace: &str) -> Changes {
        let local = self.local.get(namespace).into_iter().flat_map(BTreeMap::keys).cloned();
        let seen = self.visibility.seen_by(namespace);
        let seen = seen.filter_map(|key| self.by_service.get(key)).flat_map(|one| &one.tables);
        let names: BTreeSet<Arc<str>> = local.chain(seen.cloned()).collect();
        let table = |name: Arc<str>| Some((name.clone(), self.own_table(namespace, &name)?));
        names.into_iter().filter_map(table).collect()
    }

    fn table(&self, namespace: Option<&str>, name: &Arc<str>) -> Arc<Resource> {
        let parts = self.parts.get(name).into_iter().flatten();
        let local = namespace.and_then(|namespace| self.local.get(namespace)?.get(name));
        // The skeleton's catch-all stands before the services' virtual hosts; Envoy matches by
        // domain, not by order.
        let mut table = routes::table(&self.kind, name).encode_to_vec();
        for (key, part) in parts.filter(|(key, _)| self.visibility.sees(namespace, key)) {
            table.extend_from_slice(local.and_then(|local| local.get(key)).unwrap_or(part));
        }
        Resource::from_encoded(ResourceType::Route, name.clone(), &table)
    }

    fn local_parts<'a>(
        &self,
        namespace: &str,
        services: impl Iterator<Item = (&'a Arc<Service>, Vec<IpAddr>)>,
    ) -> Parts {
        let mut parts = Parts::new();
        let seen = services.filter(|(one, _)| self.visibility.sees(Some(namespace), &one.key));
        for (service, addresses) in seen {
            for (table, part) in self.encode_parts(Some(namespace), service, &addresses) {
                parts.entry(table).or_default().insert(service.key.clone(), part);
            }
        }
        parts
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

    // === listeners ===

    /// Has the listener that leads to this table exactly while the table has services, whoever
    /// sees them; gives its name.
    fn note_http_listener(&mut self, table: &Arc<str>) -> Option<Arc<str>> {
        let listener = listeners::http_port(&self.kind, table.parse().ok()?)?;
        let name: Arc<str> = listener.name.as_str().into();
        if !self.parts.contains_key(table) {
            self.http.remove(&name);
        } else if !self.http.contains_key(&name) {
            let resource = Resource::new(ResourceType::Listener, name.clone(), &listener);
            self.http.insert(name.clone(), (table.clone(), resource));
        }
        Some(name)
    }

    fn own_ports(&self, service: &Service) -> Vec<Arc<Resource>> {
        let ports = service.ports.iter();
        let listeners =
            ports.flat_map(|port| listeners::of_port(&self.kind, service, port, &self.domain));
        listeners
            .map(|one| Resource::new(ResourceType::Listener, one.name.as_str().into(), &one))
            .collect()
    }

    /// The HTTP listener of this name, if proxies of this namespace (of none) have it.
    fn http_listener(&self, namespace: Option<&str>, name: &str) -> Option<&Arc<Resource>> {
        let (table, resource) = self.http.get(name)?;
        self.has_table(namespace, table).then_some(resource)
    }

    /// Who has this name, among those that proxies of this namespace (of none) see.
    fn winner(&self, namespace: Option<&str>, name: &str) -> Option<Arc<Resource>> {
        let tcp = || {
            let mut claims = self.claims.get(name)?.iter();
            let seen = claims.find(|(key, _)| self.visibility.sees(namespace, key));
            seen.map(|(_, resource)| resource)
        };
        self.http_listener(namespace, name).or_else(tcp).cloned()
    }

    fn own_listener(&self, namespace: &str, name: &str) -> Own {
        let (own, public) = (self.winner(Some(namespace), name), self.winner(None, name));
        (own != public).then_some(own)
    }

    fn own_listeners(&self, namespace: &str) -> Changes {
        let seen = self.visibility.seen_by(namespace);
        let footprints = seen.filter_map(|key| self.by_service.get(key));
        let names = footprints.flat_map(|one| {
            let ports = one.tables.iter().filter_map(|table| table.parse().ok());
            let http = ports.filter_map(|port| listeners::http_port(&self.kind, port));
            one.listeners.iter().cloned().chain(http.map(|listener| listener.name.into()))
        });
        let names: BTreeSet<Arc<str>> = names.collect();
        let listener = |name: Arc<str>| Some((name.clone(), self.own_listener(namespace, &name)?));
        names.into_iter().filter_map(listener).collect()
    }

    /// Among those that everybody sees: a conflict that only a namespace sees is its own affair.
    fn note_conflicts(&mut self, name: &Arc<str>, conflicts: &mut Conflicts) {
        let claims = self.claims.get(name).into_iter().flat_map(BTreeMap::keys);
        let mut tcp = claims.filter(|key| self.visibility.sees(None, key));
        let winner = if self.http_listener(None, name).is_some() { None } else { tcp.next() };
        let losers: Vec<ServiceKey> = tcp.cloned().collect();
        let winner = winner.cloned();
        self.losers.put(name, winner.as_ref(), losers, conflicts);
    }
}

/// The listener in which the layer of these inbound ports differs.
fn inbound_listener(inbound: &InboundPorts) -> Changes {
    let listener = listeners::virtual_inbound(inbound);
    let name: Arc<str> = listener.name.as_str().into();
    let resource = Resource::new(ResourceType::Listener, name.clone(), &listener);
    vec![(name, Some(resource))]
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
