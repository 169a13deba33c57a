//! `/debug/routes`: every HTTPRoute and GRPCRoute, with what has become of it at each of its parents.

use serde::Serialize;
use serde_json::Value;

use super::response_writer::LazyList;
use super::{DebugError, DebugState, Parameters, ResponseWriter};
use crate::model::route::{ParentTarget, ParentVerdict, RouteRole, RouteVerdict};
use crate::model::{Model, RouteKey};

pub(super) mod rules;

/// A route.
#[derive(Debug, Serialize)]
struct Line<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<&'a str>,
    rules: usize,
    /// It applies to requests for a Service at least.
    in_effect: bool,
    /// It is as it was meant at every parent that is a Service.
    sound: bool,
    parents: Vec<ParentLine<'a>>,
}

/// What became of a route at a parent.
#[derive(Debug, Serialize)]
pub(super) struct ParentLine<'a> {
    kind: &'a str,
    namespace: &'a str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    section_name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<u16>,
    /// `producer` or `consumer`; none for a parent of another controller.
    role: Option<&'static str>,
    /// The ports of the Service on which it applies.
    ports: &'a [u16],
    #[serde(flatten)]
    conditions: Option<Conditions<'a>>,
}

/// As in the route's status.
#[derive(Debug, Serialize)]
struct Conditions<'a> {
    accepted: Condition<'a>,
    resolved_refs: Condition<'a>,
}

#[derive(Debug, Serialize)]
struct Condition<'a> {
    status: bool,
    reason: &'static str,
    message: &'a str,
}

/// The routes, by kind, namespace and name.
pub(super) fn routes(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let (report, model) = (state.routes(), state.model());
    let (offset, limit) = parameters.range()?;
    let (namespace, kind) = (parameters.get("namespace"), parameters.get("kind"));
    let (problems, search) = (parameters.flag("problems")?, parameters.get("search"));
    let search = search.map(str::to_lowercase);
    let fits = |(key, verdict): &(&RouteKey, &RouteVerdict)| {
        namespace.is_none_or(|wanted| *key.namespace == *wanted)
            && kind.is_none_or(|wanted| key.kind.as_str().eq_ignore_ascii_case(wanted))
            && !(problems && is_sound(verdict))
            && search.as_deref().is_none_or(|part| names(key, verdict, part))
    };
    let all = report.routes.iter().map(|(key, verdict)| (key, &**verdict));
    let matched: Vec<_> = all.filter(fits).collect();
    let total = matched.len();
    let shown: Vec<_> = matched.into_iter().skip(offset).take(limit).collect();
    writer.json(&Lines {
        total: report.routes.len(),
        matched: total,
        routes: LazyList(shown, |(key, verdict): &(&RouteKey, &RouteVerdict)| {
            serde_json::to_value(line(&model, key, verdict)).unwrap_or(Value::Null)
        }),
    })
}

#[derive(Serialize)]
struct Lines<R> {
    total: usize,
    matched: usize,
    routes: R,
}

/// Whether a route or one of its parents has this in its name.
fn names(key: &RouteKey, verdict: &RouteVerdict, part: &str) -> bool {
    let of_parent = |of: &ParentVerdict| {
        let (_, namespace, name) = target(&of.parent.target);
        format!("{namespace}/{name}").contains(part)
    };
    format!("{}/{}", key.namespace, key.name).contains(part)
        || verdict.parents.iter().any(of_parent)
}

/// Accepted, and all it names is there, wherever it is ours to say.
fn is_sound(verdict: &RouteVerdict) -> bool {
    verdict.parents.iter().filter(|of| of.role.is_some()).all(ParentVerdict::is_sound)
}

fn line<'a>(model: &Model, key: &'a RouteKey, verdict: &'a RouteVerdict) -> Line<'a> {
    Line {
        kind: key.kind.as_str(),
        namespace: &key.namespace,
        name: &key.name,
        generation: verdict.generation,
        created: Some(&*verdict.created).filter(|text| !text.is_empty()),
        rules: model.route(key).map_or(0, |route| route.rules.len()),
        in_effect: verdict.parents.iter().any(|of| !of.ports.is_empty()),
        sound: is_sound(verdict),
        parents: verdict.parents.iter().map(parent_line).collect(),
    }
}

fn parent_line(of: &ParentVerdict) -> ParentLine<'_> {
    let (kind, namespace, name) = target(&of.parent.target);
    let role = of.role.map(role);
    let (accepted, refs) = (&of.accepted, &of.resolved_refs);
    ParentLine {
        kind,
        namespace,
        name,
        section_name: of.parent.section_name.as_deref(),
        port: of.parent.port,
        role,
        ports: &of.ports,
        conditions: role.is_some().then(|| Conditions {
            accepted: Condition {
                status: accepted.reason.is_accepted(),
                reason: accepted.reason.as_str(),
                message: &accepted.message,
            },
            resolved_refs: Condition {
                status: refs.reason.is_resolved(),
                reason: refs.reason.as_str(),
                message: &refs.message,
            },
        }),
    }
}

fn role(of: RouteRole) -> &'static str {
    match of {
        RouteRole::Producer => "producer",
        RouteRole::Consumer => "consumer",
    }
}

/// Kind, namespace and name.
fn target(of: &ParentTarget) -> (&str, &str, &str) {
    match of {
        ParentTarget::Service(key) => ("Service", &key.namespace, &key.name),
        ParentTarget::Other { kind, namespace, name, .. } => (kind, namespace, name),
    }
}
