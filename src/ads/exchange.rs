//! One stream of a connection: its request's body on the way in, its response on the way out.

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
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Sleep, sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tower::Service as _;

use super::call::Unfit;
use super::requests::{Feed, State};
use super::{foreign, status};
use crate::snapshot::encode::Piece;

/// Pieces of a request to somebody else's service that wait for it.
const WAITING: usize = 64;

/// How long a client that does not speak gRPC has to end its request before it is answered. Many
/// take it for a broken connection when they are answered while they still send.
const END_OF_REQUEST: Duration = Duration::from_secs(1);

pub(super) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// What a response consists of, in this order.
#[derive(Debug)]
pub(super) enum Part {
    /// Status and headers, and whether that is all.
    Head(Box<Parts>, bool),
    Data(Piece),
    Trailers(HeaderMap),
}

/// A response in the making.
pub(super) type Answer = Pin<Box<dyn Stream<Item = Part> + Send>>;

/// Who takes the request's body.
enum Body {
    Discovery(Feed),
    /// Health and reflection.
    Other(Pieces),
    /// Nobody: the bytes that came, and what is dropped at the end.
    Nobody(u32, Option<oneshot::Sender<Infallible>>),
}

/// A request's body on its way to somebody else's service.
#[derive(Default)]
struct Pieces {
    /// Until they have it all.
    feed: Option<mpsc::Sender<Bytes>>,
    /// Bytes that wait for the service.
    waiting: Arc<AtomicUsize>,
    /// Bytes that came, and those that the peer has been allowed to send again.
    came: usize,
    released: usize,
}

impl Pieces {
    fn state(&mut self) -> State {
        let held = self.waiting.load(Ordering::Relaxed);
        let taken = (self.came - held) - self.released;
        self.released += taken;
        State { taken: taken as u32, held, begun: None }
    }
}

pub(super) struct Exchange {
    pub(super) stream: u32,
    body: Body,
    answer: Answer,
    /// The response has begun.
    begun: bool,
    /// When the client has no use for a response any more.
    deadline: Option<Pin<Box<Sleep>>>,
    /// What is to be sent before there is more, and how far that is.
    sending: Option<(Piece, usize)>,
}

/// Whether there is more to come of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Polled {
    Goes,
    Ended,
}

impl Exchange {
    fn new(stream: u32, body: Body, answer: Answer) -> Self {
        Self { stream, body, answer, begun: false, deadline: None, sending: None }
    }

    /// One that discovery answers.
    pub(super) fn discovery(stream: u32, feed: Feed, answer: Answer) -> Self {
        Self::new(stream, Body::Discovery(feed), answer)
    }

    /// One that is refused at once.
    pub(super) fn refused(stream: u32, http: StatusCode, status: &Status) -> Self {
        let head = Part::Head(Box::new(refusal(http, status)), true);
        Self::new(stream, Body::Nobody(0, None), Box::pin(futures::stream::iter([head])))
    }

    /// One that is no call.
    pub(super) fn unfit(stream: u32, unfit: Unfit, method: &Method) -> Self {
        let status = match unfit {
            Unfit::Grpc(http, status) => return Self::refused(stream, http, &status),
            Unfit::Foreign(status) => status,
        };
        let (mut parts, ()) = Response::new(()).into_parts();
        parts.status = status;
        parts.headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        if status == StatusCode::METHOD_NOT_ALLOWED {
            parts.headers.insert(ALLOW, HeaderValue::from_static("POST"));
        }
        let text = (*method != Method::HEAD).then(|| foreign::text(status));
        let (end, ended) = oneshot::channel();
        let answer = async_stream::stream! {
            let _ = timeout(END_OF_REQUEST, ended).await;
            yield Part::Head(Box::new(parts), text.is_none());
            if let Some(text) = text {
                yield Part::Data(Piece { shared: text.into(), tail: None });
            }
        };
        Self::new(stream, Body::Nobody(0, Some(end)), Box::pin(answer))
    }

    /// One that tonic's own services answer, or say that there is nothing.
    pub(super) fn other(
        stream: u32,
        request: http::Request<()>,
        mut others: tonic::service::Routes,
    ) -> Self {
        let (feed, body) = mpsc::channel(WAITING);
        let pieces = Pieces { feed: Some(feed), ..Pieces::default() };
        let waiting = pieces.waiting.clone();
        let body = futures::StreamExt::map(ReceiverStream::new(body), move |bytes: Bytes| {
            waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
            Ok::<_, Infallible>(Frame::data(bytes))
        });
        let request = request.map(|()| tonic::body::Body::new(StreamBody::new(body)));
        let answer = async_stream::stream! {
            let Ok(response) = others.call(request).await;
            let (mut parts, mut body) = response.into_parts();
            status::renew(&mut parts.headers);
            yield Part::Head(Box::new(parts), http_body::Body::is_end_stream(&body));
            while let Some(frame) = body.frame().await {
                // A body that breaks ends without trailers, which gRPC takes for a failure.
                let Ok(frame) = frame else { return };
                match frame.into_data() {
                    Ok(shared) => yield Part::Data(Piece { shared, tail: None }),
                    Err(frame) => {
                        if let Ok(mut trailers) = frame.into_trailers() {
                            status::renew(&mut trailers);
                            yield Part::Trailers(trailers);
                        }
                    }
                }
            }
        };
        Self::new(stream, Body::Other(pieces), Box::pin(answer))
    }

