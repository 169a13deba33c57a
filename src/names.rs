//! Names and ids, both ways: resource types, clusters, listeners, routes, hosts, node ids.
//!
//! The shapes are Istio's, so that people and tools recognise them
//! (`outbound|9080||reviews.default.svc.cluster.local`, `0.0.0.0_9080`). No state, no I/O.
//!
//! A service's `name` and `namespace` are taken to be DNS labels, as the API server guarantees:
//! that alone keeps the names built here apart from each other.

use std::net::{IpAddr, Ipv4Addr};

use pilothouse_xds::{ServedType, TypeIndex};
use thiserror::Error;

mod discovery;
mod spoken;
mod stat_name;

pub use discovery::{
    DISCOVERY_METADATA, Discovery, MAX_USES_BYTES, MAX_USES_ENTRIES, USES_METADATA, read_of_uses,
    uses_entries,
};
pub use spoken::PortProtocol;
pub use stat_name::{named_by_stat_name, service_cluster, stat_name};

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

    /// The types as the protocol knows them, in the order of [`Self::IN_ORDER`].
    pub const TABLE: &[ServedType; Self::COUNT] =
        &[ServedType::CLUSTER, ServedType::ENDPOINT, ServedType::LISTENER, ServedType::ROUTE];

    pub fn type_url(self) -> &'static str {
        Self::TABLE[self.index()].type_url
    }

    /// Whether a state-of-the-world response must carry the whole set because absence deletes
    /// (`docs/protocol.md`, rule 7). Only these types have the wildcard (rule 6).
    pub fn is_full_state(self) -> bool {
        Self::TABLE[self.index()].full_state
    }

    pub fn from_type_url(url: &str) -> Option<Self> {
        Self::IN_ORDER.into_iter().find(|one| one.type_url() == url)
    }

    /// The short name operators know, as in metrics labels.
    pub fn short(self) -> &'static str {
        Self::TABLE[self.index()].short_name
    }
}

impl From<ResourceType> for TypeIndex {
    fn from(resource_type: ResourceType) -> Self {
        Self(resource_type.index())
    }
}

impl From<TypeIndex> for ResourceType {
    /// The index must be one of [`ResourceType::TABLE`].
    fn from(index: TypeIndex) -> Self {
        Self::IN_ORDER[index.0]
    }
}

/// The type's URL.
impl AsRef<str> for ResourceType {
    fn as_ref(&self) -> &str {
        self.type_url()
    }
}

/// The cluster's DNS domain unless it is told otherwise.
pub const DEFAULT_DOMAIN: &str = "cluster.local";

/// In the metadata of a node that is no proxy but a probe in its name, of `pilothouse doctor` or of a
/// sidecar's agent.
pub const PROBE_METADATA: &str = "PILOTHOUSE_PROBE";

/// The cluster without endpoints: connections to it are closed at once.
pub const BLACK_HOLE_CLUSTER: &str = "BlackHoleCluster";
/// The cluster that goes where the captured connection was meant to go.
pub const PASSTHROUGH_CLUSTER: &str = "PassthroughCluster";
/// The same for captured inbound connections, told apart by their source address.
pub const INBOUND_PASSTHROUGH_CLUSTER: &str = "InboundPassthroughCluster";

/// The cluster that never exists, for the share of a route's backends that are not valid.
pub const INVALID_BACKEND_CLUSTER: &str = "InvalidBackendCluster";

/// The listener that iptables redirects outgoing connections to.
pub const VIRTUAL_OUTBOUND_LISTENER: &str = "virtualOutbound";
/// The listener that iptables redirects incoming connections to.
pub const VIRTUAL_INBOUND_LISTENER: &str = "virtualInbound";

/// The one route table of a standalone Envoy.
pub const STANDALONE_TABLE: &str = "http";
/// The virtual host, and its route, for hosts that no service answers to.
pub const ALLOW_ANY: &str = "allow_any";

/// The full name of a service, `NAME.NAMESPACE.svc.DOMAIN`.
pub fn host(name: &str, namespace: &str, domain: &str) -> String {
    format!("{name}.{namespace}.svc.{domain}")
}

