//! One TCP connection and the HTTP/2 streams on it.
//!
//! `connection_task` moves bytes between the socket, HTTP/2 and the streams; `http_stream` is one
//! request and its response; `connection_handle` wakes, closes and observes a connection from outside
//! of its task; `transport` is the socket, with TLS over it or without.

pub(crate) mod connection_handle;
pub(crate) mod connection_task;
pub(crate) mod http_stream;
pub(crate) mod transport;
