//! Flow control (RFC 9113, section 5.2 and 6.9): what may still be sent, each way.

use super::frame::{Code, Failure, MAX_WINDOW};

/// What a peer may have sent us that we have not taken, on a stream as on a connection. More than
/// the largest ACK that is usual (50 KB for a thousand clusters), so that nobody waits for an update.
pub(crate) const WINDOW: u32 = 1 << 20;

/// Of what is received.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// What the peer may still send.
    room: u32,
    /// What was taken, and the peer has not been told.
    credit: u32,
}

impl Inbound {
    pub(crate) fn new() -> Self {
        Self { room: WINDOW, credit: 0 }
    }

    /// Bytes came, if they were allowed to.
    pub(crate) fn receive(&mut self, bytes: u32) -> Result<(), Failure> {
        let over = Failure::new(Code::FlowControl, "more DATA than the window allows");
        self.room = self.room.checked_sub(bytes).ok_or(over)?;
        Ok(())
    }

    /// Bytes were taken; how much wider the peer is to be told that the window is, if at all now.
    pub(crate) fn take(&mut self, bytes: u32) -> Option<u32> {
        self.credit += bytes;
        if self.credit < WINDOW / 2 {
            return None;
        }
        let credit = std::mem::take(&mut self.credit);
        self.room += credit;
        Some(credit)
    }
}

/// Of what is sent. Negative when the peer has made it smaller meanwhile (section 6.9.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outbound(i64);

impl Outbound {
    pub(crate) fn new(window: u32) -> Self {
        Self(i64::from(window))
    }

    pub(crate) fn left(self) -> usize {
        self.0.max(0) as usize
    }

    pub(crate) fn send(&mut self, bytes: usize) {
        self.0 -= bytes as i64;
    }

    /// Wider, or by a new setting narrower; `None` if it is wider than a window can be.
    pub(crate) fn widen(&mut self, by: i64) -> Option<()> {
        self.0 += by;
        (self.0 <= i64::from(MAX_WINDOW)).then_some(())
    }
}
