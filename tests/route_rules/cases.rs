//! Random rules of a port and random requests, of so few names and values that many meet.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use pilothouse::model::route::{
    AppliedRoute, Backend, BackendProblem, BackendRef, GrpcMethod, HeaderModifier, Mirror,
    NameMatch, PathMatch, PathModifier, PortRules, Redirect, ResolvedBackends, Rewrite, Route,
    RouteFilter, RouteKey, RouteKind, RouteMatch, RouteRule, TextMatch,
};
use pilothouse::model::{Protocol, Service, ServiceKey, ServiceKind, ServicePort};
use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use crate::outcome::Request;

/// The Services that backends name are `default/svc-0` up to this number; the last ones are not there.
pub(crate) const SERVICES: usize = 5;
const VALID: usize = 4;
pub(crate) const BACKEND_PORT: u16 = 80;

pub(crate) fn service(number: usize) -> Service {
    let port = ServicePort { name: "http".into(), port: BACKEND_PORT, protocol: Protocol::Http };
    Service::new(service_key(number), ServiceKind::ClusterIp(Vec::new()), vec![port])
}

fn service_key(number: usize) -> ServiceKey {
    ServiceKey::new("default", format!("svc-{number}"))
}

pub(crate) fn target(number: usize) -> BackendRef {
    BackendRef::Service { key: service_key(number), port: BACKEND_PORT }
}

pub(crate) fn resolved() -> Arc<ResolvedBackends> {
    let one = |number| {
        let found = if number < VALID {
            Ok(Arc::new(service(number)))
        } else {
            Err(BackendProblem::NotFound)
        };
        (target(number), found)
    };
    Arc::new((0..SERVICES).map(one).collect())
}

/// A port of a Service, the rules for it, and requests to it.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) port: u16,
    pub(crate) rules: PortRules,
    pub(crate) requests: Vec<Request>,
}

pub(crate) fn case(requests: usize) -> impl Strategy<Value = Case> {
    let kind = prop_oneof![3 => Just(RouteKind::Http), 1 => Just(RouteKind::Grpc)];
    (kind, select(&[80_u16, 9080])).prop_flat_map(move |(kind, port)| {
        (port_rules(kind), vec(request(kind, port), requests))
            .prop_map(move |(rules, requests)| Case { port, rules, requests })
    })
}

fn port_rules(kind: RouteKind) -> impl Strategy<Value = PortRules> {
    let created = select(&["2025-01-01T00:00:00Z", "2025-01-02T00:00:00Z"]);
    vec((created, vec(rule(kind), 1..4)), 1..4).prop_map(move |routes| {
        let mut routes: Vec<_> = routes
            .into_iter()
            .enumerate()
            .map(|(number, (created, rules))| applied(kind, number, created, rules))
            .collect();
        routes.sort_by_key(|one| (one.route.created.clone(), one.route.key.name.clone()));
        PortRules { kind, routes }
    })
}

fn applied(kind: RouteKind, number: usize, created: &str, rules: Vec<RouteRule>) -> AppliedRoute {
    let key = RouteKey::new(kind, "default", format!("route-{number}"));
    let route = Route { created: created.into(), ..Route::new(key, rules) };
    AppliedRoute { route: Arc::new(route), backends: resolved() }
}

fn rule(kind: RouteKind) -> impl Strategy<Value = RouteRule> {
    let timeouts = of(select(&[0_u64, 5]).prop_map(Duration::from_secs));
    let parts =
        (vec(route_match(kind), 1..4), filters(kind), backends(), of("[a-z]{1,4}"), timeouts);
    parts.prop_map(|(mut matches, filters, mut backends, name, request_timeout)| {
        let redirects = |one: &RouteFilter| matches!(one, RouteFilter::Redirect(_));
        if filters.iter().any(redirects) {
            backends.clear();
        }
        if filters.iter().any(replaces_prefix) {
            matches.truncate(1);
            if !matches!(matches[0].path, PathMatch::Prefix(_)) {
                matches[0].path = PathMatch::Prefix("/a".into());
            }
        }
        let name = name.map(Into::into);
        RouteRule { name, matches, filters, backends, request_timeout, backend_timeout: None }
    })
}

