//! What the protocol must know of a resource type.
//!
//! A server has a table of the types that it serves, in the order in which their resources must be sent
//! (make before break): what others refer to comes first. A type is named by its place in that table.

/// A resource type in a server's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServedType {
    /// `type.googleapis.com/…`
    pub type_url: &'static str,
    /// Whether a state-of-the-world response must carry the whole set because absence deletes. Only such
    /// types have the wildcard.
    pub full_state: bool,
    pub role: Role,
}

/// How resources of a type refer to each other, which decides what a response must wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Clusters: others refer to them, so their removals are sent last, in a response of their own.
    Target,
    /// Endpoints: a changed [`Self::Target`] warms, that is, waits until the resource of this type with the
    /// same name is sent again.
    Member,
    /// Listeners and routes: they refer to a [`Self::Target`], and changes of them wait until new targets
    /// are acknowledged.
    Referrer,
    /// Neither refers to others nor is referred to.
    Independent,
}

/// Envoy's types. A server that serves the usual four has the table
/// `[CLUSTER, ENDPOINT, LISTENER, ROUTE]`.
impl ServedType {
    pub const CLUSTER: Self = Self {
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        full_state: true,
        role: Role::Target,
    };
    pub const ENDPOINT: Self = Self {
        type_url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        full_state: false,
        role: Role::Member,
    };
    pub const LISTENER: Self = Self {
        type_url: "type.googleapis.com/envoy.config.listener.v3.Listener",
        full_state: true,
        role: Role::Referrer,
    };
    pub const ROUTE: Self = Self {
        type_url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        full_state: false,
        role: Role::Referrer,
    };
    pub const SECRET: Self = Self {
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        full_state: false,
        role: Role::Independent,
    };
}

/// The place of a type in a server's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeIndex(pub usize);
