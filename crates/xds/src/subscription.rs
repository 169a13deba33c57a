//! Subscriptions, interned: equal ones are one allocation however many proxies hold them, so five thousand
//! sidecars that name the same thousand clusters hold one list.
//!
//! A change of a subscription costs the size of the change: names are in a persistent set that shares what
//! stays the same, and the digest by which equal subscriptions are found is a sum to which a name is added
//! or from which it is subtracted. Otherwise a peer that holds 99,000 names and changes one a request would
//! make the server sort and hash all of them each time.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use imbl::OrdSet;

/// What a name costs beside its bytes, about: counters, its slots in the set and in `last_added`,
/// and what the allocator adds.
const NAME_OVERHEAD: usize = 72;

/// Changes of more names are not cached: few streams make the same one.
const MAX_CACHED_CHANGE: usize = 64;

/// The names that a stream subscribes to, of one type.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    wildcard: bool,
    /// Sorted, each once.
    names: OrdSet<Arc<str>>,
    /// Sum of the names' hashes, and their bytes with what holds them.
    digest: u128,
    bytes: usize,
    /// A list that means exactly these names.
    as_sent: OnceLock<Arc<[u8]>>,
    /// The last change and its result: thousands of proxies with equal subscriptions change them alike.
    /// Std mutexes, never held across an await.
    last_change: Mutex<Option<(Change, Weak<Self>)>>,
    last_added: Mutex<Option<Added>>,
}

/// The names that a subscription has and an older one (by its id) has not.
#[derive(Debug)]
struct Added {
    since: u64,
    names: Arc<[Arc<str>]>,
}

/// The change that a request makes to a subscription.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Change {
    pub wildcard: bool,
    /// Names removed, before others are added.
    pub without: Vec<Arc<str>>,
    pub with: Vec<Arc<str>>,
}

impl Subscription {
    /// Unique among the interner's subscriptions; key of cached frames.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Whether everything of the type is subscribed.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// The names that are subscribed one by one, sorted.
    pub fn names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.names.iter()
    }

    /// How many names are subscribed one by one.
    pub fn len(&self) -> usize {
        self.names.len()
    }

    /// Bytes that it holds, about: names that a resource set has too are counted as its own.
    pub fn bytes(&self) -> usize {
        self.bytes + self.as_sent().map_or(0, <[u8]>::len)
    }

    /// A list of these names and nothing else, as one client sent it: most send the same again.
    pub fn as_sent(&self) -> Option<&[u8]> {
        self.as_sent.get().map(|list| &**list)
    }

    pub fn is_named(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.is_named(name)
    }

    pub fn is_empty(&self) -> bool {
        !self.wildcard && self.names.is_empty()
    }

    /// The names that this subscription has and `older` has not.
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

/// Makes equal subscriptions one allocation. A std mutex, never held across an await; locked only when a
/// subscription changes.
#[derive(Debug, Default)]
pub struct Interner {
    inner: Mutex<Inner>,
    /// Keyed by this process alone: what a peer cannot know it cannot make collide. Two of them
    /// make one digest.
    hashers: [RandomState; 2],
}

#[derive(Debug, Default)]
struct Inner {
    by_digest: HashMap<(bool, u128), Weak<Subscription>>,
    next: u64,
    /// Entries after the last sweep; the next one is due at twice as many.
    swept: usize,
    lists: Lists,
}

/// Lists of names as proxies sent them, by their hash: the newer ones and the older ones. One that
/// is asked for again is a newer one again. Bounded by bytes, because each order of the same names
/// is a list of its own, and a subscription lives as long as anybody holds it.
#[derive(Debug, Default)]
struct Lists {
    newer: HashMap<u64, List>,
    older: HashMap<u64, List>,
    /// Of the newer ones.
    bytes: usize,
}

type List = (Arc<[u8]>, Weak<Subscription>);

/// Bytes of lists that are newer, and of one of them: a longer one is not kept.
const LISTS_BYTES: usize = 8 << 20;
const LIST_BYTES: usize = LISTS_BYTES / 8;

