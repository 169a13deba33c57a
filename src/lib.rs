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
//! Each state has one writer: `publish` owns the model and cuts snapshots, a stream owns its
//! session. `tests/architecture.rs` holds who may use whom.

pub mod ads;
pub mod descriptors;
pub mod model;
pub mod names;
pub mod proxies;
pub mod snapshot;
pub mod source;
pub mod subscription;
pub mod translate;
pub mod view;
pub mod wire;
