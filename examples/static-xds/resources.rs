//! The resources: a listener with a route table, whose only route leads to a cluster with one endpoint.

use std::net::SocketAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig,
};
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::config::{cluster::v3::Cluster, listener::v3::Listener};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as http;
use envoy_types::pb::google::protobuf::Any;
use pilothouse_xds::{Resource, TypeSet, View};
use prost::Message;

use crate::TYPES;

const BACKEND: &str = "backend";
const ROUTES: &str = "routes";

/// The sets in the order of `TYPES`.
pub(crate) fn view(listen: SocketAddr, backend: SocketAddr) -> View {
    View::new([
        set(0, BACKEND, &cluster()),
        set(1, BACKEND, &assignment(backend)),
        set(2, "listener", &listener(listen)),
        set(3, ROUTES, &routes()),
    ])
}

/// A set of one resource.
fn set(at: usize, name: &str, message: &impl Message) -> Arc<TypeSet> {
    let resource = Resource::new(TYPES[at].type_url, name.into(), message);
    Arc::new(TypeSet::default()).with([(name.into(), Some(resource))])
}

fn cluster() -> Cluster {
    let eds_config = Some(ads());
    Cluster {
        name: BACKEND.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config, ..Default::default() }),
        ..Default::default()
    }
}

fn assignment(backend: SocketAddr) -> endpoint::ClusterLoadAssignment {
    let endpoint = endpoint::Endpoint { address: Some(address(backend)), ..Default::default() };
    let host = endpoint::lb_endpoint::HostIdentifier::Endpoint(endpoint);
    let lb_endpoints =
        vec![endpoint::LbEndpoint { host_identifier: Some(host), ..Default::default() }];
    let endpoints = vec![endpoint::LocalityLbEndpoints { lb_endpoints, ..Default::default() }];
    endpoint::ClusterLoadAssignment {
        cluster_name: BACKEND.to_owned(),
        endpoints,
        ..Default::default()
    }
}

fn listener(listen: SocketAddr) -> Listener {
    use http::http_connection_manager::RouteSpecifier;
    use http::http_filter::ConfigType;

    let router = http::HttpFilter {
        name: "router".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&Router::default()))),
        ..Default::default()
    };
    let rds = http::Rds { config_source: Some(ads()), route_config_name: ROUTES.to_owned() };
    let manager = http::HttpConnectionManager {
        stat_prefix: "static".to_owned(),
        http_filters: vec![router],
        route_specifier: Some(RouteSpecifier::Rds(rds)),
        ..Default::default()
    };
    let filter = listener::Filter {
        name: "http".to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(any(&manager))),
    };
    let chain = listener::FilterChain { filters: vec![filter], ..Default::default() };
    Listener {
        name: "listener".to_owned(),
        address: Some(address(listen)),
        filter_chains: vec![chain],
        ..Default::default()
    }
}

fn routes() -> route::RouteConfiguration {
    use route::{route::Action, route_action::ClusterSpecifier, route_match::PathSpecifier};

    let cluster = ClusterSpecifier::Cluster(BACKEND.to_owned());
    let action = route::RouteAction { cluster_specifier: Some(cluster), ..Default::default() };
    let prefix = PathSpecifier::Prefix("/".to_owned());
    let route = route::Route {
        r#match: Some(route::RouteMatch { path_specifier: Some(prefix), ..Default::default() }),
        action: Some(Action::Route(action)),
        ..Default::default()
    };
    let host = route::VirtualHost {
        name: "all".to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![route],
        ..Default::default()
    };
    route::RouteConfiguration {
        name: ROUTES.to_owned(),
        virtual_hosts: vec![host],
        ..Default::default()
    }
}

/// The resource comes over the same stream.
fn ads() -> core::ConfigSource {
    use core::config_source::ConfigSourceSpecifier;

    core::ConfigSource {
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(Default::default())),
        ..Default::default()
    }
}

fn address(at: SocketAddr) -> core::Address {
    let socket = core::SocketAddress {
        address: at.ip().to_string(),
        port_specifier: Some(core::socket_address::PortSpecifier::PortValue(at.port().into())),
        ..Default::default()
    };
    core::Address { address: Some(core::address::Address::SocketAddress(socket)) }
}

fn any<M: prost::Name>(message: &M) -> Any {
    Any {
        type_url: format!("type.googleapis.com/{}", M::full_name()),
        value: message.encode_to_vec(),
    }
}
