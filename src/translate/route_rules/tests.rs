//! Sentences of the Gateway API, and what Envoy is told for each. Random rules against the whole of the
//! specification, and a real Envoy, are in `tests/route_rules`.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::RouteAction;
use envoy_types::pb::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::google::protobuf::Duration as ProtoDuration;

use super::*;
use crate::model::route::{
    AppliedRoute, Backend, BackendProblem, BackendRef, GrpcMethod, HeaderModifier, Mirror,
    PathMatch, PathModifier, Redirect, Rewrite, Route as ModelRoute, RouteFilter, RouteKey,
    RouteMatch, TextMatch,
};
use crate::model::{LoadBalancing, Protocol, ServiceKey, ServiceKind, TrafficPolicy};
use crate::names::INVALID_BACKEND_CLUSTER;
use crate::translate::tests::{DOMAIN, STANDALONE, service};

fn target(name: &str) -> BackendRef {
    BackendRef::Service { key: ServiceKey::new("shop", name), port: 80 }
}

fn backend(name: &str, weight: u32) -> Backend {
    Backend { target: target(name), weight, filters: Vec::new() }
}

fn prefix(path: &str) -> PathMatch {
    PathMatch::Prefix(path.into())
}

fn rule(path: PathMatch, backends: Vec<Backend>) -> RouteRule {
    RouteRule {
        name: None,
        matches: vec![RouteMatch { path, ..RouteMatch::any() }],
        filters: Vec::new(),
        backends,
        request_timeout: None,
        backend_timeout: None,
    }
}

fn filtered(path: &str, filter: RouteFilter) -> RouteRule {
    RouteRule { filters: vec![filter], ..rule(prefix(path), vec![backend("v1", 1)]) }
}

/// `v1`, `v2` and `hashed` are there, `gone` is not.
fn port_rules(kind: RouteKind, rules: Vec<RouteRule>) -> PortRules {
    let there = |name: &str| {
        let mut found =
            service(&format!("shop/{name}"), ServiceKind::Headless, &[(Protocol::Http, 80)]);
        if name == "hashed" {
            found.traffic_policy.load_balancing = LoadBalancing::ClientIpRing;
        }
        (target(name), Ok(Arc::new(found)))
    };
    let mut backends: crate::model::route::ResolvedBackends =
        ["v1", "v2", "hashed"].map(there).into();
    backends.insert(target("gone"), Err(BackendProblem::NotFound));
    let route = ModelRoute::new(RouteKey::new(kind, "shop", "reviews"), rules);
    PortRules {
        kind,
        routes: vec![AppliedRoute { route: Arc::new(route), backends: Arc::new(backends) }],
    }
}

fn called() -> Service {
    service("shop/reviews", ServiceKind::Headless, &[(Protocol::Http, 9080)])
}

fn routes_of(kind: RouteKind, rules: Vec<RouteRule>) -> Vec<Route> {
    rule_routes(&ProxyKind::Sidecar, &called(), 9080, &port_rules(kind, rules), DOMAIN)
}

fn http(rules: Vec<RouteRule>) -> Vec<Route> {
    routes_of(RouteKind::Http, rules)
}

fn action(route: &Route) -> &RouteAction {
    match route.action.as_ref().unwrap() {
        route::Action::Route(action) => action,
        other => panic!("{other:?}"),
    }
}

fn clusters(route: &Route) -> Vec<(String, u32)> {
    match action(route).cluster_specifier.as_ref().unwrap() {
        ClusterSpecifier::Cluster(name) => vec![(name.clone(), 0)],
        ClusterSpecifier::WeightedClusters(all) => {
            all.clusters.iter().map(|one| (one.name.clone(), one.weight.unwrap().value)).collect()
        }
        other => panic!("{other:?}"),
    }
}

fn cluster(name: &str) -> String {
    format!("outbound|80||{name}.shop.svc.cluster.local")
}

fn path(route: &Route) -> &PathSpecifier {
    route.r#match.as_ref().unwrap().path_specifier.as_ref().unwrap()
}

/// "Name is the name of the route rule."
#[test]
fn a_route_is_named_after_its_rule() {
    let named = RouteRule { name: Some("canary".into()), ..rule(prefix("/b"), Vec::new()) };
    let routes = http(vec![rule(prefix("/abc"), Vec::new()), named]);
    let names: Vec<_> = routes.iter().map(|route| &*route.name).collect();
    assert_eq!(names, ["shop/reviews.0", "shop/reviews.canary"]);
}

