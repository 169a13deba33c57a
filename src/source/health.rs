//! What each watch of the source is doing, for readiness, the debug pages and metrics.
//!
//! Written by the source alone. A std mutex, never held across an await: the list has a handful of
//! entries and every access is a few nanoseconds.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;

/// One watch (a kind, or a manifest path).
#[derive(Clone, Debug, Default)]
pub struct WatchHealth {
    /// It has listed completely at least once.
    pub synced: bool,
    /// How the last list was made, for people; `None` where there is no choice.
    pub listed: Option<&'static str>,
    /// When the source last heard from the other side at all, events or not.
    pub last_contact: Option<SystemTime>,
    /// The same by a clock that nobody sets.
    heard: Option<Instant>,
    /// How long one request of the watch lasts, where there is such a limit: it is heard of that
    /// often at least.
    pub lasts: Option<Duration>,
    /// The last failure, until the next success.
    pub last_error: Option<String>,
    /// Failures since start.
    pub errors: u64,
    /// Why there is nothing to watch, where that is no failure: a kind that the server does not have, or that
    /// nobody allowed us to read.
    pub absent: Option<String>,
    /// Nobody waits for its first list.
    not_awaited: bool,
}

impl WatchHealth {
    /// How long ago that was; what is served may be as old as this. `None` if never. A wall clock
    /// that is set (NTP, a suspended machine) makes no difference.
    pub fn age(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.elapsed())
    }
}

/// The health of a source's watches and the objects it had to leave out.
#[derive(Debug, Default)]
pub struct Health {
    inner: Mutex<Inner>,
    /// Told of each change of a watch.
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Inner {
    watches: BTreeMap<String, WatchHealth>,
    rejected: BTreeMap<String, String>,
    notes: BTreeMap<String, String>,
    skipped: BTreeMap<String, u64>,
}

impl Health {
    /// Announces a watch, so that "not synced yet" can be said of it by name.
    pub fn expect(&self, watch: &str) {
        self.with_watches(|watches| {
            watches.entry(watch.to_owned()).or_default();
        });
    }

    /// A step that is done for good (the search for an API server) is waited for no longer.
    pub fn forget(&self, watch: &str) {
        self.with_watches(|watches| watches.remove(watch));
    }

    /// The other side answered.
    pub fn contact(&self, watch: &str) {
        self.with_watches(|watches| {
            let entry = watches.entry(watch.to_owned()).or_default();
            entry.last_contact = Some(SystemTime::now());
            entry.heard = Some(Instant::now());
            entry.last_error = None;
        });
    }

    /// A complete list has arrived.
    pub fn synced(&self, watch: &str) {
        self.contact(watch);
        self.with_watches(|watches| {
            let entry = watches.entry(watch.to_owned()).or_default();
            (entry.synced, entry.absent) = (true, None);
        });
    }

    /// There is nothing to watch, for this reason, and nobody waits for it.
    pub fn absent(&self, watch: &str, why: impl ToString) {
        self.with_watches(|watches| {
            let entry = watches.entry(watch.to_owned()).or_default();
            (entry.absent, entry.not_awaited) = (Some(why.to_string()), true);
            (entry.synced, entry.last_error) = (false, None);
        });
    }

    /// Its first list is waited for no longer.
    pub fn not_awaited(&self, watch: &str) {
        self.with_watches(|watches| {
            watches.entry(watch.to_owned()).or_default().not_awaited = true;
        });
    }

    /// How long one request of the watch lasts.
    pub fn lasts(&self, watch: &str, lasts: Duration) {
        self.with(|inner| inner.watches.entry(watch.to_owned()).or_default().lasts = Some(lasts));
    }

    /// How a list was made that is complete now.
    pub fn listed(&self, watch: &str, how: &'static str) {
        self.with(|inner| inner.watches.entry(watch.to_owned()).or_default().listed = Some(how));
    }

    pub fn failed(&self, watch: &str, error: impl ToString) {
        self.with_watches(|watches| {
            let entry = watches.entry(watch.to_owned()).or_default();
            entry.errors += 1;
            entry.last_error = Some(error.to_string());
        });
    }

    /// An object (by the place a person would look for it) could not be used, or can be again
    /// (`None`).
    pub fn rejected(&self, object: &str, reason: Option<String>) {
        self.with(|inner| match reason {
            Some(reason) => inner.rejected.insert(object.to_owned(), reason),
            None => inner.rejected.remove(object),
        });
    }

    /// An object is used, but not all of it (or no longer, `None`).
    pub fn noted(&self, object: &str, note: Option<String>) {
        self.with(|inner| match note {
            Some(note) => inner.notes.insert(object.to_owned(), note),
            None => inner.notes.remove(object),
        });
    }

    /// Replaces everything said by [`Self::noted`], for a source that reads all at once.
    pub fn replace_notes(&self, all: impl IntoIterator<Item = (String, String)>) {
        self.with(|inner| inner.notes = all.into_iter().collect());
    }

    /// Replaces everything said by [`Self::rejected`], for a source that reads all at once.
    pub fn replace_rejected(&self, all: impl IntoIterator<Item = (String, String)>) {
        self.with(|inner| inner.rejected = all.into_iter().collect());
    }

    /// How many objects of each kind were passed over because nothing is done with that kind.
    pub fn replace_skipped(&self, by_kind: BTreeMap<String, u64>) {
        self.with(|inner| inner.skipped = by_kind);
    }

    pub fn watches(&self) -> BTreeMap<String, WatchHealth> {
        self.with(|inner| inner.watches.clone())
    }

    /// Objects left out, with the reason.
    pub fn rejections(&self) -> BTreeMap<String, String> {
        self.with(|inner| inner.rejected.clone())
    }

    /// Objects of which a part is left out, with the part and the reason.
    pub fn notes(&self) -> BTreeMap<String, String> {
        self.with(|inner| inner.notes.clone())
    }

    pub fn skipped(&self) -> BTreeMap<String, u64> {
        self.with(|inner| inner.skipped.clone())
    }

    /// Why nothing can be served yet, in one sentence; `None` once every watch has listed.
    pub fn waiting_for(&self) -> Option<String> {
        self.with(|inner| {
            let waiting: Vec<String> = inner
                .watches
                .iter()
                .filter(|(_, watch)| !watch.synced && !watch.not_awaited)
                .map(|(name, watch)| match &watch.last_error {
                    Some(error) => format!("{name} ({error})"),
                    None => name.clone(),
                })
                .collect();
            match (inner.watches.is_empty(), waiting.is_empty()) {
                (true, _) => Some("the source has not started".to_owned()),
                (false, true) => None,
                (false, false) => Some(format!("not listed yet: {}", waiting.join(", "))),
            }
        })
    }

    /// Is woken by each change that [`Self::waiting_for`] may tell of.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    fn with_watches<T>(&self, work: impl FnOnce(&mut BTreeMap<String, WatchHealth>) -> T) {
        self.with(|inner| work(&mut inner.watches));
        self.changes.send_replace(());
    }

    fn with<T>(&self, work: impl FnOnce(&mut Inner) -> T) -> T {
        // A poisoned lock would mean a panic between two field writes; the data is still a list of
        // words for people.
        work(&mut self.inner.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
