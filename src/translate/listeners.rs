//! Listeners, by the kind of proxy.
//!
//! A sidecar's listeners are not bound: iptables redirects everything to `virtualOutbound`, which hands a
//! connection to the listener of its original destination. The listeners of other kinds are bound, so
//! services can conflict over a port number: their listeners have the same name, and the caller chooses
//! (HTTP before TCP, then by the service's key).

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use envoy_types::pb::envoy::config::common::mutation_rules::v3::HeaderMutation;
use envoy_types::pb::envoy::config::common::mutation_rules::v3::header_mutation::Action;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, Http1ProtocolOptions, TrafficDirection, TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_connection_manager, http_filter,
};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use envoy_types::pb::envoy::extensions::http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyHeaderMutation;
use envoy_types::pb::envoy::r#type::v3::HashPolicy;
use envoy_types::pb::envoy::r#type::v3::hash_policy::{PolicySpecifier, SourceIp};
use envoy_types::pb::google::protobuf::{Any, BoolValue};
use prost::{Message, Name};

use super::{
    LISTENER_PORT_HEADER, POD_NAME_FILTER, ads_config_source, can_bind, hashes_clients,
    proto_duration, seconds, serves_http_port, tcp_address, to_any, uint32_value,
};
use crate::model::{Service, ServiceKind, ServicePort};
use crate::names;
use crate::view::ProxyKind;
use crate::well_known::OUTBOUND_CAPTURE_PORT;

mod inbound;

pub use inbound::virtual_inbound;

const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The listeners that do not depend on any service.
pub fn fixed_listeners(kind: &ProxyKind) -> Vec<Listener> {
    match kind {
        ProxyKind::Sidecar => vec![virtual_outbound(), virtual_inbound(&[])],
        ProxyKind::BoundSidecar(_) | ProxyKind::Router => Vec::new(),
        ProxyKind::Standalone { address, port } => {
            let mut listener = outbound_listener(*address, *port);
            listener.filter_chains = vec![FilterChain {
                filters: vec![connection_manager_filter(HttpConnectionManager {
                    // A client that connected by the service's name has this listener's port in its Host,
                    // not the service's.
                    strip_matching_host_port: true,
                    early_header_mutation_extensions: vec![port_header_mutation(*port)],
                    use_remote_address: Some(BoolValue { value: true }),
                    ..outbound_manager(kind, &listener.name, names::STANDALONE_TABLE)
                })],
                ..Default::default()
            }];
            vec![listener]
        }
    }
}

