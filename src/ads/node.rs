//! What a proxy says of itself in its first request, and what it therefore gets.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{Node, node::UserAgentVersionType};
use envoy_types::pb::google::protobuf::value::Kind;
use thiserror::Error;

use crate::names::{NodeId, NodeIdError, NodeType, PROBE_METADATA};
use crate::proxies::ProxyIdentity;
use crate::view::{Need, ProxyKind, ViewKey};

/// Metadata of a node that changes what it gets.
const INTERCEPTION_MODE: &str = "INTERCEPTION_MODE";
const INSTANCE_IPS: &str = "INSTANCE_IPS";
const NAMESPACE: &str = "NAMESPACE";
const LISTEN_ADDRESS: &str = "LISTEN_ADDRESS";
const LISTEN_PORT: &str = "LISTEN_PORT";

/// Addresses that are taken from the metadata: a pod has one of each family, and few have more.
const MOST_ADDRESSES: usize = 16;

/// Why a node cannot be served. Its stream ends with `InvalidArgument`.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(
        "missing node information: the first request on a stream must carry a node with an id \
         (Envoy: --service-node or node.id in the bootstrap)"
    )]
    Missing,
    #[error(transparent)]
    Id(#[from] NodeIdError),
    #[error("node metadata {key} is {found}: expected {expected}")]
    Metadata { key: &'static str, found: String, expected: &'static str },
}

/// Reads the node of a stream's first request (rule 15): who it is, and what it needs.
///
/// # Errors
/// If there is none, or it contradicts itself.
pub fn identify(node: Option<&Node>) -> Result<(ProxyIdentity, Need), NodeError> {
    let node = node.filter(|node| !node.id.is_empty()).ok_or(NodeError::Missing)?;
    let id = NodeId::parse(&node.id)?;
    let kind = match &id {
        None => standalone(node)?,
        Some(id) if id.node_type == NodeType::Router => ProxyKind::Router,
        Some(_) if text(node, INTERCEPTION_MODE).as_deref() == Some("NONE") => {
            ProxyKind::BoundSidecar
        }
        Some(_) => ProxyKind::Sidecar,
    };
    let of_id = id.as_ref().and_then(|id| id.namespace);
    let namespace =
        text(node, NAMESPACE).or_else(|| of_id.map(str::to_owned)).filter(|name| !name.is_empty());
    let addresses = match (&kind, &id) {
        (ProxyKind::Sidecar, Some(id)) => own_addresses(node, id.address),
        _ => Arc::default(),
    };
    let zone =
        node.locality.as_ref().map(|locality| &*locality.zone).filter(|zone| !zone.is_empty());
    let view = ViewKey { zone: zone.map(Arc::from), ..ViewKey::new(kind, namespace.as_deref()) };
    let identity = ProxyIdentity {
        node_id: node.id.as_str().into(),
        name: id.as_ref().map_or(node.id.as_str(), |id| id.name).into(),
        cluster: node.cluster.as_str().into(),
        view: view.clone(),
        user_agent: user_agent(node).into(),
        locality: locality(node).into(),
        probe: text(node, PROBE_METADATA).is_some(),
    };
    Ok((identity, Need { view, addresses }))
}

/// The addresses of the workload, sorted: the id's, and those of another family from the
/// metadata, where what is no address is no harm either.
fn own_addresses(node: &Node, of_id: IpAddr) -> Arc<[IpAddr]> {
    let listed = text(node, INSTANCE_IPS).unwrap_or_default();
    let listed = listed.split(',').filter_map(|one| one.trim().parse().ok());
    let all: BTreeSet<IpAddr> = std::iter::once(of_id)
        .chain(listed.take(MOST_ADDRESSES))
        .map(|one| one.to_canonical())
        .collect();
    all.into_iter().collect()
}

fn standalone(node: &Node) -> Result<ProxyKind, NodeError> {
    let ProxyKind::Standalone { mut address, mut port } = ProxyKind::DEFAULT_STANDALONE else {
        return Ok(ProxyKind::DEFAULT_STANDALONE);
    };
    if let Some(found) = text(node, LISTEN_ADDRESS) {
        address = found.parse::<IpAddr>().map_err(|_| NodeError::Metadata {
            key: LISTEN_ADDRESS,
            found: format!("{found:?}"),
            expected: "an IP address, for instance \"127.0.0.1\"",
        })?;
    }
    if let Some(found) = text(node, LISTEN_PORT) {
        port = found.parse().ok().filter(|port| *port != 0).ok_or(NodeError::Metadata {
            key: LISTEN_PORT,
            found,
            expected: "a port from 1 to 65535, for instance 15080",
        })?;
    }
    Ok(ProxyKind::Standalone { address, port })
}

