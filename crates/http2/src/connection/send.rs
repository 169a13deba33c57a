//! What the server sends: responses, and frames of the connection.

use http::HeaderMap;
use http::response::Parts;

use super::Connection;
use crate::frame::{
    self, ConnectionError, ErrorCode, FRAME_HEADER_LEN, FrameHeader, MAX_FRAME_SIZE, flag,
    frame_type,
};
use crate::hpack::HeaderBlock;

/// Bytes of frames that a peer may make us queue without reading them: acknowledgements of SETTINGS
/// and PING, WINDOW_UPDATE, RST_STREAM.
const MAX_PENDING_BYTES: usize = 64 << 10;

impl Connection {
    /// Queues status and headers of a response; with `end_stream` there is nothing else.
    pub fn send_response(&mut self, stream_id: u32, parts: &Parts, end_stream: bool) {
        let mut block = self.begin_header_block();
        block.push_status(parts.status);
        block.push_headers(&parts.headers);
        self.write_headers(stream_id, &block, end_stream);
        if end_stream {
            self.end_response(stream_id);
        }
    }

    /// Ends a response with trailers. All of its DATA must have been framed
    /// ([`Self::begin_data_frame`]).
    pub fn send_trailers(&mut self, stream_id: u32, trailers: &HeaderMap) {
        let mut block = self.begin_header_block();
        block.push_headers(trailers);
        self.write_headers(stream_id, &block, true);
        self.end_response(stream_id);
    }

    /// Ends a response without trailers.
    pub fn send_end_stream(&mut self, stream_id: u32) {
        let out = &mut self.pending_frames;
        frame::write_frame(out, frame_type::DATA, flag::END_STREAM, stream_id, &[]);
        self.end_response(stream_id);
    }

    /// A peer that is still sending its request is told to stop (section 8.1).
    fn end_response(&mut self, stream_id: u32) {
        if self.find_stream(stream_id).is_some_and(|stream| !stream.remote_closed) {
            frame::write_rst_stream(&mut self.pending_frames, stream_id, ErrorCode::NoError);
        }
        self.close_stream(stream_id, false);
    }

    /// Closes a stream with RST_STREAM.
    pub fn reset_stream(&mut self, stream_id: u32, code: ErrorCode) {
        frame::write_rst_stream(&mut self.pending_frames, stream_id, code);
        self.close_stream(stream_id, false);
    }

    pub(super) fn begin_header_block(&mut self) -> HeaderBlock {
        let mut block = HeaderBlock::default();
        if std::mem::take(&mut self.table_size_update_due) {
            block.push_table_size_zero();
        }
        block
    }

    pub(super) fn write_headers(&mut self, stream_id: u32, block: &HeaderBlock, end_stream: bool) {
        let flags = flag::END_HEADERS | if end_stream { flag::END_STREAM } else { 0 };
        let out = &mut self.pending_frames;
        frame::write_frame(out, frame_type::HEADERS, flags, stream_id, &block.0);
    }

    /// The header of a DATA frame and the length of its payload: as much of `wanted` bytes as the
    /// windows and a frame allow. It counts as sent, so the caller must write it, after the pending
    /// frames. `None` if the windows are used up or the stream is closed.
    pub fn begin_data_frame(
        &mut self,
        stream_id: u32,
        wanted: usize,
    ) -> Option<([u8; FRAME_HEADER_LEN], usize)> {
        let available = self.send_window.available();
        let stream = self.find_stream(stream_id)?;
        let len = wanted.min(MAX_FRAME_SIZE).min(available).min(stream.send_window.available());
        if len == 0 {
            return None;
        }
        stream.send_window.consume(len);
        self.send_window.consume(len);
        let header = FrameHeader { len, frame_type: frame_type::DATA, flags: 0, stream_id };
        Some((header.encode(), len))
    }

    /// Queues a PING, unless the peer's preface has not arrived.
    pub fn send_ping(&mut self) {
        if !self.settings_sent {
            return;
        }
        frame::write_frame(&mut self.pending_frames, frame_type::PING, 0, 0, b"are you?");
    }

    /// Queues GOAWAY, once: new streams are refused, open ones continue (section 6.8).
    pub fn begin_graceful_shutdown(&mut self) {
        if !std::mem::replace(&mut self.going_away, true) {
            self.send_settings();
            let out = &mut self.pending_frames;
            frame::write_goaway(out, self.last_stream_id, ErrorCode::NoError, "");
        }
    }

    /// Queues GOAWAY with an error. The caller writes the pending frames and closes the connection.
    pub fn send_goaway(&mut self, error: &ConnectionError) {
        self.going_away = true;
        self.send_settings();
        let out = &mut self.pending_frames;
        frame::write_goaway(out, self.last_stream_id, error.code, error.reason);
    }

    /// Whether the peer makes us queue more frames than it reads. The caller must not read from it
    /// before the pending frames are written.
    pub fn is_flooded(&self) -> bool {
        self.pending_frames.len() > MAX_PENDING_BYTES
    }

    /// Encoded frames that must be written before any further DATA. The caller takes them out.
    pub fn pending_frames(&mut self) -> &mut Vec<u8> {
        &mut self.pending_frames
    }
}
