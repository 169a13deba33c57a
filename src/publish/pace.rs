//! When to publish: at once after a quiet time, else no sooner than the pace after the last snapshot.
//!
//! So a single change is as fast as it can be, and a storm costs no more than one snapshot a pace.
//! Nothing is published before every watch has listed once: a proxy would take what is missing for
//! deleted.
//!
//! A state machine without a clock: the time comes from the caller.

use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub(super) struct Pace {
    /// At least this long from the end of one publication to the next.
    interval: Duration,
    /// Whether every watch has listed once.
    listed: bool,
    /// Since when there is something to publish.
    requested: Option<Instant>,
    /// When the first change came that is not published yet.
    first_change: Option<Instant>,
    last_published: Option<Instant>,
}

impl Pace {
    pub(super) fn new(interval: Duration) -> Self {
        Self { interval, listed: false, requested: None, first_change: None, last_published: None }
    }

    /// Every watch has listed: what there is must be published, even if it is nothing. Gives whether
    /// that is new.
    pub(super) fn all_listed(&mut self, now: Instant) -> bool {
        let is_new = !self.listed;
        if is_new {
            self.listed = true;
            self.request(now);
        }
        is_new
    }

    /// Something has changed in the mesh.
    pub(super) fn change_arrived(&mut self, now: Instant) {
        self.first_change.get_or_insert(now);
        self.request(now);
    }

    /// There is something to publish that is no change of the mesh.
    pub(super) fn request(&mut self, now: Instant) {
        self.requested.get_or_insert(now);
    }

    /// When to publish next; in the past for at once, none while there is nothing to publish.
    pub(super) fn due(&self) -> Option<Instant> {
        let requested = self.requested.filter(|_| self.listed)?;
        let soonest = self.last_published.map(|last| last + self.interval);
        Some(soonest.map_or(requested, |soonest| soonest.max(requested)))
    }

    /// When the first change came that is not published yet.
    pub(super) fn first_change(&self) -> Option<Instant> {
        self.first_change
    }

    /// Everything that there was to publish is published now.
    pub(super) fn published(&mut self, now: Instant) {
        self.requested = None;
        self.first_change = None;
        self.last_published = Some(now);
    }

    /// Whether anything was ever published.
    pub(super) fn has_published(&self) -> bool {
        self.last_published.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    /// A pace that has published once, and then.
    fn published() -> (Pace, Instant) {
        let (mut pace, now) = (Pace::new(INTERVAL), Instant::now());
        pace.all_listed(now);
        pace.published(now);
        (pace, now)
    }

    #[test]
    fn nothing_is_published_before_every_watch_has_listed() {
        let (mut pace, now) = (Pace::new(INTERVAL), Instant::now());
        assert_eq!(pace.due(), None);
        pace.change_arrived(now);
        assert_eq!(pace.due(), None, "half a mesh is no mesh");
        let listed = now + Duration::from_secs(5);
        assert!(pace.all_listed(listed));
        assert_eq!(pace.due(), Some(now), "at once");
        assert_eq!(pace.first_change(), Some(now), "the change has waited since it came");
        assert!(!pace.has_published());
        pace.published(listed);
        assert!(pace.has_published());
        assert_eq!((pace.due(), pace.first_change()), (None, None));
    }

    #[test]
    fn an_empty_mesh_is_published_once_and_listing_again_is_no_news() {
        let (mut pace, now) = (Pace::new(INTERVAL), Instant::now());
        assert!(pace.all_listed(now));
        assert_eq!((pace.due(), pace.first_change()), (Some(now), None));
        pace.published(now);
        assert!(!pace.all_listed(now + INTERVAL));
        assert_eq!(pace.due(), None);
    }

    #[test]
    fn the_first_change_after_a_quiet_time_is_published_at_once() {
        let (mut pace, start) = published();
        let quiet = start + 3 * INTERVAL;
        pace.change_arrived(quiet);
        assert_eq!(pace.due(), Some(quiet));
    }

    #[test]
    fn changes_within_the_pace_wait_for_its_end_together() {
        let (mut pace, start) = published();
        let first = start + INTERVAL / 4;
        pace.change_arrived(first);
        assert_eq!(pace.due(), Some(start + INTERVAL));
        pace.change_arrived(start + INTERVAL / 2);
        assert_eq!(pace.due(), Some(start + INTERVAL), "later ones do not put it off");
        assert_eq!(pace.first_change(), Some(first));
        // Building the snapshot takes time, too, which proxies need to take it in.
        let end = start + INTERVAL + INTERVAL / 2;
        pace.published(end);
        pace.change_arrived(end);
        assert_eq!(pace.due(), Some(end + INTERVAL));
    }

    #[test]
    fn a_storm_makes_one_snapshot_a_pace() {
        let (mut pace, start) = published();
        let mut snapshots = 0;
        for millisecond in 1..=1000 {
            let now = start + Duration::from_millis(millisecond);
            pace.change_arrived(now);
            if pace.due().is_some_and(|due| due <= now) {
                snapshots += 1;
                pace.published(now);
            }
        }
        assert_eq!(snapshots, 10);
    }

    #[test]
    fn what_is_no_change_is_published_at_the_same_pace_and_nothing_has_waited_for_it() {
        let (mut pace, start) = published();
        pace.request(start + INTERVAL / 2);
        assert_eq!((pace.due(), pace.first_change()), (Some(start + INTERVAL), None));
        pace.change_arrived(start + INTERVAL / 2);
        assert_eq!(pace.due(), Some(start + INTERVAL), "one snapshot for both");
    }

    #[test]
    fn a_pace_of_nothing_publishes_everything_at_once() {
        let (mut pace, now) = (Pace::new(Duration::ZERO), Instant::now());
        pace.all_listed(now);
        for _ in 0..3 {
            pace.published(now);
            pace.change_arrived(now);
            assert_eq!(pace.due(), Some(now));
        }
    }
}
