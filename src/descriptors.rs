//! Envoy's protobuf descriptors, for whatever looks at messages from outside: gRPC reflection and
//! protoJSON on the debug pages. The data path never comes here.
//!
//! Made by `build.rs` from the `.proto` files of the same `envoy-types` that is linked.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use prost_reflect::prost::Message;
use prost_reflect::prost_types::{Any, Struct, Value as ProtoValue, value::Kind};
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, ReflectMessage, Value};
use serde_json::json;

/// The encoded `FileDescriptorSet`, every import included; about 200 KiB.
pub fn encoded() -> &'static [u8] {
    include_bytes!(concat!(env!("OUT_DIR"), "/envoy.binpb"))
}

/// The same, linked and looked up by name; made on first use.
///
/// # Errors
/// Only if the build produced an inconsistent set; the tests read it, so a release cannot have one.
pub fn pool() -> Result<&'static DescriptorPool, &'static DescriptorError> {
    static POOL: OnceLock<Result<DescriptorPool, DescriptorError>> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(encoded())).as_ref()
}

/// An encoded message as protoJSON with its `@type`, the `Any`s inside it resolved.
///
/// Never fails, since one strange message must not cost a page all others: an `Any` of a type that
/// is not known here, or with bytes that are no such message, becomes a
/// `google.protobuf.Struct` saying so, and a message that is itself unreadable an object with
/// `@type`, `problem` and `bytes` (its size).
pub fn to_json(type_url: &str, value: &[u8]) -> serde_json::Value {
    let text = decode(type_url, value).and_then(|mut message| {
        // Mending costs decoding every Any twice, so it waits until it is needed.
        serde_json::to_value(&message).or_else(|_| {
            mend(&mut message);
            serde_json::to_value(&message).map_err(|error| error.to_string())
        })
    });
    match text {
        Ok(serde_json::Value::Object(mut fields)) => {
            fields.insert("@type".to_owned(), type_url.into());
            fields.into()
        }
        // The well-known types that are no objects in JSON (Duration and its like).
        Ok(other) => json!({ "@type": type_url, "value": other }),
        Err(problem) => json!({ "@type": type_url, "problem": problem, "bytes": value.len() }),
    }
}

fn decode(type_url: &str, value: &[u8]) -> Result<DynamicMessage, String> {
    let pool = pool().map_err(ToString::to_string)?;
    let name = type_url.rsplit_once('/').map_or(type_url, |(_, name)| name);
    let descriptor =
        pool.get_message_by_name(name).ok_or_else(|| format!("unknown type {type_url:?}"))?;
    DynamicMessage::decode(descriptor, value).map_err(|error| format!("no valid {name}: {error}"))
}

/// Puts a description in the place of every `Any` that cannot be shown.
fn mend(message: &mut DynamicMessage) {
    if message.descriptor().full_name() == "google.protobuf.Any" {
        if let Ok(mut any) = message.transcode_to::<Any>() {
            match decode(&any.type_url, &any.value) {
                Ok(mut inner) => {
                    mend(&mut inner);
                    any.value = inner.encode_to_vec();
                }
                Err(problem) => any = description(&any, problem),
            }
            // Cannot fail: an Any is an Any.
            let _ = message.transcode_from(&any);
        }
        return;
    }
    for (_, value) in message.fields_mut() {
        match value {
            Value::Message(inner) => mend(inner),
            Value::List(list) => list.iter_mut().filter_map(Value::as_message_mut).for_each(mend),
            Value::Map(map) => map.values_mut().filter_map(Value::as_message_mut).for_each(mend),
            _ => {}
        }
    }
}

