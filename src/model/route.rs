//! HTTPRoutes and GRPCRoutes whose parent is a Service (GEP-1294), and ReferenceGrants, as the standard channel
//! of the Gateway API 1.5 has them.
//!
//! A source checks every field: what is here can be served as it stands, or the whole route is refused
//! ([`Route::refusal`]) and kept for people and its status alone. Which route applies to whom, and which of its
//! backends are there, `publish` says ([`ServiceRules`], [`RouteReport`]).

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::ServiceKey;

mod filter;
mod matches;
pub mod regex;
mod report;
mod rules;

pub use filter::{Cors, HeaderModifier, Mirror, PathModifier, Redirect, Rewrite, RouteFilter};
pub use matches::{GrpcMethod, NameMatch, PathMatch, RouteMatch, TextMatch};
pub use report::{
    AcceptedReason, ParentVerdict, RefsReason, RouteReport, RouteRole, RouteVerdict, Verdict,
};
pub use rules::{AppliedRoute, BackendProblem, PortRules, ResolvedBackends, ServiceRules};

/// The API group of routes and grants.
pub const GROUP: &str = "gateway.networking.k8s.io";
/// Group and version in which they are read and written.
pub const API_VERSION: &str = "gateway.networking.k8s.io/v1";

/// Where routes of both kinds apply to a port, GRPCRoutes do (GEP-1294): they are first in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKind {
    Grpc,
    Http,
}

impl RouteKind {
    pub const ALL: [Self; 2] = [Self::Grpc, Self::Http];

    /// Kubernetes' name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Grpc => "GRPCRoute",
            Self::Http => "HTTPRoute",
        }
    }

    /// As URLs and rights name it.
    pub const fn plural(self) -> &'static str {
        match self {
            Self::Grpc => "grpcroutes",
            Self::Http => "httproutes",
        }
    }
}

/// Kind, namespace and name of a route.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteKey {
    pub kind: RouteKind,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
}

impl RouteKey {
    pub fn new(kind: RouteKind, namespace: impl Into<Arc<str>>, name: impl Into<Arc<str>>) -> Self {
        Self { kind, namespace: namespace.into(), name: name.into() }
    }
}

/// `HTTPRoute NAMESPACE/NAME`.
impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub key: RouteKey,
    /// `metadata.creationTimestamp`, RFC 3339 in UTC and whole seconds, so that text order is order in time; empty
    /// if unknown. Of two routes with matches of one rank the older goes first.
    pub created: Arc<str>,
    /// `metadata.generation`, which a status repeats; none in a manifest.
    pub generation: Option<i64>,
    /// In the order of the spec.
    pub parents: Vec<ParentRef>,
    /// In the order of the spec. Empty if the route is refused.
    pub rules: Vec<RouteRule>,
    /// Why the route as a whole is not served. A good earlier version does not stay: a route that is not accepted
    /// is as if it were not there.
    pub refusal: Option<Refusal>,
    /// Kubernetes' resourceVersion, empty if unknown. Shown only; not part of "did it change".
    pub resource_version: Arc<str>,
}

impl Route {
    /// A route of which nothing else is known: without parents, of unknown age.
    pub fn new(key: RouteKey, rules: Vec<RouteRule>) -> Self {
        Self {
            key,
            created: "".into(),
            generation: None,
            parents: Vec::new(),
            rules,
            refusal: None,
            resource_version: "".into(),
        }
    }

    /// Equal in all that proxies can notice, or people should.
    pub(super) fn same_meaning(&self, other: &Self) -> bool {
        let Self { key, created, generation, parents, rules, refusal, resource_version: _ } = self;
        *key == other.key
            && *created == other.created
            && *generation == other.generation
            && *parents == other.parents
            && *rules == other.rules
            && *refusal == other.refusal
    }
}

/// Why a route is not served, whatever its parents are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// [`AcceptedReason::UnsupportedValue`] or [`AcceptedReason::IncompatibleFilters`].
    pub reason: AcceptedReason,
    /// Which field, what is wrong, and what to do.
    pub message: Arc<str>,
}

/// One of `spec.parentRefs`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRef {
    pub target: ParentTarget,
    /// As written; a status repeats it. None for the route's own namespace.
    pub namespace: Option<Arc<str>>,
    /// The name of a port of the Service.
    pub section_name: Option<Arc<str>>,
    /// The number of a port of the Service; none for all ports.
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ParentTarget {
    Service(ServiceKey),
    /// What another controller serves (a Gateway), or nobody: shown, never in a status of ours.
    Other {
        group: Arc<str>,
        kind: Arc<str>,
        namespace: Arc<str>,
        name: Arc<str>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteRule {
    pub name: Option<Arc<str>>,
    /// Never empty: a rule without matches has the one that matches all.
    pub matches: Vec<RouteMatch>,
    pub filters: Vec<RouteFilter>,
    pub backends: Vec<Backend>,
    /// `timeouts.request`; zero for none.
    pub request_timeout: Option<Duration>,
    /// `timeouts.backendRequest`; zero for none.
    pub backend_timeout: Option<Duration>,
}

impl RouteRule {
    /// A rule for all requests that does nothing but forward them.
    pub fn new(backends: Vec<Backend>) -> Self {
        Self {
            name: None,
            matches: vec![RouteMatch::any()],
            filters: Vec::new(),
            backends,
            request_timeout: None,
            backend_timeout: None,
        }
    }
}

/// One of `backendRefs`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub target: BackendRef,
    /// 0 to 1,000,000; 1 where the manifest does not say.
    pub weight: u32,
    pub filters: Vec<RouteFilter>,
}

/// What a backend or a mirror names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BackendRef {
    Service {
        key: ServiceKey,
        port: u16,
    },
    /// No Service (`InvalidKind`), or one without a port.
    Other {
        group: Arc<str>,
        kind: Arc<str>,
        namespace: Arc<str>,
        name: Arc<str>,
    },
}

/// A ReferenceGrant, as far as it is about routes and Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReferenceGrant {
    /// Its namespace is that of the backends.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    /// Routes of this kind in this namespace…
    pub from: Vec<(RouteKind, Arc<str>)>,
    /// …may name these Services; `None` for every one of the namespace.
    pub to: Vec<Option<Arc<str>>>,
}
