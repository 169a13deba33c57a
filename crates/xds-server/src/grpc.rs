//! gRPC on top of HTTP/2 streams, without a codec: responses are bytes that all streams share.
//!
//! `call` checks a request's head, `messages` cuts a request's body into messages, `status` writes how
//! a call ended, `service` finds the method; `not_grpc` answers clients that speak something else.

pub(crate) mod call;
pub mod messages;
pub(crate) mod not_grpc;
pub(crate) mod service;
pub(crate) mod status;