fn description(any: &Any, problem: String) -> Any {
    let field = |name: &str, kind| (name.to_owned(), ProtoValue { kind: Some(kind) });
    let fields = BTreeMap::from([
        field("typeUrl", Kind::StringValue(any.type_url.clone())),
        field("problem", Kind::StringValue(problem)),
        field("bytes", Kind::NumberValue(any.value.len() as f64)),
    ]);
    Any {
        type_url: "type.googleapis.com/google.protobuf.Struct".to_owned(),
        value: Struct { fields }.encode_to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
    use envoy_types::pb::envoy::config::listener::v3::{
        Filter, FilterChain, Listener, filter::ConfigType,
    };
    use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
    use envoy_types::pb::google::protobuf::Any;
    use prost::Message;

    use super::*;
    use crate::names::ResourceType;

    fn any(type_url: &str, value: Vec<u8>) -> Any {
        Any { type_url: type_url.to_owned(), value }
    }

    #[test]
    fn every_served_type_and_the_services_are_described() {
        let pool = pool().unwrap();
        for of in ResourceType::IN_ORDER {
            let name = of.type_url().strip_prefix("type.googleapis.com/").unwrap();
            assert!(pool.get_message_by_name(name).is_some(), "{name}");
        }
        let ads = "envoy.service.discovery.v3.AggregatedDiscoveryService";
        assert!(pool.services().any(|service| service.full_name() == ads));
        assert!(pool.get_message_by_name("envoy.admin.v3.ConfigDump").is_some());
    }

    #[test]
    fn an_any_within_a_message_is_resolved() {
        let proxy = TcpProxy { stat_prefix: "s".to_owned(), ..TcpProxy::default() };
        let url = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
        let listener = listener_with(any(url, proxy.encode_to_vec()));
        let shown = to_json(ResourceType::Listener.type_url(), &listener);
        assert_eq!(shown["@type"], ResourceType::Listener.type_url());
        let config = &shown["filterChains"][0]["filters"][0]["typedConfig"];
        assert_eq!(*config, json!({ "@type": url, "statPrefix": "s" }));
    }

    #[test]
    fn a_strange_any_costs_only_itself() {
        let broken = any("type.googleapis.com/google.protobuf.Duration", vec![0xff]);
        for (strange, problem) in [
            (any("type.googleapis.com/acme.Unknown", vec![1, 2, 3]), "unknown type"),
            (broken.clone(), "no valid google.protobuf.Duration"),
            (any("", vec![]), "unknown type"),
        ] {
            let listener = listener_with(strange.clone());
            let shown = to_json(ResourceType::Listener.type_url(), &listener);
            assert_eq!(shown["name"], "l");
            let shown = &shown["filterChains"][0]["filters"][0]["typedConfig"]["value"];
            assert_eq!(shown["typeUrl"], strange.type_url);
            assert_eq!(shown["bytes"], strange.value.len() as f64);
            assert!(shown["problem"].as_str().unwrap().contains(problem), "{shown}");
        }

        // The same one level deeper, inside an Any and a map.
        let extension = TypedExtensionConfig { name: "x".to_owned(), typed_config: Some(broken) };
        let url = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
        let options = [("o".to_owned(), any(url, extension.encode_to_vec()))].into();
        let cluster = Cluster { typed_extension_protocol_options: options, ..Cluster::default() };
        let shown = to_json(ResourceType::Cluster.type_url(), &cluster.encode_to_vec());
        let inner = &shown["typedExtensionProtocolOptions"]["o"];
        assert_eq!(inner["name"], "x");
        assert_eq!(
            inner["typedConfig"]["value"]["typeUrl"],
            "type.googleapis.com/google.protobuf.Duration"
        );
    }

    #[test]
    fn an_unreadable_message_is_described() {
        let shown = to_json("type.googleapis.com/acme.Unknown", &[1, 2]);
        assert_eq!(shown["bytes"], 2);
        assert_eq!(shown["problem"], "unknown type \"type.googleapis.com/acme.Unknown\"");
        let shown = to_json(ResourceType::Cluster.type_url(), &[0xff]);
        assert!(shown["problem"].as_str().unwrap().starts_with("no valid envoy.config.cluster"));
    }

    fn listener_with(config: Any) -> Vec<u8> {
        let filter =
            Filter { name: "f".to_owned(), config_type: Some(ConfigType::TypedConfig(config)) };
        let chain = FilterChain { filters: vec![filter], ..FilterChain::default() };
        let listener =
            Listener { name: "l".to_owned(), filter_chains: vec![chain], ..Listener::default() };
        listener.encode_to_vec()
    }
}
