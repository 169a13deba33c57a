//! What a response sends beside the set that it leads to, so that it can be sent again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::TypeSet;

/// The change from one set to another.
#[derive(Clone, Debug)]
pub(super) struct SetChange {
    pub(super) from: Arc<TypeSet>,
    pub(super) to: Arc<TypeSet>,
    /// Removals count as well, not only what was added or changed.
    pub(super) removals: bool,
}

/// Changes and names that are kept one by one before "everything" replaces them.
const MAX_CHANGES: usize = 8;
const MAX_NAMES: usize = 100_000;

/// What a response sends or is to send.
#[derive(Clone, Debug, Default)]
pub(super) struct PendingResources {
    /// Everything subscribed.
    pub(super) all: bool,
    /// What these changes changed.
    pub(super) changes: Vec<SetChange>,
    pub(super) names: BTreeSet<Arc<str>>,
    /// A reconnected client may get resources that it did not have.
    pub(super) adds: bool,
}

impl PendingResources {
    pub(super) fn is_any(&self) -> bool {
        self.all || !self.changes.is_empty() || !self.names.is_empty()
    }

    /// Nothing is pending, and nothing is known of what the client has.
    pub(super) fn is_empty(&self) -> bool {
        !self.is_any() && !self.adds
    }

    /// Adds what was sent earlier, before what is here.
    pub(super) fn prepend(&mut self, earlier: Self) {
        self.all |= earlier.all;
        self.adds |= earlier.adds;
        if !earlier.names.is_empty() {
            self.names.extend(earlier.names);
        }
        if !earlier.changes.is_empty() {
            let own = std::mem::replace(&mut self.changes, earlier.changes);
            self.changes.extend(own);
        }
        if self.changes.len() > 1 {
            self.changes.dedup_by_key(|change| (change.from.id(), change.to.id()));
        }
    }

    /// Bounds what accumulates while a client does not acknowledge.
    pub(super) fn enforce_bounds(&mut self) {
        if self.names.len() > MAX_NAMES {
            self.all = true;
            self.names.clear();
        }
        if self.changes.len() > MAX_CHANGES {
            self.all = true;
            // "Everything" does not include removals.
            let mut changes = std::mem::take(&mut self.changes);
            changes.retain(|change| change.removals);
            if let (Some(first), Some(last)) = (changes.first(), changes.last()) {
                let to = last.to.clone();
                self.changes.push(SetChange { to, ..first.clone() });
            }
        }
    }
}
