//! The last responses and answers of a stream, with their times.
//!
//! 24 bytes an entry, in a buffer that grows to the limit: ten thousand streams that were sent little hold
//! little. The text of a NACK is not here: the stream's status has the last one of each type.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

use pilothouse_xds::TypeIndex;

/// Entries that are kept.
const MAX_ENTRIES: usize = 50;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happening {
    Response,
    Ack,
    Nack,
}

/// One response or answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryEntry {
    pub at: SystemTime,
    pub resource_type: TypeIndex,
    pub what: Happening,
    /// Of the response, also in its answer.
    pub nonce: u64,
    /// The stream's generation of the snapshot at that time.
    pub generation: u64,
    /// Of a response; zero in an answer.
    pub resources: u32,
    pub removed: u32,
    pub bytes: u32,
}

/// The last `MAX_ENTRIES`, and what their times and nonces are counted from.
#[derive(Debug)]
pub struct History {
    since: SystemTime,
    /// A stream's nonces follow each other from one that is anywhere.
    first_nonce: u64,
    entries: VecDeque<Packed>,
}

/// Counts that do not fit are shown as the largest that does.
#[derive(Clone, Copy, Debug)]
struct Packed {
    /// Milliseconds since the stream was opened (40 bits), what happened (2), the type (6), how many
    /// resources were removed (16).
    head: u64,
    nonce: u32,
    generation: u32,
    resources: u32,
    bytes: u32,
}

const REMOVED_BITS: u32 = 16;
const TYPE_BITS: u32 = 6;
const WHAT_BITS: u32 = 2;

impl History {
    /// Of a stream that was opened at `since`.
    pub fn new(since: SystemTime) -> Self {
        Self { since, first_nonce: 0, entries: VecDeque::new() }
    }

    pub fn push(&mut self, entry: HistoryEntry) {
        if self.entries.is_empty() {
            self.first_nonce = entry.nonce;
        }
        let millis = entry.at.duration_since(self.since).unwrap_or_default().as_millis() as u64;
        let removed = entry.removed.min((1 << REMOVED_BITS) - 1);
        let types = (1 << TYPE_BITS) - 1;
        let mut head = millis << WHAT_BITS | entry.what as u64;
        head = head << TYPE_BITS | entry.resource_type.0.min(types) as u64;
        head = head << REMOVED_BITS | u64::from(removed);
        if self.entries.len() == MAX_ENTRIES {
            self.entries.pop_front();
        }
        self.entries.push_back(Packed {
            head,
            nonce: entry.nonce.wrapping_sub(self.first_nonce) as u32,
            generation: u32::try_from(entry.generation).unwrap_or(u32::MAX),
            resources: entry.resources,
            bytes: entry.bytes,
        });
    }

    /// Newest first.
    pub fn entries(&self) -> Vec<HistoryEntry> {
        self.entries.iter().rev().map(|packed| self.unpack(packed)).collect()
    }

    fn unpack(&self, packed: &Packed) -> HistoryEntry {
        let last = |bits: u64, of: u32| (bits & ((1 << of) - 1)) as usize;
        let types = packed.head >> REMOVED_BITS;
        let what = types >> TYPE_BITS;
        HistoryEntry {
            at: self.since + Duration::from_millis(what >> WHAT_BITS),
            resource_type: TypeIndex(last(types, TYPE_BITS)),
            what: [Happening::Response, Happening::Ack, Happening::Nack]
                [last(what, WHAT_BITS).min(2)],
            nonce: self.first_nonce.wrapping_add(packed.nonce.into()),
            generation: packed.generation.into(),
            resources: packed.resources,
            removed: last(packed.head, REMOVED_BITS) as u32,
            bytes: packed.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(number: u64) -> HistoryEntry {
        HistoryEntry {
            at: SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_000 + number),
            resource_type: TypeIndex(number as usize % 40),
            what: [Happening::Response, Happening::Ack, Happening::Nack][number as usize % 3],
            nonce: (u64::MAX - 20).wrapping_add(number),
            generation: number * 1000,
            resources: number as u32,
            removed: number as u32 + 1,
            bytes: number as u32 + 2,
        }
    }

    #[test]
    fn the_last_fifty_come_back_as_they_were() {
        assert_eq!(size_of::<Packed>(), 24);
        let mut history = History::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000));
        assert_eq!(history.entries(), []);
        (0..30).for_each(|number| history.push(entry(number)));
        assert_eq!(history.entries(), (0..30).rev().map(entry).collect::<Vec<_>>());
        (30..170).for_each(|number| history.push(entry(number)));
        assert_eq!(history.entries(), (120..170).rev().map(entry).collect::<Vec<_>>());
    }

    #[test]
    fn what_does_not_fit_is_cut_to_what_does() {
        let mut history = History::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000));
        history.push(HistoryEntry { removed: 1 << 20, generation: 1 << 40, ..entry(5) });
        let [kept] = history.entries()[..] else { panic!("one entry") };
        assert_eq!((kept.removed, kept.generation), (0xffff, u64::from(u32::MAX)));
        assert_eq!(kept.at, history.since, "the clock was set back");
        assert_eq!((kept.what, kept.nonce), (entry(5).what, entry(5).nonce));
    }
}
