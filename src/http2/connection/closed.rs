//! How streams ended, as far back as it matters (RFC 9113, section 5.1 and 5.1.1).
//!
//! A frame for a stream that is not open may be a mistake, or have been on its way when we closed
//! the stream. Which it is follows from who closed it. A connection of one stream keeps nothing here.

use std::collections::VecDeque;

/// Streams that are remembered. A peer has [`super::MAX_STREAMS`] open at most, and what it sends on
/// one after that many others have ended was hardly on its way any more.
const REMEMBERED: usize = 256;

/// What is known of a stream that is not open, and not newer than the newest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The peer has ended its side, or the stream: whatever else it sends is a mistake.
    Finished,
    /// We ended it while the peer was still sending; its frames are to be discarded.
    CutOff,
    /// A higher one was opened before it: it never can be.
    NeverOpened,
    /// Too long ago.
    Forgotten,
}

#[derive(Debug, Default)]
pub(super) struct Closed {
    /// Streams in the order in which they ended, and whether the peer had finished.
    recent: VecDeque<(u32, bool)>,
    /// The highest stream that is not remembered any more.
    forgotten: u32,
}

impl Closed {
    pub(super) fn note(&mut self, id: u32, finished: bool) {
        if self.recent.len() == REMEMBERED
            && let Some((oldest, _)) = self.recent.pop_front()
        {
            self.forgotten = self.forgotten.max(oldest);
        }
        self.recent.push_back((id, finished));
    }

    /// The newest are looked at first: what was on its way when they ended comes soon after.
    pub(super) fn past(&self, id: u32) -> Past {
        match self.recent.iter().rev().find(|(closed, _)| *closed == id) {
            Some((_, true)) => Past::Finished,
            Some((_, false)) => Past::CutOff,
            None if id > self.forgotten => Past::NeverOpened,
            None => Past::Forgotten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_recent_streams_are_remembered_and_the_others_are_not_mistaken() {
        let mut closed = Closed::default();
        closed.note(1, true);
        closed.note(5, false);
        let pasts = [1, 3, 5].map(|id| closed.past(id));
        assert_eq!(pasts, [Past::Finished, Past::NeverOpened, Past::CutOff]);
        for id in (7..).step_by(2).take(REMEMBERED - 1) {
            closed.note(id, true);
        }
        let pasts = [1, 3, 5, 7].map(|id| closed.past(id));
        assert_eq!(pasts, [Past::Forgotten, Past::NeverOpened, Past::CutOff, Past::Finished]);
        closed.note(1001, true);
        assert_eq!(closed.past(3), Past::Forgotten, "nothing is said of what may have been");
        assert_eq!(closed.recent.len(), REMEMBERED);
    }
}
