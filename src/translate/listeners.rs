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
    HeaderValue, HeaderValueOption, Http1ProtocolOptions, Metadata, TrafficDirection,
    TypedExtensionConfig,
};
use envoy_types::pb::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
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
use envoy_types::pb::google::protobuf::{Any, BoolValue, Struct, Value, value};
use prost::{Message, Name};

use super::{
    CORS_FILTER, LISTENER_PORT_HEADER, POD_NAME_FILTER, ads_config_source, can_bind,
    hashes_clients, proto_duration, seconds, serves_http_port, tcp_address, to_any, uint32_value,
};
use crate::model::{Service, ServiceKind, ServicePort};
use crate::names;
use crate::view::ProxyKind;
use crate::well_known::OUTBOUND_CAPTURE_PORT;

mod inbound;
mod on_demand;

pub use inbound::virtual_inbound;

const EVERYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// The listeners that do not depend on any service.
pub fn fixed_listeners(kind: &ProxyKind) -> Vec<Listener> {
    match kind {
        ProxyKind::Sidecar | ProxyKind::OnDemandSidecar => {
            vec![virtual_outbound(), virtual_inbound(&[])]
        }
        ProxyKind::BoundSidecar(_) | ProxyKind::Router => Vec::new(),
        ProxyKind::Standalone { address, port } => {
            let mut listener = outbound_listener(*address, *port);
            listener.filter_chains = vec![FilterChain {
                filters: vec![connection_manager_filter(HttpConnectionManager {
                    // A client that connected by the service's name has this listener's port in its Host,
                    // not the service's.
                    strip_matching_host_port: true,
                    early_header_mutation_extensions: vec![early_header(
                        LISTENER_PORT_HEADER,
                        port.to_string(),
                    )],
                    use_remote_address: Some(BoolValue { value: true }),
                    ..outbound_manager(kind, &listener.name, names::STANDALONE_TABLE, true, None)
                })],
                ..Default::default()
            }];
            vec![listener]
        }
    }
}

/// What the rules of Services (HTTPRoutes and GRPCRoutes) ask of the common listener of a port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ListenerRules {
    /// Whether any Service has rules there.
    pub any: bool,
    /// A hash of the Services that are told by their cluster IPs, each with a listener of its own
    /// ([`rule_listeners`]).
    pub by_address: Option<u64>,
}

