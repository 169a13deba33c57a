//! From the model to Envoy's messages: pure functions, no state.
//!
//! Every function translates one service (or one port) to the resources that follow from it alone, so
//! that a change of one service costs work for that service. Where the resources of two services can
//! conflict, the function's documentation says so; `publish` decides which one is served.
//!
//! Uses `model`, `names` and `view`. Shapes and defaults are Istio's, except for extensions that only
//! Istio's build of Envoy has, so that people and tools recognise them. Versions are hashes of the
//! encoding, so nothing here may depend on the order of a hash map: no protobuf map has two entries.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
    config_source, socket_address,
};
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use prost::{Message, Name};

use crate::model::{Service, ServiceKind, ServicePort, TrafficPolicy};
use crate::view::ProxyKind;
use crate::well_known::{AGENT_PORTS, ENVOY_LISTENER_PORTS};

pub mod clusters;
pub mod endpoints;
pub mod listeners;
pub mod route_rules;
pub mod routes;

/// The request header by which the listener of a standalone proxy gives its port to the route table: all
/// such listeners share the table, and a request is routed before any filter sees it. A client's value is
/// overwritten, and the table removes the header.
const LISTENER_PORT_HEADER: &str = "x-pilothouse-listener-port";

/// The request header by which a captured port's common listener gives the address that the client connected to to
/// the route table, while Services with that port have rules: such a Service has a listener of its own for each
/// of its cluster IPs, so a request with its Host that came to the common listener was meant for somebody else.
/// A client's value is overwritten, and the table removes the header.
const DESTINATION_HEADER: &str = "x-pilothouse-destination";

/// The request header by which a common listener of an on-demand sidecar gives the name of the cluster for the
/// address that the client connected to. A client's value is overwritten, and the table removes the header.
const ADDRESS_CLUSTER_HEADER: &str = "x-pilothouse-address-cluster";

/// The metadata key, in the namespace of Envoy's subset load balancer, for the pod's name of a headless
/// service's endpoint and of a request. Captured requests do not have it: DNS has chosen the pod.
const HOSTNAME_KEY: &str = "hostname";
const SUBSET_NAMESPACE: &str = "envoy.lb";
/// The filter that answers preflight requests, where a route configures it.
const CORS_FILTER: &str = "envoy.filters.http.cors";
/// The filter that extracts a pod's name from the Host, where a virtual host configures it.
const POD_NAME_FILTER: &str = "envoy.filters.http.header_to_metadata";

/// The port numbers for which `service` needs an HTTP listener and a route table on proxies of
/// this kind; none for a standalone Envoy, which has one of each for all.
pub fn http_ports(kind: &ProxyKind, service: &Service) -> impl Iterator<Item = u16> {
    let by_address = kind.is_captured() && !target_service(service).cluster_ips().is_empty();
    served_http_ports(service).filter(move |port| by_address || serves_http_port(kind, *port))
}

fn served_http_ports(service: &Service) -> impl Iterator<Item = u16> {
    served_ports(target_service(service))
        .filter(|port| port.protocol.is_http())
        .map(|port| port.port)
}

/// Whether proxies of this kind have a common HTTP listener for all services with this port number,
/// if some service wants it.
pub fn serves_http_port(kind: &ProxyKind, port: u16) -> bool {
    match kind {
        ProxyKind::Sidecar | ProxyKind::OnDemandSidecar => !ENVOY_LISTENER_PORTS.contains(&port),
        ProxyKind::BoundSidecar(_) | ProxyKind::Router => can_bind(kind, port),
        ProxyKind::Standalone { .. } => false,
    }
}

/// Whether a sidecar can have an inbound filter chain for this port of the workload. The proxy's own
/// ports are not captured, or have a filter chain already.
pub fn serves_inbound_port(port: u16) -> bool {
    !ENVOY_LISTENER_PORTS.contains(&port)
}

fn can_bind(kind: &ProxyKind, port: u16) -> bool {
    let spared = matches!(kind, ProxyKind::BoundSidecar(spared) if spared.has(port));
    !spared && !ENVOY_LISTENER_PORTS.contains(&port) && !AGENT_PORTS.contains(&port)
}

/// The ports of a service that have a cluster, and therefore endpoints, a listener or a route.
///
/// Clients of a headless service connect to its pods, so load balancing its TCP ports would be wrong;
/// its HTTP ports are routed by Host like any other's. The same holds for an ExternalName service, whose
/// clients connect to the addresses that DNS returns. An alias has no clusters of its own.
fn served_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.ports.iter().filter(|port| match service.kind {
        ServiceKind::ClusterIp(_) => true,
        ServiceKind::Headless | ServiceKind::ExternalName(_) => port.protocol.is_http(),
        ServiceKind::Alias(_) => false,
    })
}

/// The service whose clusters requests for `service` go to: an alias's target, or `service` itself.
pub fn target_service(service: &Service) -> &Service {
    match &service.kind {
        ServiceKind::Alias(target) => target,
        _ => service,
    }
}

/// Whether requests are balanced by a hash of the client's address. Behind a sidecar without capture every
/// client is 127.0.0.1, on every host: its hash would send the whole mesh to one endpoint.
fn hashes_clients(kind: &ProxyKind, policy: &TrafficPolicy) -> bool {
    policy.load_balancing.is_by_client() && !matches!(kind, ProxyKind::BoundSidecar(_))
}

fn to_any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// ADS as the source of a resource, without a fetch timeout: the control plane always responds, and after
/// a slow start Envoy must not use an empty cluster or route table.
fn ads_config_source() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        initial_fetch_timeout: Some(seconds(0)),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(
            AggregatedConfigSource {},
        )),
        ..Default::default()
    }
}

fn socket_address(address: IpAddr, port: u16) -> SocketAddress {
    SocketAddress {
        address: address.to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..Default::default()
    }
}

fn tcp_address(address: IpAddr, port: u16) -> Address {
    Address { address: Some(address::Address::SocketAddress(socket_address(address, port))) }
}

fn seconds(seconds: i64) -> Duration {
    Duration { seconds, nanos: 0 }
}

/// A value out of range becomes the largest one, which is longer than any proxy runs.
fn proto_duration(value: std::time::Duration) -> Duration {
    Duration {
        seconds: i64::try_from(value.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(value.subsec_nanos()).unwrap_or_default(),
    }
}

fn uint32_value(value: u32) -> UInt32Value {
    UInt32Value { value }
}

#[cfg(test)]
mod tests;
