//! Files of Kubernetes manifests as a source: the default that needs no cluster.
//!
//! Whatever happens to the files, everything is read again as a whole (`folder`) and sent as two
//! complete lists, of which the model takes what really differs; files with the same content are
//! not parsed again. What cannot be read or is wrong keeps its last good state, and so does a file
//! that seems to be half-written. `watch` says when to look. Reading is blocking work and done off
//! the async workers.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use super::health::Health;
use crate::model::{Change, Scope};

mod folder;
mod parse;
mod watch;

use folder::{Folder, Outcome};
use watch::Watch;

/// Writers need a moment from the first to the last byte: read only once it is quiet this long,
const QUIET: Duration = Duration::from_millis(50);
/// but wait no longer than this for a writer that never pauses.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often to look without being told, since some file systems tell nothing.
const SAFETY: Duration = Duration::from_secs(30);
/// The same where the kernel cannot watch (out of inotify watches, say).
const POLL: Duration = Duration::from_millis(500);
/// How many new errors are logged one by one; all stand in the health.
const LOGGED: usize = 5;

#[derive(Clone, Debug)]
pub struct Config {
    /// Files, and folders of `.yaml`, `.yml` and `.json` files (not their subfolders).
    pub paths: Vec<PathBuf>,
    /// Whose objects count; those of all if empty.
    pub namespaces: Vec<String>,
}

/// A path that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("--manifests {}: {reason}", path.display())]
pub struct Unusable {
    pub path: PathBuf,
    pub reason: String,
}

/// Refuses paths that do not exist or cannot be read, for the start of the program: then it is a
/// typing error. Later, a path that vanishes keeps its last state, as it may come back.
pub fn check(config: &Config) -> Result<(), Unusable> {
    for path in &config.paths {
        let tried = fs::metadata(path).and_then(|found| match found {
            found if found.is_dir() => fs::read_dir(path).map(|_| true),
            found if found.is_file() => fs::File::open(path).map(|_| true),
            _ => Ok(false),
        });
        let reason = match tried {
            Ok(true) => continue,
            Ok(false) => "neither a file nor a folder".to_owned(),
            Err(error) if path.as_os_str().as_encoded_bytes().contains(&b',') => format!(
                "{error}; give each file or folder by a --manifests of its own, as commas are part \
                 of the path here (and divide paths in PILOTHOUSE_MANIFESTS only)"
            ),
            Err(error) => format!("{error}; give a file or folder of Kubernetes manifests"),
        };
        return Err(Unusable { path: path.clone(), reason });
    }
    Ok(())
}

/// Follows the files until `shutdown` fires or nobody takes the changes any more.
pub async fn run(
    config: Config,
    changes: Sender<Change>,
    health: Arc<Health>,
    shutdown: CancellationToken,
) {
    for path in &config.paths {
        health.expect(&path.display().to_string());
    }
    shutdown.run_until_cancelled(follow(config, changes, health)).await;
}

async fn follow(config: Config, changes: Sender<Change>, health: Arc<Health>) {
    let mut reading = (Folder::new(config), Watch::new());
    let mut reporter = Reporter::new(health.clone());
    let mut synced = false;
    loop {
        let read = tokio::task::spawn_blocking(move || {
            let (mut folder, mut watch) = reading;
            // First the watches: what changes after this wakes us, what changed before is read.
            watch.follow(folder.paths());
            let outcome = folder.read(Instant::now());
            (outcome, folder, watch)
        });
        let (outcome, folder, watch) = match read.await {
            Ok(done) => done,
            Err(error) => {
                error!(%error, "reading the manifests broke off; the last known state is kept");
                health.failed("manifests", error);
                return;
            }
        };
        if outcome.changed {
            reporter.report(&outcome);
        }
        reporter.warn(outcome.warnings);
        reporter.report_watch(watch.trouble());
        reporter.report_paths(&outcome.paths);
        if outcome.changed && send(outcome.lists, &changes).await.is_err() {
            return;
        }
        if !synced && outcome.complete {
            synced = true;
            for (path, _) in &outcome.paths {
                health.synced(path);
            }
            if changes.send(Change::Synced).await.is_err() {
                return;
            }
        }
        let pause = if watch.trouble().is_some() { POLL } else { SAFETY };
        let again = outcome.again.map_or(pause, |at| pause.min(at - Instant::now()));
        tokio::select! {
            () = watch.woken() => settle(&watch).await,
            () = sleep(again) => {}
        }
        if changes.is_closed() {
            return;
        }
        reading = (folder, watch);
    }
}

