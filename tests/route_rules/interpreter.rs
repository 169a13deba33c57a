//! What an Envoy does with a request that has these routes, as far as they use it. Written from Envoy's
//! documentation of the fields and from what a real one does; `sample` holds it to that.

use envoy_types::pb::envoy::config::core::v3::HeaderValueOption;
use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, SchemeRewriteSpecifier,
};
use envoy_types::pb::envoy::config::route::v3::route_action::{
    ClusterNotFoundResponseCode, ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, RedirectAction, Route, RouteAction, RouteMatch, route,
};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatchAndSubstitute, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use pilothouse::names::{self, ClusterName};

use crate::outcome::{Headers, Outcome, Outcomes, Request, answer, append, certain};
use crate::regexes::{is_whole, re2};

/// The first route that matches applies.
pub(crate) fn interpret(routes: &[Route], request: &Request) -> Outcomes {
    let fits = |route: &&Route| matches(route.r#match.as_ref().unwrap(), request);
    let Some(route) = routes.iter().find(fits) else { return certain(Outcome::NoRule) };
    match route.action.as_ref().unwrap() {
        route::Action::DirectResponse(direct) => {
            certain(Outcome::InvalidBackend(direct.status.try_into().unwrap()))
        }
        route::Action::Redirect(action) => certain(redirect(route, action, request)),
        route::Action::Route(action) => forward(route, action, request),
        other => panic!("{other:?}"),
    }
}

fn matches(one: &RouteMatch, request: &Request) -> bool {
    let path = &*request.path;
    let fits = match one.path_specifier.as_ref().unwrap() {
        PathSpecifier::Prefix(prefix) => path.starts_with(prefix),
        PathSpecifier::Path(exact) => path == exact,
        PathSpecifier::PathSeparatedPrefix(prefix) => {
            assert!(!prefix.ends_with('/'), "Envoy rejects {prefix}");
            path.strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        }
        PathSpecifier::SafeRegex(regex) => is_whole(&regex.regex, path),
        other => panic!("{other:?}"),
    };
    let query = request.query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    fits && one.headers.iter().all(|header| has_header(header, request))
        && one.query_parameters.iter().all(|parameter| {
            let Some(QueryParameterMatchSpecifier::StringMatch(text)) =
                &parameter.query_parameter_match_specifier
            else {
                panic!("{parameter:?}")
            };
            query
                .clone()
                .find(|(name, _)| *name == parameter.name)
                .is_some_and(|(_, value)| is_text(text, value))
        })
}

fn has_header(matcher: &HeaderMatcher, request: &Request) -> bool {
    let Some(HeaderMatchSpecifier::StringMatch(text)) = &matcher.header_match_specifier else {
        panic!("{matcher:?}")
    };
    // Of a header that is repeated, one of its values; before 1.39 all of them joined by commas.
    match &*matcher.name {
        ":method" => is_text(text, &request.method),
        ":authority" => is_text(text, &request.host),
        ":path" => is_text(text, &request.target(&request.path)),
        "host" => false,
        name => request.values(name).any(|value| is_text(text, value)),
    }
}

fn is_text(matcher: &StringMatcher, value: &str) -> bool {
    match matcher.match_pattern.as_ref().unwrap() {
        MatchPattern::Exact(exact) => value == exact,
        MatchPattern::Suffix(suffix) => value.ends_with(&**suffix),
        MatchPattern::SafeRegex(regex) => is_whole(&regex.regex, value),
        other => panic!("{other:?}"),
    }
}

fn forward(route: &Route, action: &RouteAction, request: &Request) -> Outcomes {
    let missing = match action.cluster_not_found_response_code() {
        ClusterNotFoundResponseCode::InternalServerError => 500,
        ClusterNotFoundResponseCode::ServiceUnavailable => 503,
        ClusterNotFoundResponseCode::NotFound => 404,
    };
    let to = |name: &str, weighted: Option<&ClusterWeight>| {
        if name == names::INVALID_BACKEND_CLUSTER {
            return Outcome::InvalidBackend(missing);
        }
        // Of the cluster first, of the route then.
        let mut headers = request.headers();
        let mut response = answer();
        if let Some(weighted) = weighted {
            let add = &weighted.request_headers_to_add;
            change(&mut headers, &weighted.request_headers_to_remove, add);
            let add = &weighted.response_headers_to_add;
            change(&mut response, &weighted.response_headers_to_remove, add);
        }
        change(&mut headers, &route.request_headers_to_remove, &route.request_headers_to_add);
        change(&mut response, &route.response_headers_to_remove, &route.response_headers_to_add);
        let host = match &action.host_rewrite_specifier {
            None => request.host.clone(),
            Some(HostRewriteSpecifier::HostRewriteLiteral(host)) => host.clone(),
            other => panic!("{other:?}"),
        };
        let path = match &action.regex_rewrite {
            Some(rewrite) => substituted(rewrite, &request.path),
            None => prefix_replaced(route, &action.prefix_rewrite, &request.path),
        };
        Outcome::Forwarded {
            backend: backend(name),
            host,
            target: request.target(&path),
            headers,
            response,
            mirrors: action.request_mirror_policies.iter().map(mirror).collect(),
        }
    };
    match action.cluster_specifier.as_ref().unwrap() {
        ClusterSpecifier::Cluster(name) => certain(to(name, None)),
        ClusterSpecifier::WeightedClusters(weighted) => {
            let mut outcomes = Outcomes::new();
            for cluster in &weighted.clusters {
                let weight = cluster.weight.unwrap().value;
                *outcomes.entry(to(&cluster.name, Some(cluster))).or_default() += u64::from(weight);
            }
            assert!(outcomes.values().sum::<u64>() > 0, "Envoy rejects a sum of 0");
            match outcomes.len() {
                1 => outcomes.into_keys().map(|only| (only, 1)).collect(),
                _ => outcomes,
            }
        }
        other => panic!("{other:?}"),
    }
}

/// `NAMESPACE/NAME:PORT`.
pub(crate) fn backend(cluster: &str) -> String {
    let Some(ClusterName::Outbound { port, host }) = ClusterName::parse(cluster) else {
        panic!("{cluster}")
    };
    let (name, namespace) = names::service_of_host(host, names::DEFAULT_DOMAIN).unwrap();
    format!("{namespace}/{name}:{port}")
}

fn mirror(policy: &RequestMirrorPolicy) -> (String, u64) {
    let share = policy.runtime_fraction.as_ref().map(|one| one.default_value.unwrap());
    let millionths = share.map_or(1_000_000, |share| {
        u64::from(share.numerator)
            * match share.denominator() {
                DenominatorType::Hundred => 10_000,
                DenominatorType::TenThousand => 100,
                DenominatorType::Million => 1,
            }
    });
    (backend(&policy.cluster), millionths)
}

/// What is to be removed first, the rest in its order.
fn change(headers: &mut Headers, remove: &[String], add: &[HeaderValueOption]) {
    for name in remove {
        headers.remove(&name.to_ascii_lowercase());
    }
    for option in add {
        let header = option.header.as_ref().unwrap();
        assert!(!header.value.replace("%%", "").contains('%'), "a placeholder: {header:?}");
        let value = header.value.replace("%%", "%");
        match option.append_action() {
            HeaderAppendAction::AppendIfExistsOrAdd => append(headers, &header.key, &value),
            HeaderAppendAction::OverwriteIfExistsOrAdd => {
                headers.insert(header.key.to_ascii_lowercase(), value);
            }
            other => panic!("{other:?}"),
        }
    }
}

/// In place of what the route's path has matched.
fn prefix_replaced(route: &Route, replacement: &str, path: &str) -> String {
    if replacement.is_empty() {
        return path.to_owned();
    }
    let rest = match route.r#match.as_ref().unwrap().path_specifier.as_ref().unwrap() {
        PathSpecifier::Prefix(prefix) | PathSpecifier::PathSeparatedPrefix(prefix) => {
            path.strip_prefix(&**prefix).unwrap()
        }
        PathSpecifier::Path(_) => "",
        other => panic!("{other:?}"),
    };
    format!("{replacement}{rest}")
}

