//! One discovery stream: runs its session, hands out the responses, keeps its status.
//!
//! `ResponseStream` is the body of the response, and polling it is all that runs a stream: HTTP/2 polls
//! it when it has sent the previous piece, or when the connection was woken. So a peer that does not read
//! holds the response in flight and nothing else, and no channel stands between a snapshot and the
//! socket. The session decides what is sent; `handshake` is the start of a stream, `registry` and
//! `stall_detector` are how the server sees all streams from outside.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use pilothouse_xds::discovery_request::MalformedRequest;
use pilothouse_xds::peer_text;
use pilothouse_xds::session::{self, RequestError, Session};
use pilothouse_xds::{FramePiece, FramePieces, TypeIndex, View};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tonic::Status;
use tracing::{debug, warn};

use crate::admission::memory_account::ConnectionAccount;
use crate::admission::rate_limiter::RateLimiter;
use crate::admission::{AdmissionPermit, work_meter};
use crate::grpc::messages::MessageReceiver;
use crate::http::connection_handle::ConnectionHandle;
use crate::mesh::{Identity, Mesh, ServerTexts};
use crate::metrics::ServerMetrics;
use crate::peer::{BearerToken, PeerCertificate};
use crate::proxies::{Registration, TooManyStreams, XdsStream};
use crate::view_registry::{ViewLease, ViewWatch};

mod acknowledged;
mod answered;
mod context;
mod handshake;
mod idle;
mod record_status;
pub(crate) mod registry;
mod stall_detector;
mod timer;

use acknowledged::ToldGenerations;
use answered::AnsweredStream;
pub use answered::{AnsweredRequest, AnsweredTypes};
pub use context::{ServerContext, ServerLimits};
pub(crate) use context::{SnapshotSignal, StreamContext};
use handshake::{Begun, handshake};
use registry::RegisteredStream;

/// Bytes of the text that a stream ends with: Envoy logs it, and headers have little room.
const MAX_STATUS_TEXT: usize = 1024;

/// What the status of a mesh's streams is about.
pub(crate) type StreamOf<M> = XdsStream<<M as Mesh>::Identity, <M as Mesh>::ViewKey>;
pub(crate) type RegistrationOf<M> = Registration<<M as Mesh>::Identity, <M as Mesh>::ViewKey>;
pub(crate) type LeaseOf<M> = ViewLease<<M as Mesh>::ViewRequest, <M as Mesh>::ViewKey>;

/// Which method was called.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Method {
    pub(crate) delta: bool,
    /// The one type of a single-type service.
    pub(crate) only: Option<TypeIndex>,
}

/// The connection that a stream is on.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) handle: Arc<ConnectionHandle>,
    pub(crate) account: Arc<ConnectionAccount>,
    /// Whether the connection is encrypted.
    pub(crate) encrypted: bool,
    /// What the TLS handshake has shown of the peer; `None` if it showed no certificate.
    pub(crate) certificate: Option<Arc<PeerCertificate>>,
}

/// The response body of one stream: pieces of gRPC messages, then how the stream ended.
pub(crate) struct ResponseStream<M: Mesh> {
    // Dropped in this order: a stream is on the list of proxies for as long as it may change its status.
    state: State<M>,
    registration: Option<RegistrationOf<M>>,
    open: Option<OpenStreamGauge>,
    context: Arc<StreamContext<M>>,
    method: Method,
    peer: Peer,
}

/// `None` if the client ended the stream without a request.
type HandshakeFuture<M> = Pin<Box<dyn Future<Output = Result<Option<Begun<M>>, Status>> + Send>>;

/// How far a stream is.
enum State<M: Mesh> {
    Opened(MessageReceiver, Option<BearerToken>),
    Handshake(HandshakeFuture<M>),
    Serving(Box<AdsStream<M>>),
    Answered(Box<AnsweredStream<M>>),
    Ended,
}

impl<M: Mesh> ResponseStream<M> {
    pub(crate) fn new(
        context: Arc<StreamContext<M>>,
        method: Method,
        peer: Peer,
        bearer: Option<BearerToken>,
        requests: MessageReceiver,
    ) -> Self {
        let state = State::Opened(requests, bearer);
        Self { state, registration: None, open: None, context, method, peer }
    }

