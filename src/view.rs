//! What differs between proxies, as a key that all proxies of one sort share.
//!
//! Listeners depend on how traffic reaches the proxy and on the ports of the workload beside it,
//! routes also on the namespace whose short names it may use, endpoints on the zone and the node, and
//! everything on what the namespace may see. A view is built only when a proxy requests it and shares
//! everything that does not differ. What a proxy says of itself cannot be trusted without bound, so
//! the number of views is limited, in all and for each peer: an identity, or an address that proxies without
//! one connect from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use pilothouse_xds_server::PeerKey;
use thiserror::Error;

use crate::names::Discovery;

/// How traffic gets to the proxy, hence which listeners it needs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyKind {
    /// Traffic is captured by iptables and told apart by its original destination.
    Sidecar,
    /// The same, and it holds the clusters that it has called, or says that it will ([`Discovery::OnDemand`]).
    OnDemandSidecar,
    /// A sidecar without capture (`INTERCEPTION_MODE=NONE`): listeners bound to loopback.
    BoundSidecar(Spared),
    /// `router~…`: the same listeners on every address of the host.
    Router,
    /// Any other Envoy: one HTTP listener at this address for every HTTP service, by Host.
    Standalone { address: IpAddr, port: u16 },
}

/// Ports that a proxy cannot bind. It rejects all listeners of a response where one of them fails.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spared {
    /// Those below 1024, which take a right that it does not have.
    pub privileged: bool,
    /// Those that the workload beside it listens on. Sorted.
    pub own: Vec<u16>,
}

impl Spared {
    pub fn has(&self, port: u16) -> bool {
        (self.privileged && port < 1024) || self.own.contains(&port)
    }
}

impl fmt::Display for Spared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.privileged {
            f.write_str(" without ports below 1024")?;
        }
        for (at, port) in self.own.iter().enumerate() {
            let before = if at == 0 { " beside " } else { "," };
            write!(f, "{before}{port}")?;
        }
        Ok(())
    }
}

impl ProxyKind {
    /// A sidecar without capture that may bind any port.
    pub const BOUND: Self = Self::BoundSidecar(Spared { privileged: false, own: Vec::new() });

    /// The standalone listener's place unless the node's metadata says otherwise.
    pub const DEFAULT_STANDALONE: Self =
        Self::Standalone { address: IpAddr::V4(Ipv4Addr::UNSPECIFIED), port: 15080 };

    /// Short name, as in syncz' `proxy_type` and in metrics labels.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Sidecar | Self::OnDemandSidecar | Self::BoundSidecar(_) => "sidecar",
            Self::Router => "router",
            Self::Standalone { .. } => "standalone",
        }
    }

    /// Whether the workload's connections are led to the proxy by iptables, with their original destinations.
    pub fn is_captured(&self) -> bool {
        matches!(self, Self::Sidecar | Self::OnDemandSidecar)
    }

    pub fn discovery(&self) -> Discovery {
        match self {
            Self::OnDemandSidecar => Discovery::OnDemand,
            _ => Discovery::All,
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
    /// How long TCP connections may be idle there; zero for no limit, none for the default.
    pub idle_timeout: Option<Duration>,
}

impl InboundPort {
    /// One of which nothing else is known.
    pub fn new(port: u16, protocol: InboundProtocol) -> Self {
        Self { port, protocol, idle_timeout: None }
    }
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
    /// Where it runs, if some service that is for its own node alone has endpoints there. In a
    /// [`ViewRequest`]: what the proxy says.
    pub node: Option<Arc<str>>,
    /// Empty for a proxy that is no captured sidecar, and for one to which no service leads.
    pub inbound: InboundPorts,
}

impl ViewKey {
    /// The view of a proxy that does not say where it is, and to which no service leads.
    pub fn new(kind: ProxyKind, namespace: Option<&str>) -> Self {
        let namespace = namespace.map(Arc::from);
        Self { kind, namespace, zone: None, node: None, inbound: InboundPorts::default() }
    }
}

impl fmt::Display for ViewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ProxyKind::Sidecar => f.write_str("sidecar")?,
            ProxyKind::OnDemandSidecar => f.write_str("on-demand sidecar")?,
            ProxyKind::BoundSidecar(spared) => write!(f, "bound sidecar{spared}")?,
            ProxyKind::Router => f.write_str("router")?,
            ProxyKind::Standalone { address, port } => write!(f, "standalone on {address}:{port}")?,
        }
        if let Some(namespace) = &self.namespace {
            write!(f, " in namespace {namespace}")?;
        }
        if let Some(zone) = &self.zone {
            write!(f, " in zone {zone}")?;
        }
        if let Some(node) = &self.node {
            write!(f, " on node {node}")?;
        }
        for (at, InboundPort { port, protocol, idle_timeout }) in self.inbound.iter().enumerate() {
            let before = if at == 0 { " with inbound" } else { "," };
            write!(f, "{before} {port}/{protocol:?}")?;
            if let Some(idle) = idle_timeout {
                write!(f, " idle {idle:?}")?;
            }
        }
        Ok(())
    }
}

/// What a proxy says of itself that decides its view.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ViewRequest {
    /// Without inbound ports: which services lead to the proxy is not the proxy's to say.
    pub view: ViewKey,
    /// The proxy's own addresses, by which its inbound ports are found. Empty for kinds without
    /// inbound listeners.
    pub addresses: Arc<[IpAddr]>,
    /// Who it is, or where it connects from: the views of each peer are counted.
    pub peer: Option<PeerKey>,
}

/// How many different views there may be; zero for no limit.
#[derive(Clone, Copy, Debug, Default)]
pub struct ViewLimits {
    pub views: usize,
    /// Of proxies with one identity, or of one address where they have none.
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
    OfAddress { peer: PeerKey, limit: usize },
    #[error(
        "this proxy needs a view of its own (by its kind, listener, namespace, zone and inbound \
         ports), and the proxies with the identity {peer} have {limit} different ones already, which is the \
         limit for one identity (--max-views-per-peer)"
    )]
    OfPrincipal { peer: PeerKey, limit: usize },
}

/// Who requested which view.
pub type ViewRegistry = pilothouse_xds_server::ViewRegistry<ViewRequest, ViewKey>;
/// Keeps a view requested until dropped.
pub type ViewLease = pilothouse_xds_server::view_registry::ViewLease<ViewRequest, ViewKey>;
