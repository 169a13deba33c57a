//! Which views are there: opened one by one, so that many of them need not be built at a stretch, and
//! let go when nobody needs them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::kinds::{KindState, Touched};
use super::super::layers::Changes;
use super::zones::Spot;
use super::{Builder, Hidden, claimed, listener_set};
use crate::model::ServiceKey;
use crate::names::ResourceType;
use crate::snapshot::{Resource, Snapshot, View};
use crate::translate::clusters;
use crate::view::{InboundPort, InboundPorts, ProxyKind, ViewKey};

impl Builder {
    /// A new snapshot with these views; what none of them needs is forgotten.
    pub fn snapshot<'a>(
        &mut self,
        needed: impl IntoIterator<Item = &'a ViewKey> + Clone,
    ) -> Snapshot {
        self.generation += 1;
        let views = needed.clone().into_iter();
        let views = views.filter_map(|key| Some((key.clone(), self.open(key)?))).collect();
        self.retain(needed);
        let conflicts = self.conflicts.clone();
        Snapshot { generation: self.generation, since: None, views, conflicts }
    }

    /// The view as it is now, made if it is not there. Costs what it has of its own.
    pub fn open(&mut self, key: &ViewKey) -> Option<Arc<View>> {
        let (namespace, inbound) = (key.namespace.as_ref(), inbound_of(key));
        let spots = Spot::all_of(key);
        spots.iter().for_each(|spot| self.open_place(spot));
        self.open_clusters(namespace, inbound);
        let (hidden, zones) = (&self.hidden_endpoints, &self.zones.own);
        self.endpoints.open(
            namespace,
            Some(&spots).filter(|spots| !spots.is_empty()),
            |namespace| all_seen(hidden, Some(namespace)),
            |namespace, spots| {
                let own = spots.iter().filter_map(|spot| zones.get(spot));
                own.flat_map(|own| all_seen(own, namespace)).collect()
            },
        );
        let is_standalone = matches!(key.kind, ProxyKind::Standalone { .. });
        if is_standalone && !self.standalone.contains_key(&key.kind) {
            self.standalone.insert(key.kind.clone(), listener_set(&key.kind));
        }
        self.open_kind(&table_kind(&key.kind), namespace, inbound);
        self.view(key)
    }

    /// Lets everything go that none of these views needs.
    pub fn retain<'a>(&mut self, needed: impl IntoIterator<Item = &'a ViewKey>) {
        let (mut clusters, mut placed) = (BTreeSet::new(), BTreeSet::new());
        let mut ports = BTreeSet::<&InboundPort>::new();
        let mut listening = BTreeSet::new();
        let mut kinds: BTreeMap<ProxyKind, BTreeSet<_>> = BTreeMap::new();
        for key in needed {
            let namespace = key.namespace.as_ref();
            clusters.insert((namespace, inbound_of(key)));
            placed.insert((namespace, Spot::all_of(key)));
            ports.extend(key.inbound.iter());
            listening.insert(&key.kind);
            let variants = kinds.entry(table_kind(&key.kind)).or_default();
            variants.insert((namespace, inbound_of(key)));
        }
        self.clusters.retain(&clusters);
        self.inbound.retain(|port, _| ports.contains(port));
        let endpoints = placed.iter();
        let endpoints = endpoints
            .map(|(namespace, spots)| (*namespace, Some(spots).filter(|spots| !spots.is_empty())));
        self.endpoints.retain(&endpoints.collect());
        let spots: BTreeSet<_> = placed.iter().flat_map(|(_, spots)| spots).collect();
        self.zones.own.retain(|spot, _| spots.contains(spot));
        self.standalone.retain(|kind, _| listening.contains(kind));
        for (_, mut state) in self.kinds.extract_if(.., |kind, _| !kinds.contains_key(kind)) {
            state.forget_conflicts(&mut self.conflicts);
        }
        for (kind, variants) in &kinds {
            if let Some(state) = self.kinds.get_mut(kind) {
                state.retain(variants);
            }
        }
    }

    fn view(&self, key: &ViewKey) -> Option<Arc<View>> {
        let kind = self.kinds.get(&table_kind(&key.kind))?;
        let namespace = key.namespace.as_ref();
        let own = self.standalone.get(&key.kind);
        let spots = Some(Spot::all_of(key)).filter(|spots| !spots.is_empty());
        let listeners = own.unwrap_or_else(|| kind.listeners(namespace, inbound_of(key)));
        let sets = [
            self.clusters.get(namespace, inbound_of(key)),
            self.endpoints.get(namespace, spots.as_ref()),
            listeners,
            kind.routes(namespace),
        ];
        Some(Arc::new(View::new(sets.map(Arc::clone))))
    }

    fn open_clusters(&mut self, namespace: Option<&Arc<str>>, inbound: Option<&InboundPorts>) {
        for port in inbound.into_iter().flat_map(|ports| ports.iter()) {
            self.inbound.entry(*port).or_insert_with(|| {
                let cluster = clusters::inbound(port);
                let name = cluster.name.as_str().into();
                Resource::new(ResourceType::Cluster, name, &cluster)
            });
        }
        let own = |_: Option<&str>, inbound: &InboundPorts| {
            let clusters = inbound.iter().filter_map(|port| self.inbound.get(port));
            clusters.map(|one| (one.name.clone(), Some(one.clone()))).collect()
        };
        let hidden = &self.hidden_clusters;
        self.clusters.open(namespace, inbound, |name| all_seen(hidden, Some(name)), own);
    }

    fn open_kind(
        &mut self,
        kind: &ProxyKind,
        namespace: Option<&Arc<str>>,
        inbound: Option<&InboundPorts>,
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
        state.open(namespace, inbound, |namespace| {
            let first = ServiceKey { namespace: namespace.clone(), name: "".into() };
            let own = known.range(first..).map(|(_, one)| &one.service);
            let namespace = namespace.clone();
            let own = own.take_while(move |service| service.key.namespace == namespace);
            own.map(|service| (service, claimed(claims, service)))
        });
    }
}

/// Standalone proxies differ in where they listen, not in their table.
fn table_kind(kind: &ProxyKind) -> ProxyKind {
    match kind {
        ProxyKind::Standalone { .. } => ProxyKind::DEFAULT_STANDALONE,
        other => other.clone(),
    }
}

/// The inbound ports as a variant: having none is none.
fn inbound_of(key: &ViewKey) -> Option<&InboundPorts> {
    Some(&key.inbound).filter(|ports| !ports.is_empty())
}

fn all_seen(hidden: &Hidden, namespace: Option<&str>) -> Changes {
    let seen = hidden.iter().filter(|(_, (export_to, _))| export_to.reaches(namespace));
    seen.map(|(name, (_, resource))| (name.clone(), Some(resource.clone()))).collect()
}
