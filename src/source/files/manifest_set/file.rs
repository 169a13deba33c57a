//! One manifest file: its last good documents, and what a change does to them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use super::super::parse::{Document, ObjectId, ParseJob, ParsedFile};

/// A file that became shorter in place may be half-written: it is read once it has not changed for this
/// long. A file that was renamed into place is complete.
pub(super) const HALF_WRITTEN: Duration = Duration::from_secs(2);

pub(super) const STILL_SERVED: &str = " (the last good version is still served)";

#[derive(Debug, Default)]
pub(super) struct ManifestFile {
    /// The path as the operator wrote it.
    pub(super) display_path: String,
    /// The path of `--manifests` that it belongs to.
    pub(super) root: PathBuf,
    hash: Option<u64>,
    /// Why the file as a whole could not be read.
    pub(super) read_error: Option<String>,
    pub(super) documents: Vec<Document>,
    /// How many documents with errors are not among `documents`.
    pub(super) unreported: u64,
    pub(super) skipped: BTreeMap<String, u64>,
    /// The file that was read last: another file in its place is not half-written.
    identity: Option<FileIdentity>,
    /// Its length when it was read last, and when it was last good.
    length: usize,
    good_length: usize,
    /// The hash of content that may be half-written, and when it is read nevertheless.
    pending: Option<(u64, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileIdentity {
    device: u64,
    inode: u64,
}

/// What reading a file has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileUpdate {
    Unchanged,
    Changed,
    /// It may be half-written: to be read again then.
    RetryAt(Instant),
}

impl ManifestFile {
    /// Reads the file and, if its content is new, adds it to `jobs` to be parsed. A file of more than
    /// `limit` bytes is not read.
    pub(super) fn read(
        &mut self,
        key: PathBuf,
        path: &Path,
        limit: u64,
        now: Instant,
        jobs: &mut Vec<ParseJob>,
    ) -> FileUpdate {
        let (bytes, identity) = match read_file(path, limit) {
            Ok(read) => read,
            Err(error) => return self.mark_unreadable(error.to_string()),
        };
        let in_place = self.identity.replace(identity) == Some(identity);
        let hash = xxh3_64(&bytes);
        if self.hash == Some(hash) {
            self.pending = None;
            return FileUpdate::Unchanged;
        }
        let serves = self.documents.iter().any(|document| document.object.is_some());
        if serves && bytes.trim_ascii().is_empty() {
            (self.hash, self.pending) = (Some(hash), None);
            let read_error = "it is empty; if its objects are to go, remove the file".to_owned();
            self.read_error = Some(read_error);
            return FileUpdate::Changed;
        }
        if serves && in_place && bytes.len() < self.good_length {
            let since_seen = self.pending.filter(|(pending, _)| *pending == hash);
            let (_, until) = since_seen.unwrap_or((hash, now + HALF_WRITTEN));
            if now < until {
                self.pending = Some((hash, until));
                return FileUpdate::RetryAt(until);
            }
        }
        (self.hash, self.pending, self.length) = (Some(hash), None, bytes.len());
        if is_kustomization(path) {
            let skipped = BTreeMap::from([("Kustomization".to_owned(), 1)]);
            self.replace_documents(ParsedFile { skipped, ..ParsedFile::default() });
        } else {
            jobs.push(ParseJob { path: key, bytes });
        }
        FileUpdate::Changed
    }

    pub(super) fn mark_unreadable(&mut self, read_error: String) -> FileUpdate {
        // The content is unknown, so the next that can be read is a change.
        (self.hash, self.pending) = (None, None);
        let read_error = Some(read_error);
        let changed = self.read_error != read_error;
        self.read_error = read_error;
        if changed { FileUpdate::Changed } else { FileUpdate::Unchanged }
    }

    /// Replaces the documents; one with an error keeps the last good version of its object. One that
    /// cannot be identified may be any of the objects that are missing now, so all of those are kept:
    /// stale is better than empty.
    pub(super) fn replace_documents(&mut self, parsed: ParsedFile) {
        let mut before: BTreeMap<ObjectId, Document> = BTreeMap::new();
        for mut document in std::mem::take(&mut self.documents) {
            document.error = None;
            let good = document.object.is_some();
            if let Some(id) = document.id.clone().filter(|_| good) {
                before.entry(id).or_insert(document);
            }
        }
        self.documents = parsed.documents;
        for new in &mut self.documents {
            let last_good =
                new.id.as_ref().and_then(|id| before.remove(id)).and_then(|last| last.object);
            // An unchanged object stays the allocation that the model holds.
            if new.object.is_none() || new.object == last_good {
                new.object = last_good;
            }
        }
        if parsed.has_unidentified {
            let note: Arc<str> =
                "not in the file any more, but kept until its errors are gone".into();
            self.documents.extend(before.into_values().map(|mut left| {
                left.note = Some(note.clone());
                left
            }));
        } else {
            self.good_length = self.length;
        }
        self.documents.shrink_to_fit();
        (self.skipped, self.unreported) = (parsed.skipped, parsed.unreported);
        self.read_error = None;
    }
}

pub(super) fn read_file(path: &Path, limit: u64) -> io::Result<(Vec<u8>, FileIdentity)> {
    let file = fs::File::open(path)?;
    let found = file.metadata()?;
    let mut bytes = Vec::with_capacity(usize::try_from(found.len().min(limit) + 1).unwrap_or(0));
    // It was short enough when it was listed, but may have grown.
    file.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("not read: it has more than {limit} bytes")));
    }
    Ok((bytes, FileIdentity { device: found.dev(), inode: found.ino() }))
}

/// It lies among manifests without being one, and often has no kind.
fn is_kustomization(path: &Path) -> bool {
    path.file_stem().is_some_and(|name| name.eq_ignore_ascii_case("kustomization"))
}
