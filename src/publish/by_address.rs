//! Resources under the names of addresses, for on-demand sidecars: what they ask for when a captured request goes to a
//! cluster IP ([`crate::translate::routes`]).
//!
//! Such a resource is another one's encoding with its name said again: of a field that comes twice the last one
//! counts. So it shares the bytes of the first. Statistics keep the Service's name, which is a field of its own.

use std::net::IpAddr;
use std::sync::Arc;

use pilothouse_xds::{OnDemandNames, Resource};

use super::service_index::ServiceIndex;
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

/// Adds to the clusters of a service, or to their endpoints, those under the names of its addresses.
pub(super) fn add_by_address(
    resources: &mut Vec<Arc<Resource>>,
    of_type: ResourceType,
    service: &Service,
    services: &ServiceIndex,
    domain: &str,
) {
    if !is_by_address(service) {
        return;
    }
    let addresses = services.owned_addresses(service);
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    let mut added = Vec::new();
    for port in service.ports.iter().filter(|port| port.protocol.is_http()) {
        let name = names::outbound_cluster(port.port, &host);
        let Some(of_service) = resources.iter().find(|one| *one.name == *name) else { continue };
        added.extend(
            addresses.iter().map(|address| renamed(of_service, of_type, port.port, *address)),
        );
    }
    resources.extend(added);
}

fn renamed(
    resource: &Resource,
    of_type: ResourceType,
    port: u16,
    address: IpAddr,
) -> Arc<Resource> {
    let name = names::address_cluster(port, address);
    let named = clusters::name_field(&name);
    Resource::from_parts(of_type, name.into(), vec![resource.value(), named.into()])
}
