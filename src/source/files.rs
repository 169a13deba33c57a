//! Files of Kubernetes manifests as a source: the default that needs no cluster.
//!
//! After any change of a file all files are read again (`manifest_set`) and sent as complete
//! lists, like a relist; the model applies the differences, and files with the same content are not
//! parsed again. A file that cannot be read, is wrong or seems to be half-written keeps its last good
//! state. `file_watch` reports changes. Reading blocks, so it runs outside the async workers.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::SendError;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::health::Health;
use crate::file_watch::FileWatch;
use crate::model::{Change, RouteKind, Scope, SourceEvent};

mod manifest_set;
mod parse;

use manifest_set::{ManifestSet, ReadOutcome};

/// Files are read once nothing has changed for this long, since a writer needs a moment for a file,
const QUIET_PERIOD: Duration = Duration::from_millis(50);
/// but no later than this after the first change, since a writer may never pause.
const MAX_DEBOUNCE: Duration = Duration::from_millis(500);
/// How often the files are read without an event, since some file systems report none.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// The same where the files cannot be watched (out of inotify watches, for example).
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// How many new errors are logged one by one; all are recorded in the health.
const MAX_LOGGED_ERRORS: usize = 5;

#[derive(Clone, Debug)]
pub struct FileSourceConfig {
    /// Files, and folders of `.yaml`, `.yml` and `.json` files (not their subfolders).
    pub paths: Vec<PathBuf>,
    /// The namespaces whose objects are read; all if empty.
    pub namespaces: Vec<String>,
}

/// A path of `--manifests` that does not exist or cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("--manifests {}: {reason}", path.display())]
pub struct UnusablePath {
    pub path: PathBuf,
    pub reason: String,
}

/// Refuses paths that do not exist or cannot be read, for the start of the program: then it is a
/// typing error. A path that vanishes later keeps its last state, as it may come back.
pub fn check_paths(config: &FileSourceConfig) -> Result<(), UnusablePath> {
    for path in &config.paths {
        let usable = fs::metadata(path).and_then(|found| match found {
            found if found.is_dir() => fs::read_dir(path).map(|_| true),
            found if found.is_file() => fs::File::open(path).map(|_| true),
            _ => Ok(false),
        });
        let reason = match usable {
            Ok(true) => continue,
            Ok(false) => "neither a file nor a folder".to_owned(),
            Err(error) if path.as_os_str().as_encoded_bytes().contains(&b',') => format!(
                "{error}; give each file or folder by a --manifests of its own, as commas are part \
                 of the path here (and divide paths in PILOTHOUSE_MANIFESTS only)"
            ),
            Err(error) => format!("{error}; give a file or folder of Kubernetes manifests"),
        };
        return Err(UnusablePath { path: path.clone(), reason });
    }
    Ok(())
}

/// Reads the files and their changes until `shutdown` fires or the receiver of `changes` is dropped.
pub async fn run(
    config: FileSourceConfig,
    changes: Sender<SourceEvent>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) {
    for path in &config.paths {
        health.expect(&path.display().to_string());
    }
    shutdown.run_until_cancelled(read_until_closed(config, changes, health)).await;
}

async fn read_until_closed(
    config: FileSourceConfig,
    changes: Sender<SourceEvent>,
    health: Arc<Health>,
) {
    let mut state = (ManifestSet::new(config), FileWatch::new());
    let mut reporter = Reporter::new(health.clone());
    let mut synced = false;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let (mut manifests, mut watch) = state;
            // The watches come first: what changes after them is an event, what changed before is read.
            watch.rewatch(manifests.paths());
            let outcome = manifests.read(Instant::now());
            (outcome, manifests, watch)
        });
        let (outcome, manifests, watch) = match read.await {
            Ok(done) => done,
            Err(error) => {
                error!(%error, "reading the manifests broke off; the last known state is kept");
                health.failed("manifests", error);
                return;
            }
        };
        if outcome.changed {
            reporter.report_objects(&outcome);
        }
        reporter.report_warnings(outcome.warnings);
        reporter.report_watch(watch.error());
        reporter.report_paths(&outcome.paths);
        if outcome.changed && send_lists(outcome.lists, &changes).await.is_err() {
            return;
        }
        if !synced && outcome.complete {
            synced = true;
            for (path, _) in &outcome.paths {
                health.synced(path);
            }
            if changes.send(Change::Synced.into()).await.is_err() {
                return;
            }
        }
        let interval = if watch.error().is_some() { POLL_INTERVAL } else { RESYNC_INTERVAL };
        let delay = outcome.read_again_at.map_or(interval, |at| interval.min(at - Instant::now()));
        tokio::select! {
            () = watch.changed() => debounce(&watch).await,
            () = sleep(delay) => {}
        }
        if changes.is_closed() {
            return;
        }
        state = (manifests, watch);
    }
}

