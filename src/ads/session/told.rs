//! What a response tells beside the set that it leads to, so that it can be told again.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::snapshot::TypeSet;

/// The way from one set to another.
#[derive(Clone, Debug)]
pub(super) struct Step {
    pub(super) from: Arc<TypeSet>,
    pub(super) to: Arc<TypeSet>,
    /// What vanished on the way counts as well, not only what was added or changed.
    pub(super) removals: bool,
}

/// Steps and names that are remembered one by one before "everything" takes their place.
const STEPS: usize = 8;
const NAMES: usize = 100_000;

/// What a response tells, or is to tell.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    /// Everything subscribed.
    pub(super) all: bool,
    /// What differs along these ways.
    pub(super) steps: Vec<Step>,
    pub(super) names: BTreeSet<Arc<str>>,
    /// A client that comes back may find here what it did not have.
    pub(super) adds: bool,
}

impl Told {
    pub(super) fn is_something(&self) -> bool {
        self.all || !self.steps.is_empty() || !self.names.is_empty()
    }

    /// Puts what was told earlier before what is told here.
    pub(super) fn put_before(&mut self, earlier: Self) {
        self.all |= earlier.all;
        self.adds |= earlier.adds;
        self.names.extend(earlier.names);
        let own = std::mem::replace(&mut self.steps, earlier.steps);
        self.steps.extend(own);
        let id = |step: &Step| (step.from.id(), step.to.id());
        self.steps.dedup_by_key(|step| id(step));
    }

    /// For what piles up for as long as a client pleases.
    pub(super) fn bound(&mut self) {
        if self.names.len() > NAMES {
            self.all = true;
            self.names.clear();
        }
        if self.steps.len() > STEPS {
            self.all = true;
            // "Everything" does not say what vanished since.
            let mut steps = std::mem::take(&mut self.steps);
            steps.retain(|step| step.removals);
            if let (Some(first), Some(last)) = (steps.first(), steps.last()) {
                let to = last.to.clone();
                self.steps.push(Step { to, ..first.clone() });
            }
        }
    }
}
