//! The mesh in plain Rust: services, their ports, their endpoints.
//!
//! Uses `names` alone (an alias names its service by its host), knows neither Kubernetes' types nor
//! Envoy's and has no async: sources turn what they see into [`Change`]s, [`Model::apply`] says which
//! services a change really touched, and everything downstream works on those alone. The maps are
//! persistent ([`imbl`]), so a reader (the debug pages) gets a consistent copy in O(1) while the one
//! writer, `publish`, goes on.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

mod about;
mod alias;
mod change;
mod differences;
mod dirty;
mod endpoint;
mod export_to;
pub mod route;
mod store;
mod traffic_policy;
mod unserved;

pub use about::{About, Labels, TargetPort};
pub use change::{Action, Change, ENDPOINTS_PREFIX, Node, ObjectRef, Scope, SourceEvent, WatchId};
pub use differences::{Difference, Differences};
pub use dirty::Dirty;
pub use endpoint::{Endpoint, EndpointSlice, EndpointState, SlicePort, SlicesOfService, Subset};
pub use export_to::ExportTo;
pub use route::{ReferenceGrant, Route, RouteKey, RouteKind};
pub use store::Model;
pub use traffic_policy::{CircuitBreakers, LoadBalancing, OutlierDetection, TrafficPolicy};
pub use unserved::unserved_ports;

/// Namespace and name of a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceKey {
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl ServiceKey {
    pub fn new(namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl fmt::Display for ServiceKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// How a service is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceKind {
    /// The virtual addresses of the service, the primary family first. None at all where nobody
    /// assigned one, as in a folder of manifests: HTTP still reaches the service by Host, but
    /// there is no address for a TCP listener.
    ClusterIp(Vec<IpAddr>),
    /// `clusterIP: None`: DNS answers with the endpoints themselves.
    Headless,
    /// A DNS alias to this name, which is absolute and has no dot at its end; has no endpoints of its
    /// own.
    ExternalName(Arc<str>),
    /// The same of a service of the mesh, with which it shares everything but its own names. Made
    /// by [`Model::resolved`], never by a source.
    Alias(Arc<Service>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpFamily {
    V4,
    V6,
}

impl IpFamily {
    pub fn of_address(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    pub fn other(self) -> Self {
        match self {
            Self::V4 => Self::V6,
            Self::V6 => Self::V4,
        }
    }
}

/// What a port speaks, decided by the source from `appProtocol` and the port's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    Http,
    Http2,
    Grpc,
    /// TLS by the application, not ours to read.
    Tls,
    Tcp,
}

impl Protocol {
    /// Whether requests are routed by Host (HTTP connection manager and RDS).
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether the upstream is spoken to in HTTP/2 without negotiation.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }

    /// Istio's spelling, as shown in registryz.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
        }
    }
}

/// One port of a service. Endpoints are matched to it by `name`, never by number (KEP-752).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty for the single unnamed port.
    pub name: Arc<str>,
    /// 1 to 65535.
    pub port: u16,
    pub protocol: Protocol,
}

/// Something in a service that is wrong and therefore left out or replaced by its default, while
/// the rest of the service is served. Shown to people, means nothing to proxies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flaw {
    /// Where: the field's path, as in `metadata.annotations[pilothouse.io/retries]`.
    pub field: Arc<str>,
    /// What is wrong, and what is done instead.
    pub reason: Arc<str>,
}

impl Flaw {
    pub fn new(field: impl Into<Arc<str>>, reason: impl Into<Arc<str>>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub key: ServiceKey,
    pub kind: ServiceKind,
    /// TCP ports only (UDP and SCTP are skipped by the source), no number twice.
    pub ports: Vec<ServicePort>,
    /// The address families that it is for, the primary one first; none where it does not say.
    pub families: Vec<IpFamily>,
    /// Boxed: most services have the default, and it is large beside the rest.
    pub traffic_policy: Box<TrafficPolicy>,
    pub export_to: ExportTo,
    /// `trafficDistribution`: proxies use endpoints of their own zone while there are any.
    pub prefers_own_zone: bool,
    /// `internalTrafficPolicy: Local`: proxies use endpoints of their own node alone.
    pub node_local: bool,
    /// What of it is not honoured, in the order in which the source found it. A change of these
    /// alone counts as a change, since readers must see it; proxies are not sent anything for it.
    pub flaws: Vec<Flaw>,
    /// Shown only, and a change of it counts as one of the flaws does. Boxed, as many have none.
    pub about: Box<About>,
    /// RFC 3339, empty if unknown. Shown, never compared for routing.
    pub created: Arc<str>,
    /// Kubernetes' resourceVersion, empty if unknown. Shown only; not part of "did it change".
    pub resource_version: Arc<str>,
}

impl Service {
    /// A service of which nothing else is known.
    pub fn new(key: ServiceKey, kind: ServiceKind, ports: Vec<ServicePort>) -> Self {
        Self {
            key,
            kind,
            ports,
            families: Vec::new(),
            traffic_policy: Box::default(),
            export_to: ExportTo::default(),
            prefers_own_zone: false,
            node_local: false,
            flaws: Vec::new(),
            about: Box::default(),
            created: "".into(),
            resource_version: "".into(),
        }
    }

    /// Equal in all that proxies can notice, or people should.
    fn same_meaning(&self, other: &Self) -> bool {
        if std::ptr::eq(self, other) {
            return true;
        }
        let Self {
            key,
            kind,
            ports,
            families,
            traffic_policy,
            export_to,
            prefers_own_zone,
            node_local,
            flaws,
            about,
            created: _,
            resource_version: _,
        } = self;
        *key == other.key
            && *kind == other.kind
            && *ports == other.ports
            && *families == other.families
            && *traffic_policy == other.traffic_policy
            && *export_to == other.export_to
            && *prefers_own_zone == other.prefers_own_zone
            && *node_local == other.node_local
            && *flaws == other.flaws
            && *about == other.about
    }

    /// The addresses that DNS gives for the service; none if headless or an alias.
    pub fn cluster_ips(&self) -> &[IpAddr] {
        match &self.kind {
            ServiceKind::ClusterIp(addresses) => addresses,
            ServiceKind::Headless | ServiceKind::ExternalName(_) | ServiceKind::Alias(_) => &[],
        }
    }
}
