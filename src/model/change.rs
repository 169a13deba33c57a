//! What a source sees: objects that changed or are gone, and complete lists.

use std::sync::Arc;

use super::{EndpointSlice, Service, ServiceKey};

/// What a Node's labels say of the endpoints on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub name: Arc<str>,
    /// `topology.kubernetes.io/zone` and `…/region`.
    pub zone: Option<Arc<str>>,
    pub region: Option<Arc<str>>,
}

/// How far a relist reaches: everything, or one watched namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Namespace(Arc<str>),
}

impl Scope {
    pub(super) fn covers(&self, namespace: &str) -> bool {
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
    /// Every watch has listed once; before this nothing may be served.
    Synced,
}
