//! Envoy's routes for the rules of HTTPRoutes and GRPCRoutes.
//!
//! A rule has one Envoy route for each of its matches (`matches`), in the order that the Gateway API gives all
//! matches of a port (`precedence`): Envoy takes the first that matches. What is done with the request is a
//! redirect (`redirect`) or forwarding to backends (`backends`, with `mirrors`); what is changed on the way are
//! headers (`headers`) and the path (`paths`), and `cors` answers for the browser.
//!
//! The source has checked every value, so that Envoy takes all of it: one route that it rejects would keep all
//! routes of the table from being updated.

use envoy_types::pb::envoy::config::route::v3::{DirectResponseAction, Route, route};

use super::target_service;
use crate::model::Service;
use crate::model::route::{PortRules, RouteKind, RouteRule};
use crate::view::ProxyKind;

mod backends;
mod cors;
mod filters;
mod headers;
mod matches;
mod mirrors;
mod paths;
mod precedence;
mod redirect;

use backends::Forward;
use filters::Filters;
use precedence::Candidate;

/// The port of a Service that clients call, as the routes for it need it.
#[derive(Clone, Copy)]
struct Called<'a> {
    kind: &'a ProxyKind,
    /// What its annotations say holds where a rule says nothing.
    service: &'a Service,
    port: u16,
    routes: RouteKind,
    domain: &'a str,
}

/// The routes for requests to `port` of `service`, in the order of precedence: the first that matches applies.
///
/// Where no rule matches, none of them does, and Envoy answers 404. Each is named after its rule,
/// `NAMESPACE/NAME.RULE`: by the rule's name, else by its position in the route, from 0.
pub fn rule_routes(
    kind: &ProxyKind,
    service: &Service,
    port: u16,
    rules: &PortRules,
    domain: &str,
) -> Vec<Route> {
    let service = target_service(service);
    let called = Called { kind, service, port, routes: rules.kind, domain };
    let candidates = precedence::in_order(rules);
    candidates.into_iter().flat_map(|candidate| candidate_routes(called, candidate)).collect()
}

/// Mostly one route. Two or more for what Envoy cannot say in one: see `redirect`, `paths::split` and
/// `cors::preflight`.
fn candidate_routes(called: Called<'_>, candidate: Candidate<'_>) -> Vec<Route> {
    let Candidate { applied, position, rule, matched } = candidate;
    let filters = Filters::of(&rule.filters);
    let route = Route {
        name: rule_name(&applied.route.key.namespace, &applied.route.key.name, position, rule),
        r#match: Some(matches::route_match(matched)),
        typed_per_filter_config: filters.cors.map(cors::filter_config).into_iter().collect(),
        ..Default::default()
    };
    let routes = match filters.redirect {
        Some(redirect) => {
            let route = headers::with_response_changes(route, filters.response);
            redirect::redirect_routes(called, &route, redirect, &matched.path)
        }
        None => vec![forwarding_route(called, route, candidate, &filters)],
    };
    let split = routes.into_iter().flat_map(|route| paths::split(route, &filters, &matched.path));
    let routes: Vec<_> = split.collect();
    // A redirect is never answered by the CORS filter.
    let cors = filters.cors.filter(|_| filters.redirect.is_none());
    let preflights = cors.and_then(|_| cors::preflight(&routes, matched));
    routes.into_iter().chain(preflights.into_iter().flatten()).collect()
}

fn forwarding_route(
    called: Called<'_>,
    mut route: Route,
    candidate: Candidate<'_>,
    filters: &Filters<'_>,
) -> Route {
    let Candidate { applied, rule, matched, .. } = candidate;
    match backends::forwarding(called, rule, &applied.backends) {
        None => {
            // Envoy's CORS filter leaves direct responses alone.
            route.action = Some(match filters.cors {
                None => route::Action::DirectResponse(no_backend(called.routes)),
                Some(_) => route::Action::Route(backends::nowhere(called.routes)),
            });
            headers::with_response_changes(route, filters.response)
        }
        Some(Forward { mut action, has_header_changes }) => {
            filters.rewrite.iter().for_each(|one| paths::rewrite(&mut action, one, &matched.path));
            let policy = |mirror: &&_| mirrors::policy(called, mirror, &applied.backends);
            action.request_mirror_policies = filters.mirrors.iter().filter_map(policy).collect();
            route.action = Some(route::Action::Route(action));
            match has_header_changes {
                true => route,
                false => headers::with_response_changes(
                    headers::with_request_changes(route, filters.request),
                    filters.response,
                ),
            }
        }
    }
}

fn rule_name(namespace: &str, name: &str, position: usize, rule: &RouteRule) -> String {
    match &rule.name {
        Some(rule) => format!("{namespace}/{name}.{rule}"),
        None => format!("{namespace}/{name}.{position}"),
    }
}

/// The answer where a rule leads to no valid backend. For a gRPC request Envoy turns the 503 into the status
/// UNAVAILABLE.
fn no_backend(kind: RouteKind) -> DirectResponseAction {
    let status = match kind {
        RouteKind::Http => 500,
        RouteKind::Grpc => 503,
    };
    DirectResponseAction { status, ..Default::default() }
}

#[cfg(test)]
mod tests;