/// Name and namespace of the service whose full name this is, or its form without the domain
/// (`NAME.NAMESPACE.svc`). Shorter forms mean a service only to a resolver with a search list, and
/// are taken for names outside.
pub fn service_of_host<'a>(host: &'a str, domain: &str) -> Option<(&'a str, &'a str)> {
    let inside = match host.strip_suffix(domain).and_then(|rest| rest.strip_suffix('.')) {
        Some(inside) => inside,
        None => host,
    };
    let (name, namespace) = inside.strip_suffix(".svc")?.split_once('.')?;
    (!name.is_empty() && !namespace.is_empty() && !namespace.contains('.'))
        .then_some((name, namespace))
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, up to 63 characters (RFC 1123).
pub fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let edge = |byte: Option<&u8>| byte.is_some_and(|byte| *byte != b'-');
    let bytes = text.as_bytes();
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().copied().all(inner)
}

/// The trust domain of a SPIFFE id, by its specification: lower-case letters, digits, dots, hyphens and
/// underscores; of a DNS name's length.
pub fn is_trust_domain(text: &str) -> bool {
    let allowed = |byte: u8| {
        byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
    };
    (1..=253).contains(&text.len()) && text.bytes().all(allowed)
}

/// Every name under which a service's `host` is looked up, the full name first.
///
/// The bare name is among them only if `local`, that is for a client in the service's namespace.
/// The forms of two different services never meet: they have one, two, three and more labels, and
/// each spells out name and namespace.
pub fn dns_forms(name: &str, namespace: &str, domain: &str, local: bool) -> Vec<String> {
    let full = host(name, namespace, domain);
    let rooted = format!("{full}.");
    let mut forms = vec![full, rooted];
    if local {
        forms.push(name.to_owned());
    }
    forms.extend([format!("{name}.{namespace}"), format!("{name}.{namespace}.svc")]);
    forms
}

