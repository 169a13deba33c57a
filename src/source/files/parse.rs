//! The text of one file turned into documents.
//!
//! What is kept of a document is small beside its text, whatever the text is: a mesh of a hundred
//! thousand objects is an ordinary one, and a million documents of three bytes each must cost no more
//! than that.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::convert::{Converted, Converter, Rejection, SERVICE_NAME_LABEL};
use crate::model::{EndpointSlice, Service};
use crate::yaml;

mod tree;

use tree::{Item, Tree};

/// What anchors, aliases and merge keys of one file may repeat, in parts of YAML (a scalar, the begin
/// of a mapping) and bytes. The library's own limits let a few KiB become 580 MiB.
const MAX_REPEATED: usize = 50_000;
const MAX_REPEATED_BYTES: usize = 4 << 20;
const MAX_MERGE_KEYS: usize = 1000;

/// How many errors, and how many notes, of one file have words of their own.
pub(super) const TOLD: usize = 1000;

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
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// Shared with the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Object {
    Service(Arc<Service>),
    Slice(Arc<EndpointSlice>),
    /// From a core/v1 Endpoints.
    Endpoints(Arc<EndpointSlice>),
    /// Legal, but not for us.
    Unused,
}

/// Where in its file an object stands: `document 2 (line 14)`, `document 1 (line 1), items[3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// From 1.
    document: usize,
    /// From 1; of JSON it is not known.
    line: Option<u32>,
    /// In a list, and in a list of a list.
    items: Box<[u32]>,
}

impl Place {
    fn item(&self, index: usize) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let items = self.items.iter().copied().chain([index]).collect();
        Self { document: self.document, line: self.line, items }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "document {}", self.document)?;
        if let Some(line) = self.line {
            write!(f, " (line {line})")?;
        }
        self.items.iter().try_for_each(|index| write!(f, ", items[{index}]"))
    }
}

/// One document, or one item of a list.
#[derive(Clone, Debug)]
pub(super) struct Document {
    pub(super) place: Place,
    /// Where it could be told.
    pub(super) id: Option<Id>,
    /// What is served for it; after `parse`, its own content alone.
    pub(super) object: Option<Object>,
    pub(super) error: Option<Arc<str>>,
    /// What was left out of it.
    pub(super) note: Option<Arc<str>>,
}

#[derive(Debug, Default)]
pub(super) struct Parsed {
    pub(super) documents: Vec<Document>,
    /// Documents with errors that are not among `documents`, since nobody would read so many.
    pub(super) untold: u64,
    /// Some document does not say (well) which object it is.
    pub(super) unclear: bool,
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
    let mut reading =
        Reading { converter, parsed: Parsed::default(), told: 0, noted: 0, many: None };
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        let values = serde_json::Deserializer::from_slice(bytes).into_iter::<Tree>();
        for (index, value) in values.enumerate() {
            let place = Place { document: index + 1, line: None, items: Box::default() };
            reading.unfold(value.map_err(|error| error.to_string())?, place, None);
        }
        return Ok(reading.parsed);
    }
    // Mesh-wide files are large, so no limits on the size here; but on nesting, and on aliases and merge
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
        serde_saphyr::read_with_options::<_, serde_saphyr::Spanned<Tree>>(&mut reader, options);
    for (index, value) in values.enumerate() {
        let number = index + 1;
        let value = value
            .map_err(|error| format!("document {number}: {}", yaml::explain(&error, bytes)))?;
        let line = u32::try_from(value.defined.line()).ok();
        let place = Place { document: number, line, items: Box::default() };
        reading.unfold(value.value, place, None);
    }
    Ok(reading.parsed)
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
            Some(id) if !namespaces.iter().any(|one| **one == *id.namespace) => {
                *skipped.entry(format!("{:?} of another namespace", id.kind)).or_default() += 1;
                false
            }
            _ => true,
        });
    }
}

