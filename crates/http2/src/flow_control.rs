//! Flow control (RFC 9113, sections 5.2 and 6.9): how many bytes of DATA either side may still send.

use crate::frame::{ConnectionError, ErrorCode, MAX_WINDOW};

/// Bytes of DATA that a peer may send before the caller has released them, for each stream and for
/// the connection. More than the largest ACK that is usual (50 KB for a thousand clusters), so that
/// a client never waits for a WINDOW_UPDATE.
pub(crate) const RECEIVE_WINDOW: u32 = 1 << 20;

/// Bytes that the peer may still send on a stream or on the connection.
#[derive(Debug)]
pub(crate) struct ReceiveWindow {
    available: u32,
    /// Bytes that the caller has released and no WINDOW_UPDATE has announced yet.
    unannounced: u32,
}

impl ReceiveWindow {
    pub(crate) fn new() -> Self {
        Self { available: RECEIVE_WINDOW, unannounced: 0 }
    }

    /// Counts received bytes.
    ///
    /// # Errors
    /// FLOW_CONTROL_ERROR if the peer has sent more than the window allows (section 6.9.1).
    pub(crate) fn consume(&mut self, len: u32) -> Result<(), ConnectionError> {
        let overrun =
            ConnectionError::new(ErrorCode::FlowControlError, "more DATA than the window allows");
        self.available = self.available.checked_sub(len).ok_or(overrun)?;
        Ok(())
    }

    /// Counts bytes that the caller has released. Returns the increment for a WINDOW_UPDATE as soon
    /// as one is due: at half of the window, so that small messages do not cost a frame each.
    pub(crate) fn release(&mut self, len: u32) -> Option<u32> {
        self.unannounced += len;
        if self.unannounced < RECEIVE_WINDOW / 2 {
            return None;
        }
        let increment = std::mem::take(&mut self.unannounced);
        self.available += increment;
        Some(increment)
    }
}

/// Bytes that we may still send on a stream or on the connection. Negative after the peer has
/// lowered SETTINGS_INITIAL_WINDOW_SIZE below what was sent already (section 6.9.2).
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendWindow(i64);

impl SendWindow {
    pub(crate) fn new(size: u32) -> Self {
        Self(i64::from(size))
    }

    pub(crate) fn available(self) -> usize {
        self.0.max(0) as usize
    }

    /// Counts sent bytes.
    pub(crate) fn consume(&mut self, len: usize) {
        self.0 -= len as i64;
    }

    /// Applies a WINDOW_UPDATE, or the difference that a new SETTINGS_INITIAL_WINDOW_SIZE makes;
    /// `None` if the window would exceed 2^31-1 (section 6.9.1).
    pub(crate) fn adjust(&mut self, by: i64) -> Option<()> {
        self.0 += by;
        (self.0 <= i64::from(MAX_WINDOW)).then_some(())
    }
}
