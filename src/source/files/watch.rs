//! When to look at the files again: the kernel's word (inotify, through `notify`).
//!
//! What matters is not only the files: a ConfigMap is swapped by replacing a symlink beside them, an
//! editor renames a new file over the old, a folder may vanish and come back. So the watched places
//! are the folders in which a name decides what a path means, found by walking each path and its
//! symlinks, and they are found anew each time before the files are read.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Symlinks followed along one path, as the kernel does.
const HOPS: usize = 40;

/// The folders to watch.
type Places = BTreeMap<PathBuf, Interest>;

/// Which names in a folder matter.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Interest {
    All,
    Names(BTreeSet<OsString>),
}

#[derive(Debug)]
pub(super) struct Watch {
    kernel: Result<RecommendedWatcher, String>,
    shared: Arc<Shared>,
    /// Why changes may go unnoticed.
    trouble: Option<String>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Keeps one wake-up at most, so events cannot pile up.
    wake: Notify,
    /// A std mutex: taken for a look-up by `notify`'s thread, never across an await.
    places: Mutex<Places>,
}

impl Watch {
    pub(super) fn new() -> Self {
        let shared = Arc::new(Shared::default());
        let for_events = shared.clone();
        let kernel = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if event.as_ref().map_or(true, |event| for_events.concerns(event)) {
                for_events.wake.notify_one();
            }
        });
        Self { kernel: kernel.map_err(|error| error.to_string()), shared, trouble: None }
    }

    /// Completes when something has happened since the last time.
    pub(super) async fn woken(&self) {
        self.shared.wake.notified().await;
    }

    pub(super) fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }

    /// Watches what `paths` depend on now. Every watch is made anew, as a folder of the same name
    /// may be another one. Call before reading.
    pub(super) fn follow(&mut self, paths: &[PathBuf]) {
        let kernel = match &mut self.kernel {
            Ok(kernel) => kernel,
            Err(error) => {
                self.trouble = Some(error.clone());
                return;
            }
        };
        // Again if a symlink was swapped between finding and watching it.
        for _ in 0..3 {
            let places = places_of(paths);
            let before = std::mem::replace(&mut *self.shared.places(), places.clone());
            for folder in before.keys() {
                // Fails for a folder that is gone, which is fine.
                _ = kernel.unwatch(folder);
            }
            self.trouble = None;
            for folder in places.keys() {
                if let Err(error) = kernel.watch(folder, RecursiveMode::NonRecursive) {
                    self.trouble = Some(format!("{}: {error}", folder.display()));
                }
            }
            if places_of(paths) == places {
                return;
            }
        }
    }
}

impl Shared {
    fn places(&self) -> std::sync::MutexGuard<'_, Places> {
        // Nothing panics while holding it, and whole maps are put in.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn concerns(&self, event: &Event) -> bool {
        if event.need_rescan() {
            return true; // events were lost
        }
        match event.kind {
            EventKind::Access(AccessKind::Close(AccessMode::Write)) => {}
            // Our own reading among them: following it would never end.
            EventKind::Access(_) => return false,
            _ => {}
        }
        let places = self.places();
        event.paths.iter().any(|path| {
            let inside = path.parent().and_then(|folder| places.get(folder));
            places.contains_key(path)
                || inside.is_some_and(|interest| match (interest, path.file_name()) {
                    (Interest::All, _) => true,
                    (Interest::Names(names), name) => name.is_some_and(|name| names.contains(name)),
                })
        })
    }
}

fn places_of(paths: &[PathBuf]) -> Places {
    let mut places = Places::new();
    for path in paths {
        let Some(folder) = walk(path, &mut places).filter(|end| end.is_dir()) else { continue };
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                walk(&entry.path(), &mut places);
            }
        }
        places.insert(folder, Interest::All);
    }
    places
}

/// Follows a path as the kernel does and notes each folder in which a symlink, the last name or
/// the first missing name stands. Returns what it leads to, without symlinks.
fn walk(path: &Path, places: &mut Places) -> Option<PathBuf> {
    let absolute = std::path::absolute(path).ok()?;
    let (mut here, mut hops) = (PathBuf::from("/"), 0);
    let mut ahead = parts(&absolute);
    while let Some(part) = ahead.pop() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        let found = fs::symlink_metadata(&next);
        let is_link = found.as_ref().is_ok_and(fs::Metadata::is_symlink);
        if is_link || found.is_err() || ahead.is_empty() {
            let interest =
                places.entry(here.clone()).or_insert_with(|| Interest::Names(BTreeSet::new()));
            if let Interest::Names(names) = interest {
                names.insert(part);
            }
        }
        if is_link {
            hops += 1;
            let target = fs::read_link(&next).ok().filter(|_| hops <= HOPS)?;
            if target.is_absolute() {
                here = PathBuf::from("/");
            }
            ahead.extend(parts(&target));
        } else {
            found.ok()?;
            here = next;
        }
    }
    Some(here)
}

/// The names of a path, the first one last.
fn parts(path: &Path) -> Vec<OsString> {
    let names = path.components().filter_map(|part| match part {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    });
    let mut names: Vec<_> = names.collect();
    names.reverse();
    names
}
