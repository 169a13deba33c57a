//! One stream of a connection: its request's body on the way in, its response on the way out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http::HeaderMap;
use http::response::Parts;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tower::Service as _;

use super::requests::{Feed, State};
use crate::http2::{Batch, Connection};
use crate::snapshot::encode::Piece;

/// Pieces of a request to somebody else's service that wait for it.
const WAITING: usize = 64;

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
    /// Health and reflection, or nobody any more.
    Other(Pieces),
}

/// A request's body on its way to somebody else's service.
#[derive(Default)]
struct Pieces {
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
    /// One that discovery answers.
    pub(super) fn discovery(stream: u32, feed: Feed, answer: Answer) -> Self {
        Self { stream, body: Body::Discovery(feed), answer, sending: None }
    }

    /// One that is refused at once.
    pub(super) fn refused(stream: u32, status: &Status) -> Self {
        let (parts, ()) = status.clone().into_http::<()>().into_parts();
        let answer = futures::stream::iter([Part::Head(Box::new(parts), true)]);
        Self {
            stream,
            body: Body::Other(Pieces::default()),
            answer: Box::pin(answer),
            sending: None,
        }
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
            let (parts, mut body) = response.into_parts();
            yield Part::Head(Box::new(parts), http_body::Body::is_end_stream(&body));
            while let Some(frame) = body.frame().await {
                // A body that breaks ends without trailers, which gRPC takes for a failure.
                let Ok(frame) = frame else { return };
                match frame.into_data() {
                    Ok(shared) => yield Part::Data(Piece { shared, tail: None }),
                    Err(frame) => {
                        if let Ok(trailers) = frame.into_trailers() {
                            yield Part::Trailers(trailers);
                        }
                    }
                }
            }
        };
        Self { stream, body: Body::Other(pieces), answer: Box::pin(answer), sending: None }
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
        }
        true
    }

    pub(super) fn request_ended(&mut self) {
        match &mut self.body {
            Body::Discovery(feed) => feed.end(),
            Body::Other(pieces) => pieces.feed = None,
        }
    }

    /// How it stands with what has come of the request's body.
    pub(super) fn request_state(&mut self) -> State {
        match &mut self.body {
            Body::Discovery(feed) => feed.state(),
            Body::Other(pieces) => pieces.state(),
        }
    }

    /// Goes on with the response as far as what was said before is on its way.
    pub(super) fn poll(&mut self, http2: &mut Connection, context: &mut Context<'_>) -> Polled {
        while self.sending.is_none() {
            match self.answer.as_mut().poll_next(context) {
                Poll::Pending => return Polled::Goes,
                Poll::Ready(Some(Part::Head(parts, end))) => {
                    http2.respond(self.stream, &parts, end);
                    if end {
                        return Polled::Ended;
                    }
                }
                Poll::Ready(Some(Part::Data(piece))) => self.sending = Some((piece, 0)),
                Poll::Ready(Some(Part::Trailers(trailers))) => {
                    http2.finish(self.stream, &trailers);
                    return Polled::Ended;
                }
                Poll::Ready(None) => {
                    http2.finish_bare(self.stream);
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
        batch: &mut Batch,
        limit: usize,
    ) -> bool {
        let Some((piece, at)) = &mut self.sending else { return false };
        let tail = piece.tail.as_ref().map_or(&[][..], |tail| &tail[..]);
        let whole = piece.shared.len() + tail.len();
        while *at < whole && batch.has_room(limit) {
            let Some((head, len)) = http2.data(self.stream, whole - *at) else { return false };
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
