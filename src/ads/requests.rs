//! gRPC messages as they come off HTTP/2.
//!
//! The connection puts in what it reads, the stream takes out whole messages. What tonic's
//! `Streaming` does, without its buffer for every stream: ten thousand idle streams hold nothing
//! here. The errors are tonic's, code and text.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Poll;

use bytes::Bytes;
use tonic::Status;

use crate::http2::split;

/// gRPC's message prefix: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// The stream's end: the messages of one stream.
#[derive(Debug)]
pub struct Requests(Arc<Mutex<Inbox>>);

/// The connection's end.
#[derive(Debug)]
pub struct Feed(Arc<Mutex<Inbox>>);

/// Both ends, for messages of so many bytes at most.
pub fn requests(limit: usize) -> (Feed, Requests) {
    let inbox = Inbox {
        limit,
        whole: VecDeque::new(),
        prefix: [0; PREFIX_BYTES],
        prefix_len: 0,
        message: Vec::new(),
        end: None,
        came: 0,
        waiting: 0,
        taken: 0,
    };
    let inbox = Arc::new(Mutex::new(inbox));
    (Feed(inbox.clone()), Requests(inbox))
}

#[derive(Debug)]
struct Inbox {
    limit: usize,
    whole: VecDeque<Bytes>,
    /// What has come of the next one.
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    message: Vec<u8>,
    /// What there is to say after the last one.
    end: Option<Result<(), Status>>,
    /// Bytes that came, those of them that wait as whole messages, and those that the peer has been
    /// allowed to send again.
    came: u64,
    waiting: u64,
    taken: u64,
}

impl Feed {
    pub fn put(&self, bytes: &[u8]) {
        lock(&self.0).put(bytes);
    }

    /// The client says no more.
    pub fn end(&self) {
        let mut inbox = lock(&self.0);
        let partial = inbox.prefix_len > 0;
        inbox.end.get_or_insert_with(|| match partial {
            true => Err(Status::internal("Unexpected EOF decoding stream.")),
            false => Ok(()),
        });
    }

    /// Bytes that are not in the way any more: all but those of whole messages that nobody has
    /// taken. A message may be larger than a window, so what has come of one makes room.
    pub fn taken(&self) -> u32 {
        let mut inbox = lock(&self.0);
        let taken = inbox.came - inbox.waiting;
        let more = taken.saturating_sub(inbox.taken);
        inbox.taken = inbox.taken.max(taken);
        more as u32
    }
}

impl Requests {
    /// The next message, or `None` when the client has ended its side. May be dropped while it
    /// waits; nothing is lost. Wakes nobody: the connection polls its streams after what it fed.
    ///
    /// # Errors
    /// What is no message, or too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|_| {
            let mut inbox = lock(&self.0);
            if let Some(message) = inbox.whole.pop_front() {
                inbox.waiting -= (PREFIX_BYTES + message.len()) as u64;
                return Poll::Ready(Ok(Some(message)));
            }
            match &inbox.end {
                Some(end) => Poll::Ready(end.clone().map(|()| None)),
                None => Poll::Pending,
            }
        })
        .await
    }
}

impl Requests {
    /// Whether the client has ended its side and everything that it said was taken.
    pub(super) fn are_over(&self) -> bool {
        let inbox = lock(&self.0);
        inbox.whole.is_empty() && matches!(inbox.end, Some(Ok(())))
    }
}

// A std mutex, never held across an await; both ends are used by one task.
fn lock(inbox: &Mutex<Inbox>) -> MutexGuard<'_, Inbox> {
    inbox.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Inbox {
    fn put(&mut self, mut bytes: &[u8]) {
        self.came += bytes.len() as u64;
        // After an end nothing counts.
        while !bytes.is_empty() && self.end.is_none() {
            if self.prefix_len < PREFIX_BYTES {
                let part = split(&mut bytes, PREFIX_BYTES - self.prefix_len);
                self.prefix[self.prefix_len..][..part.len()].copy_from_slice(part);
                self.prefix_len += part.len();
                if self.prefix_len < PREFIX_BYTES {
                    return;
                }
            }
            let len = match self.message_len() {
                Ok(len) => len,
                Err(status) => {
                    self.end = Some(Err(status));
                    return;
                }
            };
            let part = split(&mut bytes, len - self.message.len());
            let message = if part.len() == len {
                Bytes::copy_from_slice(part)
            } else if part.is_empty() {
                return;
            } else {
                // Exactly what it needs, but no more than comes for what a peer merely announces.
                if self.message.is_empty() {
                    self.message.reserve_exact(len.min(64 << 10));
                }
                self.message.extend_from_slice(part);
                if self.message.len() < len {
                    return;
                }
                std::mem::take(&mut self.message).into()
            };
            self.waiting += (PREFIX_BYTES + len) as u64;
            self.whole.push_back(message);
            self.prefix_len = 0;
        }
    }

    /// What the prefix says.
    fn message_len(&self) -> Result<usize, Status> {
        let [flag, len @ ..] = self.prefix;
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
        let (len, limit) = (u32::from_be_bytes(len) as usize, self.limit);
        if len > limit {
            return Err(Status::out_of_range(format!(
                "Error, decoded message length too large: found {len} bytes, the limit is: \
                 {limit} bytes (--max-request-bytes)"
            )));
        }
        Ok(len)
    }
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
        assert_eq!(lock(&requests.0).message.capacity(), 0, "holds nothing");
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
        assert_eq!(feed.taken(), 5, "of a message that is not whole");
        feed.put(b"cd");
        assert_eq!(feed.taken(), 2);
        feed.put(b"e");
        assert_eq!(feed.taken(), 0, "two messages that nobody has taken");
        for expected in [0, 8] {
            requests.next().now_or_never().unwrap().unwrap().unwrap();
            assert_eq!(feed.taken(), expected);
        }
        assert_eq!(feed.taken(), 0);
    }
}
