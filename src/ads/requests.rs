//! gRPC messages as they come off HTTP/2.
//!
//! The connection puts in what it reads, the stream takes out whole messages. What tonic's
//! `Streaming` does, without its buffer for every stream: ten thousand idle streams hold nothing
//! here. What nobody has taken yet stays as the bytes that came, so that a million messages of five
//! bytes cost five million bytes and not ten times as many. The errors are tonic's, code and text.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use tokio::time::Instant;
use tonic::Status;

/// gRPC's message prefix: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// What is set aside for a message that has begun: no more than comes, for what a peer merely
/// announces.
const ANNOUNCED: usize = 64 << 10;

/// The stream's end: the messages of one stream.
#[derive(Debug)]
pub struct Requests(Arc<Mutex<Inbox>>);

/// The connection's end.
#[derive(Debug)]
pub struct Feed(Arc<Mutex<Inbox>>);

/// How it stands with what has come of a request's body.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Bytes that came and are not waiting as whole messages, since this was last asked: the peer
    /// may send as many again. A message may be larger than a window, so what has come of one makes
    /// room; the account of memory bounds it.
    pub taken: u32,
    /// Bytes that are kept.
    pub held: usize,
    /// Since when a message has been coming that is not whole.
    pub begun: Option<Instant>,
}

/// Both ends, for messages of so many bytes at most.
pub fn requests(limit: usize) -> (Feed, Requests) {
    let inbox = Inbox {
        limit,
        buffer: Vec::new(),
        taken: 0,
        whole: 0,
        begun: None,
        end: None,
        came: 0,
        released: 0,
    };
    let inbox = Arc::new(Mutex::new(inbox));
    (Feed(inbox.clone()), Requests(inbox))
}

#[derive(Debug)]
struct Inbox {
    limit: usize,
    /// What has come; up to `taken` it has been taken, up to `whole` it is whole messages.
    buffer: Vec<u8>,
    taken: usize,
    whole: usize,
    /// Since when a message has been coming that is not whole.
    begun: Option<Instant>,
    /// What there is to say after the last message.
    end: Option<Result<(), Status>>,
    /// Bytes that came, and those of them that the peer has been allowed to send again.
    came: u64,
    released: u64,
}

impl Feed {
    pub fn put(&self, bytes: &[u8]) {
        lock(&self.0).put(bytes);
    }

    /// The client says no more.
    pub fn end(&self) {
        let mut inbox = lock(&self.0);
        inbox.end.get_or_insert(Ok(()));
        inbox.begun = None;
    }

    /// How it stands with what has come.
    pub fn state(&self) -> State {
        let mut inbox = lock(&self.0);
        let taken = inbox.came - (inbox.whole - inbox.taken) as u64;
        let more = taken.saturating_sub(inbox.released);
        inbox.released = inbox.released.max(taken);
        // What waits behind others is kept waiting by us.
        let begun = inbox.begun.filter(|_| inbox.taken == inbox.whole);
        State { taken: more as u32, held: inbox.buffer.capacity(), begun }
    }
}

impl Requests {
    /// The next message, or `None` when the client has ended its side. May be dropped while it
    /// waits; nothing is lost. Wakes nobody: the connection polls its streams after what it fed.
    ///
    /// # Errors
    /// What is no message, or too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|_| lock(&self.0).next()).await
    }

    /// Whether the client has ended its side and everything that it said was taken.
    pub(super) fn are_over(&self) -> bool {
        let inbox = lock(&self.0);
        inbox.taken == inbox.buffer.len() && matches!(inbox.end, Some(Ok(())))
    }
}

