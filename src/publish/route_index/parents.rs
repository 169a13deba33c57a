//! What one Service says of the routes that name it as their parent: on which ports each applies, for whom, or why
//! not; and the rules that follow.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{AcceptedReason, IndexedRoute, ParentTarget, RouteKey, ServiceRules, Verdict};
use crate::model::route::{AppliedRoute, ParentRef, PortRules, RouteKind, RouteRole};
use crate::model::{Service, ServiceKey, ServiceKind, ServicePort};

/// A verdict on one parent of a route, by its place among the parents.
pub(super) type At = (RouteKey, usize, RouteAtParent);

#[derive(Debug)]
pub(super) struct RouteAtParent {
    pub(super) role: RouteRole,
    pub(super) accepted: Verdict<AcceptedReason>,
    pub(super) ports: Vec<u16>,
}

/// Whose requests: those of every namespace (producer routes), or of this one (consumer routes).
type Clients = Option<Arc<str>>;

/// One `parentRef` to the Service.
struct Claim<'a> {
    indexed: &'a IndexedRoute,
    at: usize,
    clients: Clients,
    /// The ports that it is for, or why it is for none.
    ports: Result<Vec<u16>, Verdict<AcceptedReason>>,
}

/// The rules of a Service (`None` where there is none of that name) that has these routes, and what it says of
/// each of them. Rules that are as they were `before` keep their allocations.
pub(super) fn decide(
    key: &ServiceKey,
    service: Option<&Service>,
    routes: &[&IndexedRoute],
    before: Option<&ServiceRules>,
) -> (ServiceRules, Vec<At>) {
    let claims: Vec<_> = routes.iter().flat_map(|one| claims(one, key, service)).collect();
    // GRPCRoutes go before HTTPRoutes, port by port, among the routes for the same clients.
    let mut kinds: BTreeMap<(&Clients, u16), RouteKind> = BTreeMap::new();
    for claim in &claims {
        let kind = claim.indexed.route.key.kind;
        for port in claim.ports.iter().flatten() {
            let winner = kinds.entry((&claim.clients, *port)).or_insert(kind);
            *winner = kind.min(*winner);
        }
    }
    let mut applied: BTreeMap<(&Clients, u16), BTreeMap<Precedence<'_>, &IndexedRoute>> =
        BTreeMap::new();
    let mut verdicts = Vec::with_capacity(claims.len());
    for claim in &claims {
        let route = &claim.indexed.route;
        let is_winner = |port: &u16| {
            kinds.get(&(&claim.clients, *port)).is_some_and(|kind| *kind == route.key.kind)
        };
        let (won, lost): (Vec<u16>, Vec<u16>) =
            claim.ports.iter().flatten().copied().partition(is_winner);
        for port in &won {
            let place = applied.entry((&claim.clients, *port)).or_default();
            place.insert((&*route.created, &*route.key.namespace, &*route.key.name), claim.indexed);
        }
        let accepted = match &claim.ports {
            Err(refused) => refused.clone(),
            Ok(_) => accepted(key, &claim.clients, &won, &lost),
        };
        let role = if claim.clients.is_none() { RouteRole::Producer } else { RouteRole::Consumer };
        let verdict = RouteAtParent { role, accepted, ports: won };
        verdicts.push((route.key.clone(), claim.at, verdict));
    }
    let mut rules = ServiceRules::default();
    for ((clients, port), routes) in applied {
        let kind = kinds.get(&(clients, port)).copied().unwrap_or(RouteKind::Http);
        let applied = |one: &IndexedRoute| AppliedRoute {
            route: one.route.clone(),
            backends: one.backends.clone(),
        };
        let now = PortRules { kind, routes: routes.into_values().map(applied).collect() };
        let known = before.and_then(|before| match clients {
            None => before.producer.get(&port),
            Some(namespace) => before.consumers.get(namespace)?.get(&port),
        });
        let now = match known {
            Some(known) if **known == now => known.clone(),
            _ => Arc::new(now),
        };
        match clients {
            None => rules.producer.insert(port, now),
            Some(namespace) => {
                rules.consumers.entry(namespace.clone()).or_default().insert(port, now)
            }
        };
    }
    (rules, verdicts)
}

/// The older route goes first, then by name.
type Precedence<'a> = (&'a str, &'a str, &'a str);

