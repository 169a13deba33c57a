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
const BUILD_TIME: Duration = Duration::from_millis(10);

impl Publisher {
    /// Takes in which requests came and went: those whose view is built have it at once, the others
    /// wait until it is.
    pub(super) fn take_view_requests(&mut self) {
        let (services, conflicts) = (&self.builder.services, &mut self.builder.conflicts);
        for (request, is_held) in self.view_registry.take_changes() {
            if !is_held {
                self.view_assigner.remove_request(&request, conflicts);
                continue;
            }
            match self.view_assigner.add_request(&request, services, conflicts) {
                Ok(view) if self.views.contains(&view) => {
                    self.views.mark_used(&view);
                    self.view_registry.assign(&request, &view);
                }
                Ok(view) => self.pending_requests.push_back((request, view)),
                Err(refusal) => {
                    self.metrics.view_refused();
                    self.view_registry.refuse(&request, &refusal.to_string());
                }
            }
        }
        let now = Instant::now();
        for view in self.view_assigner.take_unassigned() {
            self.views.mark_unused(view, now);
        }
    }

    /// Builds views that requests wait for, for a short while, and assigns them.
    pub(super) fn build_pending_views(&mut self) {
        let started = Instant::now();
        let (mut built, mut assigned) = (Vec::new(), Vec::new());
        while started.elapsed() < BUILD_TIME
            && let Some((request, view)) = self.pending_requests.pop_front()
        {
            // It may be gone meanwhile, or the mesh have changed so that another view is right.
            if self.view_assigner.view(&request) != Some(&view) {
                continue;
            }
            if !self.views.contains(&view) {
                self.make_room();
                let Some(made) = self.builder.open_view(&view) else { continue };
                built.push((view.clone(), made));
                self.views.insert(view.clone());
            }
            self.views.mark_used(&view);
            assigned.push((request, view));
        }
        if !built.is_empty() {
            debug!(views = built.len(), took = ?started.elapsed(), "views built");
            self.replace_snapshot(|snapshot| {
                let built = built.into_iter().map(|(view, made)| ((*view).clone(), made));
                snapshot.views.extend(built);
            });
        }
        // After the snapshot that has it: a stream that learns of its view looks there.
        for (request, view) in &assigned {
            self.view_registry.assign(request, view);
        }
    }

    /// Evicts the views that nobody has had in a while.
    pub(super) fn evict_expired_views(&mut self) {
        let expired = self.views.evict_expired(Instant::now());
        self.drop_views(&expired);
    }

    /// What nobody has is not kept at the cost of what somebody asks for.
    fn make_room(&mut self) {
        let limit = self.view_limits.views;
        if limit != 0 && self.views.len() >= limit {
            let unused = self.views.evict_unused();
            self.drop_views(&unused);
        }
    }

    fn drop_views(&mut self, evicted: &BTreeSet<Arc<ViewKey>>) {
        if evicted.is_empty() {
            return;
        }
        self.builder.retain_views(self.views.keys());
        debug!(views = evicted.len(), "views evicted");
        self.replace_snapshot(|snapshot| {
            snapshot.views.retain(|view, _| !evicted.contains(view));
            snapshot.views.shrink_to_fit();
        });
    }

    /// Puts another snapshot with the same content in the place of the newest one, and wakes nobody
    /// by it: thousands of streams would look for what is no news to them.
    fn replace_snapshot(&self, change: impl FnOnce(&mut Snapshot)) {
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
