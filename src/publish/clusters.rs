//! The clusters: of every service, and of the ports of workloads in the views that have some.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use pilothouse_xds::{Resource, TypeSet};

use super::layers::{LayeredSets, Override, ResourceChanges};
use super::listeners_and_routes::Mesh;
use super::renamed;
use super::service_index::MeshChanges;
use super::visibility::RestrictedResources;
use crate::model::{Service, ServiceKey};
use crate::names::{Discovery, ResourceType};
use crate::translate::clusters;
use crate::view::{InboundPort, InboundPorts, ViewKey};

#[derive(Debug)]
pub(super) struct Clusters {
    domain: Arc<str>,
    /// Of the proxies that these are for.
    discovery: Discovery,
    layers: LayeredSets<Arc<str>, InboundPorts>,
    restricted: RestrictedResources,
    names: BTreeMap<ServiceKey, Vec<Arc<str>>>,
    /// The clusters of inbound ports, made once each.
    inbound: BTreeMap<InboundPort, Arc<Resource>>,
}

/// Clusters that have a service now, and those that have none any more.
#[derive(Debug, Default)]
pub(super) struct ClusterChanges {
    pub(super) made: Vec<Arc<str>>,
    pub(super) orphaned: Vec<Arc<str>>,
}

impl Clusters {
    pub(super) fn new(domain: Arc<str>, discovery: Discovery) -> Self {
        let empty = match discovery {
            Discovery::All => Arc::new(TypeSet::default()),
            Discovery::OnDemand => TypeSet::on_demand(renamed::CLUSTERS),
        };
        let fixed = clusters::fixed_clusters().into_iter().map(|cluster| {
            let name: Arc<str> = cluster.name.as_str().into();
            (name.clone(), Some(Resource::new(ResourceType::Cluster, name, &cluster)))
        });
        Self {
            domain,
            discovery,
            layers: LayeredSets::new(empty.with(fixed)),
            restricted: RestrictedResources::default(),
            names: BTreeMap::new(),
            inbound: BTreeMap::new(),
        }
    }

    /// Makes the clusters of the changed services. Those that have no service any more stay until
    /// [`Self::remove`].
    pub(super) fn update(&mut self, changes: &MeshChanges, mesh: Mesh<'_>) -> ClusterChanges {
        let mut resources = ResourceChanges::new();
        let mut changed = ClusterChanges::default();
        for key in &changes.clusters {
            let mut names = Vec::new();
            if let Some(service) = mesh.services.resolved(key) {
                for resource in self.encode(service, mesh) {
                    names.push(resource.name.clone());
                    resources.push(self.restricted.separate(&service.export_to, resource));
                }
            }
            changed.made.extend(names.iter().cloned());
            let before = self.names.remove(key).unwrap_or_default();
            changed.orphaned.extend(before.into_iter().filter(|name| !names.contains(name)));
            if !names.is_empty() {
                self.names.insert(key.clone(), names);
            }
        }
        self.apply_changes(resources);
        changed
    }

    fn encode(&self, service: &Service, mesh: Mesh<'_>) -> Vec<Arc<Resource>> {
        let clusters = clusters::service_clusters(service, &self.domain).into_iter();
        let encoded = |cluster: Cluster| {
            Resource::new(ResourceType::Cluster, cluster.name.as_str().into(), &cluster)
        };
        let mut all: Vec<_> = clusters.map(encoded).collect();
        if self.discovery == Discovery::OnDemand {
            renamed::add_renamed(&mut all, ResourceType::Cluster, service, mesh, &self.domain);
        }
        all
    }

    /// Removes clusters that no service has any more.
    pub(super) fn remove(&mut self, names: &[Arc<str>]) {
        names.iter().for_each(|name| self.restricted.remove(name));
        self.apply_changes(names.iter().map(|name| (name.clone(), None)).collect());
    }

    fn apply_changes(&mut self, resources: ResourceChanges) {
        let restricted = &self.restricted;
        self.layers.apply_changes(
            resources,
            |namespace, name| restricted.override_in(Some(namespace), name),
            // The layers of inbound ports have names that no service's cluster has.
            |_, _, _| Override::Inherit,
        );
    }

    /// The names of a service's clusters.
    pub(super) fn names(&self, key: &ServiceKey) -> &[Arc<str>] {
        self.names.get(key).map(Vec::as_slice).unwrap_or_default()
    }

    /// Makes what this view has of its own, where it is not there.
    pub(super) fn open(&mut self, key: &ViewKey) {
        for port in key.inbound.iter() {
            self.inbound.entry(*port).or_insert_with(|| {
                let cluster = clusters::inbound_cluster(port);
                let name = cluster.name.as_str().into();
                Resource::new(ResourceType::Cluster, name, &cluster)
            });
        }
        let (restricted, inbound) = (&self.restricted, &self.inbound);
        self.layers.open(
            key.namespace.as_ref(),
            inbound_variant(key),
            |namespace| restricted.overrides_in(namespace),
            |_, ports| {
                let clusters = ports.iter().filter_map(|port| inbound.get(port));
                clusters.map(|cluster| (cluster.name.clone(), Some(cluster.clone()))).collect()
            },
        );
    }

    /// Drops what none of these views has.
    pub(super) fn retain(&mut self, needed: &[&ViewKey]) {
        let variants = needed.iter().map(|key| (key.namespace.as_ref(), inbound_variant(key)));
        self.layers.retain(&variants.collect());
        let ports: BTreeSet<_> = needed.iter().flat_map(|key| key.inbound.iter()).collect();
        self.inbound.retain(|port, _| ports.contains(port));
    }

    /// The set of a view that was opened.
    pub(super) fn set(&self, key: &ViewKey) -> &Arc<TypeSet> {
        self.layers.get(key.namespace.as_ref(), inbound_variant(key))
    }
}

/// The inbound ports as a variant of clusters and listeners: a view without any has none.
pub(super) fn inbound_variant(key: &ViewKey) -> Option<&InboundPorts> {
    Some(&key.inbound).filter(|ports| !ports.is_empty())
}
