//! One stream's life: requests in, frames out, status kept. All decisions are the session's.
//!
//! The response body is this generator itself: it runs only when HTTP/2 has room for more, so a
//! peer that does not read holds the frame in flight and nothing else, and no channel stands
//! between a snapshot and the socket.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use futures::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tracing::{debug, warn};

use crate::ads::account::ConnectionAccount;
use crate::ads::admission::{QUIET, Turn};
use crate::ads::budget::Budget;
use crate::ads::control::Control;
use crate::ads::outbox::Outbox;
use crate::ads::request::Malformed;
use crate::ads::requests::Requests;
use crate::ads::session::{self, Refusal, Session};
use crate::ads::{peer_text, work};
use crate::metrics::Metrics;
use crate::names::ResourceType;
use crate::proxies::Connection;
use crate::snapshot::encode::Piece;
use crate::snapshot::{Snapshot, View};
use crate::view::ViewLease;

mod begin;
mod note;
mod shared;

use begin::begin;
pub(super) use shared::{Context, News};
pub use shared::{Limits, Shared};

/// Bytes of the text that a stream ends with: Envoy logs it, and headers have little room.
const MAX_STATUS_TEXT: usize = 1024;

/// Which method was called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) delta: bool,
    /// The one type of a single-type service.
    pub(super) only: Option<ResourceType>,
}

/// Whose connection a stream is on.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) address: SocketAddr,
    pub(super) control: Arc<Control>,
    pub(super) account: Arc<ConnectionAccount>,
}

/// The response body of one stream: pieces of gRPC messages, then how it ended.
pub(super) fn serve(
    context: Arc<Context>,
    method: Method,
    peer: Peer,
    mut requests: Requests,
) -> impl Stream<Item = Result<Piece, Status>> + Send {
    async_stream::try_stream! {
        let shared = &context.shared;
        let _open = OpenStream::new(&shared.metrics);
        let limit = shared.limits.streams_per_peer;
        let registration =
            shared.proxies.register(Some(peer.address), method.delta, limit).map_err(|error| {
                warn!(%error, "stream refused");
                Status::resource_exhausted(error.to_string())
            })?;
        let mut news = context.news.clone();
        // Boxed, as is what comes of it: the room for both would be part of every idle stream.
        let connection = &registration.connection;
        let begun = begin(&context, method, &peer, connection, &mut news, &mut requests);
        let mut stream = match Box::pin(begun).await {
            Ok(Some(stream)) => {
                peer.control.settle();
                stream
            }
            Ok(None) => return,
            Err(status) => Err(refused(&registration.connection, status))?,
        };
        let mut seat = stream.lease.watch();
        let end = 'stream: loop {
            // One wait for as long as the view stays, however often the proxy answers.
            let mut reassigned = pin!(seat.reassigned());
            loop {
                while let Some(response) = stream.next() {
                    stream.note_sent(&response);
                    stream.outbox.begin(&response.frame);
                    for piece in response.frame.pieces(response.nonce) {
                        stream.outbox.put();
                        yield piece;
                    }
                    stream.outbox.taken();
                }
                match stream.wait(&news, reassigned.as_mut(), &mut requests).await {
                    Ok(Woken::Here) => {}
                    Ok(Woken::News) => {
                        if let Err(status) = stream.follow(&news.borrow_and_update(), true) {
                            break 'stream Err(status);
                        }
                    }
                    Ok(Woken::Reassigned) => break,
                    Ok(Woken::Ended) => break 'stream Ok(()),
                    Err(status) => break 'stream Err(status),
                }
            }
            if let Err(status) = stream.follow(&news.borrow_and_update(), false) {
                break Err(status);
            }
        };
        match end {
            Ok(()) => debug!(proxy = stream.connection.connection_id(), "stream ended"),
            Err(status) => Err(refused(&stream.connection, status))?,
        }
    }
}

/// Counts a stream for as long as it is open, however it ends.
struct OpenStream(Arc<Metrics>);

impl OpenStream {
    fn new(metrics: &Arc<Metrics>) -> Self {
        metrics.stream_opened();
        Self(metrics.clone())
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.0.stream_closed();
    }
}

/// What a stream was woken by.
enum Woken {
    /// A request, or the time.
    Here,
    News,
    /// Another view is its own.
    Reassigned,
    /// The proxy has ended the stream.
    Ended,
}

