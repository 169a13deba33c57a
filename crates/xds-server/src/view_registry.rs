//! Which views the open streams need, and which view each of them got.
//!
//! A stream requests a view and holds a [`ViewLease`] for as long as it is open. Whoever publishes the
//! views (the publisher) takes the changes ([`ViewRegistry::take_changes`]), finds the key of the view and
//! assigns it ([`ViewRegistry::assign`]), again whenever another view becomes right for the same request.
//! Each request has a channel of its own, so that the ten-thousandth proxy to start wakes no other stream,
//! and a change of one request's view concerns the proxies with that request alone. The publisher drops a
//! view that nobody leases any more.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// The requested views of all open streams: requests `R`, keys `K` of views.
///
/// A std mutex, never held across an await: it is taken when a stream begins, when it ends, and
/// when a snapshot is published.
#[derive(Debug)]
pub struct ViewRegistry<R, K> {
    inner: Mutex<Inner<R, K>>,
    changed: Notify,
}

#[derive(Debug)]
struct Inner<R, K> {
    requests: HashMap<R, RequestEntry<K>>,
    /// Requests that came or went since the publisher last took the changes.
    changed: BTreeSet<R>,
}

impl<R, K> Default for ViewRegistry<R, K> {
    fn default() -> Self {
        let inner = Inner { requests: HashMap::new(), changed: BTreeSet::new() };
        Self { inner: Mutex::new(inner), changed: Notify::new() }
    }
}

/// One request, however many streams have made it.
#[derive(Debug)]
struct RequestEntry<K> {
    streams: usize,
    assignment: watch::Sender<Assignment<K>>,
}

/// The publisher's answer to a request.
#[derive(Debug)]
enum Assignment<K> {
    Pending,
    View(Arc<K>),
    Refused(Arc<str>),
}

impl<K> Assignment<K> {
    fn view(&self) -> Option<Arc<K>> {
        match self {
            Self::View(view) => Some(view.clone()),
            Self::Pending | Self::Refused(_) => None,
        }
    }
}

/// Keeps a view requested until dropped.
#[derive(Debug)]
pub struct ViewLease<R: Clone + Ord + Hash, K> {
    registry: Arc<ViewRegistry<R, K>>,
    request: R,
    assignment: watch::Receiver<Assignment<K>>,
}

/// Sees which view is assigned to a [`ViewLease`], without keeping it requested.
#[derive(Debug)]
pub struct ViewWatch<K>(watch::Receiver<Assignment<K>>);

impl<R: Clone + Ord + Hash, K> ViewRegistry<R, K> {
    /// Requests a view for one stream.
    pub fn lease(self: &Arc<Self>, request: R) -> ViewLease<R, K> {
        let mut inner = self.lock();
        let assignment = if let Some(entry) = inner.requests.get_mut(&request) {
            entry.streams += 1;
            entry.assignment.subscribe()
        } else {
            let (sender, assignment) = watch::channel(Assignment::Pending);
            let entry = RequestEntry { streams: 1, assignment: sender };
            inner.requests.insert(request.clone(), entry);
            inner.changed.insert(request.clone());
            self.changed.notify_one();
            assignment
        };
        drop(inner);
        ViewLease { registry: self.clone(), request, assignment }
    }

    /// Waits until a request has come or gone. Cancel safe.
    pub async fn wait_for_changes(&self) {
        self.changed.notified().await;
    }

    /// The requests that came or went since the last call, each with whether a stream holds it now.
    pub fn take_changes(&self) -> Vec<(R, bool)> {
        let mut inner = self.lock();
        let changed = std::mem::take(&mut inner.changed);
        let with_state = |request: R| {
            let is_leased = inner.requests.contains_key(&request);
            (request, is_leased)
        };
        changed.into_iter().map(with_state).collect()
    }

    /// Assigns a view to all streams that made this request.
    pub fn assign(&self, request: &R, view: &Arc<K>) {
        self.set_assignment(request, Assignment::View(view.clone()));
    }

    /// Refuses a view to all streams that made this request; they end with this reason.
    pub fn refuse(&self, request: &R, reason: &str) {
        self.set_assignment(request, Assignment::Refused(reason.into()));
    }

    fn set_assignment(&self, request: &R, assignment: Assignment<K>) {
        if let Some(entry) = self.lock().requests.get(request) {
            entry.assignment.send_replace(assignment);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner<R, K>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<R: Clone + Ord + Hash, K> ViewLease<R, K> {
    /// The view as last assigned; `None` while the request is pending or after it was refused.
    pub fn view(&self) -> Option<Arc<K>> {
        self.assignment.borrow().view()
    }

    /// Why the request was refused, if it was.
    pub fn refusal(&self) -> Option<Arc<str>> {
        match &*self.assignment.borrow() {
            Assignment::Refused(reason) => Some(reason.clone()),
            Assignment::Pending | Assignment::View(_) => None,
        }
    }

    /// To wait for another view, or for the refusal.
    pub fn watch(&self) -> ViewWatch<K> {
        ViewWatch(self.assignment.clone())
    }
}

impl<K> ViewWatch<K> {
    /// The view as last assigned.
    pub fn view(&self) -> Option<Arc<K>> {
        self.0.borrow().view()
    }

    /// Waits until another view is assigned, or the request is refused. Cancel safe.
    pub async fn reassigned(&mut self) {
        if self.0.changed().await.is_err() {
            // The lease is gone, so there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }
}

impl<R: Clone + Ord + Hash, K> Drop for ViewLease<R, K> {
    fn drop(&mut self) {
        let mut inner = self.registry.lock();
        if let Some(entry) = inner.requests.get_mut(&self.request) {
            entry.streams -= 1;
            if entry.streams == 0 {
                inner.requests.remove(&self.request);
                // A map does not shrink by itself.
                if inner.requests.capacity() > 64 + 4 * inner.requests.len() {
                    inner.requests.shrink_to_fit();
                }
                inner.changed.insert(self.request.clone());
                self.registry.changed.notify_one();
            }
        }
    }
}
