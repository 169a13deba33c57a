//! HTTP/2 (RFC 9113) and HPACK (RFC 7541) for servers, without I/O: the caller puts in the bytes
//! that it has read and gets events; it asks for the bytes to write.
//!
//! Made for a server with thousands of connections of one long-lived stream each, which sends the
//! same bytes to all of them. A quiet connection holds a few numbers and no buffer: received frames
//! are parsed where they lie in the caller's read buffer, and DATA is written from the caller's
//! shared [`bytes::Bytes`]. What it leaves out, and how it bounds a hostile peer, is in the README.
//!
//! `frame` is the wire format, `hpack` the header compression; `frame_reader` splits a byte stream
//! into frames, `request` builds requests from header blocks, `flow_control` counts windows,
//! [`Connection`] applies the rules of a connection and its streams, [`WriteBatch`] gathers what one
//! `writev` sends.

mod connection;
mod flow_control;
mod frame;
mod frame_reader;
mod hpack;
mod request;
mod write_batch;

pub use connection::{Connection, Event};
pub use frame::{ConnectionError, ErrorCode, FRAME_HEADER_LEN};
pub use frame_reader::OtherProtocol;
pub use write_batch::{COPY_LIMIT, MAX_IO_SLICES, WriteBatch, advance_unsent, fill_io_slices};
