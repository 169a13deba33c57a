//! Frames that several streams need, each built once: one account for the whole process.
//!
//! Streams with equal subscriptions need the same frame within moments of each other, when a
//! snapshot comes or many of them connect. So a frame is kept for a moment, not for as long as its
//! set lives: one that nobody has asked for in a while goes, one that nobody can ask for any more
//! (its set or its subscription is gone) goes with the next sweep, and however many views,
//! subscriptions and changes there are, all that is kept together stays below one bound. To build
//! one again is a copy.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::TypeSet;
use super::encode::Frame;
use crate::subscription::Subscription;

/// Bytes of all frames that are kept, with what keeping one costs. Enough for two generations of
/// everything that a mesh of 10,000 services has to say in both variants.
const KEPT_BYTES: usize = 64 << 20;

/// What an entry costs beside its frame.
const ENTRY_BYTES: usize = 512;

/// A frame that nobody asks for is dropped after once to twice this.
const AGE: Duration = Duration::from_secs(10);

/// What makes two responses equal: the set, the variant, who asks, and the way from one set to
/// another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    /// [`TypeSet::id`] of the set that it leads to.
    pub set: u64,
    pub delta: bool,
    /// [`Subscription::id`].
    pub subscription: u64,
    /// Everything subscribed is told.
    pub all: bool,
    /// Pairs of set ids whose differences are told.
    pub steps: Vec<(u64, u64)>,
    /// Names told beside that, sorted.
    pub names: Vec<Arc<str>>,
}

/// All frames that are kept.
#[derive(Debug, Default)]
pub(super) struct Frames {
    // A std mutex, held for a look-up; the building happens outside, once, behind the OnceLock.
    kept: Mutex<Kept>,
}

/// Two generations, so that what many streams need stays while what one stream needs passes by.
#[derive(Debug, Default)]
struct Kept {
    young: HashMap<FrameKey, Entry>,
    old: HashMap<FrameKey, Entry>,
    /// Of the young ones.
    bytes: usize,
    /// When the young ones last became the old ones.
    turned: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    frame: Arc<OnceLock<Frame>>,
    set: Weak<TypeSet>,
    subscription: Weak<Subscription>,
}

impl Frames {
    /// The frame under `key`, built by whoever asks first.
    pub(super) fn frame(
        &self,
        key: FrameKey,
        set: &Arc<TypeSet>,
        subscription: &Arc<Subscription>,
        build: impl FnOnce() -> Frame,
    ) -> Frame {
        let cell = self.kept().cell(key, set, subscription);
        let mut built = 0;
        let frame = cell
            .get_or_init(|| {
                let frame = build();
                built = frame.len();
                frame
            })
            .clone();
        if built > 0 {
            self.kept().grown(built);
        }
        frame
    }

    /// Drops what nobody can ask for any more, and what nobody has asked for in a while.
    pub(super) fn sweep(&self, now: Instant) {
        self.kept().sweep(now);
    }

    /// Of all frames that are kept.
    pub(super) fn bytes(&self) -> usize {
        let kept = self.kept();
        kept.young.values().chain(kept.old.values()).map(Entry::len).sum()
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
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
            self.grown(frame.len());
        }
        cell
    }

    /// A frame of this size came to the young ones.
    fn grown(&mut self, len: usize) {
        self.bytes += len + ENTRY_BYTES;
        // Two that are larger than all that is kept otherwise have room as well.
        if self.bytes > (KEPT_BYTES / 2).max(2 * (len + ENTRY_BYTES)) {
            self.turn(Instant::now());
        }
    }

    fn turn(&mut self, now: Instant) {
        self.old = std::mem::take(&mut self.young);
        self.bytes = 0;
        self.turned = Some(now);
    }

    fn sweep(&mut self, now: Instant) {
        let turned = *self.turned.get_or_insert(now);
        if now.saturating_duration_since(turned) >= AGE {
            self.turn(now);
        }
        for entries in [&mut self.young, &mut self.old] {
            entries.retain(|_, entry| entry.can_be_asked_for());
            if entries.capacity() > 64 + 4 * entries.len() {
                entries.shrink_to_fit();
            }
        }
        let built = self.young.values().filter(|entry| entry.len() > 0);
        self.bytes = built.map(|entry| entry.len() + ENTRY_BYTES).sum();
    }
}

