//! All files together: their last good state, and what they say as a whole.
//!
//! `listing` says which files there are, `file` what becomes of one that has changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::num::NonZero;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::time::Instant;

use super::super::convert::Converter;
use super::Config;
use super::parse::{self, Document, Id, Job, Object};
use crate::model::{EndpointSlice, Service, ServiceKey};

mod file;
mod listing;
mod told;

use file::{File, News, STILL_SERVED};
use told::Told;

/// More would not help: the rest of a start takes as long.
const MAX_THREADS: usize = 8;

/// How much is read. What a mesh needs is proportional to its text (some 15 bytes for one), and 100,000
/// Services of one port are 26 MiB of text.
const LIMITS: Limits = Limits { file: 64 << 20, all: 256 << 20 };
/// What a file counts at least, so that their number has a limit as well.
const SMALLEST: u64 = 4096;
/// How much text is held at once, and one file more.
const BATCH: usize = 16 << 20;

/// Bytes of text.
#[derive(Clone, Copy, Debug)]
struct Limits {
    file: u64,
    all: u64,
}

/// The files of all paths, as they were when they were last good.
#[derive(Debug)]
pub(super) struct Folder {
    paths: Vec<PathBuf>,
    /// Whose objects count; all if empty.
    namespaces: Vec<String>,
    /// By absolute path, so that one that is given twice is read once.
    files: BTreeMap<PathBuf, File>,
    limits: Limits,
    /// One for each thread that parses.
    converters: Vec<Converter>,
    /// Paths that were read at least once.
    read_once: BTreeSet<PathBuf>,
    /// What the last outcome warned of.
    warned: BTreeMap<String, String>,
    first: bool,
}

/// What all files say together.
#[derive(Debug, Default)]
pub(super) struct Lists {
    pub(super) services: Vec<Arc<Service>>,
    pub(super) slices: Vec<Arc<EndpointSlice>>,
}

#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// Whether any file differs from the last time. If not, the fields below are empty but for
    /// `warnings`, `again`, `paths` and `complete`.
    pub(super) changed: bool,
    pub(super) lists: Lists,
    /// What is wrong, by where it is.
    pub(super) rejected: BTreeMap<String, String>,
    /// What is not used although it is right.
    pub(super) notes: BTreeMap<String, String>,
    /// How many objects of each kind nothing is done with.
    pub(super) skipped: BTreeMap<String, u64>,
    /// What is probably not meant, by path.
    pub(super) warnings: BTreeMap<String, String>,
    /// When to read again although nothing may happen: a file is waited for until then.
    pub(super) again: Option<Instant>,
    /// Each path, and why it could not be read.
    pub(super) paths: Vec<(String, Result<(), String>)>,
    /// Every path has been read at least once.
    pub(super) complete: bool,
}

impl Folder {
    pub(super) fn new(config: Config) -> Self {
        let Config { paths, namespaces } = config;
        let threads = std::thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
        Self {
            paths,
            namespaces,
            files: BTreeMap::new(),
            limits: LIMITS,
            converters: std::iter::repeat_with(Converter::default).take(threads).collect(),
            read_once: BTreeSet::new(),
            warned: BTreeMap::new(),
            first: true,
        }
    }

