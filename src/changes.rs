//! The last changes of the source: what, when it was seen, when and under which generation of the snapshot
//! it was published. And how far each watch has got, so that "is version V published" has an answer without
//! a list of objects.
//!
//! `publish` is the one writer; the debug pages read copies. What each proxy has of a change is not kept
//! here: a stream has one number (`proxies`), which is compared with a change's generation when somebody
//! asks.
//!
//! Uses `model` alone; a std mutex, never held across an await, for a few pushes or a copy.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use crate::model::{Action, Difference, Differences, ObjectRef, Scope, SourceEvent, WatchId};

/// How many changes are kept.
pub const MAX_CHANGES: usize = 1000;
/// How many objects of one list are recorded one by one.
pub const MAX_DIFFERENCES: usize = 100;
/// Generations of which each watch's position is kept.
const MAX_STEPS: usize = 128;
/// Bytes of a name: Kubernetes allows 253, a manifest anything.
const MAX_NAME: usize = 256;

/// One change of the source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChangeRecord {
    /// Grows by one with each.
    pub id: u64,
    pub object: ObjectRef,
    pub action: Action,
    /// The object's `resourceVersion`; of a list, the newest in it. `None` where there is none.
    pub version: Option<u64>,
    /// How many objects a list changed. The first of them follow as changes of their own.
    pub differences: Option<usize>,
    pub seen: SystemTime,
    /// When the snapshot that has it was published, and that snapshot's generation. A change in which
    /// nothing differs from what was known is in the snapshot that there is.
    pub published: Option<(SystemTime, u64)>,
    /// Nothing of what is known differed.
    without_effect: bool,
}

/// How far a version of a kind in a namespace has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reached {
    /// No watch has it; the kinds and namespaces that are watched.
    NotWatched(Vec<WatchId>),
    /// The watch has got to this version only.
    NotSeen(u64),
    /// Seen, and not published yet.
    Pending,
    /// In the snapshot of this generation, if not in an earlier one.
    Published(u64),
}

/// See the module.
#[derive(Debug, Default)]
pub struct ChangeLog {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Oldest first. Those that are not published are the last ones.
    records: VecDeque<ChangeRecord>,
    newest_id: u64,
    watches: BTreeMap<WatchId, Progress>,
}

/// How far one watch has got.
#[derive(Debug, Default)]
struct Progress {
    /// The position that each generation has, oldest first.
    steps: VecDeque<(u64, u64)>,
    /// The position that waits for a snapshot.
    pending: Option<u64>,
}

impl Progress {
    fn seen(&self) -> u64 {
        self.pending.or(self.steps.back().map(|(version, _)| *version)).unwrap_or_default()
    }

    fn publish(&mut self, generation: u64) {
        let Some(version) = self.pending.take() else { return };
        match self.steps.back_mut() {
            Some((newest, of)) if *of == generation => *newest = version,
            _ => self.steps.push_back((version, generation)),
        }
        if self.steps.len() > MAX_STEPS {
            self.steps.pop_front();
        }
    }
}

impl ChangeLog {
    /// Records a change that was applied to the model. `object` is what it is about and `differences` what
    /// a list changed; `current` is the generation of the newest snapshot if nothing waits to be published,
    /// so that this one, too, is in it already.
    pub fn record(
        &self,
        event: &Seen,
        differences: Differences,
        current: Option<u64>,
        now: SystemTime,
    ) {
        let mut inner = self.lock();
        inner.progress(event, current);
        let Some((object, action)) = event.about.clone() else { return };
        let published = current.map(|generation| (now, generation));
        let is_list = action == Action::Relisted;
        let record = ChangeRecord {
            id: 0,
            object: cut(object),
            action,
            version: event.version,
            differences: is_list.then_some(differences.total),
            seen: event.seen,
            published,
            without_effect: published.is_some(),
        };
        // What is written all the time and means nothing (an annotation, say) would displace all others.
        if let Some(last) = inner.records.back()
            && last.without_effect
            && record.without_effect
            && (&last.object, last.action) == (&record.object, record.action)
        {
            inner.records.pop_back();
        }
        inner.push(record);
        for Difference { object, action, version } in differences.first {
            inner.push(ChangeRecord {
                id: 0,
                object: cut(object),
                action,
                version,
                differences: None,
                seen: event.seen,
                published,
                without_effect: false,
            });
        }
    }

