//! The discovery messages as they are sent and received, with everything that is only passed on
//! left as bytes: generated from `proto/raw_discovery.proto`, wire-compatible with Envoy's.

include!(concat!(env!("OUT_DIR"), "/pilothouse.raw.v3.rs"));
