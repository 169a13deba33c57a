//! All files together: their last good state, and what they say as a whole.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::{fs, io};

use xxhash_rust::xxh3::xxh3_64;

use super::super::convert::Converter;
use super::parse::{self, Id, Job, Object, Parsed};
use crate::model::{EndpointSlice, Service, ServiceKey};

/// More would not help: the rest of a start takes as long.
const MAX_THREADS: usize = 8;

/// The files of all paths, as they were when they were last good.
#[derive(Debug)]
pub(super) struct Folder {
    paths: Vec<PathBuf>,
    /// By absolute path, so that one that is given twice is read once.
    files: BTreeMap<PathBuf, File>,
    /// One for each thread that parses.
    converters: Vec<Converter>,
    /// Paths that were read at least once.
    read_once: BTreeSet<PathBuf>,
    first: bool,
}

#[derive(Debug, Default)]
struct File {
    /// As the operator would write it.
    shown: String,
    /// Which of the paths it belongs to.
    root: PathBuf,
    hash: Option<u64>,
    /// Why the file as a whole could not be read.
    trouble: Option<String>,
    documents: Vec<Document>,
    skipped: BTreeMap<String, u64>,
}

#[derive(Debug)]
struct Document {
    /// `mesh.yaml, document 2 (line 14), Service default/reviews`.
    place: String,
    id: Option<Id>,
    /// What is served for it: its own content, or its last good one.
    object: Option<Object>,
    error: Option<String>,
    note: Option<String>,
}

/// What all files say together.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) services: Vec<Service>,
    pub(super) slices: Vec<EndpointSlice>,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Whether any file differs from the last time. If not, the fields below are empty but for
    /// `paths` and `complete`.
    pub(super) changed: bool,
    pub(super) lists: Lists,
    /// What is wrong, by where it is.
    pub(super) rejected: BTreeMap<String, String>,
    /// What is not used although it is right.
    pub(super) notes: BTreeMap<String, String>,
    /// How many objects of each kind nothing is done with.
    pub(super) skipped: BTreeMap<String, u64>,
    /// Each path, and why it could not be read.
    pub(super) paths: Vec<(String, Result<(), String>)>,
    /// Every path has been read at least once.
    pub(super) complete: bool,
}

impl Folder {
    pub(super) fn new(paths: Vec<PathBuf>) -> Self {
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        Self {
            paths,
            files: BTreeMap::new(),
            converters: std::iter::repeat_with(Converter::default).take(threads).collect(),
            read_once: BTreeSet::new(),
            first: true,
        }
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads what is there now. A file that is gone from its folder takes its objects along; a
    /// path that is gone altogether keeps them, as does a file that cannot be read.
    pub(super) fn read(&mut self) -> Outcome {
        let mut outcome =
            Outcome { changed: std::mem::take(&mut self.first), ..Outcome::default() };
        let (mut seen, mut lost, mut jobs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        for root in self.paths.clone() {
            let listed = list(&root);
            match &listed {
                Ok(files) => {
                    self.read_once.insert(root.clone());
                    for file in files {
                        let key = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                        if seen.insert(key.clone()) {
                            outcome.changed |= self.read_file(key, file, &root, &mut jobs);
                        }
                    }
                }
                Err(_) => _ = lost.insert(root.clone()),
            }
            let served = self.files.values().any(|file| file.root == root);
            let read = listed.map(drop).map_err(|error| match served {
                true => format!("{error}; what it said before is still served"),
                false => error.to_string(),
            });
            outcome.paths.push((root.display().to_string(), read));
        }
        for (key, parsed) in parse::parse_all(jobs, &mut self.converters) {
            let file = self.files.entry(key).or_default();
            match parsed {
                Ok(parsed) => file.replace(parsed),
                Err(error) => file.trouble = Some(error),
            }
        }
        let before = self.files.len();
        self.files.retain(|key, file| seen.contains(key) || lost.contains(&file.root));
        outcome.changed |= self.files.len() != before;
        outcome.complete = self.paths.iter().all(|path| self.read_once.contains(path));
        if outcome.changed {
            self.assemble(&mut outcome);
        }
        outcome
    }

    /// Whether something is different now. What has to be parsed is added to `jobs`.
    fn read_file(&mut self, key: PathBuf, path: &Path, root: &Path, jobs: &mut Vec<Job>) -> bool {
        let shown = path.display().to_string();
        let file = self.files.entry(key.clone()).or_default();
        (file.shown, file.root) = (shown, root.to_owned());
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                // The content is unknown, so the next that can be read is news.
                file.hash = None;
                let trouble = Some(error.to_string());
                let news = file.trouble != trouble;
                file.trouble = trouble;
                return news;
            }
        };
        let hash = Some(xxh3_64(&bytes));
        if file.hash == hash {
            return false;
        }
        file.hash = hash;
        if is_kustomization(path) {
            let skipped = BTreeMap::from([("Kustomization".to_owned(), 1)]);
            file.replace(Parsed { skipped, ..Parsed::default() });
            return true;
        }
        jobs.push(Job { path: key, bytes });
        true
    }

