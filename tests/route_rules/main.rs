//! Rules of HTTPRoutes and GRPCRoutes against the specification: `evaluator` says what the Gateway API wants done
//! with a request, `interpreter` what an Envoy does with it that has the routes made of the same rules, and
//! `sample` asks a real Envoy. The three must agree on random routes and requests.
//!
//! `fuzz` gives a real Envoy many more routes, and wilder ones: it must take them all.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

mod agreement;
mod cases;
mod cors;
mod dice;
mod echo;
mod envoy;
mod evaluator;
mod fuzz;
mod interpreter;
mod outcome;
mod regexes;
mod sample;