/// Endpoints first, so that a new service never appears without its endpoints.
async fn send(lists: folder::Lists, changes: &Sender<Change>) -> Result<(), ()> {
    changes.send(Change::Slices(Scope::All, lists.slices)).await.map_err(drop)?;
    changes.send(Change::Services(Scope::All, lists.services)).await.map_err(drop)
}

/// Waits until nothing has happened for a moment, so that a file is not read half-written.
async fn settle(watch: &Watch) {
    let latest = Instant::now() + PATIENCE;
    let quiet = async { while timeout(QUIET, watch.woken()).await.is_ok() {} };
    _ = timeout_at(latest, quiet).await;
}

/// Says what is new about errors, each once.
struct Reporter {
    health: Arc<Health>,
    /// What is left out, and why.
    known: BTreeMap<String, String>,
    /// Paths that cannot be read, and why.
    lost: BTreeMap<String, String>,
    /// What is probably not meant, by path.
    warned: BTreeMap<String, String>,
    polling: Option<String>,
}

impl Reporter {
    fn new(health: Arc<Health>) -> Self {
        Self {
            health,
            known: BTreeMap::new(),
            lost: BTreeMap::new(),
            warned: BTreeMap::new(),
            polling: None,
        }
    }

    fn report_paths(&mut self, paths: &[(String, Result<(), String>)]) {
        for (path, read) in paths {
            match read {
                Ok(()) => {
                    self.health.contact(path);
                    self.lost.remove(path);
                }
                Err(error) => {
                    self.health.failed(path, error);
                    if self.lost.insert(path.clone(), error.clone()).as_ref() != Some(error) {
                        warn!(%path, %error, "cannot read the manifests");
                    }
                }
            }
        }
    }

    fn warn(&mut self, warnings: BTreeMap<String, String>) {
        for (path, warning) in &warnings {
            if self.warned.get(path) != Some(warning) {
                warn!(%path, "{warning}");
            }
        }
        self.warned = warnings;
    }

    fn report(&mut self, outcome: &Outcome) {
        let new =
            outcome.rejected.iter().filter(|(place, why)| self.known.get(*place) != Some(why));
        let mut count = 0;
        for (place, reason) in new {
            count += 1;
            if count <= LOGGED {
                warn!(manifest = %place, %reason, "left out");
            }
        }
        if count > LOGGED {
            warn!(count, "manifests have new errors, of which the first are above");
        }
        if outcome.rejected.is_empty() && !self.known.is_empty() {
            info!("all manifests are good again");
        }
        debug!(
            services = outcome.lists.services.len(),
            slices = outcome.lists.slices.len(),
            rejected = outcome.rejected.len(),
            "manifests read"
        );
        self.known = outcome.rejected.clone();
        self.health.replace_rejected(outcome.rejected.clone());
        let warnings = outcome.warnings.clone().into_iter();
        self.health.replace_notes(outcome.notes.clone().into_iter().chain(warnings));
        self.health.replace_skipped(outcome.skipped.clone());
    }

    fn report_watch(&mut self, trouble: Option<&str>) {
        if let Some(trouble) = trouble
            && self.polling.as_deref() != Some(trouble)
        {
            warn!(reason = trouble, "cannot watch the files, so they are read every half second");
        }
        self.polling = trouble.map(str::to_owned);
    }
}

#[cfg(test)]
mod tests;