    pub(super) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Reads what is there now. A file that is gone from its folder takes its objects along; a
    /// path that is gone altogether keeps them, as does a file that cannot be read or seems to be
    /// half-written.
    pub(super) fn read(&mut self, now: Instant) -> Outcome {
        let mut outcome =
            Outcome { changed: std::mem::take(&mut self.first), ..Outcome::default() };
        let (mut seen, mut lost, mut jobs) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
        let mut length = 0;
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
                        (file.shown, file.root) = (path.display().to_string(), root.clone());
                        let news = match usable
                            .clone()
                            .and_then(|own| self.limits.add(&mut length, own))
                        {
                            Ok(()) => file.read(key, path, self.limits.file, now, &mut jobs),
                            Err(trouble) => file.cannot_be_read(trouble),
                        };
                        match news {
                            News::Some => outcome.changed = true,
                            News::None => {}
                            News::At(at) => {
                                outcome.again =
                                    Some(outcome.again.map_or(at, |other| other.min(at)));
                            }
                        }
                        if jobs.iter().map(|job| job.bytes.len()).sum::<usize>() > BATCH {
                            self.parse(std::mem::take(&mut jobs));
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
        self.parse(jobs);
        let before = self.files.len();
        self.files.retain(|key, file| seen.contains(key) || lost.contains(&file.root));
        outcome.changed |= self.files.len() != before || self.warned != outcome.warnings;
        self.warned = outcome.warnings.clone();
        outcome.complete = self.paths.iter().all(|path| self.read_once.contains(path));
        if outcome.changed {
            self.assemble(&mut outcome);
        }
        outcome
    }

    fn parse(&mut self, jobs: Vec<Job>) {
        for (key, parsed) in parse::parse_all(jobs, &mut self.converters) {
            let file = self.files.entry(key).or_default();
            match parsed {
                Ok(mut parsed) => {
                    parsed.keep(&self.namespaces);
                    file.take(parsed);
                }
                Err(error) => file.trouble = Some(error),
            }
        }
    }

    /// What all files say together, in the order of their paths: of two that contradict each
    /// other, the first wins.
    fn assemble(&self, outcome: &mut Outcome) {
        let (mut rejected, mut notes) = (Told::default(), Told::default());
        let mut seen: BTreeMap<&Id, At<'_>> = BTreeMap::new();
        let mut addresses: HashMap<IpAddr, At<'_>> = HashMap::new();
        let mut fallback = Vec::new();
        for file in self.files.values() {
            if let Some(trouble) = &file.trouble {
                let kept = if file.documents.is_empty() { "" } else { STILL_SERVED };
                rejected.say(|| file.shown.clone(), || format!("{trouble}{kept}"));
            }
            for (kind, count) in &file.skipped {
                *outcome.skipped.entry(kind.clone()).or_default() += count;
            }
            for document in &file.documents {
                let at = At(file, document);
                if let Some(error) = &document.error {
                    let kept = if document.object.is_some() { STILL_SERVED } else { "" };
                    rejected.say(|| at.to_string(), || format!("{error}{kept}"));
                }
                let (Some(object), Some(id)) = (&document.object, &document.id) else { continue };
                if let Some(earlier) = seen.get(id) {
                    rejected.say(
                        || at.to_string(),
                        || format!("{id} is defined already in {earlier}; remove one of the two"),
                    );
                    continue;
                }
                if let Object::Service(service) = object {
                    let mut ips = service.cluster_ips().iter();
                    let taken = ips.find_map(|ip| addresses.get(ip).map(|owner| (ip, owner)));
                    if let Some((ip, owner)) = taken {
                        rejected.say(
                            || at.to_string(),
                            || format!("spec.clusterIP: {ip} belongs already to {owner}"),
                        );
                        continue;
                    }
                    addresses.extend(service.cluster_ips().iter().map(|ip| (*ip, at)));
                }
                seen.insert(id, at);
                if let Some(note) = &document.note {
                    notes.say(|| at.to_string(), || note.to_string());
                }
                match object {
                    Object::Service(service) => outcome.lists.services.push(service.clone()),
                    Object::Slice(slice) => outcome.lists.slices.push(slice.clone()),
                    Object::Endpoints(slice) => fallback.push((at, slice)),
                    Object::Unused => {}
                }
            }
            rejected.more(file.untold);
        }
        let sliced: BTreeSet<ServiceKey> =
            outcome.lists.slices.iter().map(|slice| slice.service.clone()).collect();
        for (at, slice) in fallback {
            if sliced.contains(&slice.service) {
                let note = "not used: EndpointSlices of the same service are there and win";
                notes.say(|| at.to_string(), || note.to_owned());
            } else {
                outcome.lists.slices.push(slice.clone());
            }
        }
        (outcome.rejected, outcome.notes) = (rejected.all(), notes.all());
    }
}

impl Limits {
    /// Whether a file of so many bytes is read after files of `length` bytes, which it is then added to.
    fn add(self, length: &mut u64, own: u64) -> Result<(), String> {
        let Limits { file, all } = self;
        if own > file {
            return Err(format!("not read: it has {own} bytes, more than {file}; divide it"));
        }
        if *length + own.max(SMALLEST) > all {
            return Err(format!(
                "not read: all manifests together, in the order of their paths and each counted as \
                 {SMALLEST} bytes at least, have more than {all} bytes up to this one"
            ));
        }
        *length += own.max(SMALLEST);
        Ok(())
    }
}

/// A place to look for an object.
#[derive(Clone, Copy, Debug)]
struct At<'a>(&'a File, &'a Document);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}", self.0.shown, self.1.place)?;
        self.1.id.iter().try_for_each(|id| write!(f, ", {id}"))
    }
}

#[cfg(test)]
mod tests;
