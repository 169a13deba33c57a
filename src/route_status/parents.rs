//! What `status.parents` of a route is to be, by what it is and by the route's verdict. Pure.

use k8s_openapi::jiff::Timestamp;
use kube::core::DynamicObject;
use serde_json::{Map, Value, json};

use crate::model::RouteKey;
use crate::model::route::{API_VERSION, ParentTarget, ParentVerdict, RouteVerdict};

/// Whose entries are ours: `spec.controllerName` of a GatewayClass would be this.
pub(super) const CONTROLLER: &str = "pilothouse.io/mesh";

/// Limits of the CRDs: entries, and characters of a message.
const MAX_PARENTS: usize = 32;
const MAX_MESSAGE: usize = 32_768;

/// What is to be done.
#[derive(Debug, PartialEq)]
pub(super) enum Decision {
    /// This is to be applied.
    Apply(Value),
    /// The status says it already, or there is nothing to say.
    Unchanged,
    /// The verdict is of another version of the object, or of another object of its name: one of this version
    /// is on its way.
    Stale,
}

/// What is to be done about the object as it was read.
pub(super) fn decide(
    key: &RouteKey,
    verdict: &RouteVerdict,
    object: &DynamicObject,
    now: Timestamp,
) -> Decision {
    let metadata = &object.metadata;
    let created = metadata.creation_timestamp.as_ref().map(|at| at.0);
    let judged: Option<Timestamp> = verdict.created.parse().ok();
    let is_other = judged.zip(created).is_some_and(|(judged, created)| judged != created);
    if verdict.generation != metadata.generation || is_other {
        return Decision::Stale;
    }
    let known = object.data["status"]["parents"].as_array().map(Vec::as_slice).unwrap_or_default();
    let wanted = merged(verdict, known, now);
    if wanted == known {
        return Decision::Unchanged;
    }
    Decision::Apply(json!({
        "apiVersion": API_VERSION,
        "kind": key.kind.as_str(),
        // The list is one value for server-side apply (`atomic`): with the version that was read, an entry that
        // another controller has written meanwhile is not lost.
        "metadata": {
            "namespace": &*key.namespace,
            "name": &*key.name,
            "resourceVersion": metadata.resource_version,
        },
        "status": { "parents": wanted },
    }))
}

/// The entries of others as they are, ours in the place of ours, and those that are new at the end.
fn merged(verdict: &RouteVerdict, known: &[Value], now: Timestamp) -> Vec<Value> {
    let is_ours = |entry: &Value| entry["controllerName"] == CONTROLLER;
    let others = known.iter().filter(|entry| !is_ours(entry)).count();
    let services = verdict.parents.iter().filter_map(|of| Some((parent_ref(of)?, of)));
    let mut ours: Vec<(Value, &ParentVerdict)> =
        services.take(MAX_PARENTS.saturating_sub(others)).collect();
    let mut merged = Vec::with_capacity(others + ours.len());
    for entry in known {
        if !is_ours(entry) {
            merged.push(entry.clone());
        } else if let Some(at) = ours.iter().position(|(of, _)| *of == entry["parentRef"]) {
            let (parent, of) = ours.remove(at);
            merged.push(entry_of(parent, of, Some(entry), (verdict.generation, now)));
        }
    }
    let added = ours.into_iter();
    merged.extend(added.map(|(parent, of)| entry_of(parent, of, None, (verdict.generation, now))));
    merged
}

/// As in the spec; `None` for a parent of another controller.
fn parent_ref(of: &ParentVerdict) -> Option<Value> {
    let ParentTarget::Service(service) = &of.parent.target else { return None };
    let mut parent = Map::new();
    // Without a group and a kind it would be a Gateway.
    parent.insert("group".to_owned(), json!(""));
    parent.insert("kind".to_owned(), json!("Service"));
    parent.insert("name".to_owned(), json!(&*service.name));
    let others = [
        ("namespace", of.parent.namespace.as_deref().map(Value::from)),
        ("sectionName", of.parent.section_name.as_deref().map(Value::from)),
        ("port", of.parent.port.map(Value::from)),
    ];
    parent.extend(others.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))));
    Some(Value::Object(parent))
}

/// What is said of one parent, of this generation of the route and now, after an entry that says it already or
/// did so in other words.
fn entry_of(
    parent: Value,
    of: &ParentVerdict,
    before: Option<&Value>,
    (generation, now): (Option<i64>, Timestamp),
) -> Value {
    let (accepted, refs) = (&of.accepted, &of.resolved_refs);
    let condition = |kind: &str, holds: bool, reason: &str, message: &str| {
        let status = if holds { "True" } else { "False" };
        let before = before.and_then(|entry| entry["conditions"].as_array()).into_iter().flatten();
        // The time is that of the last change of the status, not of its words.
        let since = before.filter(|one| one["type"] == kind && one["status"] == status);
        let since = since.filter_map(|one| one["lastTransitionTime"].as_str()).next();
        let mut condition = json!({
            "type": kind,
            "status": status,
            "reason": reason,
            "message": message.chars().take(MAX_MESSAGE).collect::<String>(),
            "lastTransitionTime": since.map_or_else(|| seconds(now), str::to_owned),
        });
        if let Some(generation) = generation {
            condition["observedGeneration"] = json!(generation);
        }
        condition
    };
    json!({
        "parentRef": parent,
        "controllerName": CONTROLLER,
        "conditions": [
            condition("Accepted", accepted.reason.is_accepted(), accepted.reason.as_str(), &accepted.message),
            condition("ResolvedRefs", refs.reason.is_resolved(), refs.reason.as_str(), &refs.message),
        ],
    })
}

/// RFC 3339 in UTC and whole seconds, as Kubernetes writes times.
fn seconds(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests;