/// "a trailing `/` is ignored": Envoy's prefix of whole elements cannot have one.
#[test]
fn a_prefix_is_of_whole_elements() {
    let separated = |prefix: &str| PathSpecifier::PathSeparatedPrefix(prefix.to_owned());
    for (of, becomes) in
        [("/abc", separated("/abc")), ("/abc/", separated("/abc")), ("/", any_path())]
    {
        assert_eq!(*path(&http(vec![rule(prefix(of), Vec::new())])[0]), becomes);
    }
}

fn any_path() -> PathSpecifier {
    PathSpecifier::Prefix("/".to_owned())
}

/// Regular expressions are limited in size, names of services and methods are not.
#[test]
fn exact_names_of_grpc_are_no_regular_expressions() {
    let long: Arc<str> = "x".repeat(1024).into();
    let exact = || Some(TextMatch::Exact(long.clone()));
    for (service, method) in [(exact(), exact()), (exact(), None), (None, exact())] {
        let grpc = PathMatch::Grpc(GrpcMethod { service, method });
        let [route] = &*routes_of(RouteKind::Grpc, vec![rule(grpc, Vec::new())]) else {
            panic!("one route")
        };
        assert!(!format!("{route:?}").contains("Regex"), "{route:?}");
    }
}

/// "If weight is set to 0, no traffic should be forwarded for this entry."
#[test]
fn backends_share_by_weight() {
    let shares = vec![backend("v1", 90), backend("v2", 10), backend("hashed", 0)];
    let routes = http(vec![rule(prefix("/"), shares)]);
    assert_eq!(clusters(&routes[0]), [(cluster("v1"), 90), (cluster("v2"), 10)]);
    // Of one that is left no share is to be chosen.
    let routes = http(vec![rule(prefix("/"), vec![backend("v1", 7), backend("gone", 0)])]);
    assert_eq!(clusters(&routes[0]), [(cluster("v1"), 0)]);
}

/// "the proportion of requests that would otherwise have been routed to an invalid backend MUST receive a 500 status
/// code", and of a GRPCRoute "an `UNAVAILABLE` status".
#[test]
fn the_share_of_invalid_backends_is_an_error() {
    let shares = || vec![backend("gone", 1), backend("v1", 2), backend("gone", 3)];
    for (kind, code) in [
        (RouteKind::Http, ClusterNotFoundResponseCode::InternalServerError),
        (RouteKind::Grpc, ClusterNotFoundResponseCode::ServiceUnavailable),
    ] {
        let routes = routes_of(kind, vec![rule(prefix("/"), shares())]);
        let invalid = (INVALID_BACKEND_CLUSTER.to_owned(), 4);
        assert_eq!(clusters(&routes[0]), [(cluster("v1"), 2), invalid]);
        assert_eq!(action(&routes[0]).cluster_not_found_response_code(), code);
    }
}

/// "If *all* entries in BackendRefs are invalid […] *all* traffic which matches this rule MUST receive a 500 status
/// code."
#[test]
fn without_a_valid_backend_every_request_is_an_error() {
    for (kind, status) in [(RouteKind::Http, 500), (RouteKind::Grpc, 503)] {
        for backends in [Vec::new(), vec![backend("gone", 1)], vec![backend("v1", 0)]] {
            let routes = routes_of(kind, vec![rule(prefix("/"), backends)]);
            let direct = DirectResponseAction { status, ..Default::default() };
            assert_eq!(routes[0].action, Some(route::Action::DirectResponse(direct)));
        }
    }
}

/// A percent sign begins a placeholder of Envoy's, and a client could read with it what it should not.
#[test]
fn header_values_are_literal() {
    let set = vec![("a".into(), "50% %REQ(cookie)%".into())];
    let modifier = HeaderModifier { set, ..Default::default() };
    let routes = http(vec![filtered("/", RouteFilter::RequestHeaders(modifier))]);
    let header = routes[0].request_headers_to_add[0].header.as_ref().unwrap();
    assert_eq!(header.value, "50%% %%REQ(cookie)%%");
}

