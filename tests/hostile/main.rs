//! A handful of hostile or broken peers, each against the real program with a limit of 512 MiB,
//! beside good ones: a gRPC client that asks on fresh streams and follows a change, probes, a real
//! Envoy.
//!
//! What is asserted is what an operator would see: the good ones are served, `/live` and `/ready`
//! answer, the memory stays within its limit and is given back. `victim` is the program, `good` those
//! who are served, `attacker` those who attack; the tests are by what they attack.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

use pilothouse_testkit::raw_http2 as http2;

mod attacker;
mod balance;
mod doors;
mod good;
mod handshakes;
mod memory;
mod turns;
mod victim;
mod views;
mod words;
mod work;
