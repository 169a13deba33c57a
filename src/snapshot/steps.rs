//! The ways from older sets to a newer one, each worked out once for all streams that go it.
//!
//! Kept beside the newer set, which may live for long where nothing changes: what belongs to an
//! older set is dropped once no stream can be at that one any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use super::{Diff, Snapshot, TypeSet};
use crate::names::ResourceType;

/// By the older set's id.
#[derive(Debug, Default)]
pub(super) struct Steps {
    // A std mutex, held for a look-up; differences are worked out outside, behind the OnceLock.
    from: Mutex<HashMap<u64, Step>>,
}

#[derive(Debug)]
struct Step {
    older: Weak<TypeSet>,
    diff: Arc<OnceLock<Diff>>,
    /// The newer set with what only the older one has, for as long as a stream is there.
    kept: Weak<TypeSet>,
}

impl Steps {
    fn step<T>(&self, older: &Arc<TypeSet>, with: impl FnOnce(&mut Step) -> T) -> T {
        let mut steps = self.lock();
        if !steps.contains_key(&older.id()) {
            forget(&mut steps);
        }
        let new = || Step { older: Arc::downgrade(older), diff: Arc::default(), kept: Weak::new() };
        with(steps.entry(older.id()).or_insert_with(new))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Step>> {
        self.from.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the steps from sets that are gone.
fn forget(steps: &mut HashMap<u64, Step>) {
    steps.retain(|_, step| step.older.strong_count() > 0);
    if steps.is_empty() {
        steps.shrink_to_fit();
    }
}

impl TypeSet {
    /// [`Self::diff`] from `older` to this set, worked out once for all streams that make this
    /// step.
    pub fn diff_from(&self, older: &Arc<Self>) -> SharedDiff {
        let cell = self.steps.step(older, |step| step.diff.clone());
        cell.get_or_init(|| older.diff(self));
        SharedDiff(cell)
    }

    /// This set together with what `older` has and it has not: one set for all streams that make
    /// this step, so that their frames are shared as well.
    pub fn keeping(self: &Arc<Self>, older: &Arc<Self>) -> Arc<Self> {
        let diff = self.diff_from(older);
        if diff.removed.is_empty() {
            return self.clone();
        }
        if diff.changed.is_empty() {
            // That is the older one. A stream that is there already must not get another every
            // time it is looked at.
            return older.clone();
        }
        self.steps.step(older, |step| {
            step.kept.upgrade().unwrap_or_else(|| {
                let removed = diff.removed.iter();
                let kept = self.with(removed.map(|name| (name.clone(), older.get(name).cloned())));
                step.kept = Arc::downgrade(&kept);
                kept
            })
        })
    }
}

impl Snapshot {
    /// Drops what the sets know of older sets that no stream is at any more.
    pub fn forget_gone_sets(&self) {
        for view in self.views.values() {
            for of in ResourceType::IN_ORDER {
                forget(&mut view.set(of).steps.lock());
            }
        }
    }
}

/// A difference that all streams share.
#[derive(Clone, Debug)]
pub struct SharedDiff(Arc<OnceLock<Diff>>);

impl std::ops::Deref for SharedDiff {
    type Target = Diff;

    fn deref(&self) -> &Diff {
        static NOTHING: Diff = Diff { changed: Vec::new(), removed: Vec::new() };
        self.0.get().unwrap_or(&NOTHING)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Resource, View};
    use crate::view::{ProxyKind, ViewKey};

    fn put(name: &str, content: &str) -> (Arc<str>, Option<Arc<Resource>>) {
        let of = ResourceType::Cluster;
        (name.into(), Some(Resource::from_encoded(of, name.into(), content.as_bytes())))
    }

    fn steps(set: &TypeSet) -> usize {
        set.steps.lock().len()
    }

    #[test]
    fn what_is_known_of_an_older_set_goes_when_nobody_is_at_it_any_more() {
        let older = Arc::new(TypeSet::default()).with([put("a", "1"), put("b", "1")]);
        let other = older.with([put("c", "1")]);
        let newer = older.with([("a".into(), None), put("b", "2")]);
        let kept = newer.keeping(&older);
        assert!(kept.get("a").is_some() && kept.get("b") == newer.get("b"));
        assert!(Arc::ptr_eq(&kept, &newer.keeping(&older)), "one for all streams");
        newer.diff_from(&other);
        assert_eq!(steps(&newer), 2);

        let nobodys = Arc::downgrade(&kept);
        drop(kept);
        assert_eq!(nobodys.strong_count(), 0, "the newer set holds it for nobody");
        let key = ViewKey::new(ProxyKind::Sidecar, None);
        let sets = std::array::from_fn(|_| newer.clone());
        let mut snapshot = Snapshot::default();
        snapshot.views.insert(key, Arc::new(View::new(sets)));
        snapshot.forget_gone_sets();
        assert_eq!(steps(&newer), 2, "streams may be at both");
        drop(other);
        snapshot.forget_gone_sets();
        assert_eq!(steps(&newer), 1);
        drop(older);
        // Or when the next way is asked for.
        newer.diff_from(&newer.with([put("d", "1")]));
        assert_eq!(steps(&newer), 1);
    }

    #[test]
    fn keeping_all_of_a_set_is_that_set_however_often() {
        let older = Arc::new(TypeSet::default()).with([put("a", "1"), put("b", "1")]);
        let newer = older.with([("a".into(), None)]);
        assert!(Arc::ptr_eq(&newer.keeping(&older), &older));
        let changed = older.with([("a".into(), None), put("b", "2")]);
        let first = changed.keeping(&older);
        assert!(Arc::ptr_eq(&changed.keeping(&first), &first), "a stream that is there stays");
    }
}