impl Lists {
    fn get(&mut self, hash: u64, bytes: &[u8]) -> Option<Arc<Subscription>> {
        let found = |lists: &HashMap<u64, List>| {
            let (known, subscription) = lists.get(&hash)?;
            if **known == *bytes { subscription.upgrade() } else { None }
        };
        if let Some(subscription) = found(&self.newer) {
            return Some(subscription);
        }
        let subscription = found(&self.older)?;
        let (bytes, weak) = self.older.remove(&hash)?;
        self.insert(hash, bytes, weak);
        Some(subscription)
    }

    fn insert(&mut self, hash: u64, bytes: Arc<[u8]>, subscription: Weak<Subscription>) {
        if bytes.len() > LIST_BYTES {
            return;
        }
        if self.bytes + bytes.len() > LISTS_BYTES {
            self.older = std::mem::take(&mut self.newer);
            self.bytes = 0;
        }
        self.bytes += bytes.len();
        let replaced = self.newer.insert(hash, (bytes, subscription));
        self.bytes -= replaced.map_or(0, |(bytes, _)| bytes.len());
    }
}

impl Inner {
    fn forget_gone(&mut self) {
        self.by_digest.retain(|_, one| one.strong_count() > 0);
        self.by_digest.shrink_to(2 * self.by_digest.len());
        self.swept = self.by_digest.len();
    }
}

impl Interner {
    /// Drops entries of subscriptions that no stream holds any more; to be called periodically.
    pub fn forget_gone(&self) {
        let mut inner = self.lock();
        inner.forget_gone();
        let Lists { newer, older, bytes } = &mut inner.lists;
        for lists in [&mut *newer, older] {
            lists.retain(|_, (_, subscription)| subscription.strong_count() > 0);
            lists.shrink_to(2 * lists.len());
        }
        *bytes = newer.values().map(|(bytes, _)| bytes.len()).sum();
    }

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
        let known = self.lock().lists.get(hash, bytes);
        if let Some(subscription) = known {
            return subscription;
        }
        let made = self.intern(false, names());
        let bytes: Arc<[u8]> = bytes.into();
        // A list in which there is more than these names (the wildcard, one of them twice) may mean
        // something else to another type.
        if made.len() == len {
            made.as_sent.get_or_init(|| bytes.clone());
        }
        self.lock().lists.insert(hash, bytes, Arc::downgrade(&made));
        made
    }

    /// The subscription after a change.
    pub fn change(&self, from: &Arc<Subscription>, change: Change) -> Arc<Subscription> {
        if let Some((last, to)) = &*lock(&from.last_change)
            && *last == change
            && let Some(to) = to.upgrade()
        {
            return to;
        }
        let mut draft = Draft { names: from.names.clone(), digest: from.digest, bytes: from.bytes };
        change.without.iter().for_each(|name| draft.remove(self, name));
        change.with.iter().for_each(|name| draft.insert(self, name.clone()));
        let to = self.intern_draft(change.wildcard, draft);
        if change.without.len() + change.with.len() <= MAX_CACHED_CHANGE {
            *lock(&from.last_change) = Some((change, Arc::downgrade(&to)));
        }
        to
    }

    /// The one subscription to these names.
    pub fn intern(&self, wildcard: bool, names: Vec<Arc<str>>) -> Arc<Subscription> {
        let mut draft = Draft::default();
        names.into_iter().for_each(|name| draft.insert(self, name));
        self.intern_draft(wildcard, draft)
    }

    fn intern_draft(&self, wildcard: bool, draft: Draft) -> Arc<Subscription> {
        let mut inner = self.lock();
        let key = (wildcard, draft.digest);
        if let Some(found) = inner.by_digest.get(&key).and_then(Weak::upgrade) {
            return found;
        }
        inner.next += 1;
        let made = Arc::new(Subscription {
            id: inner.next,
            wildcard,
            names: draft.names,
            digest: draft.digest,
            bytes: draft.bytes,
            as_sent: OnceLock::new(),
            last_change: Mutex::default(),
            last_added: Mutex::default(),
        });
        inner.by_digest.insert(key, Arc::downgrade(&made));
        if inner.by_digest.len() > 64 + 2 * inner.swept {
            inner.forget_gone();
        }
        made
    }

    fn hash(&self, name: &str) -> u128 {
        let [one, other] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(name)));
        one << 64 | other
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

