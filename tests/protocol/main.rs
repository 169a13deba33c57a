//! What needs a wire: the whole control plane in this process, over real gRPC with the client that
//! tonic generates. The rules themselves are tested in `crates/xds/src/session/tests`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod c_core;
mod calls;
mod docs;
mod grpc_clients;
mod h2spec;
mod harness;
mod http2;
mod identity;
mod limits;
mod on_demand;
mod peers;
mod replicas;
mod scripted;
mod services;
mod storms;
mod tls;
