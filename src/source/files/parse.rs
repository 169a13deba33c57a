//! The text of one file turned into documents.
//!
//! What is kept of a document is smaller than its text, whatever the text is: meshes of a hundred
//! thousand objects are common, and a million documents of three bytes each must not need more memory.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::super::convert::route::{GatewayObject, ReferenceGrantV1};
use super::super::convert::{Converted, Converter, Rejection, SERVICE_NAME_LABEL};
use crate::model::route::{API_VERSION, GROUP};
use crate::model::{EndpointSlice, ReferenceGrant, Route, Service};
use crate::yaml;

mod tree;

use tree::{ListItem, Tree};

/// What anchors, aliases and merge keys of one file may repeat, in parts of YAML (a scalar, the begin
/// of a mapping) and bytes. The library's own limits let a few KiB become 580 MiB.
const MAX_REPEATED: usize = 50_000;
const MAX_REPEATED_BYTES: usize = 4 << 20;
const MAX_MERGE_KEYS: usize = 1000;

/// How many errors, and how many notes, of one file have a message of their own.
pub(super) const MAX_MESSAGES: usize = 1000;

/// A kind of object that is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ObjectKind {
    Service,
    EndpointSlice,
    Endpoints,
    HttpRoute,
    GrpcRoute,
    ReferenceGrant,
}

impl ObjectKind {
    /// Kubernetes' name.
    fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::EndpointSlice => "EndpointSlice",
            Self::Endpoints => "Endpoints",
            Self::HttpRoute => "HTTPRoute",
            Self::GrpcRoute => "GRPCRoute",
            Self::ReferenceGrant => "ReferenceGrant",
        }
    }

    /// The kind of this name in an API group, the core group's being empty, and its versions.
    fn of(group: &str, kind: &str) -> Option<(Self, &'static [&'static str])> {
        Some(match (group, kind) {
            ("", "Service") => (Self::Service, &["v1"]),
            ("", "Endpoints") => (Self::Endpoints, &["v1"]),
            ("discovery.k8s.io", "EndpointSlice") => {
                (Self::EndpointSlice, &["discovery.k8s.io/v1"])
            }
            (GROUP, "HTTPRoute") => {
                (Self::HttpRoute, &[API_VERSION, "gateway.networking.k8s.io/v1beta1"])
            }
            (GROUP, "GRPCRoute") => (Self::GrpcRoute, &[API_VERSION]),
            (GROUP, "ReferenceGrant") => {
                (Self::ReferenceGrant, &[API_VERSION, "gateway.networking.k8s.io/v1beta1"])
            }
            _ => return None,
        })
    }
}

/// What identifies an object: it is the same object after an edit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ObjectId {
    pub(super) kind: ObjectKind,
    pub(super) namespace: Arc<str>,
    pub(super) name: Arc<str>,
}

impl fmt::Display for ObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

/// Shared with the model.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum ParsedObject {
    Service(Arc<Service>),
    Slice(Arc<EndpointSlice>),
    /// From a core/v1 Endpoints.
    Endpoints(Arc<EndpointSlice>),
    Route(Arc<Route>),
    Grant(Arc<ReferenceGrant>),
    /// Valid, but of no use to a proxy.
    Unused,
}

/// Where in its file an object is: `document 2 (line 14)`, `document 1 (line 1), items[3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DocumentPosition {
    /// From 1.
    document: usize,
    /// From 1; not known for JSON.
    line: Option<u32>,
    /// Its index in a list, and the index of that in an outer list.
    items: Box<[u32]>,
}

impl DocumentPosition {
    fn with_item(&self, index: usize) -> Self {
        let index = u32::try_from(index).unwrap_or(u32::MAX);
        let items = self.items.iter().copied().chain([index]).collect();
        Self { document: self.document, line: self.line, items }
    }
}

impl fmt::Display for DocumentPosition {
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
    pub(super) place: DocumentPosition,
    /// `None` if the document does not say.
    pub(super) id: Option<ObjectId>,
    /// The object that is served; after `parse` always of the document's own content.
    pub(super) object: Option<ParsedObject>,
    pub(super) error: Option<Arc<str>>,
    /// What was left out of it.
    pub(super) note: Option<Arc<str>>,
}

#[derive(Debug, Default)]
pub(super) struct ParsedFile {
    pub(super) documents: Vec<Document>,
    /// How many documents with errors are not among `documents`, since nobody reads so many.
    pub(super) unreported: u64,
    /// A document does not say, or not correctly, which object it is.
    pub(super) has_unidentified: bool,
    /// How many objects were skipped, by kind: kinds that are not served.
    pub(super) skipped: BTreeMap<String, u64>,
}

