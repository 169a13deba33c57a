//! What a request must be, in Envoy's words.

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch as EnvoyMatch,
};
use envoy_types::pb::envoy::r#type::matcher::v3::regex_matcher::{EngineType, GoogleRe2};
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::google::protobuf::UInt32Value;

use crate::model::route::regex::{MAX_PROGRAM_SIZE, program_size};
use crate::model::route::{GrpcMethod, NameMatch, PathMatch, RouteMatch, TextMatch};

pub(super) fn route_match(matched: &RouteMatch) -> EnvoyMatch {
    let (path, mut headers) = path_specifier(&matched.path);
    headers.extend(matched.method.as_deref().map(|method| header_exact(":method", method)));
    let named = |one: &NameMatch| header(header_name(&one.name), text(&one.value));
    headers.extend(matched.headers.iter().map(named));
    EnvoyMatch {
        path_specifier: Some(path),
        headers,
        query_parameters: matched.query.iter().map(query_parameter).collect(),
        ..Default::default()
    }
}

/// With what the path as a header must be besides.
fn path_specifier(path: &PathMatch) -> (PathSpecifier, Vec<HeaderMatcher>) {
    let specifier = match path {
        PathMatch::Exact(path) => PathSpecifier::Path(path.to_string()),
        PathMatch::Prefix(prefix) => match prefix.trim_end_matches('/') {
            // Envoy's prefix of whole elements cannot end in a slash.
            "" => any_path(),
            elements => PathSpecifier::PathSeparatedPrefix(elements.to_owned()),
        },
        PathMatch::Regex(regex) => PathSpecifier::SafeRegex(regex_matcher(regex.to_string())),
        PathMatch::Grpc(call) => return grpc_path(call),
    };
    (specifier, Vec::new())
}

fn any_path() -> PathSpecifier {
    PathSpecifier::Prefix("/".to_owned())
}

/// A gRPC call has the path `/SERVICE/METHOD`, and no query.
///
/// Service and method are matched each by itself: Envoy limits the size of a regular expression, and the two in
/// one could be larger than what the source allows for each.
fn grpc_path(call: &GrpcMethod) -> (PathSpecifier, Vec<HeaderMatcher>) {
    // Any one of the two. RE2's size of a class is that of its ranges.
    const OTHER: &str = "[!-.0-~]+";
    let mut headers = Vec::new();
    let specifier = match (&call.service, &call.method) {
        (Some(TextMatch::Exact(service)), Some(TextMatch::Exact(method))) => {
            return (PathSpecifier::Path(format!("/{service}/{method}")), headers);
        }
        (Some(TextMatch::Exact(service)), _) => PathSpecifier::Prefix(format!("/{service}/")),
        (Some(TextMatch::Regex(regex)), _) => {
            // A group, so that of `a|b` each is an alternative of the service alone.
            headers.push(header_regex(":path", &format!("/(?:{regex})/{OTHER}")));
            any_path()
        }
        (None, _) => any_path(),
    };
    headers.extend(call.method.as_ref().map(|method| match method {
        TextMatch::Exact(method) => header(":path", MatchPattern::Suffix(format!("/{method}"))),
        TextMatch::Regex(regex) => header_regex(":path", &format!("/{OTHER}/(?:{regex})")),
    }));
    (specifier, headers)
}

/// Envoy has the Host, of HTTP/1.1 too, by the name that HTTP/2 gives it.
fn header_name(name: &str) -> &str {
    match name {
        "host" => ":authority",
        other => other,
    }
}

/// Of a header that occurs several times one value must match; before Envoy 1.39 all of them, joined by commas
/// (both are seen; the specification allows either).
fn header(name: &str, pattern: MatchPattern) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(string_matcher(pattern))),
        ..Default::default()
    }
}

/// The header is there, and its value is this.
pub(super) fn header_exact(name: &str, value: &str) -> HeaderMatcher {
    header(name, exact(value))
}

/// The header is there, and its whole value matches this regular expression.
pub(super) fn header_regex(name: &str, regex: &str) -> HeaderMatcher {
    header(name, MatchPattern::SafeRegex(regex_matcher(regex.to_owned())))
}

/// Of a parameter that occurs several times Envoy compares the first value.
fn query_parameter(one: &NameMatch) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: one.name.to_string(),
        query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(
            string_matcher(text(&one.value)),
        )),
    }
}

fn text(value: &TextMatch) -> MatchPattern {
    match value {
        TextMatch::Exact(value) => exact(value),
        TextMatch::Regex(regex) => MatchPattern::SafeRegex(regex_matcher(regex.to_string())),
    }
}

fn exact(value: &str) -> MatchPattern {
    MatchPattern::Exact(value.to_owned())
}

pub(super) fn string_matcher(pattern: MatchPattern) -> StringMatcher {
    StringMatcher { match_pattern: Some(pattern), ..Default::default() }
}

/// The largest program that is left to Envoy's own limit, which is 100 instructions.
const SMALL_PROGRAM: usize = 100;

/// RE2, of the whole text. A large program needs a limit of its own: the field for it is deprecated and warned of,
/// and honoured by Envoys 1.36 to 1.40, where a runtime key that replaces it is not ours to set.
#[expect(deprecated)]
pub(super) fn regex_matcher(regex: String) -> RegexMatcher {
    let is_small = program_size(&regex).is_ok_and(|size| size <= SMALL_PROGRAM);
    // A few more than the parts may have, since what is put around them counts as well.
    let limit = u32::try_from(MAX_PROGRAM_SIZE + SMALL_PROGRAM).unwrap_or(u32::MAX);
    let limit = GoogleRe2 { max_program_size: Some(UInt32Value { value: limit }) };
    let engine_type = (!is_small).then_some(EngineType::GoogleRe2(limit));
    RegexMatcher { regex, engine_type }
}