pub(crate) fn replaces_prefix(filter: &RouteFilter) -> bool {
    let path = match filter {
        RouteFilter::Redirect(redirect) => &redirect.path,
        RouteFilter::Rewrite(rewrite) => &rewrite.path,
        _ => return false,
    };
    matches!(path, Some(PathModifier::ReplacePrefix(_)))
}

fn path() -> impl Strategy<Value = String> {
    vec(select(&["a", "b", "ab", "a.b"]), 0..4).prop_map(|parts| format!("/{}", parts.join("/")))
}

fn route_match(kind: RouteKind) -> BoxedStrategy<RouteMatch> {
    let headers = names(&["host", "x-a", "x-b"]);
    let (path, query, method) = match kind {
        RouteKind::Http => {
            let regexes = select(&["/a.*", "/(a|b)/.*", "/a|/b", "/[ab]+(/[ab]+)?"]);
            let exact = path().prop_map(|path| PathMatch::Exact(path.into()));
            let slash = select(&["", "/"]);
            let prefix = (path(), slash).prop_map(|(path, slash)| match &*path {
                "/" => PathMatch::Prefix("/".into()),
                _ => PathMatch::Prefix(format!("{path}{slash}").into()),
            });
            let regex = regexes.prop_map(|regex| PathMatch::Regex(regex.into()));
            let path = prop_oneof![2 => exact, 4 => prefix, 2 => regex].boxed();
            let method = of(select(&["GET", "POST"]).prop_map(Into::into));
            (path, names(&["q", "r"]), method.boxed())
        }
        RouteKind::Grpc => {
            let service = of(text(&["a.S", "a.T"], &["a\\..*", "a.S|a.T"]));
            let method = of(text(&["Get", "Set"], &["[GS]et", "G.*|S"]));
            let call = (service, method);
            let path =
                call.prop_map(|(service, method)| PathMatch::Grpc(GrpcMethod { service, method }));
            (path.boxed(), Just(Vec::new()).boxed(), Just(None).boxed())
        }
    };
    (path, headers, query, method)
        .prop_map(|(path, headers, query, method)| RouteMatch { path, headers, query, method })
        .boxed()
}

fn text(exact: &[&'static str], regexes: &[&'static str]) -> BoxedStrategy<TextMatch> {
    let exact = select(exact.to_vec()).prop_map(|one| TextMatch::Exact(one.into()));
    let regex = select(regexes.to_vec()).prop_map(|one| TextMatch::Regex(one.into()));
    prop_oneof![2 => exact, 1 => regex].boxed()
}

/// Mostly none of them.
fn names(all: &'static [&'static str]) -> BoxedStrategy<Vec<NameMatch>> {
    let some = subsequence(all, 1..=all.len()).prop_flat_map(|names| {
        let value = |name: &'static str| {
            let value = match name {
                "host" => text(&["svc", "svc:9080"], &["svc.*", "other"]),
                _ => text(&["1", "1,2"], &["[12]", "1.*"]),
            };
            value.prop_map(move |value| NameMatch { name: name.into(), value })
        };
        names.into_iter().map(value).collect::<Vec<_>>()
    });
    prop_oneof![2 => Just(Vec::new()), 1 => some].boxed()
}

fn filters(kind: RouteKind) -> BoxedStrategy<Vec<RouteFilter>> {
    let request = of(modifier().prop_map(RouteFilter::RequestHeaders));
    let response = of(modifier().prop_map(RouteFilter::ResponseHeaders));
    let mirrors = prop_oneof![2 => Just(Vec::new()).boxed(), 1 => vec(mirror(), 1..3).boxed()];
    let path = match kind {
        RouteKind::Grpc => Just(None).boxed(),
        RouteKind::Http => prop_oneof![
            3 => Just(None),
            1 => redirect().prop_map(Some),
            1 => rewrite().prop_map(Some)
        ]
        .boxed(),
    };
    let all = (request, response, mirrors, path);
    all.prop_map(|(request, response, mirrors, path)| {
        let single = request.into_iter().chain(response).chain(path);
        single.chain(mirrors).collect()
    })
    .boxed()
}