impl Entry {
    fn can_be_asked_for(&self) -> bool {
        self.set.strong_count() > 0 && self.subscription.strong_count() > 0
    }

    /// Zero while it is being built.
    fn len(&self) -> usize {
        self.frame.get().map_or(0, Frame::len)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::snapshot::Version;
    use crate::subscription::Interner;

    fn key(set: &TypeSet, subscription: &Subscription) -> FrameKey {
        let (set, subscription) = (set.id(), subscription.id());
        FrameKey { set, delta: false, subscription, all: true, steps: vec![], names: vec![] }
    }

    fn frame(len: usize) -> Frame {
        let head = Bytes::from(vec![0; len]);
        Frame { head, version: Version(0), resources: 0, removed: 0 }
    }

    fn subscription(interner: &Interner, number: usize) -> Arc<Subscription> {
        interner.intern(false, vec![number.to_string().into()])
    }

    #[test]
    fn a_storm_of_subscriptions_in_many_sets_stays_below_one_bound_and_spares_the_common_frame() {
        let (frames, interner) = (Frames::default(), Interner::default());
        let sets: Vec<Arc<TypeSet>> = (0..50).map(|_| Arc::default()).collect();
        let held: Vec<_> = (0..500).map(|number| subscription(&interner, number)).collect();
        let mut built = 0;
        for (number, one) in held.iter().enumerate() {
            frames.frame(key(&sets[0], &held[0]), &sets[0], &held[0], || {
                built += 1;
                frame(1 << 20)
            });
            let set = &sets[number % sets.len()];
            frames.frame(key(set, one), set, one, || frame(1 << 20));
        }
        assert_eq!(built, 1, "everybody's");
        let kept = frames.bytes();
        assert!(kept <= KEPT_BYTES + (2 << 20), "{kept} bytes are kept");
    }

    #[test]
    fn two_frames_that_are_larger_than_the_bound_are_still_built_once() {
        let (frames, interner, set) = (Frames::default(), Interner::default(), Arc::default());
        let held = [0, 1].map(|number| subscription(&interner, number));
        let mut built = 0;
        for round in 0..10 {
            let one = &held[round % 2];
            frames.frame(key(&set, one), &set, one, || {
                built += 1;
                frame(KEPT_BYTES)
            });
        }
        assert_eq!(built, 2);
    }

    #[test]
    fn a_frame_goes_with_its_subscription_and_with_its_set() {
        let (frames, interner) = (Frames::default(), Interner::default());
        let (kept, gone) = (Arc::<TypeSet>::default(), Arc::<TypeSet>::default());
        let (stays, leaves) = (subscription(&interner, 0), subscription(&interner, 1));
        for (set, one) in [(&kept, &stays), (&kept, &leaves), (&gone, &stays)] {
            frames.frame(key(set, one), set, one, || frame(1000));
        }
        let len = frame(1000).len();
        let now = Instant::now();
        frames.sweep(now);
        assert_eq!(frames.bytes(), 3 * len);
        drop(leaves);
        frames.sweep(now);
        assert_eq!(frames.bytes(), 2 * len);
        drop(gone);
        frames.sweep(now);
        assert_eq!(frames.bytes(), len);
        frames.frame(key(&kept, &stays), &kept, &stays, || panic!("it is kept"));
    }

    #[test]
    fn a_frame_that_nobody_asks_for_is_dropped_after_a_while() {
        let (frames, interner, set) = (Frames::default(), Interner::default(), Arc::default());
        let (asked, idle) = (subscription(&interner, 0), subscription(&interner, 1));
        let begun = Instant::now();
        frames.sweep(begun);
        for one in [&asked, &idle] {
            frames.frame(key(&set, one), &set, one, || frame(1000));
        }
        for round in 1..=2 {
            frames.sweep(begun + round * AGE);
            frames.frame(key(&set, &asked), &set, &asked, || panic!("it is kept"));
        }
        assert_eq!(frames.bytes(), frame(1000).len(), "the one that is asked for");
        frames.sweep(begun + 3 * AGE);
        frames.sweep(begun + 4 * AGE);
        assert_eq!(frames.bytes(), 0);
    }
}