/// Whether this stream may be brought into sync.
enum Admitted {
    Waiting(Pin<Box<dyn Future<Output = Turn> + Send>>),
    /// Until it is in sync.
    Starting(#[expect(dead_code, reason = "held, and given back when dropped")] Turn),
    Done,
}

/// A stream past its first request.
struct AdsStream {
    context: Arc<Context>,
    connection: Arc<Connection>,
    outbox: Outbox,
    session: Session,
    view: Arc<View>,
    /// Keeps the view built.
    lease: ViewLease,
    budget: Budget,
    admitted: Admitted,
    /// When each type's response was sent.
    sent_at: [Option<Instant>; ResourceType::COUNT],
    /// Goes off when an answer may be overdue, or a starting stream has been quiet. One timer that
    /// is left alone until then: to set it anew for every response would cost more than the
    /// response.
    alarm: Pin<Box<Sleep>>,
    alarm_set: bool,
    /// When there last was something to do, and since when if a change of the source was the cause.
    woken: Instant,
    since: Option<std::time::Instant>,
}

impl AdsStream {
    /// What to send now.
    fn next(&mut self) -> Option<session::Response> {
        match self.admitted {
            Admitted::Waiting(_) => None,
            Admitted::Starting(_) | Admitted::Done => self.session.poll(&self.view),
        }
    }

    /// Waits for something to do.
    async fn wait(
        &mut self,
        news: &watch::Receiver<News>,
        reassigned: Pin<&mut impl Future<Output = ()>>,
        requests: &mut Requests,
    ) -> Result<Woken, Status> {
        let throttled = self.outbox.control().work.wait(self.woken).map(|wait| self.woken + wait);
        // A client that has said everything is owed the answers all the same: it waits for its turn.
        let over = matches!(self.admitted, Admitted::Waiting(_)) && requests.are_over();
        self.set_alarm(throttled);
        let control = self.outbox.control();
        tokio::select! {
            biased;
            // A proxy that asks goes before one that is merely told (it may be starting).
            request = next_request(requests, control), if throttled.is_none() && !over => {
                let Some(request) = request? else { return Ok(Woken::Ended) };
                (self.woken, self.since) = (Instant::now(), None);
                self.take(request)?;
            }
            there = there(news) => {
                there.map_err(|_| going_away())?;
                return Ok(Woken::News);
            }
            () = reassigned => return Ok(Woken::Reassigned),
            // Between two responses, so that nothing is lost by it.
            () = ending(control) => return Err(self.aged()),
            () = self.alarm.as_mut(), if self.alarm_set => {
                self.alarm_set = false;
                self.on_alarm();
            }
            turn = its_turn(&mut self.admitted) => {
                self.woken = Instant::now();
                self.outbox.admitted(Some(&turn));
                self.admitted = Admitted::Starting(turn);
            }
        }
        Ok(Woken::Here)
    }

    /// Why the connection ends that is not the whole server's.
    fn aged(&self) -> Status {
        if self.context.shared.shutdown.is_cancelled() {
            return going_away();
        }
        Status::unavailable(format!(
            "this connection has lasted {:?} (--max-connection-age); connect again, so that proxies \
             spread over all replicas",
            self.context.shared.limits.connection_age
        ))
    }

    /// Goes along with what is new: the snapshot (`is_new`), or the view that is this proxy's. If
    /// that is not in the snapshot, the next one has it, and until then the one before is right.
    fn follow(&mut self, news: &News, is_new: bool) -> Result<(), Status> {
        if news.ending {
            return Err(going_away());
        }
        self.woken = Instant::now();
        let (since, view) = match &*self.context.shared.snapshots.borrow() {
            Some(snapshot) => (snapshot.since, lookup(snapshot, &self.lease)),
            None => (None, None),
        };
        self.since = since.filter(|_| is_new);
        if let Some(view) = view {
            self.view = view;
        }
        Ok(())
    }

    /// The types whose answer is awaited, and when that becomes too long.
    fn awaited(&self) -> impl Iterator<Item = (ResourceType, Instant)> {
        let limit = self.context.shared.limits.ack;
        ResourceType::IN_ORDER
            .into_iter()
            .filter(|of| self.session.awaits(*of).is_some())
            .filter_map(move |of| Some((of, self.sent_at[of.index()]? + limit)))
    }

    /// `throttled`: until when no request is read.
    fn set_alarm(&mut self, throttled: Option<Instant>) {
        if let Some(at) = throttled
            && (!self.alarm_set || at < self.alarm.deadline())
        {
            self.alarm.as_mut().reset(at);
            self.alarm_set = true;
        }
        if self.alarm_set {
            return;
        }
        let overdue = self.awaited().map(|(_, at)| at).min();
        let quiet = match (&self.admitted, overdue) {
            (Admitted::Starting(_), None) => Some(self.woken + QUIET),
            (Admitted::Starting(_), Some(_)) => Some(Instant::now() + QUIET),
            _ => None,
        };
        if let Some(at) = overdue.into_iter().chain(quiet).min() {
            self.alarm.as_mut().reset(at);
            self.alarm_set = true;
        }
    }

