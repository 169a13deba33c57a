//! The streams that proxies hold open: gRPC below tonic's codec, the protocol above it.
//!
//! `server` is the port, `connection` one TCP connection to it, which `control` looks after from
//! outside, `exchange` one HTTP/2 stream on that. `service` speaks gRPC, of which `call` is how
//! a request begins and `status` how it ends (`foreign` is for who does not speak it); `requests` cuts
//! messages off HTTP/2, `stream` moves bytes, `request` reads them and `session` decides. `admission` says who
//! starts when, `budget` how much a peer may ask, `outbox` ends readers that have stopped. Uses
//! `pilothouse_http2`, `snapshot`, `subscription`, `view`, `proxies` and `names`; knows neither the model nor
//! Kubernetes.

mod account;
mod admission;
mod budget;
mod call;
mod connection;
mod control;
mod exchange;
mod foreign;
pub mod node;
mod outbox;
mod peer_text;
pub mod request;
pub mod requests;
pub mod server;
mod service;
pub mod session;
mod since;
mod status;
pub mod stream;
mod work;
