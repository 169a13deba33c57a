//! The program as a process: how it starts, what becomes of its output, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

#[path = "../common/mod.rs"]
#[allow(dead_code, unused_imports)] // what only other tests use
mod common;
mod ends;
mod harness;
mod levels;
mod memory;
mod output;
mod parts;
