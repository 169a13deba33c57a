//! The mesh as encoded sets, kept up to date service by service.
//!
//! [`Builder::update`] takes the services that a change touched and does work for those alone;
//! [`Builder::snapshot`] puts the sets together for the views that are needed. No async, no time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::aliases::Aliases;
use super::kinds::{KindState, Touched};
use super::layers::{Changes, Layers, Own};
use crate::model::{ExportTo, Model, Service, ServiceKey, SlicesOfService};
use crate::names::ResourceType;
use crate::snapshot::{Conflicts, Resource, Snapshot, TypeSet, View};
use crate::translate::{clusters, listeners};
use crate::view::{InboundPort, InboundPorts, ProxyKind, ViewKey};

mod zones;

use zones::{Spot, Zones};

/// One service's clusters, and the service as it was when they were made.
#[derive(Debug)]
struct Known {
    /// As the model has it; the same allocation as long as it has not changed.
    source: Arc<Service>,
    /// With its alias followed, if it is one.
    service: Arc<Service>,
    /// As they were when its endpoints were made last.
    slices: SlicesOfService,
    clusters: Vec<Arc<str>>,
}

/// Resources that not everybody sees, by name, with who does.
type Hidden = BTreeMap<Arc<str>, (ExportTo, Arc<Resource>)>;

