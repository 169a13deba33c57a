//! Which routes are to be looked at, and in which order. Pure, without a clock of its own.
//!
//! What changes by itself goes first. What changes with many others (the first list, a Service that many routes
//! name) goes after that, and what is looked at only since it has been a while goes last; those in an order that
//! differs from replica to replica, so that they do not all ask for the same route at once.

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use tokio::time::Instant;

use crate::model::route::{ParentTarget, RouteReport, RouteVerdict};
use crate::model::{RouteKey, RouteKind};

/// More changes than this at once are of a list.
const MANY: usize = 100;
/// Pauses of a route that others write to all the time: each is twice the one before.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const MAX_PAUSE: Duration = Duration::from_secs(300);

/// In the order in which they are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Changed,
    ManyChanged,
    Resync,
}

/// Where a route stands in a queue.
type Turn = (Class, u64);

/// Bounded by the number of routes: none stands twice in it.
#[derive(Debug, Default)]
pub(super) struct Pending {
    routes: OrdMap<RouteKey, Arc<RouteVerdict>>,
    kinds: BTreeMap<RouteKind, Queue>,
    /// Routes that are looked at, and whether they have changed meanwhile.
    begun: HashMap<RouteKey, Option<Class>>,
    /// How often in a row a route could not be written.
    failures: HashMap<RouteKey, u32>,
    last_turn: u64,
    order: RandomState,
}

#[derive(Debug, Default)]
struct Queue {
    turns: BTreeSet<(Turn, RouteKey)>,
    places: HashMap<RouteKey, Turn>,
    /// Routes that wait for a moment.
    later: BTreeSet<(Instant, RouteKey)>,
    /// There is no right to write to this kind.
    not_before: Option<Instant>,
}

impl Pending {
    /// Takes up what differs from the report that was seen before.
    pub(super) fn see(&mut self, report: &RouteReport) {
        let before = std::mem::replace(&mut self.routes, report.routes.clone());
        let (mut changed, mut gone) = (Vec::new(), Vec::new());
        for item in before.diff(&report.routes) {
            match item {
                // One without a Service may have had one while nobody was here.
                DiffItem::Add(key, _) => changed.push(key.clone()),
                DiffItem::Update { old: (_, old), new: (key, new) } => {
                    if is_ours(old) || is_ours(new) {
                        changed.push(key.clone());
                    }
                }
                DiffItem::Remove(key, _) => gone.push(key.clone()),
            }
        }
        for key in gone {
            self.forget(&key);
        }
        let class = if changed.len() > MANY { Class::ManyChanged } else { Class::Changed };
        for key in changed {
            self.failures.remove(&key);
            self.queue(key, class);
        }
    }

    /// Takes up everything that we have said something about.
    pub(super) fn resync(&mut self) {
        let ours: Vec<_> =
            self.routes.iter().filter(|(_, of)| is_ours(of)).map(|(key, _)| key.clone()).collect();
        for key in ours {
            self.queue(key, Class::Resync);
        }
    }

    /// The next one to look at; [`Self::settled`], [`Self::again`], [`Self::later`] or [`Self::without_right`]
    /// ends it.
    pub(super) fn begin(&mut self, now: Instant) -> Option<(RouteKey, Arc<RouteVerdict>)> {
        self.wake(now);
        let open = self.kinds.values_mut().filter(|queue| queue.is_open(now));
        let queue = open
            .filter(|queue| !queue.turns.is_empty())
            .min_by_key(|queue| queue.turns.first().map(|(turn, _)| *turn))?;
        let (_, key) = queue.turns.pop_first()?;
        queue.places.remove(&key);
        let verdict = self.routes.get(&key)?.clone();
        self.begun.insert(key.clone(), None);
        Some((key, verdict))
    }

    /// When there may be something to begin.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        let of = |queue: &Queue| {
            let waits = queue.later.first().map(|(then, _)| *then);
            let ready = (!queue.turns.is_empty()).then_some(now);
            let due = ready.into_iter().chain(waits).min()?;
            Some(queue.not_before.map_or(due, |then| then.max(due)))
        };
        self.kinds.values().filter_map(of).min()
    }

    /// Routes that are still to be looked at.
    pub(super) fn len(&self) -> usize {
        let waiting = self.kinds.values().map(|queue| queue.turns.len() + queue.later.len());
        waiting.sum::<usize>() + self.begun.len()
    }

    /// Nothing is left to do, unless it has changed meanwhile.
    pub(super) fn settled(&mut self, key: &RouteKey) {
        self.failures.remove(key);
        if let Some(Some(class)) = self.begun.remove(key) {
            self.queue(key.clone(), class);
        }
    }

    /// It is to be done again, as soon as anything is done.
    pub(super) fn again(&mut self, key: &RouteKey) {
        if self.begun.remove(key).is_some() {
            self.queue(key.clone(), Class::Changed);
        }
    }

    /// It is to be done again after a pause, which grows.
    pub(super) fn later(&mut self, key: &RouteKey, now: Instant) {
        let Some(news) = self.begun.remove(key) else { return };
        if let Some(class) = news {
            return self.queue(key.clone(), class);
        }
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = FIRST_PAUSE.saturating_mul(1 << (*failures).min(16)).min(MAX_PAUSE);
        *failures += 1;
        if self.routes.contains_key(key) {
            self.kinds.entry(key.kind).or_default().later.insert((now + pause, key.clone()));
        }
    }

    /// Nothing of its kind is done before `then`.
    pub(super) fn without_right(&mut self, key: &RouteKey, then: Instant) {
        self.again(key);
        self.kinds.entry(key.kind).or_default().not_before = Some(then);
    }

    fn queue(&mut self, key: RouteKey, class: Class) {
        if !self.routes.contains_key(&key) {
            return;
        }
        if let Some(news) = self.begun.get_mut(&key) {
            *news = Some(news.map_or(class, |before| before.min(class)));
            return;
        }
        self.last_turn += 1;
        let at = match class {
            Class::Changed => self.last_turn,
            Class::ManyChanged | Class::Resync => self.order.hash_one(&key),
        };
        let queue = self.kinds.entry(key.kind).or_default();
        queue.later.retain(|(_, waiting)| *waiting != key);
        let turn = (class, at);
        // What waits already keeps its place, unless this is a better one.
        if let Some(place) = queue.places.get(&key).copied() {
            if place <= turn {
                return;
            }
            queue.turns.remove(&(place, key.clone()));
        }
        queue.places.insert(key.clone(), turn);
        queue.turns.insert((turn, key));
    }

    fn wake(&mut self, now: Instant) {
        let mut woken = Vec::new();
        for queue in self.kinds.values_mut() {
            while queue.later.first().is_some_and(|(then, _)| *then <= now) {
                woken.extend(queue.later.pop_first().map(|(_, key)| key));
            }
        }
        for key in woken {
            self.queue(key, Class::ManyChanged);
        }
    }

    fn forget(&mut self, key: &RouteKey) {
        self.failures.remove(key);
        let Some(queue) = self.kinds.get_mut(&key.kind) else { return };
        queue.later.retain(|(_, waiting)| waiting != key);
        if let Some(place) = queue.places.remove(key) {
            queue.turns.remove(&(place, key.clone()));
        }
    }
}

impl Queue {
    fn is_open(&self, now: Instant) -> bool {
        self.not_before.is_none_or(|then| now >= then)
    }
}

/// Whether there is something to say about a route: a parent of it is a Service.
fn is_ours(verdict: &RouteVerdict) -> bool {
    verdict.parents.iter().any(|of| matches!(of.parent.target, ParentTarget::Service(_)))
}

#[cfg(test)]
mod tests;
