//! Remembers how streams ended (RFC 9113, sections 5.1 and 5.1.1).
//!
//! A frame for a stream that is not open may be the peer's mistake, or may have been in flight when
//! we closed the stream. Which of the two follows from who closed it. A connection that has closed no
//! stream holds no memory here.

use std::collections::VecDeque;

/// Streams that are remembered. A peer has [`super::MAX_STREAMS`] open at most; a frame that arrives
/// after that many others have ended was hardly in flight when its own stream ended.
const MAX_REMEMBERED: usize = 256;

/// What is known of a stream that is not open and whose id is not above the highest one seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ClosedState {
    /// The peer has ended its side or the stream, so any further frame is a mistake.
    ByPeer,
    /// We ended the stream while the peer was still sending; its frames are to be discarded.
    ByServer,
    /// A higher id was used before this one, so the stream can never be opened (section 5.1.1).
    NeverOpened,
    /// It ended too long ago to tell.
    Forgotten,
}

#[derive(Debug, Default)]
pub(super) struct ClosedStreams {
    /// Stream ids in the order in which the streams ended, and whether the peer had ended its side.
    recent: VecDeque<(u32, bool)>,
    /// The highest stream id that has been dropped from `recent`.
    highest_forgotten: u32,
}

impl ClosedStreams {
    pub(super) fn record(&mut self, stream_id: u32, ended_by_peer: bool) {
        if self.recent.len() == MAX_REMEMBERED
            && let Some((oldest, _)) = self.recent.pop_front()
        {
            self.highest_forgotten = self.highest_forgotten.max(oldest);
        }
        self.recent.push_back((stream_id, ended_by_peer));
    }

    /// Searches from the newest: frames that were in flight arrive soon after the end.
    pub(super) fn state(&self, stream_id: u32) -> ClosedState {
        match self.recent.iter().rev().find(|(closed, _)| *closed == stream_id) {
            Some((_, true)) => ClosedState::ByPeer,
            Some((_, false)) => ClosedState::ByServer,
            None if stream_id > self.highest_forgotten => ClosedState::NeverOpened,
            None => ClosedState::Forgotten,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_streams_are_remembered_and_forgotten_ones_are_not_mistaken_for_unused_ones() {
        let mut closed = ClosedStreams::default();
        closed.record(1, true);
        closed.record(5, false);
        let states = [1, 3, 5].map(|id| closed.state(id));
        let expected = [ClosedState::ByPeer, ClosedState::NeverOpened, ClosedState::ByServer];
        assert_eq!(states, expected);
        for id in (7..).step_by(2).take(MAX_REMEMBERED - 1) {
            closed.record(id, true);
        }
        let states = [1, 3, 5, 7].map(|id| closed.state(id));
        let [one, three, five] = expected;
        assert_eq!(states, [ClosedState::Forgotten, three, five, one]);
        closed.record(1001, true);
        assert_eq!(closed.state(3), ClosedState::Forgotten, "it may have been used");
        assert_eq!(closed.recent.len(), MAX_REMEMBERED);
    }
}
