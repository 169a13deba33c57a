//! Items that wait, taken in turns over keys: of each key first come, first served, so that a key with a
//! thousand items delays only itself.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// The items, and whose turn is next.
#[derive(Debug)]
pub(crate) struct RoundRobin<K, T> {
    /// Keys that have items, each once.
    round: VecDeque<K>,
    items: HashMap<K, VecDeque<T>>,
}

impl<K, T> Default for RoundRobin<K, T> {
    fn default() -> Self {
        Self { round: VecDeque::new(), items: HashMap::new() }
    }
}

impl<K: Clone + Eq + Hash, T> RoundRobin<K, T> {
    pub(crate) fn is_empty(&self) -> bool {
        self.round.is_empty()
    }

    pub(crate) fn push(&mut self, key: K, item: T) {
        let own = self.items.entry(key.clone()).or_insert_with(|| {
            self.round.push_back(key);
            VecDeque::new()
        });
        own.push_back(item);
    }

    /// The next item, of the key whose turn it is; that key is last from then on.
    pub(crate) fn pop(&mut self) -> Option<(K, T)> {
        let key = self.round.pop_front()?;
        let own = self.items.get_mut(&key)?;
        let item = own.pop_front();
        if own.is_empty() {
            self.items.remove(&key);
        } else {
            self.round.push_back(key.clone());
        }
        item.map(|item| (key, item))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_take_turns_and_one_that_comes_back_is_last() {
        let mut waiting = RoundRobin::default();
        for (key, item) in [("a", 1), ("a", 2), ("a", 3), ("b", 4), ("c", 5)] {
            waiting.push(key, item);
        }
        let order: Vec<_> = std::iter::from_fn(|| waiting.pop()).take(3).collect();
        assert_eq!(order, [("a", 1), ("b", 4), ("c", 5)]);
        waiting.push("b", 6);
        let order: Vec<_> = std::iter::from_fn(|| waiting.pop()).collect();
        assert_eq!(order, [("a", 2), ("b", 6), ("a", 3)]);
        assert!(waiting.is_empty() && waiting.items.is_empty());
    }
}
