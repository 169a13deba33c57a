//! A sidecar's inbound listener, with a filter chain for each port of the workload that a service
//! targets. It depends on the set of ports alone, so pods with the same set have the same listener,
//! byte for byte.

use envoy_types::pb::envoy::config::core::v3::{Http1ProtocolOptions, TrafficDirection};
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, http_connection_manager,
};
use envoy_types::pb::google::protobuf::BoolValue;

use super::{
    EVERYWHERE, black_hole_chain, common_manager, connection_manager_filter, listener_filter,
    tcp_address, tcp_chain, to_any, uint32_value,
};
use crate::names;
use crate::translate::routes;
use crate::view::{InboundPort, InboundProtocol};
use crate::well_known::INBOUND_CAPTURE_PORT;

/// The Host that the workload sees on an HTTP/1.0 request without one: Envoy forwards it as HTTP/1.1, which
/// requires a Host.
const DEFAULT_HOST: &str = "localhost";

/// Connections to other ports are passed through as TCP. No number may be in `ports` twice, nor may one
/// that [`crate::translate::serves_inbound_port`] excludes: Envoy would reject the listener.
pub fn virtual_inbound(ports: &[InboundPort]) -> Listener {
    let mut filter_chains =
        vec![black_hole_chain("virtualInbound-blackhole", INBOUND_CAPTURE_PORT)];
    filter_chains.extend(ports.iter().map(chain));
    filter_chains.push(tcp_chain("virtualInbound", names::INBOUND_PASSTHROUGH_CLUSTER, None));
    Listener {
        name: names::VIRTUAL_INBOUND_LISTENER.to_owned(),
        address: Some(tcp_address(EVERYWHERE, INBOUND_CAPTURE_PORT)),
        traffic_direction: TrafficDirection::Inbound.into(),
        listener_filters: vec![listener_filter(
            "envoy.filters.listener.original_dst",
            to_any(&OriginalDst::default()),
        )],
        filter_chains,
        ..Default::default()
    }
}

fn chain(port: &InboundPort) -> FilterChain {
    let name = names::wildcard_listener(port.port);
    let cluster = names::inbound_cluster(port.port);
    let chain = match port.protocol {
        InboundProtocol::Tcp => tcp_chain(&name, &cluster, port.idle_timeout),
        InboundProtocol::Http | InboundProtocol::Http2 | InboundProtocol::Grpc => FilterChain {
            filters: vec![connection_manager_filter(HttpConnectionManager {
                stat_prefix: names::stat_name(&format!("inbound_{name}")),
                // Inline, because the routes depend on nothing but the port.
                route_specifier: Some(http_connection_manager::RouteSpecifier::RouteConfig(
                    routes::inbound_routes(port),
                )),
                // The client's sidecar has set the headers about the client.
                use_remote_address: Some(BoolValue { value: false }),
                // HTTP/1.0 needs no Host, and these routes match without one.
                http_protocol_options: Some(Http1ProtocolOptions {
                    accept_http_10: true,
                    default_host_for_http_10: DEFAULT_HOST.to_owned(),
                    ..Default::default()
                }),
                ..common_manager()
            })],
            name,
            ..Default::default()
        },
    };
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(uint32_value(port.port.into())),
            ..Default::default()
        }),
        ..chain
    }
}

#[cfg(test)]
mod tests;