/// A subscription that is not interned yet.
#[derive(Default)]
struct Draft {
    names: OrdSet<Arc<str>>,
    digest: u128,
    bytes: usize,
}

impl Draft {
    fn insert(&mut self, interner: &Interner, name: Arc<str>) {
        let (hash, bytes) = (interner.hash(&name), name.len() + NAME_OVERHEAD);
        if self.names.insert(name).is_none() {
            self.digest = self.digest.wrapping_add(hash);
            self.bytes += bytes;
        }
    }

    fn remove(&mut self, interner: &Interner, name: &str) {
        if self.names.remove(name).is_some() {
            self.digest = self.digest.wrapping_sub(interner.hash(name));
            self.bytes -= name.len() + NAME_OVERHEAD;
        }
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
        assert!(to.names().eq(&names("b,c")));
        assert!(Arc::ptr_eq(&to, &interner.change(&from, change("a", "c"))));
        assert_eq!(*to.added_since(&from), names("c"));
        assert_eq!(*to.added_since(&from), names("c"), "by heart");

        // Another change, and another past, are not taken for the last one.
        assert!(interner.change(&from, change("b", "c")).names().eq(&names("a,c")));
        let wild = interner.change(&from, Change { wildcard: true, ..change("a", "c") });
        assert!(wild.is_wildcard() && wild.names().eq(&names("b,c")));
        assert_eq!(*to.added_since(&interner.intern(false, names("a"))), names("b,c"));
        // What was taken out is put in again.
        assert!(interner.change(&from, change("a", "a")).names().eq(&names("a,b")));
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
        assert!(again.names().eq(&names("a,b")));
    }

    #[test]
    fn lists_are_kept_up_to_a_bound_and_those_that_are_used_stay() {
        let interner = Interner::default();
        let kept = interner.intern_as_sent(b"kept", 1, || names("kept"));
        let mut held = Vec::new();
        for number in 0..200_u32 {
            let list = format!("{number:03}").repeat(30_000);
            // Held, and in the order of a peer of its own: both are no reason to keep a list.
            held.push(interner.intern_as_sent(list.as_bytes(), 2, || names(&list[..3])));
            let again = interner.intern_as_sent(b"kept", 1, || panic!("read again"));
            assert!(Arc::ptr_eq(&kept, &again));
        }
        let inner = interner.lock();
        let lists = inner.lists.newer.values().chain(inner.lists.older.values());
        let bytes: usize = lists.map(|(list, _)| list.len()).sum();
        assert!(bytes <= 2 * LISTS_BYTES, "{bytes}");
        assert!(inner.lists.bytes <= LISTS_BYTES);
    }

    #[test]
    fn many_changes_of_one_name_among_many_end_where_they_began() {
        let interner = Interner::default();
        let many = (0..50_000).map(|number| Arc::from(format!("{number:06}"))).collect();
        let mut now = interner.intern(false, many);
        let (len, bytes) = (now.len(), now.bytes());
        for number in 0..2_000 {
            let name: Arc<str> = format!("x{number}").into();
            let with = Change { with: vec![name.clone()], ..Change::default() };
            let more = interner.change(&now, with);
            assert_eq!(more.len(), len + 1);
            now = interner.change(&more, Change { without: vec![name], ..Change::default() });
        }
        assert_eq!((now.len(), now.bytes()), (len, bytes));
        let same = (0..50_000).rev().map(|number| Arc::from(format!("{number:06}"))).collect();
        assert!(Arc::ptr_eq(&now, &interner.intern(false, same)), "however it came about");
    }

    #[test]
    fn the_memory_of_those_that_nobody_holds_is_given_back() {
        let interner = Interner::default();
        let mut now = interner.intern(false, Vec::new());
        for number in 0..10_000 {
            let with = vec![Arc::from(number.to_string())];
            now = interner.change(&now, Change { with, ..Change::default() });
        }
        assert!(interner.lock().by_digest.len() <= 64 + 2);
    }
}
