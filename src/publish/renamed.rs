//! Resources under other names, for on-demand sidecars: under those of addresses, which they ask for when a captured
//! request goes to a cluster IP ([`crate::translate::routes`]), and for copies of requests, for which Envoy asks for
//! nothing.
//!
//! Such a resource is another one's encoding with its name said again: of a field that comes twice the last one
//! counts. So it shares the bytes of the first. Statistics keep the Service's name, which is a field of its own.

use std::sync::Arc;

use pilothouse_xds::{OnDemandNames, Resource};

use super::listeners_and_routes::Mesh;
use crate::model::Service;
use crate::names::{self, ResourceType};
use crate::translate::clusters;
use crate::translate::routes::is_by_address;

/// Of a set of clusters: a wildcard has those that are not for outbound requests, and an address that no Service has is
/// passed through.
pub(super) const CLUSTERS: OnDemandNames =
    OnDemandNames { is_named_only: names::is_outbound, fallback: passed_through };

fn passed_through(name: &str) -> Option<Arc<Resource>> {
    names::is_of_address(name).then_some(())?;
    let cluster = clusters::passthrough_under(name);
    Some(Resource::new(ResourceType::Cluster, name.into(), &cluster))
}

/// Adds to the clusters of a service, or to their endpoints, those under the names of its addresses, and those for
/// copies of requests if a route mirrors to it.
pub(super) fn add_renamed(
    resources: &mut Vec<Arc<Resource>>,
    of_type: ResourceType,
    service: &Service,
    mesh: Mesh<'_>,
    domain: &str,
) {
    let addresses = match is_by_address(service) {
        true => mesh.services.owned_addresses(service),
        false => Vec::new(),
    };
    let is_mirrored = mesh.routes.is_mirrored(&service.key);
    if addresses.is_empty() && !is_mirrored {
        return;
    }
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    let mut added = Vec::new();
    for port in &service.ports {
        let name = names::outbound_cluster(port.port, &host);
        let Some(of_service) = resources.iter().find(|one| *one.name == *name) else { continue };
        let captured = addresses.iter().filter(|_| port.protocol.is_http());
        let by_address = captured.map(|address| names::address_cluster(port.port, *address));
        let mirror = is_mirrored.then(|| names::mirror_cluster(port.port, &host));
        added.extend(by_address.chain(mirror).map(|name| renamed(of_service, of_type, name)));
    }
    resources.extend(added);
}

fn renamed(resource: &Resource, of_type: ResourceType, name: String) -> Arc<Resource> {
    let named = clusters::name_field(&name);
    Resource::from_parts(of_type, name.into(), vec![resource.value(), named.into()])
}
