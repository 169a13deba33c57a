//! What routes (HTTPRoutes and GRPCRoutes) do with the requests to a service, and what is wrong with it. Pure: from
//! the control plane's page about the service, from what Envoy has, and from what Kubernetes has of the routes.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::finding::{Code, Finding};

mod envoy_table;

pub(super) use envoy_table::{Answer, answer_to, ports_of_envoy, rules_of_envoy};

/// Routes that a sentence names.
const MAX_NAMED: usize = 5;

/// What is known of the routes for the requests of this client to a service.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct RouteFacts {
    /// The rules that apply.
    pub(super) rules: Vec<Rule>,
    /// Routes that were meant to apply and do not, or not in full.
    pub(super) problems: Vec<Problem>,
    /// Routes that apply to clients of other namespaces, by namespace.
    pub(super) elsewhere: BTreeMap<String, Vec<String>>,
}

/// A rule of a route.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rule {
    pub(super) port: u16,
    /// `NAMESPACE/NAME.RULE`, as the route in Envoy.
    pub(super) name: String,
    /// With a weight, and valid.
    pub(super) backends: Vec<BackendFact>,
    /// A part of its requests, or all, has no backend that is valid.
    pub(super) has_invalid: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct BackendFact {
    pub(super) name: String,
    /// Endpoints that are ready; `None` if that is not known.
    pub(super) ready: Option<usize>,
}

/// Why a route does not apply as it was meant.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Problem {
    /// Kind, namespace and name.
    pub(super) route: String,
    /// `false` of the condition Accepted, else of ResolvedRefs.
    pub(super) accepted: bool,
    pub(super) reason: String,
    pub(super) message: String,
}

/// A route as Kubernetes has it, that names the service as a parent.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct RouteView {
    /// Kind, namespace and name.
    pub(super) route: String,
    pub(super) namespace: String,
    /// Older than a minute, so that the control plane should know it.
    pub(super) is_settled: bool,
    /// What the control plane has written into its status; `None` if it has not.
    pub(super) problems: Option<Vec<Problem>>,
}

impl RouteFacts {
    /// Reads `rules` of the control plane's page about the service, for a client of this namespace and for one
    /// port, or for all.
    pub(super) fn from_pilot(page: &Value, client: Option<&str>, port: Option<u16>) -> Self {
        let consumers = page["consumers"].as_object();
        let own = client.and_then(|client| consumers?.get(client));
        let ports = own.unwrap_or(&page["producer"]).as_array().into_iter().flatten();
        let rules =
            ports.flat_map(rules_of_port).filter(|rule| port.is_none_or(|of| of == rule.port));
        let others = consumers.into_iter().flatten();
        let others = others.filter(|(namespace, _)| Some(namespace.as_str()) != client);
        let elsewhere = others.map(|(namespace, ports)| {
            let routes = ports.as_array().into_iter().flatten().flat_map(routes_of_port);
            let names: BTreeSet<String> =
                routes.map(|(kind, one)| format!("{kind} {}", name(one))).collect();
            (namespace.clone(), names.into_iter().collect())
        });
        let problems = page["problems"].as_array().into_iter().flatten().filter(|one| {
            // A consumer route is about clients of its own namespace.
            one["role"] != "consumer" || client.is_some_and(|client| of_namespace(one, client))
        });
        Self {
            rules: rules.collect(),
            problems: problems.filter_map(problem).collect(),
            elsewhere: elsewhere.collect(),
        }
    }

