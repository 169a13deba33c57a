//! The streams that proxies hold open: gRPC below tonic's codec, the protocol above it.
//!
//! `request` reads, `session` decides, `stream` moves bytes, `service` speaks gRPC, `server`
//! is the port. Uses
//! `snapshot`, `subscription`, `view`, `proxies` and `names`; knows neither the model nor
//! Kubernetes.

pub mod node;
pub mod request;
pub mod server;
pub mod service;
pub mod session;
pub mod stream;
