//! A stream that asks for types which are no resources: each request is answered once, and what was
//! answered is forgotten.
//!
//! istioctl asks so (`proxy-status`, `experimental internal-debug`): it opens a state-of-the-world stream,
//! whose first request carries a nonce that nobody has sent, waits for one response of the type, and
//! acknowledges nothing. So such requests never reach the session, whose rules are about what changes: they
//! are answered always, an empty answer too. A stream whose first request is of that kind has no view and
//! no place among the proxies. What the answers are is the program's business ([`AnsweredTypes`]); here they
//! are bounded, and charged as other work is.

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use pilothouse_xds::discovery_request::{DiscoveryRequest, SotwRequest};
use pilothouse_xds::{FramePiece, FramePieces, Resource, Version};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;

use super::registry::RegisteredStream;
use super::{Method, SnapshotSignal, StreamContext, going_away, malformed};
use crate::admission::rate_limiter::RateLimiter;
use crate::admission::work_meter;
use crate::grpc::messages::MessageReceiver;
use crate::mesh::Mesh;

/// Names in one request.
const MAX_NAMES: usize = 16;

/// A request for one of these types.
#[derive(Clone, Debug)]
pub struct AnsweredRequest {
    pub type_url: String,
    /// At most 16.
    pub names: Vec<String>,
    pub peer: SocketAddr,
    /// Who the peer has been authenticated as.
    pub principal: Option<Arc<str>>,
}

type Answer = Pin<Box<dyn Future<Output = Result<Vec<Arc<Resource>>, Status>> + Send>>;

/// Types beside the resources, and who answers them.
#[derive(Clone)]
pub struct AnsweredTypes {
    prefix: &'static str,
    answer: Arc<dyn Fn(AnsweredRequest) -> Answer + Send + Sync>,
}

impl AnsweredTypes {
    /// `answer` answers requests for types that begin with `prefix`, or says why the stream ends. It must
    /// bound by itself how much it does at once and how large an answer is.
    pub fn new<F>(
        prefix: &'static str,
        answer: impl Fn(AnsweredRequest) -> F + Send + Sync + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Vec<Arc<Resource>>, Status>> + Send + 'static,
    {
        Self { prefix, answer: Arc::new(move |request| Box::pin(answer(request))) }
    }

    /// Whether a stream of this method that begins with this request is one of these.
    pub(super) fn begins_with(&self, first: &Bytes, method: Method) -> bool {
        // A request that is malformed is refused by who handles it.
        !method.delta
            && method.only.is_none()
            && DiscoveryRequest::decode(first.clone(), false)
                .is_ok_and(|request| self.has(&request.common().type_url))
    }

    fn has(&self, type_url: &str) -> bool {
        type_url
            .strip_prefix(self.prefix)
            .is_some_and(|rest| matches!(rest.bytes().next(), None | Some(b'/')))
    }
}

impl fmt::Debug for AnsweredTypes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnsweredTypes").field("prefix", &self.prefix).finish_non_exhaustive()
    }
}

/// The stream, from its first request on.
pub(super) struct AnsweredStream<M: Mesh> {
    context: Arc<StreamContext<M>>,
    types: AnsweredTypes,
    /// Where it connects from, and who it has been authenticated as.
    peer: (SocketAddr, Option<Arc<str>>),
    registered: RegisteredStream<M>,
    requests: MessageReceiver,
    signal: watch::Receiver<SnapshotSignal>,
    /// The answer that is being made, and for which type.
    answering: Option<(String, Answer)>,
    /// The answer that is being sent.
    pieces: Option<FramePieces>,
    /// Of the last answer.
    nonce: u64,
    rate_limiter: RateLimiter,
    /// Until when no request is read.
    throttled: Option<Pin<Box<Sleep>>>,
}

