//! Header blocks: put together, then a request, its trailers, or what must not be there.

use std::borrow::Cow;

use http::StatusCode;

use super::closed::Past;
use super::{Connection, Event, MAX_STREAMS, Stream, protocol};
use crate::http2::frame::{self, Code, Failure, Head, flag};
use crate::http2::hpack::Undecodable;
use crate::http2::request;
use crate::http2::window::{Inbound, Outbound};

/// Bytes of a header block as sent, in however many frames: one that is longer is no gRPC, and
/// would have to be kept (the CONTINUATION flood, CVE-2024-27316).
const MAX_BLOCK: usize = 2 * request::MAX_HEADER_LIST;

/// Frames of one header block: those that follow the first may be empty.
const MAX_BLOCK_FRAMES: usize = 32;

/// A header block of which more is to come.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) head: Head,
    block: Vec<u8>,
    frames: usize,
}

fn undecodable(Undecodable: Undecodable) -> Failure {
    Failure::new(Code::Compression, "a header block that does not decode")
}

impl Connection {
    pub(super) fn headers<'a>(
        &mut self,
        head: Head,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, Failure> {
        if head.has(flag::END_HEADERS) {
            return self.whole_headers(head, block);
        }
        self.begun = Some(Box::new(Begun { head, block: block.to_vec(), frames: 1 }));
        Ok(None)
    }

    pub(super) fn continuation<'a>(
        &mut self,
        head: Head,
        content: &[u8],
    ) -> Result<Option<Event<'a>>, Failure> {
        let Some(mut begun) = self.begun.take() else { return Ok(None) };
        begun.block.extend_from_slice(content);
        begun.frames += 1;
        if begun.block.len() > MAX_BLOCK || begun.frames > MAX_BLOCK_FRAMES {
            return Err(Failure::new(Code::EnhanceYourCalm, "a header block without end"));
        }
        if head.has(flag::END_HEADERS) {
            return self.whole_headers(begun.head, &begun.block);
        }
        self.begun = Some(begun);
        Ok(None)
    }

    fn whole_headers<'a>(
        &mut self,
        head: Head,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, Failure> {
        let (id, ended) = (head.stream, head.has(flag::END_STREAM));
        if id > self.last {
            self.last = id;
            return self.opens(id, ended, block);
        }
        if self.find(id).is_none() {
            return self.headers_after_the_end(id, block);
        }
        // gRPC's clients send no trailers; those of others are checked and left out.
        let whole = request::check_trailers(&mut self.decoder, block).map_err(undecodable)?;
        let Some(stream) = self.find(id) else { return Ok(None) };
        let code = if stream.ended {
            Code::StreamClosed
        } else if !ended || !whole || !stream.has_length(0, true) {
            // Section 8.1: trailers end a request, and have no pseudo-header fields.
            Code::Protocol
        } else {
            return Ok(self.data_event(id, Cow::default(), true));
        };
        self.reset(id, code);
        Ok(Some(Event::Reset { stream: id }))
    }

    /// A header block for a stream that is not open any more.
    fn headers_after_the_end<'a>(
        &mut self,
        id: u32,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, Failure> {
        match self.closed.past(id) {
            Past::NeverOpened => return protocol("a stream below one that was opened before"),
            Past::Finished => return Err(super::AFTER_ITS_END),
            Past::CutOff | Past::Forgotten => {}
        }
        self.decoder.decode(block, |_, _| {}).map_err(undecodable)?;
        // If it is meant as a new request, its client must not wait for an answer.
        if self.closed.past(id) == Past::Forgotten {
            frame::put_reset(&mut self.outbox, id, Code::StreamClosed);
        }
        Ok(Some(Event::Refused { stream: id }))
    }

    fn opens<'a>(
        &mut self,
        id: u32,
        ended: bool,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, Failure> {
        let read = request::read(&mut self.decoder, block).map_err(undecodable)?;
        let request = match read {
            _ if self.going_away || self.streams.len() >= MAX_STREAMS => Err(Code::RefusedStream),
            // Section 8.1.1: the length that is announced is that of the DATA frames.
            request::Block::Request(_, Some(1..)) if ended => Err(Code::Protocol),
            request::Block::Request(request, length) => Ok((request, length)),
            request::Block::Malformed => Err(Code::Protocol),
            request::Block::TooLong => {
                let mut block = self.block();
                block.status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                self.put_block(id, block, true);
                Err(Code::NoError)
            }
        };
        let (head, length) = match request {
            Ok(request) => request,
            Err(code) => {
                // A response that is all of it has ended a stream whose peer has said all.
                if code != Code::NoError || !ended {
                    frame::put_reset(&mut self.outbox, id, code);
                }
                self.closed.note(id, ended);
                return Ok(Some(Event::Refused { stream: id }));
            }
        };
        let outbound = Outbound::new(self.stream_window);
        let inbound = Inbound::new();
        self.streams.push(Stream { id, inbound, outbound, waiting: 0, ended, length });
        Ok(Some(Event::Request { stream: id, head, ended }))
    }
}
