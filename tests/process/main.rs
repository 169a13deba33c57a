//! The program as a process: how it starts, what becomes of its output, how it ends.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod ends;
mod flags_page;
mod harness;
mod levels;
mod make_ca;
mod memory;
mod output;
mod parts;
