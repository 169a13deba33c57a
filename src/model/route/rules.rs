//! The rules in effect: which routes apply to the requests for a Service, and whither they lead.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{BackendRef, Route, RouteKind};
use crate::model::Service;

/// All rules for the requests to one Service.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceRules {
    /// For clients of every namespace that has none of its own, by port of the Service (producer routes).
    pub producer: BTreeMap<u16, Arc<PortRules>>,
    /// For clients of these namespaces, in the place of the producer's on every port (consumer routes; GEP-1294:
    /// a namespace has the ones or the others, they are not merged).
    pub consumers: BTreeMap<Arc<str>, BTreeMap<u16, Arc<PortRules>>>,
}

impl ServiceRules {
    /// The rules for clients of this namespace (of none), by port.
    pub fn for_clients_of(&self, namespace: Option<&str>) -> &BTreeMap<u16, Arc<PortRules>> {
        namespace.and_then(|name| self.consumers.get(name)).unwrap_or(&self.producer)
    }

    /// The ports that have rules, for whomever.
    pub fn ports(&self) -> BTreeSet<u16> {
        self.consumers.values().chain([&self.producer]).flat_map(BTreeMap::keys).copied().collect()
    }
}

/// The routes for one port of a Service. A request that none of their rules matches gets a 404.
#[derive(Clone, Debug, PartialEq)]
pub struct PortRules {
    pub kind: RouteKind,
    /// At least one. The oldest first, then by `NAMESPACE/NAME`.
    pub routes: Vec<AppliedRoute>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct AppliedRoute {
    pub route: Arc<Route>,
    pub backends: Arc<ResolvedBackends>,
}

/// Every backend and mirror that a route names: the Service (of kind ClusterIP or Headless, with that port), or
/// what is wrong with it. Shared by all Services to which the route applies.
pub type ResolvedBackends = BTreeMap<BackendRef, Result<Arc<Service>, BackendProblem>>;

/// Why a backend's share of the requests is answered with an error (500, of a GRPCRoute UNAVAILABLE).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendProblem {
    /// No Service of the core group, or an ExternalName.
    InvalidKind,
    /// There is no such Service.
    NotFound,
    /// The Service has no such port, or not for TCP.
    NoSuchPort,
    /// The port speaks a protocol that a route cannot lead to.
    UnsupportedProtocol,
    /// It is in another namespace, and no ReferenceGrant there allows it.
    NotPermitted,
}
