//! How many hold each of some keys, where the first and the last make a difference.

use std::borrow::Borrow;
use std::collections::BTreeMap;

#[derive(Debug)]
pub(super) struct RefCounts<K> {
    counts: BTreeMap<K, usize>,
}

impl<K> Default for RefCounts<K> {
    fn default() -> Self {
        Self { counts: BTreeMap::new() }
    }
}

impl<K: Ord> RefCounts<K> {
    /// One more; whether it is the first.
    pub(super) fn add(&mut self, key: K) -> bool {
        let count = self.counts.entry(key).or_default();
        *count += 1;
        *count == 1
    }

    /// One less; whether it was the last.
    pub(super) fn release<Q: Ord + ?Sized>(&mut self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        let Some(count) = self.counts.get_mut(key) else { return false };
        *count -= 1;
        let last = *count == 0;
        if last {
            self.counts.remove(key);
        }
        last
    }

    /// The key as it is held, if it is.
    pub(super) fn get<Q: Ord + ?Sized>(&self, key: &Q) -> Option<&K>
    where
        K: Borrow<Q>,
    {
        self.counts.get_key_value(key).map(|(key, _)| key)
    }

    pub(super) fn contains<Q: Ord + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.counts.contains_key(key)
    }

    pub(super) fn len(&self) -> usize {
        self.counts.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// In order.
    #[cfg(test)]
    pub(super) fn keys(&self) -> impl Iterator<Item = &K> {
        self.counts.keys()
    }
}
