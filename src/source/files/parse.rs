//! The text of one file turned into documents.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::convert::{Converted, Converter, Rejection, SERVICE_NAME_LABEL};
use crate::model::{EndpointSlice, Service};
use crate::yaml;

/// What anchors, aliases and merge keys of one file may repeat, in parts of YAML (a scalar, the begin
/// of a mapping) and bytes. The library's own limits let a few KiB become 580 MiB.
const MAX_REPEATED: usize = 50_000;
const MAX_REPEATED_BYTES: usize = 4 << 20;
const MAX_MERGE_KEYS: usize = 1000;

/// A kind of object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Service,
    EndpointSlice,
    Endpoints,
}

/// What makes an object the same after it was edited.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Id {
    pub(super) kind: Kind,
    pub(super) namespace: String,
    pub(super) name: String,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

#[derive(Clone, Debug)]
pub(super) enum Object {
    Service(Service),
    Slice(EndpointSlice),
    /// From a core/v1 Endpoints.
    Endpoints(EndpointSlice),
    /// Legal, but not for us.
    Unused,
}

/// One document, or one item of a list.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// `document 2 (line 14)`, `document 1 (line 1), items[3]`.
    pub(super) place: String,
    /// Where it could be told.
    pub(super) id: Option<Id>,
    pub(super) object: Result<Object, Rejection>,
    /// What was left out of it.
    pub(super) note: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) documents: Vec<Document>,
    /// Kinds that nothing is done with, and how often they came.
    pub(super) skipped: BTreeMap<String, u64>,
}

/// A file to parse.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

/// Parses many files on as many threads as there are converters: YAML is read at some 10 MB/s and
/// core, and a start with a large mesh waits for nothing else. In the order of the jobs.
pub(super) fn parse_all(
    jobs: Vec<Job>,
    converters: &mut [Converter],
) -> Vec<(PathBuf, Result<Parsed, String>)> {
    let threads = converters.len().min(jobs.len());
    let mut done: Vec<_> = jobs.iter().map(|job| (job.path.clone(), None)).collect();
    let queue = Mutex::new(jobs.into_iter().enumerate());
    let work = |converter: &mut Converter| {
        let mut results = Vec::new();
        loop {
            // Nothing panics while holding it.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((index, job)) = next else { return results };
            results.push((index, parse(&job.path, &job.bytes, converter)));
        }
    };
    let results = std::thread::scope(|scope| {
        let others: Vec<_> = converters
            .iter_mut()
            .take(threads)
            .map(|converter| scope.spawn(|| work(converter)))
            .collect();
        let joined = others.into_iter().map(|thread| thread.join());
        joined.collect::<Result<Vec<_>, _>>()
    });
    match results {
        Ok(results) => {
            for (index, result) in results.into_iter().flatten() {
                done[index].1 = Some(result);
            }
        }
        Err(panic) => std::panic::resume_unwind(panic),
    }
    done.into_iter().filter_map(|(path, result)| Some((path, result?))).collect()
}

/// Reads a file by its ending: JSON, else YAML. Documents with errors are among the result; an
/// error of the syntax concerns the file as a whole, since nobody knows where the next document
/// would begin.
pub(super) fn parse(
    path: &Path,
    bytes: &[u8],
    converter: &mut Converter,
) -> Result<Parsed, String> {
    let mut parsed = Parsed::default();
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        let values = serde_json::Deserializer::from_slice(bytes).into_iter::<Value>();
        for (index, value) in values.enumerate() {
            let place = format!("document {}", index + 1);
            parsed.unfold(value.map_err(|error| error.to_string())?, place, None, converter);
        }
        return Ok(parsed);
    }
    // Mesh-wide files are large, so no limits on the size; but on nesting, and on aliases and merge
    // keys, by which a small file becomes a large one.
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_documents: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_reader_input_bytes: None,
            max_recorded_anchor_events: MAX_REPEATED,
            max_recorded_anchor_bytes: MAX_REPEATED_BYTES,
            max_merge_keys: MAX_MERGE_KEYS,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: MAX_REPEATED },
        with_snippet: false,
    };
    let mut reader = bytes;
    let values =
        serde_saphyr::read_with_options::<_, serde_saphyr::Spanned<Value>>(&mut reader, options);
    for (index, value) in values.enumerate() {
        let number = index + 1;
        let value = value
            .map_err(|error| format!("document {number}: {}", yaml::explain(&error, bytes)))?;
        let place = format!("document {number} (line {})", value.defined.line());
        parsed.unfold(value.value, place, None, converter);
    }
    Ok(parsed)
}

impl Parsed {
    /// Leaves out what is of other namespaces than these, if any are given. What does not say where it
    /// belongs stays, for its error.
    pub(super) fn keep(&mut self, namespaces: &[String]) {
        if namespaces.is_empty() {
            return;
        }
        let skipped = &mut self.skipped;
        self.documents.retain(|document| match &document.id {
            Some(id) if !namespaces.contains(&id.namespace) => {
                *skipped.entry(format!("{:?} of another namespace", id.kind)).or_default() += 1;
                false
            }
            _ => true,
        });
    }