    /// Everything that waits is in the snapshot of this generation.
    pub fn publish(&self, generation: u64, now: SystemTime) {
        let mut inner = self.lock();
        let waiting = inner.records.iter_mut().rev().take_while(|one| one.published.is_none());
        waiting.for_each(|one| one.published = Some((now, generation)));
        inner.watches.values_mut().for_each(|progress| progress.publish(generation));
    }

    /// A copy, newest first.
    pub fn records(&self) -> Vec<ChangeRecord> {
        self.lock().records.iter().rev().cloned().collect()
    }

    /// The id of the newest change; zero if there was none.
    pub fn newest_id(&self) -> u64 {
        self.lock().newest_id
    }

    /// The last change of an object.
    pub fn last_of(&self, kind: &str, namespace: Option<&str>, name: &str) -> Option<ChangeRecord> {
        let inner = self.lock();
        let mut newest_first = inner.records.iter().rev();
        let found = newest_first.find(|one| {
            one.object.kind == kind
                && one.object.namespace.as_deref() == namespace
                && one.object.name.as_deref() == Some(name)
        });
        found.cloned()
    }

    /// How far version `version` of a kind has come, by the watch of that kind and namespace.
    pub fn reached(&self, kind: &str, namespace: Option<&str>, version: u64) -> Reached {
        let inner = self.lock();
        let mut watches = inner.watches.iter();
        let found = watches.find(|(watch, _)| {
            watch.kind == kind
                && namespace.map_or(watch.scope == Scope::All, |name| watch.scope.covers(name))
        });
        let Some((_, progress)) = found else {
            return Reached::NotWatched(inner.watches.keys().cloned().collect());
        };
        if let Some((_, generation)) = progress.steps.iter().find(|(to, _)| *to >= version) {
            return Reached::Published(*generation);
        }
        match progress.seen() {
            seen if seen >= version => Reached::Pending,
            seen => Reached::NotSeen(seen),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is kept of an event of the source after the model has taken the change.
#[derive(Debug)]
pub struct Seen {
    about: Option<(ObjectRef, Action)>,
    seen: SystemTime,
    watch: Option<WatchId>,
    version: Option<u64>,
}

impl Seen {
    pub fn of(event: &SourceEvent) -> Self {
        let about = event.change.as_ref().and_then(crate::model::Change::about);
        let about = about.map(|(mut object, action)| {
            if let (Action::Relisted, Some(watch)) = (action, &event.watch) {
                // The list alone may be empty.
                object.kind = watch.kind;
            }
            (object, event.action.unwrap_or(action))
        });
        Self { about, seen: event.seen, watch: event.watch.clone(), version: event.version }
    }
}

impl Inner {
    fn push(&mut self, record: ChangeRecord) {
        self.newest_id += 1;
        self.records.push_back(ChangeRecord { id: self.newest_id, ..record });
        if self.records.len() > MAX_CHANGES {
            self.records.pop_front();
        }
    }

    fn progress(&mut self, event: &Seen, current: Option<u64>) {
        let Some(watch) = &event.watch else { return };
        let progress = self.watches.entry(watch.clone()).or_default();
        let listed = matches!(event.about, Some((_, Action::Relisted)));
        let Some(version) = event.version.or(listed.then_some(0)) else { return };
        let seen = progress.seen();
        if version < seen && event.about.is_none() {
            // The watch itself is at an older position: another history (a restored backup). An object may
            // well be older than what was seen.
            *progress = Progress::default();
        }
        progress.pending = Some(version.max(progress.seen()));
        if let Some(generation) = current {
            progress.publish(generation);
        }
    }
}

/// Long names, which no API server has, are cut.
fn cut(object: ObjectRef) -> ObjectRef {
    let short = |text: Option<Arc<str>>| {
        text.map(|text| match text.len() > MAX_NAME {
            true => text.get(..text.floor_char_boundary(MAX_NAME)).unwrap_or_default().into(),
            false => text,
        })
    };
    ObjectRef { namespace: short(object.namespace), name: short(object.name), ..object }
}

#[cfg(test)]
mod tests;
