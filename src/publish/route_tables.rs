//! The route tables of one kind of proxy, kept up to date service by service.
//!
//! Each service's virtual hosts are encoded once; a table is its skeleton and those parts in a
//! row. The table of a namespace is made of slices of everybody's row and of what it has of its own, so a
//! thousand namespaces with tables of thousands of services hold one row, and each of them costs what it has
//! of its own. A namespace has tables of its own where its services answer to their bare names, where it
//! sees services that others do not, or where its clients have other rules, and shares all others.
//! What came out the same, for whatever reason it was made anew, leaves its table alone: a change of
//! a route touches the tables of its own Service (`rule_tables`), not that of a thousand services.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pilothouse_xds::{Resource, TypeSet};
use prost::Message;
use prost::encoding::encode_varint;

use super::layers::{ChangedNames, LayeredSets, Override, ResourceChanges};
use super::listeners_and_routes::Mesh;
use super::rule_tables::RuleTables;
use super::ruled_ports::RuledPorts;
use super::visibility::RestrictedServices;
use crate::model::{Service, ServiceKey};
use crate::names::{self, ResourceType};
use crate::translate::http_ports;
use crate::translate::routes::{self, ClusterIpRanges, Rules, is_by_address};
use crate::view::ProxyKind;

/// `RouteConfiguration.virtual_hosts`, field 2, length-delimited.
const VIRTUAL_HOSTS: u8 = 0x12;

/// Encoded virtual hosts by table, then by service.
type VirtualHosts = BTreeMap<Arc<str>, BTreeMap<ServiceKey, Hosts>>;

/// A service's virtual hosts in a table.
#[derive(Debug)]
struct Hosts {
    encoded: Vec<u8>,
    /// Where in the table's row they are, or would be if everybody saw the service.
    in_row: Range<usize>,
}

#[derive(Debug)]
pub(super) struct RouteTables {
    hosts: VirtualHostIndex,
    /// None for the kinds that know no addresses.
    rules: Option<RuleTables>,
    /// Tables have no variants.
    layers: LayeredSets<Arc<str>, ()>,
}

/// What the tables are made of.
#[derive(Debug)]
struct VirtualHostIndex {
    kind: ProxyKind,
    domain: Arc<str>,
    /// Of on-demand sidecars alone.
    cluster_ips: ClusterIpRanges,
    /// As proxies of other namespaces see them.
    public: VirtualHosts,
    /// What everybody sees of that, by table: the services' virtual hosts in a row.
    rows: BTreeMap<Arc<str>, Bytes>,
    /// As proxies of a namespace do, for the namespaces that are open: its own services, and others where that
    /// differs.
    local: BTreeMap<Arc<str>, VirtualHosts>,
    /// The namespaces other than its own in which a service had virtual hosts that differ.
    foreign: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
    /// The tables in which each service has virtual hosts.
    contributions: BTreeMap<ServiceKey, BTreeSet<Arc<str>>>,
}

impl RouteTables {
    pub(super) fn new(kind: ProxyKind, domain: Arc<str>, mesh: Mesh<'_>) -> Self {
        let is_standalone = matches!(kind, ProxyKind::Standalone { .. });
        let rules = kind.is_captured().then(|| RuleTables::new(kind.clone(), domain.clone()));
        let hosts = VirtualHostIndex {
            kind,
            domain,
            cluster_ips: ClusterIpRanges::default(),
            public: VirtualHosts::new(),
            rows: BTreeMap::new(),
            local: BTreeMap::new(),
            foreign: BTreeMap::new(),
            contributions: BTreeMap::new(),
        };
        let mut tables = Self { hosts, rules, layers: LayeredSets::new(Arc::default()) };
        if is_standalone {
            // Its only table exists even where no service does, because its listener does.
            let mut only = ChangedNames::default();
            only.everywhere.insert(names::STANDALONE_TABLE.into());
            let (kind, restricted) = (&tables.hosts.kind, mesh.restricted());
            let ruled = RuledPorts::new(kind.clone());
            tables.rebuild(&only, Behind { ruled: &ruled, restricted });
        }
        tables
    }

