//! One HTTP/2 stream: the body of its request on the way in, its response on the way out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::Stream;
use http::header::{ALLOW, CONTENT_TYPE};
use http::response::Parts;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use pilothouse_http2::{Connection, ErrorCode, WriteBatch};
use pilothouse_xds::FramePiece;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tower::Service as _;

use crate::grpc::call::CallError;
use crate::grpc::messages::{BodyState, MessageFeed};
use crate::grpc::{not_grpc, status};

/// Chunks of a request's body that may wait for one of tonic's services.
const FORWARDED_CHUNKS: usize = 64;

/// How long a client that does not speak gRPC has to end its request before it gets a response. Many
/// clients report a broken connection when the response comes while they still send.
const END_OF_REQUEST_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) const GRPC_CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/grpc");

/// The parts of a response, in the order in which they are sent.
#[derive(Debug)]
pub(crate) enum ResponsePart {
    /// Status and headers, and whether the response ends with them.
    Head(Box<Parts>, bool),
    Data(FramePiece),
    Trailers(HeaderMap),
}

/// The parts of a response as they become ready.
pub(crate) type ResponseParts = Pin<Box<dyn Stream<Item = ResponsePart> + Send>>;

/// Where the request's body goes.
enum RequestBody {
    Discovery(MessageFeed),
    /// Health and reflection.
    Forwarded(ForwardedBody),
    /// Nowhere: the number of bytes that came since the last [`BodyState`], and a sender that is dropped
    /// at the end of the body.
    Discarded(u32, Option<oneshot::Sender<Infallible>>),
}

/// A request's body on its way to one of tonic's services.
#[derive(Default)]
struct ForwardedBody {
    /// `None` once the body has ended.
    chunks: Option<mpsc::Sender<Bytes>>,
    /// Bytes that wait for the service.
    waiting: Arc<AtomicUsize>,
    /// Bytes that came, and those of them that were released to the peer's window.
    came: usize,
    released: usize,
}

impl ForwardedBody {
    fn body_state(&mut self) -> BodyState {
        let buffered = self.waiting.load(Ordering::Relaxed);
        let released = (self.came - buffered) - self.released;
        self.released += released;
        BodyState { released: released as u32, buffered, message_begun: None }
    }
}

pub(crate) struct HttpStream {
    pub(crate) id: u32,
    body: RequestBody,
    response: ResponseParts,
    /// Whether the response's headers were sent.
    head_sent: bool,
    /// The client's deadline (grpc-timeout).
    deadline: Option<Pin<Box<Sleep>>>,
    /// The piece that is being sent, and how many bytes of it are.
    sending: Option<(FramePiece, usize)>,
}

/// Whether a stream is still open after it was polled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamState {
    Open,
    Ended,
}

impl HttpStream {
    fn new(id: u32, body: RequestBody, response: ResponseParts) -> Self {
        Self { id, body, response, head_sent: false, deadline: None, sending: None }
    }

    /// A stream of the discovery services.
    pub(crate) fn discovery(id: u32, feed: MessageFeed, response: ResponseParts) -> Self {
        Self::new(id, RequestBody::Discovery(feed), response)
    }

    /// A call that ends at once with `status`.
    pub(crate) fn failed_call(id: u32, http: StatusCode, status: &Status) -> Self {
        let head = ResponsePart::Head(Box::new(trailers_only(http, status)), true);
        Self::new(id, RequestBody::Discarded(0, None), Box::pin(futures::stream::iter([head])))
    }

    /// A request that is not a valid gRPC call.
    pub(crate) fn invalid_call(
        id: u32,
        error: CallError,
        method: &Method,
        other_ports: &str,
    ) -> Self {
        let status = match error {
            CallError::Grpc(http, status) => return Self::failed_call(id, http, &status),
            CallError::NotGrpc(status) => status,
        };
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = status;
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            parts.headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        let text = (*method != Method::HEAD).then(|| not_grpc::http2_text(status, other_ports));
        let (end, ended) = oneshot::channel();
        let response = async_stream::stream! {
            let _ = timeout(END_OF_REQUEST_TIMEOUT, ended).await;
            yield ResponsePart::Head(Box::new(parts), text.is_none());
            if let Some(text) = text {
                yield ResponsePart::Data(FramePiece::from(Bytes::from(text)));
            }
        };
        Self::new(id, RequestBody::Discarded(0, Some(end)), Box::pin(response))
    }

