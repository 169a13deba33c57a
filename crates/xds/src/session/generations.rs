//! Up to which generation of the snapshot a stream has been sent everything, and has acknowledged it.
//!
//! Two numbers a type, and of a stream the least of them: no list of what is on its way to whom. Generations
//! are the caller's ([`Session::set_generation`]); nothing here depends on them.
//!
//! - A response that brings the proxy to the set of generation 7 proves with its ACK that the proxy has 7,
//!   whatever came meanwhile: a mesh that never rests has a number that grows.
//! - A type of which there is nothing to send has each generation as it comes, if it owes no ACK.
//! - A type waits at its number while it is held back by make-before-break, and a response that leaves the
//!   removal of clusters for later proves nothing new.
//! - A NACK, and an ACK that does not come, hold the type until a later ACK. If that ACK was of other
//!   resources alone, what was rejected is still owed, and the type waits on.
//! - Types that the stream has not opened do not count. The number falls where the stream asks for more
//!   (it opens a type, or names resources) and has not acknowledged the answer.

use super::Session;
use super::state::{AckState, TypeState};
use crate::resource_type::TypeIndex;
use crate::{TypeSet, View};

/// Generations of the snapshot; zero for none yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Generations {
    /// The newest of which everything was sent, and of all before.
    pub sent: u64,
    /// The newest of which everything that was sent is acknowledged, and of all before.
    pub acknowledged: u64,
}

/// The same of one type.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TypeGenerations {
    sent: u64,
    acknowledged: u64,
    /// What the ACK of the last response proves.
    proven_by_ack: u64,
}

impl TypeGenerations {
    /// A response was sent under this generation. `complete`: it brings the proxy to the type's set.
    pub(super) fn responded(&mut self, generation: u64, complete: bool) {
        self.acknowledged = self.acknowledged.min(generation.saturating_sub(1));
        if complete {
            self.sent = generation;
            self.proven_by_ack = generation;
        }
    }

    fn caught_up(&mut self, generation: u64, owes_nothing: bool) {
        self.sent = generation;
        if owes_nothing {
            self.acknowledged = generation;
        }
    }
}

impl TypeState {
    /// The last response was acknowledged.
    pub(super) fn acknowledge_generation(&mut self) {
        if !self.rejected.is_any() {
            let generations = &mut self.generations;
            generations.acknowledged = generations.acknowledged.max(generations.proven_by_ack);
        }
    }

    /// There is nothing to send of this set, now or later.
    fn is_at(&self, now: &TypeSet) -> bool {
        self.sent.as_ref().is_some_and(|sent| sent.id() == now.id())
            && !self.is_requested()
            && !self.warming.is_any()
            && self.removed_while_disconnected.is_empty()
    }

    fn owes_nothing(&self) -> bool {
        matches!(self.ack_state, AckState::NoneSent | AckState::Acked) && !self.rejected.is_any()
    }
}

impl Session {
    /// The generation of the snapshot that the view of the next [`Self::next_response`] is from.
    pub fn set_generation(&mut self, generation: u64) {
        self.generation = generation;
    }

    /// The last one that was set.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// What the stream has been sent and has acknowledged, as far as known after the last
    /// [`Self::next_response`] that returned `None`.
    pub fn generations(&self) -> Generations {
        let mut least = Generations { sent: self.generation, acknowledged: self.generation };
        for state in self.types.iter().filter(|state| state.open) {
            least.sent = least.sent.min(state.generations.sent);
            least.acknowledged = least.acknowledged.min(state.generations.acknowledged);
        }
        least
    }

    /// There is nothing to send now.
    pub(super) fn note_caught_up(&mut self, view: &View) {
        for (at, state) in self.types.iter_mut().enumerate() {
            // A type that has acknowledged this generation has nothing to catch up with before it is sent
            // something.
            if state.open
                && state.generations.acknowledged != self.generation
                && state.is_at(view.set(TypeIndex(at)))
            {
                let owes_nothing = state.owes_nothing();
                state.generations.caught_up(self.generation, owes_nothing);
            }
        }
    }
}
