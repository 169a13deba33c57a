//! What a stream asks for, interned: equal subscriptions are one allocation however many proxies
//! hold them, so five thousand sidecars that name the same thousand clusters hold one list.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

/// The names that a stream wants of one type.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    wildcard: bool,
    /// Sorted, each once.
    names: Vec<Arc<str>>,
    /// A list that means exactly these names.
    as_sent: OnceLock<Arc<[u8]>>,
    /// What thousands of proxies with equal subscriptions need, as they change them alike. Std
    /// mutexes, never held across an await.
    last_change: Mutex<Option<(Change, Weak<Self>)>>,
    last_added: Mutex<Option<Added>>,
}

/// What a subscription has that another one has not, by its id.
#[derive(Debug)]
struct Added {
    since: u64,
    names: Arc<[Arc<str>]>,
}

/// How a subscription is changed by a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub wildcard: bool,
    /// Names taken out, before those put in.
    pub without: Vec<Arc<str>>,
    pub with: Vec<Arc<str>>,
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

    /// A list of these names and nothing else, as one client sent it: most send the same again.
    pub fn as_sent(&self) -> Option<&[u8]> {
        self.as_sent.get().map(|list| &**list)
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

    /// The names that this one has and `older` has not.
    pub fn added_since(&self, older: &Self) -> Arc<[Arc<str>]> {
        let mut last = lock(&self.last_added);
        if let Some(added) = &*last
            && added.since == older.id
        {
            return added.names.clone();
        }
        let names: Arc<[_]> =
            self.names.iter().filter(|name| !older.is_named(name)).cloned().collect();
        *last = Some(Added { since: older.id, names: names.clone() });
        names
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

impl Inner {
    fn forget_gone(&mut self) {
        self.by_hash.retain(|_, slot| {
            slot.retain(|one| one.strong_count() > 0);
            !slot.is_empty()
        });
        self.by_hash.shrink_to(2 * self.by_hash.len());
        self.entries = self.by_hash.values().map(Vec::len).sum();
        self.swept = self.entries;
    }
}

impl AsSent {
    fn forget_gone(&mut self) {
        self.by_hash.retain(|_, (_, subscription)| subscription.strong_count() > 0);
        self.by_hash.shrink_to(2 * self.by_hash.len());
        self.bytes = self.by_hash.values().map(|(bytes, _)| bytes.len()).sum();
        self.swept = self.bytes;
    }
}

impl Interner {
    /// The one subscription to so many names that came as these bytes, and that `names` reads from
    /// them.
    /// Thousands of sidecars send the same thousand names: to compare the bytes costs a fraction
    /// of reading, sorting and looking up each of them.
    pub fn intern_as_sent(
        &self,
        bytes: &[u8],
        len: usize,
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
        let bytes: Arc<[u8]> = bytes.into();
        // A list in which there is more than these names (the wildcard, one of them twice) may mean
        // something else to another type.
        if made.names.len() == len {
            made.as_sent.get_or_init(|| bytes.clone());
        }
        let mut inner = self.lock();
        let lists = &mut inner.as_sent;
        let replaced = lists.by_hash.insert(hash, (bytes.clone(), Arc::downgrade(&made)));
        lists.bytes += bytes.len();
        lists.bytes -= replaced.map_or(0, |(bytes, _)| bytes.len());
        if lists.bytes > AS_SENT_BYTES + 2 * lists.swept {
            lists.forget_gone();
        }
        made
    }

    /// Drops what is kept of subscriptions that nobody holds any more; to be called now and then.
    pub fn forget_gone(&self) {
        let mut inner = self.lock();
        inner.forget_gone();
        inner.as_sent.forget_gone();
    }

    /// What becomes of a subscription by a change.
    pub fn change(&self, from: &Arc<Subscription>, change: Change) -> Arc<Subscription> {
        if let Some((last, to)) = &*lock(&from.last_change)
            && *last == change
            && let Some(to) = to.upgrade()
        {
            return to;
        }
        let mut names: BTreeSet<_> = from.names.iter().cloned().collect();
        change.without.iter().for_each(|name| _ = names.remove(name));
        names.extend(change.with.iter().cloned());
        let to = self.intern(change.wildcard, names.into_iter().collect());
        *lock(&from.last_change) = Some((change, Arc::downgrade(&to)));
        to
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
        let made = Arc::new(Subscription {
            id: inner.next,
            wildcard,
            names,
            as_sent: OnceLock::new(),
            last_change: Mutex::default(),
            last_added: Mutex::default(),
        });
        slot.push(Arc::downgrade(&made));
        inner.entries += 1;
        if inner.entries > 64 + 2 * inner.swept {
            inner.forget_gone();
        }
        made
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &str) -> Vec<Arc<str>> {
        list.split(',').map(Arc::from).collect()
    }

    /// What is wanted of such lists is not what is in them.
    #[test]
    fn only_a_list_of_just_these_names_is_kept_with_them() {
        let interner = Interner::default();
        let kept = |bytes: &[u8], len, list: Vec<Arc<str>>| {
            interner.intern_as_sent(bytes, len, || list).as_sent().map(<[u8]>::to_vec)
        };
        assert_eq!(kept(b"*", 1, Vec::new()), None, "the wildcard of a type that has none");
        assert_eq!(kept(b"a,a", 2, names("a,a")), None);
        assert_eq!(kept(b"a,*", 2, names("a")), None);
        assert_eq!(kept(b"a", 1, names("a")), Some(b"a".to_vec()));
        let _held = interner.intern_as_sent(b"b,a", 2, || names("b,a"));
        assert_eq!(kept(b"a,b", 2, names("a,b")), Some(b"b,a".to_vec()), "the first of them");
    }

    #[test]
    fn five_thousand_proxies_hold_one_list() {
        let interner = Interner::default();
        let first = interner.intern_as_sent(b"b,a", 2, || names("b,a"));
        let held: Vec<_> = (0..5000)
            .map(|_| interner.intern_as_sent(b"b,a", 2, || panic!("read again")))
            .collect();
        assert!(held.iter().all(|one| Arc::ptr_eq(one, &first)));
        let other_order = interner.intern_as_sent(b"a,b", 2, || names("a,b"));
        assert!(Arc::ptr_eq(&first, &other_order), "the same names in another order");
        assert!(Arc::ptr_eq(&first, &interner.intern(false, names("a,b"))));
    }

    #[test]
    fn a_change_leads_from_one_to_another_and_tells_what_came() {
        let interner = Interner::default();
        let from = interner.intern(false, names("a,b"));
        let change = |without: &str, with: &str| Change {
            wildcard: false,
            without: names(without),
            with: names(with),
        };
        let to = interner.change(&from, change("a", "c"));
        assert_eq!(to.names(), names("b,c"));
        assert!(Arc::ptr_eq(&to, &interner.change(&from, change("a", "c"))));
        assert_eq!(*to.added_since(&from), names("c"));
        assert_eq!(*to.added_since(&from), names("c"), "by heart");

        // Another change, and another past, are not taken for the last one.
        assert_eq!(interner.change(&from, change("b", "c")).names(), names("a,c"));
        let wild = interner.change(&from, Change { wildcard: true, ..change("a", "c") });
        assert!(wild.is_wildcard() && wild.names() == names("b,c"));
        assert_eq!(*to.added_since(&interner.intern(false, names("a"))), names("b,c"));
        // What was taken out is put in again.
        assert_eq!(interner.change(&from, change("a", "a")).names(), names("a,b"));
        assert!(Arc::ptr_eq(&from, &interner.change(&from, change("a", "a"))));
    }

    #[test]
    fn the_memory_of_a_change_holds_nothing() {
        let interner = Interner::default();
        let from = interner.intern(false, names("a"));
        let change = Change { with: names("b"), ..Change::default() };
        let id = interner.change(&from, change.clone()).id();
        let again = interner.change(&from, change);
        assert_ne!(again.id(), id, "it was held by nobody");
        assert_eq!(again.names(), names("a,b"));
    }

    #[test]
    fn lists_that_nobody_holds_are_forgotten() {
        let interner = Interner::default();
        let kept = interner.intern_as_sent(b"kept", 1, || names("kept"));
        for number in 0..100_u32 {
            let list = format!("{number:03}").repeat(30_000);
            interner.intern_as_sent(list.as_bytes(), 1, || names(&list[..3]));
        }
        assert!(interner.lock().as_sent.bytes <= AS_SENT_BYTES + 90_000);
        let again = interner.intern_as_sent(b"kept", 1, || panic!("read again"));
        assert!(Arc::ptr_eq(&kept, &again));
    }
}
