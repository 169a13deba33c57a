//! What a stream asks for, interned: equal subscriptions are one allocation however many proxies
//! hold them, so five thousand sidecars that name the same thousand clusters hold one list.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The names that a stream wants of one type.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    wildcard: bool,
    /// Sorted, each once.
    names: Vec<Arc<str>>,
}

impl Subscription {
    /// Unique among living subscriptions; keys of frame caches.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether everything of the type is wanted.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names asked for one by one, sorted.
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    pub fn is_named(&self, name: &str) -> bool {
        self.names.binary_search_by(|own| (**own).cmp(name)).is_ok()
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.is_named(name)
    }

    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }
}

/// Where equal subscriptions meet. A std mutex, never held across an await; taken only when a
/// subscription really changes.
#[derive(Debug, Default)]
pub struct Interner {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_hash: HashMap<u64, Vec<Weak<Subscription>>>,
    next: u64,
    /// Entries after the last sweep; the next one is due at twice as many.
    swept: usize,
    entries: usize,
}

impl Interner {
    /// The one subscription to these names.
    pub fn intern(&self, wildcard: bool, mut names: Vec<Arc<str>>) -> Arc<Subscription> {
        names.sort_unstable();
        names.dedup();
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        hasher.update(&[u8::from(wildcard)]);
        for name in &names {
            hasher.update(name.as_bytes());
            hasher.update(&[0]);
        }
        let hash = hasher.digest();

        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let inner = &mut *inner;
        let slot = inner.by_hash.entry(hash).or_default();
        let same = |one: &Arc<Subscription>| one.wildcard == wildcard && one.names == names;
        if let Some(found) = slot.iter().filter_map(Weak::upgrade).find(same) {
            return found;
        }
        inner.next += 1;
        names.shrink_to_fit();
        let made = Arc::new(Subscription { id: inner.next, wildcard, names });
        slot.push(Arc::downgrade(&made));
        inner.entries += 1;
        if inner.entries > 64 + 2 * inner.swept {
            inner.by_hash.retain(|_, slot| {
                slot.retain(|one| one.strong_count() > 0);
                !slot.is_empty()
            });
            inner.entries = inner.by_hash.values().map(Vec::len).sum();
            inner.swept = inner.entries;
        }
        made
    }
}
