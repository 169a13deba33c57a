//! One TCP connection and the HTTP/2 streams on it.
//!
//! `connection_task` moves bytes between the socket, HTTP/2 and the streams; `http_stream` is one
//! request and its response; `connection_handle` wakes, closes and observes a connection from outside
//! of its task.

pub(in crate::ads) mod connection_handle;
pub(in crate::ads) mod connection_task;
pub(in crate::ads) mod http_stream;
