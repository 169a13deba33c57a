//! What is said: responses, and what belongs to the connection.

use http::HeaderMap;
use http::response::Parts;

use super::Connection;
use crate::http2::frame::{self, Code, Failure, HEAD, Head, MAX_FRAME, flag, kind};
use crate::http2::hpack::Block;

/// What a peer may make us say (answers to settings and pings, windows, resets) without reading it.
const MAX_OUTBOX: usize = 64 << 10;

impl Connection {
    /// The head of a response; with `end` it is all of it.
    pub fn respond(&mut self, id: u32, parts: &Parts, end: bool) {
        let mut block = self.block();
        block.status(parts.status);
        block.headers(&parts.headers);
        self.put_block(id, block, end);
        if end {
            self.ended(id);
        }
    }

    /// The end of a response. Everything that was to be sent before must be in frames.
    pub fn finish(&mut self, id: u32, trailers: &HeaderMap) {
        let mut block = self.block();
        block.headers(trailers);
        self.put_block(id, block, true);
        self.ended(id);
    }

    /// The end of a response that has no trailers.
    pub fn finish_bare(&mut self, id: u32) {
        frame::put(&mut self.outbox, kind::DATA, flag::END_STREAM, id, &[]);
        self.ended(id);
    }

    /// A peer that has more to say need not say it (section 8.1).
    fn ended(&mut self, id: u32) {
        if self.find(id).is_some_and(|stream| !stream.ended) {
            frame::put_reset(&mut self.outbox, id, Code::NoError);
        }
        self.close(id, false);
    }

    /// Gives up a stream.
    pub fn reset(&mut self, id: u32, code: Code) {
        frame::put_reset(&mut self.outbox, id, code);
        self.close(id, false);
    }

    pub(super) fn block(&mut self) -> Block {
        let mut block = Block::default();
        if std::mem::take(&mut self.no_table) {
            block.no_table();
        }
        block
    }

    pub(super) fn put_block(&mut self, id: u32, Block(block): Block, end: bool) {
        let flags = flag::END_HEADERS | if end { flag::END_STREAM } else { 0 };
        frame::put(&mut self.outbox, kind::HEADERS, flags, id, &block);
    }

    /// The head of a DATA frame for as much of `want` bytes as the windows and a frame allow, and
    /// how much that is; counted as sent. `None` if there is no room.
    pub fn data(&mut self, id: u32, want: usize) -> Option<([u8; HEAD], usize)> {
        let room = self.outbound.left();
        let stream = self.find(id)?;
        let len = want.min(MAX_FRAME).min(room).min(stream.outbound.left());
        if len == 0 {
            return None;
        }
        stream.outbound.send(len);
        self.outbound.send(len);
        Some((Head { len, kind: kind::DATA, flags: 0, stream: id }.encode(), len))
    }

    /// Asks the peer whether it is there; one that has not even begun has nothing to answer.
    pub fn ping(&mut self) {
        if !self.greeted {
            return;
        }
        frame::put(&mut self.outbox, kind::PING, 0, 0, b"are you?");
    }

    /// Takes no more streams; those that are open go on.
    pub fn go_away(&mut self) {
        if !std::mem::replace(&mut self.going_away, true) {
            self.greet();
            frame::put_goaway(&mut self.outbox, self.last, Code::NoError, "");
        }
    }

    /// Says why the connection ends. Nothing can be said after that.
    pub fn fail(&mut self, failure: &Failure) {
        self.going_away = true;
        self.greet();
        frame::put_goaway(&mut self.outbox, self.last, failure.code, failure.text);
    }

    /// Whether the peer makes us say more than it reads: nothing more should be received.
    pub fn is_flooded(&self) -> bool {
        self.outbox.len() > MAX_OUTBOX
    }

    /// Frames that are to be sent before any further DATA.
    pub fn outbox(&mut self) -> &mut Vec<u8> {
        &mut self.outbox
    }
}
