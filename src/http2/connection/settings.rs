//! What a peer says of itself and of its windows.

use super::{Connection, Event, SHORT, check_connection, exactly, protocol};
use crate::http2::frame::{self, Code, Failure, Head, MAX_WINDOW, flag, kind, setting};

const TOO_WIDE: Failure = Failure { code: Code::FlowControl, text: "a window of more than 2^31-1" };

impl Connection {
    pub(super) fn settings(&mut self, head: Head, content: &[u8]) -> Result<(), Failure> {
        check_connection(head)?;
        if head.has(flag::ACK) {
            return if content.is_empty() { Ok(()) } else { Err(SHORT) };
        }
        let (all, []) = content.as_chunks::<6>() else { return Err(SHORT) };
        let mut window = self.stream_window;
        for [a, b, value @ ..] in all {
            let value = u32::from_be_bytes(*value);
            match u16::from_be_bytes([*a, *b]) {
                setting::HEADER_TABLE_SIZE => self.no_table = true,
                setting::ENABLE_PUSH if value > 1 => return protocol("ENABLE_PUSH is 0 or 1"),
                setting::INITIAL_WINDOW_SIZE => {
                    if value > MAX_WINDOW {
                        return Err(TOO_WIDE);
                    }
                    window = value;
                }
                // Ours are the smallest, so which it is makes no difference.
                setting::MAX_FRAME_SIZE if !(1 << 14..1 << 24).contains(&value) => {
                    return protocol("MAX_FRAME_SIZE is 2^14 to 2^24-1");
                }
                _ => {}
            }
        }
        // Once, however often the frame says it: a peer must not make us go through all streams for
        // six bytes.
        let by = i64::from(window) - i64::from(self.stream_window);
        self.stream_window = window;
        for stream in &mut self.streams {
            stream.outbound.widen(by).ok_or(TOO_WIDE)?;
        }
        frame::put(&mut self.outbox, kind::SETTINGS, flag::ACK, 0, &[]);
        Ok(())
    }

    pub(super) fn window_update<'a>(
        &mut self,
        head: Head,
        content: &[u8],
    ) -> Result<Option<Event<'a>>, Failure> {
        let by = u32::from_be_bytes(exactly(content)?) & MAX_WINDOW;
        if head.stream == 0 {
            if by == 0 {
                return protocol("WINDOW_UPDATE by nothing");
            }
            return self.outbound.widen(i64::from(by)).ok_or(TOO_WIDE).map(|()| None);
        }
        self.check_known(head)?;
        // Of one that has ended it may have been on its way (section 5.1).
        let Some(stream) = self.find(head.stream) else { return Ok(None) };
        let code = match stream.outbound.widen(i64::from(by)) {
            Some(()) if by > 0 => return Ok(None),
            Some(()) => Code::Protocol,
            None => Code::FlowControl,
        };
        self.reset(head.stream, code);
        Ok(Some(Event::Reset { stream: head.stream }))
    }
}
