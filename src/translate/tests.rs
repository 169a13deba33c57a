//! What the tests of the parts have in common, and what holds across the parts.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::endpoints::ProxyLocation;
use super::*;
use crate::model::{Protocol, ServiceKey};

pub(super) const DOMAIN: &str = "cluster.local";
static NO_REGIONS: BTreeMap<Arc<str>, Arc<str>> = BTreeMap::new();
/// A proxy that does not say where it is, and nothing known of places.
pub(super) const ANYWHERE: ProxyLocation<'static> =
    ProxyLocation { zone: None, node: None, regions: &NO_REGIONS };
pub(super) const STANDALONE: ProxyKind = ProxyKind::DEFAULT_STANDALONE;
pub(super) const PER_PORT: [ProxyKind; 4] =
    [ProxyKind::Sidecar, ProxyKind::OnDemandSidecar, ProxyKind::BOUND, ProxyKind::Router];

/// A service `NAMESPACE/NAME`; ports are named after their protocol and number.
pub(super) fn service(key: &str, kind: ServiceKind, ports: &[(Protocol, u16)]) -> Service {
    let (namespace, name) = key.split_once('/').unwrap();
    let ports = ports
        .iter()
        .map(|&(protocol, port)| ServicePort {
            name: format!("{}-{port}", protocol.as_str().to_lowercase()).into(),
            port,
            protocol,
        })
        .collect();
    Service::new(ServiceKey::new(namespace, name), kind, ports)
}

pub(super) fn cluster_ip(addresses: &[&str]) -> ServiceKind {
    ServiceKind::ClusterIp(addresses.iter().map(|address| address.parse().unwrap()).collect())
}

fn every_kind_of_service() -> Vec<Service> {
    let ports = [
        (Protocol::Http, 80),
        (Protocol::Http2, 81),
        (Protocol::Grpc, 82),
        (Protocol::Tcp, 83),
        (Protocol::Tls, 84),
        (Protocol::Http, 15001),
    ];
    let target = service("other/target", cluster_ip(&["10.0.0.3"]), &ports);
    vec![
        service("default/inside", ServiceKind::Alias(target.into()), &[]),
        service("default/plain", cluster_ip(&["10.0.0.1", "2001:db8::1"]), &ports),
        service("default/headless", ServiceKind::Headless, &ports),
        service("default/alias", ServiceKind::ExternalName("example.com".into()), &ports),
        service("default/portless", cluster_ip(&["10.0.0.2"]), &[]),
    ]
}

/// Envoy waits for the endpoints of every cluster, so a cluster without an assignment (or one
/// without a cluster) would hold up its start.
#[test]
fn each_cluster_has_exactly_one_assignment_by_the_same_name() {
    for service in every_kind_of_service() {
        let clusters: Vec<String> =
            clusters::service_clusters(&service, DOMAIN).into_iter().map(|one| one.name).collect();
        // A name outside is DNS's to find.
        let assignments =
            endpoints::service_endpoints(&service, std::iter::empty(), DOMAIN, ANYWHERE);
        if matches!(service.kind, ServiceKind::ExternalName(_)) {
            assert!(assignments.is_empty());
            continue;
        }
        let assignments: Vec<String> =
            assignments.into_iter().map(|one| one.cluster_name).collect();
        assert_eq!(clusters, assignments, "{}", service.key);
    }
}

/// A table that no listener asks for is dead weight; a listener whose table is missing never
/// becomes active.
#[test]
fn http_ports_have_a_listener_and_a_table_or_neither() {
    for kind in PER_PORT {
        for service in every_kind_of_service() {
            let target = target_service(&service);
            let own = target.ports.iter().flat_map(|port| {
                let listeners = listeners::port_listeners(
                    &kind,
                    target,
                    port,
                    DOMAIN,
                    listeners::DEFAULT_ON_DEMAND_TIMEOUT,
                );
                listeners.into_iter().find(|_| port.protocol.is_http())
            });
            let own: Vec<_> = own.map(|listener| listener.name).collect();
            let common = http_ports(&kind, &service)
                .filter_map(|port| listeners::http_port_listener_name(&kind, port));
            let listeners: Vec<String> = common.chain(own).collect();
            let mut tables: Vec<String> = routes::virtual_hosts(
                &kind,
                None,
                &service,
                service.cluster_ips(),
                routes::Rules::NONE,
                DOMAIN,
            )
            .into_iter()
            .map(|(table, _)| table)
            .collect();
            // A headless service is there twice, with its own name and with its pods'.
            let mut seen = BTreeSet::new();
            tables.retain(|table| seen.insert(table.clone()));
            assert_eq!(listeners.len(), tables.len(), "{}", service.key);
            for (listener, table) in listeners.iter().zip(&tables) {
                assert!(listener.ends_with(&format!("_{table}")), "{listener} {table}");
            }
            let by_address = kind.is_captured() && !target.cluster_ips().is_empty();
            let has_it = !target.ports.is_empty() && by_address;
            assert_eq!(tables.contains(&"15001".to_owned()), has_it, "{}", service.key);
        }
    }
}
