//! Which views are built, and how long one is kept that nobody has.
//!
//! A state machine without a clock: the time comes from the caller.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::view::ViewKey;

/// How long a view is kept that nobody has: longer than a proxy takes to come back after its
/// connection broke, or a pod to be replaced.
pub(super) const KEEP_UNUSED: Duration = Duration::from_secs(10);

/// Views are evicted at most this often, so that those of proxies which left one after the other go
/// together.
const EVICTION_INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct BuiltViews {
    built: BTreeSet<Arc<ViewKey>>,
    /// Those of them that nobody has, and since when.
    unused: BTreeMap<Arc<ViewKey>, Instant>,
    next_eviction: Option<Instant>,
}

impl BuiltViews {
    pub(super) fn contains(&self, view: &Arc<ViewKey>) -> bool {
        self.built.contains(view)
    }

    pub(super) fn len(&self) -> usize {
        self.built.len()
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &ViewKey> + Clone {
        self.built.iter().map(|view| &**view)
    }

    /// It is built, and somebody has it.
    pub(super) fn insert(&mut self, view: Arc<ViewKey>) {
        self.unused.remove(&view);
        self.built.insert(view);
    }

    /// Somebody has it.
    pub(super) fn mark_used(&mut self, view: &Arc<ViewKey>) {
        self.unused.remove(view);
    }

    /// Nobody has it any more.
    pub(super) fn mark_unused(&mut self, view: Arc<ViewKey>, now: Instant) {
        if self.built.contains(&view) {
            self.unused.insert(view, now);
            self.next_eviction.get_or_insert(now + KEEP_UNUSED);
        }
    }

    /// When to ask for [`Self::evict_expired`] next.
    pub(super) fn next_eviction(&self) -> Option<Instant> {
        self.next_eviction
    }

    /// Evicts the views that nobody has had in a while; gives them.
    pub(super) fn evict_expired(&mut self, now: Instant) -> BTreeSet<Arc<ViewKey>> {
        let is_expired = |since: &mut Instant| now >= *since + KEEP_UNUSED;
        let expired = self.unused.extract_if(.., |_, since| is_expired(since));
        let expired: BTreeSet<_> = expired.map(|(view, _)| view).collect();
        let next = self.unused.values().min().map(|since| *since + KEEP_UNUSED);
        self.next_eviction = next.map(|next| next.max(now + EVICTION_INTERVAL));
        self.built.retain(|view| !expired.contains(view));
        expired
    }

    /// Evicts all that nobody has; gives them.
    pub(super) fn evict_unused(&mut self) -> BTreeSet<Arc<ViewKey>> {
        let unused: BTreeSet<_> = std::mem::take(&mut self.unused).into_keys().collect();
        self.built.retain(|view| !unused.contains(view));
        unused
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::ProxyKind;

    fn view(namespace: &str) -> Arc<ViewKey> {
        Arc::new(ViewKey::new(ProxyKind::Sidecar, Some(namespace)))
    }

    #[test]
    fn a_view_that_nobody_has_is_evicted_after_a_while_unless_somebody_comes_back() {
        let (mut views, start) = (BuiltViews::default(), Instant::now());
        let (leaves, returns, never_built) = (view("leaves"), view("returns"), view("never"));
        views.insert(leaves.clone());
        views.insert(returns.clone());
        for one in [&leaves, &returns, &never_built] {
            views.mark_unused(one.clone(), start);
        }
        assert_eq!(views.next_eviction(), Some(start + KEEP_UNUSED));
        views.mark_used(&returns);
        assert!(views.evict_expired(start + KEEP_UNUSED / 2).is_empty());
        assert_eq!(views.evict_expired(start + KEEP_UNUSED), [leaves.clone()].into());
        assert!(!views.contains(&leaves) && views.contains(&returns));
        assert_eq!(views.next_eviction(), None);
    }

    #[test]
    fn views_that_are_left_one_after_the_other_are_evicted_together() {
        let (mut views, start) = (BuiltViews::default(), Instant::now());
        let all: Vec<_> = (0..20).map(|number| view(&format!("n{number}"))).collect();
        for (one, after) in all.iter().zip(0..) {
            views.insert(one.clone());
            views.mark_unused(one.clone(), start + after * Duration::from_millis(10));
        }
        let mut evictions = Vec::new();
        while let Some(at) = views.next_eviction() {
            evictions.push(views.evict_expired(at).len());
        }
        assert_eq!(evictions, [1, 19]);
        assert_eq!(views.len(), 0);
    }

    #[test]
    fn what_nobody_has_makes_room() {
        let (mut views, now) = (BuiltViews::default(), Instant::now());
        views.insert(view("used"));
        views.insert(view("unused"));
        views.mark_unused(view("unused"), now);
        assert_eq!(views.evict_unused(), [view("unused")].into());
        assert_eq!(views.keys().collect::<Vec<_>>(), [&*view("used")]);
        assert!(views.evict_expired(now + KEEP_UNUSED).is_empty());
    }
}
