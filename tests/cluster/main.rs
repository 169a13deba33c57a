//! Pilothouse as users deploy it: on a real Kubernetes, with real pods and the real controllers'
//! EndpointSlices, and against a real API server alone where no pods are needed.
//!
//! `make test-cluster` brings up what these tests need and runs them one after the other; by
//! themselves they are ignored. They talk to the cluster by `kubectl`, as its users do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod admission;
mod api_server;
mod conformance;
mod deployed;
mod doctor;
mod faults;
mod gateway_api;
mod half_live;
mod harness;
mod istioctl;
mod node;
mod operator;
mod replicas;
mod rollout;
mod routes;
mod secure;
mod sidecars;
