//! Cuts the body of an HTTP/2 request into gRPC messages.
//!
//! The connection feeds the bytes that it reads, the stream receives whole messages. This is what
//! tonic's `Streaming` does, without its buffer for every stream: ten thousand idle streams hold nothing
//! here. Messages that were not received yet stay in the bytes that came, so that a million messages of
//! five bytes cost five million bytes and not ten times as many. The errors are tonic's, code and text.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;

/// gRPC's message prefix: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// How much is reserved for a message of which only the prefix has come: a length that a peer merely
/// announces must not cost its size.
const MAX_RESERVED: usize = 64 << 10;

/// The stream's end: receives the messages of one request.
#[derive(Debug)]
pub struct MessageReceiver(Arc<Mutex<MessageBuffer>>);

/// The connection's end: feeds the bytes of the request's body.
#[derive(Debug)]
pub struct MessageFeed(Arc<Mutex<MessageBuffer>>);

/// How much of a request's body is consumed, and how much is buffered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BodyState {
    /// Bytes that came and do not wait as whole messages, since the state was last read: the peer may
    /// send as many again. A message may be larger than a window, so the bytes of an incomplete one are
    /// released too; the memory account bounds them.
    pub released: u32,
    /// Bytes that are buffered.
    pub buffered: usize,
    /// When the message that is incomplete began, if it is the next one to be received.
    pub message_begun: Option<Instant>,
}

/// Both ends, for messages of at most `limit` bytes; `setting` is what the limit is called.
pub fn grpc_messages(limit: usize, setting: &'static str) -> (MessageFeed, MessageReceiver) {
    let buffer = MessageBuffer {
        limit,
        setting,
        bytes: Vec::new(),
        received: 0,
        complete: 0,
        message_begun: None,
        end: None,
        came: 0,
        released: 0,
    };
    let buffer = Arc::new(Mutex::new(buffer));
    (MessageFeed(buffer.clone()), MessageReceiver(buffer))
}

#[derive(Debug)]
struct MessageBuffer {
    limit: usize,
    setting: &'static str,
    /// Bytes of the body: up to `received` they were received as messages, up to `complete` they are
    /// whole messages.
    bytes: Vec<u8>,
    received: usize,
    complete: usize,
    /// When the message that is incomplete began.
    message_begun: Option<Instant>,
    /// How the body ends after the last message.
    end: Option<Result<(), Status>>,
    /// Bytes that came, and those of them that were released to the peer's window.
    came: u64,
    released: u64,
}

impl MessageFeed {
    /// Appends bytes of the body.
    pub fn push_bytes(&self, bytes: &[u8]) {
        lock(&self.0).push_bytes(bytes);
    }

    /// The client has ended its side.
    pub fn end_body(&self) {
        let mut buffer = lock(&self.0);
        buffer.end.get_or_insert(Ok(()));
        buffer.message_begun = None;
    }

    /// The state of the body; counts `released` from the last call.
    pub fn body_state(&self) -> BodyState {
        let mut buffer = lock(&self.0);
        let consumed = buffer.came - (buffer.complete - buffer.received) as u64;
        let released = consumed.saturating_sub(buffer.released);
        buffer.released = buffer.released.max(consumed);
        // A message behind others that were not received waits for this server, not for its peer.
        let message_begun = buffer.message_begun.filter(|_| buffer.received == buffer.complete);
        let buffered = buffer.bytes.capacity();
        BodyState { released: released as u32, buffered, message_begun }
    }
}

impl MessageReceiver {
    /// The next message, or `None` when the client has ended its side. Cancel safe. Registers no waker:
    /// the connection polls its streams after it has fed bytes.
    ///
    /// # Errors
    /// A message that is malformed or too long.
    pub async fn receive(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|_| self.poll_receive()).await
    }

    /// [`Self::receive`], for a caller that is polled.
    ///
    /// # Errors
    /// A message that is malformed or too long.
    pub fn poll_receive(&mut self) -> Poll<Result<Option<Bytes>, Status>> {
        lock(&self.0).poll_receive()
    }

    /// Whether the client has ended its side and every message was received.
    pub(crate) fn is_finished(&self) -> bool {
        let buffer = lock(&self.0);
        buffer.received == buffer.bytes.len() && matches!(buffer.end, Some(Ok(())))
    }
}

// A std mutex, never held across an await; both ends are used by one task.
fn lock(buffer: &Mutex<MessageBuffer>) -> MutexGuard<'_, MessageBuffer> {
    buffer.lock().unwrap_or_else(PoisonError::into_inner)
}