/// All at once, so that one snapshot has all of them; endpoints and grants first, so that a new service or
/// route never appears without.
async fn send_lists(
    lists: manifest_set::ObjectLists,
    changes: &Sender<SourceEvent>,
) -> Result<(), SendError<()>> {
    let manifest_set::ObjectLists { services, slices, routes, grants } = lists;
    let mut all = vec![
        Change::Slices(Scope::All, slices),
        Change::Grants(Scope::All, grants),
        Change::Services(Scope::All, services),
    ];
    for kind in RouteKind::ALL {
        let of_kind = routes.iter().filter(|route| route.key.kind == kind).cloned().collect();
        all.push(Change::Routes(Scope::All, kind, of_kind));
    }
    let permits = changes.reserve_many(all.len()).await?;
    permits.zip(all).for_each(|(permit, change)| permit.send(change.into()));
    Ok(())
}

/// Waits until nothing has changed for [`QUIET_PERIOD`], so that a file is not read half-written.
async fn debounce(watch: &FileWatch) {
    let deadline = Instant::now() + MAX_DEBOUNCE;
    let quiet = async { while timeout(QUIET_PERIOD, watch.changed()).await.is_ok() {} };
    _ = timeout_at(deadline, quiet).await;
}

/// Logs errors that are new, each once, and records all in the health.
struct Reporter {
    health: Arc<Health>,
    /// Objects that are left out, by place, and why.
    rejected: BTreeMap<String, String>,
    /// Paths that cannot be read, and why.
    unreadable: BTreeMap<String, String>,
    /// Probable mistakes, by path.
    warnings: BTreeMap<String, String>,
    /// Why the files are polled instead of watched.
    watch_error: Option<String>,
}

impl Reporter {
    fn new(health: Arc<Health>) -> Self {
        Self {
            health,
            rejected: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            warnings: BTreeMap::new(),
            watch_error: None,
        }
    }

    fn report_paths(&mut self, paths: &[(String, Result<(), String>)]) {
        for (path, read) in paths {
            match read {
                Ok(()) => {
                    self.health.contact(path);
                    self.unreadable.remove(path);
                }
                Err(error) => {
                    self.health.failed(path, error);
                    if self.unreadable.insert(path.clone(), error.clone()).as_ref() != Some(error) {
                        warn!(%path, %error, "cannot read the manifests");
                    }
                }
            }
        }
    }

    fn report_warnings(&mut self, warnings: BTreeMap<String, String>) {
        for (path, warning) in &warnings {
            if self.warnings.get(path) != Some(warning) {
                warn!(%path, "{warning}");
            }
        }
        self.warnings = warnings;
    }

    fn report_objects(&mut self, outcome: &ReadOutcome) {
        let new =
            outcome.rejected.iter().filter(|(place, why)| self.rejected.get(*place) != Some(why));
        let mut count = 0;
        for (place, reason) in new {
            count += 1;
            if count <= MAX_LOGGED_ERRORS {
                warn!(manifest = %place, %reason, "left out");
            }
        }
        if count > MAX_LOGGED_ERRORS {
            warn!(count, "manifests have new errors, of which the first are above");
        }
        if outcome.rejected.is_empty() && !self.rejected.is_empty() {
            info!("all manifests are good again");
        }
        debug!(
            services = outcome.lists.services.len(),
            slices = outcome.lists.slices.len(),
            routes = outcome.lists.routes.len(),
            rejected = outcome.rejected.len(),
            "manifests read"
        );
        self.rejected = outcome.rejected.clone();
        self.health.replace_rejected(outcome.rejected.clone());
        let warnings = outcome.warnings.clone().into_iter();
        self.health.replace_notes(outcome.notes.clone().into_iter().chain(warnings));
        self.health.replace_skipped(outcome.skipped.clone());
    }

    fn report_watch(&mut self, error: Option<&str>) {
        if let Some(error) = error
            && self.watch_error.as_deref() != Some(error)
        {
            warn!(reason = error, "cannot watch the files, so they are read every half second");
        }
        self.watch_error = error.map(str::to_owned);
    }
}

#[cfg(test)]
mod tests;