/// The filter that sets the header from which the route table takes the listener's port.
fn port_header_mutation(port: u16) -> TypedExtensionConfig {
    let header = HeaderValueOption {
        header: Some(HeaderValue {
            key: LISTENER_PORT_HEADER.to_owned(),
            value: port.to_string(),
            ..Default::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..Default::default()
    };
    let mutations = vec![HeaderMutation { action: Some(Action::Append(header)) }];
    TypedExtensionConfig {
        name: "envoy.http.early_header_mutation.header_mutation".to_owned(),
        typed_config: Some(to_any(&EarlyHeaderMutation { mutations })),
    }
}

/// The one listener of all HTTP services with this port number, routed by the table of that number.
/// `None` for kinds of proxies without such listeners and for reserved ports
/// ([`super::serves_http_port`]).
pub fn http_port_listener(kind: &ProxyKind, port: u16) -> Option<Listener> {
    serves_http_port(kind, port).then_some(())?;
    Some(http_listener(kind, bind_address(kind)?, port))
}

fn http_listener(kind: &ProxyKind, address: IpAddr, port: u16) -> Listener {
    let mut listener = outbound_listener(address, port);
    let mut manager = outbound_manager(kind, &listener.name, &names::route_table(port));
    manager.use_remote_address = Some(BoolValue { value: *kind == ProxyKind::Router });
    let mut chain =
        FilterChain { filters: vec![connection_manager_filter(manager)], ..Default::default() };
    if *kind == ProxyKind::Sidecar {
        // Any protocol may be captured on this port, so what does not look like plain HTTP is
        // passed through.
        chain.filter_chain_match = Some(FilterChainMatch {
            transport_protocol: "raw_buffer".to_owned(),
            application_protocols: vec!["http/1.1".to_owned(), "h2c".to_owned()],
            ..Default::default()
        });
        listener.default_filter_chain =
            Some(tcp_chain("PassthroughFilterChain", names::PASSTHROUGH_CLUSTER, None));
        listener.listener_filters = vec![listener_filter(
            "envoy.filters.listener.http_inspector",
            to_any(&HttpInspector::default()),
        )];
        // Without a timeout: a slow client must not be taken for one that speaks no HTTP.
        listener.listener_filters_timeout = Some(seconds(0));
        listener.bind_to_port = Some(BoolValue { value: false });
    }
    listener.filter_chains = vec![chain];
    listener
}

/// The listeners that belong to one port of a service alone: see `tcp_port_listeners` and
/// `http_port_listeners_by_address`.
pub fn port_listeners(
    kind: &ProxyKind,
    service: &Service,
    port: &ServicePort,
    domain: &str,
) -> Vec<Listener> {
    if port.protocol.is_http() {
        http_port_listeners_by_address(kind, service, port.port)
    } else {
        tcp_port_listeners(kind, service, port, domain)
    }
}

/// The listeners of an HTTP port whose number is one of the sidecar's own ports, where the common listener
/// ([`http_port_listener`]) is impossible: one per cluster IP, routed by the table of the number.
fn http_port_listeners_by_address(kind: &ProxyKind, service: &Service, port: u16) -> Vec<Listener> {
    if *kind != ProxyKind::Sidecar || serves_http_port(kind, port) {
        return Vec::new();
    }
    let addresses = service.cluster_ips().iter();
    addresses.map(|&address| http_listener(kind, address, port)).collect()
}

/// The listeners of one TCP port of a service, which forward to the port's cluster: one per cluster IP for
/// captured traffic, one bound listener for the other kinds. The bound listeners of two services with the
/// same port number have the same name, which is also that of [`http_port_listener`].
///
/// None for services without a cluster IP and for a standalone Envoy.
fn tcp_port_listeners(
    kind: &ProxyKind,
    service: &Service,
    port: &ServicePort,
    domain: &str,
) -> Vec<Listener> {
    let ServiceKind::ClusterIp(addresses) = &service.kind else { return Vec::new() };
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    let cluster = names::outbound_cluster(port.port, &host);
    let by_client = hashes_clients(kind, &service.traffic_policy);
    let idle = service.traffic_policy.tcp_idle_timeout;
    let to_cluster = |address| {
        let mut listener = outbound_listener(address, port.port);
        listener.filter_chains = vec![FilterChain {
            filters: vec![tcp_proxy_filter(&cluster, by_client, idle)],
            ..Default::default()
        }];
        listener
    };
    match bind_address(kind) {
        Some(_) if *kind == ProxyKind::Sidecar => addresses
            .iter()
            .map(|&address| Listener {
                bind_to_port: Some(BoolValue { value: false }),
                ..to_cluster(address)
            })
            .collect(),
        Some(address) if can_bind(kind, port.port) => vec![to_cluster(address)],
        _ => Vec::new(),
    }
}

/// The address that listeners for a port number bind to; `None` for the kind that has no such listeners.
fn bind_address(kind: &ProxyKind) -> Option<IpAddr> {
    match kind {
        ProxyKind::Sidecar | ProxyKind::Router => Some(EVERYWHERE),
        ProxyKind::BoundSidecar(_) => Some(LOOPBACK),
        ProxyKind::Standalone { .. } => None,
    }
}

fn virtual_outbound() -> Listener {
    Listener {
        name: names::VIRTUAL_OUTBOUND_LISTENER.to_owned(),
        use_original_dst: Some(BoolValue { value: true }),
        filter_chains: vec![
            black_hole_chain("virtualOutbound-blackhole", OUTBOUND_CAPTURE_PORT),
            tcp_chain("virtualOutbound-catchall-tcp", names::PASSTHROUGH_CLUSTER, None),
        ],
        ..outbound_listener(EVERYWHERE, OUTBOUND_CAPTURE_PORT)
    }
}

/// A listener named after its address and port, without filter chains.
fn outbound_listener(address: IpAddr, port: u16) -> Listener {
    Listener {
        name: names::listener(address, port),
        address: Some(tcp_address(address, port)),
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Default::default()
    }
}

/// The filter chain for connections to the capture port itself. They were not redirected, and passing them
/// through would connect to this listener again, endlessly.
fn black_hole_chain(name: &str, capture_port: u16) -> FilterChain {
    FilterChain {
        filter_chain_match: Some(FilterChainMatch {
            destination_port: Some(uint32_value(capture_port.into())),
            ..Default::default()
        }),
        ..tcp_chain(name, names::BLACK_HOLE_CLUSTER, None)
    }
}

fn tcp_chain(name: &str, cluster: &str, idle: Option<Duration>) -> FilterChain {
    let filters = vec![tcp_proxy_filter(cluster, false, idle)];
    FilterChain { name: name.to_owned(), filters, ..Default::default() }
}

/// `idle` is the idle timeout; Envoy's default is an hour, and zero is no timeout.
fn tcp_proxy_filter(cluster: &str, by_client: bool, idle: Option<Duration>) -> Filter {
    let source_ip = HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) };
    let proxy = TcpProxy {
        hash_policy: by_client.then_some(source_ip).into_iter().collect(),
        stat_prefix: cluster.to_owned(),
        idle_timeout: idle.map(proto_duration),
        cluster_specifier: Some(tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned())),
        ..Default::default()
    };
    network_filter("envoy.filters.network.tcp_proxy", &proxy)
}

fn connection_manager_filter(manager: HttpConnectionManager) -> Filter {
    network_filter("envoy.filters.network.http_connection_manager", &manager)
}

/// The connection manager of outbound HTTP listeners. The caller sets `use_remote_address`: true where
/// requests come from outside the mesh, so that the peer is the client, and `x-forwarded-for` and Envoy's
/// own headers are not trusted.
fn outbound_manager(kind: &ProxyKind, listener: &str, table: &str) -> HttpConnectionManager {
    let bare = common_manager();
    let mut http_filters = bare.http_filters;
    if *kind != ProxyKind::Sidecar {
        // Without effect until a virtual host configures it, see `routes`.
        http_filters.insert(0, http_filter(POD_NAME_FILTER, to_any(&HeaderToMetadata::default())));
    }
    HttpConnectionManager {
        stat_prefix: names::stat_name(&format!("outbound_{listener}")),
        route_specifier: Some(http_connection_manager::RouteSpecifier::Rds(Rds {
            config_source: Some(ads_config_source()),
            route_config_name: table.to_owned(),
        })),
        http_filters,
        ..bare
    }
}

/// The connection manager's fields that inbound and outbound have in common.
fn common_manager() -> HttpConnectionManager {
    HttpConnectionManager {
        http_filters: vec![http_filter("envoy.filters.http.router", to_any(&Router::default()))],
        normalize_path: Some(BoolValue { value: true }),
        // Health checks of old load balancers speak HTTP/1.0; by default Envoy answers 426.
        http_protocol_options: Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Default::default()
        }),
        // Streams have no idle timeout.
        stream_idle_timeout: Some(seconds(0)),
        upgrade_configs: vec![http_connection_manager::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(to_any(config))),
    }
}

fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
