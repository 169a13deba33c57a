//! Route tables: which cluster a Host leads to.
//!
//! Captured and bound proxies have a table per port number, since the listener already knows the
//! port; a standalone Envoy has a single table in which the port is part of the Host. A table is
//! its fixed fields ([`table_without_services`]) and the virtual hosts that services put into it ([`virtual_hosts`]);
//! `virtual_hosts` is a repeated field, so the encoded parts are concatenated.
//!
//! Envoy rejects a table in which a domain occurs twice. Names of two services cannot meet
//! ([`names::dns_forms`]), and the model keeps the ports of one service apart; only cluster IPs can,
//! when two manifests claim one or a watch lags behind. That is why they are a parameter.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryHostPredicate, retry_host_predicate,
};
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, PolicySpecifier,
};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::config::{
    KeyValuePair, Rule,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher,
};
use envoy_types::pb::google::protobuf::BoolValue;

use super::{
    HOSTNAME_KEY, LISTENER_PORT_HEADER, POD_NAME_FILTER, SUBSET_NAMESPACE, hashes_clients,
    http_ports, proto_duration, seconds, served_http_ports, target_service, to_any, uint32_value,
};
use crate::model::{Service, ServiceKey, ServiceKind, TrafficPolicy};
use crate::names;
use crate::view::ProxyKind;

mod inbound;

pub use inbound::inbound_routes;

/// A virtual host and the name of the table it belongs to.
pub type TableEntry = (String, VirtualHost);

/// The virtual hosts that `service` puts into the tables of such proxies, one per HTTP port; for a
/// headless service another one for the names of its pods (see `route_to_pods`). An alias has those of the
/// service that it stands for, under its own names.
///
/// `namespace` is the proxy's: services of the same namespace answer to their bare name as well.
/// For every other namespace, and for none, the result is the same, so that it can be shared.
/// `addresses` are those of the service's cluster IPs that no other service claims before it.
///
/// In the standalone table every name stands with each of the ports, and alone for the one port
/// that is meant if none is said: the listener's own number (a client that came to it by name
/// has that in its Host, and it is stripped, see `listeners`), else 80, else the first. The table is
/// the same whatever the listener's number, of which a proxy may name any: the listener says its
/// number in a header, by which the bare name of a service with several ports is routed.
pub fn virtual_hosts(
    kind: &ProxyKind,
    namespace: Option<&str>,
    service: &Service,
    addresses: &[IpAddr],
    domain: &str,
) -> Vec<TableEntry> {
    let is_standalone = matches!(kind, ProxyKind::Standalone { .. });
    let ports: Vec<u16> = match is_standalone {
        true => served_http_ports(service).collect(),
        false => http_ports(kind, service).collect(),
    };
    let Some(&first) = ports.first() else { return Vec::new() };
    let target = target_service(service);
    let preferred = if ports.contains(&80) { 80 } else { first };

    let key = &service.key;
    let host = names::host(&key.name, &key.namespace, domain);
    let is_local = namespace == Some(&*key.namespace);
    let mut forms = names::dns_forms(&key.name, &key.namespace, domain, is_local);
    let pods = match service.kind {
        ServiceKind::Headless => pod_domains(kind, key, &forms),
        _ => Vec::new(),
    };
    forms.extend(addresses.iter().copied().map(names::host_of_address));

    let target_host = names::host(&target.key.name, &target.key.namespace, domain);
    let to = |port: u16| {
        cluster_action(kind, &target.traffic_policy, names::outbound_cluster(port, &target_host))
    };
    let by_port: Vec<(u16, RouteAction)> = ports.iter().map(|port| (*port, to(*port))).collect();
    let of_service = |host: &str, forms: &[String]| match is_standalone {
        true => standalone_virtual_hosts(host, forms, &by_port, preferred),
        false => {
            let one = |(port, action): &(u16, RouteAction)| {
                let name = names::virtual_host(host, *port);
                let routes = vec![catch_all_route("default", action.clone())];
                (names::route_table(*port), virtual_host(name, forms.to_vec(), routes))
            };
            by_port.iter().map(one).collect()
        }
    };
    let mut placed = of_service(&host, &forms);
    if !pods.is_empty() {
        let by_name = of_service(&format!("*.{host}"), &pods);
        placed.extend(
            by_name.into_iter().map(|(table, one)| (table, route_to_pods(kind, one, key, domain))),
        );
    }
    placed
}

