//! What Envoy's route tables say of the requests to a service: which rules there are, and which one is for a
//! request. Rules are told from other routes by their name, `NAMESPACE/NAME.RULE`.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{BackendFact, Rule};
use crate::names::{self, ClusterName};

/// Which rule a request without headers and without a body would be for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::sidecar::doctor) enum Answer {
    Rule(String),
    /// None: it gets a 404.
    NoRule,
    /// A regular expression would have to be evaluated.
    Unknown,
}

/// The rules that Envoy has for a port of a service, with the endpoints that it has behind them.
pub(in crate::sidecar::doctor) fn rules_of_envoy(
    tables: &Value,
    clusters: &Value,
    host: &str,
    port: u16,
    domain: &str,
) -> Vec<Rule> {
    let mut rules: Vec<Rule> = Vec::new();
    for route in routes(tables, host, port) {
        let Some(name) = route["name"].as_str() else { continue };
        // A rule has a route for each of its matches.
        if rules.iter().any(|rule| rule.name == name) {
            continue;
        }
        let weighted = route["route"]["weighted_clusters"]["clusters"].as_array();
        let weighted = weighted.into_iter().flatten().filter_map(|one| one["name"].as_str());
        let led: Vec<&str> =
            route["route"]["cluster"].as_str().into_iter().chain(weighted).collect();
        let invalid = led.contains(&names::INVALID_BACKEND_CLUSTER);
        // What Pilot answers with where no backend is valid.
        let nowhere = !route["direct_response"].is_null();
        let valid = led.iter().filter(|name| **name != names::INVALID_BACKEND_CLUSTER);
        let backends = valid.map(|cluster| BackendFact {
            name: service_of(cluster, domain),
            ready: ready(clusters, cluster),
        });
        let (backends, name) = (backends.collect(), name.to_owned());
        rules.push(Rule { port, name, backends, has_invalid: invalid || nowhere });
    }
    rules
}

/// The ports of a service for which Envoy has routes.
pub(in crate::sidecar::doctor) fn ports_of_envoy(tables: &Value, host: &str) -> BTreeSet<u16> {
    let configs = tables["configs"].as_array().into_iter().flatten();
    let hosts = configs.filter_map(|config| config["route_config"]["virtual_hosts"].as_array());
    let names = hosts.flatten().filter_map(|one| one["name"].as_str()?.rsplit_once(':'));
    names.filter(|(own, _)| *own == host).filter_map(|(_, port)| port.parse().ok()).collect()
}

/// Which rule of a port a `GET` of this path is for; `None` if the port has no rules here.
pub(in crate::sidecar::doctor) fn answer_to(
    path: &str,
    tables: &Value,
    host: &str,
    port: u16,
) -> Option<Answer> {
    let mut routes = routes(tables, host, port).peekable();
    routes.peek()?;
    for route in routes {
        match matches(&route["match"], path) {
            Some(true) => {
                return Some(Answer::Rule(route["name"].as_str().unwrap_or_default().to_owned()));
            }
            Some(false) => {}
            None => return Some(Answer::Unknown),
        }
    }
    Some(Answer::NoRule)
}

/// The routes of rules for a port, in Envoy's order. Where the Service has a table of its own, only that counts.
fn routes<'a>(
    tables: &'a Value,
    host: &str,
    port: u16,
) -> impl Iterator<Item = &'a Value> + use<'a> {
    let wanted = names::virtual_host(host, port);
    let configs = tables["configs"].as_array().into_iter().flatten();
    let hosts = configs.flat_map(|config| {
        let config = &config["route_config"];
        let hosts = config["virtual_hosts"].as_array().into_iter().flatten();
        hosts.map(move |host| (&config["name"], host))
    });
    let mut own: Vec<_> = hosts.filter(|(_, host)| host["name"] == *wanted).collect();
    own.sort_by_key(|(table, _)| **table != *wanted);
    let routes = own.into_iter().map(|(_, host)| host["routes"].as_array());
    let routes = routes.flatten().find(|routes| routes.iter().any(is_rule));
    routes.into_iter().flatten().filter(|route| is_rule(route))
}

fn is_rule(route: &Value) -> bool {
    route["name"].as_str().is_some_and(|name| name.contains('/'))
}

/// Whether a `GET` of a path without headers matches; `None` if a regular expression decides.
fn matches(of: &Value, path: &str) -> Option<bool> {
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let text = |name: &str| of[name].as_str();
    let by_path = if let Some(exact) = text("path") {
        Some(path == exact)
    } else if let Some(prefix) = text("path_separated_prefix") {
        let rest = path.strip_prefix(prefix);
        Some(rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
    } else {
        text("prefix").map(|prefix| path.starts_with(prefix))
    };
    let headers = of["headers"].as_array().into_iter().flatten();
    let by_header = headers.map(|header| match (header["name"].as_str(), value(header)) {
        (Some(":method"), value) => value.map(|value| value == "GET"),
        (Some(":authority" | ":scheme"), _) => None,
        // It has no other.
        _ => Some(header["invert_match"] == true),
    });
    let parameters = of["query_parameters"].as_array().into_iter().flatten();
    let by_parameter = parameters.map(|parameter| {
        let name = parameter["name"].as_str().unwrap_or_default();
        let mut given = query.split('&').map(|one| one.split_once('=').unwrap_or((one, "")));
        match given.find(|(own, _)| *own == name) {
            None => Some(false),
            Some((_, given)) => value(parameter).map(|value| value == given),
        }
    });
    let all: Vec<_> = std::iter::once(by_path).chain(by_header).chain(by_parameter).collect();
    match all.contains(&Some(false)) {
        true => Some(false),
        false => (!all.contains(&None)).then_some(true),
    }
}

/// The text that must be there, if it is one.
fn value(of: &Value) -> Option<&str> {
    of["string_match"]["exact"].as_str()
}

/// `NAMESPACE/NAME:PORT` of a cluster for a Service.
fn service_of(cluster: &str, domain: &str) -> String {
    let Some(ClusterName::Outbound { port, host }) = ClusterName::parse(cluster) else {
        return cluster.to_owned();
    };
    match names::service_of_host(host, domain) {
        Some((name, namespace)) => format!("{namespace}/{name}:{port}"),
        None => format!("{host}:{port}"),
    }
}

/// How many endpoints Envoy has in a cluster; `None` if it does not know the cluster.
fn ready(clusters: &Value, name: &str) -> Option<usize> {
    let mut all = clusters["cluster_statuses"].as_array()?.iter();
    let own = all.find(|cluster| cluster["name"] == *name)?;
    Some(own["host_statuses"].as_array().map_or(0, Vec::len))
}
