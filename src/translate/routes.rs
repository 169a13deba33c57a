//! Route tables: the cluster for each Host.
//!
//! Captured and bound proxies have a table per port number, because the listener determines the port; a
//! standalone Envoy has one table, in which the port is part of the Host. A table consists of its fixed
//! fields ([`table_without_services`]) and the virtual hosts of services ([`virtual_hosts`]);
//! `virtual_hosts` is a repeated field, so the encoded parts are concatenated.
//!
//! Envoy rejects a table in which a domain occurs twice. Names of two services are never equal
//! ([`names::dns_forms`]), and the model makes the ports of a service unique; only cluster IPs can occur
//! twice, if two manifests claim one or a watch is behind. That is why they are a parameter.

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

/// The virtual hosts of `service` for proxies of a kind, one per HTTP port; a headless service has another
/// one for the names of its pods (see `route_to_pods`). An alias has those of its target, under its own
/// names.
///
/// `namespace` is the proxy's: within its namespace a service is reachable by its bare name as well. For
/// every other namespace, and for `None`, the result is the same, so that it can be shared.
/// `addresses` are the cluster IPs of the service that no service before it claims.
///
/// In the standalone table each name has a domain with each of the ports. The name without a port is
/// the domain of one of them: of the listener's own number (a client that connected to it by name has that
/// number in its Host, and it is stripped, see `listeners`), else of 80, else of the first. The table does
/// not depend on the listener's number, because a proxy may choose any: the listener sets a header with
/// its number, by which the bare name of a service with several ports is routed.
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

/// The route for requests that came to the listener with this number.
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

/// The table without the services' virtual hosts: its fixed fields and, for captured traffic, the virtual
/// host that passes requests for unknown hosts through.
///
/// A bound listener has no such virtual host: the original destination of the request is not known.
pub fn table_without_services(kind: &ProxyKind, name: &str) -> RouteConfiguration {
    let captured = *kind == ProxyKind::Sidecar;
    let by_port = !matches!(kind, ProxyKind::Standalone { .. });
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: captured.then(allow_any_host).into_iter().collect(),
        // A route may arrive before its cluster; Envoy then answers 503 instead of rejecting the table.
        validate_clusters: Some(BoolValue { value: false }),
        // The table of a port number is that port's, whatever port the client's Host has. In the
        // standalone table the port distinguishes services.
        ignore_port_in_host_matching: by_port,
        // Only the listener and this table may see it.
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

/// The domains of the pods of a headless service, which have DNS names of their own.
///
/// Only DNS knows whether a name is a pod's. Where traffic is captured, the client's resolver has decided
/// that already, and only names below the service's full name are matched: `www.app` may be a pod of the
/// service `app` or a host outside, and `leaf.nats` a pod of `nats` or a service in the namespace `nats`.
fn pod_domains(kind: &ProxyKind, key: &ServiceKey, forms: &[String]) -> Vec<String> {
    let full = format!("{}.{}.svc", key.name, key.namespace);
    let taken = |form: &&String| *kind != ProxyKind::Sidecar || form.starts_with(&full);
    forms.iter().filter(taken).map(|form| format!("*.{form}")).collect()
}

/// The virtual host for a pod of a headless service, by its name.
///
/// Captured requests are forwarded to their original destination: DNS has resolved the name to that pod, or
/// to none of the service's. Elsewhere the name selects the endpoint; then only one label may precede the
/// service's name, because `db-0.leaf.nats` is no pod of `nats`.
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

/// Matches a Host of one label and any form of the service's name, with or without a port.
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
        // No timeout except the client's unless the service has one.
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

/// Configures the filter that copies the Host's first label to the metadata for subset load balancing.
/// Without this configuration the filter does nothing.
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

/// Istio's default: two retries, on another host, and only if the request was not processed.
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
