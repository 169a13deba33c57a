//! The mesh as encoded sets, kept up to date service by service.
//!
//! [`Builder::update`] takes the services that a change touched and does work for those alone;
//! [`Builder::snapshot`] puts the sets together for the views that are needed. No async, no time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::aliases::Aliases;
use super::kinds::KindState;
use crate::model::{Model, Service, ServiceKey};
use crate::names::ResourceType;
use crate::snapshot::{Resource, Snapshot, TypeSet, View};
use crate::translate::{clusters, endpoints, listeners};
use crate::view::{ProxyKind, ViewKey};

/// One service's clusters, and the service as it was when they were made.
#[derive(Debug)]
struct Known {
    /// As the model has it; the same allocation as long as it has not changed.
    source: Arc<Service>,
    /// With its alias followed, if it is one.
    service: Arc<Service>,
    clusters: Vec<Arc<str>>,
}

/// Everything that snapshots are made of.
#[derive(Debug)]
pub struct Builder {
    domain: Arc<str>,
    generation: u64,
    clusters: Arc<TypeSet>,
    endpoints: Arc<TypeSet>,
    known: BTreeMap<ServiceKey, Known>,
    aliases: Aliases,
    /// Who claims an address: two virtual hosts with one domain would make Envoy reject the table
    /// that holds them, so the first by key has it.
    addresses: BTreeMap<IpAddr, BTreeSet<ServiceKey>>,
    /// Clusters without a service. Routes to them go first, they follow with [`Self::bury`], so
    /// that no request is on its way to a cluster that is not there (make before break).
    /// With the generation of the first snapshot that has no routes to them.
    dying: BTreeMap<Arc<str>, u64>,
    kinds: BTreeMap<ProxyKind, KindState>,
    /// The listeners of standalone proxies, by where they listen.
    standalone: BTreeMap<ProxyKind, Arc<TypeSet>>,
}

impl Builder {
    /// `domain` is the cluster's DNS domain, usually `cluster.local`.
    pub fn new(domain: &str) -> Self {
        let nothing = Arc::new(TypeSet::default());
        let fixed = clusters::fixed().into_iter().map(|cluster| {
            let name: Arc<str> = cluster.name.as_str().into();
            (name.clone(), Some(Resource::new(ResourceType::Cluster, name, &cluster)))
        });
        Self {
            domain: domain.into(),
            generation: 0,
            clusters: nothing.with(fixed),
            endpoints: nothing,
            known: BTreeMap::new(),
            aliases: Aliases::default(),
            addresses: BTreeMap::new(),
            dying: BTreeMap::new(),
            kinds: BTreeMap::new(),
            standalone: BTreeMap::new(),
        }
    }

