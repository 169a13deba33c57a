//! The sidecar's wing: what runs beside an Envoy, and what puts it there. It meets the control plane
//! over the network only; `tests/architecture.rs` holds that neither wing uses the other's modules.
//!
//! - `inject` adds a sidecar to the pods of manifests, `injector` to those that an API server asks about,
//!   `iptables` leads a pod's traffic to it,
//! - `agent` runs its Envoy, `doctor` says why an Envoy has no config.

// What they share.
pub mod credentials;
pub mod envoy_admin;
pub mod host_port;
pub mod http_client;
pub mod proto_value;

pub mod agent;
pub mod doctor;
pub mod inject;
pub mod injector;
pub mod iptables;
