//! The peer's SETTINGS and WINDOW_UPDATE.

use super::{
    Connection, Event, WRONG_LENGTH, check_connection_frame, exact_length, protocol_error,
};
use crate::frame::{
    self, ConnectionError, ErrorCode, FrameHeader, MAX_WINDOW, flag, frame_type, setting,
};

const WINDOW_TOO_LARGE: ConnectionError =
    ConnectionError { code: ErrorCode::FlowControlError, reason: "a window of more than 2^31-1" };

impl Connection {
    pub(super) fn receive_settings(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<(), ConnectionError> {
        check_connection_frame(header)?;
        if header.has(flag::ACK) {
            return if payload.is_empty() { Ok(()) } else { Err(WRONG_LENGTH) };
        }
        let (settings, []) = payload.as_chunks::<6>() else { return Err(WRONG_LENGTH) };
        let mut initial_window = self.initial_send_window;
        for [a, b, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.table_size_update_due = true,
                setting::ENABLE_PUSH if value > 1 => {
                    return protocol_error("ENABLE_PUSH is 0 or 1");
                }
                setting::INITIAL_WINDOW_SIZE => {
                    if value > MAX_WINDOW {
                        return Err(WINDOW_TOO_LARGE);
                    }
                    initial_window = value;
                }
                // Not stored: our frames fit the smallest value that a peer may set.
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return protocol_error("MAX_FRAME_SIZE is 2^14 to 2^24-1");
                }
                _ => {}
            }
        }
        // Once for each frame, however often it repeats the setting: a peer must not make us visit
        // all streams for six bytes.
        let change = i64::from(initial_window) - i64::from(self.initial_send_window);
        self.initial_send_window = initial_window;
        for stream in &mut self.streams {
            stream.send_window.adjust(change).ok_or(WINDOW_TOO_LARGE)?;
        }
        frame::write_frame(&mut self.pending_frames, frame_type::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    pub(super) fn receive_window_update<'a>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let increment = u32::from_be_bytes(exact_length(payload)?) & MAX_WINDOW;
        let stream_id = header.stream_id;
        if stream_id == 0 {
            if increment == 0 {
                return protocol_error("WINDOW_UPDATE by 0");
            }
            let adjusted = self.send_window.adjust(i64::from(increment));
            return adjusted.ok_or(WINDOW_TOO_LARGE).map(|()| None);
        }
        self.check_opened(header)?;
        // On a stream that has ended it may have been in flight (section 5.1).
        let Some(stream) = self.find_stream(stream_id) else { return Ok(None) };
        let code = match stream.send_window.adjust(i64::from(increment)) {
            Some(()) if increment > 0 => return Ok(None),
            Some(()) => ErrorCode::ProtocolError,
            None => ErrorCode::FlowControlError,
        };
        self.reset_stream(stream_id, code);
        Ok(Some(Event::StreamReset { stream_id }))
    }
}
