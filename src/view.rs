//! What differs between proxies, as a key that all proxies of one sort share.
//!
//! Clusters and endpoints are the same for everybody. Listeners depend on how traffic reaches the
//! proxy, routes also on the namespace whose short names it may use. A view is built only when a
//! proxy asks for it and shares everything that does not differ.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

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

/// Everything that decides what a proxy is sent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewKey {
    pub kind: ProxyKind,
    /// Whose services answer to their bare name; none for a proxy that lives in no namespace.
    pub namespace: Option<Arc<str>>,
}

impl fmt::Display for ViewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ProxyKind::Sidecar => f.write_str("sidecar")?,
            ProxyKind::BoundSidecar => f.write_str("bound sidecar")?,
            ProxyKind::Router => f.write_str("router")?,
            ProxyKind::Standalone { address, port } => write!(f, "standalone on {address}:{port}")?,
        }
        match &self.namespace {
            Some(namespace) => write!(f, " in namespace {namespace}"),
            None => Ok(()),
        }
    }
}

/// Which views somebody needs.
///
/// Streams hold a [`Lease`] on theirs; the publisher builds what is leased and forgets what no
/// longer is. A std mutex, never held across an await: it is taken when a stream begins, when it
/// ends, and when a snapshot is cut.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<BTreeMap<ViewKey, usize>>,
    wanted: Notify,
}

/// The need for one view, until dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    key: ViewKey,
}

impl Leases {
    pub fn take(self: &Arc<Self>, key: ViewKey) -> Lease {
        let mut held = self.held();
        let count = held.entry(key.clone()).or_insert(0);
        *count += 1;
        if *count == 1 {
            self.wanted.notify_one();
        }
        drop(held);
        Lease { leases: self.clone(), key }
    }

    /// Waits until a view is wanted that was not.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// The views that somebody needs now.
    pub fn keys(&self) -> BTreeSet<ViewKey> {
        self.held().keys().cloned().collect()
    }

    fn held(&self) -> MutexGuard<'_, BTreeMap<ViewKey, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease {
    pub fn key(&self) -> &ViewKey {
        &self.key
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.held();
        if let Some(count) = held.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                held.remove(&self.key);
            }
        }
    }
}
