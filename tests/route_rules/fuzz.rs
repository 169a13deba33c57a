//! A real Envoy takes the routes of whatever rules the source lets through: one that it rejects would keep all
//! routes of its table from being updated.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::route::v3::Route as EnvoyRoute;
use pilothouse::model::route::regex::{MAX_PROGRAM_SIZE, program_size};
use pilothouse::model::route::{
    AppliedRoute, Backend, Cors, GrpcMethod, HeaderModifier, Mirror, NameMatch, PathMatch,
    PathModifier, PortRules, Redirect, Rewrite, Route, RouteFilter, RouteKey, RouteKind,
    RouteMatch, RouteRule, TextMatch,
};
use pilothouse::names::DEFAULT_DOMAIN;
use pilothouse::translate::route_rules::rule_routes;
use pilothouse::view::ProxyKind;

use crate::cases::{SERVICES, replaces_prefix, resolved, service, target};
use crate::dice::Dice;
use crate::envoy::{TestEnvoy, table};

const ROUTES: usize = 10_000;
const ROUTES_OF_A_TABLE: usize = 500;

const TOKEN: &str = "abcXYZ019!#$%&'*+-.^_`|~";
const PATH: &str = "abc/XYZ09-._~!$&'()*+,;=:@";
const VALUE: &str = "abc XYZ09%%%\\\"'{}[]()<>^$*+?.|/;:=,@~é日\u{1f600}";
const NAME: &str = "abcXYZ_";
const REGEXES: [&str; 30] = [
    "a",
    "[a-z]+",
    "(a|b)",
    ".*",
    "\\d{2,3}",
    "\\w+",
    "[^/]+",
    "(?i)k",
    "\\.",
    "%",
    "\\x41",
    "^",
    "$",
    "(?:ab)?",
    "[[:alpha:]]",
    "a{3}",
    "(",
    ")",
    "|",
    "*",
    "+?",
    "{2}",
    "{1,9}",
    "\\W",
    "[^a-z]",
    "[é]",
    "\\b",
    "(?s:.)",
    "\\C",
    "(?P<n>a)",
];

#[tokio::test]
async fn an_envoy_takes_ten_thousand_random_routes() {
    let mut dice = Dice(17);
    let mut tables = Vec::new();
    let mut envoy_routes = 0;
    for _ in 0..ROUTES / ROUTES_OF_A_TABLE {
        let hosts: Vec<_> = (0..ROUTES_OF_A_TABLE).map(|_| random_routes(&mut dice)).collect();
        envoy_routes += hosts.iter().map(Vec::len).sum::<usize>();
        tables.push(table(hosts));
    }
    let envoy = TestEnvoy::start(tables, &[]).await;
    envoy.assert_took_all().await;
    assert!(envoy_routes > 2 * ROUTES, "the routes are too small: {envoy_routes}");
}

fn random_routes(dice: &mut Dice) -> Vec<EnvoyRoute> {
    let kind = if dice.once_in(4) { RouteKind::Grpc } else { RouteKind::Http };
    let mut rules: Vec<_> = dice.list(3, |dice| rule(dice, kind));
    rules.push(rule(dice, kind));
    let name = dice.text("abc-09", 1, 253);
    let route = Route::new(RouteKey::new(kind, "default", name), rules);
    let applied = AppliedRoute { route: Arc::new(route), backends: resolved() };
    let rules = PortRules { kind, routes: vec![applied] };
    let proxy = match dice.below(3) {
        0 => ProxyKind::Sidecar,
        1 => ProxyKind::BOUND,
        _ => ProxyKind::DEFAULT_STANDALONE,
    };
    let port = 1 + dice.below(65_535) as u16;
    rule_routes(&proxy, &service(0), port, &rules, DEFAULT_DOMAIN)
}