    /// Puts the stream on the list of proxies and begins its handshake.
    fn register(
        &mut self,
        requests: MessageReceiver,
        bearer: Option<BearerToken>,
    ) -> Result<(), Status> {
        let server = &self.context.server;
        self.open = Some(OpenStreamGauge::new(&server.metrics));
        let (peer, limit) = (&self.peer, server.limits.streams_per_peer);
        let registered = server.proxies.register(Some(peer.address), self.method.delta, limit);
        let registration = registered.map_err(|error| {
            let status = too_many_streams::<M>(&error);
            warn!(error = status.message(), "stream refused");
            status
        })?;
        let stream = registration.stream.clone();
        self.registration = Some(registration);
        // Boxed, as is its result: room for both would be part of every idle stream.
        let (context, peer) = (self.context.clone(), self.peer.clone());
        let handshake = handshake(context, self.method, peer, stream, bearer, requests);
        self.state = State::Handshake(Box::pin(handshake));
        Ok(())
    }
}

impl<M: Mesh> Stream for ResponseStream<M> {
    type Item = Result<FramePiece, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<FramePiece, Status>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Opened(..) => {
                    let opened = std::mem::replace(&mut this.state, State::Ended);
                    if let State::Opened(requests, bearer) = opened
                        && let Err(status) = this.register(requests, bearer)
                    {
                        return Poll::Ready(Some(Err(status)));
                    }
                }
                State::Handshake(handshake) => match ready!(handshake.as_mut().poll(context)) {
                    Ok(Some(Begun::Proxy(stream))) => {
                        this.peer.handle.mark_established();
                        this.state = State::Serving(stream);
                    }
                    Ok(Some(Begun::Answered(stream))) => this.state = State::Answered(stream),
                    Ok(None) => this.state = State::Ended,
                    Err(status) => {
                        this.state = State::Ended;
                        let stream = this.registration.as_ref().map(|one| &*one.stream);
                        return Poll::Ready(Some(Err(log_end(stream, status))));
                    }
                },
                State::Serving(stream) => match ready!(stream.poll_piece(context)) {
                    Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                    Ok(None) => {
                        debug!(proxy = stream.stream.connection_id(), "stream ended");
                        this.state = State::Ended;
                    }
                    Err(status) => {
                        let status = log_end(Some(&stream.stream), status);
                        this.state = State::Ended;
                        return Poll::Ready(Some(Err(status)));
                    }
                },
                State::Answered(stream) => match ready!(stream.poll_piece(context)) {
                    Ok(Some(piece)) => return Poll::Ready(Some(Ok(piece))),
                    Ok(None) => this.state = State::Ended,
                    Err(status) => {
                        this.state = State::Ended;
                        let stream = this.registration.as_ref().map(|one| &*one.stream);
                        return Poll::Ready(Some(Err(log_end(stream, status))));
                    }
                },
                State::Ended => return Poll::Ready(None),
            }
        }
    }
}

/// Counts a stream in the metrics for as long as it is open, however it ends.
struct OpenStreamGauge(Arc<ServerMetrics>);

impl OpenStreamGauge {
    fn new(metrics: &Arc<ServerMetrics>) -> Self {
        metrics.stream_opened();
        Self(metrics.clone())
    }
}

impl Drop for OpenStreamGauge {
    fn drop(&mut self) {
        self.0.stream_closed();
    }
}

/// What a stream was polled for.
enum Event {
    /// A request, a timer or a permit, which is dealt with.
    Handled,
    NewSnapshot,
    /// Another view was assigned to the proxy.
    Reassigned,
    /// The proxy has ended the stream.
    Ended,
}

