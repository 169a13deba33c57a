//! The body of a response, of which each piece is recorded as contact with the API server, and
//! which ends with an error where a watch breaks off or stays silent past its end.
//!
//! kube's watcher takes a watch that breaks off, or falls silent, for one that has ended, and
//! resumes. Both are how a server goes that then comes back with another history, so here they are
//! errors, after which the watch is listed anew. A watch that the server ends is resumed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use kube::client::Body;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};

use super::super::health::Health;
use super::position;
use crate::causes::with_causes;

/// What a server may be late with the end of a watch; less than kube's own five seconds, after
/// which it would resume.
const MAX_DELAY: Duration = Duration::from_secs(4);

/// How a watch ended that was not ended by the server.
#[derive(Debug, Error)]
pub(super) enum BodyError {
    #[error(
        "it hangs: neither an end nor anything else came for {} s after it was due, so the \
         connection is dead (a firewall, a load balancer, or the server)",
        MAX_DELAY.as_secs()
    )]
    Silent,
    #[error("it ended in the middle of an event")]
    TruncatedEvent,
    /// With the cause as text: kube would take some causes for the ordinary end.
    #[error("the connection broke: {0}")]
    ConnectionLost(String),
    #[error(transparent)]
    Other(kube::Error),
}

/// Records each piece in `health`. Has a deadline if it is a watch's.
pub(super) struct ObservedBody {
    body: Body,
    /// Nobody, if the answer is a refusal.
    health: Option<Arc<Health>>,
    name: Arc<str>,
    /// When a watch must have ended.
    deadline: Option<Pin<Box<Sleep>>>,
    in_event: bool,
    /// Where the watch tells its position.
    position: Arc<watch::Sender<u64>>,
    /// That of a bookmark in the last piece. It holds once all events of that piece are delivered, which
    /// they are when the next piece is asked for.
    bookmark: Option<u64>,
}

impl ObservedBody {
    /// `watch` is how long the server said it would keep it open, if it is the body of a watch.
    pub(super) fn new(
        body: Body,
        health: Option<Arc<Health>>,
        name: Arc<str>,
        watch: Option<Duration>,
        position: Arc<watch::Sender<u64>>,
    ) -> Self {
        let deadline = watch.map(|lasts| Box::pin(sleep(lasts + MAX_DELAY)));
        Self { body, health, name, deadline, in_event: false, position, bookmark: None }
    }

    fn record_frame(&mut self, frame: &Frame<Bytes>) {
        if let Some(health) = &self.health {
            health.contact(&self.name);
        }
        if let Some(last) = frame.data_ref().and_then(|data| data.last()) {
            self.in_event = *last != b'\n';
        }
        if self.deadline.is_some() {
            self.bookmark = frame.data_ref().and_then(|data| position::of_bookmark(data));
        }
    }
}

impl HttpBody for ObservedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(bookmark) = self.bookmark.take() {
            let position = &self.position;
            position.send_if_modified(|known| std::mem::replace(known, bookmark) != bookmark);
        }
        // What has come is taken first, however late we are in looking.
        let polled = Pin::new(&mut self.body).poll_frame(context);
        let in_event = self.in_event;
        let Some(deadline) = self.deadline.as_mut() else {
            if let Poll::Ready(Some(Ok(frame))) = &polled {
                self.record_frame(frame);
            }
            return polled.map_err(BodyError::Other);
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.record_frame(&frame);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                // kube looks for these words too.
                let text = with_causes(&error).replace("unexpected EOF", "unexpected end");
                Poll::Ready(Some(Err(BodyError::ConnectionLost(text))))
            }
            Poll::Ready(None) if in_event => Poll::Ready(Some(Err(BodyError::TruncatedEvent))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => deadline.as_mut().poll(context).map(|()| Some(Err(BodyError::Silent))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.deadline.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
