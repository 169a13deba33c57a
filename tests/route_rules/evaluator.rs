//! The Gateway API's specification as a plain program: from rules and a request to what must become of it.
//!
//! Written from the comments of `httproute_types.go` and `grpcroute_types.go` (v1.5.1), which it quotes, and not
//! from the translation. Where these leave something to the implementation, it says "ours".

use std::cmp::Ordering;

use crate::outcome::{Headers, Outcome, Outcomes, Request, answer, append, certain};
use crate::regexes::is_whole;
use pilothouse::model::route::{
    AppliedRoute, Backend, BackendRef, GrpcMethod, HeaderModifier, Mirror, NameMatch, PathMatch,
    PathModifier, PortRules, Redirect, ResolvedBackends, Rewrite, RouteFilter, RouteKind,
    RouteMatch, RouteRule, TextMatch,
};

/// What becomes of `request` to this port of a Service.
pub(crate) fn evaluate(rules: &PortRules, port: u16, request: &Request) -> Outcomes {
    // "When no rules matching a request have been successfully attached to the parent a request is coming from, a
    // HTTP 404 status code MUST be returned."
    let Some(best) = best_match(rules, request) else { return certain(Outcome::NoRule) };
    let filters = &best.rule.filters;
    if let Some(redirect) = filters.iter().find_map(|one| match one {
        RouteFilter::Redirect(redirect) => Some(redirect),
        _ => None,
    }) {
        return certain(redirected(redirect, filters, &best.matched.path, port, request));
    }
    forwarded(rules.kind, &best, request)
}

struct Best<'a> {
    applied: &'a AppliedRoute,
    rule: &'a RouteRule,
    matched: &'a RouteMatch,
}

fn best_match<'a>(rules: &'a PortRules, request: &Request) -> Option<Best<'a>> {
    let mut routes: Vec<_> = rules.routes.iter().collect();
    // "The oldest Route based on creation timestamp. The Route appearing first in alphabetical order by
    // {namespace}/{name}."
    routes.sort_by_key(|one| {
        let key = &one.route.key;
        (one.route.created.clone(), format!("{}/{}", key.namespace, key.name))
    });
    let mut best: Option<Best<'a>> = None;
    for applied in routes {
        // "matching precedence MUST be granted to the FIRST matching rule (in list order)"
        for rule in &applied.route.rules {
            for matched in rule.matches.iter().filter(|one| matches(one, request)) {
                let is_better = best
                    .as_ref()
                    .is_none_or(|best| precedence(matched, best.matched) == Ordering::Greater);
                if is_better {
                    best = Some(Best { applied, rule, matched });
                }
            }
        }
    }
    best
}

/// "precedence must be given to the match having: "Exact" path match. "Prefix" path match with largest number of
/// characters. Method match. Largest number of header matches. Largest number of query param matches."
fn precedence(one: &RouteMatch, other: &RouteMatch) -> Ordering {
    path_precedence(&one.path, &other.path)
        .then(one.method.is_some().cmp(&other.method.is_some()))
        .then(one.headers.len().cmp(&other.headers.len()))
        .then(one.query.len().cmp(&other.query.len()))
}

fn path_precedence(one: &PathMatch, other: &PathMatch) -> Ordering {
    if let (PathMatch::Grpc(one), PathMatch::Grpc(other)) = (one, other) {
        // "Characters in a matching service. Characters in a matching method."
        return text_precedence(one.service.as_ref(), other.service.as_ref())
            .then(text_precedence(one.method.as_ref(), other.method.as_ref()));
    }
    // "The precedence of RegularExpression path matches are implementation-specific": ours, between the two; and of
    // two the longer one.
    let rank = |path: &PathMatch| match path {
        PathMatch::Exact(_) => (3, 0),
        PathMatch::Regex(regex) => (2, regex.len()),
        // "When specified, a trailing `/` is ignored."
        PathMatch::Prefix(prefix) => (1, prefix.strip_suffix('/').unwrap_or(prefix).len()),
        PathMatch::Grpc(_) => (0, 0),
    };
    rank(one).cmp(&rank(other))
}

/// Ours: regular expressions behind exact texts.
fn text_precedence(one: Option<&TextMatch>, other: Option<&TextMatch>) -> Ordering {
    let rank = |text: Option<&TextMatch>| match text {
        Some(TextMatch::Exact(text)) => (2, text.len()),
        Some(TextMatch::Regex(regex)) => (1, regex.len()),
        None => (0, 0),
    };
    rank(one).cmp(&rank(other))
}

