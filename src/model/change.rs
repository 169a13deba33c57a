//! What a source sees: objects that changed or are gone, and complete lists.

use std::sync::Arc;
use std::time::SystemTime;

use super::{EndpointSlice, ReferenceGrant, Route, RouteKey, RouteKind, Service, ServiceKey};

/// What a Node's labels say of the endpoints on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// `topology.kubernetes.io/zone` and `…/region`.
    pub zone: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
}

/// How far a relist reaches: everything, or one watched namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    All,
    Namespace(Arc<str>),
}

impl Scope {
    /// Whether objects of this namespace are within it.
    pub fn covers(&self, namespace: &str) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(own) => **own == *namespace,
        }
    }
}

/// What a source saw.
#[derive(Clone, Debug)]
pub enum Change {
    Service(Service),
    ServiceGone(ServiceKey),
    Slice(EndpointSlice),
    SliceGone {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    /// The complete list within a scope: what is not in it is gone, in one step. Shared with a
    /// source that keeps what it has read.
    Services(Scope, Vec<Arc<Service>>),
    Slices(Scope, Vec<Arc<EndpointSlice>>),
    /// Nodes, if they are watched at all.
    Node(Node),
    NodeGone(Arc<str>),
    Nodes(Vec<Node>),
    Route(Route),
    RouteGone(RouteKey),
    /// All routes of a kind within a scope.
    Routes(Scope, RouteKind, Vec<Arc<Route>>),
    Grant(ReferenceGrant),
    GrantGone {
        namespace: Arc<str>,
        name: Arc<str>,
    },
    Grants(Scope, Vec<Arc<ReferenceGrant>>),
    /// Every watch has listed once; before this nothing may be served.
    Synced,
}

/// What happened to an object, or to all objects within a scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Created or changed.
    Applied,
    Deleted,
    /// Listed as a whole.
    Relisted,
}

impl Action {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Deleted => "deleted",
            Self::Relisted => "relisted",
        }
    }
}

/// Which object a change is about, as Kubernetes names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectRef {
    /// `Service`, `EndpointSlice`, `Endpoints`, `Node`, `HTTPRoute`, `GRPCRoute` or `ReferenceGrant`.
    pub kind: &'static str,
    /// `None` for objects of the whole cluster, and for a list of all namespaces.
    pub namespace: Option<Arc<str>>,
    /// `None` for a list.
    pub name: Option<Arc<str>>,
}

/// How the model calls the Endpoints of a service among its slices, but for the service's name.
/// No slice can have such a name, because of the slash.
pub const ENDPOINTS_PREFIX: &str = "endpoints/";

impl ObjectRef {
    fn new(kind: &'static str, namespace: Option<Arc<str>>, name: Option<Arc<str>>) -> Self {
        Self { kind, namespace, name }
    }

    pub(super) fn service(key: &ServiceKey) -> Self {
        Self::new("Service", Some(key.namespace.clone()), Some(key.name.clone()))
    }

    pub(super) fn route(key: &RouteKey) -> Self {
        Self::new(key.kind.as_str(), Some(key.namespace.clone()), Some(key.name.clone()))
    }

    pub(super) fn grant(namespace: &Arc<str>, name: &Arc<str>) -> Self {
        Self::new("ReferenceGrant", Some(namespace.clone()), Some(name.clone()))
    }

    /// `name` is the model's.
    pub(super) fn slice(namespace: &Arc<str>, name: &Arc<str>) -> Self {
        let namespace = Some(namespace.clone());
        match name.strip_prefix(ENDPOINTS_PREFIX) {
            Some(name) => Self::new("Endpoints", namespace, Some(name.into())),
            None => Self::new("EndpointSlice", namespace, Some(name.clone())),
        }
    }
}

impl Change {
    /// What it is about, and what happened to that; `None` for [`Change::Synced`].
    pub fn about(&self) -> Option<(ObjectRef, Action)> {
        let list = |kind, scope: &Scope| {
            let namespace = match scope {
                Scope::All => None,
                Scope::Namespace(namespace) => Some(namespace.clone()),
            };
            (ObjectRef::new(kind, namespace, None), Action::Relisted)
        };
        Some(match self {
            Self::Service(service) => (ObjectRef::service(&service.key), Action::Applied),
            Self::ServiceGone(key) => (ObjectRef::service(key), Action::Deleted),
            Self::Slice(slice) => {
                (ObjectRef::slice(&slice.service.namespace, &slice.name), Action::Applied)
            }
            Self::SliceGone { namespace, name } => {
                (ObjectRef::slice(namespace, name), Action::Deleted)
            }
            Self::Services(scope, _) => list("Service", scope),
            Self::Slices(scope, all) => {
                // A source has the one kind or the other; a folder may have both.
                let endpoints =
                    all.first().is_some_and(|slice| slice.name.starts_with(ENDPOINTS_PREFIX));
                list(if endpoints { "Endpoints" } else { "EndpointSlice" }, scope)
            }
            Self::Node(node) => {
                (ObjectRef::new("Node", None, Some(node.name.clone())), Action::Applied)
            }
            Self::NodeGone(name) => {
                (ObjectRef::new("Node", None, Some(name.clone())), Action::Deleted)
            }
            Self::Nodes(_) => list("Node", &Scope::All),
            Self::Route(route) => (ObjectRef::route(&route.key), Action::Applied),
            Self::RouteGone(key) => (ObjectRef::route(key), Action::Deleted),
            Self::Routes(scope, kind, _) => list(kind.as_str(), scope),
            Self::Grant(grant) => {
                (ObjectRef::grant(&grant.namespace, &grant.name), Action::Applied)
            }
            Self::GrantGone { namespace, name } => {
                (ObjectRef::grant(namespace, name), Action::Deleted)
            }
            Self::Grants(scope, _) => list("ReferenceGrant", scope),
            Self::Synced => return None,
        })
    }
}

/// One watch of an API server.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WatchId {
    /// The kind of its objects, as in [`ObjectRef`].
    pub kind: &'static str,
    pub scope: Scope,
}

/// A change as it comes from a source, with what people want to know of it.
#[derive(Clone, Debug)]
pub struct SourceEvent {
    /// `None` where a watch has only got on: a bookmark, or a change of what it does not watch.
    pub change: Option<Change>,
    /// Where the watch said something else than the change does: an object that was applied and
    /// cannot be used is as good as gone.
    pub action: Option<Action>,
    /// When the source saw it.
    pub seen: SystemTime,
    /// The watch, where there is one.
    pub watch: Option<WatchId>,
    /// The `resourceVersion` that the watch has got to with this. They are numbers that grow (KEP-5504).
    /// `None` where there is none, or where it is no number.
    pub version: Option<u64>,
}

/// A change of which nothing else is known, seen now.
impl From<Change> for SourceEvent {
    fn from(change: Change) -> Self {
        Self {
            change: Some(change),
            action: None,
            seen: SystemTime::now(),
            watch: None,
            version: None,
        }
    }
}