// A std mutex, never held across an await; both ends are used by one task.
fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    fn put(&mut self, bytes: &[u8]) {
        self.came += bytes.len() as u64;
        // After an end nothing counts.
        if self.end.is_some() || bytes.is_empty() {
            return;
        }
        self.make_room(bytes.len());
        self.buffer.extend_from_slice(bytes);
        let before = self.whole;
        loop {
            match self.next_len() {
                Ok(Some(len)) if self.buffer.len() - self.whole >= len => self.whole += len,
                Ok(_) => break,
                Err(status) => {
                    self.buffer.truncate(self.whole);
                    self.end = Some(Err(status));
                    break;
                }
            }
        }
        if self.whole > before || self.begun.is_none() {
            self.next_begins();
        }
    }

    /// The message after those that are whole begins to come, if anything has come of it.
    fn next_begins(&mut self) {
        self.begun = (self.whole < self.buffer.len()).then(Instant::now);
    }

    /// Room for so many bytes more. By a quarter, not by doubling: what has come of a message of
    /// megabytes would hold twice its size.
    fn make_room(&mut self, bytes: usize) {
        if self.buffer.len() + bytes <= self.buffer.capacity() {
            return;
        }
        if self.taken > 0 {
            self.buffer.drain(..self.taken);
            self.whole -= self.taken;
            self.taken = 0;
        }
        let announced = self.next_len().ok().flatten().unwrap_or_default();
        let missing = announced.saturating_sub(self.buffer.len() - self.whole).min(ANNOUNCED);
        self.buffer.reserve_exact(bytes.max(missing).max(self.buffer.len() / 4));
    }

    fn next(&mut self) -> Poll<Result<Option<Bytes>, Status>> {
        if self.taken < self.whole {
            return Poll::Ready(Ok(Some(self.take_first())));
        }
        match &self.end {
            Some(Err(status)) => Poll::Ready(Err(status.clone())),
            Some(Ok(())) if self.whole == self.buffer.len() => Poll::Ready(Ok(None)),
            Some(Ok(())) => Poll::Ready(Err(Status::internal("Unexpected EOF decoding stream."))),
            None => Poll::Pending,
        }
    }

    /// The first message of those that are whole.
    fn take_first(&mut self) -> Bytes {
        let prefix = self.buffer[self.taken..].first_chunk().copied().unwrap_or_default();
        let start = self.taken + PREFIX_BYTES;
        // It was checked when it came.
        let end = start + message_len(prefix, self.limit).unwrap_or_default();
        if self.taken == 0 && end == self.buffer.len() {
            // The usual case: it came alone, and its buffer is its own.
            self.whole = 0;
            return Bytes::from(std::mem::take(&mut self.buffer)).slice(start..);
        }
        let message = Bytes::copy_from_slice(&self.buffer[start..end]);
        self.taken = end;
        if end == self.buffer.len() {
            // Nothing is kept for a stream that is quiet.
            (self.buffer, self.taken, self.whole) = (Vec::new(), 0, 0);
        } else if self.taken == self.whole {
            self.next_begins();
        }
        message
    }

    /// Bytes of the message after those that are whole, its prefix included, once that has come.
    fn next_len(&self) -> Result<Option<usize>, Status> {
        let Some(prefix) = self.buffer[self.whole..].first_chunk() else { return Ok(None) };
        Ok(Some(PREFIX_BYTES + message_len(*prefix, self.limit)?))
    }
}

/// What a message's prefix says.
fn message_len([flag, len @ ..]: [u8; PREFIX_BYTES], limit: usize) -> Result<usize, Status> {
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
                 {limit} bytes (--max-request-bytes)"
        )));
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn all(pieces: &[&[u8]]) -> Result<Vec<Bytes>, Status> {
        let (feed, mut requests) = requests(8);
        pieces.iter().for_each(|piece| feed.put(piece));
        feed.end();
        let mut got = Vec::new();
        while let Some(message) = requests.next().now_or_never().expect("never waits")? {
            got.push(message);
        }
        let state = feed.state();
        assert_eq!((state.held, state.begun), (0, None), "holds nothing");
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
        let (feed, mut requests) = requests(1 << 20);
        feed.put(b"\0\0\0\0\x02ab\0\0\0\0\x03");
        let state = feed.state();
        assert_eq!(state.taken, 5, "of a message that is not whole");
        assert_eq!(state.begun, None, "it waits behind another one, so for us");
        feed.put(b"cd");
        assert_eq!(feed.state().taken, 2);
        feed.put(b"e");
        assert_eq!(feed.state().taken, 0, "two messages that nobody has taken");
        feed.put(b"\0\0");
        assert_eq!(feed.state().taken, 0, "as much was let go of what has become whole since");
        for expected in [2, 8] {
            requests.next().now_or_never().unwrap().unwrap().unwrap();
            assert_eq!(feed.state().taken, expected);
        }
        let state = feed.state();
        assert_eq!((state.taken, state.begun.is_some()), (0, true), "it is its turn");
    }

    /// D6: they took ten times what was sent.
    #[test]
    fn a_million_tiny_messages_cost_what_was_sent() {
        let (feed, mut requests) = requests(1 << 20);
        let tiny = b"\0\0\0\0\0".repeat(1000);
        for _ in 0..100 {
            feed.put(&tiny);
        }
        let state = feed.state();
        assert_eq!(state.taken, 0);
        assert!(state.held <= 500_000 * 5 / 4, "{state:?}");
        for _ in 0..100_000 {
            requests.next().now_or_never().unwrap().unwrap().unwrap();
        }
        assert!(requests.next().now_or_never().is_none());
        assert_eq!(feed.state(), State { taken: 500_000, held: 0, begun: None });
    }

    /// D7: what a peer merely announces is not set aside, and what it sends is held once.
    #[test]
    fn a_message_that_has_begun_holds_little_more_than_has_come() {
        let (feed, _requests) = requests(4 << 20);
        feed.put(&[0, 0, 64, 0, 0]);
        let State { held, begun, .. } = feed.state();
        assert!(held <= ANNOUNCED + 5);
        for chunk in 1..=60 {
            feed.put(&[0; 64 << 10]);
            let held = feed.state().held;
            assert!(held <= chunk * (64 << 10) * 5 / 4 + ANNOUNCED + 5, "{chunk}: {held}");
        }
        assert_eq!(feed.state().begun, begun, "its deadline counts from its beginning");
    }
}
