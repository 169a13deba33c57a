//! HTTP/2 (RFC 9113, RFC 7541) as far as a gRPC server needs it, without I/O: bytes in, events and
//! bytes out.
//!
//! Ours because the price of a push is here: a library of all trades costs as much again as a write
//! and a read do in the kernel, and its buffers were two thirds of what an idle stream held
//! (`docs/performance.md`). A proxy has one stream on its connection, which says little and is told
//! the same as all others; so nothing here is kept for a quiet connection but a few numbers, what is
//! received is looked at where it lies, and what is sent is shared until it is in the kernel.
//!
//! `frame` is the format, `hpack` the headers, `input` cuts frames off the bytes, `request` makes
//! requests of header blocks, `window` counts, `connection` holds the rules, `batch` gathers what
//! is written together. Uses no other module.

mod batch;
mod connection;
mod frame;
mod hpack;
mod input;
mod request;
mod window;

pub(crate) use batch::{Batch, COPIED, MAX_PARTS, advance, slices};
pub use connection::{Connection, Event};
pub use frame::{Code, Failure};
