//! One file: what it said when it was last good, and what becomes of it when it changes.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::super::parse::{Document, Id, Job, Parsed};

/// A file that became shorter in its place may be one that is being written: it is taken when it has
/// not changed for this long. A file that was renamed into its place is whole.
pub(super) const HALF_WRITTEN: Duration = Duration::from_secs(2);

pub(super) const STILL_SERVED: &str = " (the last good version is still served)";

#[derive(Debug, Default)]
pub(super) struct File {
    /// As the operator would write it.
    pub(super) shown: String,
    /// Which of the paths it belongs to.
    pub(super) root: PathBuf,
    hash: Option<u64>,
    /// Why the file as a whole could not be read.
    pub(super) trouble: Option<String>,
    pub(super) documents: Vec<Document>,
    /// How many documents with errors are not among them.
    pub(super) untold: u64,
    pub(super) skipped: BTreeMap<String, u64>,
    /// Which file it was when it was looked at last: another one is no half of the one before.
    identity: Option<Identity>,
    /// How long it was when it was read last, and when `documents` were.
    length: usize,
    good: usize,
    /// Content that may be half of what it is to be, and when it will be taken all the same.
    held: Option<(u64, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
}

/// What a look at a file has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    None,
    Some,
    /// Look again then.
    At(Instant),
}

impl File {
    /// What has to be parsed is added to `jobs`. A file of more than `limit` bytes is not.
    pub(super) fn read(
        &mut self,
        key: PathBuf,
        path: &Path,
        limit: u64,
        now: Instant,
        jobs: &mut Vec<Job>,
    ) -> News {
        let (bytes, identity) = match read(path, limit) {
            Ok(read) => read,
            Err(error) => return self.cannot_be_read(error.to_string()),
        };
        let in_place = self.identity.replace(identity) == Some(identity);
        let hash = xxh3_64(&bytes);
        if self.hash == Some(hash) {
            self.held = None;
            return News::None;
        }
        let serves = self.documents.iter().any(|document| document.object.is_some());
        if serves && bytes.trim_ascii().is_empty() {
            (self.hash, self.held) = (Some(hash), None);
            let trouble = "it is empty; if its objects are to go, remove the file".to_owned();
            self.trouble = Some(trouble);
            return News::Some;
        }
        if serves && in_place && bytes.len() < self.good {
            let since_seen = self.held.filter(|(held, _)| *held == hash);
            let (_, until) = since_seen.unwrap_or((hash, now + HALF_WRITTEN));
            if now < until {
                self.held = Some((hash, until));
                return News::At(until);
            }
        }
        (self.hash, self.held, self.length) = (Some(hash), None, bytes.len());
        if is_kustomization(path) {
            let skipped = BTreeMap::from([("Kustomization".to_owned(), 1)]);
            self.take(Parsed { skipped, ..Parsed::default() });
        } else {
            jobs.push(Job { path: key, bytes });
        }
        News::Some
    }

    pub(super) fn cannot_be_read(&mut self, trouble: String) -> News {
        // The content is unknown, so the next that can be read is news.
        (self.hash, self.held) = (None, None);
        let trouble = Some(trouble);
        let news = self.trouble != trouble;
        self.trouble = trouble;
        if news { News::Some } else { News::None }
    }

    /// Takes the new documents over; a bad one brings its last good version along. One that does
    /// not say (well) which object it is may be any of those that are missing now, so all of them
    /// stay: stale is better than empty.
    pub(super) fn take(&mut self, parsed: Parsed) {
        let mut before: BTreeMap<Id, Document> = BTreeMap::new();
        for mut document in std::mem::take(&mut self.documents) {
            document.error = None;
            let good = document.object.is_some();
            if let Some(id) = document.id.clone().filter(|_| good) {
                before.entry(id).or_insert(document);
            }
        }
        self.documents = parsed.documents;
        for new in &mut self.documents {
            let last =
                new.id.as_ref().and_then(|id| before.remove(id)).and_then(|last| last.object);
            // What is the same stays the one that the model has.
            if new.object.is_none() || new.object == last {
                new.object = last;
            }
        }
        if parsed.unclear {
            let note: Arc<str> =
                "not in the file any more, but kept until its errors are gone".into();
            self.documents.extend(before.into_values().map(|mut left| {
                left.note = Some(note.clone());
                left
            }));
        } else {
            self.good = self.length;
        }
        self.documents.shrink_to_fit();
        (self.skipped, self.untold) = (parsed.skipped, parsed.untold);
        self.trouble = None;
    }
}

pub(super) fn read(path: &Path, limit: u64) -> io::Result<(Vec<u8>, Identity)> {
    let file = fs::File::open(path)?;
    let found = file.metadata()?;
    let mut bytes = Vec::with_capacity(usize::try_from(found.len().min(limit) + 1).unwrap_or(0));
    // It was short enough when it was listed, but may be growing.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("not read: it has more than {limit} bytes")));
    }
    Ok((bytes, Identity { device: found.dev(), inode: found.ino() }))
}

/// Lies among manifests without being one; often does not even say its kind.
fn is_kustomization(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name.eq_ignore_ascii_case("kustomization"))
}
