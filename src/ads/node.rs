//! The node of a proxy's first request: its identity, and the view that it needs.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use pilothouse_xds::discovery_request::MalformedRequest;
use pilothouse_xds::peer_text;
use pilothouse_xds_server::node::Node;
use serde::Deserialize;
use thiserror::Error;

use crate::identity::Claim;
use crate::names::{
    self, DISCOVERY_METADATA, Discovery, NodeId, NodeIdError, NodeType, PROBE_METADATA,
    USES_METADATA,
};
use crate::proxies::{Labels, ProxyIdentity, Uses};
use crate::view::{ProxyKind, Spared, ViewKey, ViewRequest};

/// Metadata of a node that its view depends on.
const INTERCEPTION_MODE: &str = "INTERCEPTION_MODE";
const UNPRIVILEGED_POD: &str = "UNPRIVILEGED_POD";
const POD_PORTS: &str = "POD_PORTS";
const INSTANCE_IPS: &str = "INSTANCE_IPS";
const NAMESPACE: &str = "NAMESPACE";
const SERVICE_ACCOUNT: &str = "SERVICE_ACCOUNT";
const NODE_NAME: &str = "NODE_NAME";
const LISTEN_ADDRESS: &str = "LISTEN_ADDRESS";
const LISTEN_PORT: &str = "LISTEN_PORT";

/// Metadata that is shown: the labels of the pod. As many as fit into this, bytes of keys and values;
/// the usual pod has some hundreds.
const LABELS: &str = "LABELS";
const LABEL_BYTES: usize = 4 << 10;

/// Addresses that are taken from the metadata: a pod has one of each family, and few have more.
const MOST_ADDRESSES: usize = 16;
/// Ports of the workload that are taken from the metadata.
const MOST_PORTS: usize = 64;
/// Bytes of the list of ports: enough for a hundred, with their other fields.
const MAX_PORTS_TEXT: usize = 16 << 10;

/// Bytes of a whole node. Those of Istio's agents have up to 20 KiB (labels and annotations).
const MAX_NODE: usize = 256 << 10;

/// Bytes of an id: `sidecar~IP~POD.NS~DOMAIN` with the longest names there are has 680.
const MAX_ID: usize = 1024;

/// Bytes of one metadata value that is read, and of a locality's part.
const MAX_VALUE: usize = 1024;
const MAX_LOCALITY: usize = 253;

/// Bytes of what is only shown: cluster, user agent, a value in a refusal.
const MAX_SHOWN: usize = 256;

