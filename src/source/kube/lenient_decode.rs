//! An object as it came from the API server, readable or not.
//!
//! kube decodes a page or an event as a whole, so one object of a newer (or broken) shape would
//! fail the page for ever, and every other object with it. Here it fails alone: what says which
//! object it is (name, namespace, version) is kept with the reason, and its old state is taken
//! back like that of a deleted one.

use std::borrow::Cow;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer};
use serde_json::Value;

#[derive(Clone, Debug)]
pub(super) enum LenientDecode<K> {
    Decoded(K),
    /// This object alone is left out.
    Undecodable {
        /// Name, namespace and version; what there is of them.
        metadata: Box<ObjectMeta>,
        /// Where it cannot be read, and why.
        reason: String,
    },
}

impl<'de, K: DeserializeOwned> Deserialize<'de> for LenientDecode<K> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // By way of a tree, since only then is there something left to read the name from. A
        // slice is at most 1,000 endpoints, and one tree lives at a time.
        let tree = Value::deserialize(deserializer)?;
        match serde_path_to_error::deserialize(&tree) {
            Ok(object) => Ok(Self::Decoded(object)),
            Err(error) => {
                let text = |field: &str| {
                    tree.pointer(&format!("/metadata/{field}"))?.as_str().map(str::to_owned)
                };
                let metadata = Box::new(ObjectMeta {
                    name: text("name"),
                    namespace: text("namespace"),
                    resource_version: text("resourceVersion"),
                    ..Default::default()
                });
                let reason = format!("cannot be read, so it is left out: {error}");
                Ok(Self::Undecodable { metadata, reason })
            }
        }
    }
}

impl<K: kube::Resource<DynamicType = ()>> kube::Resource for LenientDecode<K> {
    type DynamicType = ();
    type Scope = K::Scope;

    fn kind(kind: &()) -> Cow<'_, str> {
        K::kind(kind)
    }
    fn group(kind: &()) -> Cow<'_, str> {
        K::group(kind)
    }
    fn version(kind: &()) -> Cow<'_, str> {
        K::version(kind)
    }
    fn plural(kind: &()) -> Cow<'_, str> {
        K::plural(kind)
    }
    fn meta(&self) -> &ObjectMeta {
        match self {
            Self::Decoded(object) => object.meta(),
            Self::Undecodable { metadata, .. } => metadata,
        }
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Self::Decoded(object) => object.meta_mut(),
            Self::Undecodable { metadata, .. } => metadata,
        }
    }
}
