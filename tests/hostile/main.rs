//! What a handful of hostile or broken peers can do to the real program.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

#[path = "../common/mod.rs"]
#[allow(dead_code, unused_imports)] // what only other tests use
mod common;
mod doors;
