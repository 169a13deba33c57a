//! Views that come and go with proxies, while what is published stays as it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::debug;

use super::Publisher;
use crate::snapshot::Snapshot;
use crate::view::ViewKey;

/// How long views are built at a stretch. A change that comes meanwhile waits for this and for one
/// view at most.
const TURN: Duration = Duration::from_millis(10);

/// How long a view is kept that nobody needs: longer than a proxy takes to come back after its
/// connection broke, or a pod to be replaced.
pub(super) const KEEP: Duration = Duration::from_secs(10);

/// Views are let go at most this often, so that those of proxies which left one after the other go
/// together.
const RELEASES: Duration = Duration::from_secs(1);

impl Publisher {
    /// Takes in which needs came and went: those whose view is built have it at once, the others
    /// wait for their turn.
    pub(super) fn take_leases(&mut self) {
        let conflicts = &mut self.builder.conflicts;
        for (need, is_held) in self.view_registry.take_changes() {
            if !is_held {
                self.needs.remove(&need, conflicts);
                continue;
            }
            match self.needs.add(&need, conflicts) {
                Ok(view) if self.open.contains(&view) => {
                    self.idle.remove(&view);
                    self.view_registry.assign(&need, &view);
                }
                Ok(view) => self.newcomers.push_back((need, view)),
                Err(refusal) => {
                    self.metrics.view_refused();
                    self.view_registry.refuse(&need, refusal);
                }
            }
        }
        self.note_idle();
    }

    /// Builds views that newcomers wait for, for a short while, and gives them out.
    pub(super) fn build_some(&mut self) {
        let begun = Instant::now();
        let (mut built, mut seated) = (Vec::new(), Vec::new());
        while begun.elapsed() < TURN
            && let Some((need, view)) = self.newcomers.pop_front()
        {
            // It may have left meanwhile, or the mesh have changed so that another one is right.
            if self.needs.get(&need) != Some(&view) {
                continue;
            }
            if !self.open.contains(&view) {
                self.make_room();
                let Some(made) = self.builder.open(&view) else { continue };
                built.push((view.clone(), made));
                self.open.insert(view.clone());
            }
            self.idle.remove(&view);
            seated.push((need, view));
        }
        if !built.is_empty() {
            debug!(views = built.len(), took = ?begun.elapsed(), "views built");
            self.replace(|snapshot| {
                snapshot
                    .views
                    .extend(built.into_iter().map(|(view, made)| ((*view).clone(), made)));
            });
        }
        // After the snapshot that has it: whoever is told looks there.
        for (need, view) in &seated {
            self.view_registry.assign(need, view);
        }
    }

    /// Lets the views go that nobody has needed in a while.
    pub(super) fn release_idle(&mut self) {
        let now = Instant::now();
        let is_due = |since: &mut Instant| now >= *since + KEEP;
        let due =
            self.idle.extract_if(.., |_, since| is_due(since)).map(|(view, _)| view).collect();
        let next = self.idle.values().min().map(|since| *since + KEEP);
        self.release = next.map(|next| next.max(now + RELEASES));
        self.close(&due);
    }

    /// What nobody needs is not kept at the cost of what somebody does.
    fn make_room(&mut self) {
        let limit = self.view_registry.limits().views;
        if limit != 0 && self.open.len() >= limit && !self.idle.is_empty() {
            let idle = std::mem::take(&mut self.idle).into_keys().collect();
            self.close(&idle);
        }
    }

    fn note_idle(&mut self) {
        let now = Instant::now();
        for view in self.needs.take_unneeded() {
            if self.open.contains(&view) {
                self.idle.insert(view, now);
                self.release.get_or_insert(now + KEEP);
            }
        }
    }

    fn close(&mut self, views: &BTreeSet<Arc<ViewKey>>) {
        if views.is_empty() {
            return;
        }
        self.open.retain(|view| !views.contains(view));
        self.builder.retain(self.open.iter().map(|view| &**view));
        debug!(views = views.len(), "views let go");
        self.replace(|snapshot| {
            snapshot.views.retain(|view, _| !views.contains(view));
            snapshot.views.shrink_to_fit();
        });
    }

    /// Puts another snapshot with the same content in the place of the newest one, and wakes nobody
    /// by it: thousands of streams would look for what is no news to them.
    fn replace(&self, change: impl FnOnce(&mut Snapshot)) {
        self.snapshots.send_if_modified(|current| {
            if let Some(current) = current {
                let mut next = Snapshot::clone(current);
                change(&mut next);
                next.conflicts = self.builder.conflicts.clone();
                *current = Arc::new(next);
            }
            false
        });
    }
}