/// "Filters defined at this level should be executed if and only if the request is being forwarded to the backend
/// defined here": after the rule's, though Envoy would apply them before.
#[test]
fn filters_of_a_backend_come_after_those_of_the_rule() {
    let set = |value: &str| {
        let set = vec![("a".into(), value.into())];
        RouteFilter::RequestHeaders(HeaderModifier { set, ..Default::default() })
    };
    let mut rule = filtered("/", set("rule"));
    rule.backends.push(backend("v2", 1));
    rule.backends[0].filters = vec![set("backend")];
    let routes = http(vec![rule]);
    assert!(routes[0].request_headers_to_add.is_empty());
    let Some(ClusterSpecifier::WeightedClusters(all)) = &action(&routes[0]).cluster_specifier
    else {
        panic!("{routes:?}")
    };
    let values = all.clusters.iter().map(|one| {
        let added: Vec<_> = one.request_headers_to_add.iter().collect();
        added.iter().map(|one| one.header.as_ref().unwrap().value.clone()).collect::<Vec<_>>()
    });
    assert_eq!(values.collect::<Vec<_>>(), [["backend"], ["rule"]]);
}

/// The table at `replacePrefixMatch`, for what Envoy puts in the place of the prefix.
#[test]
fn a_prefix_is_replaced_without_lost_or_doubled_slashes() {
    for (matched, replacement, becomes) in [
        ("/foo", "/xyz", "/xyz"),
        ("/foo", "/xyz/", "/xyz"),
        ("/foo/", "/xyz/", "/xyz"),
        ("/", "/xyz", "/xyz/"),
        ("/", "/", ""),
        ("/", "", ""),
    ] {
        let path = Some(PathModifier::ReplacePrefix(replacement.into()));
        let rewrite = RouteFilter::Rewrite(Rewrite { hostname: None, path });
        let [route] = &*http(vec![filtered(matched, rewrite)]) else { panic!("one route") };
        assert_eq!(action(route).prefix_rewrite, becomes, "{matched} {replacement}");
    }
    // "/foo/bar | /foo | <empty string> | /bar", "/foo | /foo | / | /".
    for replacement in ["", "/"] {
        let modifier = Some(PathModifier::ReplacePrefix(replacement.into()));
        let rewrite = RouteFilter::Rewrite(Rewrite { hostname: None, path: modifier });
        let routes = http(vec![filtered("/foo/", rewrite)]);
        let paths: Vec<_> = routes.iter().map(path).collect();
        let [exact, below] = ["/foo", "/foo/"].map(str::to_owned);
        assert_eq!(paths, [&PathSpecifier::Path(exact), &PathSpecifier::Prefix(below)]);
        assert!(routes.iter().all(|route| action(route).prefix_rewrite == "/"));
    }
}

fn redirect(kind: &ProxyKind, port: u16, redirect: Redirect) -> Vec<(String, u32)> {
    let mut rule = filtered("/", RouteFilter::Redirect(redirect));
    rule.backends.clear();
    let rules = port_rules(RouteKind::Http, vec![rule]);
    let routes = rule_routes(kind, &called(), port, &rules, DOMAIN);
    let parts = |route: &Route| match route.action.as_ref().unwrap() {
        route::Action::Redirect(action) => (action.host_redirect.clone(), action.port_redirect),
        other => panic!("{other:?}"),
    };
    routes.iter().map(parts).collect()
}

/// "the redirect port MUST be the Gateway Listener port", "the well-known port associated with the redirect scheme",
/// "SHOULD NOT add the port number in the 'Location' header".
#[test]
fn the_port_of_a_redirect() {
    let none = Redirect { scheme: None, hostname: None, path: None, port: None, status: 302 };
    let scheme = |scheme: &str| Redirect { scheme: Some(scheme.into()), ..none.clone() };
    let to = |name: &str| Redirect { hostname: Some(name.into()), ..none.clone() };
    let own = |port: u32| (String::new(), port);
    let sidecar = |port, one: Redirect| redirect(&ProxyKind::Sidecar, port, one);
    assert_eq!(sidecar(9080, none.clone()), [own(9080)]);
    assert_eq!(sidecar(80, none.clone()), [own(0)]);
    assert_eq!(sidecar(9080, to("a.com")), [("a.com".to_owned(), 9080)]);
    assert_eq!(sidecar(80, to("a.com")), [("a.com".to_owned(), 0)]);
    // A Host with a port, and one without.
    assert_eq!(sidecar(9080, scheme("https")), [own(443), own(0)]);
    assert_eq!(sidecar(9080, scheme("http")), [own(80), own(0)]);
    let port = |port| Redirect { port: Some(port), ..scheme("https") };
    assert_eq!(sidecar(9080, port(8443)), [own(8443)]);
    assert_eq!(sidecar(9080, port(443)), [own(443), own(0)]);
    // Its one listener stands for the ports of all Services.
    assert_eq!(redirect(&STANDALONE, 9080, none.clone()), [own(0)]);
}

