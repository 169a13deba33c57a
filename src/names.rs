//! Names and ids, both ways: resource types, clusters, listeners, routes, hosts, node ids.
//!
//! The shapes are Istio's, so that people and tools recognise them
//! (`outbound|9080||reviews.default.svc.cluster.local`, `0.0.0.0_9080`). No state, no I/O.

/// The resource types that Pilothouse serves, in the order in which they must be sent
/// (`docs/protocol.md`, rule 18: make before break).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ResourceType {
    Cluster,
    Endpoint,
    Listener,
    Route,
}

impl ResourceType {
    pub const COUNT: usize = 4;
    pub const IN_ORDER: [Self; Self::COUNT] =
        [Self::Cluster, Self::Endpoint, Self::Listener, Self::Route];

    /// Position in [`Self::IN_ORDER`], for arrays that have one slot a type.
    pub fn index(self) -> usize {
        self as usize
    }

    pub fn type_url(self) -> &'static str {
        match self {
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::IN_ORDER.into_iter().find(|one| one.type_url() == url)
    }

    /// The short name operators know, as in metrics labels.
    pub fn short(self) -> &'static str {
        match self {
            Self::Cluster => "cds",
            Self::Endpoint => "eds",
            Self::Listener => "lds",
            Self::Route => "rds",
        }
    }

    /// Whether a state-of-the-world response must carry the whole set because absence deletes
    /// (`docs/protocol.md`, rule 7). Only these types know the wildcard (rule 6).
    pub fn is_full_state(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener)
    }
}
