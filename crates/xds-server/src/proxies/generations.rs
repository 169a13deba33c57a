//! When a generation of the snapshot was acknowledged by the last of the streams that were there.
//!
//! Each stream has two numbers (`XdsStream::generations`), and whoever asks compares them with a generation;
//! who was the last one cannot be told from them afterwards. So a stream that gets over a generation writes
//! the time into its place here: one atomic maximum for each stream and generation, and no more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

/// Generations that are kept. A power of two.
const KEPT: u64 = 1024;
/// Bits of the milliseconds in a place: 34 years.
const TIME_BITS: u32 = 40;

/// The last `KEPT` generations.
#[derive(Debug)]
pub struct GenerationTimes {
    began: (Instant, SystemTime),
    /// A generation's place is its remainder by `KEPT`. In it: how often the places have been used up
    /// before, so that an older generation is less than a newer one, and milliseconds since the start, plus
    /// one. Zero for none.
    places: Box<[AtomicU64]>,
}

impl Default for GenerationTimes {
    fn default() -> Self {
        let places = (0..KEPT).map(|_| AtomicU64::new(0)).collect();
        Self { began: (Instant::now(), SystemTime::now()), places }
    }
}

impl GenerationTimes {
    /// A stream that had acknowledged `before` has acknowledged `now`.
    pub fn acknowledged(&self, before: u64, now: u64, at: Instant) {
        // Rounded up, so that nothing is acknowledged before it was published.
        let micros = at.saturating_duration_since(self.began.0).as_micros() as u64;
        let millis = micros.div_ceil(1000) + 1;
        let first = (before + 1).max(now.saturating_sub(KEPT - 1));
        for generation in first..=now {
            let value = (generation / KEPT) << TIME_BITS | millis;
            let place = self.place(generation);
            // Many streams get over a generation in the same millisecond.
            if place.load(Ordering::Relaxed) < value {
                place.fetch_max(value, Ordering::Relaxed);
            }
        }
    }

    /// When the last stream did; `None` if none did, or if that is too long ago.
    pub fn last_acknowledged(&self, generation: u64) -> Option<SystemTime> {
        let value = self.place(generation).load(Ordering::Relaxed);
        let millis = value & ((1 << TIME_BITS) - 1);
        let same = millis != 0 && value >> TIME_BITS == generation / KEPT;
        same.then(|| self.began.1 + Duration::from_millis(millis - 1))
    }

    fn place(&self, generation: u64) -> &AtomicU64 {
        &self.places[(generation % KEPT) as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_stream_counts_whatever_the_order() {
        let times = GenerationTimes::default();
        let (start, wall) = times.began;
        let at = |seconds| start + Duration::from_secs(seconds);
        let seen = |generation| {
            let last: Option<SystemTime> = times.last_acknowledged(generation);
            last.map(|last| last.duration_since(wall).unwrap().as_secs())
        };
        times.acknowledged(0, 2, at(1));
        times.acknowledged(1, 2, at(5));
        times.acknowledged(0, 1, at(3));
        assert_eq!((seen(1), seen(2), seen(3)), (Some(3), Some(5), None));
        times.acknowledged(1, 2, at(4));
        assert_eq!(seen(2), Some(5));
        times.acknowledged(2, 2, at(9));
        assert_eq!(seen(2), Some(5), "it had that one");
    }

    #[test]
    fn an_old_generation_does_not_stand_in_the_place_of_a_newer_one() {
        let times = GenerationTimes::default();
        let later = times.began.0 + Duration::from_secs(9);
        times.acknowledged(0, 3, times.began.0);
        times.acknowledged(KEPT + 2, KEPT + 3, times.began.0);
        assert_eq!(times.last_acknowledged(3), None, "too long ago");
        times.acknowledged(2, 3, later);
        assert_eq!(times.last_acknowledged(KEPT + 3), Some(times.began.1));
        assert_eq!(times.last_acknowledged(3), None);
        // One that comes from far behind writes each place once.
        times.acknowledged(0, 10 * KEPT, later);
        assert_eq!(times.last_acknowledged(9 * KEPT), None);
        assert!(times.last_acknowledged(9 * KEPT + 1).is_some());
        assert!(times.last_acknowledged(10 * KEPT).is_some());
    }
}
