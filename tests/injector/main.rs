//! `pilothouse injector` in this process, over TLS, asked as an API server asks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod client;
mod golden;
mod growth;
mod reload;
mod reviews;