    /// What all files say together, in the order of their paths: of two that contradict each
    /// other, the first wins.
    fn assemble(&self, outcome: &mut Outcome) {
        let mut seen: BTreeMap<&Id, &str> = BTreeMap::new();
        let mut addresses: BTreeMap<IpAddr, &str> = BTreeMap::new();
        let mut fallback = Vec::new();
        for file in self.files.values() {
            if let Some(trouble) = &file.trouble {
                let kept = if file.documents.is_empty() { "" } else { STILL_SERVED };
                outcome.rejected.insert(file.shown.clone(), format!("{trouble}{kept}"));
            }
            for (kind, count) in &file.skipped {
                *outcome.skipped.entry(kind.clone()).or_default() += count;
            }
            for document in &file.documents {
                let place = document.place.as_str();
                let mut reject =
                    |why: String| _ = outcome.rejected.insert(place.to_owned(), why.clone());
                if let Some(error) = &document.error {
                    let kept = if document.object.is_some() { STILL_SERVED } else { "" };
                    reject(format!("{error}{kept}"));
                }
                let (Some(object), Some(id)) = (&document.object, &document.id) else { continue };
                if let Some(earlier) = seen.get(id) {
                    reject(format!("{id} is defined already in {earlier}; remove one of the two"));
                    continue;
                }
                if let Object::Service(service) = object {
                    let mut ips = service.cluster_ips().iter();
                    let taken = ips.find_map(|ip| addresses.get(ip).map(|owner| (ip, owner)));
                    if let Some((ip, owner)) = taken {
                        reject(format!("spec.clusterIP: {ip} belongs already to {owner}"));
                        continue;
                    }
                    addresses.extend(service.cluster_ips().iter().map(|ip| (*ip, place)));
                }
                seen.insert(id, place);
                if let Some(note) = &document.note {
                    outcome.notes.insert(place.to_owned(), note.clone());
                }
                match object {
                    Object::Service(service) => outcome.lists.services.push(service.clone()),
                    Object::Slice(slice) => outcome.lists.slices.push(slice.clone()),
                    Object::Endpoints(slice) => fallback.push((place, slice)),
                    Object::Unused => {}
                }
            }
        }
        let sliced: BTreeSet<ServiceKey> =
            outcome.lists.slices.iter().map(|slice| slice.service.clone()).collect();
        for (place, slice) in fallback {
            if sliced.contains(&slice.service) {
                let note = "not used: EndpointSlices of the same service are there and win";
                outcome.notes.insert(place.to_owned(), note.to_owned());
            } else {
                outcome.lists.slices.push(slice.clone());
            }
        }
    }
}

const STILL_SERVED: &str = " (the last good version is still served)";

impl File {
    /// Takes the new documents over; a bad one brings its last good version along. One that does
    /// not say (well) which object it is may be any of those that are missing now, so all of them
    /// stay: stale is better than empty.
    fn replace(&mut self, parsed: Parsed) {
        let mut before: BTreeMap<Id, Document> = BTreeMap::new();
        for mut document in std::mem::take(&mut self.documents) {
            document.error = None;
            let good = document.object.is_some();
            if let Some(id) = document.id.clone().filter(|_| good) {
                before.entry(id).or_insert(document);
            }
        }
        let mut nameless = false;
        for new in parsed.documents {
            let mut place = format!("{}, {}", self.shown, new.place);
            if let Some(id) = &new.id {
                place = format!("{place}, {id}");
            }
            let last = new.id.as_ref().and_then(|id| before.remove(id));
            let (object, error) = match new.object {
                Ok(object) => (Some(object), None),
                Err(error) => {
                    nameless |= new.id.is_none() || error.field.starts_with("metadata");
                    (last.and_then(|last| last.object), Some(error.to_string()))
                }
            };
            self.documents.push(Document { place, id: new.id, object, error, note: new.note });
        }
        if nameless {
            self.documents.extend(before.into_values().map(|mut left| {
                left.note =
                    Some("not in the file any more, but kept until its errors are gone".into());
                left
            }));
        }
        self.skipped = parsed.skipped;
        self.trouble = None;
    }
}

/// The file, or the manifests directly in the folder. Hidden files are editors' and Kubernetes'
/// own.
fn list(path: &Path) -> io::Result<Vec<PathBuf>> {
    let found = fs::metadata(path)?;
    if found.is_file() {
        return Ok(vec![path.to_owned()]);
    }
    if !found.is_dir() {
        return Err(io::Error::other("neither a file nor a folder"));
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(path)? {
        let file = entry?.path();
        let hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        // Through symlinks, as ConfigMaps are mounted by them; no devices or pipes, which block.
        if !hidden && is_manifest(&file) && fs::metadata(&file).is_ok_and(|found| found.is_file()) {
            files.push(file);
        }
    }
    Ok(files)
}

fn is_manifest(path: &Path) -> bool {
    let ending = path.extension().unwrap_or_default();
    ["yaml", "yml", "json"].iter().any(|known| ending.eq_ignore_ascii_case(known))
}

/// Lies among manifests without being one; often does not even say its kind.
fn is_kustomization(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name.eq_ignore_ascii_case("kustomization"))
}

#[cfg(test)]
mod tests;