/// Everything that snapshots are made of.
#[derive(Debug)]
pub struct Builder {
    domain: Arc<str>,
    generation: u64,
    clusters: Layers<InboundPorts>,
    hidden_clusters: Hidden,
    endpoints: Layers<Vec<Spot>>,
    hidden_endpoints: Hidden,
    zones: Zones,
    /// The clusters of inbound ports, made once each.
    inbound: BTreeMap<InboundPort, Arc<Resource>>,
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
    pub(super) conflicts: Conflicts,
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
            clusters: Layers::new(nothing.with(fixed)),
            hidden_clusters: Hidden::new(),
            endpoints: Layers::new(nothing),
            hidden_endpoints: Hidden::new(),
            zones: Zones::default(),
            inbound: BTreeMap::new(),
            known: BTreeMap::new(),
            aliases: Aliases::default(),
            addresses: BTreeMap::new(),
            dying: BTreeMap::new(),
            kinds: BTreeMap::new(),
            standalone: BTreeMap::new(),
            conflicts: Conflicts::new(),
        }
    }

    /// Brings everything up to date for the services in `dirty`, from the model as it is now.
    pub fn update(&mut self, model: &Model, dirty: &BTreeSet<ServiceKey>) {
        let mut cluster_changes = Vec::new();
        let mut endpoint_changes = Vec::new();
        if self.zones.regions != *model.regions() {
            self.zones.regions = model.regions().clone();
        }
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
            if let Some(service) = service.as_ref().filter(|_| is_new) {
                for cluster in clusters::of_service(service, &self.domain) {
                    let name: Arc<str> = cluster.name.as_str().into();
                    let resource = Resource::new(ResourceType::Cluster, name.clone(), &cluster);
                    let hidden = &mut self.hidden_clusters;
                    cluster_changes.push(place(hidden, &service.export_to, name.clone(), resource));
                    self.dying.remove(&name);
                    names.push(name);
                }
            }
            if let (Some(source), Some(service)) = (source, service) {
                let slices = model.slices_of(key);
                let assignments = self.assignments(&service, &slices, None);
                if assignments.is_empty() {
                    // Found by DNS; there may be some of when the names were another kind's.
                    for name in &names {
                        self.hidden_endpoints.remove(name);
                        endpoint_changes.push((name.clone(), None));
                    }
                }
                let export_to = service.export_to.clone();
                let source = source.clone();
                let known = Known { source, service, slices, clusters: names.clone() };
                self.note_places(&known, &assignments);
                self.known.insert(key.clone(), known);
                let hidden = &mut self.hidden_endpoints;
                let placed = assignments
                    .into_iter()
                    .map(|one| place(hidden, &export_to, one.name.clone(), one));
                endpoint_changes.extend(placed);
            } else {
                self.zones.aware.remove(key);
            }
            for name in before.into_iter().flat_map(|before| before.clusters) {
                if !names.contains(&name) {
                    self.dying.insert(name, self.generation + 1);
                }
            }
        }
        self.apply(cluster_changes, endpoint_changes);
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
        let gone: Changes = due.map(|(name, _)| (name, None)).collect();
        for (name, _) in &gone {
            self.hidden_clusters.remove(name);
            self.hidden_endpoints.remove(name);
            self.zones.own.values_mut().for_each(|zone| _ = zone.remove(name));
        }
        self.apply(gone.clone(), gone);
    }

    fn apply(&mut self, clusters: Changes, endpoints: Changes) {
        let hidden = &self.hidden_clusters;
        // The layers of inbound ports have names that no service's cluster has.
        self.clusters.apply(
            clusters,
            |namespace, name| seen(hidden, Some(namespace), name),
            |_, _, _| None,
        );
        let (hidden, zones) = (&self.hidden_endpoints, &self.zones.own);
        self.endpoints.apply(
            endpoints,
            |namespace, name| seen(hidden, Some(namespace), name),
            |namespace, spots, name| {
                spots.iter().find_map(|spot| seen(zones.get(spot)?, namespace, name))
            },
        );
    }

    /// A snapshot with the views that are needed; what no view needs any more is forgotten.
    pub fn snapshot(&mut self, needed: &BTreeSet<ViewKey>) -> Snapshot {
        self.open_places(needed);
        self.open_clusters_and_endpoints(needed);
        let mut kinds: BTreeMap<ProxyKind, BTreeSet<_>> = BTreeMap::new();
        for key in needed {
            let variants = kinds.entry(table_kind(&key.kind)).or_default();
            variants.insert((key.namespace.as_ref(), inbound_of(key)));
        }
        let idle = self.kinds.extract_if(.., |kind, _| !kinds.contains_key(kind));
        for (_, mut state) in idle {
            state.forget_conflicts(&mut self.conflicts);
        }
        for (kind, variants) in &kinds {
            self.open(kind, variants);
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
            conflicts: self.conflicts.clone(),
        }
    }

    fn view(&self, key: &ViewKey) -> Option<Arc<View>> {
        let kind = self.kinds.get(&table_kind(&key.kind))?;
        let namespace = key.namespace.as_ref();
        let own = self.standalone.get(&key.kind);
        let listeners = own.unwrap_or_else(|| kind.listeners(namespace, inbound_of(key)));
        let spots = Some(Spot::all_of(key)).filter(|spots| !spots.is_empty());
        let sets = [
            self.clusters.get(namespace, inbound_of(key)),
            self.endpoints.get(namespace, spots.as_ref()),
            listeners,
            kind.routes(namespace),
        ];
        Some(Arc::new(View::new(sets.map(Arc::clone))))
    }

    fn open_clusters_and_endpoints(&mut self, needed: &BTreeSet<ViewKey>) {
        let ports: BTreeSet<_> =
            needed.iter().flat_map(|key| key.inbound.iter().copied()).collect();
        self.inbound.retain(|port, _| ports.contains(port));
        for port in ports {
            self.inbound.entry(port).or_insert_with(|| {
                let cluster = clusters::inbound(&port);
                let name = cluster.name.as_str().into();
                Resource::new(ResourceType::Cluster, name, &cluster)
            });
        }
        let own = |_: Option<&str>, inbound: &InboundPorts| {
            let clusters = inbound.iter().filter_map(|port| self.inbound.get(port));
            clusters.map(|one| (one.name.clone(), Some(one.clone()))).collect()
        };
        let variants = needed.iter().map(|key| (key.namespace.as_ref(), inbound_of(key)));
        let hidden = &self.hidden_clusters;
        self.clusters.open(&variants.collect(), |namespace| all_seen(hidden, Some(namespace)), own);
        let placed = needed.iter().map(|key| (key.namespace.as_ref(), Spot::all_of(key)));
        let placed: BTreeSet<_> = placed.collect();
        let variants = placed
            .iter()
            .map(|(namespace, spots)| (*namespace, Some(spots).filter(|spots| !spots.is_empty())));
        let (hidden, zones) = (&self.hidden_endpoints, &self.zones.own);
        self.endpoints.open(
            &variants.collect(),
            |namespace| all_seen(hidden, Some(namespace)),
            |namespace, spots| {
                let own = spots.iter().filter_map(|spot| zones.get(spot));
                own.flat_map(|own| all_seen(own, namespace)).collect()
            },
        );
    }

    fn open(
        &mut self,
        kind: &ProxyKind,
        variants: &BTreeSet<(Option<&Arc<str>>, Option<&InboundPorts>)>,
    ) {
        let (known, claims) = (&self.known, &self.addresses);
        let conflicts = &mut self.conflicts;
        let state = self.kinds.entry(kind.clone()).or_insert_with(|| {
            let mut state = KindState::new(kind.clone(), self.domain.clone(), conflicts);
            let mut touched = Touched::default();
            for (key, one) in known {
                let addresses = claimed(claims, &one.service);
                state.put(key, Some(&one.service), &addresses, &mut touched);
            }
            state.rebuild(touched, conflicts);
            state
        });
        state.open(variants, |namespace| {
            let first = ServiceKey { namespace: namespace.clone(), name: "".into() };
            let own = known.range(first..).map(|(_, one)| &one.service);
            let namespace = namespace.clone();
            let own = own.take_while(move |service| service.key.namespace == namespace);
            own.map(|service| (service, claimed(claims, service)))
        });
    }

    fn reroute(&mut self, services: &BTreeSet<ServiceKey>) {
        if services.is_empty() {
            return;
        }
        for kind in self.kinds.values_mut() {
            let mut touched = Touched::default();
            for key in services {
                let service = self.known.get(key).map(|known| &*known.service);
                let addresses = service.map(|one| claimed(&self.addresses, one));
                kind.put(key, service, &addresses.unwrap_or_default(), &mut touched);
            }
            kind.rebuild(touched, &mut self.conflicts);
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

/// The inbound ports as a variant: having none is none.
fn inbound_of(key: &ViewKey) -> Option<&InboundPorts> {
    Some(&key.inbound).filter(|ports| !ports.is_empty())
}

/// Puts a resource where those go who see it: what is not for everybody is hidden, and for
/// everybody there is nothing.
fn place(
    hidden: &mut Hidden,
    export_to: &ExportTo,
    name: Arc<str>,
    resource: Arc<Resource>,
) -> (Arc<str>, Option<Arc<Resource>>) {
    match export_to {
        ExportTo::Everyone => {
            hidden.remove(&name);
            (name, Some(resource))
        }
        ExportTo::Only(_) => {
            hidden.insert(name.clone(), (export_to.clone(), resource));
            (name, None)
        }
    }
}

fn seen(hidden: &Hidden, namespace: Option<&str>, name: &str) -> Own {
    let (export_to, resource) = hidden.get(name)?;
    export_to.reaches(namespace).then(|| Some(resource.clone()))
}

fn all_seen(hidden: &Hidden, namespace: Option<&str>) -> Changes {
    let seen = hidden.iter().filter(|(_, (export_to, _))| export_to.reaches(namespace));
    seen.map(|(name, (_, resource))| (name.clone(), Some(resource.clone()))).collect()
}

/// The service's addresses that no other service claims before it.
fn claimed(claims: &BTreeMap<IpAddr, BTreeSet<ServiceKey>>, service: &Service) -> Vec<IpAddr> {
    let first = |address: &IpAddr| claims.get(address).and_then(BTreeSet::first);
    let own = |address: &IpAddr| first(address).is_none_or(|key| *key == service.key);
    service.cluster_ips().iter().copied().filter(own).collect()
}
