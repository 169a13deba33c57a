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

use crate::TypeSet;

/// What a name costs beside its bytes, about: counters, its slots in the set and in `last_added`,
/// and what the allocator adds.
const NAME_OVERHEAD: usize = 72;

/// What a changed name costs a long list that shares the others with the list that it was made of: the
/// parts of the persistent set that lead to it.
const CHANGE_BYTES: usize = 1 << 10;

/// A long list whose own bytes are more than this part of what it shares has drifted away from its base. Then all
/// its names are looked at, which so costs some hundred names for each that was changed, however long it is.
const MAX_OWN_PART: usize = 16;

/// A stream holds its subscription in its session and in its status.
const HOLDS_OF_A_STREAM: usize = 2;

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
    /// Of these bytes, and of those that sharing costs, what it does not share with similar ones.
    own_bytes: usize,
    /// `None` for a short list.
    base: Option<Arc<Base>>,
    /// A list that means exactly these names.
    as_sent: OnceLock<ListId>,
    /// The last change and its result: thousands of proxies with equal subscriptions change them alike.
    /// Std mutexes, never held across an await.
    last_change: Mutex<Option<(Change, Weak<Self>)>>,
    last_added: Mutex<Option<Added>>,
}

/// A long list that similar ones are made of, by changing a few names. They share the rest, and it is there as
/// long as one of them is; so they pay for it together.
#[derive(Debug)]
struct Base {
    names: OrdSet<Arc<str>>,
    digest: u128,
    bytes: usize,
}

/// A list of names as a client sent it, by its length and a hash of its bytes that peers cannot foresee:
/// the list itself has a hundred bytes a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListId {
    bytes: usize,
    hash: u128,
}

impl ListId {
    fn of(bytes: &[u8]) -> Self {
        static SEED: OnceLock<u64> = OnceLock::new();
        let seed = *SEED.get_or_init(|| RandomState::new().hash_one(0));
        Self { bytes: bytes.len(), hash: xxhash_rust::xxh3::xxh3_128_with_seed(bytes, seed) }
    }

