//! What a rule, or one of its backends, does with requests and responses.

use std::sync::Arc;

use super::super::Converter;
use super::cors;
use super::fields::{Findings, Object, shown};
use super::values;
use crate::model::route::{
    Backend, HeaderModifier, Mirror, PathMatch, PathModifier, Redirect, Rewrite, RouteFilter,
    RouteKind, RouteMatch,
};

const MAX_FILTERS: usize = 16;
const MAX_HEADERS: usize = 16;
const MAX_HEADER_VALUE: usize = 4096;
const MAX_PATH: usize = 1024;
const STATUS_CODES: [i64; 5] = [301, 302, 303, 307, 308];

/// A filter's type, and the field that it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FilterType {
    name: &'static str,
    field: &'static str,
    /// GRPCRoutes have it as well.
    grpc: bool,
}

const fn filter_type(name: &'static str, field: &'static str, grpc: bool) -> FilterType {
    FilterType { name, field, grpc }
}

const REQUEST_HEADERS: FilterType =
    filter_type("RequestHeaderModifier", "requestHeaderModifier", true);
const RESPONSE_HEADERS: FilterType =
    filter_type("ResponseHeaderModifier", "responseHeaderModifier", true);
const MIRROR: FilterType = filter_type("RequestMirror", "requestMirror", true);
const REDIRECT: FilterType = filter_type("RequestRedirect", "requestRedirect", false);
const REWRITE: FilterType = filter_type("URLRewrite", "urlRewrite", false);
const CORS: FilterType = filter_type("CORS", "cors", false);
const EXTENSION: FilterType = filter_type("ExtensionRef", "extensionRef", true);
/// Of the experimental channel.
const AUTHORIZATION: FilterType = filter_type("ExternalAuth", "externalAuth", false);

const TYPES: [FilterType; 8] =
    [REQUEST_HEADERS, RESPONSE_HEADERS, MIRROR, REDIRECT, REWRITE, CORS, EXTENSION, AUTHORIZATION];

impl Converter {
    /// The filters of a rule.
    pub(super) fn filters(
        &mut self,
        kind: RouteKind,
        rule: &Object<'_>,
        own: &Arc<str>,
        findings: &mut Findings,
    ) -> Vec<RouteFilter> {
        let mut filters = Vec::new();
        for (filter, object) in typed_filters(kind, rule, findings) {
            filters.extend(match filter {
                REQUEST_HEADERS => {
                    Some(RouteFilter::RequestHeaders(header_modifier(&object, findings)))
                }
                RESPONSE_HEADERS => {
                    Some(RouteFilter::ResponseHeaders(header_modifier(&object, findings)))
                }
                MIRROR => self.mirror(&object, own, findings).map(RouteFilter::Mirror),
                REDIRECT => redirect(&object, findings).map(RouteFilter::Redirect),
                REWRITE => rewrite(&object, findings).map(RouteFilter::Rewrite),
                CORS => Some(RouteFilter::Cors(cors::cors(&object, findings))),
                other => {
                    let reason = format!("filters of type {} are not served", other.name);
                    findings.unserved(&*object.path, reason);
                    None
                }
            });
        }
        filters
    }

    /// The filters of a backend: nothing but headers can be done for one backend alone.
    pub(super) fn backend_filters(
        &mut self,
        kind: RouteKind,
        backend: &Object<'_>,
        findings: &mut Findings,
    ) -> Vec<RouteFilter> {
        let mut filters = Vec::new();
        for (filter, object) in typed_filters(kind, backend, findings) {
            match filter {
                REQUEST_HEADERS => {
                    filters.push(RouteFilter::RequestHeaders(header_modifier(&object, findings)));
                }
                RESPONSE_HEADERS => {
                    filters.push(RouteFilter::ResponseHeaders(header_modifier(&object, findings)));
                }
                other => {
                    let reason = format!(
                        "filters of type {} are not served for a backend: write it for the rule",
                        other.name
                    );
                    findings.unserved(&*object.path, reason);
                }
            }
        }
        filters
    }

    fn mirror(
        &mut self,
        from: &Object<'_>,
        own: &Arc<str>,
        findings: &mut Findings,
    ) -> Option<Mirror> {
        from.check_names(&["backendRef", "percent", "fraction"], &[], findings);
        let Some(target) = from.get("backendRef") else {
            findings.invalid(from.path_of("backendRef"), "missing");
            return None;
        };
        let target = target.object(findings)?;
        target.check_names(&["group", "kind", "namespace", "name", "port"], &[], findings);
        let backend = self.backend_ref(&target, own, findings);
        let (numerator, denominator) = match (from.has("percent"), from.has("fraction")) {
            (true, true) => {
                findings.invalid(&*from.path, "has both percent and fraction: write one of them");
                return None;
            }
            (true, false) => (from.number("percent", (0, 100), findings)?, 100),
            (false, true) => fraction(&from.object("fraction", findings)?, findings)?,
            (false, false) => (1, 1),
        };
        let (numerator, denominator) =
            (u32::try_from(numerator).ok()?, u32::try_from(denominator).ok()?);
        Some(Mirror { backend: backend?, numerator, denominator })
    }
}