fn claims<'a>(
    indexed: &'a IndexedRoute,
    key: &'a ServiceKey,
    service: Option<&'a Service>,
) -> impl Iterator<Item = Claim<'a>> {
    let route = &indexed.route;
    let is_own =
        move |target: &ParentTarget| matches!(target, ParentTarget::Service(one) if one == key);
    let own = route.parents.iter().enumerate().filter(move |(_, parent)| is_own(&parent.target));
    own.map(move |(at, parent)| {
        let is_producer = route.key.namespace == key.namespace;
        let ports = match &route.refusal {
            Some(refusal) => {
                Err(Verdict { reason: refusal.reason, message: refusal.message.clone() })
            }
            None => ports(parent, key, service),
        };
        let clients = (!is_producer).then(|| route.key.namespace.clone());
        Claim { indexed, at, clients, ports }
    })
}

/// The ports of the Service that a `parentRef` is for.
fn ports(
    parent: &ParentRef,
    key: &ServiceKey,
    service: Option<&Service>,
) -> Result<Vec<u16>, Verdict<AcceptedReason>> {
    let no_parent = |message: String| {
        Err(Verdict { reason: AcceptedReason::NoMatchingParent, message: message.into() })
    };
    let Some(service) = service else {
        return no_parent(format!("there is no Service {key}: the route applies once there is"));
    };
    if matches!(service.kind, ServiceKind::ExternalName(_) | ServiceKind::Alias(_)) {
        let message = format!(
            "the Service {key} is an ExternalName, which has no requests of its own: \
             name the Service that it stands for"
        );
        return Err(Verdict { reason: AcceptedReason::UnsupportedValue, message: message.into() });
    }
    let is_named = |port: &&ServicePort| {
        parent.port.is_none_or(|number| port.port == number)
            && parent.section_name.as_ref().is_none_or(|name| port.name == *name)
    };
    let named: Vec<&ServicePort> = service.ports.iter().filter(is_named).collect();
    if named.is_empty() {
        let all: Vec<_> = service.ports.iter().map(describe).collect();
        let has = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        let wanted = match (&parent.section_name, parent.port) {
            (Some(name), Some(port)) => format!("port {port} named {name:?}"),
            (Some(name), None) => format!("port named {name:?}"),
            (None, Some(port)) => format!("port {port}"),
            (None, None) => "port".to_owned(),
        };
        return no_parent(format!("the Service {key} has no {wanted} (it has {has})"));
    }
    let http = named.iter().filter(|port| port.protocol.is_http());
    let http: Vec<u16> = http.map(|port| port.port).collect();
    if http.is_empty() {
        let named: Vec<_> = named.into_iter().map(describe).collect();
        return no_parent(format!(
            "the Service {key} speaks no HTTP there ({}): set the port's appProtocol to http, http2 or \
             grpc, or begin its name with one of these and a hyphen",
            named.join(", ")
        ));
    }
    Ok(http)
}

/// `8080 http-web, HTTP`.
fn describe(port: &ServicePort) -> String {
    let name = if port.name.is_empty() { "without a name" } else { &port.name };
    format!("{} {name}, {}", port.port, port.protocol.as_str())
}

/// The verdict on a route that a port of the Service would have.
fn accepted(
    key: &ServiceKey,
    clients: &Clients,
    won: &[u16],
    lost: &[u16],
) -> Verdict<AcceptedReason> {
    let whose = match clients {
        None => "of all namespaces that have no routes of their own for it".to_owned(),
        Some(namespace) => {
            format!(
                "of namespace {namespace}, in the place of the routes of the Service's own namespace"
            )
        }
    };
    let conflict = format!(
        "GRPCRoutes have {} of the Service {key} for clients {whose}, and go before HTTPRoutes",
        spelt(lost)
    );
    if won.is_empty() {
        let message = format!("{conflict}: take these away, or name another port");
        return Verdict { reason: AcceptedReason::Conflicted, message: message.into() };
    }
    let mut message =
        format!("applies to {} of the Service {key}, for clients {whose}", spelt(won));
    if !lost.is_empty() {
        message += &format!("; {conflict}");
    }
    Verdict { reason: AcceptedReason::Accepted, message: message.into() }
}

/// `port 80`, `ports 80, 90`.
fn spelt(ports: &[u16]) -> String {
    let unique: BTreeSet<_> = ports.iter().collect();
    let all: Vec<_> = unique.into_iter().map(u16::to_string).collect();
    let ports = if all.len() == 1 { "port" } else { "ports" };
    format!("{ports} {}", all.join(", "))
}