/// Whether this stream may be brought into sync.
enum Admitted {
    Waiting(Pin<Box<dyn Future<Output = AdmissionPermit> + Send>>),
    /// Until it is in sync.
    Starting(#[expect(dead_code, reason = "released when dropped")] AdmissionPermit),
    Done,
}

/// A stream past its handshake.
struct AdsStream<M: Mesh> {
    context: Arc<StreamContext<M>>,
    stream: Arc<StreamOf<M>>,
    registered: RegisteredStream<M>,
    requests: MessageReceiver,
    signal: watch::Receiver<SnapshotSignal>,
    session: Session,
    generations: ToldGenerations,
    view: Arc<View>,
    /// Keeps the view built.
    lease: LeaseOf<M>,
    /// Resolves when another view is assigned. One future for as long as the view stays, however often
    /// the stream is polled.
    reassigned: Pin<Box<dyn Future<Output = ViewWatch<M::ViewKey>> + Send>>,
    /// The session has nothing to send before the next event. The connection's task polls its streams
    /// more often than there are events.
    caught_up: bool,
    /// It has left what it is subscribed to, not to be woken for anything else.
    is_idle: bool,
    /// The response that is being sent.
    pieces: Option<FramePieces>,
    rate_limiter: RateLimiter,
    admitted: Admitted,
    /// When each type's unacknowledged response was sent.
    sent_at: Box<[Option<Instant>]>,
    /// Fires when an ACK may be overdue, a starting stream may be in sync, or a throttled one may read
    /// again. One timer that is not reset before it fires: resetting it for every response would cost
    /// more than the response.
    timer: Pin<Box<Sleep>>,
    timer_set: bool,
    /// When the last event came.
    last_event: Instant,
    /// When the source sent the change that the stream is being brought to, if a change caused it.
    change_received: Option<std::time::Instant>,
}

impl<M: Mesh> AdsStream<M> {
    /// The next piece to send; `None` when the proxy has ended the stream.
    fn poll_piece(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<FramePiece>, Status>> {
        loop {
            if let Some(pieces) = &mut self.pieces {
                if let Some(piece) = pieces.next() {
                    self.registered.begin_piece();
                    return Poll::Ready(Ok(Some(piece)));
                }
                self.pieces = None;
                self.registered.finish_response();
            }
            if !self.caught_up {
                if let Some(response) = self.next_response() {
                    self.record_response(&response);
                    self.registered.begin_response(&response.frame);
                    self.pieces = Some(response.frame.pieces(response.nonce));
                    continue;
                }
                self.caught_up = true;
                self.tell_generations();
                self.fall_asleep();
            }
            let event = ready!(self.poll_event(context))?;
            self.wake_up()?;
            match event {
                Event::Handled => {}
                Event::NewSnapshot => self.adopt_snapshot(true)?,
                Event::Reassigned => self.adopt_snapshot(false)?,
                Event::Ended => return Poll::Ready(Ok(None)),
            }
            self.caught_up = false;
        }
    }

    /// The response to send now, if the stream is admitted.
    fn next_response(&mut self) -> Option<session::Response> {
        match self.admitted {
            Admitted::Waiting(_) => None,
            Admitted::Starting(_) | Admitted::Done => self.session.next_response(&self.view),
        }
    }

    /// The next event, in the order of precedence: a request goes before a snapshot, because the proxy
    /// that asks may be starting.
    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Result<Event, Status>> {
        let handle = self.registered.handle();
        let throttled = handle.work.throttle_delay(self.last_event);
        let throttled = throttled.map(|delay| self.last_event + delay);
        // A client that has ended its side gets its responses all the same, once it is admitted.
        let finished = matches!(self.admitted, Admitted::Waiting(_)) && self.requests.is_finished();
        // When the time slice is over no waker is needed: the connection's task is polled again.
        let may_read = throttled.is_none() && !finished && !handle.work.is_slice_over();
        self.set_timer(throttled);
        if may_read && let Poll::Ready(request) = self.requests.poll_receive() {
            let Some(request) = request? else { return Poll::Ready(Ok(Event::Ended)) };
            self.wake_up()?;
            (self.last_event, self.change_received) = (Instant::now(), None);
            self.handle_request(request)?;
            return Poll::Ready(Ok(Event::Handled));
        }
        // Registers no waker: see `StreamContext::wake_streams`.
        match self.signal.has_changed() {
            Ok(false) => {}
            Ok(true) => return Poll::Ready(Ok(Event::NewSnapshot)),
            Err(_) => return Poll::Ready(Err(going_away())),
        }
        if let Poll::Ready(watch) = self.reassigned.as_mut().poll(context) {
            self.reassigned = Box::pin(reassigned(watch));
            return Poll::Ready(Ok(Event::Reassigned));
        }
        // Between two responses, so that nothing is lost by it. Whoever closes a connection wakes it.
        if self.registered.handle().is_closing() {
            return Poll::Ready(Err(self.closing_status()));
        }
        if self.timer_set && self.timer.as_mut().poll(context).is_ready() {
            self.timer_set = false;
            self.on_timer();
            return Poll::Ready(Ok(Event::Handled));
        }
        if let Admitted::Waiting(permit) = &mut self.admitted
            && let Poll::Ready(permit) = permit.as_mut().poll(context)
        {
            self.last_event = Instant::now();
            self.registered.set_permit(Some(&permit));
            self.admitted = Admitted::Starting(permit);
            return Poll::Ready(Ok(Event::Handled));
        }
        Poll::Pending
    }

    /// Why this connection is closed.
    fn closing_status(&self) -> Status {
        if self.context.server.shutdown.is_cancelled() {
            return going_away();
        }
        Status::unavailable(format!(
            "this connection has lasted {:?} ({}); connect again, so that proxies \
             spread over all replicas",
            self.context.server.limits.connection_age,
            M::TEXTS.connection_age
        ))
    }

    /// Takes the assigned view from the newest snapshot. If the view is not in it, the next snapshot has
    /// it, and until then the previous view stays. `is_new`: the snapshot is why the stream was woken.
    fn adopt_snapshot(&mut self, is_new: bool) -> Result<(), Status> {
        if self.signal.borrow_and_update().shutting_down {
            return Err(going_away());
        }
        self.last_event = Instant::now();
        let (since, newest) = match &*self.context.server.snapshots.borrow() {
            Some(snapshot) => (
                M::change_received(snapshot),
                leased_view::<M>(snapshot, &self.lease).map(|view| (view, M::generation(snapshot))),
            ),
            None => (None, None),
        };
        self.change_received = since.filter(|_| is_new);
        if let Some((view, generation)) = newest {
            self.view = view;
            self.session.set_generation(generation);
        }
        Ok(())
    }

    fn short_name(&self, resource_type: TypeIndex) -> &'static str {
        self.context.server.mesh.types()[resource_type.0].short_name
    }

