//! Many peers, odd peers and peers that mean harm: what the real program gives them, and what it keeps.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a test that cannot go on has failed

#[allow(dead_code)] // other tests ask more of it
#[path = "../common/mod.rs"]
mod common;
#[allow(dead_code)]
#[path = "../../benches/fanout/http2.rs"]
mod http2;

mod balance;
mod views;