fn rule(dice: &mut Dice, kind: RouteKind) -> RouteRule {
    let most = if dice.once_in(50) { 64 } else { 3 };
    let mut matches = dice.list(most, |dice| route_match(dice, kind));
    matches.push(route_match(dice, kind));
    let filters = filters(dice, kind);
    let is_redirect = filters.iter().any(|one| matches!(one, RouteFilter::Redirect(_)));
    if filters.iter().any(replaces_prefix) {
        matches.truncate(1);
        matches[0].path = prefix(dice);
    }
    RouteRule {
        name: dice.maybe(|dice| dice.text("abc-09", 1, 253).into()),
        matches,
        filters,
        backends: match is_redirect {
            true => Vec::new(),
            false => dice.list(if most == 64 { 16 } else { 3 }, backend),
        },
        request_timeout: dice.maybe(duration),
        backend_timeout: dice.maybe(duration),
    }
}

/// From zero to the longest that the API can write.
fn duration(dice: &mut Dice) -> Duration {
    Duration::from_millis([0, 1, 10_000, 4 * 99_999 * 3_600_000][dice.below(4)])
}

fn backend(dice: &mut Dice) -> Backend {
    let weight = [0, 1, 50, 1_000_000][dice.below(4)];
    let request = dice.maybe(|dice| RouteFilter::RequestHeaders(modifier(dice)));
    let response = dice.maybe(|dice| RouteFilter::ResponseHeaders(modifier(dice)));
    let filters = request.into_iter().chain(response).collect();
    Backend { target: target(dice.below(SERVICES)), weight, filters }
}

fn path(dice: &mut Dice) -> String {
    let mut path = format!("/{}", dice.text(PATH, 0, 900));
    while path.contains("//") {
        path = path.replace("//", "/");
    }
    if dice.once_in(3) { format!("{path}%2F%c3%A9") } else { path }
}

fn prefix(dice: &mut Dice) -> PathMatch {
    PathMatch::Prefix(path(dice).into())
}

/// One that the source lets through; some are larger than what Envoys take without being told.
fn regex(dice: &mut Dice) -> String {
    loop {
        let most = if dice.once_in(20) { 100 } else { 12 };
        let parts = 1 + dice.below(most);
        let regex: String = (0..parts).map(|_| dice.pick(&REGEXES)).collect();
        if program_size(&regex).is_ok_and(|size| size <= MAX_PROGRAM_SIZE) {
            return regex;
        }
    }
}

fn text(dice: &mut Dice, alphabet: &str) -> TextMatch {
    if dice.once_in(3) {
        TextMatch::Regex(regex(dice).into())
    } else {
        TextMatch::Exact(dice.text(alphabet, 1, 1024).into())
    }
}

fn route_match(dice: &mut Dice, kind: RouteKind) -> RouteMatch {
    let path = match kind {
        RouteKind::Http => match dice.below(3) {
            0 => PathMatch::Exact(path(dice).into()),
            1 => PathMatch::Regex(regex(dice).into()),
            _ => prefix(dice),
        },
        RouteKind::Grpc => PathMatch::Grpc(GrpcMethod {
            service: dice.maybe(|dice| text(dice, NAME)),
            method: dice.maybe(|dice| text(dice, NAME)),
        }),
    };
    let is_http = kind == RouteKind::Http;
    let methods = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];
    RouteMatch {
        path,
        headers: names(dice, 256, 4096),
        query: if is_http { names(dice, 256, 1024) } else { Vec::new() },
        method: dice.maybe(|dice| dice.pick(&methods).into()).filter(|_| is_http),
    }
}

fn names(dice: &mut Dice, longest_name: usize, longest_value: usize) -> Vec<NameMatch> {
    let all: BTreeSet<_> = dice
        .list(3, |dice| dice.text(TOKEN, 1, longest_name).to_ascii_lowercase())
        .into_iter()
        .collect();
    let mut one = |name: String| {
        let value = if dice.once_in(4) {
            TextMatch::Regex(regex(dice).into())
        } else {
            TextMatch::Exact(dice.text(VALUE, 1, longest_value).into())
        };
        let name = if dice.once_in(10) { "host".to_owned() } else { name };
        NameMatch { name: name.into(), value }
    };
    all.into_iter().map(&mut one).collect()
}