    /// Brings everything up to date for the services in `dirty`, from the model as it is now.
    pub fn update(&mut self, model: &Model, dirty: &BTreeSet<ServiceKey>) {
        let mut cluster_changes = Vec::new();
        let mut endpoint_changes = Vec::new();
        // Services whose listeners and routes may differ: changed ones, and those that win or
        // lose an address by it.
        let mut reroute = BTreeSet::new();
        let changed: BTreeSet<_> =
            dirty.iter().filter(|key| self.has_changed(model, key)).cloned().collect();
        let aliases = self.aliases.follow(model, &changed, &self.domain);
        for key in dirty.union(&aliases) {
            let source = model.service(key);
            let before = self.known.remove(key);
            if before.is_none() && source.is_none() {
                continue;
            }
            let is_new = changed.contains(key) || aliases.contains(key);
            let service = match &before {
                Some(before) if !is_new => Some(before.service.clone()),
                _ => model.resolved(key, &self.domain),
            };
            if is_new {
                reroute.insert(key.clone());
                let old = before.as_ref().map(|before| before.service.cluster_ips());
                let new = service.as_ref().map(|service| service.cluster_ips());
                self.claim(key, old.unwrap_or_default(), new.unwrap_or_default(), &mut reroute);
            }
            let mut names = match &before {
                Some(before) if !is_new => before.clusters.clone(),
                _ => Vec::new(),
            };
            if let Some(service) = &service {
                if is_new {
                    for cluster in clusters::of_service(service, &self.domain) {
                        let name: Arc<str> = cluster.name.as_str().into();
                        let resource = Resource::new(ResourceType::Cluster, name.clone(), &cluster);
                        cluster_changes.push((name.clone(), Some(resource)));
                        self.dying.remove(&name);
                        names.push(name);
                    }
                }
                let slices = model.slices(key).map(|slice| &**slice);
                let mut assignments =
                    endpoints::of_service(service, slices, &self.domain).into_iter();
                for name in &names {
                    // None for a cluster that finds its endpoints by DNS; there may have been one
                    // when it was another service's.
                    let assignment = assignments.next().map(|assignment| {
                        Resource::new(ResourceType::Endpoint, name.clone(), &assignment)
                    });
                    endpoint_changes.push((name.clone(), assignment));
                }
            }
            for name in before.into_iter().flat_map(|before| before.clusters) {
                if !names.contains(&name) {
                    self.dying.insert(name, self.generation + 1);
                }
            }
            if let (Some(source), Some(service)) = (source, service) {
                let known = Known { source: source.clone(), service, clusters: names };
                self.known.insert(key.clone(), known);
            }
        }
        self.clusters = self.clusters.with(cluster_changes);
        self.endpoints = self.endpoints.with(endpoint_changes);
        self.reroute(&reroute);
    }

    fn has_changed(&self, model: &Model, key: &ServiceKey) -> bool {
        match (self.known.get(key), model.service(key)) {
            (Some(before), Some(now)) => !Arc::ptr_eq(&before.source, now),
            (None, None) => false,
            _ => true,
        }
    }

    /// Some clusters lost their routes with the snapshot of this generation and wait for
    /// [`Self::bury`].
    pub fn has_dying(&self, generation: u64) -> bool {
        self.dying.values().any(|since| *since == generation)
    }

    /// Takes the clusters away that lost their routes with this generation's snapshot or before.
    pub fn bury(&mut self, generation: u64) {
        let due = self.dying.extract_if(.., |_, since| *since <= generation);
        let gone: Vec<_> = due.map(|(name, _)| (name, None)).collect();
        self.clusters = self.clusters.with(gone.clone());
        self.endpoints = self.endpoints.with(gone);
    }

    /// A snapshot with the views that are needed; what no view needs any more is forgotten.
    pub fn snapshot(&mut self, needed: &BTreeSet<ViewKey>) -> Snapshot {
        let mut namespaces: BTreeMap<ProxyKind, BTreeSet<&Arc<str>>> = BTreeMap::new();
        for key in needed {
            let of_kind = namespaces.entry(table_kind(&key.kind)).or_default();
            of_kind.extend(&key.namespace);
        }
        self.kinds.retain(|kind, _| namespaces.contains_key(kind));
        for (kind, namespaces) in namespaces {
            self.open(kind, &namespaces);
        }
        self.generation += 1;
        self.standalone.retain(|kind, _| needed.iter().any(|key| key.kind == *kind));
        for key in needed {
            if matches!(key.kind, ProxyKind::Standalone { .. }) {
                let listeners = || listener_set(&key.kind);
                self.standalone.entry(key.kind.clone()).or_insert_with(listeners);
            }
        }
        let views = needed.iter().filter_map(|key| Some((key.clone(), self.view(key)?)));
        Snapshot {
            generation: self.generation,
            since: None,
            views: views.collect::<HashMap<_, _>>(),
        }
    }

    /// TCP listeners that a service does not get because another one has their name.
    pub fn conflicts(&self) -> usize {
        self.kinds.values().map(|kind| kind.conflicts().count()).sum()
    }

