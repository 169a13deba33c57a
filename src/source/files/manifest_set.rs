//! All manifest files: the last good state of each, and the objects of all of them together.
//!
//! `listing` finds the files, `file` decides what a change of one file does to its objects.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::convert::Converter;
use super::FileSourceConfig;
use super::parse::{self, Document, ObjectId, ParseJob, ParsedObject};
use crate::model::{EndpointSlice, ReferenceGrant, Route, Service, ServiceKey};

mod capped_messages;
mod file;
mod listing;

use capped_messages::CappedMessages;
use file::{FileUpdate, ManifestFile, STILL_SERVED};

/// More threads would not help: the rest of a start takes as long.
const MAX_THREADS: usize = 8;

/// How much text is read. The memory of a mesh is proportional to its text (some 15 bytes for each), and 100,000
/// Services of one port are 26 MiB of text.
const TEXT_LIMITS: TextLimits = TextLimits { file: 64 << 20, all: 256 << 20 };
/// A file counts as this many bytes at least, so that the number of files is limited as well.
const MIN_COUNTED_BYTES: u64 = 4096;
/// How much text is held in memory at once, plus one file.
const MAX_BATCH_BYTES: usize = 16 << 20;

/// Bytes of text.
#[derive(Clone, Copy, Debug)]
struct TextLimits {
    file: u64,
    all: u64,
}

/// The files of all paths, each in its last good state.
#[derive(Debug)]
pub(super) struct ManifestSet {
    paths: Vec<PathBuf>,
    /// The namespaces whose objects are read; all if empty.
    namespaces: Vec<String>,
    /// By absolute path, so that a file that is given twice is read once.
    files: BTreeMap<PathBuf, ManifestFile>,
    limits: TextLimits,
    /// One for each thread that parses.
    converters: Vec<Converter>,
    /// Paths that were read at least once.
    read_once: BTreeSet<PathBuf>,
    /// The warnings of the last outcome.
    last_warnings: BTreeMap<String, String>,
    /// Nothing has been read yet.
    is_first_read: bool,
}

/// The objects of all files.
#[derive(Debug, Default)]
pub(super) struct ObjectLists {
    pub(super) services: Vec<Arc<Service>>,
    pub(super) slices: Vec<Arc<EndpointSlice>>,
    /// Of both kinds.
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) grants: Vec<Arc<ReferenceGrant>>,
}

#[derive(Debug, Default)]
pub(super) struct ReadOutcome {
    /// Whether any file differs from the last time. If not, the fields below are empty but for
    /// `warnings`, `read_again_at`, `paths` and `complete`.
    pub(super) changed: bool,
    pub(super) lists: ObjectLists,
    /// Errors, by place.
    pub(super) rejected: BTreeMap<String, String>,
    /// What is not used although it is valid, by place.
    pub(super) notes: BTreeMap<String, String>,
    /// How many objects were skipped, by kind: kinds that are not served.
    pub(super) skipped: BTreeMap<String, u64>,
    /// Probable mistakes, by path.
    pub(super) warnings: BTreeMap<String, String>,
    /// When to read again even without an event: a file may be half-written until then.
    pub(super) read_again_at: Option<Instant>,
    /// Each path, and why it could not be read.
    pub(super) paths: Vec<(String, Result<(), String>)>,
    /// Every path has been read at least once.
    pub(super) complete: bool,
}

