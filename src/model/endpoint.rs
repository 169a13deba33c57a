//! Endpoints, as slices say of them.

use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use imbl::OrdMap;

use super::ServiceKey;

/// Whether an endpoint may get traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    Ready,
    /// Terminating and still serving: used by nobody while a ready one is left.
    Draining,
    /// Neither ready nor serving.
    NotReady,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: IpAddr,
    pub state: EndpointState,
    pub zone: Option<Arc<str>>,
    /// The zones that Kubernetes means it for (hints); empty if it says nothing.
    pub for_zones: Box<[Arc<str>]>,
    pub node: Option<Arc<str>>,
    /// The pod's own DNS label under a headless service.
    pub hostname: Option<Arc<str>>,
    /// The same for the addresses of one pod, which has two of them in a dual-stack cluster, and
    /// different for different pods.
    pub pod: Option<NonZeroU64>,
    /// The pod's name; shown only.
    pub pod_name: Option<Arc<str>>,
}

impl Endpoint {
    /// An endpoint of which nothing else is known.
    pub fn new(address: IpAddr, state: EndpointState) -> Self {
        Self {
            address,
            state,
            zone: None,
            for_zones: Box::default(),
            node: None,
            hostname: None,
            pod: None,
            pod_name: None,
        }
    }

    /// Whether requests may go there, if only while nothing better is left.
    pub fn is_usable(&self) -> bool {
        self.state != EndpointState::NotReady
    }
}

/// The number behind a port name, as one slice has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// Empty for the unnamed port.
    pub name: Arc<str>,
    pub port: u16,
}

/// Endpoints that share a list of ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subset {
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<Endpoint>,
}

/// One EndpointSlice (always one subset) or one core/v1 Endpoints object (any number).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    /// The slice's own name, unique within the namespace; `endpoints/SERVICE` for an Endpoints
    /// object.
    pub name: Arc<str>,
    /// The service it belongs to (label `kubernetes.io/service-name`), in the slice's namespace.
    pub service: ServiceKey,
    pub subsets: Vec<Subset>,
}

/// The slices of a service by their names. Cloning is O(1).
pub type SlicesOfService = OrdMap<Arc<str>, Arc<EndpointSlice>>;
