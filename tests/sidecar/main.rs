//! `pilothouse agent` with a real Envoy: what stands beside a workload, on this machine alone.
//!
//! What it needs to find a control plane, workloads and Envoy is the harness of `tests/envoy`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod agent;
mod bootstrap;
mod dns;
mod door;
mod end;
#[path = "../envoy/harness/mod.rs"]
#[allow(dead_code, unused_macros, unused_imports)] // what only the other tests use
mod harness;
mod init;
#[path = "../common/listener.rs"]
mod listener;
mod probes;
mod ready;
