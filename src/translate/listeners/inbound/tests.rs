use envoy_types::pb::envoy::config::listener::v3::filter;
use prost::{Message as _, Name as _};

use super::*;

fn port(port: u16, protocol: InboundProtocol) -> InboundPort {
    InboundPort { port, protocol }
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
    assert_eq!(manager.use_remote_address, Some(BoolValue { value: false }));
    let Some(http_connection_manager::RouteSpecifier::RouteConfig(table)) = manager.route_specifier
    else {
        panic!("{manager:?}")
    };
    assert_eq!(table, routes::inbound(&port(8080, InboundProtocol::Grpc)));
}
