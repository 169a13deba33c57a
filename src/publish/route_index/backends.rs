//! Whither a route leads: the Service behind each backend and mirror that it names, or what is wrong with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{RefsReason, ServiceIndex, Verdict, service_parents};
use crate::model::route::{
    BackendProblem, BackendRef, ResolvedBackends, Route, RouteFilter, RouteKind,
};
use crate::model::{Model, Protocol, Service, ServiceKey, ServiceKind};

/// Problems that a verdict spells out; of the others it gives the number.
const MAX_SPELT_OUT: usize = 8;

/// Every backend and mirror, in the order of the spec.
fn references(route: &Route) -> impl Iterator<Item = &BackendRef> {
    route.rules.iter().flat_map(|rule| {
        let backends = rule.backends.iter();
        let of_backends =
            backends.flat_map(|one| std::iter::once(&one.target).chain(mirrors(&one.filters)));
        mirrors(&rule.filters).chain(of_backends)
    })
}

/// The Services that requests are mirrored to, whether or not there are any of these names.
pub(super) fn mirrors_of(route: &Route) -> impl Iterator<Item = &ServiceKey> {
    let of_rules = route.rules.iter().flat_map(|rule| {
        let of_backends = rule.backends.iter().flat_map(|one| mirrors(&one.filters));
        mirrors(&rule.filters).chain(of_backends)
    });
    of_rules.filter_map(service)
}

fn mirrors(filters: &[RouteFilter]) -> impl Iterator<Item = &BackendRef> {
    filters.iter().filter_map(|filter| match filter {
        RouteFilter::Mirror(mirror) => Some(&mirror.backend),
        _ => None,
    })
}

/// The Services among them, whether or not there are any of these names.
pub(super) fn services_of(route: &Route) -> BTreeSet<&ServiceKey> {
    references(route).filter_map(service).collect()
}

fn service(reference: &BackendRef) -> Option<&ServiceKey> {
    match reference {
        BackendRef::Service { key, .. } => Some(key),
        BackendRef::Other { .. } => None,
    }
}

pub(super) fn resolve(route: &Route, services: &ServiceIndex, model: &Model) -> ResolvedBackends {
    let resolved = |reference: &BackendRef| {
        let BackendRef::Service { key, port } = reference else {
            return Err(BackendProblem::InvalidKind);
        };
        if !is_permitted(route, key, model) {
            return Err(BackendProblem::NotPermitted);
        }
        let service = services.entry(key).and_then(|entry| entry.source.as_ref());
        let service = service.ok_or(BackendProblem::NotFound)?;
        is_usable(service, *port).map(|()| service.clone())
    };
    references(route).map(|one| (one.clone(), resolved(one))).collect()
}

/// A backend outside the route's namespace needs a ReferenceGrant of its own, except where a Service of that
/// namespace is the route's parent: whoever routes the requests to it there exposes nothing by that (GEP-1294).
fn is_permitted(route: &Route, backend: &ServiceKey, model: &Model) -> bool {
    let own = &route.key.namespace;
    backend.namespace == *own
        || service_parents(route).any(|parent| parent.namespace == backend.namespace)
        || model.grants(&backend.namespace).any(|grant| {
            let from = |(kind, namespace): &(RouteKind, Arc<str>)| {
                *kind == route.key.kind && namespace == own
            };
            let to = |name: &Option<Arc<str>>| name.as_ref().is_none_or(|one| *one == backend.name);
            grant.from.iter().any(from) && grant.to.iter().any(to)
        })
}

/// Whether the Service has a cluster for this port that requests can be led to.
fn is_usable(service: &Service, port: u16) -> Result<(), BackendProblem> {
    if matches!(service.kind, ServiceKind::ExternalName(_) | ServiceKind::Alias(_)) {
        return Err(BackendProblem::InvalidKind);
    }
    let port = service.ports.iter().find(|one| one.port == port);
    match (port.ok_or(BackendProblem::NoSuchPort)?.protocol, &service.kind) {
        // TLS is the application's own there.
        (Protocol::Tls, _) => Err(BackendProblem::UnsupportedProtocol),
        // The TCP ports of a headless Service have no clusters: its clients connect to the pods.
        (Protocol::Tcp, ServiceKind::Headless) => Err(BackendProblem::UnsupportedProtocol),
        _ => Ok(()),
    }
}

/// The condition `ResolvedRefs`. Its reason is that of the first problem, in the order of the spec.
pub(super) fn verdict(route: &Route, backends: &ResolvedBackends) -> Verdict<RefsReason> {
    let mut seen = BTreeSet::new();
    let named = references(route).filter(|one| seen.insert(*one));
    let problem = |one| Some((one, backends.get(one)?.as_ref().err()?));
    let problems: Vec<_> = named.filter_map(problem).collect();
    let Some((_, first)) = problems.first() else {
        return Verdict {
            reason: RefsReason::ResolvedRefs,
            message: "all backends are there".into(),
        };
    };
    let spelt: Vec<_> = problems
        .iter()
        .take(MAX_SPELT_OUT)
        .map(|(one, problem)| explain(route, one, **problem))
        .collect();
    let mut message = spelt.join("; ");
    if problems.len() > MAX_SPELT_OUT {
        message += &format!("; and {} more", problems.len() - MAX_SPELT_OUT);
    }
    let instead = match route.key.kind {
        RouteKind::Http => "500",
        RouteKind::Grpc => "UNAVAILABLE",
    };
    message += &format!(". Until that is so, their share of the requests is answered {instead}");
    Verdict { reason: reason(**first), message: message.into() }
}

fn reason(problem: BackendProblem) -> RefsReason {
    match problem {
        BackendProblem::InvalidKind => RefsReason::InvalidKind,
        BackendProblem::NotFound | BackendProblem::NoSuchPort => RefsReason::BackendNotFound,
        BackendProblem::UnsupportedProtocol => RefsReason::UnsupportedProtocol,
        BackendProblem::NotPermitted => RefsReason::RefNotPermitted,
    }
}

/// What is wrong, and what to do.
fn explain(route: &Route, reference: &BackendRef, problem: BackendProblem) -> String {
    let (key, port) = match reference {
        BackendRef::Service { key, port } => (key, port),
        BackendRef::Other { group, kind, namespace, name } => {
            let group = if group.is_empty() { "core" } else { group };
            return format!(
                "the backend {group}/{kind} {namespace}/{name} is no Service with a port: name one"
            );
        }
    };
    match problem {
        BackendProblem::InvalidKind => format!(
            "the backend Service {key} is an ExternalName, which may not be a backend \
             (CVE-2021-25740): name the Service itself"
        ),
        BackendProblem::NotFound => format!("there is no Service {key}: create it"),
        BackendProblem::NoSuchPort => {
            format!("the Service {key} has no TCP port {port}: name one of its ports")
        }
        BackendProblem::UnsupportedProtocol => format!(
            "port {port} of the Service {key} speaks no HTTP that a route can lead to: \
             say by its appProtocol, or by its name, that it speaks http, http2 or grpc"
        ),
        BackendProblem::NotPermitted => format!(
            "the backend Service {key} is in another namespace, and no ReferenceGrant in {} permits it: \
             create one from {} in {} to Service {}",
            key.namespace,
            route.key.kind.as_str(),
            route.key.namespace,
            key.name
        ),
    }
}