/// "Multiple match types are ANDed together, i.e. the match will evaluate to true only if all conditions are
/// satisfied."
fn matches(one: &RouteMatch, request: &Request) -> bool {
    let method = one.method.as_deref().is_none_or(|method| method == request.method);
    // "When a header is repeated in an HTTP request, it is implementation-specific behavior as to how this is
    // represented": ours, as Envoy 1.40 has it, one of its values must match.
    let header = |one: &NameMatch| {
        let name = one.name.to_ascii_lowercase();
        let mut values = request.values(&name);
        values.any(|value| is_text(&one.value, value))
    };
    // "it is *recommended* that implementations should match against the first value of the param"; ours: as it is
    // written, without decoding.
    let query = |one: &NameMatch| {
        let mut pairs =
            request.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let first = pairs.find(|(name, _)| *name == &*one.name);
        first.is_some_and(|(_, value)| is_text(&one.value, value))
    };
    is_path(&one.path, &request.path)
        && method
        && one.headers.iter().all(header)
        && one.query.iter().all(query)
}

fn is_text(matched: &TextMatch, value: &str) -> bool {
    match matched {
        TextMatch::Exact(exact) => value == &**exact,
        TextMatch::Regex(regex) => is_whole(regex, value),
    }
}

fn is_path(matched: &PathMatch, path: &str) -> bool {
    match matched {
        // "Matches the URL path exactly and with case sensitivity."
        PathMatch::Exact(exact) => path == &**exact,
        // "Matching is case-sensitive and done on a path element by element basis."
        PathMatch::Prefix(prefix) => elements(path).starts_with(&prefix_elements(prefix)),
        PathMatch::Regex(regex) => is_text(&TextMatch::Regex(regex.clone()), path),
        PathMatch::Grpc(call) => is_call(call, path),
    }
}

fn is_call(call: &GrpcMethod, path: &str) -> bool {
    let (service, method) = path.strip_prefix('/').and_then(|path| path.split_once('/')).unwrap();
    call.service.as_ref().is_none_or(|one| is_text(one, service))
        && call.method.as_ref().is_none_or(|one| is_text(one, method))
}

/// "A path element refers to the list of labels in the path split by the `/` separator."
fn elements(path: &str) -> Vec<&str> {
    path.split('/').collect()
}

fn prefix_elements(prefix: &str) -> Vec<&str> {
    elements(prefix.strip_suffix('/').unwrap_or(prefix))
}

fn forwarded(kind: RouteKind, best: &Best<'_>, request: &Request) -> Outcomes {
    let resolved = &best.applied.backends;
    let mut outcomes = Outcomes::new();
    // "If weight is set to 0, no traffic should be forwarded for this entry."
    for backend in best.rule.backends.iter().filter(|backend| backend.weight > 0) {
        let outcome = match name_of(&backend.target, resolved) {
            Some(name) => to_backend(name, backend, best, request),
            // "the proportion of requests that would otherwise have been routed to an invalid backend MUST receive a
            // 500 status code", and of a GRPCRoute "an `UNAVAILABLE` status".
            None => invalid(kind),
        };
        *outcomes.entry(outcome).or_default() += u64::from(backend.weight);
    }
    // "If *all* entries in BackendRefs are invalid […] *all* traffic which matches this rule MUST receive a 500
    // status code."
    if outcomes.is_empty() {
        return certain(invalid(kind));
    }
    match outcomes.len() {
        1 => outcomes.into_keys().map(|only| (only, 1)).collect(),
        _ => outcomes,
    }
}

fn invalid(kind: RouteKind) -> Outcome {
    Outcome::InvalidBackend(match kind {
        RouteKind::Http => 500,
        RouteKind::Grpc => 503,
    })
}

fn name_of(target: &BackendRef, resolved: &ResolvedBackends) -> Option<String> {
    let service = resolved.get(target)?.as_ref().ok()?;
    let BackendRef::Service { port, .. } = target else { return None };
    Some(format!("{}:{port}", service.key))
}

