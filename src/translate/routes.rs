//! Route tables: which cluster a Host leads to.
//!
//! Captured and bound proxies have a table per port number, since the listener already knows the
//! port; a standalone Envoy has a single table in which the port is part of the Host. A table is
//! its skeleton ([`table`]) and the virtual hosts that services put into it ([`virtual_hosts`]);
//! `virtual_hosts` is a repeated field, so the encoded parts may simply be put in a row.
//!
//! Envoy rejects a table in which a domain occurs twice. Names of two services cannot meet
//! ([`names::dns_forms`]), ports of one service differ by the model's word; only cluster IPs can,
//! when manifests claim one twice or a watch is late. That is why they are a parameter.

use std::net::IpAddr;

use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RetryHostPredicate, retry_host_predicate,
};
use envoy_types::pb::envoy::config::route::v3::route_action::HashPolicy;
use envoy_types::pb::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, PolicySpecifier,
};
use envoy_types::pb::envoy::config::route::v3::{
    RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost, route,
    route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::Config as HeaderToMetadata;
use envoy_types::pb::envoy::extensions::filters::http::header_to_metadata::v3::config::{
    KeyValuePair, Rule,
};
use envoy_types::pb::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, RegexMatcher};
use envoy_types::pb::google::protobuf::BoolValue;

use super::{
    HOSTNAME_KEY, POD_NAME_FILTER, SUBSET_NAMESPACE, any, behind, duration, hashes_clients,
    http_ports, number, seconds, served_http_ports,
};
use crate::model::{Service, ServiceKind, Tuning};
use crate::names;
use crate::view::ProxyKind;

mod inbound;

pub use inbound::inbound;

/// A virtual host and the name of the table it belongs to.
pub type Placed = (String, VirtualHost);

/// The virtual hosts that `service` puts into the tables of such proxies, one per HTTP port; for a
/// headless service another one for the names of its pods. An alias has those of the service that it
/// stands for, under its own names.
///
/// `namespace` is the proxy's: services of the same namespace answer to their bare name as well.
/// For every other namespace, and for none, the result is the same, so that it can be shared.
/// `addresses` are those of the service's cluster IPs that no other service claims before it.
///
/// In the standalone table every name stands with each of the ports, and alone for the one port
/// that is meant if none is said: the listener's own number (a client that came to it by name
/// has that in its Host, and it is stripped, see `listeners`), else 80, else the first.
pub fn virtual_hosts(
    kind: &ProxyKind,
    namespace: Option<&str>,
    service: &Service,
    addresses: &[IpAddr],
    domain: &str,
) -> Vec<Placed> {
    let own_port = match kind {
        ProxyKind::Standalone { port, .. } => Some(*port),
        ProxyKind::Sidecar | ProxyKind::BoundSidecar | ProxyKind::Router => None,
    };
    let ports: Vec<u16> = match own_port {
        Some(_) => served_http_ports(service).collect(),
        None => http_ports(kind, service).collect(),
    };
    let Some(&first) = ports.first() else { return Vec::new() };
    let target = behind(service);
    let preferred =
        own_port.into_iter().chain([80]).find(|port| ports.contains(port)).unwrap_or(first);

    let key = &service.key;
    let host = names::host(&key.name, &key.namespace, domain);
    let is_local = namespace == Some(&*key.namespace);
    let mut forms = names::dns_forms(&key.name, &key.namespace, domain, is_local);
    // The pods behind a headless service have names of their own, whatever the service is called.
    let pods: Vec<String> = match service.kind {
        ServiceKind::Headless => forms.iter().map(|form| format!("*.{form}")).collect(),
        _ => Vec::new(),
    };
    forms.extend(addresses.iter().copied().map(names::host_of_address));

    let domains = |forms: &[String], port: u16| {
        if own_port.is_none() {
            return forms.to_vec();
        }
        let mut domains: Vec<String> = forms.iter().map(|form| format!("{form}:{port}")).collect();
        if port == preferred {
            domains.extend_from_slice(forms);
        }
        domains
    };
    let target_host = names::host(&target.key.name, &target.key.namespace, domain);
    let mut placed = Vec::with_capacity(ports.len());
    for port in ports {
        let table = match own_port {
            Some(_) => names::STANDALONE_TABLE.to_owned(),
            None => names::route_table(port),
        };
        let cluster = names::outbound_cluster(port, &target_host);
        let action = action(kind, &target.tuning, cluster);
        let name = names::virtual_host(&host, port);
        placed.push((table.clone(), virtual_host(name, domains(&forms, port), action.clone())));
        if !pods.is_empty() {
            let name = names::virtual_host(&format!("*.{host}"), port);
            let mut of_pods = virtual_host(name, domains(&pods, port), action);
            of_pods
                .typed_per_filter_config
                .insert(POD_NAME_FILTER.to_owned(), any(&first_label_is_the_pod()));
            placed.push((table, of_pods));
        }
    }
    placed
}

/// The table without the services' virtual hosts: its fixed fields and, for captured traffic,
/// the way out for hosts that nobody here answers to.
///
/// A bound listener has no such way: nothing tells where the request was meant to go.
pub fn table(kind: &ProxyKind, name: &str) -> RouteConfiguration {
    let captured = *kind == ProxyKind::Sidecar;
    let by_port = !matches!(kind, ProxyKind::Standalone { .. });
    RouteConfiguration {
        name: name.to_owned(),
        virtual_hosts: captured.then(allow_any).into_iter().collect(),
        // A route may arrive before its cluster; then it answers 503, which beats a NACK.
        validate_clusters: Some(BoolValue { value: false }),
        // By port number the table is already chosen, so whatever port the client put into Host
        // says nothing more. In the standalone table the port is what tells services apart.
        ignore_port_in_host_matching: by_port,
        ..Default::default()
    }
}

fn allow_any() -> VirtualHost {
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
        routes: vec![everything(names::ALLOW_ANY, action)],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

fn action(kind: &ProxyKind, tuning: &Tuning, cluster: String) -> RouteAction {
    RouteAction {
        // No limit but the client's own unless the service has one.
        timeout: Some(tuning.request_timeout.map_or(seconds(0), duration)),
        retry_policy: match tuning.retries.unwrap_or(Tuning::RETRIES) {
            0 => None,
            retries => Some(retry_policy(retries)),
        },
        hash_policy: hashes_clients(kind, tuning).then(by_source_address).into_iter().collect(),
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(cluster)),
        ..Default::default()
    }
}

fn by_source_address() -> HashPolicy {
    HashPolicy {
        policy_specifier: Some(PolicySpecifier::ConnectionProperties(ConnectionProperties {
            source_ip: true,
        })),
        ..Default::default()
    }
}

/// Gives the Host's first label to the cluster's subsets. Without this the same filter does
/// nothing.
fn first_label_is_the_pod() -> HeaderToMetadata {
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

fn virtual_host(name: String, domains: Vec<String>, action: RouteAction) -> VirtualHost {
    VirtualHost {
        name,
        domains,
        routes: vec![everything("default", action)],
        include_request_attempt_count: true,
        ..Default::default()
    }
}

fn everything(name: &str, action: RouteAction) -> Route {
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
        num_retries: Some(number(retries)),
        retry_host_predicate: vec![RetryHostPredicate {
            name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
            config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
                &PreviousHostsPredicate {},
            ))),
        }],
        host_selection_retry_max_attempts: 5,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests;
