//! DATA frames (RFC 9113, section 6.1): what of a body has come, and the windows that bound it.

use std::borrow::Cow;

use super::closed_streams::ClosedState;
use super::{Connection, Event, STREAM_ENDED, Stream, strip_padding};
use crate::frame::{self, ConnectionError, ErrorCode, FrameHeader, flag};

impl Stream {
    /// Counts bytes of the body; false if they or the end contradict `content-length` (section
    /// 8.1.1).
    pub(super) fn matches_content_length(&mut self, len: usize, end_stream: bool) -> bool {
        let Some(remaining) = &mut self.remaining_content_length else { return true };
        let Some(left) = remaining.checked_sub(len as u64) else { return false };
        *remaining = left;
        !end_stream || left == 0
    }
}

impl Connection {
    /// Accounts for a DATA frame. Windows count all of the frame, padding included (section 6.1);
    /// `data_len` is what it has without padding.
    pub(super) fn receive_data<'a>(
        &mut self,
        header: FrameHeader,
        data_len: usize,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        self.check_opened(header)?;
        let len = header.len as u32;
        let stream_id = header.stream_id;
        self.receive_window.consume(len)?;
        let code = match self.find_stream(stream_id) {
            Some(stream) if stream.remote_closed => {
                self.release_connection_capacity(len);
                ErrorCode::StreamClosed
            }
            Some(stream) => {
                stream.receive_window.consume(len)?;
                stream.unreleased += len;
                if stream.matches_content_length(data_len, header.has(flag::END_STREAM)) {
                    return Ok(None);
                }
                ErrorCode::ProtocolError
            }
            None => match self.closed_streams.state(stream_id) {
                ClosedState::ByPeer | ClosedState::NeverOpened => return Err(STREAM_ENDED),
                // The frame may have been in flight when we ended the stream.
                ClosedState::ByServer | ClosedState::Forgotten => {
                    self.release_connection_capacity(len);
                    return Ok(None);
                }
            },
        };
        self.reset_stream(stream_id, code);
        Ok(Some(Event::StreamReset { stream_id }))
    }

    pub(super) fn data_event<'a>(
        &mut self,
        stream_id: u32,
        data: Cow<'a, [u8]>,
        end_stream: bool,
    ) -> Option<Event<'a>> {
        let stream = self.find_stream(stream_id)?;
        stream.remote_closed |= end_stream;
        Some(Event::Data { stream_id, data, end_stream })
    }

    pub(super) fn receive_padded_data<'a>(
        &mut self,
        header: FrameHeader,
        payload: Cow<'a, [u8]>,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let len = strip_padding(header, &payload)?.len();
        let reset = self.receive_data(header, len)?;
        if reset.is_some() {
            return Ok(reset);
        }
        self.release_capacity(header.stream_id, (header.len - len) as u32);
        let data = match payload {
            Cow::Borrowed(all) => Cow::Borrowed(all.get(1..=len).unwrap_or_default()),
            Cow::Owned(all) => Cow::Owned(all.get(1..=len).unwrap_or_default().to_vec()),
        };
        Ok(self.data_event(header.stream_id, data, header.has(flag::END_STREAM)))
    }

    pub(super) fn release_connection_capacity(&mut self, len: u32) {
        if let Some(increment) = self.receive_window.release(len) {
            frame::write_window_update(&mut self.pending_frames, 0, increment);
        }
    }

    /// The caller has used so many bytes of a stream's DATA: the peer may send as many again. More
    /// than what was received is ignored, and so is a stream that is closed.
    pub fn release_capacity(&mut self, stream_id: u32, len: u32) {
        let Some(stream) = self.find_stream(stream_id) else { return };
        let len = len.min(stream.unreleased);
        stream.unreleased -= len;
        if !stream.remote_closed
            && let Some(increment) = stream.receive_window.release(len)
        {
            frame::write_window_update(&mut self.pending_frames, stream_id, increment);
        }
        self.release_connection_capacity(len);
    }
}