    /// A call to health or reflection, or to a service that does not exist: tonic answers it.
    pub(crate) fn forwarded(
        id: u32,
        request: http::Request<()>,
        mut others: tonic::service::Routes,
    ) -> Self {
        let (chunks, body) = mpsc::channel(FORWARDED_CHUNKS);
        let forwarded = ForwardedBody { chunks: Some(chunks), ..ForwardedBody::default() };
        let waiting = forwarded.waiting.clone();
        let body = futures::StreamExt::map(ReceiverStream::new(body), move |bytes: Bytes| {
            waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(bytes))
        });
        let request = request.map(|()| tonic::body::Body::new(StreamBody::new(body)));
        let response = async_stream::stream! {
            let Ok(response) = others.call(request).await;
            let (mut parts, mut body) = response.into_parts();
            status::reencode_message(&mut parts.headers);
            yield ResponsePart::Head(Box::new(parts), http_body::Body::is_end_stream(&body));
            while let Some(frame) = body.frame().await {
                // A body that fails ends without trailers, which gRPC clients take for a failure.
                let Ok(frame) = frame else { return };
                match frame.into_data() {
                    Ok(shared) => yield ResponsePart::Data(FramePiece::from(shared)),
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            status::reencode_message(&mut trailers);
                            yield ResponsePart::Trailers(trailers);
                        }
                    }
                }
            }
        };
        Self::new(id, RequestBody::Forwarded(forwarded), Box::pin(response))
    }

    /// Ends the call with DEADLINE_EXCEEDED after `timeout`.
    pub(crate) fn set_deadline(&mut self, timeout: Duration) {
        self.deadline = Some(Box::pin(sleep(timeout)));
    }

    /// Takes some of the request's body; false if too much of it waits for the service already.
    pub(crate) fn receive_data(&mut self, bytes: &[u8]) -> bool {
        match &mut self.body {
            RequestBody::Discovery(feed) => feed.push_bytes(bytes),
            RequestBody::Forwarded(body) => {
                body.came += bytes.len();
                let Some(chunks) = &body.chunks else { return true };
                if bytes.is_empty() {
                    return true;
                }
                body.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
                match chunks.try_send(Bytes::copy_from_slice(bytes)) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => return false,
                    // The service has finished reading.
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        body.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                    }
                }
            }
            RequestBody::Discarded(came, _) => *came += bytes.len() as u32,
        }
        true
    }

    pub(crate) fn end_request(&mut self) {
        match &mut self.body {
            RequestBody::Discovery(feed) => feed.end_body(),
            RequestBody::Forwarded(body) => body.chunks = None,
            RequestBody::Discarded(_, end) => *end = None,
        }
    }

    /// The state of the request's body.
    pub(crate) fn body_state(&mut self) -> BodyState {
        match &mut self.body {
            RequestBody::Discovery(feed) => feed.body_state(),
            RequestBody::Forwarded(body) => body.body_state(),
            RequestBody::Discarded(came, _) => {
                BodyState { released: std::mem::take(came), ..BodyState::default() }
            }
        }
    }

    /// Polls the response until a piece is to be sent, or it has ended, or nothing is ready.
    pub(crate) fn poll(
        &mut self,
        http2: &mut Connection,
        context: &mut Context<'_>,
    ) -> StreamState {
        if self.poll_response(http2, context) == StreamState::Ended {
            return StreamState::Ended;
        }
        let Some(deadline) = &mut self.deadline else { return StreamState::Open };
        if deadline.as_mut().poll(context).is_pending() {
            return StreamState::Open;
        }
        let status = Status::deadline_exceeded("the client's deadline (grpc-timeout) has passed");
        if self.sending.is_some() {
            // In the middle of a message there can be no trailers.
            http2.reset_stream(self.id, ErrorCode::Cancel);
        } else if self.head_sent {
            let mut trailers = HeaderMap::new();
            status::insert_status(&status, &mut trailers);
            http2.send_trailers(self.id, &trailers);
        } else {
            http2.send_response(self.id, &trailers_only(StatusCode::OK, &status), true);
        }
        StreamState::Ended
    }

    fn poll_response(&mut self, http2: &mut Connection, context: &mut Context<'_>) -> StreamState {
        while self.sending.is_none() {
            match self.response.as_mut().poll_next(context) {
                Poll::Pending => return StreamState::Open,
                Poll::Ready(Some(ResponsePart::Head(parts, end))) => {
                    http2.send_response(self.id, &parts, end);
                    self.head_sent = true;
                    if end {
                        return StreamState::Ended;
                    }
                }
                Poll::Ready(Some(ResponsePart::Data(piece))) => self.sending = Some((piece, 0)),
                Poll::Ready(Some(ResponsePart::Trailers(trailers))) => {
                    http2.send_trailers(self.id, &trailers);
                    return StreamState::Ended;
                }
                Poll::Ready(None) => {
                    http2.send_end_stream(self.id);
                    return StreamState::Ended;
                }
            }
        }
        StreamState::Open
    }

    /// Adds DATA frames to a batch of at most `limit` bytes. Returns whether a piece is finished, so that
    /// the response can be polled for the next one.
    pub(crate) fn add_frames(
        &mut self,
        http2: &mut Connection,
        batch: &mut WriteBatch,
        limit: usize,
    ) -> bool {
        let Some((piece, at)) = &mut self.sending else { return false };
        let (shared, tail) = (piece.shared_len(), piece.tail());
        let whole = shared + tail.len();
        while *at < whole && batch.has_room(limit) {
            let Some((head, len)) = http2.begin_data_frame(self.id, whole - *at) else {
                return false;
            };
            batch.push(&head);
            piece.shared(*at..*at + len).for_each(|part| batch.push_shared(part));
            let tail_from = at.saturating_sub(shared);
            let tail_to = (*at + len).saturating_sub(shared);
            batch.push(tail.get(tail_from..tail_to).unwrap_or_default());
            *at += len;
        }
        if *at < whole {
            return false;
        }
        self.sending = None;
        true
    }
}

/// A response that consists of its headers: gRPC's Trailers-Only.
fn trailers_only(http: StatusCode, status: &Status) -> Parts {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = http;
    parts.headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
    status::insert_status(status, &mut parts.headers);
    parts
}
