//! The operator's commands as processes: against real servers of the control plane, and against stand-ins
//! that answer what no server should.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod harness;
mod hostile;
mod proxies;
mod replicas;
mod shell;
mod status;
mod terminal;
mod uses;
mod wait;