/// "The path portion of the URL", with a redirect as with a rewrite.
#[test]
fn the_path_of_a_redirect() {
    let path = Some(PathModifier::ReplaceFull("".into()));
    let redirect = Redirect { scheme: None, hostname: None, path, port: None, status: 301 };
    let routes = http(vec![filtered("/", RouteFilter::Redirect(redirect))]);
    let Some(route::Action::Redirect(action)) = &routes[0].action else { panic!("{routes:?}") };
    let root = PathRewriteSpecifier::PathRedirect("/".to_owned());
    assert_eq!(action.path_rewrite_specifier, Some(root));
}

/// "this BackendRef is invalid and must be dropped", "100% of requests will be mirrored" where nothing is said.
#[test]
fn mirrors_get_their_share() {
    let mirror = |name: &str, numerator, denominator| {
        RouteFilter::Mirror(Mirror { backend: target(name), numerator, denominator })
    };
    let mut rule = filtered("/", mirror("v1", 1, 1));
    rule.filters.extend([mirror("gone", 1, 1), mirror("v2", 0, 100), mirror("v2", 1, 3)]);
    let routes = http(vec![rule]);
    let of =
        |policy: &envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy| {
            let share = policy.runtime_fraction.as_ref().map(|one| one.default_value.unwrap());
            (policy.cluster.clone(), share.map(|share| share.numerator))
        };
    let all: Vec<_> = action(&routes[0]).request_mirror_policies.iter().map(of).collect();
    assert_eq!(all, [(cluster("v1"), None), (cluster("v2"), Some(333_333))]);
}

/// "Setting a timeout to the zero duration (e.g. "0s") SHOULD disable the timeout completely." What the rule does not
/// say comes from the called Service.
#[test]
fn timeouts_and_retries() {
    let timeouts = |request, backend, policy: TrafficPolicy| {
        let [request_timeout, backend_timeout] =
            [request, backend].map(|one: Option<u64>| one.map(Duration::from_secs));
        let rule = rule(prefix("/"), vec![backend_v1()]);
        let rule = RouteRule { request_timeout, backend_timeout, ..rule };
        let service = Service { traffic_policy: Box::new(policy), ..called() };
        let rules = port_rules(RouteKind::Http, vec![rule]);
        let routes = rule_routes(&ProxyKind::Sidecar, &service, 9080, &rules, DOMAIN);
        let action = action(&routes[0]);
        let seconds = |one: Option<ProtoDuration>| one.map(|one| one.seconds);
        let retries = action.retry_policy.as_ref();
        let each = retries.and_then(|policy| seconds(policy.per_try_timeout));
        (seconds(action.timeout), each, retries.map(|policy| policy.num_retries.unwrap().value))
    };
    let says = TrafficPolicy {
        request_timeout: Some(Duration::from_secs(9)),
        retries: Some(0),
        ..Default::default()
    };
    let silent = TrafficPolicy::default();
    assert_eq!(timeouts(None, None, silent), (Some(0), None, Some(2)));
    assert_eq!(timeouts(None, None, says), (Some(9), None, None));
    assert_eq!(timeouts(Some(0), Some(0), says), (Some(0), None, None));
    assert_eq!(timeouts(Some(5), Some(3), says), (Some(5), Some(3), Some(0)));
    assert_eq!(timeouts(Some(5), Some(3), silent), (Some(5), Some(3), Some(2)));
}

fn backend_v1() -> Backend {
    backend("v1", 1)
}

/// A cluster with a hash ring gets a hash, whichever Service was called.
#[test]
fn a_backend_that_wants_a_hash_gets_one() {
    for (name, hashes) in [("v1", 0), ("hashed", 1)] {
        let routes = http(vec![rule(prefix("/"), vec![backend(name, 1)])]);
        assert_eq!(action(&routes[0]).hash_policy.len(), hashes, "{name}");
    }
}
