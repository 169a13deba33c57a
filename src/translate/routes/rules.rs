//! Where the routes of rules (HTTPRoutes and GRPCRoutes) stand: in a table of the Service's own where captured
//! requests are told by the address that they were sent to, else in its virtual hosts, by Host.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteConfiguration, route,
};
use envoy_types::pb::google::protobuf::BoolValue;

use super::{
    DESTINATION_HEADER, HeaderMatchSpecifier, PortRoutes, RouteAction, catch_all_route, header_is,
    passthrough, virtual_host,
};
use crate::model::Service;
use crate::model::route::PortRules;
use crate::names;
use crate::translate::route_rules::rule_routes;
use crate::view::ProxyKind;

/// The rules in effect for a service and some clients.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// By port of the service.
    pub by_port: &'a BTreeMap<u16, Arc<PortRules>>,
    /// The service's cluster IPs that no service before it claims: where traffic is captured, it has a listener
    /// and a table of its own for each of them ([`rules_table`]).
    pub addresses: &'a [IpAddr],
}

impl Rules<'static> {
    pub const NONE: Self = Self { by_port: &BTreeMap::new(), addresses: &[] };
}

/// The routes in the virtual host for one port of a service, which are those to the service itself where it has
/// no rules.
///
/// Where the service is told by its address, its own listener has the routes of its rules. What comes to the
/// common one with its Host was sent to another address, and goes there; a request on a connection that is
/// older than the service's listener does not say where it was sent, and goes to the service as before.
pub(super) fn port_routes(
    kind: &ProxyKind,
    service: &Service,
    port: u16,
    rules: Rules<'_>,
    domain: &str,
    to_service: impl Fn(u16) -> Vec<Route>,
) -> PortRoutes {
    let Some(own) = rules.by_port.get(&port) else {
        return PortRoutes { port, routes: to_service(port), by_rules: false };
    };
    if kind.is_captured() && !rules.addresses.is_empty() {
        let elsewhere = [to_another_address(rules.addresses)];
        let routes = elsewhere.into_iter().chain(to_service(port)).collect();
        return PortRoutes { port, routes, by_rules: false };
    }
    PortRoutes { port, routes: rule_routes(kind, service, port, own, domain), by_rules: true }
}

/// Passes requests through that say they were sent to an address other than these.
fn to_another_address(addresses: &[IpAddr]) -> Route {
    let mut route = catch_all_route("another address", passthrough());
    let is_said = HeaderMatcher {
        name: DESTINATION_HEADER.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(true)),
        ..Default::default()
    };
    let is_not = |address: &IpAddr| HeaderMatcher {
        invert_match: true,
        ..header_is(DESTINATION_HEADER, address.to_string())
    };
    let matchers = [is_said].into_iter().chain(addresses.iter().map(is_not));
    route.r#match.get_or_insert_default().headers.extend(matchers);
    route
}

/// The table of the listeners for the cluster IPs of a service, whatever the Host.
pub fn rules_table(
    kind: &ProxyKind,
    service: &Service,
    port: u16,
    rules: &PortRules,
    domain: &str,
) -> RouteConfiguration {
    let host = names::host(&service.key.name, &service.key.namespace, domain);
    let routes = rule_routes(kind, service, port, rules, domain);
    let name = names::virtual_host(&host, port);
    RouteConfiguration {
        name: names::service_table(&host, port),
        virtual_hosts: vec![virtual_host(name, vec!["*".to_owned()], routes)],
        // A cluster that there never is stands for backends that are not there.
        validate_clusters: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

/// What Envoy does by itself with a request that no route matches.
pub(super) fn no_rule_matches() -> Route {
    let not_found = DirectResponseAction { status: 404, ..Default::default() };
    Route {
        action: Some(route::Action::DirectResponse(not_found)),
        ..catch_all_route("no rule matches", RouteAction::default())
    }
}
