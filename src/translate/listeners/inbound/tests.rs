use envoy_types::pb::envoy::config::listener::v3::filter;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use prost::{Message as _, Name as _};

use super::*;

fn port(port: u16, protocol: InboundProtocol) -> InboundPort {
    InboundPort::new(port, protocol)
}

#[test]
fn each_port_has_a_chain_between_the_guard_and_the_way_through() {
    let ports = [port(5432, InboundProtocol::Tcp), port(8080, InboundProtocol::Http)];
    let listener = virtual_inbound(&ports);
    let chains: Vec<_> = listener
        .filter_chains
        .iter()
        .map(|chain| {
            let matched = chain.filter_chain_match.as_ref();
            let port = matched.and_then(|one| one.destination_port.as_ref()).map(|port| port.value);
            let [filter] = chain.filters.as_slice() else { panic!("{chain:?}") };
            (chain.name.as_str(), port, filter.name.rsplit('.').next().unwrap())
        })
        .collect();
    assert_eq!(
        chains,
        [
            ("virtualInbound-blackhole", Some(15006), "tcp_proxy"),
            ("0.0.0.0_5432", Some(5432), "tcp_proxy"),
            ("0.0.0.0_8080", Some(8080), "http_connection_manager"),
            ("virtualInbound", None, "tcp_proxy"),
        ]
    );
    assert_eq!(virtual_inbound(&[]).filter_chains.len(), 2);
}

#[test]
fn an_http_port_has_its_routes_inline() {
    let listener = virtual_inbound(&[port(8080, InboundProtocol::Grpc)]);
    let Some(filter::ConfigType::TypedConfig(any)) =
        &listener.filter_chains[1].filters[0].config_type
    else {
        panic!("{listener:?}")
    };
    assert_eq!(any.type_url, HttpConnectionManager::type_url());
    let manager = HttpConnectionManager::decode(any.value.as_slice()).unwrap();
    assert_eq!(manager.stat_prefix, "inbound_0.0.0.0_8080;");
    let http1 = manager.http_protocol_options.clone().unwrap();
    assert!(http1.accept_http_10 && !http1.default_host_for_http_10.is_empty());
    assert_eq!(manager.use_remote_address, Some(BoolValue { value: false }));
    let Some(http_connection_manager::RouteSpecifier::RouteConfig(table)) = manager.route_specifier
    else {
        panic!("{manager:?}")
    };
    assert_eq!(table, routes::inbound_routes(&port(8080, InboundProtocol::Grpc)));
}

#[test]
fn a_tcp_port_has_its_idle_timeout() {
    let idle_timeout = Some(std::time::Duration::ZERO);
    let port = InboundPort { idle_timeout, ..port(5432, InboundProtocol::Tcp) };
    let listener = virtual_inbound(&[port]);
    let Some(filter::ConfigType::TypedConfig(any)) =
        &listener.filter_chains[1].filters[0].config_type
    else {
        panic!("{listener:?}")
    };
    let proxy = TcpProxy::decode(any.value.as_slice()).unwrap();
    assert_eq!(proxy.idle_timeout, Some(crate::translate::seconds(0)));
}
