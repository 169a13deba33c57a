//! What a stream asks for, interned: equal subscriptions are one allocation however many proxies
//! hold them, so five thousand sidecars that name the same thousand clusters hold one list.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

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
    as_sent: AsSent,
}

/// Lists of names as proxies sent them, by their hash.
#[derive(Debug, Default)]
struct AsSent {
    by_hash: HashMap<u64, (Arc<[u8]>, Weak<Subscription>)>,
    /// Of all lists, and after the last sweep.
    bytes: usize,
    swept: usize,
}

/// Lists of names that are forgotten late, bytes.
const AS_SENT_BYTES: usize = 4 << 20;

impl Interner {
    /// The one subscription to names that came as these bytes, and that `names` reads from them.
    /// Thousands of sidecars send the same thousand names: to compare the bytes costs a fraction
    /// of reading, sorting and looking up each of them.
    pub fn intern_as_sent(
        &self,
        bytes: &[u8],
        names: impl FnOnce() -> Vec<Arc<str>>,
    ) -> Arc<Subscription> {
        let hash = xxhash_rust::xxh3::xxh3_64(bytes);
        let known = self.lock().as_sent.by_hash.get(&hash).cloned();
        if let Some((known, subscription)) = known
            && *known == *bytes
            && let Some(subscription) = subscription.upgrade()
        {
            return subscription;
        }
        let made = self.intern(false, names());
        let mut inner = self.lock();
        let lists = &mut inner.as_sent;
        let replaced = lists.by_hash.insert(hash, (bytes.into(), Arc::downgrade(&made)));
        lists.bytes += bytes.len();
        lists.bytes -= replaced.map_or(0, |(bytes, _)| bytes.len());
        if lists.bytes > AS_SENT_BYTES + 2 * lists.swept {
            lists.by_hash.retain(|_, (_, subscription)| subscription.strong_count() > 0);
            lists.bytes = lists.by_hash.values().map(|(bytes, _)| bytes.len()).sum();
            lists.swept = lists.bytes;
        }
        made
    }

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

        let mut inner = self.lock();
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

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<Arc<str>> {
        list.split(',').map(Arc::from).collect()
    }

    #[test]
    fn five_thousand_proxies_hold_one_list() {
        let interner = Interner::default();
        let first = interner.intern_as_sent(b"b,a", || names("b,a"));
        let held: Vec<_> =
            (0..5000).map(|_| interner.intern_as_sent(b"b,a", || panic!("read again"))).collect();
        assert!(held.iter().all(|one| Arc::ptr_eq(one, &first)));
        let other_order = interner.intern_as_sent(b"a,b", || names("a,b"));
        assert!(Arc::ptr_eq(&first, &other_order), "the same names in another order");
        assert!(Arc::ptr_eq(&first, &interner.intern(false, names("a,b"))));
    }

    #[test]
    fn lists_that_nobody_holds_are_forgotten() {
        let interner = Interner::default();
        let kept = interner.intern_as_sent(b"kept", || names("kept"));
        for number in 0..100_u32 {
            let list = format!("{number:03}").repeat(30_000);
            interner.intern_as_sent(list.as_bytes(), || names(&list[..3]));
        }
        assert!(interner.lock().as_sent.bytes <= AS_SENT_BYTES + 90_000);
        let again = interner.intern_as_sent(b"kept", || panic!("read again"));
        assert!(Arc::ptr_eq(&kept, &again));
    }
}