/// An address as it stands in a Host header: IPv6 in brackets.
pub fn host_of_address(address: IpAddr) -> String {
    match address {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// `outbound|PORT||HOST`. The resource name of the cluster's endpoints is the same.
pub fn outbound_cluster(port: u16, host: &str) -> String {
    format!("outbound|{port}||{host}")
}

/// The beginning of [`outbound_cluster`]'s names.
pub const OUTBOUND: &str = "outbound|";

/// Whether this is the name of a cluster for outbound requests.
pub fn is_outbound(cluster: &str) -> bool {
    cluster.starts_with(OUTBOUND)
}

/// `outbound|PORT||ADDRESS`: the cluster of whatever has this address, for on-demand sidecars.
pub fn address_cluster(port: u16, address: IpAddr) -> String {
    outbound_cluster(port, &address.to_string())
}

/// `mirror|PORT||HOST`: the cluster of a Service for copies of requests, for on-demand sidecars. Envoy asks for no
/// cluster to send a copy, so a wildcard has these.
pub fn mirror_cluster(port: u16, host: &str) -> String {
    format!("mirror|{port}||{host}")
}

/// Whether this is a name of [`address_cluster`].
pub fn is_of_address(cluster: &str) -> bool {
    let Some((port, address)) =
        cluster.strip_prefix(OUTBOUND).and_then(|rest| rest.split_once("||"))
    else {
        return false;
    };
    match (port.parse(), address.parse()) {
        // As we write them, so that no address has two names.
        (Ok(port), Ok(address)) => address_cluster(port, address) == cluster,
        _ => false,
    }
}

/// `inbound|PORT||`, by the port that the workload itself listens on.
pub fn inbound_cluster(port: u16) -> String {
    format!("inbound|{port}||")
}

/// What a cluster's name says, see [`outbound_cluster`] and [`inbound_cluster`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClusterName<'a> {
    Outbound { port: u16, host: &'a str },
    Inbound { port: u16 },
}

impl<'a> ClusterName<'a> {
    /// Reads a name back. `None` for the fixed clusters, for subsets (there are none here) and for
    /// whatever else is not one of ours.
    pub fn parse(name: &'a str) -> Option<Self> {
        let mut parts = name.split('|');
        let (direction, port) = (parts.next()?, parts.next()?.parse().ok()?);
        let (subset, host) = (parts.next()?, parts.next()?);
        match (direction, subset, host, parts.next()) {
            ("outbound", "", host, None) if !host.is_empty() => Some(Self::Outbound { port, host }),
            ("inbound", "", "", None) => Some(Self::Inbound { port }),
            _ => None,
        }
    }
}

/// `ADDRESS_PORT`, an IPv6 address without brackets.
pub fn listener(address: IpAddr, port: u16) -> String {
    format!("{address}_{port}")
}

/// `0.0.0.0_PORT`.
pub fn wildcard_listener(port: u16) -> String {
    listener(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port)
}

/// The route table of an HTTP port, its number.
pub fn route_table(port: u16) -> String {
    port.to_string()
}

/// The route table of one port of a Service that has rules, for captured requests to its cluster IPs: `HOST:PORT`.
/// Hosts have letters, so it is no port's table.
pub fn service_table(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

/// `HOST:PORT`.
pub fn virtual_host(host: &str, port: u16) -> String {
    format!("{host}:{port}")
}

/// The sort of proxy that a node id names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeType {
    Sidecar,
    Router,
}

/// An id of the shape `type~ip~name.namespace~domain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeId<'a> {
    pub node_type: NodeType,
    pub address: IpAddr,
    /// The third part as it stands, usually `pod.namespace`.
    pub name: &'a str,
    /// What follows the last dot of `name`, else the domain's first label if the domain is
    /// `namespace.svc.…`, else none.
    pub namespace: Option<&'a str>,
    /// Usually `namespace.svc.cluster.local`; may be empty.
    pub domain: &'a str,
}

/// Why a node id with a `~` in it is none.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeIdError {
    #[error(
        "node id {id:?} has {parts} parts between its `~`, not 4: \
         it must be type~ip~name.namespace~domain (or have no `~` at all, for a standalone Envoy)"
    )]
    Parts { id: String, parts: usize },
    #[error(
        "node id {id:?} names the type {found:?}, which is not served: \
         type~ip~name.namespace~domain must begin with sidecar or router"
    )]
    Type { id: String, found: String },
    #[error(
        "node id {id:?} has no valid IP address as its second part ({found:?}): \
         it must be type~ip~name.namespace~domain"
    )]
    Address { id: String, found: String },
    #[error(
        "node id {id:?} has an empty third part: it must be type~ip~name.namespace~domain, \
         the name usually being the pod's"
    )]
    Name { id: String },
}

impl<'a> NodeId<'a> {
    /// Reads a node id. `Ok(None)` if it is not of this family, having no `~`: a standalone Envoy
    /// may call itself what it likes.
    ///
    /// Istio's other types (waypoint, ztunnel, agentgateway) need configuration that is not made
    /// here; refusing them says so, where treating them as something else would only puzzle.
    ///
    /// # Errors
    /// If it has a `~` but not four parts, a type that is served, an IP address and a name.
    pub fn parse(id: &'a str) -> Result<Option<Self>, NodeIdError> {
        if !id.contains('~') {
            return Ok(None);
        }
        let parts: Vec<&str> = id.split('~').collect();
        let &[node_type, address, name, domain] = parts.as_slice() else {
            return Err(NodeIdError::Parts { id: id.to_owned(), parts: parts.len() });
        };
        let node_type = match node_type {
            "sidecar" => NodeType::Sidecar,
            "router" => NodeType::Router,
            found => {
                return Err(NodeIdError::Type { id: id.to_owned(), found: found.to_owned() });
            }
        };
        let address = address
            .parse()
            .map_err(|_| NodeIdError::Address { id: id.to_owned(), found: address.to_owned() })?;
        if name.is_empty() {
            return Err(NodeIdError::Name { id: id.to_owned() });
        }
        let namespace = match name.rsplit_once('.') {
            Some((_, namespace)) if !namespace.is_empty() => Some(namespace),
            _ => match domain.split_once('.') {
                Some((namespace, rest)) if rest == "svc" || rest.starts_with("svc.") => {
                    Some(namespace).filter(|namespace| !namespace.is_empty())
                }
                _ => None,
            },
        };
        Ok(Some(Self { node_type, address, name, namespace, domain }))
    }
}

#[cfg(test)]
mod tests;
