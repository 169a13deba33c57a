//! When files have to be read again: events of inotify, through `notify`.
//!
//! Watching the files is not enough: a ConfigMap is swapped by replacing a symlink beside them, an
//! editor renames a new file over the old, a folder may vanish and come back. So every folder is
//! watched in which a name of a path, or of a symlink on it, is looked up. These folders are determined
//! again before each reading of the files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Symlinks that are resolved along one path: the limit of Linux.
const MAX_SYMLINKS: usize = 40;

/// The folders to watch, with the names in each that matter.
type WatchedFolders = BTreeMap<PathBuf, WatchedNames>;

/// Which names in a folder are relevant.
#[derive(Clone, Debug, PartialEq, Eq)]
enum WatchedNames {
    All,
    Names(BTreeSet<OsString>),
}

/// Watches files and folders. Some file systems report no changes, so whoever uses it also reads at times.
#[derive(Debug)]
pub struct FileWatch {
    watcher: Result<RecommendedWatcher, String>,
    state: Arc<WatchState>,
    /// Why changes may be missed.
    error: Option<String>,
}

#[derive(Debug, Default)]
struct WatchState {
    /// Keeps one wake-up at most, so events cannot pile up.
    wake: Notify,
    /// A std mutex: taken for a look-up by `notify`'s thread, never across an await.
    folders: Mutex<WatchedFolders>,
}

impl FileWatch {
    /// Watches nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let state = Arc::new(WatchState::default());
        let handler_state = state.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, |event| handler_state.is_relevant(event)) {
                handler_state.wake.notify_one();
            }
        });
        Self { watcher: watcher.map_err(|error| error.to_string()), state, error: None }
    }

    /// Completes when something has changed since it last completed.
    pub async fn changed(&self) {
        self.state.wake.notified().await;
    }

    /// Why changes may be missed, by the last [`Self::rewatch`].
    #[must_use]
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    /// Watches what `paths` depend on now. Every watch is replaced, as a folder of the same name
    /// may be another one. To be called before the files are read.
    pub fn rewatch(&mut self, paths: &[PathBuf]) {
        let watcher = match &mut self.watcher {
            Ok(watcher) => watcher,
            Err(error) => {
                self.error = Some(error.clone());
                return;
            }
        };
        // Repeated if a symlink was swapped between resolving and watching it.
        for _ in 0..3 {
            let folders = folders_to_watch(paths);
            let before = std::mem::replace(&mut *self.state.folders(), folders.clone());
            for folder in before.keys() {
                // Fails for a folder that is gone, which is fine.
                _ = watcher.unwatch(folder);
            }
            self.error = None;
            for folder in folders.keys() {
                if let Err(error) = watcher.watch(folder, RecursiveMode::NonRecursive) {
                    self.error = Some(format!("{}: {error}", folder.display()));
                }
            }
            if folders_to_watch(paths) == folders {
                return;
            }
        }
    }
}

impl Default for FileWatch {
    fn default() -> Self {
        Self::new()
    }
}

impl WatchState {
    fn folders(&self) -> std::sync::MutexGuard<'_, WatchedFolders> {
        // Nothing panics while holding it, and the map is replaced as a whole.
        self.folders.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_relevant(&self, event: &Event) -> bool {
        if event.need_rescan() {
            return true; // events were lost
        }
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            // The source's own reading is among them and would trigger itself for ever.
            EventKind::Access(_) => return false,
            _ => {}
        }
        let folders = self.folders();
        event.paths.iter().any(|path| {
            let inside = path.parent().and_then(|folder| folders.get(folder));
            folders.contains_key(path)
                || inside.is_some_and(|names| match (names, path.file_name()) {
                    (WatchedNames::All, _) => true,
                    (WatchedNames::Names(names), name) => {
                        name.is_some_and(|name| names.contains(name))
                    }
                })
        })
    }
}

fn folders_to_watch(paths: &[PathBuf]) -> WatchedFolders {
    let mut folders = WatchedFolders::new();
    for path in paths {
        let Some(folder) = resolve_path(path, &mut folders).filter(|end| end.is_dir()) else {
            continue;
        };
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                resolve_path(&entry.path(), &mut folders);
            }
        }
        folders.insert(folder, WatchedNames::All);
    }
    folders
}

/// Resolves a path as the kernel does, and adds to `folders` each folder that holds a symlink, the
/// last name or the first missing name of it. Returns the resolved path, without symlinks.
fn resolve_path(path: &Path, folders: &mut WatchedFolders) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let (mut resolved, mut symlinks) = (PathBuf::from("/"), 0);
    let mut remaining = reversed_components(&absolute);
    while let Some(part) = remaining.pop() {
        if part == ".." {
            resolved.pop();
            continue;
        }
        let next = resolved.join(&part);
        let found = fs::symlink_metadata(&next);
        let is_link = found.as_ref().is_ok_and(fs::Metadata::is_symlink);
        if is_link || found.is_err() || remaining.is_empty() {
            let names = folders
                .entry(resolved.clone())
                .or_insert_with(|| WatchedNames::Names(BTreeSet::new()));
            if let WatchedNames::Names(names) = names {
                names.insert(part);
            }
        }
        if is_link {
            symlinks += 1;
            let target = fs::read_link(&next).ok().filter(|_| symlinks <= MAX_SYMLINKS)?;
            if target.is_absolute() {
                resolved = PathBuf::from("/");
            }
            remaining.extend(reversed_components(&target));
        } else {
            found.ok()?;
            resolved = next;
        }
    }
    Some(resolved)
}

/// The names of a path, the first one last.
fn reversed_components(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}
