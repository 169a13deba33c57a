//! Make before break, on the side that publishes.
//!
//! A cluster that has no service any more must not go in the snapshot that takes its routes away:
//! a proxy may take clusters before routes, and requests that were routed before would find no
//! cluster. So the routes go at once, with the snapshot of one generation; the cluster and its
//! endpoints stay in it, and go a delay (`--linger`) after that snapshot was published. A service
//! that returns meanwhile keeps them. That one proxy is sent the new clusters before the routes that
//! lead to them, and loses the old ones after, is the session's part.
//!
//! Pure: the time comes from the caller.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use tokio::time::Instant;

use super::clusters::ClusterChanges;

#[derive(Debug, Default)]
pub(super) struct PendingRemovals {
    /// Clusters that are being removed, with the generation of the first snapshot that has no
    /// routes to them.
    removing: BTreeMap<Arc<str>, u64>,
    /// When the clusters of which generation may go, in order.
    scheduled: VecDeque<(Instant, u64)>,
}

impl PendingRemovals {
    /// Takes in which clusters are made and which are orphaned in the snapshot of this generation. One that is
    /// both has changed hands, as those under the names of addresses do.
    pub(super) fn update(&mut self, changes: ClusterChanges, generation: u64) {
        self.removing.extend(changes.orphaned.into_iter().map(|name| (name, generation)));
        for name in &changes.made {
            self.removing.remove(name);
        }
    }

    /// Whether clusters lost their routes with the snapshot of this generation and still stay.
    pub(super) fn is_waiting(&self, generation: u64) -> bool {
        self.removing.values().any(|since| *since == generation)
    }

    /// The snapshot of this generation is published; the clusters that lost their routes with it may
    /// go at this time.
    pub(super) fn schedule(&mut self, generation: u64, at: Instant) {
        if self.is_waiting(generation) {
            self.scheduled.push_back((at, generation));
        }
    }

    /// When to ask for [`Self::take_expired`] next.
    pub(super) fn next(&self) -> Option<Instant> {
        self.scheduled.front().map(|(at, _)| *at)
    }

    /// The clusters whose time has come.
    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Arc<str>> {
        let mut newest = None;
        while let Some((_, generation)) = self.scheduled.pop_front_if(|(at, _)| *at <= now) {
            newest = Some(generation);
        }
        newest.map(|generation| self.take_until(generation)).unwrap_or_default()
    }

    /// The clusters that lost their routes with the snapshot of this generation or before.
    pub(super) fn take_until(&mut self, generation: u64) -> Vec<Arc<str>> {
        let due = self.removing.extract_if(.., |_, since| *since <= generation);
        due.map(|(name, _)| name).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    fn changes(made: &[&str], orphaned: &[&str]) -> ClusterChanges {
        let names = |names: &[&str]| names.iter().map(|name| Arc::from(*name)).collect();
        ClusterChanges { made: names(made), orphaned: names(orphaned) }
    }

    fn taken(removals: &mut PendingRemovals, now: Instant) -> Vec<String> {
        removals.take_expired(now).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_cluster_goes_a_delay_after_its_routes_were_published_to_be_gone() {
        let (mut removals, start) = (PendingRemovals::default(), Instant::now());
        removals.update(changes(&["a", "b"], &[]), 1);
        removals.schedule(1, start + DELAY);
        assert_eq!(removals.next(), None, "nothing lost its routes");
        removals.update(changes(&[], &["a"]), 2);
        assert_eq!(removals.next(), None, "not published yet");
        removals.schedule(2, start + DELAY);
        assert_eq!(removals.next(), Some(start + DELAY));
        assert!(taken(&mut removals, start + DELAY / 2).is_empty());
        assert_eq!(taken(&mut removals, start + DELAY), ["a"]);
        assert_eq!(removals.next(), None);
    }

    #[test]
    fn a_cluster_that_changes_hands_stays() {
        let (mut removals, start) = (PendingRemovals::default(), Instant::now());
        removals.update(changes(&["a"], &["a"]), 1);
        removals.schedule(1, start);
        assert!(taken(&mut removals, start).is_empty());
    }

    #[test]
    fn each_has_its_own_delay_and_what_has_expired_meanwhile_goes_together() {
        let (mut removals, start) = (PendingRemovals::default(), Instant::now());
        let at = |generation: u32| start + generation * DELAY;
        for (generation, name) in [(1, "a"), (2, "b"), (3, "c")] {
            removals.update(changes(&[], &[name]), generation.into());
            removals.schedule(generation.into(), at(generation));
        }
        assert_eq!(taken(&mut removals, at(2)), ["a", "b"]);
        assert!(!removals.is_waiting(2) && removals.is_waiting(3));
        assert_eq!(removals.next(), Some(at(3)));
        assert_eq!(taken(&mut removals, at(3)), ["c"]);
    }

    #[test]
    fn a_service_that_returns_keeps_its_cluster_and_one_that_goes_again_has_the_whole_delay() {
        let (mut removals, start) = (PendingRemovals::default(), Instant::now());
        removals.update(changes(&[], &["a"]), 1);
        removals.schedule(1, start + DELAY);
        removals.update(changes(&["a"], &[]), 2);
        removals.update(changes(&[], &["a"]), 3);
        removals.schedule(3, start + 2 * DELAY);
        assert!(taken(&mut removals, start + DELAY).is_empty());
        assert_eq!(taken(&mut removals, start + 2 * DELAY), ["a"]);
    }
}