    /// Makes the virtual hosts of these services, and the tables that have or had them; gives those
    /// tables. `redefined`: those of them that differ in more than their rules.
    pub(super) fn update<'a>(
        &mut self,
        changed: impl IntoIterator<Item = &'a ServiceKey>,
        redefined: impl Fn(&ServiceKey) -> bool,
        ruled: &RuledPorts,
        mesh: Mesh<'_>,
    ) -> ChangedNames {
        let mut tables = ChangedNames::default();
        if self.hosts.take_cluster_ips(mesh) {
            tables.everywhere.extend(self.hosts.public.keys().cloned());
        }
        for key in changed {
            self.hosts.update(key, mesh, redefined(key), &mut tables);
            if let Some(rules) = &mut self.rules {
                rules.update(key, mesh, redefined(key), &mut tables);
            }
        }
        self.rebuild(&tables, Behind { ruled, restricted: mesh.restricted() });
        tables
    }

    fn rebuild(&mut self, tables: &ChangedNames, behind: Behind<'_>) {
        let Self { hosts, rules, layers } = self;
        tables.everywhere.iter().for_each(|name| hosts.lay_out(name, behind.restricted));
        let (hosts, rules) = (&*hosts, rules.as_ref());
        let own = |name: &str| rules.filter(|rules| rules.has(name));
        let public = |name: &Arc<str>| match own(name) {
            Some(rules) => rules.public(name, behind.restricted),
            None => hosts.public_table(name, behind),
        };
        let in_namespace = |namespace: &Arc<str>, name: &str| match own(name) {
            Some(rules) => rules.table_override(namespace, name, behind.restricted),
            None => hosts.table_override(namespace, name, behind),
        };
        let changes = tables.everywhere.iter().map(|name| (name.clone(), public(name)));
        layers.apply_changes(changes.collect(), in_namespace, |_, (), _| Override::Inherit);
        for (namespace, names) in tables.in_namespaces_alone() {
            layers.apply_changes_in(namespace, &names, in_namespace, |_, (), _| Override::Inherit);
        }
    }

    /// Makes what this namespace has of its own, where it is not there.
    pub(super) fn open(
        &mut self,
        namespace: Option<&Arc<str>>,
        ruled: &RuledPorts,
        mesh: Mesh<'_>,
    ) {
        if let Some(namespace) = namespace {
            self.hosts.open(namespace, mesh);
        }
        let Self { hosts, rules, layers } = self;
        let behind = Behind { ruled, restricted: mesh.restricted() };
        let overrides = |namespace: &Arc<str>| {
            let mut overrides = hosts.table_overrides(namespace, behind);
            if let Some(rules) = rules {
                let visible = behind.restricted.visible_in(namespace);
                let own = visible.chain(mesh.routes.consumed_in(namespace));
                let names: BTreeSet<_> = own.flat_map(|key| rules.names(key)).cloned().collect();
                overrides.extend(names.into_iter().filter_map(|name| {
                    rules.table_override(namespace, &name, behind.restricted).into_change(name)
                }));
            }
            overrides
        };
        layers.open(namespace, None, overrides, |_, ()| ResourceChanges::new());
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

/// What decides how a table looks beside the virtual hosts: the rules of all services in it, and who sees whom.
#[derive(Clone, Copy)]
struct Behind<'a> {
    ruled: &'a RuledPorts,
    restricted: &'a RestrictedServices,
}

impl VirtualHostIndex {
    /// Takes in where the cluster IPs are now, if the tables depend on that; whether it is news.
    fn take_cluster_ips(&mut self, mesh: Mesh<'_>) -> bool {
        if self.kind != ProxyKind::OnDemandSidecar {
            return false;
        }
        let now = mesh.services.cluster_ip_ranges();
        std::mem::replace(&mut self.cluster_ips, now) != self.cluster_ips
    }

    /// Adds to `tables` those in which virtual hosts of the service changed; all that have or had some if it is
    /// `redefined`, since it may be seen by others than before.
    fn update(
        &mut self,
        key: &ServiceKey,
        mesh: Mesh<'_>,
        redefined: bool,
        tables: &mut ChangedNames,
    ) {
        let service = mesh.services.resolved(key);
        let before = self.contributions.remove(key).unwrap_or_default();
        let hosts = service.map(|one| self.encode(None, one, mesh)).unwrap_or_default();
        let after: BTreeSet<_> = hosts.keys().cloned().collect();
        let changed = replace(&mut self.public, key, &before, hosts);
        if redefined {
            tables.everywhere.extend(before.iter().chain(&after).cloned());
        } else {
            tables.everywhere.extend(changed);
        }

        let mut namespaces = self.foreign.remove(key).unwrap_or_default();
        namespaces.insert(key.namespace.clone());
        namespaces.extend(service.into_iter().flat_map(|one| mesh.consumers(one)).cloned());
        for namespace in namespaces {
            if !self.local.contains_key(&namespace) {
                continue;
            }
            let hosts = self.local_hosts(&namespace, key, mesh);
            if namespace != key.namespace && !hosts.is_empty() {
                self.foreign.entry(key.clone()).or_default().insert(namespace.clone());
            }
            if let Some(own) = self.local.get_mut(&namespace) {
                tables.in_namespace(&namespace, replace(own, key, &before, hosts));
            }
        }
        if !after.is_empty() {
            self.contributions.insert(key.clone(), after);
        }
    }

