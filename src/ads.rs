//! The xDS server: HTTP/2 connections, gRPC calls, and the discovery streams on them.
//!
//! - `server` accepts connections, runs one task for each, and tells all streams of new snapshots.
//! - `http`: one task for one TCP connection, the streams on it, and the handle by which others wake
//!   or close it.
//! - `grpc`: what a call is, its messages and its status, below tonic's codec.
//! - `stream` runs a session of [`pilothouse_xds`], which is the protocol: the handshake, the responses,
//!   the status that the debug pages show.
//! - `admission`: rate limits, the order in which streams start, and how much memory peers may hold.
//! - `node` reads what a proxy says of itself.
//!
//! Uses `pilothouse_http2`, `pilothouse_xds`, `door`, `snapshot`, `view`, `proxies`, `metrics` and `names`; knows
//! neither the model nor Kubernetes.

mod admission;
mod atomic_timestamp;
pub mod grpc;
mod http;
pub mod node;
pub mod server;
pub mod stream;