    fn view(&self, key: &ViewKey) -> Option<Arc<View>> {
        let kind = self.kinds.get(&table_kind(&key.kind))?;
        let own = self.standalone.get(&key.kind);
        let listeners = own.unwrap_or_else(|| kind.listeners()).clone();
        let routes = kind.routes(key.namespace.as_deref()).clone();
        let sets = [self.clusters.clone(), self.endpoints.clone(), listeners, routes];
        Some(Arc::new(View::new(sets)))
    }

    fn open(&mut self, kind: ProxyKind, namespaces: &BTreeSet<&Arc<str>>) {
        let (known, claims) = (&self.known, &self.addresses);
        let state = self.kinds.entry(kind.clone()).or_insert_with(|| {
            let mut state = KindState::new(kind, self.domain.clone());
            let mut tables = BTreeSet::new();
            for (key, one) in known {
                let addresses = claimed(claims, &one.service);
                state.put(key, Some(&one.service), &addresses, &mut tables);
            }
            state.rebuild(tables);
            state
        });
        state.keep_namespaces(|namespace| namespaces.iter().any(|own| ***own == *namespace));
        for namespace in namespaces {
            let first = ServiceKey { namespace: (*namespace).clone(), name: "".into() };
            let own = known.range(first..).map(|(_, one)| &one.service);
            let own = own.take_while(|service| service.key.namespace == **namespace);
            let own = own.map(|service| (service, claimed(claims, service)));
            state.open_namespace(namespace, own);
        }
    }

    fn reroute(&mut self, services: &BTreeSet<ServiceKey>) {
        if services.is_empty() {
            return;
        }
        for kind in self.kinds.values_mut() {
            let mut tables = BTreeSet::new();
            for key in services {
                let service = self.known.get(key).map(|known| &*known.service);
                let addresses = service.map(|one| claimed(&self.addresses, one));
                kind.put(key, service, &addresses.unwrap_or_default(), &mut tables);
            }
            kind.rebuild(tables);
        }
    }

    /// Moves a service's claims; whoever wins or loses an address by it is added to `reroute`.
    fn claim(
        &mut self,
        key: &ServiceKey,
        old: &[IpAddr],
        new: &[IpAddr],
        reroute: &mut BTreeSet<ServiceKey>,
    ) {
        for address in old.iter().chain(new).collect::<BTreeSet<_>>() {
            let claims = self.addresses.entry(*address).or_default();
            let before = claims.first().cloned();
            if new.contains(address) {
                claims.insert(key.clone());
            } else {
                claims.remove(key);
            }
            let after = claims.first().cloned();
            if claims.is_empty() {
                self.addresses.remove(address);
            }
            if before != after {
                reroute.extend(before.into_iter().chain(after));
            }
        }
    }
}

/// Standalone proxies differ in the address they listen on, not in their table; the port does
/// matter, because a Host without a port means the port that was connected to.
fn table_kind(kind: &ProxyKind) -> ProxyKind {
    match *kind {
        ProxyKind::Standalone { port, .. } => {
            ProxyKind::Standalone { address: Ipv4Addr::UNSPECIFIED.into(), port }
        }
        ref other => other.clone(),
    }
}

pub(super) fn listener_set(kind: &ProxyKind) -> Arc<TypeSet> {
    let fixed = listeners::fixed(kind).into_iter().map(|listener| {
        let name: Arc<str> = listener.name.as_str().into();
        (name.clone(), Some(Resource::new(ResourceType::Listener, name, &listener)))
    });
    Arc::new(TypeSet::default()).with(fixed)
}

/// The service's addresses that no other service claims before it.
fn claimed(claims: &BTreeMap<IpAddr, BTreeSet<ServiceKey>>, service: &Service) -> Vec<IpAddr> {
    let first = |address: &IpAddr| claims.get(address).and_then(BTreeSet::first);
    let own = |address: &IpAddr| first(address).is_none_or(|key| *key == service.key);
    service.cluster_ips().iter().copied().filter(own).collect()
}
