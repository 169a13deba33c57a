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
    ADDRESS_CLUSTER_HEADER, DESTINATION_HEADER, HOSTNAME_KEY, LISTENER_PORT_HEADER,
    POD_NAME_FILTER, SUBSET_NAMESPACE, hashes_clients, http_ports, proto_duration, seconds,
    served_http_ports, target_service, to_any, uint32_value,
};
use crate::model::{Service, ServiceKey, ServiceKind, TrafficPolicy};
use crate::names;
use crate::view::ProxyKind;

mod inbound;
mod on_demand;
mod rules;

pub use inbound::inbound_routes;
pub use on_demand::{ClusterIpRanges, is_by_address};
pub use rules::{Rules, rules_table};

/// A virtual host and the name of the table it belongs to.
pub type TableEntry = (String, VirtualHost);

/// The virtual hosts of `service` for proxies of a kind, one per HTTP port; a headless service has another
/// one for the names of its pods (see `route_to_pods`). An alias has those of its target, under its own
/// names.
///
/// `namespace` is the proxy's: within its namespace a service is reachable by its bare name as well. For
/// every other namespace, and for `None`, the result is the same, so that it can be shared.
/// `addresses` are the cluster IPs of the service that no service before it claims. `rules` are those in
/// effect for the service (an alias's target) and for the clients in question.
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
    rules: Rules<'_>,
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
    let to_service = |port: u16| vec![catch_all_route("default", to(port))];
    let by_rules = |port: u16| rules::port_routes(kind, target, port, rules, domain, to_service);
    let of_service = |host: &str, forms: &[String], by_port: Vec<PortRoutes>| match is_standalone {
        true => standalone_virtual_hosts(host, forms, by_port, preferred),
        false => {
            let one = |PortRoutes { port, routes, .. }: PortRoutes| {
                let name = names::virtual_host(host, port);
                (names::route_table(port), virtual_host(name, forms.to_vec(), routes))
            };
            by_port.into_iter().map(one).collect()
        }
    };
    let mut placed = of_service(&host, &forms, ports.iter().map(|port| by_rules(*port)).collect());
    if !pods.is_empty() {
        // Rules are for the requests to the Service, not for those to one of its pods.
        let unruled =
            |port: &u16| PortRoutes { port: *port, routes: to_service(*port), by_rules: false };
        let by_port = ports.iter().map(unruled).collect();
        let by_name = of_service(&format!("*.{host}"), &pods, by_port);
        placed.extend(
            by_name.into_iter().map(|(table, one)| (table, route_to_pods(kind, one, key, domain))),
        );
    }
    placed
}

/// The routes for requests to one port of a service.
struct PortRoutes {
    port: u16,
    routes: Vec<Route>,
    /// Whether they are those of rules, so that there may be requests which none of them matches.
    by_rules: bool,
}

/// The virtual hosts of a service in the standalone table.
fn standalone_virtual_hosts(
    host: &str,
    forms: &[String],
    by_port: Vec<PortRoutes>,
    preferred: u16,
) -> Vec<TableEntry> {
    let table = || names::STANDALONE_TABLE.to_owned();
    let mut placed = Vec::with_capacity(by_port.len() + 1);
    let is_only = by_port.len() == 1;
    for PortRoutes { port, routes, .. } in &by_port {
        let mut domains: Vec<String> = forms.iter().map(|form| format!("{form}:{port}")).collect();
        if is_only {
            domains.extend_from_slice(forms);
        }
        let name = names::virtual_host(host, *port);
        placed.push((table(), virtual_host(name, domains, routes.clone())));
    }
    if !is_only {
        let (default, others): (Vec<_>, Vec<_>) =
            by_port.into_iter().partition(|one| one.port == preferred);
        let others = others.into_iter().flat_map(listener_port_routes);
        let routes = others.chain(default.into_iter().flat_map(|one| one.routes)).collect();
        placed.push((table(), virtual_host(host.to_owned(), forms.to_vec(), routes)));
    }
    placed
}

