//! The project's binary against an API server that fails on command.
//!
//! The stand-in (`api`) speaks of Kubernetes' API what the source asks for: discovery, lists in
//! pages, watches with bookmarks. What the control plane makes of a fault is seen where an operator
//! sees it (`pilot`), and by a proxy that counts everything it loses (`proxy`).

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod api;
mod line;
mod lists;
mod pilot;
mod proxy;
mod watches;
