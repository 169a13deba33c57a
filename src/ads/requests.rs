//! gRPC messages as they come off HTTP/2.
//!
//! What tonic's `Streaming` does, without its buffer for every stream: nearly every request is an
//! ACK that fills one DATA frame, and is then a slice of it. Ten thousand idle streams hold nothing
//! here. The errors are tonic's, code and text.

use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes, BytesMut};
use http_body::Body;
use tonic::Status;

/// gRPC's message prefix: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// Where requests come from: hyper, and whatever tests put in its place.
pub(super) trait RequestBody:
    Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>> + Send> + Unpin + Send
{
}

impl<B> RequestBody for B where
    B: Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>> + Send> + Unpin + Send
{
}

/// The messages of one stream.
#[derive(Debug)]
pub(super) struct Requests<B> {
    body: B,
    /// Bytes of one message.
    limit: usize,
    /// What has come and is not taken yet.
    rest: Bytes,
    /// The same where a message is spread over several frames.
    growing: BytesMut,
}

impl<B: RequestBody> Requests<B> {
    pub(super) fn new(body: B, limit: usize) -> Self {
        Self { body, limit, rest: Bytes::new(), growing: BytesMut::new() }
    }

    /// The next message, or `None` when the client has ended its side. May be dropped while it
    /// waits; nothing is lost.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        poll_fn(|context| self.poll_next(context)).await
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.cut()? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.put(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Err(Status::from_error(error.into()))),
                None if self.rest.is_empty() && self.growing.is_empty() => {
                    return Poll::Ready(Ok(None));
                }
                None => {
                    return Poll::Ready(Err(Status::internal("Unexpected EOF decoding stream.")));
                }
            }
        }
    }

    fn put(&mut self, data: Bytes) {
        if self.rest.is_empty() && self.growing.is_empty() {
            self.rest = data;
            return;
        }
        let rest = std::mem::take(&mut self.rest);
        self.growing.extend_from_slice(&rest);
        self.growing.extend_from_slice(&data);
    }

    /// A whole message, if there is one.
    fn cut(&mut self) -> Result<Option<Bytes>, Status> {
        let grown = !self.growing.is_empty();
        let have = if grown { &self.growing[..] } else { &self.rest[..] };
        let Some([flag, a, b, c, d]) = have.first_chunk() else { return Ok(None) };
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
        let (len, limit) = (u32::from_be_bytes([*a, *b, *c, *d]) as usize, self.limit);
        if len > limit {
            return Err(Status::out_of_range(format!(
                "Error, decoded message length too large: found {len} bytes, the limit is: \
                 {limit} bytes (--max-request-bytes)"
            )));
        }
        let (whole, have) = (PREFIX_BYTES + len, have.len());
        if have < whole {
            if !grown && have > 0 {
                // The rest of it follows: one allocation, of the size that it will have.
                let rest = std::mem::take(&mut self.rest);
                self.growing.reserve(whole);
                self.growing.extend_from_slice(&rest);
            }
            return Ok(None);
        }
        if grown {
            self.rest = std::mem::take(&mut self.growing).freeze();
        }
        self.rest.advance(PREFIX_BYTES);
        let message = self.rest.split_to(len);
        if self.rest.is_empty() {
            // An empty slice would keep the whole allocation.
            self.rest = Bytes::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use http_body_util::StreamBody;

    use super::*;

    type Frames = Vec<Result<http_body::Frame<Bytes>, std::io::Error>>;

    fn requests(pieces: &[&[u8]]) -> Requests<impl RequestBody> {
        let frames: Frames = pieces
            .iter()
            .map(|piece| Ok(http_body::Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        Requests::new(StreamBody::new(futures::stream::iter(frames)), 8)
    }

    fn all(pieces: &[&[u8]]) -> Result<Vec<Bytes>, Status> {
        let mut requests = requests(pieces);
        let mut got = Vec::new();
        while let Some(message) = requests.next().now_or_never().expect("never waits")? {
            got.push(message);
        }
        assert!(requests.rest.is_empty() && requests.growing.capacity() == 0, "holds nothing");
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
}