/// The routes for requests that came to the listener with the number of their port.
fn listener_port_routes(of: PortRoutes) -> Vec<Route> {
    let PortRoutes { port, mut routes, by_rules } = of;
    if by_rules {
        // Those of another port must not match what no rule of this one does.
        routes.push(rules::no_rule_matches());
    } else {
        routes.iter_mut().for_each(|route| route.name = format!("listener {port}"));
    }
    for route in &mut routes {
        let matcher = header_is(LISTENER_PORT_HEADER, port.to_string());
        route.r#match.get_or_insert_default().headers.push(matcher);
    }
    routes
}

fn header_is(name: &str, value: String) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
            match_pattern: Some(MatchPattern::Exact(value)),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// The table without the services' virtual hosts: its fixed fields and, for captured traffic, the virtual
/// host that passes requests for unknown hosts through.
///
/// A bound listener has no such virtual host: the original destination of the request is not known.
/// `by_destination`: its listener gives that (`DESTINATION_HEADER`). `cluster_ips`: where requests of on-demand
/// sidecars are routed by it.
pub fn table_without_services(
    kind: &ProxyKind,
    name: &str,
    by_destination: bool,
    cluster_ips: &ClusterIpRanges,
) -> RouteConfiguration {
    let captured = kind.is_captured();
    let on_demand = *kind == ProxyKind::OnDemandSidecar;
    let by_address = on_demand.then(|| on_demand::route_by_address(kind, cluster_ips)).flatten();
    let by_port = !matches!(kind, ProxyKind::Standalone { .. });
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: captured.then(|| allow_any_host(by_address)).into_iter().collect(),
        // A route may arrive before its cluster; Envoy then answers 503 instead of rejecting the table.
        validate_clusters: Some(BoolValue { value: false }),
        // The table of a port number is that port's, whatever port the client's Host has. In the
        // standalone table the port distinguishes services.
        ignore_port_in_host_matching: by_port,
        // Only the listener and this table may see them.
        request_headers_to_remove: match (by_port, by_destination) {
            _ if on_demand => {
                vec![DESTINATION_HEADER.to_owned(), ADDRESS_CLUSTER_HEADER.to_owned()]
            }
            (true, false) => Vec::new(),
            (true, true) => vec![DESTINATION_HEADER.to_owned()],
            (false, _) => vec![LISTENER_PORT_HEADER.to_owned()],
        },
        ..Default::default()
    }
}

fn passthrough() -> RouteAction {
    RouteAction {
        timeout: Some(seconds(0)),
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(
            names::PASSTHROUGH_CLUSTER.to_owned(),
        )),
        ..Default::default()
    }
}

/// `before`: the route that goes before that.
fn allow_any_host(before: Option<Route>) -> VirtualHost {
    let any = catch_all_route(names::ALLOW_ANY, passthrough());
    VirtualHost {
        name: names::ALLOW_ANY.to_owned(),
        domains: vec!["*".to_owned()],
        routes: before.into_iter().chain([any]).collect(),
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
    let taken = |form: &&String| !kind.is_captured() || form.starts_with(&full);
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
    if kind.is_captured() {
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
    route_action(kind, policy, route_action::ClusterSpecifier::Cluster(cluster))
}

/// Forwards as the annotations of a service say, or the defaults.
pub(super) fn route_action(
    kind: &ProxyKind,
    policy: &TrafficPolicy,
    cluster: route_action::ClusterSpecifier,
) -> RouteAction {
    RouteAction {
        // No timeout except the client's unless the service has one.
        timeout: Some(policy.request_timeout.map_or(seconds(0), proto_duration)),
        retry_policy: match policy.retries.unwrap_or(TrafficPolicy::RETRIES) {
            0 => None,
            retries => Some(retry_policy(retries)),
        },
        hash_policy: hashes_clients(kind, policy).then(source_address_hash).into_iter().collect(),
        cluster_specifier: Some(cluster),
        ..Default::default()
    }
}

pub(super) fn source_address_hash() -> HashPolicy {
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