/// A file on its way.
struct Reading<'a> {
    converter: &'a mut Converter,
    parsed: Parsed,
    /// How many errors and notes have had words of their own.
    told: usize,
    noted: usize,
    /// The words of all others.
    many: Option<Arc<str>>,
}

impl Reading<'_> {
    /// Takes in an object, or each item of a list. Items of a typed list (`ServiceList`) need not
    /// say what they are: `inherited` does.
    fn unfold(&mut self, tree: Tree, place: Place, inherited: Option<(&str, &str)>) {
        let Tree::Mapping { fields: object, items } = tree else {
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
            let Some(items) = items else {
                return self.reject(place, None, Rejection::new("items", "missing, or not a list"));
            };
            let inherited = (!of.is_empty()).then_some((version.as_str(), of));
            for (index, item) in items.into_iter().enumerate() {
                self.item(&item, place.item(index), inherited);
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
                *self.parsed.skipped.entry(kind).or_default() += 1;
                return;
            }
        };
        let id = id_of(known.0, &object, self.converter);
        if version != known.1 {
            let reason = format!("{version:?} is not supported; write {}", known.1);
            return self.reject(place, id, Rejection::new("apiVersion", reason));
        }
        match convert(known.0, object, self.converter) {
            Ok((object, note)) => {
                let note = note.map(|note| {
                    self.noted += 1;
                    if self.noted > TOLD { self.many() } else { note.into() }
                });
                let object = Some(object);
                self.parsed.documents.push(Document { place, id, object, error: None, note });
            }
            Err(rejection) => self.reject(place, id, rejection),
        }
    }

    fn item(&mut self, item: &Item, place: Place, inherited: Option<(&str, &str)>) {
        match item.tree() {
            Ok(tree) => self.unfold(tree, place, inherited),
            Err(error) => self.reject(place, None, Rejection::new("document", error)),
        }
    }

    fn reject(&mut self, place: Place, id: Option<Id>, mut rejection: Rejection) {
        self.parsed.unclear |= id.is_none() || rejection.field.starts_with("metadata");
        self.told += 1;
        let error = if self.told > TOLD {
            if id.is_none() {
                self.parsed.untold += 1;
                return;
            }
            self.many()
        } else {
            if rejection.reason.contains("{{") {
                rejection.reason = format!("{} ({})", rejection.reason, yaml::TEMPLATE);
            }
            rejection.to_string().into()
        };
        let error = Some(error);
        self.parsed.documents.push(Document { place, id, object: None, error, note: None });
    }

    fn many(&mut self) -> Arc<str> {
        let words = || format!("one of more than {TOLD} in this file, of which the first are told");
        self.many.get_or_insert_with(|| words().into()).clone()
    }
}

fn id_of(kind: Kind, object: &Map<String, Value>, converter: &mut Converter) -> Option<Id> {
    let metadata = object.get("metadata")?;
    let name = converter.intern(metadata.get("name")?.as_str()?);
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    let namespace = converter.intern(if namespace.is_empty() { "default" } else { namespace });
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
            strict(converted).map(|(value, note)| (Object::Service(Arc::new(value)), note))
        }
        Kind::Endpoints => match converter.endpoints(&typed::<core::Endpoints>(value)?)? {
            Some(converted) => {
                strict(converted).map(|(value, note)| (Object::Endpoints(Arc::new(value)), note))
            }
            None => Ok(unused("no Service can have this name")),
        },
        Kind::EndpointSlice => {
            match converter.slice(&typed::<discovery::EndpointSlice>(value)?)? {
                Some(converted) => {
                    strict(converted).map(|(value, note)| (Object::Slice(Arc::new(value)), note))
                }
                None => Ok(unused(&format!("no label {SERVICE_NAME_LABEL}"))),
            }
        }
    }
}

fn unused(why: &str) -> (Object, Option<String>) {
    (Object::Unused, Some(format!("not used: {why}")))
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