    /// The virtual hosts of a service in which this namespace has others than everybody: all of its own services,
    /// which answer to their bare names, and of others those with rules of its clients.
    fn local_hosts(
        &self,
        namespace: &Arc<str>,
        key: &ServiceKey,
        mesh: Mesh<'_>,
    ) -> BTreeMap<Arc<str>, Vec<u8>> {
        let is_visible = mesh.restricted().is_visible(Some(namespace), key);
        let service = mesh.services.resolved(key).filter(|_| is_visible);
        let Some(service) = service else { return BTreeMap::new() };
        let mut hosts = self.encode(Some(namespace), service, mesh);
        // A plain service of an on-demand sidecar has no names at all, in its own namespace neither.
        if *namespace != key.namespace || self.kind == ProxyKind::OnDemandSidecar {
            let public = |table: &Arc<str>| Some(&self.public.get(table)?.get(key)?.encoded);
            hosts.retain(|table, own| public(table) != Some(own));
        }
        hosts
    }

    fn open(&mut self, namespace: &Arc<str>, mesh: Mesh<'_>) {
        if self.local.contains_key(namespace) {
            return;
        }
        let own = mesh.services.resolved_in(namespace).map(|service| service.key.clone());
        let mut keys: BTreeSet<ServiceKey> = mesh.routes.consumed_in(namespace).cloned().collect();
        if !keys.is_empty() {
            keys.extend(mesh.services.aliases_of(&keys));
        }
        keys.extend(own);
        let mut local = VirtualHosts::new();
        for key in keys {
            let hosts = self.local_hosts(namespace, &key, mesh);
            if *namespace != key.namespace && !hosts.is_empty() {
                self.foreign.entry(key.clone()).or_default().insert(namespace.clone());
            }
            for (table, hosts) in hosts {
                local.entry(table).or_default().insert(key.clone(), Hosts::new(hosts));
            }
        }
        self.local.insert(namespace.clone(), local);
    }

    /// A service's virtual hosts by table, as proxies of this namespace (of others) see them.
    fn encode(
        &self,
        namespace: Option<&str>,
        service: &Service,
        mesh: Mesh<'_>,
    ) -> BTreeMap<Arc<str>, Vec<u8>> {
        let addresses = mesh.services.owned_addresses(service);
        let (by_port, target) = mesh.rules_for(namespace, service);
        let (kind, domain) = (&self.kind, &self.domain);
        let is_plain = by_port.is_none() && !addresses.is_empty() && is_by_address(service);
        if *kind == ProxyKind::OnDemandSidecar && is_plain {
            // It counts among the services of the table, without a byte there.
            let tables = http_ports(kind, service).map(names::route_table);
            return tables.map(|table| (table.into(), Vec::new())).collect();
        }
        let rules = match by_port {
            Some(by_port) => Rules { by_port, addresses: &mesh.services.owned_addresses(target) },
            None => Rules::NONE,
        };
        let hosts = routes::virtual_hosts(kind, namespace, service, &addresses, rules, domain);
        let mut encoded: BTreeMap<Arc<str>, Vec<u8>> = BTreeMap::new();
        for (table, host) in hosts {
            let part = encoded.entry(table.into()).or_default();
            part.push(VIRTUAL_HOSTS);
            encode_varint(host.encoded_len() as u64, part);
            part.extend_from_slice(&host.encode_to_vec());
        }
        encoded
    }

