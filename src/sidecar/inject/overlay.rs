//! What the pod's author says of our containers and volumes, laid over ours as Istio does it: he puts a
//! container of the sidecar's name (image `auto`) into his pod, with the fields that he wants otherwise.
//! A small part of Kubernetes' strategic merge.

use super::node::{Map, Node};

/// Lists whose items are told apart by one of their fields; every other list is replaced.
const KEYED: [(&str, &str); 7] = [
    ("env", "name"),
    ("volumeMounts", "mountPath"),
    ("volumeDevices", "devicePath"),
    ("ports", "containerPort"),
    ("volumes", "name"),
    ("items", "path"),
    ("resizePolicy", "resourceName"),
];

/// Lays `over` on top: objects are merged, null takes a field away, lists of [`KEYED`] are merged by
/// their key, everything else is replaced.
pub(super) fn merge_object(base: &mut Map, over: Map) {
    for (field, value) in over {
        match (base.get_mut(&field), value) {
            (_, Node::Null) => {
                base.shift_remove(&field);
            }
            (Some(Node::Map(base)), Node::Map(over)) => merge_object(base, over),
            (Some(Node::List(base)), Node::List(over)) => match key_of(&field) {
                Some(key) => merge_list(base, over, key),
                None => *base = over,
            },
            (_, value) => {
                base.insert(field, value);
            }
        }
    }
}

fn key_of(field: &str) -> Option<&'static str> {
    KEYED.iter().find(|(name, _)| *name == field).map(|(_, key)| *key)
}

/// Merges items that agree in `key`, and adds those that are new.
pub(super) fn merge_list(base: &mut Vec<Node>, over: Vec<Node>, key: &str) {
    for item in over {
        let same = item.get(key).and_then(|value| {
            base.iter_mut().find(|one| one.get(key) == Some(value))?.as_map_mut()
        });
        match (same, item) {
            // A variable is either a value or a reference to one.
            (Some(one), Node::Map(item))
                if item.contains_key("value") || item.contains_key("valueFrom") =>
            {
                *one = item;
            }
            (Some(one), Node::Map(item)) => merge_object(one, item),
            (_, item) => base.push(item),
        }
    }
}
