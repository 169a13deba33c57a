//! Pilothouse: a small, very fast Pilot.
//!
//! Data flows one way, and the modules stand in that order:
//!
//! ```text
//! Kubernetes API ─┐
//!                 ├─> source ──> model ──> translate ──> snapshot ──> ads ──> proxies
//! manifest folder ┘   (events)   (plain)   (pure)        (encoded)    (streams)  │
//!                                                            debug, metrics, CLI ┘
//! ```
//!
//! What has no business with Kubernetes or Istio is in crates: the xDS protocol in `crates/xds`, the server
//! that speaks it in `crates/xds-server`, HTTP/2 in `crates/http2`. `ARCHITECTURE.md` walks with a change through all of it.
//!
//! The sidecar's wing is `sidecar`: what runs beside an Envoy, and what puts it there. It meets the
//! control plane over the network only.
//!
//! The operator's is `operator`: commands that ask every replica, over the network as well.
//!
//! Each state has one writer: `publish` owns the model and publishes snapshots, a stream owns its
//! session. `tests/architecture.rs` holds who may use whom.

// They panic where nobody reads; see `output`.
#![warn(clippy::print_stdout, clippy::print_stderr)]

pub mod flags;
pub mod identity;
pub mod kubeconfig;
pub mod names;
pub mod view;
pub mod well_known;
pub mod yaml;

pub mod source;

pub mod changes;
pub mod model;

pub mod translate;

pub mod snapshot;

pub mod publish;

pub mod ads;
pub mod proxies;

pub mod debug;
pub mod descriptors;
pub mod events;
pub mod metrics;
pub mod route_status;
pub mod version;

// Of any process, whichever wing it is of.
pub mod causes;
pub mod certificates;
pub mod door;
pub mod escape;
pub mod exposition;
pub mod file_watch;
pub mod http_server;
pub mod local_host;
pub mod logging;
pub mod monitoring;
pub mod output;
pub mod parts;
pub mod readiness;
pub mod signals;

pub mod app;

// The other wing, which meets the control plane over the network only.
pub mod sidecar;

// The operator's, likewise.
pub mod operator;

pub mod cli;
pub mod program;
