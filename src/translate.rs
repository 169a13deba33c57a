//! From the model to Envoy's messages: pure functions, no state.
//!
//! Every function takes one service (or nothing but a port) and gives the resources that follow
//! from it alone, so that a change of one service costs work for that service. What the resources
//! of two services may fight over is said where it can happen; who wins is `publish`'s to decide.
//!
//! Uses `model`, `names` and `view`. Shapes and defaults are Istio's without what only its own
//! Envoy build has, so that people and tools recognise them. Versions are hashes of the encoding,
//! so nothing here may depend on the order of a hash map: no protobuf map gets a second entry.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::core::v3::{
    Address, AggregatedConfigSource, ApiVersion, ConfigSource, SocketAddress, address,
    config_source, socket_address,
};
use envoy_types::pb::google::protobuf::{Any, Duration, UInt32Value};
use prost::{Message, Name};

use crate::model::{Service, ServiceKind, ServicePort};
use crate::view::ProxyKind;

pub mod clusters;
pub mod endpoints;
pub mod listeners;
pub mod routes;

/// Ports on which a captured HTTP listener would take the place of the proxy's own: its outbound
/// and inbound capture, health and statistics listeners.
const CAPTURE_PORTS: [u16; 4] = [15001, 15006, 15021, 15090];
/// Those that somebody else has bound where the proxy runs, next to the ones above: Envoy's admin
/// and the agent.
const AGENT_PORTS: [u16; 2] = [15000, 15020];

/// The port numbers for which `service` needs an HTTP listener and a route table on proxies of
/// this kind; none for a standalone Envoy, which has one of each for all.
pub fn http_ports(kind: &ProxyKind, service: &Service) -> impl Iterator<Item = u16> {
    served_http_ports(service).filter(|port| serves_http_port(kind, *port))
}

fn served_http_ports(service: &Service) -> impl Iterator<Item = u16> {
    served_ports(service).filter(|port| port.protocol.is_http()).map(|port| port.port)
}

/// Whether proxies of this kind have an HTTP listener and a route table for this port number, if
/// some service wants it.
pub fn serves_http_port(kind: &ProxyKind, port: u16) -> bool {
    match kind {
        ProxyKind::Sidecar => !CAPTURE_PORTS.contains(&port),
        ProxyKind::BoundSidecar | ProxyKind::Router => can_bind(port),
        ProxyKind::Standalone { .. } => false,
    }
}

/// Whether a sidecar can have an inbound chain for this port of the workload: those of the proxy
/// itself are not captured, or guarded already.
pub fn serves_inbound_port(port: u16) -> bool {
    !CAPTURE_PORTS.contains(&port)
}

fn can_bind(port: u16) -> bool {
    !CAPTURE_PORTS.contains(&port) && !AGENT_PORTS.contains(&port)
}

/// The ports that have a cluster, hence endpoints and something that leads to them.
///
/// A headless service's clients connect to the pods themselves, so load balancing its TCP ports
/// would be wrong; its HTTP ports can be reached by Host as any other's. An alias has nothing.
fn served_ports(service: &Service) -> impl Iterator<Item = &ServicePort> {
    service.ports.iter().filter(|port| match service.kind {
        ServiceKind::ClusterIp(_) => true,
        ServiceKind::Headless => port.protocol.is_http(),
        ServiceKind::ExternalName(_) => false,
    })
}

fn any<M: Message + Name>(message: &M) -> Any {
    Any { type_url: M::type_url(), value: message.encode_to_vec() }
}

/// This very stream. No fetch timeout: the control plane always answers, and a slow start must
/// not end in an empty cluster or table.
fn over_ads() -> ConfigSource {
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

fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

#[cfg(test)]
mod tests;