    /// Adds what only Kubernetes tells: what stands in the status of routes, where the control plane's page could
    /// not be had.
    pub(super) fn add_statuses(
        &mut self,
        service_namespace: &str,
        client: Option<&str>,
        routes: &[RouteView],
    ) {
        for route in routes {
            if route.namespace == service_namespace || Some(&*route.namespace) == client {
                self.problems.extend(route.problems.iter().flatten().cloned());
            } else {
                let elsewhere = self.elsewhere.entry(route.namespace.clone()).or_default();
                elsewhere.push(route.route.clone());
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty() && self.problems.is_empty() && self.elsewhere.is_empty()
    }

    /// Whether rules say where requests to this port go, and none leads to the service itself.
    pub(super) fn lead_away(&self, service: &str, port: u16) -> bool {
        let own = format!("{service}:{port}");
        let mut rules = self.rules.iter().filter(|rule| rule.port == port).peekable();
        rules.peek().is_some()
            && rules.all(|rule| rule.backends.iter().all(|backend| backend.name != own))
    }

    /// In the place of a fault of the service: that nobody is behind it does not matter where a route should have
    /// led its requests elsewhere, and is refused.
    pub(super) fn explain(&self, service: &str, found: Finding) -> Finding {
        let without_endpoints = matches!(
            found.code,
            Code::ServiceSelectsNoPod
                | Code::ServicePortMismatch
                | Code::ServicePodsNotReady
                | Code::ServiceNoEndpoints
        );
        let refusal = self.refusal(service).filter(|_| without_endpoints);
        refusal.unwrap_or(found)
    }

    fn refusal(&self, service: &str) -> Option<Finding> {
        let problem = self.problems.iter().find(|one| !one.accepted)?;
        Some(refused(service, problem))
    }

    /// What is wrong, the worst first.
    pub(super) fn fault(&self, service: &str) -> Option<Finding> {
        let unresolved = || {
            let problem = self.problems.iter().find(|one| one.accepted)?;
            Some(unresolved(service, problem))
        };
        self.refusal(service)
            .or_else(unresolved)
            .or_else(|| self.invalid_backend(service))
            .or_else(|| self.without_endpoints(service))
    }

    /// Seen in Envoy alone, which does not say why.
    fn invalid_backend(&self, service: &str) -> Option<Finding> {
        let rule = self.rules.iter().find(|rule| rule.has_invalid)?;
        Some(Finding::new(
            Code::RouteBackendInvalid,
            format!(
                "the rule {} for service {service} has no valid backend for a part of its requests, or for all: \
                 those get a 500 (of a GRPCRoute UNAVAILABLE)",
                rule.name
            ),
            "look at the weights of its backends, and at the route's status, which has the reason (kubectl describe \
             httproute, grpcroute); with --debug-address or a kubeconfig, doctor says which it is",
        ))
    }

    fn without_endpoints(&self, service: &str) -> Option<Finding> {
        let is_dead = |rule: &&Rule| {
            !rule.backends.is_empty() && rule.backends.iter().all(|one| one.ready == Some(0))
        };
        let rule = self.rules.iter().find(is_dead)?;
        let backends: Vec<&str> = rule.backends.iter().map(|one| &*one.name).collect();
        Some(Finding::new(
            Code::RouteBackendsNoEndpoints,
            format!(
                "no backend of the rule {} for service {service} has an endpoint that is ready ({}): requests for \
                 it get a 503",
                rule.name,
                backends.join(", ")
            ),
            "look at the pods behind those Services (pilothouse doctor --service for one of them says why it has \
             none), or give the weight to one that has some",
        ))
    }

    /// What is worth knowing besides: routes that are for others.
    pub(super) fn note(&self, service: &str) -> Option<String> {
        let (namespace, routes) = self.elsewhere.iter().next()?;
        let more = match self.elsewhere.len() {
            1 => String::new(),
            several => format!(", and {} other namespaces have some too", several - 1),
        };
        Some(format!(
            "{} of namespace {namespace} steers requests to service {service} for clients of that namespace alone, \
             which this is not (a consumer route){more}",
            routes.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ")
        ))
    }

    /// Of routes that Kubernetes has, those of which the control plane knows nothing, as far as can be told.
    pub(super) fn unseen(&self, routes: &[RouteView], names: &BTreeSet<String>) -> Vec<String> {
        let in_envoy = |route: &RouteView| {
            let own = route.route.split(' ').next_back().unwrap_or_default();
            self.rules
                .iter()
                .any(|rule| rule.name.rsplit_once('.').is_some_and(|(of, _)| of == own))
        };
        let unseen = routes.iter().filter(|route| {
            route.is_settled
                && route.problems.is_none()
                && !names.contains(&route.route)
                && !in_envoy(route)
        });
        unseen.map(|route| route.route.clone()).collect()
    }
}

/// Every route that the control plane's page about a service names.
pub(super) fn names_of_page(page: &Value) -> BTreeSet<String> {
    let consumers = page["consumers"].as_object().into_iter().flatten().map(|(_, ports)| ports);
    let ports = std::iter::once(&page["producer"]).chain(consumers);
    let applied = ports.filter_map(Value::as_array).flatten().flat_map(routes_of_port);
    let applied = applied.map(|(kind, one)| format!("{kind} {}", name(one)));
    let problems = page["problems"].as_array().into_iter().flatten();
    applied.chain(problems.filter_map(|one| Some(one["route"].as_str()?.to_owned()))).collect()
}

/// Kubernetes has routes, and the control plane does not know them.
pub(super) fn not_seen(service: &str, unseen: &[String], why: Option<&str>) -> Option<Finding> {
    let first = unseen.first()?;
    let more = match unseen.len() {
        1 => String::new(),
        several => format!(" and {} more", several - 1),
    };
    let why = why.map(|why| format!(": {why}")).unwrap_or_default();
    Some(Finding::new(
        Code::RoutesNotSeen,
        format!(
            "Kubernetes has {first}{more} for service {service}, of which the control plane seems to know nothing{why}"
        ),
        "give the control plane the rights to read routes and to write their status (kubectl apply -k \
         manifests/routes), and install the Gateway API's CRDs of the standard channel; /debug/sourcez says what it \
         lacks",
    ))
}

fn refused(service: &str, problem: &Problem) -> Finding {
    let Problem { route, reason, message, .. } = problem;
    Finding::new(
        Code::RouteNotAccepted,
        format!("{route} does not apply to service {service} ({reason}): {}", unended(message)),
        "correct the route; until then it is as if it were not there",
    )
}

fn unresolved(service: &str, problem: &Problem) -> Finding {
    let Problem { route, reason, message, .. } = problem;
    let (code, what, fix) = match &**reason {
        "RefNotPermitted" => (
            Code::RouteReferenceNotGranted,
            "names a backend in another namespace, which no ReferenceGrant allows",
            "create a ReferenceGrant in the backend's namespace: from the route's kind and namespace, to Services",
        ),
        "BackendNotFound" => (
            Code::RouteBackendNotFound,
            "names a backend that is not there",
            "correct the backendRef's name, namespace or port, or create the Service",
        ),
        _ => (
            Code::RouteBackendInvalid,
            "names a backend that it cannot lead to",
            "let the backendRef name a Service (no ExternalName) and a port that speaks HTTP",
        ),
    };
    Finding::new(
        code,
        format!("{route} for service {service} {what} ({reason}): {}", unended(message)),
        fix,
    )
}

/// A cause is one sentence, to which the full stop is added.
fn unended(message: &str) -> &str {
    message.trim_end_matches(['.', ' '])
}

/// Kind and route of a port.
fn routes_of_port(port: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let kind = port["kind"].as_str().unwrap_or_default();
    port["routes"].as_array().into_iter().flatten().map(move |route| (kind, route))
}

fn rules_of_port(port: &Value) -> impl Iterator<Item = Rule> {
    let number = port["port"].as_u64().and_then(|port| port.try_into().ok()).unwrap_or_default();
    routes_of_port(port).flat_map(move |(_, route)| {
        let rules = route["rules"].as_array().into_iter().flatten().enumerate();
        rules.map(move |(at, rule)| {
            let own = rule["name"].as_str().map_or_else(|| at.to_string(), str::to_owned);
            let backends = rule["backends"].as_array().into_iter().flatten();
            let valid = backends.filter(|one| one["weight"] != 0 && one["problem"].is_null());
            let backends: Vec<_> = valid.filter_map(backend).collect();
            let mut filters = rule["filters"].as_array().into_iter().flatten();
            let redirects =
                filters.any(|one| one.as_str().is_some_and(|one| one.starts_with("redirect ")));
            Rule {
                port: number,
                name: format!("{}.{own}", name(route)),
                has_invalid: backends.is_empty() && !redirects,
                backends,
            }
        })
    })
}

fn backend(of: &Value) -> Option<BackendFact> {
    let ready = of["ready"].as_u64().and_then(|ready| ready.try_into().ok());
    Some(BackendFact { name: of["backend"].as_str()?.to_owned(), ready })
}

/// `NAMESPACE/NAME` of a route.
fn name(route: &Value) -> String {
    let part = |name| route[name].as_str().unwrap_or_default();
    format!("{}/{}", part("namespace"), part("name"))
}

/// Whether the route of a problem is of this namespace.
fn of_namespace(problem: &Value, namespace: &str) -> bool {
    let route = problem["route"].as_str().and_then(|route| route.split(' ').next_back());
    route.and_then(|route| route.split_once('/')).is_some_and(|(of, _)| of == namespace)
}

/// Of an entry that has both conditions, as the page about a service and a route's status have them.
fn problem(of: &Value) -> Option<Problem> {
    let route = of["route"].as_str()?;
    let condition = |name: &str, accepted| {
        let condition = &of[name];
        (condition["status"] == false).then(|| Problem {
            route: route.to_owned(),
            accepted,
            reason: condition["reason"].as_str().unwrap_or_default().to_owned(),
            message: condition["message"].as_str().unwrap_or_default().to_owned(),
        })
    };
    condition("accepted", false).or_else(|| condition("resolved_refs", true))
}

#[cfg(test)]
mod tests;