impl<M: Mesh> AnsweredStream<M> {
    pub(super) fn new(
        context: Arc<StreamContext<M>>,
        types: AnsweredTypes,
        peer: (SocketAddr, Option<Arc<str>>),
        registered: RegisteredStream<M>,
        requests: MessageReceiver,
        first: Bytes,
    ) -> Result<Self, Status> {
        let signal = context.signal.clone();
        let rate_limiter = RateLimiter::new(context.server.limits.requests_per_second);
        let mut started = Self {
            context,
            types,
            peer,
            registered,
            requests,
            signal,
            answering: None,
            pieces: None,
            nonce: 0,
            rate_limiter,
            throttled: None,
        };
        started.handle_request(first)?;
        Ok(started)
    }

    /// The next piece to send; `None` when the peer has ended the stream.
    pub(super) fn poll_piece(
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
                self.registered.set_own_bytes(0);
            }
            // Registers no waker: whoever changes it wakes the connection.
            if self.signal.borrow_and_update().shutting_down {
                return Poll::Ready(Err(going_away()));
            }
            if let Some((type_url, answer)) = &mut self.answering {
                let resources = ready!(answer.as_mut().poll(context))?;
                let type_url = std::mem::take(type_url);
                self.answering = None;
                self.begin_answer(&type_url, &resources);
                continue;
            }
            if self.registered.handle().is_closing() {
                return Poll::Ready(Ok(None));
            }
            if let Some(throttled) = &mut self.throttled {
                ready!(throttled.as_mut().poll(context));
                self.throttled = None;
            }
            let handle = self.registered.handle();
            let now = Instant::now();
            if let Some(delay) = handle.work.throttle_delay(now) {
                self.throttled = Some(Box::pin(sleep_until(now + delay)));
                continue;
            }
            // When the time slice is over no waker is needed: the connection's task is polled again.
            if handle.work.is_slice_over() {
                return Poll::Pending;
            }
            let Some(request) = ready!(self.requests.poll_receive())? else {
                return Poll::Ready(Ok(None));
            };
            self.handle_request(request)?;
        }
    }

    fn handle_request(&mut self, request: Bytes) -> Result<(), Status> {
        let (bytes, now) = (request.len(), Instant::now());
        let request = DiscoveryRequest::decode(request, false).map_err(malformed)?;
        let units = work_meter::request_units(request.names(), bytes);
        self.registered.handle().work.charge(units, now);
        let limit = self.context.server.limits.requests_per_second;
        if !self.rate_limiter.allow_request(now) {
            return Err(Status::resource_exhausted(format!(
                "more than {limit} requests a second ({})",
                M::TEXTS.requests_per_second
            )));
        }
        let DiscoveryRequest::Sotw(SotwRequest { common, names, .. }) = request else {
            return Ok(());
        };
        if !self.types.has(&common.type_url) {
            return Err(Status::invalid_argument(format!(
                "type_url {:?} on a stream that began with {}: open another stream for resources",
                common.type_url, self.types.prefix
            )));
        }
        // A client that acknowledges would be answered again and again.
        if self.nonce != 0 && common.response_nonce == format!("{:016x}", self.nonce) {
            return Ok(());
        }
        if names.len() > MAX_NAMES {
            return Err(Status::invalid_argument(format!(
                "{} names asked for of {}, the limit is {MAX_NAMES}",
                names.len(),
                common.type_url
            )));
        }
        self.registered.set_own_bytes(bytes);
        let (peer, principal) = self.peer.clone();
        let asked = AnsweredRequest {
            type_url: common.type_url.clone(),
            names: names.iter().map(str::to_owned).collect(),
            peer,
            principal,
        };
        self.answering = Some((common.type_url, (self.types.answer)(asked)));
        Ok(())
    }

    fn begin_answer(&mut self, type_url: &str, resources: &[Arc<Resource>]) {
        let digest = resources.iter().fold(0_u64, |sum, one| sum.wrapping_add(one.digest()));
        let resources: Vec<_> = resources.iter().map(|one| &**one).collect();
        let frame = self.context.server.frames.sotw(type_url, Version(digest), &resources);
        self.registered
            .handle()
            .work
            .charge(work_meter::response_units(frame.len()), Instant::now());
        self.registered.set_own_bytes(frame.len());
        self.registered.begin_response(&frame);
        self.nonce += 1;
        self.pieces = Some(frame.pieces(self.nonce));
    }
}
