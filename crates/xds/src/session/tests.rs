//! The rules of `docs/protocol.md`, each with at least one test that bears its number.

mod delta;
mod generations;
mod harness;
mod model;
mod nack;
mod on_demand;
mod order;
mod requests;
mod sotw;
mod table;
mod types;
mod warming;
