//! The page for people in a real Chromium, with the demo's mesh and a real Envoy.
//!
//! Chromium and chromedriver are Debian's (`tools/packages`). Screenshots are left in `target/page/`; with
//! `UPDATE=1` those of docs/see.md are written to `docs/images/` as well.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod browser;
mod dashboard;
mod lost;
mod many;
mod mesh;
mod names;
mod on_demand;
mod watched;
