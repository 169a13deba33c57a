//! JSON as protobuf's own `Struct` and `Value`, which is what the metadata of a node is made of.

use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use serde_json::{Map, Value as Json};

/// The fields of an object.
pub fn to_struct(fields: &Map<String, Json>) -> Struct {
    Struct { fields: fields.iter().map(|(key, json)| (key.clone(), to_value(json))).collect() }
}

/// Numbers become doubles, as protobuf has no others here.
pub fn to_value(json: &Json) -> Value {
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(*value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(list) => {
            Kind::ListValue(ListValue { values: list.iter().map(to_value).collect() })
        }
        Json::Object(fields) => Kind::StructValue(to_struct(fields)),
    };
    Value { kind: Some(kind) }
}