fn modifier() -> impl Strategy<Value = HeaderModifier> {
    let action = |name: &'static str| (Just(name), 0..4_u8, select(&["1", "50%", "%REQ(x)%"]));
    let all = ["x-a", "X-B", "x-c"].map(action);
    all.prop_map(|actions| {
        let mut modifier = HeaderModifier::default();
        for (name, action, value) in actions {
            match action {
                0 => modifier.set.push((name.into(), value.into())),
                1 => modifier.add.push((name.into(), value.into())),
                2 => modifier.remove.push(name.into()),
                _ => {}
            }
        }
        modifier
    })
}

fn mirror() -> impl Strategy<Value = RouteFilter> {
    let share = select(&[(1_u32, 1_u32), (0, 100), (30, 100), (1, 3), (7, 10_000)]);
    (0..SERVICES, share).prop_map(|(number, (numerator, denominator))| {
        RouteFilter::Mirror(Mirror { backend: target(number), numerator, denominator })
    })
}

fn path_modifier() -> impl Strategy<Value = Option<PathModifier>> {
    let full = select(&["", "/", "/new", "/new/"]);
    let prefix = select(&["", "/", "/new", "/new/", "/n/m"]);
    of(prop_oneof![
        full.prop_map(|path| PathModifier::ReplaceFull(path.into())),
        prefix.prop_map(|path| PathModifier::ReplacePrefix(path.into())),
    ])
}

fn hostname() -> impl Strategy<Value = Option<Arc<str>>> {
    of(Just("example.org").prop_map(Into::into))
}

fn redirect() -> impl Strategy<Value = RouteFilter> {
    let scheme = of(select(&["http", "https"]).prop_map(Into::into));
    let port = of(select(&[80_u16, 443, 8080]));
    let status = select(&[301_u16, 302, 303, 307, 308]);
    (scheme, hostname(), path_modifier(), port, status).prop_map(
        |(scheme, hostname, path, port, status)| {
            RouteFilter::Redirect(Redirect { scheme, hostname, path, port, status })
        },
    )
}

fn rewrite() -> impl Strategy<Value = RouteFilter> {
    (hostname(), path_modifier())
        .prop_map(|(hostname, path)| RouteFilter::Rewrite(Rewrite { hostname, path }))
}

fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let request = of(modifier().prop_map(RouteFilter::RequestHeaders));
    let response = of(modifier().prop_map(RouteFilter::ResponseHeaders));
    let filters = prop_oneof![
        2 => Just(Vec::new()),
        1 => (request, response).prop_map(|(one, other)| one.into_iter().chain(other).collect())
    ];
    let backend = (0..SERVICES, select(&[0_u32, 1, 3]), filters);
    vec(backend, 0..4).prop_map(|all| {
        // One Service once, so that each outcome has one backend.
        let by_number: BTreeMap<_, _> = all.into_iter().map(|one| (one.0, one)).collect();
        let one = |(number, weight, filters)| Backend { target: target(number), weight, filters };
        by_number.into_values().map(one).collect()
    })
}

fn request(kind: RouteKind, port: u16) -> BoxedStrategy<Request> {
    let header = (select(&["x-a", "x-b"]), select(&["1", "2", "3"]));
    let headers = vec(header, 0..4).prop_map(|all| {
        all.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    });
    let hosts = vec!["svc".to_owned(), "other".to_owned(), format!("svc:{port}")];
    let (path, query, method) = match kind {
        RouteKind::Http => {
            let slash = (path(), select(&["", "/"])).prop_map(|(path, slash)| match &*path {
                "/" => path,
                _ => format!("{path}{slash}"),
            });
            let query = vec(select(&["q=1", "q=2", "r=1", "q", "r=1,2"]), 0..3)
                .prop_map(|pairs| pairs.join("&"));
            (slash.boxed(), query.boxed(), select(&["GET", "POST"]).boxed())
        }
        RouteKind::Grpc => {
            let path = (select(&["a.S", "a.T", "b"]), select(&["Get", "Set", "S"]));
            let path = path.prop_map(|(service, method)| format!("/{service}/{method}"));
            (path.boxed(), Just(String::new()).boxed(), Just("POST").boxed())
        }
    };
    (path, query, method, select(hosts), headers)
        .prop_map(|(path, query, method, host, headers)| Request {
            method: method.to_owned(),
            path,
            query,
            host,
            headers,
        })
        .boxed()
}
