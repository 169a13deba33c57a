//! What a stream was sent of a type, made of its set and its subscription when somebody asks; and for a proxy on
//! demand how many clusters it has named, of how many.

use std::collections::HashMap;
use std::sync::Arc;

use pilothouse_xds::{Resource, SessionLimits, Subscription, TypeSet};
use serde::Serialize;

use crate::names;
use crate::proxies::TypeStatus;

/// In the order of names. For names that the set does not have there is what stands in for them: a client may name
/// what it likes, and gets it for so many of them.
pub(super) fn sent(status: &TypeStatus) -> Vec<Arc<Resource>> {
    let (Some(set), Some(subscription)) = (&status.set, &status.subscription) else {
        return Vec::new();
    };
    let wanted = set.iter().filter(|one| subscription.wants_in(set, &one.name));
    let mut all: Vec<_> = wanted.cloned().collect();
    if set.is_on_demand() {
        let unknown = subscription.names().filter(|name| set.get(name).is_none());
        let fallbacks = unknown.filter_map(|name| set.fallback(name));
        all.extend(fallbacks.take(SessionLimits::default().fallbacks));
        all.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    }
    all
}

/// The clusters that a proxy on demand has named, and those that there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct NamedClusters {
    /// Names that it has subscribed to.
    pub(super) subscribed: usize,
    /// What it could name, each cluster once: one a port of a Service.
    pub(super) available: usize,
    /// Of what it has subscribed to, what there is not.
    pub(super) unknown: usize,
    /// Of those, addresses that are passed through.
    pub(super) passed_through: usize,
}

/// Counts for many streams: what is true of a set is found once.
#[derive(Debug, Default)]
pub(super) struct Counter {
    by_set: HashMap<u64, SetCounts>,
}

#[derive(Clone, Copy, Debug)]
struct SetCounts {
    /// What a wildcard covers.
    covered: usize,
    available: usize,
}

impl Counter {
    /// How many resources the stream was sent of the type. What stands in for unknown names does not count.
    pub(super) fn resources(&mut self, status: &TypeStatus) -> usize {
        let (Some(set), Some(subscription)) = (&status.set, &status.subscription) else { return 0 };
        let wildcard = subscription.is_wildcard();
        if wildcard && !set.is_on_demand() {
            return set.len();
        }
        let covered = if wildcard { self.of_set(set).covered } else { 0 };
        let named = subscription.names().filter(|name| set.get(name).is_some());
        covered + named.filter(|name| !wildcard || set.is_named_only(name)).count()
    }

    /// `None` if the stream has no clusters on demand.
    pub(super) fn named(&mut self, clusters: &TypeStatus) -> Option<NamedClusters> {
        let set = clusters.set.as_ref().filter(|set| set.is_on_demand())?;
        Some(self.named_in(set, clusters.subscription.as_ref()?, |_, _| {}))
    }

    /// The same, with each of the names and its cluster.
    pub(super) fn named_in(
        &mut self,
        set: &TypeSet,
        subscription: &Subscription,
        mut each: impl FnMut(&Arc<str>, Option<&Arc<Resource>>),
    ) -> NamedClusters {
        let available = self.of_set(set).available;
        let mut named = NamedClusters { available, ..Default::default() };
        for name in subscription.names() {
            let resource = set.get(name);
            // A wildcard brings it, or would.
            if resource.is_some() && !set.is_named_only(name) {
                continue;
            }
            named.subscribed += 1;
            if resource.is_none() {
                named.unknown += 1;
                named.passed_through += usize::from(names::is_of_address(name));
            }
            each(name, resource);
        }
        named.passed_through = named.passed_through.min(SessionLimits::default().fallbacks);
        named
    }

    fn of_set(&mut self, set: &TypeSet) -> SetCounts {
        *self.by_set.entry(set.id()).or_insert_with(|| {
            let mut counts = SetCounts { covered: 0, available: 0 };
            for one in set.iter() {
                match set.is_named_only(&one.name) {
                    false => counts.covered += 1,
                    true => counts.available += usize::from(!names::is_of_address(&one.name)),
                }
            }
            counts
        })
    }
}