/// The extension that sets a header before the request is routed, whatever the client's value is.
fn early_header(name: &str, value: String) -> TypedExtensionConfig {
    let header = HeaderValueOption {
        header: Some(HeaderValue { key: name.to_owned(), value, ..Default::default() }),
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
///
/// While Services with the port have rules, captured requests carry the address that they were sent to (see
/// `x-pilothouse-destination`), and the filter chain says which Services these are: when one gets its first rule
/// or loses its last, the chain is another one, and Envoy drains the connections of the old one. With
/// `--drain-strategy immediate` each is closed after its next response, or told by GOAWAY, without a lost request
/// (seen with Envoy 1.40), and the next one comes to the Service's own listener.
pub fn http_port_listener(
    kind: &ProxyKind,
    port: u16,
    rules: ListenerRules,
    on_demand: OnDemandTimeout,
) -> Option<Listener> {
    serves_http_port(kind, port).then_some(())?;
    let early = common_early_headers(kind, port, rules);
    let of = HttpListener { table: names::route_table(port), with_rules: rules.any, early };
    let mut listener = http_listener(kind, bind_address(kind)?, port, of, on_demand);
    if let Some(hash) = rules.by_address {
        listener.filter_chains.iter_mut().for_each(|chain| {
            chain.metadata = Some(rules_metadata(hash));
        });
    }
    Some(listener)
}

/// The name of [`http_port_listener`]'s listener, under the same conditions.
pub fn http_port_listener_name(kind: &ProxyKind, port: u16) -> Option<String> {
    serves_http_port(kind, port).then_some(())?;
    Some(names::listener(bind_address(kind)?, port))
}

/// The listeners of a port of a Service that has rules, one for each of these cluster IPs, where traffic is
/// captured: routed by the port's own table ([`names::service_table`]), whatever the Host.
pub fn rule_listeners(
    kind: &ProxyKind,
    service: &Service,
    addresses: &[IpAddr],
    port: u16,
    domain: &str,
    on_demand: OnDemandTimeout,
) -> Vec<Listener> {
    if !kind.is_captured() {
        return Vec::new();
    }
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    let listener = |&address: &IpAddr| {
        let table = names::service_table(&host, port);
        let of = HttpListener { table, with_rules: true, early: Vec::new() };
        http_listener(kind, address, port, of, on_demand)
    };
    addresses.iter().map(listener).collect()
}

/// How long a request or a connection of an on-demand sidecar waits for its cluster. Of no other kind's.
pub type OnDemandTimeout = Duration;

/// Envoy's default.
pub const DEFAULT_ON_DEMAND_TIMEOUT: OnDemandTimeout = Duration::from_secs(5);

/// What HTTP listeners differ by beside their place.
struct HttpListener {
    table: String,
    /// With the filters that rules may configure.
    with_rules: bool,
    early: Vec<TypedExtensionConfig>,
}

/// The headers that the common table of a port needs.
fn common_early_headers(
    kind: &ProxyKind,
    port: u16,
    rules: ListenerRules,
) -> Vec<TypedExtensionConfig> {
    match kind {
        ProxyKind::OnDemandSidecar => on_demand::early_headers(port),
        _ if rules.by_address.is_some() => vec![on_demand::destination_header()],
        _ => Vec::new(),
    }
}

/// Metadata that nothing reads: it only makes a filter chain differ from another.
fn rules_metadata(hash: u64) -> Metadata {
    let value = Value { kind: Some(value::Kind::StringValue(format!("{hash:016x}"))) };
    let fields = Struct { fields: [("services_with_rules".to_owned(), value)].into() };
    Metadata { filter_metadata: [("pilothouse".to_owned(), fields)].into(), ..Default::default() }
}

fn http_listener(
    kind: &ProxyKind,
    address: IpAddr,
    port: u16,
    of: HttpListener,
    on_demand: OnDemandTimeout,
) -> Listener {
    let mut listener = outbound_listener(address, port);
    let timeout = (*kind == ProxyKind::OnDemandSidecar).then_some(on_demand);
    let mut manager = outbound_manager(kind, &listener.name, &of.table, of.with_rules, timeout);
    manager.use_remote_address = Some(BoolValue { value: *kind == ProxyKind::Router });
    manager.early_header_mutation_extensions = of.early;
    let mut chain =
        FilterChain { filters: vec![connection_manager_filter(manager)], ..Default::default() };
    if kind.is_captured() {
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
    on_demand: OnDemandTimeout,
) -> Vec<Listener> {
    if port.protocol.is_http() {
        http_port_listeners_by_address(kind, service, port.port, on_demand)
    } else {
        tcp_port_listeners(kind, service, port, domain, on_demand)
    }
}

/// The listeners of an HTTP port whose number is one of the sidecar's own ports, where the common listener
/// ([`http_port_listener`]) is impossible: one per cluster IP, routed by the table of the number.
fn http_port_listeners_by_address(
    kind: &ProxyKind,
    service: &Service,
    port: u16,
    on_demand: OnDemandTimeout,
) -> Vec<Listener> {
    if !kind.is_captured() || serves_http_port(kind, port) {
        return Vec::new();
    }
    let listener = |&address: &IpAddr| {
        let early = common_early_headers(kind, port, ListenerRules::default());
        let of = HttpListener { table: names::route_table(port), with_rules: false, early };
        http_listener(kind, address, port, of, on_demand)
    };
    service.cluster_ips().iter().map(listener).collect()
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
    on_demand: OnDemandTimeout,
) -> Vec<Listener> {
    let ServiceKind::ClusterIp(addresses) = &service.kind else { return Vec::new() };
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    let cluster = names::outbound_cluster(port.port, &host);
    let by_client = hashes_clients(kind, &service.traffic_policy);
    let idle = service.traffic_policy.tcp_idle_timeout;
    let timeout = (*kind == ProxyKind::OnDemandSidecar).then_some(on_demand);
    let to_cluster = |address| {
        let mut listener = outbound_listener(address, port.port);
        listener.filter_chains = vec![FilterChain {
            filters: vec![tcp_proxy_filter(&cluster, by_client, idle, timeout)],
            ..Default::default()
        }];
        listener
    };
    match bind_address(kind) {
        Some(_) if kind.is_captured() => addresses
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
        ProxyKind::Sidecar | ProxyKind::OnDemandSidecar | ProxyKind::Router => Some(EVERYWHERE),
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
    let filters = vec![tcp_proxy_filter(cluster, false, idle, None)];
    FilterChain { name: name.to_owned(), filters, ..Default::default() }
}

/// `idle` is the idle timeout; Envoy's default is an hour, and zero is no timeout. `on_demand`: how long a
/// connection waits for the cluster, if it is asked for.
fn tcp_proxy_filter(
    cluster: &str,
    by_client: bool,
    idle: Option<Duration>,
    on_demand: Option<OnDemandTimeout>,
) -> Filter {
    let source_ip = HashPolicy { policy_specifier: Some(PolicySpecifier::SourceIp(SourceIp {})) };
    let proxy = TcpProxy {
        hash_policy: by_client.then_some(source_ip).into_iter().collect(),
        stat_prefix: cluster.to_owned(),
        idle_timeout: idle.map(proto_duration),
        on_demand: on_demand.map(on_demand::of_tcp),
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
/// own headers are not trusted. `with_rules`: with the filters that rules may configure.
fn outbound_manager(
    kind: &ProxyKind,
    listener: &str,
    table: &str,
    with_rules: bool,
    on_demand: Option<OnDemandTimeout>,
) -> HttpConnectionManager {
    let bare = common_manager();
    let mut http_filters = bare.http_filters;
    if with_rules {
        // Without effect until a route configures it.
        http_filters.insert(0, http_filter(CORS_FILTER, to_any(&Cors::default())));
    }
    http_filters.splice(0..0, on_demand.map(on_demand::filter));
    if !kind.is_captured() {
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