    /// Takes in an object, or each item of a list. Items of a typed list (`ServiceList`) need not
    /// say what they are: `inherited` does.
    fn unfold(
        &mut self,
        value: Value,
        place: String,
        inherited: Option<(&str, &str)>,
        converter: &mut Converter,
    ) {
        let Value::Object(mut object) = value else {
            let reason = "not a Kubernetes object (a mapping with apiVersion, kind and metadata)";
            return self.reject(place, None, Rejection::new("document", reason));
        };
        let said = |field: &str| object.get(field).and_then(Value::as_str).map(str::to_owned);
        let version = said("apiVersion").or(inherited.map(|(version, _)| version.to_owned()));
        let kind = said("kind").or(inherited.map(|(_, kind)| kind.to_owned()));
        let (Some(version), Some(kind)) = (version, kind) else {
            let field = if object.contains_key("kind") { "apiVersion" } else { "kind" };
            let reason = "missing, or not a string";
            return self.reject(place, None, Rejection::new(field, reason));
        };
        if let Some(of) = kind.strip_suffix("List") {
            let Some(Value::Array(items)) = object.remove("items") else {
                return self.reject(place, None, Rejection::new("items", "missing, or not a list"));
            };
            let inherited = (!of.is_empty()).then_some((version.as_str(), of));
            for (index, item) in items.into_iter().enumerate() {
                self.unfold(item, format!("{place}, items[{index}]"), inherited, converter);
            }
            return;
        }
        let known = match (kind.as_str(), version.split('/').next()) {
            ("Service", _) if !version.contains('/') => (Kind::Service, "v1"),
            ("Endpoints", _) if !version.contains('/') => (Kind::Endpoints, "v1"),
            ("EndpointSlice", Some("discovery.k8s.io")) => {
                (Kind::EndpointSlice, "discovery.k8s.io/v1")
            }
            _ => {
                *self.skipped.entry(kind).or_default() += 1;
                return;
            }
        };
        let id = id_of(known.0, &object);
        if version != known.1 {
            let reason = format!("{version:?} is not supported; write {}", known.1);
            return self.reject(place, id, Rejection::new("apiVersion", reason));
        }
        match convert(known.0, object, converter) {
            Ok((object, note)) => {
                self.documents.push(Document { place, id, object: Ok(object), note });
            }
            Err(rejection) => self.reject(place, id, rejection),
        }
    }

    fn reject(&mut self, place: String, id: Option<Id>, mut rejection: Rejection) {
        if rejection.reason.contains("{{") {
            rejection.reason = format!("{} ({})", rejection.reason, yaml::TEMPLATE);
        }
        self.documents.push(Document { place, id, object: Err(rejection), note: None });
    }
}

fn id_of(kind: Kind, object: &Map<String, Value>) -> Option<Id> {
    let metadata = object.get("metadata")?;
    let name = metadata.get("name")?.as_str()?.to_owned();
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    let namespace = if namespace.is_empty() { "default" } else { namespace }.to_owned();
    Some(Id { kind, namespace, name })
}

fn convert(
    kind: Kind,
    object: Map<String, Value>,
    converter: &mut Converter,
) -> Result<(Object, Option<String>), Rejection> {
    let value = Value::Object(object);
    match kind {
        Kind::Service => {
            let converted = converter.service(&typed::<core::Service>(value)?)?;
            strict(converted).map(|(value, note)| (Object::Service(value), note))
        }
        Kind::Endpoints => {
            let converted = converter.endpoints(&typed::<core::Endpoints>(value)?)?;
            strict(converted).map(|(value, note)| (Object::Endpoints(value), note))
        }
        Kind::EndpointSlice => {
            match converter.slice(&typed::<discovery::EndpointSlice>(value)?)? {
                Some(converted) => {
                    strict(converted).map(|(value, note)| (Object::Slice(value), note))
                }
                None => {
                    let note = format!("not used: no label {SERVICE_NAME_LABEL}");
                    Ok((Object::Unused, Some(note)))
                }
            }
        }
    }
}

fn typed<T: DeserializeOwned>(value: Value) -> Result<T, Rejection> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| Rejection::new(error.path().to_string(), error.inner().to_string()))
}

/// A manifest is somebody's own words: what is wrong in it is not passed over.
fn strict<T>(converted: Converted<T>) -> Result<(T, Option<String>), Rejection> {
    let Converted { value, mut flaws, notes } = converted;
    if !flaws.is_empty() {
        let more = flaws.len() - 1;
        let mut first = flaws.swap_remove(0);
        if more > 0 {
            first.reason = format!("{} (and {more} more)", first.reason);
        }
        return Err(first);
    }
    let notes: Vec<_> = notes.iter().map(ToString::to_string).collect();
    Ok((value, (!notes.is_empty()).then(|| notes.join("; "))))
}
