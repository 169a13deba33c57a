//! The real program and a real Envoy: what users run, on this machine alone.
//!
//! Envoy is the one that `make envoy` installs; `PILOTHOUSE_ENVOY` names another. Tests that
//! depend on the wire's variant run once with the state of the world and once with delta.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod bound;
mod captured;
mod changes;
mod convergence;
mod doctor;
mod flags;
mod inbound;
mod interrupted;
mod meaning;
mod on_demand;
mod outage;
mod outside;
mod process;
mod regexes;
mod rejected;
mod replicas;
mod routes;
mod sidecar;
mod standalone;
mod tls;
mod unserved;
mod versions;
mod visibility;
mod wire;
mod zones;