    fn handle_request(&mut self, request: Bytes) -> Result<(), Status> {
        let bytes = request.len();
        let request = self.session.decode(request).map_err(malformed)?;
        let units = work_meter::request_units(request.names(), bytes);
        self.registered.handle().work.charge(units, self.last_event);
        let limits = &self.context.server.limits;
        if !self.rate_limiter.allow_request(self.last_event) {
            return Err(Status::resource_exhausted(format!(
                "more than {} requests a second ({})",
                limits.requests_per_second,
                M::TEXTS.requests_per_second
            )));
        }
        let handled = self.session.handle_request(&request, &self.view);
        let (resource_type, kind) = handled.map_err(|error| {
            let ServerTexts { max_names, max_types, .. } = M::TEXTS;
            let text = match error {
                RequestError::TooManyNames { .. } => format!("{error} ({max_names})"),
                RequestError::TooManyTypes { .. } => format!("{error} ({max_types})"),
                _ => error.to_string(),
            };
            match error {
                RequestError::NoType
                | RequestError::BadType(_)
                | RequestError::WrongType { .. } => Status::invalid_argument(text),
                RequestError::TooManyNames { .. } | RequestError::TooManyTypes { .. } => {
                    Status::resource_exhausted(text)
                }
            }
        })?;
        match resource_type {
            Some(index) => self.record_request(index, kind),
            None => debug!(
                proxy = self.stream.connection_id(),
                type_url = request.common().type_url,
                "asks for a type that is not served",
            ),
        }
        self.registered.set_own_bytes(self.session.held_bytes());
        Ok(())
    }
}

/// Waits until another view is assigned, and gives the watch back.
async fn reassigned<K>(mut watch: ViewWatch<K>) -> ViewWatch<K> {
    watch.reassigned().await;
    watch
}

/// The view of a lease in a snapshot. Always the newest one, which may have views whose building was
/// announced to no other stream.
fn leased_view<M: Mesh>(snapshot: &M::Snapshot, lease: &LeaseOf<M>) -> Option<Arc<View>> {
    M::view(snapshot, &*lease.view()?)
}

fn too_many_streams<M: Mesh>(error: &TooManyStreams) -> Status {
    Status::resource_exhausted(format!("{error} ({})", M::TEXTS.streams_per_peer))
}

fn malformed(error: MalformedRequest) -> Status {
    Status::invalid_argument(error.to_string())
}

fn going_away() -> Status {
    Status::unavailable("the control plane is shutting down; connect again")
}

/// Logs why a stream ends; returns the status with its text cut to what the peer is told.
fn log_end<I: Identity, K>(stream: Option<&XdsStream<I, K>>, status: Status) -> Status {
    let status = Status::new(status.code(), peer_text::cut(status.message(), MAX_STATUS_TEXT));
    let proxy = stream.map(XdsStream::connection_id);
    let (proxy, peer) = (proxy.as_deref().unwrap_or_default(), stream.and_then(|one| one.peer));
    match status.code() {
        // Connections break and replicas shut down; neither is a mistake.
        tonic::Code::Unavailable | tonic::Code::Cancelled | tonic::Code::Unknown => {
            debug!(proxy, ?peer, "stream ended: {}", status.message());
        }
        code => warn!(proxy, ?peer, ?code, "stream refused: {}", status.message()),
    }
    status
}

#[cfg(test)]
mod tests;
