//! What changes between two views, and who wants something of it.
//!
//! Many streams go from one view to the next. What they have in common (the differences, whether a wildcard covers
//! something of them) is found once; a stream compares its names alone, and no more of them than it must. Where
//! thousands of streams are compared, even to look at their names is much: a [`NameFilter`] says of nearly all of
//! them that they want nothing.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use crate::{Diff, SharedDiff, Subscription, TypeIndex, View};

/// Of more names of one type a filter has nearly every bit.
const MAX_FILTERED: usize = 500;

/// The differences between two views, by type.
#[derive(Debug)]
pub struct ViewChange {
    types: Box<[TypeChange]>,
    filter: NameFilter,
}

/// A set of names, and of types of which a wildcard covers something, that may seem to have more than it has: one
/// bit of 256 for each. Some ten names, as a proxy on demand uses, leave nine of ten single names outside.
#[derive(Clone, Copy, Debug, Default)]
pub struct NameFilter([u64; 4]);

/// The difference of one type.
#[derive(Debug)]
struct TypeChange {
    index: TypeIndex,
    diff: SharedDiff,
    /// A wildcard covers something of it.
    is_covered: bool,
}

impl ViewChange {
    /// From one view to another with the same types.
    pub fn new(from: &View, to: &View) -> Self {
        let types = from.sets.iter().zip(&to.sets).enumerate();
        let types = types.filter(|(_, (from, to))| from.id() != to.id()).map(|(at, (from, to))| {
            let diff = to.diff_from(from);
            let mut names = diff.changed.iter().map(|one| &one.name).chain(&diff.removed);
            let is_covered = names.any(|name| !to.is_named_only(name));
            TypeChange { index: TypeIndex(at), diff, is_covered }
        });
        let types: Box<[TypeChange]> = types.collect();
        let mut filter = NameFilter::default();
        for change in &types {
            change.diff.changed.iter().for_each(|one| filter.insert(&one.name));
            change.diff.removed.iter().for_each(|name| filter.insert(name));
            if change.is_covered {
                filter.insert_wildcard(change.index);
            }
        }
        Self { types, filter }
    }

    /// Whether subscriptions with this filter may want something of it. Never false where [`Self::is_wanted`] is
    /// true.
    pub fn may_be_wanted(&self, subscriptions: &NameFilter) -> bool {
        self.filter.0.iter().zip(&subscriptions.0).any(|(one, other)| one & other != 0)
    }

    /// Whether one of the subscriptions selects something that differs. By type; `None` for those that are not
    /// open.
    pub fn is_wanted(&self, subscriptions: &[Option<Arc<Subscription>>]) -> bool {
        self.types.iter().any(|change| {
            let subscription = subscriptions.get(change.index.0).and_then(Option::as_ref);
            subscription.is_some_and(|subscription| change.is_wanted(subscription))
        })
    }
}

impl NameFilter {
    /// Of subscriptions by type; `None` for those that are not open.
    pub fn new(subscriptions: &[Option<Arc<Subscription>>]) -> Self {
        let mut filter = Self::default();
        for (at, subscription) in subscriptions.iter().enumerate() {
            let Some(subscription) = subscription else { continue };
            if subscription.len() > MAX_FILTERED {
                return Self([u64::MAX; 4]);
            }
            subscription.names().for_each(|name| filter.insert(name));
            if subscription.is_wildcard() {
                filter.insert_wildcard(TypeIndex(at));
            }
        }
        filter
    }

    fn insert(&mut self, name: &str) {
        self.insert_hash(xxh3_64(name.as_bytes()));
    }

    fn insert_wildcard(&mut self, of: TypeIndex) {
        self.insert_hash(xxh3_64(&of.0.to_le_bytes()));
    }

    fn insert_hash(&mut self, hash: u64) {
        self.0[(hash >> 6) as usize % 4] |= 1 << (hash % 64);
    }
}

