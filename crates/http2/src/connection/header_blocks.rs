//! Header blocks: assembled from HEADERS and CONTINUATION, then a request, its trailers, or an error.

use std::borrow::Cow;

use http::StatusCode;

use super::closed_streams::ClosedState;
use super::{Connection, Event, MAX_STREAMS, STREAM_ENDED, Stream, protocol_error};
use crate::flow_control::{ReceiveWindow, SendWindow};
use crate::frame::{self, ConnectionError, ErrorCode, FrameHeader, flag};
use crate::hpack::DecodeError;
use crate::request::{self, RequestHeaders};

/// Bytes of an encoded header block, over all of its frames: what is not decoded yet has to be
/// buffered (the CONTINUATION flood, CVE-2024-27316).
const MAX_BLOCK_SIZE: usize = 2 * request::MAX_HEADER_LIST_SIZE;

/// Frames of one header block: CONTINUATION frames may be empty, so bytes do not bound them.
const MAX_BLOCK_FRAMES: usize = 32;

/// A header block without its last frame.
#[derive(Debug)]
pub(super) struct PartialHeaderBlock {
    /// The header of the HEADERS frame.
    pub(super) header: FrameHeader,
    block: Vec<u8>,
    frames: usize,
}

fn connection_error(error: DecodeError) -> ConnectionError {
    let (code, reason) = match error {
        DecodeError::Malformed => {
            (ErrorCode::CompressionError, "a header block that does not decode")
        }
        DecodeError::TooLarge => {
            (ErrorCode::EnhanceYourCalm, "a header block that decodes to more than 64 KiB")
        }
    };
    ConnectionError::new(code, reason)
}

impl Connection {
    pub(super) fn receive_headers<'a>(
        &mut self,
        header: FrameHeader,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        if header.has(flag::END_HEADERS) {
            return self.receive_block(header, block);
        }
        let partial = PartialHeaderBlock { header, block: block.to_vec(), frames: 1 };
        self.partial_block = Some(Box::new(partial));
        Ok(None)
    }

    pub(super) fn receive_continuation<'a>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let Some(mut partial) = self.partial_block.take() else { return Ok(None) };
        partial.block.extend_from_slice(payload);
        partial.frames += 1;
        if partial.block.len() > MAX_BLOCK_SIZE || partial.frames > MAX_BLOCK_FRAMES {
            let reason = "a header block without end";
            return Err(ConnectionError::new(ErrorCode::EnhanceYourCalm, reason));
        }
        if header.has(flag::END_HEADERS) {
            return self.receive_block(partial.header, &partial.block);
        }
        self.partial_block = Some(partial);
        Ok(None)
    }

    fn receive_block<'a>(
        &mut self,
        header: FrameHeader,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let (stream_id, end_stream) = (header.stream_id, header.has(flag::END_STREAM));
        if stream_id > self.last_stream_id {
            self.last_stream_id = stream_id;
            return self.open_stream(stream_id, end_stream, block);
        }
        if self.find_stream(stream_id).is_none() {
            return self.receive_late_block(stream_id, block);
        }
        // Trailers are checked and dropped: gRPC's clients send none.
        let decoded = request::decode_trailers(&mut self.decoder, block);
        let well_formed = decoded.map_err(connection_error)?;
        let Some(stream) = self.find_stream(stream_id) else { return Ok(None) };
        let code = if stream.remote_closed {
            ErrorCode::StreamClosed
        } else if !end_stream || !well_formed || !stream.matches_content_length(0, true) {
            // Section 8.1: trailers end a request, and have no pseudo-header fields.
            ErrorCode::ProtocolError
        } else {
            return Ok(self.data_event(stream_id, Cow::default(), true));
        };
        self.reset_stream(stream_id, code);
        Ok(Some(Event::StreamReset { stream_id }))
    }

    /// A header block for a stream that is not open any more.
    fn receive_late_block<'a>(
        &mut self,
        stream_id: u32,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let state = self.closed_streams.state(stream_id);
        match state {
            ClosedState::NeverOpened => {
                return protocol_error("a stream below one that was opened before");
            }
            ClosedState::ByPeer => return Err(STREAM_ENDED),
            ClosedState::ByServer | ClosedState::Forgotten => {}
        }
        self.decoder.decode(block, |_, _| {}).map_err(connection_error)?;
        // If it is meant as a new request, its client must not wait for an answer.
        if state == ClosedState::Forgotten {
            frame::write_rst_stream(&mut self.pending_frames, stream_id, ErrorCode::StreamClosed);
        }
        Ok(Some(Event::RequestRejected { stream_id }))
    }

    fn open_stream<'a>(
        &mut self,
        stream_id: u32,
        end_stream: bool,
        block: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let decoded = request::decode_request(&mut self.decoder, block);
        let accepted = match decoded.map_err(connection_error)? {
            _ if self.going_away || self.streams.len() >= MAX_STREAMS => {
                Err(ErrorCode::RefusedStream)
            }
            // Section 8.1.1: `content-length` is the length of all DATA frames.
            RequestHeaders::WellFormed(_, Some(1..)) if end_stream => Err(ErrorCode::ProtocolError),
            RequestHeaders::WellFormed(request, content_length) => Ok((request, content_length)),
            RequestHeaders::Malformed => Err(ErrorCode::ProtocolError),
            RequestHeaders::TooLarge => {
                let mut block = self.begin_header_block();
                block.push_status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
                self.write_headers(stream_id, &block, true);
                Err(ErrorCode::NoError)
            }
        };
        let (request, remaining_content_length) = match accepted {
            Ok(accepted) => accepted,
            Err(code) => {
                // A complete response closes a stream whose peer has ended its side.
                if code != ErrorCode::NoError || !end_stream {
                    frame::write_rst_stream(&mut self.pending_frames, stream_id, code);
                }
                self.closed_streams.record(stream_id, end_stream);
                return Ok(Some(Event::RequestRejected { stream_id }));
            }
        };
        self.streams.push(Stream {
            id: stream_id,
            receive_window: ReceiveWindow::new(),
            send_window: SendWindow::new(self.initial_send_window),
            unreleased: 0,
            remote_closed: end_stream,
            remaining_content_length,
        });
        Ok(Some(Event::Request { stream_id, request, end_stream }))
    }
}
