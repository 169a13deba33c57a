//! `pilothouse agent` with a real Envoy: what stands beside a workload, on this machine alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod agent;
mod bootstrap;
mod dns;
mod doctor_tls;
mod door;
mod end;
mod init;
mod metrics;
mod on_demand;
mod probes;
mod ready;
mod stand_in;
mod tls;