impl TypeChange {
    fn is_wanted(&self, subscription: &Subscription) -> bool {
        let Diff { changed, removed } = &*self.diff;
        if self.is_covered && subscription.is_wildcard() {
            return true;
        }
        // The shorter of the two lists is walked: a relist changes thousands of names, a proxy uses a few.
        if changed.len() + removed.len() <= subscription.len() {
            let mut names = changed.iter().map(|one| &one.name).chain(removed);
            return names.any(|name| subscription.is_named(name));
        }
        subscription.names().any(|name| {
            changed.binary_search_by(|one| one.name.cmp(name)).is_ok()
                || removed.binary_search(name).is_ok()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Interner, OnDemandNames, Resource, ServedType, TypeSet};

    const ON_DEMAND: OnDemandNames =
        OnDemandNames { is_named_only: |name| name.starts_with('o'), fallback: |_| None };

    fn set(on_demand: bool, content: &[(&str, &str)]) -> Arc<TypeSet> {
        let empty = match on_demand {
            true => TypeSet::on_demand(ON_DEMAND),
            false => Arc::default(),
        };
        let of = ServedType::CLUSTER.type_url;
        empty.with(content.iter().map(|(name, content)| {
            let resource = Resource::from_encoded(of, (*name).into(), content.as_bytes());
            ((*name).into(), Some(resource))
        }))
    }

    fn subscription(wildcard: bool, names: &[&str]) -> Option<Arc<Subscription>> {
        let names = names.iter().map(|name| Arc::from(*name)).collect();
        Some(Interner::default().intern(wildcard, names))
    }

    #[test]
    fn a_change_is_wanted_by_whom_it_is_sent_to() {
        let old = View::new([
            set(true, &[("a", "1"), ("o1", "1"), ("o2", "1")]),
            set(false, &[("e", "1")]),
        ]);
        let new = View::new([
            set(true, &[("a", "1"), ("o1", "2"), ("o3", "1")]),
            old.set(TypeIndex(1)).clone(),
        ]);
        let change = ViewChange::new(&old, &new);
        let wants = |subscription: Option<Arc<Subscription>>| {
            let all = [subscription, self::subscription(true, &["e"])];
            let wanted = change.is_wanted(&all);
            assert!(!wanted || change.may_be_wanted(&NameFilter::new(&all)));
            wanted
        };
        assert!(!wants(None));
        assert!(!wants(subscription(true, &[])), "a wildcard does not cover it");
        for name in ["o1", "o2", "o3"] {
            assert!(wants(subscription(true, &[name])), "{name}");
            let many = ["a", "b", "c", "d", name];
            assert!(wants(subscription(false, &many)), "{name} among more than what changed");
        }
        assert!(!wants(subscription(true, &["a", "e", "o4"])));
        assert!(!wants(subscription(true, &["a", "b", "c", "d", "e", "o4"])));

        let covered = View::new([
            set(true, &[("a", "2"), ("o1", "2"), ("o3", "1")]),
            new.set(TypeIndex(1)).clone(),
        ]);
        let change = ViewChange::new(&new, &covered);
        assert!(change.is_wanted(&[subscription(true, &[])]));
        assert!(change.may_be_wanted(&NameFilter::new(&[subscription(true, &[])])));
        assert!(change.may_be_wanted(&NameFilter::new(&[subscription(false, &["a"])])));
        assert!(!change.is_wanted(&[subscription(false, &["o1"])]));
        // A type that is not on demand.
        let other = View::new([covered.set(TypeIndex(0)).clone(), set(false, &[("e", "2")])]);
        let change = ViewChange::new(&covered, &other);
        assert!(change.is_wanted(&[None, subscription(true, &[])]));
        assert!(!change.is_wanted(&[subscription(true, &[]), None]));
        assert!(!ViewChange::new(&other, &other).is_wanted(&[None, subscription(true, &["e"])]));
    }

    #[test]
    fn a_filter_leaves_most_names_outside() {
        let names = |of: std::ops::Range<u32>| {
            of.map(|at| format!("outbound|80||service-{at}")).collect::<Vec<_>>()
        };
        let own = names(0..10);
        let own: Vec<&str> = own.iter().map(|name| &**name).collect();
        let filter = NameFilter::new(&[subscription(true, &own)]);
        let may_want = |name: &String| {
            let [old, new] =
                ["1", "2"].map(|content| View::new([set(true, &[(&format!("o{name}"), content)])]));
            ViewChange::new(&old, &new).may_be_wanted(&filter)
        };
        assert!(names(1000..2000).iter().filter(|name| may_want(name)).count() < 100);

        let many = names(0..1000);
        let many: Vec<&str> = many.iter().map(|name| &**name).collect();
        let filter = NameFilter::new(&[subscription(false, &many)]);
        let [old, new] = ["1", "2"].map(|content| View::new([set(true, &[("o", content)])]));
        assert!(ViewChange::new(&old, &new).may_be_wanted(&filter), "of too many nothing is known");
    }
}