/// A file to parse.
#[derive(Debug)]
pub(super) struct ParseJob {
    pub(super) path: PathBuf,
    pub(super) bytes: Vec<u8>,
}

/// Parses many files on as many threads as there are converters: YAML is read at some 10 MB/s and
/// core, and a start with a large mesh waits for nothing else. The results are in the order of the jobs.
pub(super) fn parse_all(
    jobs: Vec<ParseJob>,
    converters: &mut [Converter],
) -> Vec<(PathBuf, Result<ParsedFile, String>)> {
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
) -> Result<ParsedFile, String> {
    let mut parser = FileParser {
        converter,
        parsed: ParsedFile::default(),
        error_count: 0,
        note_count: 0,
        overflow_message: None,
    };
    if path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json")) {
        let values = serde_json::Deserializer::from_slice(bytes).into_iter::<Tree>();
        for (index, value) in values.enumerate() {
            let place = DocumentPosition { document: index + 1, line: None, items: Box::default() };
            parser.add_tree(value.map_err(|error| error.to_string())?, place, None);
        }
        return Ok(parser.parsed);
    }
    // A file with a whole mesh is large, so its size is not limited here; nesting is, and so are aliases
    // and merge keys, by which a small file becomes a large one.
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
        let place = DocumentPosition { document: number, line, items: Box::default() };
        parser.add_tree(value.value, place, None);
    }
    Ok(parser.parsed)
}

impl ParsedFile {
    /// Drops objects of other namespaces than these, if any are given. A document that does not say its
    /// namespace is kept, for its error.
    pub(super) fn retain_namespaces(&mut self, namespaces: &[String]) {
        if namespaces.is_empty() {
            return;
        }
        let skipped = &mut self.skipped;
        self.documents.retain(|document| match &document.id {
            Some(id) if !namespaces.iter().any(|one| **one == *id.namespace) => {
                *skipped
                    .entry(format!("{} of another namespace", id.kind.as_str()))
                    .or_default() += 1;
                false
            }
            _ => true,
        });
    }
}

/// A file while it is parsed.
struct FileParser<'a> {
    converter: &'a mut Converter,
    parsed: ParsedFile,
    /// How many errors and notes there were so far.
    error_count: usize,
    note_count: usize,
    /// The one message of all that come after those.
    overflow_message: Option<Arc<str>>,
}

impl FileParser<'_> {
    /// Adds an object, or each item of a list. Items of a typed list (`ServiceList`) need no apiVersion
    /// and kind: `inherited` has them.
    fn add_tree(&mut self, tree: Tree, place: DocumentPosition, inherited: Option<(&str, &str)>) {
        let Tree::Mapping { fields: object, items } = tree else {
            let reason = "not a Kubernetes object (a mapping with apiVersion, kind and metadata)";
            return self.reject(place, None, Rejection::new("document", reason));
        };
        let string_field =
            |field: &str| object.get(field).and_then(Value::as_str).map(str::to_owned);
        let version =
            string_field("apiVersion").or(inherited.map(|(version, _)| version.to_owned()));
        let kind = string_field("kind").or(inherited.map(|(_, kind)| kind.to_owned()));
        let (Some(version), Some(kind)) = (version, kind) else {
            let field = if object.contains_key("kind") { "apiVersion" } else { "kind" };
            let reason = "missing, or not a string";
            return self.reject(place, None, Rejection::new(field, reason));
        };
        if let Some(item_kind) = kind.strip_suffix("List") {
            let Some(items) = items else {
                return self.reject(place, None, Rejection::new("items", "missing, or not a list"));
            };
            let inherited = (!item_kind.is_empty()).then_some((version.as_str(), item_kind));
            for (index, item) in items.into_iter().enumerate() {
                self.add_item(&item, place.with_item(index), inherited);
            }
            return;
        }
        let group = version.split_once('/').map_or("", |(group, _)| group);
        let Some((kind, supported)) = ObjectKind::of(group, &kind) else {
            *self.parsed.skipped.entry(kind).or_default() += 1;
            return;
        };
        let id = object_id(kind, &object, self.converter);
        if !supported.contains(&version.as_str()) {
            let reason = format!("{version:?} is not supported; write {}", supported[0]);
            return self.reject(place, id, Rejection::new("apiVersion", reason));
        }
        match convert_object(kind, object, self.converter) {
            Ok((object, note)) => {
                let note = note.map(|note| {
                    self.note_count += 1;
                    if self.note_count > MAX_MESSAGES {
                        self.overflow_message()
                    } else {
                        note.into()
                    }
                });
                let object = Some(object);
                self.parsed.documents.push(Document { place, id, object, error: None, note });
            }
            Err(rejection) => self.reject(place, id, rejection),
        }
    }

    fn add_item(
        &mut self,
        item: &ListItem,
        place: DocumentPosition,
        inherited: Option<(&str, &str)>,
    ) {
        match item.tree() {
            Ok(tree) => self.add_tree(tree, place, inherited),
            Err(error) => self.reject(place, None, Rejection::new("document", error)),
        }
    }

    fn reject(&mut self, place: DocumentPosition, id: Option<ObjectId>, mut rejection: Rejection) {
        self.parsed.has_unidentified |= id.is_none() || rejection.field.starts_with("metadata");
        self.error_count += 1;
        let error = if self.error_count > MAX_MESSAGES {
            if id.is_none() {
                self.parsed.unreported += 1;
                return;
            }
            self.overflow_message()
        } else {
            if rejection.reason.contains("{{") {
                rejection.reason = format!("{} ({})", rejection.reason, yaml::TEMPLATE);
            }
            rejection.to_string().into()
        };
        let error = Some(error);
        self.parsed.documents.push(Document { place, id, object: None, error, note: None });
    }

    fn overflow_message(&mut self) -> Arc<str> {
        let text =
            || format!("one of more than {MAX_MESSAGES} in this file, of which the first are told");
        self.overflow_message.get_or_insert_with(|| text().into()).clone()
    }
}

