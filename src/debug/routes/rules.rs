//! The rules in effect for the requests to a Service, and why a route is not among them. Part of `registryz` and
//! of the Service's own page.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::{ParentLine, parent_line};
use crate::model::route::{
    AppliedRoute, Backend, BackendProblem, BackendRef, GrpcMethod, HeaderModifier, NameMatch,
    ParentTarget, ParentVerdict, PathMatch, PathModifier, PortRules, ResolvedBackends, RouteFilter,
    RouteMatch, RouteReport, RouteRule, ServiceRules, TextMatch,
};
use crate::model::{EndpointState, Model, RouteKey, Service, ServiceKey};

/// All that routes have to do with a Service.
#[derive(Debug, Serialize)]
pub(in crate::debug) struct RulesOfService<'a> {
    /// For clients of every namespace that has none of its own.
    producer: Vec<PortLine>,
    /// For clients of these namespaces, in the place of the producer's.
    consumers: BTreeMap<&'a str, Vec<PortLine>>,
    /// Routes that name the Service as a parent and do not apply to it, or not as they were meant.
    problems: Vec<RouteProblem<'a>>,
}

#[derive(Debug, Serialize)]
struct RouteProblem<'a> {
    route: String,
    #[serde(flatten)]
    at: ParentLine<'a>,
}

#[derive(Debug, Serialize)]
struct PortLine {
    port: u16,
    kind: &'static str,
    /// Which of their matches counts for a request, the Gateway API's order of precedence says.
    routes: Vec<RouteLine>,
}

#[derive(Debug, Serialize)]
struct RouteLine {
    namespace: String,
    name: String,
    rules: Vec<RuleLine>,
}

#[derive(Debug, Serialize)]
struct RuleLine {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    /// One of them must hold.
    matches: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filters: Vec<String>,
    backends: Vec<BackendLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_timeout: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    backend_timeout: Option<String>,
}

#[derive(Debug, Serialize)]
struct BackendLine {
    /// `NAMESPACE/NAME:PORT` of a Service, else kind and name.
    backend: String,
    weight: u32,
    /// Endpoints that are ready.
    #[serde(skip_serializing_if = "Option::is_none")]
    ready: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    filters: Vec<String>,
    /// Why its share is answered with an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<&'static str>,
}

/// The routes that name a Service as a parent, by Service: found once for a page.
pub(in crate::debug) struct Named<'a>(
    BTreeMap<&'a ServiceKey, Vec<(&'a RouteKey, &'a ParentVerdict)>>,
);

impl<'a> Named<'a> {
    /// Of all Services.
    pub(in crate::debug) fn new(report: &'a RouteReport) -> Self {
        Self::of(report, |_| true)
    }

    /// Of one.
    pub(in crate::debug) fn of_service(report: &'a RouteReport, wanted: &ServiceKey) -> Self {
        Self::of(report, |key| key == wanted)
    }

    fn of(report: &'a RouteReport, is_wanted: impl Fn(&ServiceKey) -> bool) -> Self {
        let mut all: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (route, verdict) in &report.routes {
            for of in &verdict.parents {
                if let ParentTarget::Service(service) = &of.parent.target
                    && is_wanted(service)
                {
                    all.entry(service).or_default().push((route, of));
                }
            }
        }
        Self(all)
    }
}

/// What there is about a Service; nothing if no route names it.
pub(in crate::debug) fn rules_of_service<'a>(
    model: &Model,
    report: &'a RouteReport,
    named: &Named<'a>,
    key: &ServiceKey,
) -> Option<RulesOfService<'a>> {
    let rules = report.services.get(key);
    let named = named.0.get(key).map(Vec::as_slice).unwrap_or_default();
    if rules.is_none() && named.is_empty() {
        return None;
    }
    let problems = named.iter().filter(|(_, of)| !of.is_sound());
    let lines = |ports: &BTreeMap<u16, Arc<PortRules>>| {
        ports.iter().map(|(port, rules)| port_line(model, *port, rules)).collect::<Vec<_>>()
    };
    let consumers = rules.map(|rules: &Arc<ServiceRules>| &rules.consumers).into_iter().flatten();
    Some(RulesOfService {
        producer: rules.map(|rules| lines(&rules.producer)).unwrap_or_default(),
        consumers: consumers.map(|(namespace, ports)| (&**namespace, lines(ports))).collect(),
        problems: problems
            .map(|(route, of)| RouteProblem { route: route.to_string(), at: parent_line(of) })
            .collect(),
    })
}

fn port_line(model: &Model, port: u16, rules: &PortRules) -> PortLine {
    let route = |AppliedRoute { route, backends }: &AppliedRoute| RouteLine {
        namespace: route.key.namespace.to_string(),
        name: route.key.name.to_string(),
        rules: route.rules.iter().map(|rule| rule_line(model, rule, backends)).collect(),
    };
    PortLine { port, kind: rules.kind.as_str(), routes: rules.routes.iter().map(route).collect() }
}

fn rule_line(model: &Model, rule: &RouteRule, resolved: &ResolvedBackends) -> RuleLine {
    let timeout = |of: Option<Duration>| of.map(|of| humantime::format_duration(of).to_string());
    RuleLine {
        name: rule.name.as_deref().map(str::to_owned),
        matches: rule.matches.iter().map(match_text).collect(),
        filters: rule.filters.iter().map(|filter| filter_text(filter, resolved)).collect(),
        backends: rule.backends.iter().map(|one| backend_line(model, one, resolved)).collect(),
        request_timeout: timeout(rule.request_timeout),
        backend_timeout: timeout(rule.backend_timeout),
    }
}

