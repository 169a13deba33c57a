//! Records who does not get a listener, for people to see.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::ServiceKey;
use crate::snapshot::{Conflict, ConflictKind, Conflicts};

/// What was recorded for one kind of proxy, so that it can be taken back.
#[derive(Debug, Default)]
pub(super) struct RecordedConflicts {
    by_listener: BTreeMap<Arc<str>, Vec<Conflict>>,
}

impl RecordedConflicts {
    /// Puts the TCP services that go without this listener in the place of those before. It is
    /// `winner`'s, or that of the HTTP services with the port's number.
    pub(super) fn replace(
        &mut self,
        listener: &Arc<str>,
        winner: Option<&ServiceKey>,
        losers: Vec<ServiceKey>,
        conflicts: &mut Conflicts,
    ) {
        for old in self.by_listener.remove(listener).into_iter().flatten() {
            conflicts.remove(&old);
        }
        if losers.is_empty() {
            return;
        }
        let (kind, owner) = match winner {
            Some(winner) => (ConflictKind::TcpOverTcp, winner.to_string()),
            None => (ConflictKind::TcpOverHttp, "the HTTP services with this port".to_owned()),
        };
        let recorded = losers.into_iter().map(|loser| {
            let conflict =
                Conflict { kind, place: listener.clone(), loser: loser.to_string().into() };
            let text = format!("{loser} gets no listener {listener}: it is taken by {owner}");
            conflicts.insert(conflict.clone(), text.into());
            conflict
        });
        self.by_listener.insert(listener.clone(), recorded.collect());
    }

    pub(super) fn clear(&mut self, conflicts: &mut Conflicts) {
        for old in std::mem::take(&mut self.by_listener).into_values().flatten() {
            conflicts.remove(&old);
        }
    }
}
