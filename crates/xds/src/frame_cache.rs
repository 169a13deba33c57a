//! A cache of frames that several streams need, one for the whole process.
//!
//! Streams with equal subscriptions need the same frame within moments of each other, when a snapshot is
//! published or many of them connect. So a frame is cached for a moment, not for as long as its set
//! lives: it is evicted when no stream has used it in a while, or when its set or its subscription is
//! gone. However many views, subscriptions and changes there are, the cache stays below one bound. To
//! build a frame again costs a copy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use crate::TypeSet;
use crate::frame::Frame;
use crate::subscription::Subscription;

/// Bytes of all cached frames and their entries, what frames share counted once. Enough for every frame of a
/// mesh of 10,000 services in both variants.
const MAX_CACHED_BYTES: usize = 32 << 20;

/// Bytes of an entry beside its frame.
const ENTRY_BYTES: usize = 512;

/// A frame that no stream uses is evicted after once to twice this.
const GENERATION_TTL: Duration = Duration::from_secs(10);

/// Responses with equal keys are equal: the set, the variant, the subscription, and what of the set is
/// sent.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// [`TypeSet::id`] of the set that the response leads to.
    pub set: u64,
    pub delta: bool,
    /// [`Subscription::id`].
    pub subscription: u64,
    /// Everything that is subscribed is sent.
    pub all: bool,
    /// Pairs of set ids whose differences are sent.
    pub changes: Vec<(u64, u64)>,
    /// Names sent beside that, sorted.
    pub names: Vec<Arc<str>>,
}

/// All cached frames.
#[derive(Debug, Default)]
pub(crate) struct FrameCache {
    // A std mutex, locked for a look-up; frames are built outside, once, behind the OnceLock.
    generations: Mutex<Generations>,
}

/// Two generations: a frame that is used again moves to the young one, a frame that is not is evicted
/// with the old one.
#[derive(Debug, Default)]
struct Generations {
    young: HashMap<FrameKey, Entry>,
    old: HashMap<FrameKey, Entry>,
    /// Of the young generation.
    bytes: usize,
    /// When the young generation last became the old one.
    rotated: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    frame: Arc<OnceLock<Frame>>,
    set: Weak<TypeSet>,
    subscription: Weak<Subscription>,
}

impl FrameCache {
    /// The frame under `key`; the first caller builds it.
    pub(crate) fn frame(
        &self,
        key: FrameKey,
        set: &Arc<TypeSet>,
        subscription: &Arc<Subscription>,
        build: impl FnOnce() -> Frame,
    ) -> Frame {
        let cell = self.generations().cell(key, set, subscription);
        let mut built = 0;
        let frame = cell
            .get_or_init(|| {
                let frame = build();
                built = frame.built;
                frame
            })
            .clone();
        if built > 0 {
            self.generations().add_bytes(built);
        }
        frame
    }

    /// Evicts frames that no stream can need or has used in a while.
    pub(crate) fn sweep(&self, now: Instant) {
        self.generations().sweep(now);
    }

    /// Bytes of all cached frames.
    pub(crate) fn bytes(&self) -> usize {
        let generations = self.generations();
        generations.young.values().chain(generations.old.values()).map(Entry::len).sum()
    }

    fn generations(&self) -> MutexGuard<'_, Generations> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Generations {
    fn cell(
        &mut self,
        key: FrameKey,
        set: &Arc<TypeSet>,
        subscription: &Arc<Subscription>,
    ) -> Arc<OnceLock<Frame>> {
        if let Some(entry) = self.young.get(&key) {
            return entry.frame.clone();
        }
        let entry = self.old.remove(&key).unwrap_or_else(|| Entry {
            frame: Arc::default(),
            set: Arc::downgrade(set),
            subscription: Arc::downgrade(subscription),
        });
        let cell = entry.frame.clone();
        self.young.insert(key, entry);
        if let Some(frame) = cell.get() {
            self.add_bytes(frame.built);
        }
        cell
    }

    /// Counts a frame of this size that came to the young generation.
    fn add_bytes(&mut self, len: usize) {
        self.bytes += len + ENTRY_BYTES;
        // Two frames that exceed the bound by themselves have room as well.
        if self.bytes > (MAX_CACHED_BYTES / 2).max(2 * (len + ENTRY_BYTES)) {
            self.rotate(Instant::now());
        }
    }

    fn rotate(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.bytes = 0;
        self.rotated = Some(now);
    }

