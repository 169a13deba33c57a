//! `/debug/changes`: the last changes of the source, and who has them.

use serde::Serialize;

use super::lagging::{Lagging, Straggler};
use super::replica::{instance, replica};
use super::response_writer::LazyList;
use super::{DebugError, DebugState, Parameters, ResponseWriter, milliseconds};
use crate::changes::ChangeRecord;

#[derive(Serialize)]
struct ChangesPage<C> {
    replica: &'static str,
    instance: &'static str,
    generation: Option<u64>,
    /// How many are kept, and how many of them the search found.
    total: usize,
    matched: usize,
    changes: C,
}

#[derive(Debug, Serialize)]
struct ChangeEntry {
    id: u64,
    kind: &'static str,
    /// None of an object of the whole cluster, and of a list of all namespaces.
    namespace: Option<String>,
    /// None of a list.
    name: Option<String>,
    action: &'static str,
    resource_version: Option<String>,
    /// How many objects a list changed.
    objects: Option<usize>,
    seen: String,
    published: Option<String>,
    generation: Option<u64>,
    proxies: usize,
    sent: usize,
    acknowledged: usize,
    last_acknowledged: Option<String>,
    stragglers: Vec<Straggler>,
    stragglers_total: usize,
}

pub(super) fn changes(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let (offset, limit) = parameters.range()?;
    let mut records = state.changes.records();
    let total = records.len();
    if let Some(search) = parameters.get("search").map(str::to_lowercase) {
        records.retain(|record| text(record).to_lowercase().contains(&search));
    }
    let matched = records.len();
    let shown: Vec<_> = records.into_iter().skip(offset).take(limit).collect();
    let published = shown.iter().filter_map(|record| Some(record.published?.1));
    let lagging = Lagging::new(state, published.max().unwrap_or_default());
    writer.json(&ChangesPage {
        replica: replica(),
        instance: instance(),
        generation: state.snapshot().map(|snapshot| snapshot.generation),
        total,
        matched,
        changes: LazyList(shown, |record: &ChangeRecord| entry(state, &lagging, record)),
    })
}

fn entry(state: &DebugState, lagging: &Lagging, record: &ChangeRecord) -> ChangeEntry {
    let ChangeRecord { object, published, .. } = record;
    let generation = published.map(|(_, generation)| generation);
    let proxies = lagging.proxies();
    let acknowledged = generation.map_or(0, |generation| lagging.acknowledged(generation));
    let last = generation.and_then(|one| state.proxies.generations.last_acknowledged(one));
    ChangeEntry {
        id: record.id,
        kind: object.kind,
        namespace: object.namespace.as_deref().map(str::to_owned),
        name: object.name.as_deref().map(str::to_owned),
        action: record.action.as_str(),
        resource_version: record.version.map(|version| version.to_string()),
        objects: record.differences,
        seen: milliseconds(record.seen),
        published: published.map(|(at, _)| milliseconds(at)),
        generation,
        proxies,
        sent: generation.map_or(0, |generation| lagging.sent(generation)),
        acknowledged,
        last_acknowledged: last.map(milliseconds),
        stragglers: generation.map(|one| lagging.stragglers(one)).unwrap_or_default(),
        stragglers_total: generation.map_or(0, |_| proxies - acknowledged),
    }
}

/// What the search looks through: `Service default/reviews applied 12345`.
fn text(record: &ChangeRecord) -> String {
    let part = |text: &Option<std::sync::Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let (namespace, name) = (part(&record.object.namespace), part(&record.object.name));
    let version = record.version.map(|version| version.to_string()).unwrap_or_default();
    format!("{} {namespace}/{name} {} {version}", record.object.kind, record.action.as_str())
}
