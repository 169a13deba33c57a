//! The project's binary against an API server that fails on command.
//!
//! The stand-in (`api`) speaks of Kubernetes' API what the source asks for: discovery, lists in
//! pages, watches with bookmarks. What the control plane makes of a fault is seen where an operator
//! sees it (`pilot`), by a proxy that counts everything it loses (`proxy`), and by real Envoys under
//! load (`under_load`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

use pilothouse_testkit::fake_api_server as api;
use pilothouse_testkit::kube_control_plane as pilot;

mod events;
mod line;
mod lists;
mod proxy;
mod routes;
mod under_load;
mod watches;