impl MessageBuffer {
    fn push_bytes(&mut self, bytes: &[u8]) {
        self.came += bytes.len() as u64;
        // Bytes after the end or after an error are ignored.
        if self.end.is_some() || bytes.is_empty() {
            return;
        }
        self.reserve(bytes.len());
        self.bytes.extend_from_slice(bytes);
        let before = self.complete;
        loop {
            match self.next_len() {
                Ok(Some(len)) if self.bytes.len() - self.complete >= len => self.complete += len,
                Ok(_) => break,
                Err(status) => {
                    self.bytes.truncate(self.complete);
                    self.end = Some(Err(status));
                    break;
                }
            }
        }
        if self.complete > before || self.message_begun.is_none() {
            self.mark_message_begun();
        }
    }

    /// Records that the next incomplete message begins now, if a byte of it has come.
    fn mark_message_begun(&mut self) {
        self.message_begun = (self.complete < self.bytes.len()).then(Instant::now);
    }

    /// Reserves room for so many bytes more. By a quarter, not by doubling: an incomplete message of
    /// megabytes would hold twice its size.
    fn reserve(&mut self, bytes: usize) {
        if self.bytes.len() + bytes <= self.bytes.capacity() {
            return;
        }
        if self.received > 0 {
            self.bytes.drain(..self.received);
            self.complete -= self.received;
            self.received = 0;
        }
        let announced = self.next_len().ok().flatten().unwrap_or_default();
        let missing = announced.saturating_sub(self.bytes.len() - self.complete).min(MAX_RESERVED);
        self.bytes.reserve_exact(bytes.max(missing).max(self.bytes.len() / 4));
    }

    fn poll_receive(&mut self) -> Poll<Result<Option<Bytes>, Status>> {
        if self.received < self.complete {
            return Poll::Ready(Ok(Some(self.pop_message())));
        }
        match &self.end {
            Some(Err(status)) => Poll::Ready(Err(status.clone())),
            Some(Ok(())) if self.complete == self.bytes.len() => Poll::Ready(Ok(None)),
            Some(Ok(())) => Poll::Ready(Err(Status::internal("Unexpected EOF decoding stream."))),
            None => Poll::Pending,
        }
    }

    /// The first whole message.
    fn pop_message(&mut self) -> Bytes {
        let prefix = self.bytes[self.received..].first_chunk().copied().unwrap_or_default();
        let start = self.received + PREFIX_BYTES;
        // The prefix was checked when it came.
        let end = start + message_len(prefix, self.limit, self.setting).unwrap_or_default();
        if self.received == 0 && end == self.bytes.len() {
            // The usual case: the message came alone, so the buffer becomes the message.
            self.complete = 0;
            return Bytes::from(std::mem::take(&mut self.bytes)).slice(start..);
        }
        let message = Bytes::copy_from_slice(&self.bytes[start..end]);
        self.received = end;
        if end == self.bytes.len() {
            // An idle stream keeps no buffer.
            (self.bytes, self.received, self.complete) = (Vec::new(), 0, 0);
        } else if self.received == self.complete {
            self.mark_message_begun();
        }
        message
    }

    /// Length of the next incomplete message, prefix included; `None` until the prefix has come.
    fn next_len(&self) -> Result<Option<usize>, Status> {
        let Some(prefix) = self.bytes[self.complete..].first_chunk() else { return Ok(None) };
        Ok(Some(PREFIX_BYTES + message_len(*prefix, self.limit, self.setting)?))
    }
}