fn to_backend(name: String, backend: &Backend, best: &Best<'_>, request: &Request) -> Outcome {
    let filters = &best.rule.filters;
    let mut path = request.path.clone();
    let mut host = request.host.clone();
    let mut mirrors = Vec::new();
    for filter in filters {
        match filter {
            RouteFilter::Rewrite(Rewrite { hostname, path: modifier }) => {
                host = hostname.as_ref().map_or(host, ToString::to_string);
                let modifier = modifier.as_ref();
                path =
                    modifier.map_or(path, |one| modified(one, &best.matched.path, &request.path));
            }
            RouteFilter::Mirror(mirror) => mirrors.extend(mirrored(mirror, &best.applied.backends)),
            _ => {}
        }
    }
    // The rule's first; "Filters defined at this level should be executed if and only if the request is being
    // forwarded to the backend defined here."
    let all = || filters.iter().chain(&backend.filters);
    let mut headers = request.headers();
    all().for_each(|filter| {
        if let RouteFilter::RequestHeaders(modifier) = filter {
            modify(modifier, &mut headers);
        }
    });
    Outcome::Forwarded {
        backend: name,
        host,
        target: request.target(&path),
        headers,
        response: changed_response(all(), answer()),
        mirrors,
    }
}

fn changed_response<'a>(
    filters: impl Iterator<Item = &'a RouteFilter>,
    mut response: Headers,
) -> Headers {
    for filter in filters {
        if let RouteFilter::ResponseHeaders(modifier) = filter {
            modify(modifier, &mut response);
        }
    }
    response
}

/// "Set overwrites the request with the given header", "Add […] appends to any existing values", "Remove the given
/// header(s)": "Only one action for a given header name is permitted."
fn modify(modifier: &HeaderModifier, headers: &mut Headers) {
    for name in &modifier.remove {
        headers.remove(&name.to_ascii_lowercase());
    }
    for (name, value) in &modifier.set {
        headers.insert(name.to_ascii_lowercase(), value.to_string());
    }
    for (name, value) in &modifier.add {
        append(headers, name, value);
    }
}

/// "the referent cannot be found, this BackendRef is invalid and must be dropped"
fn mirrored(mirror: &Mirror, resolved: &ResolvedBackends) -> Option<(String, u64)> {
    let millionths =
        (f64::from(mirror.numerator) / f64::from(mirror.denominator) * 1_000_000.0).round();
    let name = name_of(&mirror.backend, resolved)?;
    (mirror.numerator > 0).then_some((name, (millionths as u64).max(1)))
}

/// The table at `HTTPPathModifier.replacePrefixMatch`.
fn modified(modifier: &PathModifier, matched: &PathMatch, path: &str) -> String {
    let whole = match modifier {
        PathModifier::ReplaceFull(path) => path.to_string(),
        PathModifier::ReplacePrefix(replacement) => {
            let PathMatch::Prefix(prefix) = matched else { panic!("only for prefixes") };
            let rest = &elements(path)[prefix_elements(prefix).len()..];
            let mut new = replacement.strip_suffix('/').unwrap_or(replacement).to_owned();
            for element in rest {
                new.push('/');
                new.push_str(element);
            }
            new
        }
    };
    if whole.is_empty() { "/".to_owned() } else { whole }
}

fn redirected(
    redirect: &Redirect,
    filters: &[RouteFilter],
    matched: &PathMatch,
    listener: u16,
    request: &Request,
) -> Outcome {
    // "When empty, the scheme of the request is used."
    let scheme = redirect.scheme.as_deref().unwrap_or("http");
    let well_known = if scheme == "https" { 443 } else { 80 };
    // "When empty, the hostname in the `Host` header of the request is used."
    let name = request.host.split(':').next().unwrap();
    let hostname = redirect.hostname.as_deref().unwrap_or(name);
    let port = match (redirect.port, &redirect.scheme) {
        (Some(port), _) => port,
        // "If redirect scheme is not-empty, the redirect port MUST be the well-known port"
        (None, Some(_)) => well_known,
        // "If redirect scheme is empty, the redirect port MUST be the Gateway Listener port."
        (None, None) => listener,
    };
    // "Implementations SHOULD NOT add the port number in the 'Location' header" if it is the scheme's.
    let port = if port == well_known { String::new() } else { format!(":{port}") };
    // "When empty, the request path is used as-is."
    let path = redirect.path.as_ref();
    let path =
        path.map_or_else(|| request.path.clone(), |one| modified(one, matched, &request.path));
    Outcome::Redirect {
        status: redirect.status,
        location: format!("{scheme}://{hostname}{port}{}", request.target(&path)),
        response: changed_response(filters.iter(), Headers::new()),
    }
}