fn substituted(rewrite: &RegexMatchAndSubstitute, path: &str) -> String {
    let regex = re2(&rewrite.pattern.as_ref().unwrap().regex);
    assert!(!rewrite.substitution.replace(r"\\", "").contains('\\'), "a group: {rewrite:?}");
    let text = rewrite.substitution.replace(r"\\", r"\");
    let replaced = regex.replace_all(path.as_bytes(), regex::bytes::NoExpand(text.as_bytes()));
    String::from_utf8(replaced.into_owned()).unwrap()
}

/// A port that is to be written replaces that of the Host; without one it stays, unless another scheme is to be
/// written and it is the request's own well-known one.
fn redirect(route: &Route, action: &RedirectAction, request: &Request) -> Outcome {
    let scheme = match &action.scheme_rewrite_specifier {
        None => "http",
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) => scheme,
        other => panic!("{other:?}"),
    };
    let (name, own_port) = request.host.split_once(':').unwrap_or((&request.host, ""));
    let host = match (&*action.host_redirect, action.port_redirect) {
        ("", 0) if own_port.is_empty() || (scheme != "http" && own_port == "80") => name.to_owned(),
        ("", 0) => request.host.clone(),
        ("", port) => format!("{name}:{port}"),
        (host, 0) => host.to_owned(),
        (host, port) => format!("{host}:{port}"),
    };
    let path = match &action.path_rewrite_specifier {
        None => request.path.clone(),
        Some(PathRewriteSpecifier::PathRedirect(path)) => path.clone(),
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            prefix_replaced(route, prefix, &request.path)
        }
        other => panic!("{other:?}"),
    };
    let mut response = Headers::new();
    change(&mut response, &route.response_headers_to_remove, &route.response_headers_to_add);
    let status = [301, 302, 303, 307, 308][usize::try_from(action.response_code).unwrap()];
    let location = format!("{scheme}://{host}{}", request.target(&path));
    Outcome::Redirect { status, location, response }
}
