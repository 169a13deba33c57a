//! Real messages of every type, with a text in them that can be told apart.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Locality;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints};
use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::Resource;
use crate::session::Response;
use crate::session::tests::types::ResourceType;

/// One response, decoded.
#[derive(Clone, Debug, Default, PartialEq)]
pub(in super::super) struct Got {
    pub(in super::super) type_url: String,
    pub(in super::super) version: String,
    pub(in super::super) nonce: String,
    pub(in super::super) control_plane: String,
    /// Name, content and, in delta, version.
    pub(in super::super) resources: Vec<(String, String, String)>,
    pub(in super::super) removed: Vec<String>,
    /// The shared part as it went out.
    pub(in super::super) head: Bytes,
}

/// `cds a=1 -b`
impl std::fmt::Display for Got {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let resource_type = ResourceType::from_type_url(&self.type_url);
        f.write_str(resource_type.map_or(&self.type_url, |resource_type| resource_type.short()))?;
        for (name, content, _) in &self.resources {
            write!(f, " {name}={content}")?;
        }
        self.removed.iter().try_for_each(|name| write!(f, " -{name}"))
    }
}

/// A real message of the type with a text in it that can be told apart.
pub(in super::super) fn resource(
    resource_type: ResourceType,
    name: &str,
    content: &str,
) -> Arc<Resource> {
    let (own, text) = (name.to_owned(), content.to_owned());
    let encoded = match resource_type {
        ResourceType::Cluster => {
            Cluster { name: own, alt_stat_name: text, ..Default::default() }.encode_to_vec()
        }
        ResourceType::Endpoint => {
            let locality = Some(Locality { zone: text, ..Default::default() });
            let endpoints = vec![LocalityLbEndpoints { locality, ..Default::default() }];
            ClusterLoadAssignment { cluster_name: own, endpoints, ..Default::default() }
                .encode_to_vec()
        }
        ResourceType::Listener => {
            Listener { name: own, stat_prefix: text, ..Default::default() }.encode_to_vec()
        }
        ResourceType::Route => {
            let internal_only_headers = vec![text];
            RouteConfiguration { name: own, internal_only_headers, ..Default::default() }
                .encode_to_vec()
        }
    };
    Resource::from_encoded(resource_type, name.into(), &encoded)
}

/// Name and content.
fn unpack(any: &Any) -> (String, String) {
    let value = &*any.value;
    match ResourceType::from_type_url(&any.type_url).expect("a served type") {
        ResourceType::Cluster => {
            let cluster = Cluster::decode(value).unwrap();
            (cluster.name, cluster.alt_stat_name)
        }
        ResourceType::Endpoint => {
            let mut assignment = ClusterLoadAssignment::decode(value).unwrap();
            let locality = assignment.endpoints.remove(0).locality.unwrap();
            (assignment.cluster_name, locality.zone)
        }
        ResourceType::Listener => {
            let listener = Listener::decode(value).unwrap();
            (listener.name, listener.stat_prefix)
        }
        ResourceType::Route => {
            let mut table = RouteConfiguration::decode(value).unwrap();
            (table.name, table.internal_only_headers.remove(0))
        }
    }
}

pub(in super::super) fn decode(delta: bool, response: &Response) -> Got {
    let mut bytes = response.frame.to_bytes(response.nonce);
    let prefix: Vec<u8> = bytes.drain(..5).collect();
    assert_eq!(prefix[0], 0, "not compressed");
    assert_eq!(prefix[1..], (bytes.len() as u32).to_be_bytes(), "gRPC length");
    if !delta {
        let message = DiscoveryResponse::decode(&*bytes).unwrap();
        assert!(message.resources.iter().all(|any| any.type_url == message.type_url));
        let resources = message.resources.iter().map(unpack);
        return Got {
            resources: resources.map(|(name, text)| (name, text, String::new())).collect(),
            type_url: message.type_url,
            version: message.version_info,
            nonce: message.nonce,
            control_plane: message.control_plane.unwrap_or_default().identifier,
            removed: Vec::new(),
            head: response.frame.head.contiguous(0..response.frame.head.len()),
        };
    }
    let message = DeltaDiscoveryResponse::decode(&*bytes).unwrap();
    let resources = message.resources.into_iter().map(|one| {
        let any = one.resource.expect("a body");
        assert_eq!(any.type_url, message.type_url);
        assert!(one.ttl.is_none(), "a TTL was not asked for");
        let (name, text) = unpack(&any);
        assert_eq!(one.name, name);
        (name, text, one.version)
    });
    Got {
        resources: resources.collect(),
        type_url: message.type_url,
        version: message.system_version_info,
        nonce: message.nonce,
        control_plane: message.control_plane.unwrap_or_default().identifier,
        removed: message.removed_resources,
        head: response.frame.head.contiguous(0..response.frame.head.len()),
    }
}
