//! The bootstrap as the file that Envoy reads: protoJSON with Envoy's own field names, and the user's
//! file laid over it.

use envoy_types::pb::envoy::config::bootstrap::v3::Bootstrap;
use prost::{Message, Name};
use prost_reflect::{DynamicMessage, SerializeOptions};
use serde_json::{Map, Value};
use thiserror::Error;

use crate::yaml;

/// Why there is no file for Envoy.
#[derive(Debug, Error)]
pub enum TemplateError {
    #[error("the bootstrap cannot be written as JSON: {0}")]
    Json(String),
    #[error("--template {file} cannot be read: {error}")]
    Read { file: String, error: std::io::Error },
    #[error("--template {file} is neither YAML nor JSON: {error}")]
    Syntax { file: String, error: String },
    #[error(
        "--template {file} is no object: it is laid over the bootstrap (--bootstrap-only prints it), \
         so it must have that shape"
    )]
    NoObject { file: String },
}

/// protoJSON of the message.
///
/// # Errors
/// Only if the build's descriptors do not fit its types, which a test would show.
pub fn to_json(bootstrap: &Bootstrap) -> Result<Map<String, Value>, TemplateError> {
    let problem = |error: &dyn std::fmt::Display| TemplateError::Json(error.to_string());
    let pool = crate::descriptors::pool().map_err(|error| problem(error))?;
    let name = Bootstrap::full_name();
    let descriptor = pool
        .get_message_by_name(&name)
        .ok_or_else(|| TemplateError::Json(format!("no descriptor of {name}")))?;
    let message = DynamicMessage::decode(descriptor, &*bootstrap.encode_to_vec())
        .map_err(|error| problem(&error))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    let json = message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|error| problem(&error))?;
    match json {
        Value::Object(fields) => Ok(fields),
        other => Err(TemplateError::Json(other.to_string())),
    }
}

/// The user's file, to be laid over.
///
/// # Errors
/// It cannot be read, or is no object.
pub fn read(path: &std::path::Path) -> Result<Map<String, Value>, TemplateError> {
    let file = || path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| TemplateError::Read { file: file(), error })?;
    // JSON is YAML.
    let value: Value = serde_saphyr::from_str(&text).map_err(|error| TemplateError::Syntax {
        file: file(),
        error: yaml::explain(&error, text.as_bytes()),
    })?;
    match value {
        Value::Object(fields) => Ok(fields),
        _ => Err(TemplateError::NoObject { file: file() }),
    }
}

/// Lays `over` on `base`: a JSON merge patch (RFC 7386), in which lists of things that all have a
/// `name` are merged by it, so that a cluster can be added or changed without repeating the others.
pub fn merge_patch(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        if value.is_null() {
            base.remove(&key);
        } else {
            merge_value(base.entry(key).or_insert(Value::Null), value);
        }
    }
}

fn merge_value(base: &mut Value, over: Value) {
    match over {
        Value::Object(fields) => {
            if !base.is_object() {
                *base = Value::Object(Map::new());
            }
            if let Value::Object(under) = base {
                merge_patch(under, fields);
            }
        }
        Value::Array(items) => match base {
            Value::Array(under) if all_named(under) && all_named(&items) => {
                for item in items {
                    match under.iter_mut().find(|one| name(one) == name(&item)) {
                        Some(same) => merge_value(same, item),
                        None => under.push(item),
                    }
                }
            }
            _ => *base = Value::Array(items),
        },
        other => *base = other,
    }
}

fn name(value: &Value) -> Option<&str> {
    value.get("name")?.as_str()
}

fn all_named(values: &[Value]) -> bool {
    values.iter().all(|value| name(value).is_some())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn merges(base: Value, over: Value, wanted: Value) {
        let (Value::Object(mut base), Value::Object(over)) = (base, over) else {
            panic!("objects are laid over objects");
        };
        merge_patch(&mut base, over);
        assert_eq!(Value::Object(base), wanted);
    }

    #[test]
    fn a_file_is_laid_over() {
        merges(
            json!({"a": {"b": 1, "c": 2}}),
            json!({"a": {"c": 3}}),
            json!({"a": {"b": 1, "c": 3}}),
        );
        merges(json!({"a": 1, "b": 2}), json!({"a": null, "c": null}), json!({"b": 2}));
        merges(json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]}));
        merges(json!({"a": 1}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}}));
    }

    #[test]
    fn named_things_are_merged_by_name() {
        merges(
            json!({"clusters": [{"name": "x", "v": 1, "w": 1}, {"name": "y"}]}),
            json!({"clusters": [{"name": "z"}, {"name": "x", "v": 2}]}),
            json!({"clusters": [{"name": "x", "v": 2, "w": 1}, {"name": "y"}, {"name": "z"}]}),
        );
    }
}
