//! What differs between proxies, as a key that all proxies of one sort share.
//!
//! Clusters and endpoints are the same for everybody. Listeners depend on how traffic reaches the
//! proxy, routes also on the namespace whose short names it may use. A view is built only when a
//! proxy asks for it and shares everything that does not differ.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

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