fn backend_line(model: &Model, backend: &Backend, resolved: &ResolvedBackends) -> BackendLine {
    let found = resolved.get(&backend.target);
    let ready = match (&backend.target, found) {
        (BackendRef::Service { port, .. }, Some(Ok(service))) => Some(ready(model, service, *port)),
        _ => None,
    };
    BackendLine {
        backend: backend_text(&backend.target),
        weight: backend.weight,
        ready,
        filters: backend.filters.iter().map(|filter| filter_text(filter, resolved)).collect(),
        problem: found.and_then(|found| found.as_ref().err()).map(|one| problem_text(*one)),
    }
}

/// Different addresses that are ready behind a port of a Service.
fn ready(model: &Model, service: &Service, port: u16) -> usize {
    let Some(port) = service.ports.iter().find(|one| one.port == port) else { return 0 };
    let subsets = model.slices(&service.key).flat_map(|slice| &slice.subsets);
    let fitting = subsets.filter(|subset| subset.ports.iter().any(|one| one.name == port.name));
    let endpoints = fitting.flat_map(|subset| &subset.endpoints);
    let ready = endpoints.filter(|one| one.state == EndpointState::Ready);
    ready.map(|one| one.address).collect::<std::collections::BTreeSet<_>>().len()
}

fn backend_text(of: &BackendRef) -> String {
    match of {
        BackendRef::Service { key, port } => format!("{key}:{port}"),
        BackendRef::Other { kind, namespace, name, .. } => format!("{kind} {namespace}/{name}"),
    }
}

/// In the words of the Gateway API's reasons, as far as it has one.
fn problem_text(of: BackendProblem) -> &'static str {
    match of {
        BackendProblem::InvalidKind => "InvalidKind",
        BackendProblem::NotFound => "BackendNotFound",
        BackendProblem::NoSuchPort => "NoSuchPort",
        BackendProblem::UnsupportedProtocol => "UnsupportedProtocol",
        BackendProblem::NotPermitted => "RefNotPermitted",
    }
}

/// A match in one line, as `GET /reviews/ (prefix), header end-user = jason`.
fn match_text(of: &RouteMatch) -> String {
    let mut text = of.method.as_deref().map(|method| format!("{method} ")).unwrap_or_default();
    text.push_str(&match &of.path {
        PathMatch::Exact(path) => format!("{path} (exact)"),
        PathMatch::Prefix(path) => format!("{path} (prefix)"),
        PathMatch::Regex(path) => format!("{path} (regular expression)"),
        PathMatch::Grpc(GrpcMethod { service, method }) => {
            let part = |of: &Option<TextMatch>| match of {
                None => "*".to_owned(),
                Some(TextMatch::Exact(text)) => text.to_string(),
                Some(TextMatch::Regex(text)) => format!("~{text}"),
            };
            format!("/{}/{}", part(service), part(method))
        }
    });
    for (what, names) in [("header", &of.headers), ("query parameter", &of.query)] {
        for NameMatch { name, value } in names {
            text.push_str(&match value {
                TextMatch::Exact(value) => format!(", {what} {name} = {value}"),
                TextMatch::Regex(value) => format!(", {what} {name} ~ {value}"),
            });
        }
    }
    text
}

fn filter_text(of: &RouteFilter, resolved: &ResolvedBackends) -> String {
    match of {
        RouteFilter::RequestHeaders(of) => format!("request headers: {}", headers_text(of)),
        RouteFilter::ResponseHeaders(of) => format!("response headers: {}", headers_text(of)),
        RouteFilter::Mirror(of) => {
            let share = match (of.numerator, of.denominator) {
                (numerator, denominator) if numerator == denominator => String::new(),
                (numerator, denominator) => format!(" {numerator}/{denominator} of the requests"),
            };
            let problem = resolved.get(&of.backend).and_then(|found| found.as_ref().err());
            let problem = problem.map(|one| format!(" ({})", problem_text(*one)));
            format!("mirror{share} to {}{}", backend_text(&of.backend), problem.unwrap_or_default())
        }
        RouteFilter::Redirect(of) => {
            let mut text = format!("redirect {}", of.status);
            let port = of.port.map(|port| port.to_string());
            let parts = [
                ("scheme", of.scheme.as_deref()),
                ("host", of.hostname.as_deref()),
                ("port", port.as_deref()),
            ];
            for (name, value) in parts {
                text.push_str(&value.map(|of| format!(", {name} {of}")).unwrap_or_default());
            }
            text + &path_text(of.path.as_ref())
        }
        RouteFilter::Rewrite(of) => {
            let host = of.hostname.as_deref().map(|host| format!(", host {host}"));
            format!("rewrite{}{}", host.unwrap_or_default(), path_text(of.path.as_ref()))
        }
        RouteFilter::Cors(of) => format!("CORS of {}", of.allow_origins.join(", ")),
    }
}

fn headers_text(of: &HeaderModifier) -> String {
    let pairs = |verb: &'static str, pairs: &[(Arc<str>, Arc<str>)]| {
        pairs.iter().map(move |(name, value)| format!("{verb} {name}: {value}")).collect::<Vec<_>>()
    };
    let mut all = pairs("set", &of.set);
    all.extend(pairs("add", &of.add));
    all.extend(of.remove.iter().map(|name| format!("remove {name}")));
    all.join(", ")
}

fn path_text(of: Option<&PathModifier>) -> String {
    match of {
        None => String::new(),
        Some(PathModifier::ReplaceFull(path)) => format!(", path {path}"),
        Some(PathModifier::ReplacePrefix(path)) => format!(", prefix of the path {path}"),
    }
}
