//! Cross-origin requests, which Envoy's CORS filter answers for.
//!
//! The filter must be in the listener's chain; without a route that configures it, it does nothing.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::StringMatcher;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::google::protobuf::{Any, BoolValue};

use super::matches::{header_exact, regex_matcher, string_matcher};
use crate::model::route::{Cors, RouteMatch};
use crate::translate::{CORS_FILTER, to_any};

pub(super) fn filter_config(cors: &Cors) -> (String, Any) {
    (CORS_FILTER.to_owned(), to_any(&policy(cors)))
}

/// The routes for the preflight requests of a match that wants a method: they have another one, and tell which
/// they are for. A rule that answers for GET would never be asked otherwise.
pub(super) fn preflight(routes: &[Route], matched: &RouteMatch) -> Option<Vec<Route>> {
    let method = matched.method.as_deref().filter(|method| *method != "OPTIONS")?;
    let preflight = |route: &Route| {
        let mut route = route.clone();
        let headers = &mut route.r#match.get_or_insert_default().headers;
        headers.retain(|one| one.name != ":method");
        headers.push(header_exact(":method", "OPTIONS"));
        headers.push(header_exact("access-control-request-method", method));
        route
    };
    Some(routes.iter().map(preflight).collect())
}

fn policy(cors: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: cors.allow_origins.iter().flat_map(|one| origin(one)).collect(),
        allow_methods: joined(&cors.allow_methods),
        allow_headers: joined(&cors.allow_headers),
        expose_headers: exposed(cors),
        max_age: cors.max_age.to_string(),
        allow_credentials: cors.allow_credentials.then_some(BoolValue { value: true }),
        // A preflight from elsewhere is answered without the headers that would allow it.
        forward_not_matching_preflights: Some(BoolValue { value: false }),
        ..Default::default()
    }
}

fn joined(names: &[Arc<str>]) -> String {
    names.iter().map(|name| &**name).collect::<Vec<_>>().join(", ")
}

/// To requests with credentials `*` must not be said.
fn exposed(cors: &Cors) -> String {
    let may = |name: &&Arc<str>| !cors.allow_credentials || &***name != "*";
    joined(&cors.expose_headers.iter().filter(may).cloned().collect::<Vec<_>>())
}

/// `*`, or `SCHEME://HOST` with an optional port. A `*` in the host is any number of labels; the scheme's
/// well-known port is meant where there is none, and browsers leave it out. Hosts have no case.
fn origin(origin: &str) -> Vec<StringMatcher> {
    if origin == "*" {
        return vec![regex(".*".to_owned())];
    }
    let (scheme, rest) = origin.split_once("://").unwrap_or(("http", origin));
    let (host, port) = rest.split_once(':').unwrap_or((rest, ""));
    let well_known = if scheme == "https" { "443" } else { "80" };
    let ports = match port {
        port if port.is_empty() || port == well_known => {
            vec![String::new(), format!(":{well_known}")]
        }
        port => vec![format!(":{port}")],
    };
    let matcher = |port: String| match host.strip_prefix('*') {
        // Of any size; Envoy limits that of regular expressions.
        None => StringMatcher {
            ignore_case: true,
            ..string_matcher(MatchPattern::Exact(format!("{scheme}://{host}{port}")))
        },
        Some("") => regex(format!(r"(?i){scheme}://([a-z0-9._-]+|\[[0-9a-f:.]+\]){port}")),
        Some(parent) => {
            let parent = regex_syntax::escape(parent);
            regex(format!("(?i){scheme}://[a-z0-9._-]+{parent}{port}"))
        }
    };
    ports.into_iter().map(matcher).collect()
}

fn regex(regex: String) -> StringMatcher {
    string_matcher(MatchPattern::SafeRegex(regex_matcher(regex)))
}