/// The virtual hosts of a service in the standalone table.
fn standalone_virtual_hosts(
    host: &str,
    forms: &[String],
    by_port: &[(u16, RouteAction)],
    preferred: u16,
) -> Vec<TableEntry> {
    let table = || names::STANDALONE_TABLE.to_owned();
    let mut placed = Vec::with_capacity(by_port.len() + 1);
    for (port, action) in by_port {
        let mut domains: Vec<String> = forms.iter().map(|form| format!("{form}:{port}")).collect();
        if by_port.len() == 1 {
            domains.extend_from_slice(forms);
        }
        let name = names::virtual_host(host, *port);
        let routes = vec![catch_all_route("default", action.clone())];
        placed.push((table(), virtual_host(name, domains, routes)));
    }
    if by_port.len() > 1 {
        let (default, others): (Vec<_>, Vec<_>) =
            by_port.iter().partition(|(port, _)| *port == preferred);
        let others =
            others.into_iter().map(|(port, action)| listener_port_route(*port, action.clone()));
        let default =
            default.into_iter().map(|(_, action)| catch_all_route("default", action.clone()));
        let routes = others.chain(default).collect();
        placed.push((table(), virtual_host(host.to_owned(), forms.to_vec(), routes)));
    }
    placed
}

/// What came to a listener with this number.
fn listener_port_route(port: u16, action: RouteAction) -> Route {
    let mut route = catch_all_route(&format!("listener {port}"), action);
    let is_port = HeaderMatcher {
        name: LISTENER_PORT_HEADER.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(port.to_string())),
            ..Default::default()
        })),
        ..Default::default()
    };
    route.r#match.get_or_insert_default().headers.push(is_port);
    route
}

/// The table without the services' virtual hosts: its fixed fields and, for captured traffic,
/// the way out for hosts that nobody here answers to.
///
/// A bound listener has no such way: nothing tells where the request was meant to go.
pub fn table_without_services(kind: &ProxyKind, name: &str) -> RouteConfiguration {
    let captured = *kind == ProxyKind::Sidecar;
    let by_port = !matches!(kind, ProxyKind::Standalone { .. });
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: captured.then(allow_any_host).into_iter().collect(),
        // A route may arrive before its cluster; then it answers 503, which beats a NACK.
        validate_clusters: Some(BoolValue { value: false }),
        // By port number the table is already chosen, so whatever port the client put into Host
        // says nothing more. In the standalone table the port is what tells services apart.
        ignore_port_in_host_matching: by_port,
        // It is between the listener and this table.
        request_headers_to_remove: match by_port {
            true => Vec::new(),
            false => vec![LISTENER_PORT_HEADER.to_owned()],
        },
        ..Default::default()
    }
}

