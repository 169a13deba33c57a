//! What Pilothouse's tests and benchmarks stand on.
//!
//! | module | what |
//! |---|---|
//! | [`wait`] | waits for what must become true, with a deadline |
//! | [`process`] | child processes whose log is kept and that end with the test |
//! | [`places`] | addresses and ports that nobody else uses |
//! | [`http`] | one GET at a time |
//! | [`manifests`] | a folder of manifests that is written while it is served |
//! | [`control_plane`] | the real program over any source |
//! | [`kube_control_plane`], [`fake_api_server`] | the same over a stand-in API server that fails on command |
//! | [`envoy`], [`dump`] | a real Envoy with one of the sample bootstraps, and what it has |
//! | [`load`], [`loaded_envoy`] | requests that go on meanwhile, every answer counted |
//! | [`lab`] | manifests, control plane and Envoy together |
//! | [`backends`], [`balancer`], [`relay`] | workloads, a TCP balancer, an xDS stream that can be held and cut |
//! | [`certificates`] | an authority, and servers and proxies that it signs for |
//! | [`listener`] | a fault from outside: a process loses a listening socket |
//! | [`namespace`] | a network namespace of a test's own |
//! | [`xds_client`], [`rejecting`], [`raw_http2`] | proxies without an Envoy: by tonic's client; one that rejects; as cheap as can be |
//! | [`model_mesh`], [`spread`] | of benchmarks: a mesh as a source says it; how a figure is spread |
//!
//! Every test has addresses and ports of its own, so tests run side by side. What fails panics with what
//! was seen last.

// All of it is test code.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::path::{Path, PathBuf};

pub mod backends;
pub mod balancer;
pub mod certificates;
pub mod control_plane;
pub mod dump;
pub mod envoy;
pub mod fake_api_server;
pub mod http;
pub mod kube_control_plane;
pub mod lab;
pub mod listener;
pub mod load;
pub mod loaded_envoy;
pub mod manifests;
pub mod model_mesh;
pub mod namespace;
pub mod places;
pub mod process;
pub mod raw_http2;
pub mod rejecting;
pub mod relay;
pub mod spread;
pub mod wait;
pub mod xds_client;

pub use http::{json, page as get};
pub use places::port as free_port;
pub use process::Process;
pub use wait::{DEADLINE, LONG_DEADLINE, VISIBLE, eventually, in_time, same, throughout, until};

/// The checkout's root.
#[must_use]
pub fn repository() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The program that cargo has built for the test or benchmark that runs.
#[must_use]
pub fn program() -> PathBuf {
    let program = std::env::var_os("CARGO_BIN_EXE_pilothouse");
    program.expect("cargo sets it: run tests and benchmarks by cargo").into()
}