fn object_id(
    kind: ObjectKind,
    object: &Map<String, Value>,
    converter: &mut Converter,
) -> Option<ObjectId> {
    let metadata = object.get("metadata")?;
    let name = converter.intern(metadata.get("name")?.as_str()?);
    let namespace = metadata.get("namespace").and_then(Value::as_str).unwrap_or_default();
    let namespace = converter.intern(if namespace.is_empty() { "default" } else { namespace });
    Some(ObjectId { kind, namespace, name })
}

fn convert_object(
    kind: ObjectKind,
    object: Map<String, Value>,
    converter: &mut Converter,
) -> Result<(ParsedObject, Option<String>), Rejection> {
    let value = Value::Object(object);
    match kind {
        ObjectKind::Service => {
            let converted = converter.service(&deserialize::<core::Service>(value)?)?;
            reject_flaws(converted)
                .map(|(value, note)| (ParsedObject::Service(Arc::new(value)), note))
        }
        ObjectKind::Endpoints => {
            match converter.endpoints(&deserialize::<core::Endpoints>(value)?)? {
                Some(converted) => reject_flaws(converted)
                    .map(|(value, note)| (ParsedObject::Endpoints(Arc::new(value)), note)),
                None => Ok(unused_object("no Service can have this name")),
            }
        }
        ObjectKind::EndpointSlice => {
            match converter.slice(&deserialize::<discovery::EndpointSlice>(value)?)? {
                Some(converted) => reject_flaws(converted)
                    .map(|(value, note)| (ParsedObject::Slice(Arc::new(value)), note)),
                None => Ok(unused_object(&format!("no label {SERVICE_NAME_LABEL}"))),
            }
        }
        ObjectKind::HttpRoute => reject_flaws(converter.http_route(&deserialize(value)?)?)
            .map(|(value, note)| (ParsedObject::Route(Arc::new(value)), note)),
        ObjectKind::GrpcRoute => reject_flaws(converter.grpc_route(&deserialize(value)?)?)
            .map(|(value, note)| (ParsedObject::Route(Arc::new(value)), note)),
        ObjectKind::ReferenceGrant => {
            let object = deserialize::<GatewayObject<ReferenceGrantV1>>(value)?;
            reject_flaws(converter.reference_grant(&object)?)
                .map(|(value, note)| (ParsedObject::Grant(Arc::new(value)), note))
        }
    }
}

fn unused_object(why: &str) -> (ParsedObject, Option<String>) {
    (ParsedObject::Unused, Some(format!("not used: {why}")))
}

fn deserialize<T: DeserializeOwned>(value: Value) -> Result<T, Rejection> {
    serde_path_to_error::deserialize(value)
        .map_err(|error| Rejection::new(error.path().to_string(), error.inner().to_string()))
}

/// A manifest was written by a person, so a flaw in it is an error and not passed over.
fn reject_flaws<T>(converted: Converted<T>) -> Result<(T, Option<String>), Rejection> {
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
