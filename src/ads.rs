//! The streams that proxies hold open: gRPC below tonic's codec, the protocol above it.
//!
//! `request` reads, `session` decides, `stream` moves bytes, `service` speaks gRPC. Uses
//! `snapshot`, `subscription`, `view`, `proxies` and `names`; knows neither the model nor
//! Kubernetes.

pub mod request;
pub mod session;