/// Length of a message, as its prefix says.
fn message_len(
    [flag, len @ ..]: [u8; PREFIX_BYTES],
    limit: usize,
    setting: &str,
) -> Result<usize, Status> {
    match flag {
        0 => {}
        1 => {
            return Err(Status::internal(
                "protocol error: received message with compressed-flag but no grpc-encoding \
                     was specified",
            ));
        }
        flag => {
            return Err(Status::internal(format!(
                "protocol error: received message with invalid compression flag: {flag} \
                     (valid flags are 0 and 1), while sending request"
            )));
        }
    }
    let len = u32::from_be_bytes(len) as usize;
    if len > limit {
        return Err(Status::out_of_range(format!(
            "Error, decoded message length too large: found {len} bytes, the limit is: \
                 {limit} bytes ({setting})"
        )));
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<Bytes>, Status> {
        let (feed, mut requests) = grpc_messages(8, "--max-request-bytes");
        pieces.iter().for_each(|piece| feed.push_bytes(piece));
        feed.end_body();
        let mut got = Vec::new();
        while let Some(message) = requests.receive().now_or_never().expect("never waits")? {
            got.push(message);
        }
        let state = feed.body_state();
        assert_eq!((state.buffered, state.message_begun), (0, None), "holds nothing");
        Ok(got)
    }

    #[test]
    fn messages_come_whole_however_they_are_cut() {
        let stream = b"\0\0\0\0\x02ab\0\0\0\0\0\0\0\0\0\x08cdefghij\0\0\0\0\x01k";
        let expected: Vec<&[u8]> = vec![b"ab", b"", b"cdefghij", b"k"];
        for size in 1..=stream.len() {
            let pieces: Vec<&[u8]> = stream.chunks(size).collect();
            assert_eq!(all(&pieces).unwrap(), expected, "pieces of {size}");
        }
    }

    #[test]
    fn what_tonic_refuses_is_refused_in_the_same_words() {
        let refused = |pieces: &[&[u8]]| {
            let status = all(pieces).unwrap_err();
            (status.code(), status.message().to_owned())
        };
        use tonic::Code::{Internal, OutOfRange};
        let (code, text) = refused(&[b"\0\0\0\0\x09"]);
        assert_eq!(code, OutOfRange);
        assert!(
            text.starts_with("Error, decoded message length too large: found 9 bytes"),
            "{text}"
        );
        assert!(text.ends_with("(--max-request-bytes)"), "{text}");
        let (code, text) = refused(&[b"\x01\0\0\0\x01a"]);
        assert_eq!(code, Internal);
        assert!(text.contains("compressed-flag but no grpc-encoding"), "{text}");
        let (code, text) = refused(&[b"\x02\0\0\0\x01a"]);
        assert_eq!(code, Internal);
        assert!(text.contains("invalid compression flag: 2"), "{text}");
        let (code, text) = refused(&[b"\0\0\0\0\x04ab"]);
        assert_eq!((code, &*text), (Internal, "Unexpected EOF decoding stream."));
    }

    #[test]
    fn a_peer_may_send_again_what_is_not_waiting() {
        let (feed, mut requests) = grpc_messages(1 << 20, "--max-request-bytes");
        feed.push_bytes(b"\0\0\0\0\x02ab\0\0\0\0\x03");
        let state = feed.body_state();
        assert_eq!(state.released, 5, "of a message that is not whole");
        assert_eq!(state.message_begun, None, "it waits behind another one, so for us");
        feed.push_bytes(b"cd");
        assert_eq!(feed.body_state().released, 2);
        feed.push_bytes(b"e");
        assert_eq!(feed.body_state().released, 0, "two messages that nobody has taken");
        feed.push_bytes(b"\0\0");
        assert_eq!(
            feed.body_state().released,
            0,
            "as much was let go of what has become whole since"
        );
        for expected in [2, 8] {
            requests.receive().now_or_never().unwrap().unwrap().unwrap();
            assert_eq!(feed.body_state().released, expected);
        }
        let state = feed.body_state();
        assert_eq!((state.released, state.message_begun.is_some()), (0, true), "it is its turn");
    }

    /// D6: they took ten times what was sent.
    #[test]
    fn a_million_tiny_messages_cost_what_was_sent() {
        let (feed, mut requests) = grpc_messages(1 << 20, "--max-request-bytes");
        let tiny = b"\0\0\0\0\0".repeat(1000);
        for _ in 0..100 {
            feed.push_bytes(&tiny);
        }
        let state = feed.body_state();
        assert_eq!(state.released, 0);
        assert!(state.buffered <= 500_000 * 5 / 4, "{state:?}");
        for _ in 0..100_000 {
            requests.receive().now_or_never().unwrap().unwrap().unwrap();
        }
        assert!(requests.receive().now_or_never().is_none());
        assert_eq!(
            feed.body_state(),
            BodyState { released: 500_000, buffered: 0, message_begun: None }
        );
    }

    /// D7: what a peer merely announces is not set aside, and what it sends is held once.
    #[test]
    fn a_message_that_has_begun_holds_little_more_than_has_come() {
        let (feed, _requests) = grpc_messages(4 << 20, "--max-request-bytes");
        feed.push_bytes(&[0, 0, 64, 0, 0]);
        let BodyState { buffered: held, message_begun: begun, .. } = feed.body_state();
        assert!(held <= MAX_RESERVED + 5);
        for chunk in 1..=60 {
            feed.push_bytes(&[0; 64 << 10]);
            let held = feed.body_state().buffered;
            assert!(held <= chunk * (64 << 10) * 5 / 4 + MAX_RESERVED + 5, "{chunk}: {held}");
        }
        assert_eq!(
            feed.body_state().message_begun,
            begun,
            "its deadline counts from its beginning"
        );
    }
}