fn allow_any_host() -> VirtualHost {
    let action = RouteAction {
        timeout: Some(seconds(0)),
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(
            names::PASSTHROUGH_CLUSTER.to_owned(),
        )),
        ..Default::default()
    };
    VirtualHost {
        name: names::ALLOW_ANY.to_owned(),
        domains: vec!["*".to_owned()],
        routes: vec![catch_all_route(names::ALLOW_ANY, action)],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

/// The domains of the pods behind a headless service, which have names of their own.
///
/// Whether a name is one of a pod, only DNS knows. Where traffic is captured, so has the client's
/// resolver decided already, and none but the names below the service's full name is taken:
/// `www.app` may be a pod of the service `app` or a host outside, and `leaf.nats` a pod of `nats` or
/// a service in the namespace `nats`.
fn pod_domains(kind: &ProxyKind, key: &ServiceKey, forms: &[String]) -> Vec<String> {
    let full = format!("{}.{}.svc", key.name, key.namespace);
    let taken = |form: &&String| *kind != ProxyKind::Sidecar || form.starts_with(&full);
    forms.iter().filter(taken).map(|form| format!("*.{form}")).collect()
}

/// Requests for a pod of a headless service by its name.
///
/// Captured, they go where the client's connection was meant to go: DNS has led it to that pod, or
/// to none of the service's. Elsewhere the name chooses among the endpoints; what stands before the
/// service's name must then be one label, since `db-0.leaf.nats` is no pod of `nats`.
fn route_to_pods(
    kind: &ProxyKind,
    mut host: VirtualHost,
    key: &ServiceKey,
    domain: &str,
) -> VirtualHost {
    if *kind == ProxyKind::Sidecar {
        for route in &mut host.routes {
            if let Some(route::Action::Route(action)) = &mut route.action {
                let through = names::PASSTHROUGH_CLUSTER.to_owned();
                action.cluster_specifier = Some(route_action::ClusterSpecifier::Cluster(through));
            }
        }
        return host;
    }
    let matches = host.routes.iter_mut().filter_map(|route| route.r#match.as_mut());
    matches.for_each(|one| one.headers.push(pod_name_matcher(key, domain)));
    host.typed_per_filter_config.insert(POD_NAME_FILTER.to_owned(), to_any(&pod_name_from_host()));
    host
}

/// A Host of one label and any form of the service's name, maybe with a port.
fn pod_name_matcher(key: &ServiceKey, domain: &str) -> HeaderMatcher {
    let [name, namespace, domain] =
        [&*key.name, &*key.namespace, domain].map(|text| text.replace('.', r"\."));
    let regex = format!(r"(?i)[^.]+\.{name}(\.{namespace}(\.svc(\.{domain}\.?)?)?)?(:[0-9]+)?");
    let pattern = MatchPattern::SafeRegex(RegexMatcher { regex, ..Default::default() });
    let pattern = StringMatcher { match_pattern: Some(pattern), ..Default::default() };
    HeaderMatcher {
        name: ":authority".to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(pattern)),
        ..Default::default()
    }
}

fn cluster_action(kind: &ProxyKind, policy: &TrafficPolicy, cluster: String) -> RouteAction {
    RouteAction {
        // No limit but the client's own unless the service has one.
        timeout: Some(policy.request_timeout.map_or(seconds(0), proto_duration)),
        retry_policy: match policy.retries.unwrap_or(TrafficPolicy::RETRIES) {
            0 => None,
            retries => Some(retry_policy(retries)),
        },
        hash_policy: hashes_clients(kind, policy).then(source_address_hash).into_iter().collect(),
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster)),
        ..Default::default()
    }
}

fn source_address_hash() -> HashPolicy {
    HashPolicy {
        policy_specifier: Some(PolicySpecifier::ConnectionProperties(ConnectionProperties {
            source_ip: true,
        })),
        ..Default::default()
    }
}

/// Gives the Host's first label to the cluster's subsets. Without this the same filter does
/// nothing.
fn pod_name_from_host() -> HeaderToMetadata {
    let rewrite = RegexMatchAndSubstitute {
        pattern: Some(RegexMatcher { regex: r"^([^.]*)\..*$".to_owned(), ..Default::default() }),
        substitution: r"\1".to_owned(),
    };
    HeaderToMetadata {
        request_rules: vec![Rule {
            header: ":authority".to_owned(),
            on_header_present: Some(KeyValuePair {
                metadata_namespace: SUBSET_NAMESPACE.to_owned(),
                key: HOSTNAME_KEY.to_owned(),
                regex_value_rewrite: Some(rewrite),
                ..Default::default()
            }),
            ..Default::default()
        }],
        ..Default::default()
    }
}

fn virtual_host(name: String, domains: Vec<String>, routes: Vec<Route>) -> VirtualHost {
    VirtualHost { name, domains, routes, include_request_attempt_count: true, ..Default::default() }
}

fn catch_all_route(name: &str, action: RouteAction) -> Route {
    Route {
        name: name.to_owned(),
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
            ..Default::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Default::default()
    }
}

/// Istio's default: twice, on another host, and only where the request was not acted upon.
fn retry_policy(retries: u32) -> RetryPolicy {
    RetryPolicy {
        retry_on: "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
            .to_owned(),
        num_retries: Some(uint32_value(retries)),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(to_any(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