    /// Ends it then with DEADLINE_EXCEEDED, wherever it is.
    pub(super) fn ends_after(&mut self, timeout: Duration) {
        self.deadline = Some(Box::pin(sleep(timeout)));
    }

    /// Takes some of the request's body; false if that is more than anybody wants to keep.
    pub(super) fn request_data(&mut self, bytes: &[u8]) -> bool {
        match &mut self.body {
            Body::Discovery(feed) => feed.put(bytes),
            Body::Other(pieces) => {
                pieces.came += bytes.len();
                let Some(feed) = &pieces.feed else { return true };
                if bytes.is_empty() {
                    return true;
                }
                pieces.waiting.fetch_add(bytes.len(), Ordering::Relaxed);
                match feed.try_send(Bytes::copy_from_slice(bytes)) {
                    Ok(()) => {}
                    Err(mpsc::error::TrySendError::Full(_)) => return false,
                    // The service wants no more of it.
                    Err(mpsc::error::TrySendError::Closed(_)) => {
                        pieces.waiting.fetch_sub(bytes.len(), Ordering::Relaxed);
                    }
                }
            }
            Body::Nobody(came, _) => *came += bytes.len() as u32,
        }
        true
    }

    pub(super) fn request_ended(&mut self) {
        match &mut self.body {
            Body::Discovery(feed) => feed.end(),
            Body::Other(pieces) => pieces.feed = None,
            Body::Nobody(_, end) => *end = None,
        }
    }

    /// How it stands with what has come of the request's body.
    pub(super) fn request_state(&mut self) -> State {
        match &mut self.body {
            Body::Discovery(feed) => feed.state(),
            Body::Other(pieces) => pieces.state(),
            Body::Nobody(came, _) => State { taken: std::mem::take(came), ..State::default() },
        }
    }

    /// Goes on with the response as far as what was said before is on its way.
    pub(super) fn poll(&mut self, http2: &mut Connection, context: &mut Context<'_>) -> Polled {
        if self.answer(http2, context) == Polled::Ended {
            return Polled::Ended;
        }
        let Some(deadline) = &mut self.deadline else { return Polled::Goes };
        if deadline.as_mut().poll(context).is_pending() {
            return Polled::Goes;
        }
        let status = Status::deadline_exceeded("the client's deadline (grpc-timeout) has passed");
        if self.sending.is_some() {
            // In the middle of a message there can be no trailers.
            http2.reset_stream(self.stream, ErrorCode::Cancel);
        } else if self.begun {
            let mut trailers = HeaderMap::new();
            status::put(&status, &mut trailers);
            http2.send_trailers(self.stream, &trailers);
        } else {
            http2.send_response(self.stream, &refusal(StatusCode::OK, &status), true);
        }
        Polled::Ended
    }

    fn answer(&mut self, http2: &mut Connection, context: &mut Context<'_>) -> Polled {
        while self.sending.is_none() {
            match self.answer.as_mut().poll_next(context) {
                Poll::Pending => return Polled::Goes,
                Poll::Ready(Some(Part::Head(parts, end))) => {
                    http2.send_response(self.stream, &parts, end);
                    self.begun = true;
                    if end {
                        return Polled::Ended;
                    }
                }
                Poll::Ready(Some(Part::Data(piece))) => self.sending = Some((piece, 0)),
                Poll::Ready(Some(Part::Trailers(trailers))) => {
                    http2.send_trailers(self.stream, &trailers);
                    return Polled::Ended;
                }
                Poll::Ready(None) => {
                    http2.send_end_stream(self.stream);
                    return Polled::Ended;
                }
            }
        }
        Polled::Goes
    }

    /// Puts frames into a batch, up to so many bytes. Whether there is nothing left to send.
    pub(super) fn gather(
        &mut self,
        http2: &mut Connection,
        batch: &mut WriteBatch,
        limit: usize,
    ) -> bool {
        let Some((piece, at)) = &mut self.sending else { return false };
        let tail = piece.tail.as_ref().map_or(&[][..], |tail| &tail[..]);
        let whole = piece.shared.len() + tail.len();
        while *at < whole && batch.has_room(limit) {
            let Some((head, len)) = http2.begin_data_frame(self.stream, whole - *at) else {
                return false;
            };
            batch.push(&head);
            let shared = *at..(*at + len).min(piece.shared.len());
            if !shared.is_empty() {
                batch.push_shared(piece.shared.slice(shared));
            }
            let tail_from = at.saturating_sub(piece.shared.len());
            let tail_to = (*at + len).saturating_sub(piece.shared.len());
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

/// A response that is all of it: gRPC's Trailers-Only.
fn refusal(http: StatusCode, status: &Status) -> Parts {
    let (mut parts, ()) = Response::new(()).into_parts();
    parts.status = http;
    parts.headers.insert(CONTENT_TYPE, GRPC);
    status::put(status, &mut parts.headers);
    parts
}