impl ManifestSet {
    pub(super) fn new(config: FileSourceConfig) -> Self {
        let FileSourceConfig { paths, namespaces } = config;
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        Self {
            paths,
            namespaces,
            files: BTreeMap::new(),
            limits: TEXT_LIMITS,
            converters: std::iter::repeat_with(Converter::default).take(threads).collect(),
            read_once: BTreeSet::new(),
            last_warnings: BTreeMap::new(),
            is_first_read: true,
        }
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads all files. A file that was removed from its folder loses its objects; a path that no
    /// longer exists keeps them, as does a file that cannot be read or seems to be half-written.
    pub(super) fn read(&mut self, now: Instant) -> ReadOutcome {
        let mut outcome = ReadOutcome {
            changed: std::mem::take(&mut self.is_first_read),
            ..ReadOutcome::default()
        };
        let (mut seen, mut unreadable, mut jobs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let mut total = 0;
        for root in self.paths.clone() {
            let listed = listing::list(&root);
            match &listed {
                Ok(listing) => {
                    self.read_once.insert(root.clone());
                    let shown = root.display().to_string();
                    outcome.warnings.extend(listing.warning().map(|warning| (shown, warning)));
                    for (path, usable) in &listing.files {
                        let key = std::path::absolute(path).unwrap_or_else(|_| path.clone());
                        if !seen.insert(key.clone()) {
                            continue;
                        }
                        let file = self.files.entry(key.clone()).or_default();
                        (file.display_path, file.root) = (path.display().to_string(), root.clone());
                        let update = match usable
                            .clone()
                            .and_then(|own| self.limits.admit_file(&mut total, own))
                        {
                            Ok(()) => file.read(key, path, self.limits.file, now, &mut jobs),
                            Err(error) => file.mark_unreadable(error),
                        };
                        match update {
                            FileUpdate::Changed => outcome.changed = true,
                            FileUpdate::Unchanged => {}
                            FileUpdate::RetryAt(at) => {
                                outcome.read_again_at =
                                    Some(outcome.read_again_at.map_or(at, |other| other.min(at)));
                            }
                        }
                        if jobs.iter().map(|job| job.bytes.len()).sum::<usize>() > MAX_BATCH_BYTES {
                            self.parse_files(std::mem::take(&mut jobs));
                        }
                    }
                }
                Err(_) => _ = unreadable.insert(root.clone()),
            }
            let served = self.files.values().any(|file| file.root == root);
            let read = listed.map(drop).map_err(|error| match served {
                true => format!("{error}; what it said before is still served"),
                false => error.to_string(),
            });
            outcome.paths.push((root.display().to_string(), read));
        }
        self.parse_files(jobs);
        let before = self.files.len();
        self.files.retain(|key, file| seen.contains(key) || unreadable.contains(&file.root));
        outcome.changed |= self.files.len() != before || self.last_warnings != outcome.warnings;
        self.last_warnings = outcome.warnings.clone();
        outcome.complete = self.paths.iter().all(|path| self.read_once.contains(path));
        if outcome.changed {
            self.merge_documents(&mut outcome);
        }
        outcome
    }

    fn parse_files(&mut self, jobs: Vec<ParseJob>) {
        for (key, parsed) in parse::parse_all(jobs, &mut self.converters) {
            let file = self.files.entry(key).or_default();
            match parsed {
                Ok(mut parsed) => {
                    parsed.retain_namespaces(&self.namespaces);
                    file.replace_documents(parsed);
                }
                Err(error) => file.read_error = Some(error),
            }
        }
    }

    /// Adds the objects of all files to `outcome`, in the order of the files' paths: of two that
    /// contradict each other, the first wins.
    fn merge_documents(&self, outcome: &mut ReadOutcome) {
        let (mut rejected, mut notes) = (CappedMessages::default(), CappedMessages::default());
        let mut seen: BTreeMap<&ObjectId, ObjectLocation<'_>> = BTreeMap::new();
        let mut addresses: HashMap<IpAddr, ObjectLocation<'_>> = HashMap::new();
        let mut from_endpoints = Vec::new();
        for file in self.files.values() {
            if let Some(error) = &file.read_error {
                let kept = if file.documents.is_empty() { "" } else { STILL_SERVED };
                rejected.insert(|| file.display_path.clone(), || format!("{error}{kept}"));
            }
            for (kind, count) in &file.skipped {
                *outcome.skipped.entry(kind.clone()).or_default() += count;
            }
            for document in &file.documents {
                let at = ObjectLocation(file, document);
                if let Some(error) = &document.error {
                    let kept = if document.object.is_some() { STILL_SERVED } else { "" };
                    rejected.insert(|| at.to_string(), || format!("{error}{kept}"));
                }
                let (Some(object), Some(id)) = (&document.object, &document.id) else { continue };
                if let Some(earlier) = seen.get(id) {
                    rejected.insert(
                        || at.to_string(),
                        || format!("{id} is defined already in {earlier}; remove one of the two"),
                    );
                    continue;
                }
                if let ParsedObject::Service(service) = object {
                    let mut ips = service.cluster_ips().iter();
                    let taken = ips.find_map(|ip| addresses.get(ip).map(|owner| (ip, owner)));
                    if let Some((ip, owner)) = taken {
                        rejected.insert(
                            || at.to_string(),
                            || format!("spec.clusterIP: {ip} belongs already to {owner}"),
                        );
                        continue;
                    }
                    addresses.extend(service.cluster_ips().iter().map(|ip| (*ip, at)));
                }
                seen.insert(id, at);
                if let Some(note) = &document.note {
                    notes.insert(|| at.to_string(), || note.to_string());
                }
                match object {
                    ParsedObject::Service(service) => outcome.lists.services.push(service.clone()),
                    ParsedObject::Slice(slice) => outcome.lists.slices.push(slice.clone()),
                    ParsedObject::Endpoints(slice) => from_endpoints.push((at, slice)),
                    ParsedObject::Route(route) => outcome.lists.routes.push(route.clone()),
                    ParsedObject::Grant(grant) => outcome.lists.grants.push(grant.clone()),
                    ParsedObject::Unused => {}
                }
            }
            rejected.add_omitted(file.unreported);
        }
        let with_slices: BTreeSet<ServiceKey> =
            outcome.lists.slices.iter().map(|slice| slice.service.clone()).collect();
        for (at, slice) in from_endpoints {
            if with_slices.contains(&slice.service) {
                let note = "not used: EndpointSlices of the same service are there and win";
                notes.insert(|| at.to_string(), || note.to_owned());
            } else {
                outcome.lists.slices.push(slice.clone());
            }
        }
        (outcome.rejected, outcome.notes) = (rejected.into_map(), notes.into_map());
    }
}

impl TextLimits {
    /// Admits a file of `own` bytes after files of `total` bytes, and adds it to them.
    ///
    /// # Errors
    /// Why it is not read.
    fn admit_file(self, total: &mut u64, own: u64) -> Result<(), String> {
        let TextLimits { file, all } = self;
        if own > file {
            return Err(format!("not read: it has {own} bytes, more than {file}; divide it"));
        }
        if *total + own.max(MIN_COUNTED_BYTES) > all {
            return Err(format!(
                "not read: all manifests together, in the order of their paths and each counted as \
                 {MIN_COUNTED_BYTES} bytes at least, have more than {all} bytes up to this one"
            ));
        }
        *total += own.max(MIN_COUNTED_BYTES);
        Ok(())
    }
}

/// Where an object is defined, as it is written in errors and notes.
#[derive(Clone, Copy, Debug)]
struct ObjectLocation<'a>(&'a ManifestFile, &'a Document);

impl fmt::Display for ObjectLocation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.0.display_path, self.1.place)?;
        self.1.id.iter().try_for_each(|id| write!(f, ", {id}"))
    }
}

#[cfg(test)]
mod tests;
