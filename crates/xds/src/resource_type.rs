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
    /// The short name, as in log and metrics: `cds`.
    pub short_name: &'static str,
    /// The discovery service that serves this type alone, if there is one.
    pub service: Option<DiscoveryService>,
}

/// A gRPC service that serves one type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiscoveryService {
    /// Its full name.
    pub name: &'static str,
    /// The noun in its methods' names: `Stream…`, `Delta…`, `Fetch…`.
    pub noun: &'static str,
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
        short_name: "cds",
        service: Some(DiscoveryService {
            name: "envoy.service.cluster.v3.ClusterDiscoveryService",
            noun: "Clusters",
        }),
    };
    pub const ENDPOINT: Self = Self {
        type_url: "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        full_state: false,
        role: Role::Member,
        short_name: "eds",
        service: Some(DiscoveryService {
            name: "envoy.service.endpoint.v3.EndpointDiscoveryService",
            noun: "Endpoints",
        }),
    };
    pub const LISTENER: Self = Self {
        type_url: "type.googleapis.com/envoy.config.listener.v3.Listener",
        full_state: true,
        role: Role::Referrer,
        short_name: "lds",
        service: Some(DiscoveryService {
            name: "envoy.service.listener.v3.ListenerDiscoveryService",
            noun: "Listeners",
        }),
    };
    pub const ROUTE: Self = Self {
        type_url: "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        full_state: false,
        role: Role::Referrer,
        short_name: "rds",
        service: Some(DiscoveryService {
            name: "envoy.service.route.v3.RouteDiscoveryService",
            noun: "Routes",
        }),
    };
    pub const SECRET: Self = Self {
        type_url: "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        full_state: false,
        role: Role::Independent,
        short_name: "sds",
        service: Some(DiscoveryService {
            name: "envoy.service.secret.v3.SecretDiscoveryService",
            noun: "Secrets",
        }),
    };
}

/// The place of a type in a server's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeIndex(pub usize);