/// A metadata field as text; a whole number counts as its digits, as YAML writers expect.
fn text(node: &Node, key: &str) -> Option<String> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(text) => Some(text.clone()),
        Kind::NumberValue(number) => Some(number.to_string()),
        _ => None,
    }
}

fn user_agent(node: &Node) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => {
            format!("{}/{version}", node.user_agent_name)
        }
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => {
            let version = build.version.as_ref().map(|version| {
                format!("/{}.{}.{}", version.major_number, version.minor_number, version.patch)
            });
            format!("{}{}", node.user_agent_name, version.unwrap_or_default())
        }
        None => node.user_agent_name.clone(),
    }
}

fn locality(node: &Node) -> String {
    let Some(locality) = &node.locality else { return String::new() };
    let text = [&*locality.region, &*locality.zone, &*locality.sub_zone].join("/");
    text.trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::Locality;
    use envoy_types::pb::google::protobuf::{Struct, Value};

    use super::*;

    fn node(id: &str, metadata: &[(&str, Kind)]) -> Node {
        let fields = metadata
            .iter()
            .map(|(key, kind)| ((*key).to_owned(), Value { kind: Some(kind.clone()) }))
            .collect();
        Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Default::default() }
    }

    fn string(text: &str) -> Kind {
        Kind::StringValue(text.to_owned())
    }

    /// Who it is; what it needs is the same view.
    fn identity(node: &Node) -> ProxyIdentity {
        let (identity, need) = identify(Some(node)).unwrap();
        assert_eq!(identity.view, need.view);
        identity
    }

    #[test]
    fn the_zone_is_that_of_its_locality() {
        let mut node = node("edge", &[]);
        assert_eq!(identity(&node).view.zone, None);
        let locality = |zone: &str| Locality { zone: zone.to_owned(), ..Default::default() };
        node.locality = Some(locality(""));
        assert_eq!(identity(&node).view.zone, None);
        node.locality = Some(locality("zone-a"));
        assert_eq!(identity(&node).view.zone.as_deref(), Some("zone-a"));
    }

    #[test]
    fn only_a_captured_sidecar_has_addresses_to_look_for() {
        let addresses = |id: &str, metadata: &[(&str, Kind)]| {
            let (_, need) = identify(Some(&node(id, metadata))).unwrap();
            need.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        let sidecar = "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local";
        assert_eq!(addresses(sidecar, &[]), ["10.1.2.3"]);
        let listed = ("INSTANCE_IPS", string("fd00::3, 10.1.2.3,nonsense,"));
        assert_eq!(addresses(sidecar, std::slice::from_ref(&listed)), ["10.1.2.3", "fd00::3"]);
        assert!(addresses(sidecar, &[("INTERCEPTION_MODE", string("NONE"))]).is_empty());
        let router = "router~10.1.2.3~gw.edge~edge.svc.cluster.local";
        assert!(addresses(router, std::slice::from_ref(&listed)).is_empty());
        assert!(addresses("edge", &[listed]).is_empty());
    }

    #[test]
    fn the_kind_comes_from_the_node() {
        let sidecar = "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local";
        let got = identity(&node(sidecar, &[]));
        assert_eq!((&got.view.kind, &*got.name), (&ProxyKind::Sidecar, "web-0.shop"));
        assert_eq!(got.view.namespace.as_deref(), Some("shop"));

        let got = identity(&node(sidecar, &[("INTERCEPTION_MODE", string("NONE"))]));
        assert_eq!(got.view.kind, ProxyKind::BoundSidecar);
        let got = identity(&node("router~10.1.2.3~gw.edge~edge.svc.cluster.local", &[]));
        assert_eq!(got.view.kind, ProxyKind::Router);

        let metadata = [
            ("LISTEN_ADDRESS", string("127.0.0.1")),
            ("LISTEN_PORT", Kind::NumberValue(8000.0)),
            ("NAMESPACE", string("shop")),
        ];
        let got = identity(&node("edge", &metadata));
        let address = "127.0.0.1".parse().unwrap();
        assert_eq!(got.view.kind, ProxyKind::Standalone { address, port: 8000 });
        assert_eq!(got.view.namespace.as_deref(), Some("shop"));
        let got = identity(&node("edge", &[]));
        assert_eq!(got.view, ViewKey::new(ProxyKind::DEFAULT_STANDALONE, None));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |node: Option<&Node>| identify(node).unwrap_err().to_string();
        assert!(error(None).starts_with("missing node information"));
        assert!(error(Some(&node("", &[]))).starts_with("missing node information"));
        assert!(error(Some(&node("sidecar~10.1.2.3~x", &[]))).contains("parts"));
        for (key, value) in [
            ("LISTEN_ADDRESS", string("localhost")),
            ("LISTEN_PORT", string("0")),
            ("LISTEN_PORT", Kind::NumberValue(70000.0)),
        ] {
            assert!(error(Some(&node("edge", &[(key, value)]))).contains(key));
        }
    }
}
