//! Differences between older sets and a newer one, each computed once for all streams.
//!
//! They are cached in the newer set, which may live for long where nothing changes: an entry is dropped
//! once its older set is gone, so that no stream can be at it any more.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use crate::{Diff, TypeSet};

/// The cached differences of one set, by the older set's id.
#[derive(Debug, Default)]
pub(crate) struct DiffCache {
    // A std mutex, locked for a look-up; differences are computed outside, behind the OnceLock.
    by_older: Mutex<HashMap<u64, CachedDiff>>,
}

#[derive(Debug)]
struct CachedDiff {
    older: Weak<TypeSet>,
    diff: Arc<OnceLock<Diff>>,
    /// The newer set with the resources that only the older one has, while a stream holds it.
    union: Weak<TypeSet>,
}

impl DiffCache {
    fn with_entry<T>(&self, older: &Arc<TypeSet>, update: impl FnOnce(&mut CachedDiff) -> T) -> T {
        let mut diffs = self.lock();
        if let Some(entry) = diffs.get_mut(&older.id()) {
            return update(entry);
        }
        forget_gone(&mut diffs);
        let new = || CachedDiff {
            older: Arc::downgrade(older),
            diff: Arc::default(),
            union: Weak::new(),
        };
        update(diffs.entry(older.id()).or_insert_with(new))
    }

    /// Drops the differences from sets that are gone.
    pub(crate) fn forget_gone(&self) {
        forget_gone(&mut self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, CachedDiff>> {
        self.by_older.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Drops the differences from sets that are gone.
fn forget_gone(diffs: &mut HashMap<u64, CachedDiff>) {
    diffs.retain(|_, entry| entry.older.strong_count() > 0);
    if diffs.is_empty() {
        diffs.shrink_to_fit();
    }
}

impl TypeSet {
    /// [`Self::diff`] from `older` to this set, computed once for all streams.
    pub fn diff_from(&self, older: &Arc<Self>) -> SharedDiff {
        let cell = self.diffs.with_entry(older, |entry| entry.diff.clone());
        cell.get_or_init(|| older.diff(self));
        SharedDiff(cell)
    }

    /// This set with the resources that `older` has and it has not: one set for all streams that come
    /// from `older`, so that their frames are shared as well.
    pub fn with_removed_of(self: &Arc<Self>, older: &Arc<Self>) -> Arc<Self> {
        let diff = self.diff_from(older);
        if diff.removed.is_empty() {
            return self.clone();
        }
        if diff.changed.is_empty() {
            // That is the older set. A stream that is at it must not get another set at every poll.
            return older.clone();
        }
        self.diffs.with_entry(older, |entry| {
            entry.union.upgrade().unwrap_or_else(|| {
                let removed = diff.removed.iter();
                let union = self.with(removed.map(|name| (name.clone(), older.get(name).cloned())));
                entry.union = Arc::downgrade(&union);
                union
            })
        })
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
    use crate::{Resource, ServedType, View};

    fn insertion(name: &str, content: &str) -> (Arc<str>, Option<Arc<Resource>>) {
        let of = ServedType::CLUSTER.type_url;
        (name.into(), Some(Resource::from_encoded(of, name.into(), content.as_bytes())))
    }

    fn diffs(set: &TypeSet) -> usize {
        set.diffs.lock().len()
    }

    #[test]
    fn what_is_known_of_an_older_set_goes_when_nobody_is_at_it_any_more() {
        let older = Arc::new(TypeSet::default()).with([insertion("a", "1"), insertion("b", "1")]);
        let other = older.with([insertion("c", "1")]);
        let newer = older.with([("a".into(), None), insertion("b", "2")]);
        let kept = newer.with_removed_of(&older);
        assert!(kept.get("a").is_some() && kept.get("b") == newer.get("b"));
        assert!(Arc::ptr_eq(&kept, &newer.with_removed_of(&older)), "one for all streams");
        newer.diff_from(&other);
        assert_eq!(diffs(&newer), 2);

        let nobodys = Arc::downgrade(&kept);
        drop(kept);
        assert_eq!(nobodys.strong_count(), 0, "the newer set holds it for nobody");
        let view = View::new([newer.clone()]);
        view.forget_gone_sets();
        assert_eq!(diffs(&newer), 2, "streams may be at both");
        drop(other);
        view.forget_gone_sets();
        assert_eq!(diffs(&newer), 1);
        drop(older);
        // Or when the next difference is requested.
        newer.diff_from(&newer.with([insertion("d", "1")]));
        assert_eq!(diffs(&newer), 1);
    }

    #[test]
    fn keeping_all_of_a_set_is_that_set_however_often() {
        let older = Arc::new(TypeSet::default()).with([insertion("a", "1"), insertion("b", "1")]);
        let newer = older.with([("a".into(), None)]);
        assert!(Arc::ptr_eq(&newer.with_removed_of(&older), &older));
        let changed = older.with([("a".into(), None), insertion("b", "2")]);
        let first = changed.with_removed_of(&older);
        assert!(
            Arc::ptr_eq(&changed.with_removed_of(&first), &first),
            "a stream that is there stays"
        );
    }
}