fn filters(dice: &mut Dice, kind: RouteKind) -> Vec<RouteFilter> {
    let mut filters = Vec::new();
    filters.extend(dice.maybe(|dice| RouteFilter::RequestHeaders(modifier(dice))));
    filters.extend(dice.maybe(|dice| RouteFilter::ResponseHeaders(modifier(dice))));
    let mirror = |dice: &mut Dice| {
        let [numerator, denominator] = match dice.below(4) {
            0 => [1, 1],
            1 => [dice.below(101) as u32, 100],
            2 => [1, i32::MAX as u32],
            _ => [i32::MAX as u32, i32::MAX as u32],
        };
        RouteFilter::Mirror(Mirror {
            backend: target(dice.below(SERVICES)),
            numerator,
            denominator,
        })
    };
    filters.extend(dice.list(2, mirror));
    if kind == RouteKind::Http {
        filters.extend(dice.maybe(|dice| match dice.below(2) {
            0 => RouteFilter::Redirect(redirect(dice)),
            _ => RouteFilter::Rewrite(Rewrite { hostname: hostname(dice), path: modified(dice) }),
        }));
        filters.extend(dice.maybe(|dice| RouteFilter::Cors(cors(dice))));
    }
    filters
}

fn modifier(dice: &mut Dice) -> HeaderModifier {
    let mut pairs = |most: usize| {
        let pair =
            |dice: &mut Dice| (dice.text(TOKEN, 1, 256).into(), dice.text(VALUE, 1, 4096).into());
        dice.list(most, pair)
    };
    let (set, add) = (pairs(3), pairs(16));
    HeaderModifier { set, add, remove: dice.list(3, |dice| dice.text(TOKEN, 1, 256).into()) }
}

fn hostname(dice: &mut Dice) -> Option<Arc<str>> {
    dice.maybe(|dice| format!("{}.example.org", dice.text("abc09", 1, 63)).into())
}

fn modified(dice: &mut Dice) -> Option<PathModifier> {
    let text = if dice.once_in(4) { String::new() } else { path(dice) };
    dice.maybe(|dice| match dice.below(2) {
        0 => PathModifier::ReplaceFull(text.into()),
        _ => PathModifier::ReplacePrefix(text.into()),
    })
}

fn redirect(dice: &mut Dice) -> Redirect {
    Redirect {
        scheme: dice.maybe(|dice| dice.pick(&["http", "https"]).into()),
        hostname: hostname(dice),
        path: modified(dice),
        port: dice.maybe(|dice| 1 + dice.below(65_535) as u16),
        status: [301, 302, 303, 307, 308][dice.below(5)],
    }
}

fn cors(dice: &mut Dice) -> Cors {
    let origin = |dice: &mut Dice| -> Arc<str> {
        let scheme = dice.pick(&["http", "https"]);
        let host = match dice.below(3) {
            0 => "*".to_owned(),
            1 => format!("*.{}.com", dice.text("abcXYZ-09", 1, 60)),
            _ => format!("{}.com", dice.text("abcXYZ-09", 1, 200)),
        };
        let port = dice.maybe(|dice| format!(":{}", 1 + dice.below(65_535))).unwrap_or_default();
        if dice.once_in(5) { "*".into() } else { format!("{scheme}://{host}{port}").into() }
    };
    let names = |dice: &mut Dice| match dice.below(3) {
        0 => vec!["*".into()],
        _ => dice.list(5, |dice| dice.text(TOKEN, 1, 256).into()),
    };
    Cors {
        allow_origins: dice.list(5, origin),
        allow_credentials: dice.once_in(2),
        allow_methods: dice.list(3, |dice| dice.pick(&["GET", "PUT", "*"]).into()),
        allow_headers: names(dice),
        expose_headers: names(dice),
        max_age: 1 + dice.below(100_000) as u32,
    }
}
