//! What a request must be for a rule to apply.

use std::sync::Arc;

use super::fields::{Findings, Object, shown};
use super::{MAX_MATCHES, values};
use crate::model::route::regex::{MAX_PROGRAM_SIZE, program_size};
use crate::model::route::{GrpcMethod, NameMatch, PathMatch, RouteKind, RouteMatch, TextMatch};

const MAX_NAMES: usize = 16;
const MAX_PATH: usize = 1024;
const MAX_HEADER_VALUE: usize = 4096;
const MAX_QUERY_VALUE: usize = 1024;
const METHODS: [&str; 9] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

/// How a text is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comparison {
    Exact,
    Prefix,
    Regex,
}

/// The matches of a rule; the one that matches all where there are none.
pub(super) fn matches(
    kind: RouteKind,
    rule: &Object<'_>,
    findings: &mut Findings,
) -> Vec<RouteMatch> {
    let nodes = rule.list("matches", MAX_MATCHES, findings);
    if nodes.is_empty() {
        return vec![RouteMatch::any()];
    }
    let objects: Vec<_> = nodes.iter().filter_map(|node| node.object(findings)).collect();
    let convert = |object| match kind {
        RouteKind::Http => http_match(object, findings),
        RouteKind::Grpc => grpc_match(object, findings),
    };
    objects.iter().map(convert).collect()
}

fn http_match(from: &Object<'_>, findings: &mut Findings) -> RouteMatch {
    from.check_names(&["path", "headers", "queryParams", "method"], &[], findings);
    let path = from.object("path", findings).and_then(|path| path_match(&path, findings));
    let method = from.text("method", findings).filter(|method| {
        let known = METHODS.contains(method);
        if !known {
            let reason = format!("{} is none of {}", shown(method), METHODS.join(", "));
            findings.invalid(from.path_of("method"), reason);
        }
        known
    });
    RouteMatch {
        path: path.unwrap_or_else(|| RouteMatch::any().path),
        headers: name_matches(from, "headers", MAX_HEADER_VALUE, findings),
        query: name_matches(from, "queryParams", MAX_QUERY_VALUE, findings),
        method: method.map(Into::into),
    }
}

fn grpc_match(from: &Object<'_>, findings: &mut Findings) -> RouteMatch {
    from.check_names(&["method", "headers"], &[], findings);
    let method = from.object("method", findings).and_then(|method| grpc_method(&method, findings));
    RouteMatch {
        path: method.unwrap_or_else(|| RouteMatch::any().path),
        headers: name_matches(from, "headers", MAX_HEADER_VALUE, findings),
        query: Vec::new(),
        method: None,
    }
}

/// `type`, or the first of those that there are.
fn comparison(
    from: &Object<'_>,
    known: &[(&str, Comparison)],
    findings: &mut Findings,
) -> Option<Comparison> {
    if !from.has("type") {
        return known.first().map(|(_, first)| *first);
    }
    let text = from.text("type", findings)?;
    let found = known.iter().find(|(name, _)| *name == text).map(|(_, comparison)| *comparison);
    if found.is_none() {
        let names: Vec<_> = known.iter().map(|(name, _)| *name).collect();
        let reason = format!("{} is none of {}", shown(text), names.join(", "));
        findings.invalid(from.path_of("type"), reason);
    }
    found
}

fn path_match(from: &Object<'_>, findings: &mut Findings) -> Option<PathMatch> {
    from.check_names(&["type", "value"], &[], findings);
    let known = [
        ("PathPrefix", Comparison::Prefix),
        ("Exact", Comparison::Exact),
        ("RegularExpression", Comparison::Regex),
    ];
    let comparison = comparison(from, &known, findings)?;
    let value = match from.get("value") {
        Some(node) => node.bounded_text((0, MAX_PATH), findings)?,
        None => "/",
    };
    let path = from.path_of("value");
    if comparison == Comparison::Regex {
        check_regex(path, value, findings)?;
        return Some(PathMatch::Regex(value.into()));
    }
    if let Some(reason) = wrong_path(value) {
        findings.invalid(path, format!("{} {reason}", shown(value)));
        return None;
    }
    Some(match comparison {
        Comparison::Exact => PathMatch::Exact(value.into()),
        Comparison::Prefix | Comparison::Regex => PathMatch::Prefix(value.into()),
    })
}

/// What is wrong with a path to compare with, by the rules of the CRD.
fn wrong_path(path: &str) -> Option<&'static str> {
    Some(match path {
        _ if !path.starts_with('/') => "must begin with '/'",
        _ if path.contains("//") => "must not contain '//'",
        _ if path.contains("/./") || path.ends_with("/.") => "must not contain the element '.'",
        _ if path.contains("/../") || path.ends_with("/..") => "must not contain the element '..'",
        _ if path.contains("%2f") || path.contains("%2F") => "must not contain an encoded '/'",
        _ if path.contains('#') => "must not contain '#'",
        _ if !values::has_path_characters(path) => {
            "must have letters, digits, -/._~!$&'()*+,;=:@ and %XX alone"
        }
        _ => return None,
    })
}

