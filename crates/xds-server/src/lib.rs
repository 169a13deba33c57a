//! An xDS server: HTTP/2 connections, gRPC calls, and the discovery streams on them.
//!
//! [`pilothouse_xds`] is the protocol, without I/O; this crate is everything between it and the socket. What
//! the server serves is its user's: [`Mesh`] says who a proxy is and which view it gets, by a key that the
//! user chooses, and has the table of the types that are served.
//!
//! - [`server`] accepts connections, runs one task for each, and tells all streams of new snapshots.
//! - `http`: one task for one TCP connection, the streams on it, and the handle by which others wake
//!   or close it.
//! - [`grpc`]: what a call is, its messages and its status, below tonic's codec.
//! - [`stream`] runs a session of [`pilothouse_xds`]: the handshake, the responses, the status.
//! - `admission`: rate limits, the order in which streams start, and how much memory peers may hold.
//! - [`view_registry`]: which views the open streams need, and which view each of them got.
//! - [`proxies`]: the open streams and their status, for whoever shows it.
//! - [`peer`]: what a peer has shown of who it is.
//! - [`listener`]: accepting connections, with a limit; [`tls`]: the handshake that may come first.
//! - [`node`]: the fields of an encoded `Node`; [`node_views`]: a ready-made [`Mesh`].
//!
//! Nothing in it knows Kubernetes, Istio or a fixed list of types.

mod admission;
mod atomic_timestamp;
pub mod grpc;
mod http;
pub mod listener;
pub mod mesh;
pub mod metrics;
pub mod node;
pub mod node_views;
pub mod peer;
pub mod proxies;
pub mod server;
pub mod stream;
pub mod tls;
pub mod view_registry;

pub use listener::{ConnectionLimits, LimitedListener, ServedListener};
pub use mesh::{Identity, Mesh, ServerTexts};
pub use metrics::ServerMetrics;
pub use node_views::NodeViews;
pub use peer::{PeerCertificate, PeerCredentials, PeerKey, Refusal};
pub use proxies::Proxies;
pub use server::AdsServer;
pub use stream::{ServerContext, ServerLimits};
pub use tls::TlsAcceptor;
pub use view_registry::ViewRegistry;
