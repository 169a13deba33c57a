//! `/debug/convergence`: is a change everywhere. First which generation of the snapshot has it, then which
//! proxies have that generation.

use serde::Serialize;

use super::lagging::{Lagging, Straggler};
use super::replica::{instance, replica};
use super::{DebugError, DebugState, Parameters, ResponseWriter};
use crate::changes::{MAX_CHANGES, Reached};
use crate::model::{ENDPOINTS_PREFIX, Scope, ServiceKey, WatchId};

/// The kinds of which there may be changes.
const KINDS: [&str; 4] = ["Service", "EndpointSlice", "Endpoints", "Node"];

/// How far a change has come.
#[derive(Debug, Serialize)]
struct Progress {
    replica: &'static str,
    instance: &'static str,
    /// `unknown`, `not_seen`, `pending` or `published`.
    state: &'static str,
    /// For people.
    why: String,
    generation: Option<u64>,
}

/// Which proxies have a generation.
#[derive(Debug, Serialize)]
struct Convergence {
    replica: &'static str,
    instance: &'static str,
    generation: u64,
    newest: Option<u64>,
    proxies: usize,
    acknowledged: usize,
    stragglers: Vec<Straggler>,
    stragglers_total: usize,
}

pub(super) fn convergence(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let Some(generation) = number(parameters, "generation")? else {
        return writer.json(&progress(state, parameters)?);
    };
    if ["kind", "namespace", "name", "resource_version"]
        .iter()
        .any(|one| parameters.get(one).is_some())
    {
        let both = "Give either a generation, or kind and name: these are two questions.";
        return Err(DebugError::Query(both.to_owned()));
    }
    let lagging = Lagging::new(state, generation);
    let (proxies, acknowledged) = (lagging.proxies(), lagging.acknowledged(generation));
    writer.json(&Convergence {
        replica: replica(),
        instance: instance(),
        generation,
        newest: state.snapshot().map(|snapshot| snapshot.generation),
        proxies,
        acknowledged,
        stragglers: lagging.stragglers(generation),
        stragglers_total: proxies - acknowledged,
    })
}

fn progress(state: &DebugState, parameters: &Parameters) -> Result<Progress, DebugError> {
    let (Some(wanted), Some(name)) = (parameters.get("kind"), parameters.get("name")) else {
        return Err(DebugError::Query(
            "Give kind and name of an object, and its namespace, as in \
             /debug/convergence?kind=Service&namespace=default&name=reviews; or a generation."
                .to_owned(),
        ));
    };
    let version = number(parameters, "resource_version")?;
    let Some(kind) = KINDS.into_iter().find(|kind| kind.eq_ignore_ascii_case(wanted)) else {
        let kinds = KINDS.join(", ");
        return Ok(unknown(format!("{wanted:?} is not watched; kinds that may be are {kinds}")));
    };
    let namespace = match kind {
        "Node" => None,
        _ => Some(parameters.get("namespace").unwrap_or("default")),
    };
    let object = match namespace {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    };
    Ok(match version {
        Some(version) => of_version(state, kind, namespace, version),
        None => of_last_change(state, kind, namespace, name, &object),
    })
}

/// By the watch of that kind: nothing is known of single objects, and nothing need be.
fn of_version(state: &DebugState, kind: &str, namespace: Option<&str>, version: u64) -> Progress {
    match state.changes.reached(kind, namespace, version) {
        Reached::NotWatched(watches) if watches.is_empty() => unknown(
            "the source has no resource versions: it is a folder of manifests, or nothing has been \
             listed yet (/debug/sourcez)"
                .to_owned(),
        ),
        Reached::NotWatched(watches) => {
            let place = namespace.map(|name| format!(" in namespace {name}")).unwrap_or_default();
            let watched = watches.iter().map(watch_name).collect::<Vec<_>>().join(", ");
            unknown(format!("{kind}{place} is not watched; watched are {watched}"))
        }
        Reached::NotSeen(position) => Progress {
            state: "not_seen",
            ..unknown(format!("the watch has got to {position}, which is before {version}"))
        },
        Reached::Pending => pending(),
        Reached::Published(generation) => published(generation),
    }
}

fn of_last_change(
    state: &DebugState,
    kind: &str,
    namespace: Option<&str>,
    name: &str,
    object: &str,
) -> Progress {
    if let Some(record) = state.changes.last_of(kind, namespace, name) {
        return record.published.map_or_else(pending, |(_, generation)| published(generation));
    }
    let model = state.model();
    let exists = match (kind, namespace) {
        ("Service", Some(namespace)) => {
            Some(model.service(&ServiceKey::new(namespace, name)).is_some())
        }
        ("EndpointSlice", Some(namespace)) => Some(model.has_slice(namespace, name)),
        ("Endpoints", Some(namespace)) => {
            Some(model.has_slice(namespace, &format!("{ENDPOINTS_PREFIX}{name}")))
        }
        _ => None,
    };
    let exists = match exists {
        Some(true) => "; the object is there",
        Some(false) => "; there is no such object",
        None => "",
    };
    unknown(format!(
        "none of the last {MAX_CHANGES} changes since this process began is of {object}{exists}"
    ))
}

fn number(parameters: &Parameters, name: &'static str) -> Result<Option<u64>, DebugError> {
    let Some(text) = parameters.get(name) else { return Ok(None) };
    let wrong = |_| DebugError::NoNumber { name, value: text.to_owned() };
    text.parse().map(Some).map_err(wrong)
}

fn watch_name(watch: &WatchId) -> String {
    match &watch.scope {
        Scope::All => watch.kind.to_owned(),
        Scope::Namespace(namespace) => format!("{} in {namespace}", watch.kind),
    }
}

fn unknown(why: String) -> Progress {
    Progress { replica: replica(), instance: instance(), state: "unknown", why, generation: None }
}

fn pending() -> Progress {
    let why = "it has been seen, and the snapshot with it is not published yet".to_owned();
    Progress { state: "pending", ..unknown(why) }
}

fn published(generation: u64) -> Progress {
    let why = format!("it is in the snapshot of generation {generation}");
    Progress { state: "published", generation: Some(generation), ..unknown(why) }
}