    fn sweep(&mut self, now: Instant) {
        let rotated = *self.rotated.get_or_insert(now);
        if now.saturating_duration_since(rotated) >= GENERATION_TTL {
            self.rotate(now);
        }
        for entries in [&mut self.young, &mut self.old] {
            entries.retain(|_, entry| entry.is_reachable());
            if entries.capacity() > 64 + 4 * entries.len() {
                entries.shrink_to_fit();
            }
        }
        let built = self.young.values().filter(|entry| entry.len() > 0);
        self.bytes = built.map(|entry| entry.len() + ENTRY_BYTES).sum();
    }
}

impl Entry {
    /// Whether a stream can still need the frame.
    fn is_reachable(&self) -> bool {
        self.set.strong_count() > 0 && self.subscription.strong_count() > 0
    }

    /// Zero while it is being built.
    fn len(&self) -> usize {
        self.frame.get().map_or(0, |frame| frame.built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Version;
    use crate::subscription::Interner;

    fn key(set: &TypeSet, subscription: &Subscription) -> FrameKey {
        let (set, subscription) = (set.id(), subscription.id());
        FrameKey { set, delta: false, subscription, all: true, changes: vec![], names: vec![] }
    }

    fn frame(len: usize) -> Frame {
        let head = vec![0; len].into();
        Frame { head, built: len, version: Version(0), resources: 0, removed: 0 }
    }

    fn subscription(interner: &Interner, number: usize) -> Arc<Subscription> {
        interner.intern(false, vec![number.to_string().into()])
    }

    #[test]
    fn a_storm_of_subscriptions_in_many_sets_stays_below_one_bound_and_spares_the_common_frame() {
        let (cache, interner) = (FrameCache::default(), Interner::default());
        let sets: Vec<Arc<TypeSet>> = (0..50).map(|_| Arc::default()).collect();
        let held: Vec<_> = (0..500).map(|number| subscription(&interner, number)).collect();
        let mut built = 0;
        for (number, one) in held.iter().enumerate() {
            cache.frame(key(&sets[0], &held[0]), &sets[0], &held[0], || {
                built += 1;
                frame(1 << 20)
            });
            let set = &sets[number % sets.len()];
            cache.frame(key(set, one), set, one, || frame(1 << 20));
        }
        assert_eq!(built, 1, "everybody's");
        let cached = cache.bytes();
        assert!(cached <= MAX_CACHED_BYTES + (2 << 20), "{cached} bytes are cached");
    }

    #[test]
    fn two_frames_that_are_larger_than_the_bound_are_still_built_once() {
        let (cache, interner, set) = (FrameCache::default(), Interner::default(), Arc::default());
        let held = [0, 1].map(|number| subscription(&interner, number));
        let mut built = 0;
        for round in 0..10 {
            let one = &held[round % 2];
            cache.frame(key(&set, one), &set, one, || {
                built += 1;
                frame(MAX_CACHED_BYTES)
            });
        }
        assert_eq!(built, 2);
    }

    #[test]
    fn a_frame_goes_with_its_subscription_and_with_its_set() {
        let (cache, interner) = (FrameCache::default(), Interner::default());
        let (cached, gone) = (Arc::<TypeSet>::default(), Arc::<TypeSet>::default());
        let (stays, leaves) = (subscription(&interner, 0), subscription(&interner, 1));
        for (set, one) in [(&cached, &stays), (&cached, &leaves), (&gone, &stays)] {
            cache.frame(key(set, one), set, one, || frame(1000));
        }
        let len = frame(1000).built;
        let now = Instant::now();
        cache.sweep(now);
        assert_eq!(cache.bytes(), 3 * len);
        drop(leaves);
        cache.sweep(now);
        assert_eq!(cache.bytes(), 2 * len);
        drop(gone);
        cache.sweep(now);
        assert_eq!(cache.bytes(), len);
        cache.frame(key(&cached, &stays), &cached, &stays, || panic!("it is kept"));
    }

    #[test]
    fn a_frame_that_nobody_asks_for_is_dropped_after_a_while() {
        let (cache, interner, set) = (FrameCache::default(), Interner::default(), Arc::default());
        let (asked, idle) = (subscription(&interner, 0), subscription(&interner, 1));
        let begun = Instant::now();
        cache.sweep(begun);
        for one in [&asked, &idle] {
            cache.frame(key(&set, one), &set, one, || frame(1000));
        }
        for round in 1..=2 {
            cache.sweep(begun + round * GENERATION_TTL);
            cache.frame(key(&set, &asked), &set, &asked, || panic!("it is kept"));
        }
        assert_eq!(cache.bytes(), frame(1000).built, "the one that is asked for");
        cache.sweep(begun + 3 * GENERATION_TTL);
        cache.sweep(begun + 4 * GENERATION_TTL);
        assert_eq!(cache.bytes(), 0);
    }
}