fn fraction(from: &Object<'_>, findings: &mut Findings) -> Option<(i64, i64)> {
    from.check_names(&["numerator", "denominator"], &[], findings);
    if !from.has("numerator") {
        findings.invalid(from.path_of("numerator"), "missing");
        return None;
    }
    let most = i64::from(i32::MAX);
    let numerator = from.number("numerator", (0, most), findings)?;
    let denominator = match from.has("denominator") {
        true => from.number("denominator", (1, most), findings)?,
        false => 100,
    };
    if numerator > denominator {
        findings.invalid(&*from.path, "the numerator is greater than the denominator");
        return None;
    }
    Some((numerator, denominator))
}

/// The filters of a rule or a backend, each with what its type's field has. No type twice, mirrors and
/// extensions excepted; no redirect beside a rewrite.
fn typed_filters<'a>(
    kind: RouteKind,
    owner: &Object<'a>,
    findings: &mut Findings,
) -> Vec<(FilterType, Object<'a>)> {
    let known: Vec<_> =
        TYPES.into_iter().filter(|one| one.grpc || kind == RouteKind::Http).collect();
    let mut filters: Vec<(FilterType, Object<'a>)> = Vec::new();
    for node in owner.list("filters", MAX_FILTERS, findings) {
        let Some(object) = node.object(findings) else { continue };
        let fields: Vec<_> = known.iter().map(|one| one.field).chain(["type"]).collect();
        object.check_names(&fields, &[], findings);
        let Some(name) = object.required_text("type", (1, 253), findings) else { continue };
        let Some(filter) = known.iter().copied().find(|one| one.name == name) else {
            let names: Vec<_> = known.iter().map(|one| one.name).collect();
            let reason = format!("{} is none of {}", shown(name), names.join(", "));
            findings.invalid(object.path_of("type"), reason);
            continue;
        };
        for other in known.iter().filter(|one| **one != filter && object.has(one.field)) {
            let reason = format!("not of a filter of type {name}");
            findings.invalid(object.path_of(other.field), reason);
        }
        if !object.has(filter.field) {
            let reason = format!("missing: a filter of type {name} has it");
            findings.invalid(object.path_of(filter.field), reason);
            continue;
        }
        let repeated = filters.iter().any(|(earlier, _)| *earlier == filter);
        if repeated && filter != MIRROR && filter != EXTENSION {
            findings.invalid(&*node.path, format!("a second filter of type {name}"));
            continue;
        }
        let rivals = [(REDIRECT, REWRITE), (REWRITE, REDIRECT)];
        if rivals.iter().any(|(one, other)| {
            *one == filter && filters.iter().any(|(earlier, _)| earlier == other)
        }) {
            findings.incompatible(&*node.path, "a redirect and a rewrite exclude each other");
            continue;
        }
        if let Some(field) = object.object(filter.field, findings) {
            filters.push((filter, field));
        }
    }
    filters
}

/// What holds for a rule's filters together with its matches and backends.
pub(super) fn check_rule(
    rule: &Object<'_>,
    matches: &[RouteMatch],
    filters: &[RouteFilter],
    backends: &[Backend],
    findings: &mut Findings,
) {
    let path = rule.path_of("filters");
    let redirects = filters.iter().any(|filter| matches!(filter, RouteFilter::Redirect(_)));
    if redirects && !backends.is_empty() {
        findings.invalid(&*path, "a redirect excludes backendRefs");
    }
    let replaces_prefix = filters.iter().any(|filter| {
        let modifier = match filter {
            RouteFilter::Redirect(redirect) => &redirect.path,
            RouteFilter::Rewrite(rewrite) => &rewrite.path,
            _ => &None,
        };
        matches!(modifier, Some(PathModifier::ReplacePrefix(_)))
    });
    // An empty list is none, as for the CRD; where the field is absent there is the default.
    let one_prefix = matches!(matches, [RouteMatch { path: PathMatch::Prefix(_), .. }])
        && !(rule.has("matches") && rule.list("matches", 1, &mut Findings::default()).is_empty());
    if replaces_prefix && !one_prefix {
        findings.invalid(path, "replacePrefixMatch needs exactly one match, of type PathPrefix");
    }
}

fn header_modifier(from: &Object<'_>, findings: &mut Findings) -> HeaderModifier {
    from.check_names(&["set", "add", "remove"], &[], findings);
    let mut modifier = HeaderModifier {
        set: headers(from, "set", findings),
        add: headers(from, "add", findings),
        remove: Vec::new(),
    };
    for node in from.list("remove", MAX_HEADERS, findings) {
        let Some(text) = node.text(findings) else { continue };
        if let Some(name) = modifiable(&node.path, text, findings)
            && !modifier.remove.contains(&name)
        {
            modifier.remove.push(name);
        }
    }
    let names = |list: &[(Arc<str>, Arc<str>)]| {
        list.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>()
    };
    let (set, add) = (names(&modifier.set), names(&modifier.add));
    let twice = add
        .iter()
        .find(|name| set.contains(name) || modifier.remove.contains(name))
        .or_else(|| modifier.remove.iter().find(|name| set.contains(name)));
    if let Some(name) = twice {
        let reason = format!("{} is in two of set, add and remove", shown(name));
        findings.unserved(&*from.path, reason);
    }
    modifier
}

/// Of equal names the first counts.
fn headers(from: &Object<'_>, list: &str, findings: &mut Findings) -> Vec<(Arc<str>, Arc<str>)> {
    let mut headers: Vec<(Arc<str>, Arc<str>)> = Vec::new();
    for node in from.list(list, MAX_HEADERS, findings) {
        let Some(object) = node.object(findings) else { continue };
        object.check_names(&["name", "value"], &[], findings);
        let name = object.required_text("name", (1, 256), findings);
        let value = object.required_text("value", (1, MAX_HEADER_VALUE), findings);
        let (Some(name), Some(value)) = (name, value) else { continue };
        let Some(name) = modifiable(&object.path_of("name"), name, findings) else { continue };
        if !values::is_header_value(value) {
            let reason = format!("{} has control characters", shown(value));
            findings.unserved(object.path_of("value"), reason);
            continue;
        }
        if headers.iter().any(|(earlier, _)| *earlier == name) {
            let reason = format!("ignored: {} is the name of an earlier one", shown(&name));
            findings.note(node.path, reason);
            continue;
        }
        headers.push((name, value.into()));
    }
    headers
}

/// The name in lower case, if Envoy lets a route change this header.
fn modifiable(path: &str, name: &str, findings: &mut Findings) -> Option<Arc<str>> {
    if !values::require_header_name(path, name, findings) {
        return None;
    }
    if name.eq_ignore_ascii_case("host") {
        findings.unserved(path, "Host cannot be modified so: use a filter of type URLRewrite");
        return None;
    }
    Some(name.to_ascii_lowercase().into())
}

fn redirect(from: &Object<'_>, findings: &mut Findings) -> Option<Redirect> {
    from.check_names(&["scheme", "hostname", "path", "port", "statusCode"], &[], findings);
    let scheme = from.text("scheme", findings).filter(|scheme| {
        let known = matches!(*scheme, "http" | "https");
        if !known {
            let reason = format!("{} is neither http nor https", shown(scheme));
            findings.invalid(from.path_of("scheme"), reason);
        }
        known
    });
    let status = match from.has("statusCode") {
        true => from.number("statusCode", (100, 599), findings)?,
        false => 302,
    };
    if !STATUS_CODES.contains(&status) {
        let reason = format!("{status} is none of 301, 302, 303, 307, 308");
        findings.invalid(from.path_of("statusCode"), reason);
    }
    Some(Redirect {
        scheme: scheme.map(Into::into),
        hostname: hostname(from, findings),
        path: path_modifier(from, findings),
        port: from.port("port", findings),
        status: u16::try_from(status).ok()?,
    })
}

fn rewrite(from: &Object<'_>, findings: &mut Findings) -> Option<Rewrite> {
    from.check_names(&["hostname", "path"], &[], findings);
    Some(Rewrite { hostname: hostname(from, findings), path: path_modifier(from, findings) })
}

fn hostname(from: &Object<'_>, findings: &mut Findings) -> Option<Arc<str>> {
    let text = from.bounded_text("hostname", (1, 253), findings)?;
    values::require_hostname(&from.path_of("hostname"), text, findings).then(|| text.into())
}

fn path_modifier(from: &Object<'_>, findings: &mut Findings) -> Option<PathModifier> {
    let from = from.object("path", findings)?;
    from.check_names(&["type", "replaceFullPath", "replacePrefixMatch"], &[], findings);
    let (field, other) = match from.required_text("type", (1, 253), findings)? {
        "ReplaceFullPath" => ("replaceFullPath", "replacePrefixMatch"),
        "ReplacePrefixMatch" => ("replacePrefixMatch", "replaceFullPath"),
        unknown => {
            let reason =
                format!("{} is none of ReplaceFullPath, ReplacePrefixMatch", shown(unknown));
            findings.invalid(from.path_of("type"), reason);
            return None;
        }
    };
    if from.has(other) {
        findings.invalid(from.path_of(other), "not of this type");
    }
    let path = from.required_text(field, (0, MAX_PATH), findings)?;
    let is_full = field == "replaceFullPath";
    let right = path.starts_with('/') && values::has_path_characters(path);
    if !right && (is_full || !path.is_empty()) {
        let reason = format!(
            "{} is no path (from '/' on, of letters, digits, -/._~!$&'()*+,;=:@ and %XX)",
            shown(path)
        );
        findings.unserved(from.path_of(field), reason);
        return None;
    }
    let path = path.into();
    Some(if is_full { PathModifier::ReplaceFull(path) } else { PathModifier::ReplacePrefix(path) })
}