    fn public_table(&self, name: &Arc<str>, behind: Behind<'_>) -> Option<Arc<Resource>> {
        let standalone = matches!(self.kind, ProxyKind::Standalone { .. });
        let exists = standalone || self.is_visible(None, name, behind.restricted);
        exists.then(|| self.table(None, name, behind))
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

    /// Differs from everybody's if some service there has its bare name or other rules in this namespace, or is
    /// seen here alone.
    fn table_override(&self, namespace: &str, name: &str, behind: Behind<'_>) -> Override {
        let local = self.local.get(namespace).is_some_and(|hosts| hosts.contains_key(name));
        let public = self.public.get(name);
        let mut visible = behind.restricted.visible_in(namespace);
        if local || public.is_some_and(|hosts| visible.any(|key| hosts.contains_key(key))) {
            Override::Replace(self.table(Some(namespace), &name.into(), behind))
        } else {
            Override::Inherit
        }
    }

    fn table_overrides(&self, namespace: &str, behind: Behind<'_>) -> ResourceChanges {
        let local = self.local.get(namespace).into_iter().flat_map(BTreeMap::keys);
        let visible = behind.restricted.visible_in(namespace);
        let visible = visible.filter_map(|key| self.contributions.get(key)).flatten();
        let names: BTreeSet<Arc<str>> = local.chain(visible).cloned().collect();
        let table =
            |name: Arc<str>| self.table_override(namespace, &name, behind).into_change(name);
        names.into_iter().filter_map(table).collect()
    }

    fn table(&self, namespace: Option<&str>, name: &Arc<str>, behind: Behind<'_>) -> Arc<Resource> {
        let Behind { ruled, restricted } = behind;
        let parts = self.parts(namespace, name, restricted);
        let rules = name.parse().map(|port| ruled.of_listener(namespace, port, restricted));
        let by_destination = rules.is_ok_and(|rules| rules.by_address.is_some());
        // The skeleton's catch-all stands before the services' virtual hosts; Envoy matches by
        // domain, not by order.
        let skeleton =
            routes::table_without_services(&self.kind, name, by_destination, &self.cluster_ips);
        let skeleton = Bytes::from(skeleton.encode_to_vec());
        let parts = [skeleton].into_iter().chain(parts).collect();
        Resource::from_parts(ResourceType::Route, name.clone(), parts)
    }

    /// Makes the row of a table anew, after its public virtual hosts, or who sees them, changed.
    fn lay_out(&mut self, table: &Arc<str>, restricted: &RestrictedServices) {
        let Some(public) = self.public.get_mut(table) else {
            self.rows.remove(table);
            return;
        };
        let mut len = 0;
        for (key, hosts) in public.iter_mut() {
            let seen = if restricted.is_visible(None, key) { hosts.encoded.len() } else { 0 };
            hosts.in_row = len..len + seen;
            len += seen;
        }
        let mut row = Vec::with_capacity(len);
        let seen = public.values().filter(|hosts| !hosts.in_row.is_empty());
        seen.for_each(|hosts| row.extend_from_slice(&hosts.encoded));
        self.rows.insert(table.clone(), row.into());
    }

    /// The virtual hosts that proxies of this namespace (of none) see in a table, by service: slices of the
    /// row that everybody has, and between them what is the namespace's own. Costs what that is.
    fn parts(
        &self,
        namespace: Option<&str>,
        table: &str,
        restricted: &RestrictedServices,
    ) -> Vec<Bytes> {
        let (Some(public), Some(row)) = (self.public.get(table), self.rows.get(table)) else {
            return Vec::new();
        };
        let Some(namespace) = namespace else { return vec![row.clone()] };
        let local = self.local.get(namespace).and_then(|local| local.get(table));
        // A service that has local virtual hosts is visible, and has public ones too. In a mesh of one namespace
        // all are local, and to look each of them up costs a fifth of what a new service costs.
        if let Some(local) = local.filter(|local| local.len() == public.len()) {
            let all: Vec<&[u8]> = local.values().map(|hosts| &*hosts.encoded).collect();
            return vec![all.concat().into()];
        }
        let seen = restricted.visible_in(namespace);
        let seen = seen.filter_map(|key| Some((key, public.get(key)?)));
        let mut own: BTreeMap<&ServiceKey, &Hosts> = seen.collect();
        own.extend(local.into_iter().flatten());
        let (mut parts, mut taken, mut gap) = (Vec::new(), 0, Vec::new());
        for (key, hosts) in own {
            let Some(Hosts { in_row, .. }) = public.get(key) else { continue };
            if taken < in_row.start {
                parts.push(std::mem::take(&mut gap).into());
                parts.push(row.slice(taken..in_row.start));
            }
            gap.extend_from_slice(&hosts.encoded);
            taken = in_row.end;
        }
        parts.extend([gap.into(), row.slice(taken..)]);
        parts
    }
}

impl Hosts {
    /// Not in a row yet.
    fn new(encoded: Vec<u8>) -> Self {
        Self { encoded, in_row: 0..0 }
    }
}

/// Puts a service's virtual hosts in the place of those that it had in the tables `before`; gives the tables in
/// which they differ.
fn replace(
    all: &mut VirtualHosts,
    key: &ServiceKey,
    before: &BTreeSet<Arc<str>>,
    hosts: BTreeMap<Arc<str>, Vec<u8>>,
) -> Vec<Arc<str>> {
    let mut changed = Vec::new();
    for table in before.iter().filter(|table| !hosts.contains_key(*table)) {
        if let Some(services) = all.get_mut(table) {
            if services.remove(key).is_some() {
                changed.push(table.clone());
            }
            if services.is_empty() {
                all.remove(table);
            }
        }
    }
    for (table, encoded) in hosts {
        let services = all.entry(table.clone()).or_default();
        if services.get(key).is_none_or(|old| old.encoded != encoded) {
            services.insert(key.clone(), Hosts::new(encoded));
            changed.push(table);
        }
    }
    changed
}