    /// What follows the list, if `bytes` begin with it.
    pub(crate) fn strip_from<'a>(&self, bytes: &'a [u8]) -> Option<&'a [u8]> {
        let (list, after) = bytes.split_at_checked(self.bytes)?;
        (Self::of(list) == *self).then_some(after)
    }
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
        self.bytes
    }

    /// The part of what it holds that one of its streams is to be charged for: similar subscriptions share most
    /// of their names, and equal ones are one.
    pub fn bytes_of_a_stream(self: &Arc<Self>) -> usize {
        let of_base = self.base.as_ref().map_or(0, |base| base.bytes / Arc::strong_count(base));
        (self.own_bytes + of_base) / self.streams().max(1)
    }

    /// A list of these names and nothing else, as one client sent it: most send the same again.
    pub(crate) fn as_sent(&self) -> Option<ListId> {
        self.as_sent.get().filter(|list| list.bytes > 0).copied()
    }

    pub fn is_named(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Whether it is to this name, or to everything.
    pub fn wants(&self, name: &str) -> bool {
        self.wildcard || self.is_named(name)
    }

    /// How many streams have it; rounded down, for a moment one may hold it more or less often.
    pub fn streams(self: &Arc<Self>) -> usize {
        Arc::strong_count(self) / HOLDS_OF_A_STREAM
    }

    /// Whether it selects this name of a set, of which a wildcard may cover a part only.
    pub fn wants_in(&self, set: &TypeSet, name: &str) -> bool {
        self.wildcard && !set.is_named_only(name) || self.is_named(name)
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

/// Names from which on a subscription shares those that a similar one has: sidecars of different namespaces
/// name the same thousands of clusters and few of their own.
const LONG: usize = 128;

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
    /// The last one that was made.
    last_base: Weak<Base>,
    /// Entries after the last sweep; the next one is due at twice as many.
    swept: usize,
    lists: Lists,
}

/// Lists of names as proxies sent them: the newer ones and the older ones. One that is asked for again is a
/// newer one again. Bounded, because each order of the same names is a list of its own, and a subscription
/// lives as long as anybody holds it.
#[derive(Debug, Default)]
struct Lists {
    newer: HashMap<ListId, Weak<Subscription>>,
    older: HashMap<ListId, Weak<Subscription>>,
}

/// Lists that are newer.
const MAX_LISTS: usize = 8192;

impl Lists {
    fn get(&mut self, list: ListId) -> Option<Arc<Subscription>> {
        if let Some(subscription) = self.newer.get(&list).and_then(Weak::upgrade) {
            return Some(subscription);
        }
        let subscription = self.older.remove(&list)?;
        self.insert(list, subscription.clone());
        subscription.upgrade()
    }

    fn insert(&mut self, list: ListId, subscription: Weak<Subscription>) {
        if self.newer.len() >= MAX_LISTS {
            self.older = std::mem::take(&mut self.newer);
        }
        self.newer.insert(list, subscription);
    }
}

impl Inner {
    /// A base that may have most of so many names.
    fn similar_to(&self, len: usize) -> Option<Arc<Base>> {
        let last = self.last_base.upgrade()?;
        (len >= LONG && last.names.len().abs_diff(len) <= len / 16).then_some(last)
    }

    fn find(&self, wildcard: bool, digest: u128) -> Option<Arc<Subscription>> {
        self.by_digest.get(&(wildcard, digest)).and_then(Weak::upgrade)
    }

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
        let Lists { newer, older } = &mut inner.lists;
        for lists in [newer, older] {
            lists.retain(|_, subscription| subscription.strong_count() > 0);
            lists.shrink_to(2 * lists.len());
        }
    }

    /// The one subscription to so many names that came as these bytes, and that `names` reads from
    /// them.
    /// Thousands of sidecars send the same thousand names: to hash the bytes costs a fraction of reading,
    /// sorting and looking up each of them.
    pub fn intern_as_sent(
        &self,
        bytes: &[u8],
        len: usize,
        names: impl FnOnce() -> Vec<Arc<str>>,
    ) -> Arc<Subscription> {
        let list = ListId::of(bytes);
        let known = self.lock().lists.get(list);
        if let Some(subscription) = known {
            return subscription;
        }
        let made = self.intern(false, names());
        // A list in which there is more than these names (the wildcard, one of them twice) may mean
        // something else to another type.
        if made.len() == len {
            made.as_sent.get_or_init(|| list);
        }
        self.lock().lists.insert(list, Arc::downgrade(&made));
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
        let mut draft = Draft::of(from);
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
        let similar = self.lock().similar_to(names.len());
        let draft = similar.and_then(|base| Draft::changed_from(self, &base, &names));
        let draft = draft.filter(|draft| !draft.has_drifted()).unwrap_or_else(|| {
            let mut draft = Draft::default();
            names.into_iter().for_each(|name| draft.insert(self, name));
            draft
        });
        self.intern_draft(wildcard, draft)
    }

    fn intern_draft(&self, wildcard: bool, mut draft: Draft) -> Arc<Subscription> {
        if let Some(found) = self.lock().find(wildcard, draft.digest) {
            return found;
        }
        if draft.has_drifted() {
            draft = self.shared_again(draft);
        }
        let (base, own_bytes) = draft.shares();
        let mut inner = self.lock();
        // Another thread may have made it meanwhile.
        if let Some(found) = inner.find(wildcard, draft.digest) {
            return found;
        }
        let key = (wildcard, draft.digest);
        inner.next += 1;
        let made = Arc::new(Subscription {
            id: inner.next,
            wildcard,
            names: draft.names,
            digest: draft.digest,
            bytes: draft.bytes,
            own_bytes,
            base,
            as_sent: OnceLock::new(),
            last_change: Mutex::default(),
            last_added: Mutex::default(),
        });
        inner.by_digest.insert(key, Arc::downgrade(&made));
        if let Some(base) = made.base.as_ref().filter(|base| base.digest == made.digest) {
            inner.last_base = Arc::downgrade(base);
        }
        if inner.by_digest.len() > 64 + 2 * inner.swept {
            inner.forget_gone();
        }
        made
    }

    /// The same names as a change of its own base or of the last one, if that makes it less of its own. Thousands of
    /// lists to which the same names are added one by one, to each by itself, would share nothing in the end.
    fn shared_again(&self, draft: Draft) -> Draft {
        let names: Vec<_> = draft.names.iter().cloned().collect();
        let last = self.lock().similar_to(names.len());
        let bases = draft.base.iter().chain(&last);
        let mut again = bases.filter_map(|base| Draft::changed_from(self, base, &names));
        again.find(|again| !again.has_drifted()).unwrap_or(draft)
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
    /// Counted where there is a base.
    own_bytes: usize,
    base: Option<Arc<Base>>,
}

impl Draft {
    /// To be changed.
    fn of(one: &Subscription) -> Self {
        Self {
            names: one.names.clone(),
            digest: one.digest,
            bytes: one.bytes,
            own_bytes: one.own_bytes,
            base: one.base.clone(),
        }
    }

    /// Whether it has become so different from its base that it is no longer one of those.
    fn has_drifted(&self) -> bool {
        self.base.as_ref().is_some_and(|base| self.own_bytes > base.bytes / MAX_OWN_PART)
    }

    /// What it is to share with others, and the bytes that are its own.
    fn shares(&self) -> (Option<Arc<Base>>, usize) {
        if self.names.len() < LONG {
            return (None, self.bytes);
        }
        match &self.base {
            Some(base) if !self.has_drifted() => (Some(base.clone()), self.own_bytes),
            _ => {
                let Self { names, digest, bytes, .. } = self;
                let base = Base { names: names.clone(), digest: *digest, bytes: *bytes };
                (Some(Arc::new(base)), 0)
            }
        }
    }

    /// The names as a change of a base that has most of them; `None` if it has not.
    fn changed_from(interner: &Interner, base: &Arc<Base>, names: &[Arc<str>]) -> Option<Self> {
        let mut sorted: Vec<&Arc<str>> = names.iter().collect();
        // Clients send them sorted, or nearly so.
        sorted.sort();
        sorted.dedup();
        let most = sorted.len() / 16;
        let (mut added, mut removed) = (Vec::new(), Vec::new());
        let mut had = base.names.iter().peekable();
        for name in sorted {
            let is_before = |one: &&Arc<str>| !Arc::ptr_eq(one, name) && **one < *name;
            while let Some(gone) = had.next_if(is_before) {
                removed.push(gone.clone());
            }
            if had.next_if(|one| *one == name).is_none() {
                added.push(name.clone());
            }
            if added.len() + removed.len() > most {
                return None;
            }
        }
        removed.extend(had.cloned());
        if added.len() + removed.len() > most {
            return None;
        }
        let mut draft = Self {
            names: base.names.clone(),
            digest: base.digest,
            bytes: base.bytes,
            own_bytes: 0,
            base: Some(base.clone()),
        };
        removed.iter().for_each(|name| draft.remove(interner, name));
        added.into_iter().for_each(|name| draft.insert(interner, name));
        Some(draft)
    }

    fn insert(&mut self, interner: &Interner, name: Arc<str>) {
        let (hash, bytes) = (interner.hash(&name), name.len() + NAME_OVERHEAD);
        if self.names.insert(name).is_none() {
            self.digest = self.digest.wrapping_add(hash);
            self.bytes += bytes;
            self.own_bytes += bytes + CHANGE_BYTES;
        }
    }

    fn remove(&mut self, interner: &Interner, name: &str) {
        if self.names.remove(name).is_some() {
            self.digest = self.digest.wrapping_sub(interner.hash(name));
            self.bytes -= name.len() + NAME_OVERHEAD;
            self.own_bytes += CHANGE_BYTES;
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
            interner.intern_as_sent(bytes, len, || list).as_sent()
        };
        assert_eq!(kept(b"*", 1, Vec::new()), None, "the wildcard of a type that has none");
        assert_eq!(kept(b"a,a", 2, names("a,a")), None);
        assert_eq!(kept(b"a,*", 2, names("a")), None);
        assert_eq!(kept(b"a", 1, names("a")), Some(ListId::of(b"a")));
        let _held = interner.intern_as_sent(b"b,a", 2, || names("b,a"));
        assert_eq!(kept(b"a,b", 2, names("a,b")), Some(ListId::of(b"b,a")), "the first of them");
    }

    fn long(len: usize) -> Vec<Arc<str>> {
        (0..len)
            .map(|at| format!("outbound|80||service-{at:05}.shop.svc.cluster.local").into())
            .collect()
    }

    /// Lists that have most names of a first one and one of their own, each held by one stream.
    fn similar(interner: &Interner, first: &[Arc<str>], count: usize) -> Vec<Arc<Subscription>> {
        let one = |at: usize| {
            let own: Arc<str> = format!("outbound|80||own.namespace-{at}.svc.cluster.local").into();
            interner.intern(false, first.iter().cloned().chain([own]).collect())
        };
        (0..count).map(one).collect()
    }

    fn charged(all: &[Arc<Subscription>]) -> usize {
        all.iter().map(Subscription::bytes_of_a_stream).sum()
    }

    /// A mesh of 5,000 services with a sidecar in each of 1,000 namespaces was charged 600 MB for them.
    #[test]
    fn similar_lists_pay_together_for_what_they_share() {
        let interner = Interner::default();
        let names = long(1000);
        let first = interner.intern(false, names.clone());
        let alone = first.bytes_of_a_stream();
        assert_eq!(alone, first.bytes());
        let mut all = similar(&interner, &names, 500);
        all.push(first);
        let all_bytes = charged(&all);
        assert!(all_bytes >= alone, "{all_bytes} of {alone}");
        assert!(all_bytes <= 2 * alone + all.len() * 2 * CHANGE_BYTES, "{all_bytes} of {alone}");
        // Who is left holds it all, though it came late.
        all.drain(1..);
        assert!(charged(&all) >= alone, "{} of {alone}", charged(&all));
    }

    /// Each time a service is added, every sidecar adds its name to a list of its own.
    #[test]
    fn lists_that_change_alike_go_on_sharing() {
        let interner = Interner::default();
        let names = long(1000);
        let mut all = similar(&interner, &names, 100);
        for at in 0..300 {
            let with =
                vec![Arc::from(format!("outbound|80||service-{at:05}-new.shop.svc.cluster.local"))];
            let change = Change { with, ..Change::default() };
            all = all.iter().map(|one| interner.change(one, change.clone())).collect();
        }
        let bases: std::collections::HashSet<_> =
            all.iter().map(|one| Arc::as_ptr(one.base.as_ref().unwrap())).collect();
        assert!(bases.len() <= 2, "{} bases", bases.len());
        assert!(all.iter().all(|one| one.len() == 1301));
        assert!(charged(&all) <= all[0].bytes() * (2 + 100 / MAX_OWN_PART), "{}", charged(&all));
    }

    /// What a peer makes and lets go, to keep a part of it, is charged to what it keeps.
    #[test]
    fn a_list_that_drifts_away_is_its_own() {
        let interner = Interner::default();
        let first = interner.intern(false, long(1000));
        let mut now = first.clone();
        for at in 0..2000 {
            let change = Change {
                without: now.names().next().cloned().into_iter().collect(),
                with: vec![format!("x-{at}").into()],
                ..Change::default()
            };
            now = interner.change(&now, change);
            let total = now.bytes_of_a_stream() + first.bytes_of_a_stream();
            let held = now.bytes().max(first.bytes());
            assert!(total >= held, "{at}: charged {total} of {held}");
        }
        assert!(!Arc::ptr_eq(now.base.as_ref().unwrap(), first.base.as_ref().unwrap()));
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
        for number in 0..3 * MAX_LISTS {
            let list = format!("{number:06}");
            // Held, and in the order of a peer of its own: both are no reason to keep a list.
            held.push(interner.intern_as_sent(list.as_bytes(), 2, || names(&list[4..])));
            let again = interner.intern_as_sent(b"kept", 1, || panic!("read again"));
            assert!(Arc::ptr_eq(&kept, &again));
        }
        let inner = interner.lock();
        let kept = [inner.lists.newer.len(), inner.lists.older.len()];
        assert!(kept.iter().all(|kept| *kept <= MAX_LISTS), "{kept:?}");
    }

    #[test]
    fn a_long_list_that_differs_little_from_another_shares_its_names() {
        let interner = Interner::default();
        let all: Vec<Arc<str>> = (0..1000).map(|at| format!("name-{at:04}").into()).collect();
        let first = interner.intern(false, all.clone());
        let mut similar = all.clone();
        similar.remove(500);
        similar.push("another".into());
        similar.reverse();
        let second = interner.intern(false, similar.clone());
        let fresh = Interner::default();
        let alone = fresh.intern(false, similar);
        assert!(second.names().eq(alone.names()));
        assert_eq!(second.bytes(), alone.bytes());
        let key = |one: &Subscription| (one.len(), one.digest);
        let by_change = interner.change(
            &first,
            Change {
                with: vec!["another".into()],
                without: vec![all[500].clone()],
                ..Change::default()
            },
        );
        assert_eq!(key(&by_change), key(&second));
        assert!(Arc::ptr_eq(&by_change, &second), "one allocation");
        // Equal names are few of each other's strings, where those were not shared.
        let same: Vec<Arc<str>> = all.iter().map(|name| Arc::from(&**name)).collect();
        assert!(Arc::ptr_eq(&interner.intern(false, same), &first));
        let other = (0..1000).map(|at| format!("other-{at:04}").into()).collect();
        assert!(interner.intern(false, other).names().all(|name| name.starts_with("other")));
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