/// Why a node cannot be served. Its stream ends with `InvalidArgument`.
#[derive(Debug, Error)]
pub enum NodeError {
    #[error(
        "missing node information: the first request on a stream must carry a node with an id \
         (Envoy: --service-node or node.id in the bootstrap)"
    )]
    Missing,
    #[error("node {what} has {len} bytes, the limit is {limit}")]
    TooLong { what: &'static str, len: usize, limit: usize },
    #[error(transparent)]
    MalformedRequest(#[from] MalformedRequest),
    #[error(transparent)]
    Id(#[from] NodeIdError),
    #[error("node metadata {key} is {found}: expected {expected}")]
    Metadata { key: &'static str, found: String, expected: &'static str },
}

/// What a node says.
#[derive(Debug)]
pub struct Identified {
    pub identity: ProxyIdentity,
    pub request: ViewRequest,
    /// On whose behalf the proxy asks, to be compared with who it is.
    pub claim: Claim,
}

/// Reads the encoded node of a stream's first request (rule 15): the proxy's identity, the view that it
/// needs and what it claims.
///
/// # Errors
/// There is no node, it is invalid, or a field is too long.
pub fn identify(node: Option<&[u8]>) -> Result<Identified, NodeError> {
    let node = node.ok_or(NodeError::Missing)?;
    check_len("information", node.len(), MAX_NODE)?;
    let node = Node::read(node)?;
    if node.id.is_empty() {
        return Err(NodeError::Missing);
    }
    check_len("id", node.id.len(), MAX_ID)?;
    let id = NodeId::parse(node.id)?;
    let kind = match &id {
        None => standalone(&node)?,
        Some(id) if id.node_type == NodeType::Router => ProxyKind::Router,
        Some(_) if text(&node, INTERCEPTION_MODE)?.as_deref() == Some("NONE") => {
            ProxyKind::BoundSidecar(spared(&node)?)
        }
        Some(_) => match discovery(&node)? {
            Discovery::All => ProxyKind::Sidecar,
            Discovery::OnDemand => ProxyKind::OnDemandSidecar,
        },
    };
    let of_id = id.as_ref().and_then(|id| id.namespace);
    let said = |key| Ok::<_, NodeError>(text(&node, key)?.filter(|value| !value.is_empty()));
    let claim = Claim {
        namespace_of_id: of_id.map(str::to_owned),
        namespace: said(NAMESPACE)?,
        service_account: said(SERVICE_ACCOUNT)?,
    };
    // An empty value means that the proxy is in no namespace.
    let namespace = text(&node, NAMESPACE)?
        .or_else(|| of_id.map(str::to_owned))
        .filter(|name| !name.is_empty());
    let addresses = match (&kind, &id) {
        (kind, Some(id)) if kind.is_captured() => own_addresses(&node, id.address)?,
        _ => Arc::default(),
    };
    for (what, part) in ["region", "zone", "sub-zone"].into_iter().zip(node.locality()) {
        check_len(what, part.len(), MAX_LOCALITY)?;
    }
    let zone = Some(node.zone).filter(|zone| !zone.is_empty());
    let view = ViewKey {
        zone: zone.map(Arc::from),
        node: text(&node, NODE_NAME)?.filter(|name| !name.is_empty()).map(Arc::from),
        ..ViewKey::new(kind, namespace.as_deref())
    };
    let shown = |text: &str| Arc::from(&*peer_text::cut(text, MAX_SHOWN));
    let identity = ProxyIdentity {
        node_id: node.id.into(),
        name: id.as_ref().map_or(node.id, |id| id.name).into(),
        cluster: shown(node.cluster),
        view: view.clone(),
        user_agent: shown(&user_agent(&node)),
        locality: node.locality().join("/").trim_end_matches('/').into(),
        probe: text(&node, PROBE_METADATA)?.is_some(),
        labels: labels(&node)?,
        principal: None,
        uses: uses(&node, &view.kind)?,
    };
    Ok(Identified { identity, request: ViewRequest { view, addresses, peer: None }, claim })
}

/// How a captured sidecar comes to its outbound clusters. Other kinds are sent all of them.
fn discovery(node: &Node<'_>) -> Result<Discovery, NodeError> {
    let said = text(node, DISCOVERY_METADATA)?.filter(|said| !said.is_empty());
    let Some(said) = said else { return Ok(Discovery::All) };
    Discovery::parse(&said).map_err(|_| NodeError::Metadata {
        key: DISCOVERY_METADATA,
        found: format!("{:?}", peer_text::cut(&said, MAX_SHOWN)),
        expected: "\"all\" or \"on-demand\"",
    })
}

fn uses(node: &Node<'_>, kind: &ProxyKind) -> Result<Option<Arc<Uses>>, NodeError> {
    if kind.discovery() == Discovery::All {
        return Ok(None);
    }
    let text = node.metadata(USES_METADATA)?;
    Ok(text.map(|text| Arc::new(Uses::new(names::read_of_uses(&text)))))
}

fn check_len(what: &'static str, len: usize, limit: usize) -> Result<(), NodeError> {
    if len > limit { Err(NodeError::TooLong { what, len, limit }) } else { Ok(()) }
}

/// The addresses of the workload, sorted: the id's, and those of another family from the
/// metadata, where invalid ones are ignored.
fn own_addresses(node: &Node<'_>, of_id: IpAddr) -> Result<Arc<[IpAddr]>, NodeError> {
    let listed = text(node, INSTANCE_IPS)?.unwrap_or_default();
    let listed = listed.split(',').filter_map(|one| one.trim().parse().ok());
    let all: BTreeSet<IpAddr> = std::iter::once(of_id)
        .chain(listed.take(MOST_ADDRESSES))
        .map(|one| one.to_canonical())
        .collect();
    Ok(all.into_iter().collect())
}

/// The ports that a sidecar without capture cannot bind, as Istio's agent says them: the text of a list
/// of container ports. Anything else counts as no ports.
fn spared(node: &Node<'_>) -> Result<Spared, NodeError> {
    let privileged = text(node, UNPRIVILEGED_POD)?.as_deref() == Some("true");
    let ports = node.metadata(POD_PORTS)?.unwrap_or_default();
    check_len(POD_PORTS, ports.len(), MAX_PORTS_TEXT)?;
    let ports: Vec<ContainerPort> = serde_json::from_str(&ports).unwrap_or_default();
    let tcp = ports.iter().filter(|port| port.protocol.is_empty() || port.protocol == "TCP");
    let own: BTreeSet<u16> = tcp.map(|port| port.container_port).take(MOST_PORTS).collect();
    Ok(Spared { privileged, own: own.into_iter().collect() })
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ContainerPort {
    container_port: u16,
    #[serde(default)]
    protocol: String,
}

fn standalone(node: &Node<'_>) -> Result<ProxyKind, NodeError> {
    let ProxyKind::Standalone { mut address, mut port } = ProxyKind::DEFAULT_STANDALONE else {
        return Ok(ProxyKind::DEFAULT_STANDALONE);
    };
    let found = |found: String| format!("{:?}", peer_text::cut(&found, MAX_SHOWN));
    if let Some(value) = text(node, LISTEN_ADDRESS)? {
        address = value.parse::<IpAddr>().map_err(|_| NodeError::Metadata {
            key: LISTEN_ADDRESS,
            found: found(value),
            expected: "an IP address, for instance \"127.0.0.1\"",
        })?;
    }
    if let Some(value) = text(node, LISTEN_PORT)? {
        port = value.parse().ok().filter(|port| *port != 0).ok_or_else(|| NodeError::Metadata {
            key: LISTEN_PORT,
            found: found(value),
            expected: "a port from 1 to 65535, for instance 15080",
        })?;
    }
    Ok(ProxyKind::Standalone { address, port })
}

/// A metadata field as text; a whole number counts as its digits, as YAML writers expect.
fn text(node: &Node<'_>, key: &'static str) -> Result<Option<String>, NodeError> {
    let Some(text) = node.metadata(key)? else { return Ok(None) };
    check_len(key, text.len(), MAX_VALUE)?;
    Ok(Some(text.into_owned()))
}

/// The first labels by key, as many as fit into [`LABEL_BYTES`].
fn labels(node: &Node<'_>) -> Result<Labels, MalformedRequest> {
    let mut bytes = 0;
    let fits = |(key, value): &(&str, &str)| {
        bytes += key.len() + value.len();
        bytes <= LABEL_BYTES
    };
    let kept = node.texts_within(LABELS)?.into_iter().take_while(fits);
    Ok(kept.map(|(key, value)| (key.into(), value.into())).collect())
}

fn user_agent(node: &Node<'_>) -> String {
    let name = peer_text::cut(node.user_agent_name, MAX_SHOWN);
    if let Some((major, minor, patch)) = node.build_version {
        return format!("{name}/{major}.{minor}.{patch}");
    }
    match node.user_agent_version {
        Some(version) => format!("{name}/{}", peer_text::cut(version, MAX_SHOWN)),
        None => name.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::node::UserAgentVersionType;
    use envoy_types::pb::envoy::config::core::v3::{self as core, BuildVersion, Locality};
    use envoy_types::pb::envoy::r#type::v3::SemanticVersion;
    use envoy_types::pb::google::protobuf::value::Kind;
    use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
    use prost::Message as _;

    use super::*;

    fn node(id: &str, metadata: &[(&str, Kind)]) -> core::Node {
        let fields = metadata
            .iter()
            .map(|(key, kind)| ((*key).to_owned(), Value { kind: Some(kind.clone()) }))
            .collect();
        core::Node { id: id.to_owned(), metadata: Some(Struct { fields }), ..Default::default() }
    }

    fn string(text: &str) -> Kind {
        Kind::StringValue(text.to_owned())
    }

    /// Who it is; what it needs is the same view.
    fn identity(node: &core::Node) -> ProxyIdentity {
        let Identified { identity, request, .. } = identify(Some(&node.encode_to_vec())).unwrap();
        assert_eq!(identity.view, request.view);
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
    fn the_cluster_node_is_that_of_its_metadata() {
        let on = |name| identity(&node("edge", &[("NODE_NAME", string(name))])).view.node;
        assert_eq!(on("worker-1").as_deref(), Some("worker-1"));
        assert_eq!(on(""), None);
        assert_eq!(identity(&node("edge", &[])).view.node, None);
    }

    #[test]
    fn a_probe_in_a_proxys_name_is_known_by_its_metadata() {
        let sidecar = "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local";
        assert!(!identity(&node(sidecar, &[])).probe);
        let asked = identity(&node(sidecar, &[("PILOTHOUSE_PROBE", string("agent"))]));
        assert!(asked.probe && &*asked.name == "web-0.shop");
    }

    #[test]
    fn only_a_captured_sidecar_has_addresses_to_look_for() {
        let addresses = |id: &str, metadata: &[(&str, Kind)]| {
            let read = identify(Some(&node(id, metadata).encode_to_vec())).unwrap();
            read.request.addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
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
    fn its_pods_labels_are_kept_as_far_as_they_are_few() {
        let labels = |labels: &[(&str, Kind)]| {
            let labels = Kind::StructValue(node("", labels).metadata.unwrap());
            let labels = identity(&node("edge", &[("LABELS", labels)])).labels;
            labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>()
        };
        let usual =
            [("version", string("v1")), ("app", string("web")), ("n", Kind::NumberValue(1.0))];
        assert_eq!(labels(&usual), ["app=web", "version=v1"]);
        let long = "x".repeat(LABEL_BYTES / 2 - 1);
        let many = [("a", string(&long)), ("b", string(&long)), ("c", string(""))];
        assert_eq!(labels(&many), [format!("a={long}"), format!("b={long}")]);
        assert!(identity(&node("edge", &[("LABELS", string("app=web"))])).labels.is_empty());
        assert!(identity(&node("edge", &[])).labels.is_empty());
    }

    #[test]
    fn the_kind_comes_from_the_node() {
        let sidecar = "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local";
        let got = identity(&node(sidecar, &[]));
        assert_eq!((&got.view.kind, &*got.name), (&ProxyKind::Sidecar, "web-0.shop"));
        assert_eq!(got.view.namespace.as_deref(), Some("shop"));

        let got = identity(&node(sidecar, &[("INTERCEPTION_MODE", string("NONE"))]));
        assert_eq!(got.view.kind, ProxyKind::BOUND);
        let ports = r#"[{"containerPort":9080,"name":"http"},{"containerPort":53,"protocol":"UDP"},{"containerPort":443}]"#;
        let metadata = [
            ("INTERCEPTION_MODE", string("NONE")),
            ("UNPRIVILEGED_POD", string("true")),
            ("POD_PORTS", string(ports)),
        ];
        let got = identity(&node(sidecar, &metadata));
        let spared = Spared { privileged: true, own: vec![443, 9080] };
        assert_eq!(got.view.kind, ProxyKind::BoundSidecar(spared));
        let metadata = [("INTERCEPTION_MODE", string("NONE")), ("POD_PORTS", string("no JSON"))];
        assert_eq!(identity(&node(sidecar, &metadata)).view.kind, ProxyKind::BOUND);
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
    fn what_it_claims_is_all_that_its_node_says() {
        let claim = |id: &str, metadata: &[(&str, Kind)]| {
            identify(Some(&node(id, metadata).encode_to_vec())).unwrap().claim
        };
        let sidecar = "sidecar~10.1.2.3~web-0.shop~shop.svc.cluster.local";
        let shop = Some("shop".to_owned());
        let of_id = Claim { namespace_of_id: shop.clone(), ..Claim::default() };
        assert_eq!(claim(sidecar, &[]), of_id);
        let metadata = [("NAMESPACE", string("bank")), ("SERVICE_ACCOUNT", string("till"))];
        let both = Claim {
            namespace: Some("bank".to_owned()),
            service_account: Some("till".to_owned()),
            ..of_id.clone()
        };
        assert_eq!(claim(sidecar, &metadata), both);
        assert_eq!(claim("edge", &[("NAMESPACE", string("shop"))]).namespace, shop);
        let empty = [("NAMESPACE", string("")), ("SERVICE_ACCOUNT", string(""))];
        assert_eq!(claim(sidecar, &empty), of_id);
        assert_eq!(claim("edge", &[]), Claim::default());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |node: Option<&core::Node>| {
            identify(node.map(core::Node::encode_to_vec).as_deref()).unwrap_err().to_string()
        };
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

    #[test]
    fn the_user_agent_and_the_locality_are_shown() {
        let mut node = node("edge", &[]);
        node.user_agent_name = "envoy".to_owned();
        assert_eq!(&*identity(&node).user_agent, "envoy");
        node.user_agent_version_type =
            Some(UserAgentVersionType::UserAgentVersion("1.40".to_owned()));
        assert_eq!(&*identity(&node).user_agent, "envoy/1.40");
        let version = SemanticVersion { major_number: 1, minor_number: 40, patch: 2 };
        let version = BuildVersion { version: Some(version), ..Default::default() };
        node.user_agent_version_type = Some(UserAgentVersionType::UserAgentBuildVersion(version));
        node.locality =
            Some(Locality { region: "r".to_owned(), zone: "z".to_owned(), ..Default::default() });
        let got = identity(&node);
        assert_eq!((&*got.user_agent, &*got.locality), ("envoy/1.40.2", "r/z"));
    }

    /// D4, D5: whatever a peer says of itself, what is kept and said of it is short.
    #[test]
    fn what_a_node_says_at_length_is_refused_or_cut() {
        let long = "\u{1}".repeat(100_000);
        let error =
            |node: &core::Node| identify(Some(&node.encode_to_vec())).unwrap_err().to_string();
        for metadata in [LISTEN_ADDRESS, LISTEN_PORT, NAMESPACE] {
            let error = error(&node("edge", &[(metadata, string(&long))]));
            assert!(error.contains(metadata) && error.contains("the limit is 1024"), "{error}");
        }
        let error_of_address = error(&node("edge", &[(LISTEN_ADDRESS, string(&long[..1000]))]));
        assert!(error_of_address.len() < 2000, "{error_of_address}");
        let error_of_id = error(&node(&long, &[]));
        assert_eq!(error_of_id, "node id has 100000 bytes, the limit is 1024");
        assert!(error(&node(&format!("sidecar~{}", &long[..1000]), &[])).len() < 6000);
        let mut far = node("edge", &[]);
        far.locality = Some(Locality { zone: long.clone(), ..Default::default() });
        assert_eq!(error(&far), "node zone has 100000 bytes, the limit is 253");
        let huge = node("edge", &[("OTHER", string(&long.repeat(3)))]);
        assert!(error(&huge).ends_with("the limit is 262144"));

        let talkative =
            core::Node { cluster: long.clone(), user_agent_name: long, ..node("edge", &[]) };
        let got = identity(&talkative);
        assert!(got.cluster.len() <= MAX_SHOWN && got.user_agent.len() <= MAX_SHOWN);
        assert!(got.cluster.ends_with("(100000 bytes)"));
    }

    /// D4: a list of empty values was decoded at 27 times its size.
    #[test]
    fn metadata_that_nobody_reads_is_passed_over() {
        let values = vec![Value { kind: None }; 50_000];
        let list = Kind::ListValue(ListValue { values });
        let crowded = node("edge", &[("LABELS", list), (LISTEN_PORT, Kind::NumberValue(81.0))]);
        let ProxyKind::Standalone { port, .. } = identity(&crowded).view.kind else {
            panic!("another kind")
        };
        assert_eq!(port, 81);
    }
}
