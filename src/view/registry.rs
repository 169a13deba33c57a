//! Which views the open streams need, and which view each of them got.
//!
//! A stream requests a view and holds a [`ViewLease`] for as long as it is open. The publisher
//! takes the changes ([`ViewRegistry::take_changes`]), finds the view and assigns it
//! ([`ViewRegistry::assign`]), again whenever another view becomes right for the same request. Each
//! request has a channel of its own, so that the ten-thousandth sidecar to start wakes no other
//! stream, and a pod that joins a Service concerns that pod's proxy alone. The publisher drops a view
//! that nobody leases any more.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use thiserror::Error;
use tokio::sync::{Notify, watch};

use super::ViewKey;

/// What a proxy says of itself that decides its view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewRequest {
    /// Without inbound ports: which services lead to the proxy is not the proxy's to say.
    pub view: ViewKey,
    /// The proxy's own addresses, by which its inbound ports are found. Empty for kinds without
    /// inbound listeners.
    pub addresses: Arc<[IpAddr]>,
    /// Where it connects from: the views of each address are counted.
    pub peer: Option<IpAddr>,
}

/// How many different views there may be; zero for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct ViewLimits {
    pub views: usize,
    /// Of proxies that connect from one address.
    pub per_peer: usize,
}

/// Why a proxy gets no view.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum TooManyViews {
    #[error(
        "this proxy needs a view of its own (by its kind, listener, namespace, zone and inbound \
         ports), and there are {limit} different ones already, which is the limit (--max-views)"
    )]
    InAll { limit: usize },
    #[error(
        "this proxy needs a view of its own (by its kind, listener, namespace, zone and inbound \
         ports), and the proxies at {peer} have {limit} different ones already, which is the limit \
         for one address (--max-views-per-peer)"
    )]
    OfPeer { peer: IpAddr, limit: usize },
}

/// The requested views of all open streams.
///
/// A std mutex, never held across an await: it is taken when a stream begins, when it ends, and
/// when a snapshot is published.
#[derive(Debug, Default)]
pub struct ViewRegistry {
    limits: ViewLimits,
    inner: Mutex<Inner>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Inner {
    requests: HashMap<ViewRequest, RequestEntry>,
    /// Requests that came or went since the publisher last took the changes.
    changed: BTreeSet<ViewRequest>,
}

/// One request, however many streams have made it.
#[derive(Debug)]
struct RequestEntry {
    streams: usize,
    assignment: watch::Sender<Assignment>,
}

/// The publisher's answer to a request.
#[derive(Clone, Debug, Default)]
enum Assignment {
    #[default]
    Pending,
    View(Arc<ViewKey>),
    Refused(TooManyViews),
}

impl Assignment {
    fn view(&self) -> Option<Arc<ViewKey>> {
        match self {
            Self::View(view) => Some(view.clone()),
            Self::Pending | Self::Refused(_) => None,
        }
    }
}

/// Keeps a view requested until dropped.
#[derive(Debug)]
pub struct ViewLease {
    registry: Arc<ViewRegistry>,
    request: ViewRequest,
    assignment: watch::Receiver<Assignment>,
}

/// Sees which view is assigned to a [`ViewLease`], without keeping it requested.
#[derive(Debug)]
pub struct ViewWatch(watch::Receiver<Assignment>);

impl ViewRegistry {
    pub fn new(limits: ViewLimits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// The publisher enforces the limits, because it alone knows which requests share a view.
    pub fn limits(&self) -> ViewLimits {
        self.limits
    }

    /// Requests a view for one stream.
    pub fn lease(self: &Arc<Self>, request: ViewRequest) -> ViewLease {
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
    pub fn take_changes(&self) -> Vec<(ViewRequest, bool)> {
        let mut inner = self.lock();
        let changed = std::mem::take(&mut inner.changed);
        let with_state = |request: ViewRequest| {
            let is_leased = inner.requests.contains_key(&request);
            (request, is_leased)
        };
        changed.into_iter().map(with_state).collect()
    }

    /// Assigns a view to all streams that made this request.
    pub fn assign(&self, request: &ViewRequest, view: &Arc<ViewKey>) {
        self.set_assignment(request, Assignment::View(view.clone()));
    }

    /// Refuses a view to all streams that made this request.
    pub fn refuse(&self, request: &ViewRequest, reason: TooManyViews) {
        self.set_assignment(request, Assignment::Refused(reason));
    }

    fn set_assignment(&self, request: &ViewRequest, assignment: Assignment) {
        if let Some(entry) = self.lock().requests.get(request) {
            entry.assignment.send_replace(assignment);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ViewLease {
    /// The view as last assigned; `None` while the request is pending or after it was refused.
    pub fn view(&self) -> Option<Arc<ViewKey>> {
        self.assignment.borrow().view()
    }

    /// Why the request was refused, if it was.
    pub fn refusal(&self) -> Option<TooManyViews> {
        match &*self.assignment.borrow() {
            Assignment::Refused(reason) => Some(reason.clone()),
            Assignment::Pending | Assignment::View(_) => None,
        }
    }

    /// To wait for another view, or for the refusal.
    pub fn watch(&self) -> ViewWatch {
        ViewWatch(self.assignment.clone())
    }
}

impl ViewWatch {
    /// The view as last assigned.
    pub fn view(&self) -> Option<Arc<ViewKey>> {
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

impl Drop for ViewLease {
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
