//! What tools ask of the control plane beside resources: the debug types on an xDS stream, CSDS on the debug
//! port, reflection; and the tools themselves, istioctl and grpcurl as they are, against the real program
//! with real proxies.
//!
//! The tools are built from the Go module proxy, which takes minutes: `make test-tools` does that and runs
//! the tests that need them; by themselves these are ignored.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod csds;
mod debug_types;
mod grpcurl;
mod hostile;
mod istioctl;
mod tool;
