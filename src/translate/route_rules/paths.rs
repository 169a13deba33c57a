//! Changes of the path, on the way to a backend and in a redirect; and of the Host. The query stays.

use envoy_types::pb::envoy::config::route::v3::redirect_action::PathRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_action::HostRewriteSpecifier;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{RedirectAction, Route, RouteAction};
use envoy_types::pb::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;

use super::filters::Filters;
use super::matches::regex_matcher;
use crate::model::route::{PathMatch, PathModifier, Rewrite};

pub(super) fn rewrite(action: &mut RouteAction, rewrite: &Rewrite, matched: &PathMatch) {
    if let Some(hostname) = &rewrite.hostname {
        let literal = HostRewriteSpecifier::HostRewriteLiteral(hostname.to_string());
        action.host_rewrite_specifier = Some(literal);
    }
    match &rewrite.path {
        None => {}
        Some(PathModifier::ReplaceFull(path)) => action.regex_rewrite = Some(whole_path(path)),
        Some(PathModifier::ReplacePrefix(prefix)) => {
            action.prefix_rewrite = in_place_of_matched(matched, prefix).unwrap_or_default();
        }
    }
}

pub(super) fn redirect(action: &mut RedirectAction, path: &PathModifier, matched: &PathMatch) {
    action.path_rewrite_specifier = match path {
        PathModifier::ReplaceFull(path) => {
            Some(PathRewriteSpecifier::PathRedirect(full_path(path).to_owned()))
        }
        PathModifier::ReplacePrefix(prefix) => {
            in_place_of_matched(matched, prefix).map(PathRewriteSpecifier::PrefixRewrite)
        }
    };
}

/// `route`, or where its prefix is replaced by nothing, two in its place: Envoy puts a text in the place of the
/// prefix, and of `/foo` the slash must remain, which `/foo/bar` has already.
///
/// A regular expression would do in one route, but Envoy limits their size.
pub(super) fn split(route: Route, filters: &Filters<'_>, matched: &PathMatch) -> Vec<Route> {
    let redirect = filters.redirect.and_then(|one| one.path.as_ref());
    let modifier = redirect.or_else(|| filters.rewrite.and_then(|one| one.path.as_ref()));
    let (Some(PathModifier::ReplacePrefix(replacement)), PathMatch::Prefix(prefix)) =
        (modifier, matched)
    else {
        return vec![route];
    };
    let prefix = without_last_slash(prefix);
    if prefix.is_empty() || !without_last_slash(replacement).is_empty() {
        return vec![route];
    }
    let with_path = |mut route: Route, path: PathSpecifier| {
        route.r#match.get_or_insert_default().path_specifier = Some(path);
        route
    };
    vec![
        with_path(route.clone(), PathSpecifier::Path(prefix.to_owned())),
        with_path(route, PathSpecifier::Prefix(format!("{prefix}/"))),
    ]
}

/// The table at `replacePrefixMatch` in the Gateway API: slashes at the end of both prefixes mean nothing, and
/// what remains of the path keeps its own. None if nothing changes.
fn in_place_of_matched(matched: &PathMatch, replacement: &str) -> Option<String> {
    let PathMatch::Prefix(prefix) = matched else { return None };
    match (without_last_slash(prefix), without_last_slash(replacement)) {
        ("", "") => None,
        // What is matched is `/`, and that belongs to what remains.
        ("", new) => Some(format!("{new}/")),
        // See `split`.
        (_, "") => Some("/".to_owned()),
        (_, new) => Some(new.to_owned()),
    }
}

fn without_last_slash(prefix: &str) -> &str {
    prefix.trim_end_matches('/')
}

fn full_path(path: &str) -> &str {
    if path.is_empty() { "/" } else { path }
}

fn whole_path(path: &str) -> RegexMatchAndSubstitute {
    RegexMatchAndSubstitute {
        // Of any bytes: otherwise one that `.` does not match would let the rest of the path stay.
        pattern: Some(regex_matcher(r"^\C*".to_owned())),
        // A single backslash begins the number of a group.
        substitution: full_path(path).replace('\\', r"\\"),
    }
}