    fn on_alarm(&mut self) {
        let now = Instant::now();
        let overdue: Vec<_> = self.awaited().filter(|(_, at)| *at <= now).collect();
        for (of, _) in overdue {
            if let Some(nonce) = self.session.awaits(of) {
                warn!(
                    proxy = self.connection.connection_id(),
                    r#type = of.short(),
                    "neither ACK nor NACK in {:?}, sending newer content all the same",
                    self.context.shared.limits.ack,
                );
                self.session.overdue(of, nonce);
            }
            self.sent_at[of.index()] = None;
        }
        let quiet = self.awaited().next().is_none() && self.woken + QUIET <= now;
        if matches!(self.admitted, Admitted::Starting(_)) && quiet {
            self.outbox.admitted(None);
            self.admitted = Admitted::Done;
        }
        if self.outbox.control().work.wait(self.woken).is_some() {
            // It may read again, as far as that is the reason.
            self.woken = now;
        }
    }

    fn take(&mut self, request: Bytes) -> Result<(), Status> {
        let bytes = request.len();
        let request = self.session.decode(request).map_err(malformed)?;
        let work = work::of_request(request.names(), bytes);
        self.outbox.control().work.done(work, self.woken);
        let limits = &self.context.shared.limits;
        if !self.budget.take(self.woken) {
            return Err(Status::resource_exhausted(format!(
                "more than {} requests a second (--max-requests-per-second)",
                limits.requests_per_second
            )));
        }
        let (of, meaning) = self.session.request(&request, &self.view).map_err(|refusal| {
            let text = refusal.to_string();
            match refusal {
                Refusal::NoType | Refusal::BadType(_) | Refusal::WrongType { .. } => {
                    Status::invalid_argument(text)
                }
                Refusal::TooManyNames { .. } | Refusal::TooManyTypes { .. } => {
                    Status::resource_exhausted(text)
                }
            }
        })?;
        match of {
            Some(of) => self.note_request(of, meaning),
            None => debug!(
                proxy = self.connection.connection_id(),
                type_url = request.common().type_url,
                "asks for a type that is not served",
            ),
        }
        self.outbox.holds(self.session.bytes());
        Ok(())
    }
}

/// The next request, unless it is the turn of others.
async fn next_request(requests: &mut Requests, control: &Control) -> Result<Option<Bytes>, Status> {
    // Nobody is woken by this: the connection's task is polled again, and another stretch begins.
    let over = || control.work.is_stretch_over();
    poll_fn(|_| if over() { Poll::Pending } else { Poll::Ready(()) }).await;
    requests.next().await
}

/// News, once they are there. Nobody is woken by this: see [`Context::wake`].
async fn there(news: &watch::Receiver<News>) -> Result<(), watch::error::RecvError> {
    poll_fn(|_| match news.has_changed() {
        Ok(false) => Poll::Pending,
        Ok(true) => Poll::Ready(Ok(())),
        Err(gone) => Poll::Ready(Err(gone)),
    })
    .await
}

/// Once the connection is to end, which wakes its task and with it the streams on it.
async fn ending(control: &Control) {
    poll_fn(|_| if control.is_ending() { Poll::Ready(()) } else { Poll::Pending }).await;
}

/// The turn, once it is there; never for a stream that does not wait for one.
async fn its_turn(admitted: &mut Admitted) -> Turn {
    match admitted {
        Admitted::Waiting(turn) => turn.await,
        Admitted::Starting(_) | Admitted::Done => std::future::pending().await,
    }
}

/// In the newest snapshot, which may have views that were no news to anybody else.
fn lookup(snapshot: &Snapshot, lease: &ViewLease) -> Option<Arc<View>> {
    snapshot.views.get(&*lease.view()?).cloned()
}

fn malformed(error: Malformed) -> Status {
    Status::invalid_argument(error.to_string())
}

fn going_away() -> Status {
    Status::unavailable("the control plane is shutting down; connect again")
}

/// Logs why a stream ends, and gives it back as short as it is to be told.
fn refused(connection: &Connection, status: Status) -> Status {
    let status = Status::new(status.code(), peer_text::cut(status.message(), MAX_STATUS_TEXT));
    let proxy = connection.connection_id();
    match status.code() {
        // Connections break and replicas go; neither is anybody's mistake.
        tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown => {
            debug!(proxy, peer = ?connection.peer, "stream ended: {}", status.message());
        }
        code => warn!(
            proxy, peer = ?connection.peer, ?code, "stream refused: {}", status.message()
        ),
    }
    status
}

#[cfg(test)]
mod tests;
