//! What Prometheus makes of the control plane: its tools on the page of metrics, on the rules and on their
//! unit tests, and a real Prometheus that scrapes a running control plane and is asked every expression of
//! the rules and of the dashboard.
//!
//! Grafana itself is not run: what it would ask is asked of Prometheus in its place.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod dashboard;
mod prometheus;
mod promtool;
mod proxies;
mod rules;
mod scraped;
