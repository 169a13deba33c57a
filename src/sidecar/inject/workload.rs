//! Which objects have pods in them, and where.

use super::node::Node;
use super::owner::Owner;
use super::pod::{self, InjectionResult};
use super::settings::Settings;

/// What was done, or why not, in words for people.
pub(super) type Notes = Vec<String>;

/// Adds the sidecar to the object or to the items of a list, and says whether anything changed.
pub(super) fn inject(
    object: &mut Node,
    settings: &Settings,
    notes: &mut Notes,
) -> Result<bool, String> {
    inject_as(object, ["", ""], settings, notes)
}

/// Items of a typed list (`PodList`) need not say what they are: `inherited` does, API version and kind.
fn inject_as(
    object: &mut Node,
    inherited: [&str; 2],
    settings: &Settings,
    notes: &mut Notes,
) -> Result<bool, String> {
    let said_or = |field: &str, inherited: &str| match object.text(&[field]) {
        "" => inherited.to_owned(),
        said => said.to_owned(),
    };
    let (api_version, kind) = (said_or("apiVersion", inherited[0]), said_or("kind", inherited[1]));
    if let Some(of) = kind.strip_suffix("List") {
        let mut changed = false;
        if let Some(Node::List(items)) = object.at_mut(&["items"]) {
            for item in items {
                changed |= inject_as(item, [&api_version, of], settings, notes)?;
            }
        }
        return Ok(changed);
    }
    let Some(path) = pod_template(&kind, &api_version) else {
        return Ok(false);
    };
    let (name, namespace) = (name(object), object.text(&["metadata", "namespace"]));
    let title = match namespace {
        "" => format!("{kind} {name}"),
        namespace => format!("{kind} {namespace}/{name}"),
    };
    let in_namespace = namespace.to_owned();
    let Some(template) = object.at_mut(path) else {
        notes.push(format!("{title}: left alone, it has no {}", path.join(".")));
        return Ok(false);
    };
    let owner = Owner { api_version, kind, name };
    let outcome = pod::inject(template, &owner, &in_namespace, settings)
        .map_err(|error| format!("{title}: {error}"))?;
    match outcome {
        InjectionResult::Injected { native, warnings } => {
            notes.extend(warnings.into_iter().map(|warning| format!("{title}: {warning}")));
            notes.extend(owner.does_not_complete(native).map(|said| format!("{title}: {said}")));
            Ok(true)
        }
        InjectionResult::Skipped(why) => {
            notes.push(format!("{title}: left alone, {why}"));
            Ok(false)
        }
    }
}

/// Where the pod is in an object of this kind.
fn pod_template(kind: &str, api_version: &str) -> Option<&'static [&'static str]> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    match (kind, group) {
        ("Pod", "") => Some(&[]),
        ("ReplicationController", "") => Some(&["spec", "template"]),
        // Items of a typed list may leave the version out.
        ("Deployment" | "StatefulSet" | "DaemonSet" | "ReplicaSet", "apps" | "extensions" | "") => {
            Some(&["spec", "template"])
        }
        ("Job", "batch" | "") => Some(&["spec", "template"]),
        ("CronJob", "batch" | "") => Some(&["spec", "jobTemplate", "spec", "template"]),
        _ => None,
    }
}

fn name(object: &Node) -> String {
    match object.text(&["metadata", "name"]) {
        "" => object.text(&["metadata", "generateName"]).trim_end_matches('-').to_owned(),
        name => name.to_owned(),
    }
}