/// Headers or query parameters. Of equal names the first counts, those of headers regardless of case.
fn name_matches(
    from: &Object<'_>,
    list: &str,
    most: usize,
    findings: &mut Findings,
) -> Vec<NameMatch> {
    let mut matches: Vec<NameMatch> = Vec::new();
    for node in from.list(list, MAX_NAMES, findings) {
        let Some(object) = node.object(findings) else { continue };
        object.check_names(&["type", "name", "value"], &[], findings);
        let known = [("Exact", Comparison::Exact), ("RegularExpression", Comparison::Regex)];
        let comparison = comparison(&object, &known, findings);
        let name = object.required_text("name", (1, 256), findings);
        let value = object.required_text("value", (1, most), findings);
        let (Some(comparison), Some(name), Some(value)) = (comparison, name, value) else {
            continue;
        };
        if !values::require_header_name(&object.path_of("name"), name, findings) {
            continue;
        }
        let name: Arc<str> = match list {
            "headers" => name.to_ascii_lowercase().into(),
            _ => name.into(),
        };
        if matches.iter().any(|earlier| earlier.name == name) {
            let reason = format!("ignored: {} is the name of an earlier one", shown(&name));
            findings.note(node.path, reason);
            continue;
        }
        let path = object.path_of("value");
        let value = match comparison {
            Comparison::Regex => match check_regex(path, value, findings) {
                Some(()) => TextMatch::Regex(value.into()),
                None => continue,
            },
            Comparison::Exact | Comparison::Prefix => TextMatch::Exact(value.into()),
        };
        matches.push(NameMatch { name, value });
    }
    matches
}

fn grpc_method(from: &Object<'_>, findings: &mut Findings) -> Option<PathMatch> {
    from.check_names(&["type", "service", "method"], &[], findings);
    let known = [("Exact", Comparison::Exact), ("RegularExpression", Comparison::Regex)];
    let comparison = comparison(from, &known, findings)?;
    let mut text = |name: &str, is_right: fn(&str) -> bool| {
        let text = from.bounded_text(name, (0, 1024), findings)?;
        if comparison == Comparison::Regex {
            return (!text.is_empty()).then_some(text);
        }
        if !is_right(text) {
            let reason = format!("{} is no name of a gRPC {name}", shown(text));
            findings.invalid(from.path_of(name), reason);
        }
        Some(text)
    };
    let (service, method) = (text("service", is_service), text("method", is_identifier));
    if service.is_none() && method.is_none() {
        findings.invalid(&*from.path, "needs a service, a method, or both");
        return None;
    }
    if comparison == Comparison::Regex {
        // They become one expression for the whole path.
        let mut others = 0;
        for (name, text) in [("service", service), ("method", method)] {
            let Some(text) = text else { continue };
            others += regex_size(from.path_of(name), text, others, findings)?;
        }
    }
    let of = |text: &str| match comparison {
        Comparison::Regex => TextMatch::Regex(text.into()),
        Comparison::Exact | Comparison::Prefix => TextMatch::Exact(text.into()),
    };
    Some(PathMatch::Grpc(GrpcMethod { service: service.map(of), method: method.map(of) }))
}

fn is_identifier(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.bytes().all(inner) && !text.is_empty() && !text.starts_with(|c: char| c.is_ascii_digit())
}

/// A name with dots between its parts, and maybe one before them.
fn is_service(text: &str) -> bool {
    text.strip_prefix('.').unwrap_or(text).split('.').all(is_identifier)
}

fn check_regex(path: String, pattern: &str, findings: &mut Findings) -> Option<()> {
    regex_size(path, pattern, 0, findings).map(|_| ())
}

/// The size of the expression's program, if it can be served where `others` has been used already.
fn regex_size(
    path: String,
    pattern: &str,
    others: usize,
    findings: &mut Findings,
) -> Option<usize> {
    let checked = program_size(pattern).and_then(|size| {
        let all = size.saturating_add(others);
        if all > MAX_PROGRAM_SIZE {
            return Err(format!(
                "its program may have {all} instructions, more than {MAX_PROGRAM_SIZE}: shorten it, \
                 above all its repetitions"
            ));
        }
        Ok(size)
    });
    match checked {
        Ok(size) => Some(size),
        Err(reason) => {
            let reason = format!("{} is no regular expression to serve: {reason}", shown(pattern));
            findings.unserved(path, reason);
            None
        }
    }
}
