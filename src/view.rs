//! What differs between proxies, as a key that all proxies of one sort share.
//!
//! Listeners depend on how traffic reaches the proxy and on the ports of the workload beside it,
//! routes also on the namespace whose short names it may use, endpoints on the zone, and
//! everything on what the namespace may see. A view is built only when a proxy asks for it and shares everything that
//! does not differ.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};

/// How traffic gets to the proxy, hence which listeners it needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// Traffic is captured by iptables and told apart by its original destination.
    Sidecar,
    /// A sidecar without capture (`INTERCEPTION_MODE=NONE`): listeners bound to loopback.
    BoundSidecar,
    /// `router~…`: the same listeners on every address of the host.
    Router,
    /// Any other Envoy: one HTTP listener at this address for every HTTP service, by Host.
    Standalone { address: IpAddr, port: u16 },
}

impl ProxyKind {
    /// The standalone listener's place unless the node's metadata says otherwise.
    pub const DEFAULT_STANDALONE: Self =
        Self::Standalone { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 15080 };

    /// Short name, as in syncz' `proxy_type` and in metrics labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Sidecar | Self::BoundSidecar => "sidecar",
            Self::Router => "router",
            Self::Standalone { .. } => "standalone",
        }
    }
}

/// What a workload speaks on a port of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum InboundProtocol {
    Http,
    Http2,
    Grpc,
    Tcp,
}

/// A port on which services lead to the workload beside a sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundPort {
    /// The one that the workload listens on, not the service's.
    pub port: u16,
    pub protocol: InboundProtocol,
}

/// All of them: sorted, no number twice. Equal for all pods of a Deployment, and mostly for those
/// of many.
pub type InboundPorts = Arc<[InboundPort]>;

/// Everything that decides what a proxy is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewKey {
    pub kind: ProxyKind,
    /// Whose services answer to their bare name; none for a proxy that lives in no namespace.
    pub namespace: Option<Arc<str>>,
    /// Whose endpoints go first, where a service wants that.
    pub zone: Option<Arc<str>>,
    /// Empty for a proxy that is no captured sidecar, and for one to which no service leads.
    pub inbound: InboundPorts,
}

impl ViewKey {
    /// The view of a proxy that does not say where it is, and to which no service leads.
    pub fn new(kind: ProxyKind, namespace: Option<&str>) -> Self {
        let namespace = namespace.map(Arc::from);
        Self { kind, namespace, zone: None, inbound: InboundPorts::default() }
    }
}

impl fmt::Display for ViewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ProxyKind::Sidecar => f.write_str("sidecar")?,
            ProxyKind::BoundSidecar => f.write_str("bound sidecar")?,
            ProxyKind::Router => f.write_str("router")?,
            ProxyKind::Standalone { address, port } => write!(f, "standalone on {address}:{port}")?,
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace {namespace}")?;
        }
        if let Some(zone) = &self.zone {
            write!(f, " in zone {zone}")?;
        }
        for (at, InboundPort { port, protocol }) in self.inbound.iter().enumerate() {
            let before = if at == 0 { " with inbound" } else { "," };
            write!(f, "{before} {port}/{protocol:?}")?;
        }
        Ok(())
    }
}

/// What a proxy says of itself that decides its view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Need {
    /// Without inbound ports: which services lead to the proxy is not the proxy's to say.
    pub view: ViewKey,
    /// Its own addresses, by which that is found out. None for kinds without inbound listeners.
    pub addresses: Arc<[IpAddr]>,
}

/// Who needs which view.
///
/// A stream holds a [`Lease`]; the publisher learns of it by [`Self::changed`], finds the view and
/// says so by [`Self::assign`], again whenever another one becomes right. A stream is told by its
/// own channel, so that the ten-thousandth sidecar to start wakes none of the others, and moving
/// one pod into a Service concerns that pod's proxy alone. What is leased by nobody any more, the
/// publisher forgets.
///
/// A std mutex, never held across an await: it is taken when a stream begins, when it ends, and
/// when a snapshot is cut.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<Held>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct Held {
    seats: HashMap<Need, Seat>,
    /// Needs that came or went since the publisher last asked.
    changed: BTreeSet<Need>,
}

/// One need, however many streams have it.
#[derive(Debug)]
struct Seat {
    streams: usize,
    view: watch::Sender<Option<Arc<ViewKey>>>,
}

/// The need for one view, until dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    need: Need,
    view: watch::Receiver<Option<Arc<ViewKey>>>,
}

/// Learns of what is assigned to a [`Lease`].
#[derive(Debug)]
pub struct Seated(watch::Receiver<Option<Arc<ViewKey>>>);

impl Leases {
    pub fn take(self: &Arc<Self>, need: Need) -> Lease {
        let mut held = self.held();
        let view = if let Some(seat) = held.seats.get_mut(&need) {
            seat.streams += 1;
            seat.view.subscribe()
        } else {
            let (sender, view) = watch::channel(None);
            held.seats.insert(need.clone(), Seat { streams: 1, view: sender });
            held.changed.insert(need.clone());
            self.wanted.notify_one();
            view
        };
        drop(held);
        Lease { leases: self.clone(), need, view }
    }

    /// Waits until something is needed that was not.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The needs that came or went since this was last called, and whether they are there now.
    pub fn changed(&self) -> Vec<(Need, bool)> {
        let mut held = self.held();
        let changed = std::mem::take(&mut held.changed);
        let is_held = |need: Need| {
            let is_held = held.seats.contains_key(&need);
            (need, is_held)
        };
        changed.into_iter().map(is_held).collect()
    }

    /// Tells the streams with this need their view.
    pub fn assign(&self, need: &Need, view: &Arc<ViewKey>) {
        if let Some(seat) = self.held().seats.get(need) {
            seat.view.send_replace(Some(view.clone()));
        }
    }

    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    /// The view as last assigned; none for a moment after the lease was taken.
    pub fn view(&self) -> Option<Arc<ViewKey>> {
        self.view.borrow().clone()
    }

    /// To wait for another view.
    pub fn seat(&self) -> Seated {
        Seated(self.view.clone())
    }
}

impl Seated {
    /// The view as last assigned.
    pub fn view(&self) -> Option<Arc<ViewKey>> {
        self.0.borrow().clone()
    }

    /// Waits until another view is assigned. Cancel safe.
    pub async fn reassigned(&mut self) {
        if self.0.changed().await.is_err() {
            // The lease is gone, so there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.held();
        if let Some(seat) = held.seats.get_mut(&self.need) {
            seat.streams -= 1;
            if seat.streams == 0 {
                held.seats.remove(&self.need);
                held.changed.insert(self.need.clone());
            }
        }
    }
}
