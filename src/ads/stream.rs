//! One stream's life: requests in, frames out, status kept. All decisions are the session's.
//!
//! The response body is this generator itself: it runs only when HTTP/2 has room for more, so a
//! peer that does not read holds the frame in flight and nothing else, and no channel stands
//! between a snapshot and the socket.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::{Buf, Bytes};
use futures::Stream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::codec::{BufferSettings, DecodeBuf, Decoder};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::ads::node;
use crate::ads::request::Request;
use crate::ads::session::{self, Meaning, Refusal, Response, Session};
use crate::metrics::Metrics;
use crate::names::ResourceType;
use crate::proxies::{Connection, Proxies};
use crate::snapshot::encode::{Frame, FrameBuilder};
use crate::snapshot::{Snapshot, View};
use crate::subscription::Interner;
use crate::view::{Lease, Leases};

/// What one peer may do, each with a flag.
#[derive(Clone, Debug)]
pub struct Limits {
    pub session: session::Limits,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// Until the first request of a stream has come.
    pub first_request: Duration,
    /// Until newer content is sent although the last response of the type was not answered.
    pub ack: Duration,
    /// Requests per second on one stream, averaged over ten seconds.
    pub requests_per_second: u32,
    /// Streams from one IP address; 0 for no limit.
    pub streams_per_peer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session: session::Limits::default(),
            request_bytes: 4 << 20,
            first_request: Duration::from_secs(10),
            ack: Duration::from_secs(30),
            requests_per_second: 500,
            streams_per_peer: 0,
        }
    }
}

/// What all streams share.
#[derive(Debug)]
pub struct Shared {
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub leases: Arc<Leases>,
    pub interner: Arc<Interner>,
    pub frames: Arc<FrameBuilder>,
    pub proxies: Arc<Proxies>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// Ends every stream so that proxies go to another replica.
    pub shutdown: CancellationToken,
}

/// Hands a message on as it came.
#[derive(Debug, Default)]
pub(super) struct RawDecoder;

impl Decoder for RawDecoder {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }

    /// Small: most requests are ACKs, and ten thousand idle streams hold this each.
    fn buffer_settings(&self) -> BufferSettings {
        BufferSettings::new(512, 32 << 10)
    }
}

/// Which method was called.
#[derive(Clone, Copy, Debug)]
pub(super) struct Method {
    pub(super) delta: bool,
    /// The one type of a single-type service.
    pub(super) only: Option<ResourceType>,
}

/// The response body of one stream: pieces of gRPC messages, then how it ended.
pub(super) fn serve(
    shared: Arc<Shared>,
    method: Method,
    peer: Option<SocketAddr>,
    mut requests: Streaming<Bytes>,
) -> impl Stream<Item = Result<Bytes, Status>> + Send {
    async_stream::try_stream! {
        let _open = OpenStream::new(&shared.metrics);
        let limit = shared.limits.streams_per_peer;
        let registration = shared.proxies.register(peer, method.delta, limit).map_err(|error| {
            warn!(%error, "stream refused");
            Status::resource_exhausted(error.to_string())
        })?;
        let mut stream = match begin(&shared, method, &registration.connection, &mut requests).await
        {
            Ok(Some(stream)) => stream,
            Ok(None) => return,
            Err(status) => {
                refused(&registration.connection, &status);
                Err(status)?
            }
        };
        loop {
            while let Some(response) = stream.session.poll(&stream.view) {
                stream.note_sent(&response);
                yield response.frame.head;
                yield Frame::tail(response.nonce);
            }
            match stream.wait(&mut requests).await {
                Ok(true) => {}
                Ok(false) => {
                    debug!(proxy = stream.connection.connection_id(), "stream ended");
                    return;
                }
                Err(status) => {
                    refused(&stream.connection, &status);
                    Err(status)?
                }
            }
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

/// A stream past its first request.
struct AdsStream {
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    session: Session,
    view: Arc<View>,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    /// Keeps the view built.
    lease: Lease,
    budget: Budget,
    /// When each type's response was sent.
    sent_at: [Option<Instant>; ResourceType::COUNT],
    /// When there last was something to do, and since when if a change of the source was the cause.
    woken: Instant,
    since: Option<std::time::Instant>,
}

async fn begin(
    shared: &Arc<Shared>,
    method: Method,
    connection: &Arc<Connection>,
    requests: &mut Streaming<Bytes>,
) -> Result<Option<AdsStream>, Status> {
    let limit = shared.limits.first_request;
    let first = tokio::select! {
        _ = shared.shutdown.cancelled() => return Err(going_away()),
        first = timeout(limit, requests.message()) => first.map_err(|_| {
            Status::deadline_exceeded(format!(
                "no request within {} s of opening the stream (--first-request-timeout)",
                limit.as_secs_f64()
            ))
        })?.map_err(with_flag)?,
    };
    let Some(first) = first else { return Ok(None) };
    let request = decode(first, method.delta)?;
    let invalid = |error: &dyn std::error::Error| Status::invalid_argument(error.to_string());
    let node = request.common().decode_node().map_err(|error| invalid(&error))?;
    let (identity, need) = node::identify(node.as_ref()).map_err(|error| invalid(&error))?;

    let mut snapshots = shared.snapshots.clone();
    if snapshots.borrow_and_update().is_none() {
        return Err(Status::unavailable(
            "not ready: the source has not been listed completely yet (see /ready on the \
             monitoring port for what is missing)",
        ));
    }
    let mut lease = shared.leases.take(need);
    info!(proxy = %identity.name, view = %identity.view, delta = method.delta, "proxy connected");
    connection.update(|status| status.identity = Some(identity));
    let view = tokio::select! {
        _ = shared.shutdown.cancelled() => return Err(going_away()),
        view = built_view(&mut snapshots, &mut lease) => view?,
    };

    static STREAMS: AtomicU64 = AtomicU64::new(0);
    let session = Session::new(
        method.delta,
        method.only,
        shared.limits.session,
        shared.interner.clone(),
        shared.frames.clone(),
        nonce_seed(STREAMS.fetch_add(1, Ordering::Relaxed)),
    );
    let mut stream = AdsStream {
        shared: shared.clone(),
        connection: connection.clone(),
        session,
        view,
        snapshots,
        lease,
        budget: Budget::new(shared.limits.requests_per_second),
        sent_at: Default::default(),
        woken: Instant::now(),
        since: None,
    };
    stream.take(&request)?;
    Ok(Some(stream))
}

impl AdsStream {
    /// Waits for something to do; `false` when the proxy has ended the stream.
    async fn wait(&mut self, requests: &mut Streaming<Bytes>) -> Result<bool, Status> {
        let overdue = self.next_overdue();
        tokio::select! {
            biased;
            () = self.shared.shutdown.cancelled() => return Err(going_away()),
            // A proxy that asks goes before one that is merely told (it may be starting).
            request = requests.message() => {
                let Some(request) = request.map_err(with_flag)? else { return Ok(false) };
                (self.woken, self.since) = (Instant::now(), None);
                let request = decode(request, self.session.is_delta())?;
                self.take(&request)?;
            }
            changed = self.snapshots.changed() => {
                changed.map_err(|_| going_away())?;
                let snapshot = self.snapshots.borrow_and_update().clone();
                self.woken = Instant::now();
                if let Some(snapshot) = snapshot {
                    self.since = snapshot.since;
                    self.look(&snapshot);
                }
            }
            () = self.lease.reassigned() => {
                let snapshot = self.snapshots.borrow().clone();
                (self.woken, self.since) = (Instant::now(), None);
                if let Some(snapshot) = snapshot {
                    self.look(&snapshot);
                }
            }
            of = wait_until(overdue) => {
                if let Some(nonce) = self.session.awaits(of) {
                    warn!(
                        proxy = self.connection.connection_id(), r#type = of.short(),
                        "neither ACK nor NACK in {:?}, sending newer content all the same",
                        self.shared.limits.ack,
                    );
                    self.session.overdue(of, nonce);
                }
                self.sent_at[of.index()] = None;
            }
        }
        Ok(true)
    }

    /// Takes its view from the snapshot. If it is not in there, the next one has it, and until
    /// then the one before is right.
    fn look(&mut self, snapshot: &Snapshot) {
        if let Some(view) = lookup(snapshot, &self.lease) {
            self.view = view;
        }
    }

    fn take(&mut self, request: &Request) -> Result<(), Status> {
        if !self.budget.take() {
            return Err(Status::resource_exhausted(format!(
                "more than {} requests a second (--max-requests-per-second)",
                self.shared.limits.requests_per_second
            )));
        }
        let (of, meaning) = self.session.request(request, &self.view).map_err(|refusal| {
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
            Some(of) => {
                self.note_request(of, meaning);
                self.note_held(of);
            }
            None => debug!(
                proxy = self.connection.connection_id(),
                type_url = request.common().type_url,
                "asks for a type that is not served",
            ),
        }
        Ok(())
    }

    fn note_request(&mut self, of: ResourceType, meaning: Meaning) {
        let metrics = &self.shared.metrics;
        metrics.request(of);
        match meaning {
            Meaning::Subscribe => {}
            Meaning::Stale => metrics.expired_nonce(of),
            Meaning::Ack { nonce } => {
                if let Some(sent) = self.sent_at[of.index()].take() {
                    metrics.ack_time(of, sent.elapsed());
                }
                self.connection.update(|status| {
                    let one = &mut status.types[of.index()];
                    one.acks += 1;
                    one.nonce_acked = nonce;
                    one.last_acked = Some(SystemTime::now());
                    one.last_error = None;
                });
            }
            Meaning::Nack { nonce: _, error } => {
                self.sent_at[of.index()] = None;
                metrics.reject(of);
                warn!(
                    proxy = self.connection.connection_id(),
                    r#type = of.short(),
                    "rejected: {error}"
                );
                self.connection.update(|status| {
                    let one = &mut status.types[of.index()];
                    one.nacks += 1;
                    one.last_error = Some(error.into());
                    one.last_nack = Some(SystemTime::now());
                });
            }
        }
    }

    /// What a request alone makes known: names that are wanted no more, and what a proxy brought
    /// along from another stream, which no response will tell of.
    fn note_held(&self, of: ResourceType) {
        let (subscription, held) = (self.session.subscription(of), self.session.held(of));
        self.connection.update(|status| {
            let one = &mut status.types[of.index()];
            one.subscription = Some(subscription.clone());
            if let (None, Some(held)) = (&one.set, held) {
                one.version = held.version().to_string();
                one.set = Some(held.clone());
            }
        });
    }

    fn note_sent(&mut self, response: &Response) {
        let Some(of) = response.of else { return };
        let metrics = &self.shared.metrics;
        metrics.push(of, response.frame.len());
        metrics.push_time(of, self.woken.elapsed());
        if let Some(since) = self.since {
            metrics.convergence(since.elapsed());
        }
        self.sent_at[of.index()] = Some(Instant::now());
        self.connection.update(|status| {
            let one = &mut status.types[of.index()];
            one.sent += 1;
            one.nonce_sent = response.nonce;
            one.last_sent = Some(SystemTime::now());
            one.version = response.frame.version.to_string();
            one.set = Some(response.set.clone());
            one.subscription = Some(response.subscription.clone());
        });
    }

    /// The type whose answer is awaited longest, and when that becomes too long.
    fn next_overdue(&self) -> Option<(ResourceType, Instant)> {
        let awaited = ResourceType::IN_ORDER
            .into_iter()
            .filter(|of| self.session.awaits(*of).is_some())
            .filter_map(|of| Some((of, self.sent_at[of.index()]? + self.shared.limits.ack)));
        awaited.min_by_key(|(_, at)| *at)
    }
}

async fn wait_until(overdue: Option<(ResourceType, Instant)>) -> ResourceType {
    match overdue {
        Some((of, at)) => {
            sleep_until(at).await;
            of
        }
        None => std::future::pending().await,
    }
}

fn lookup(snapshot: &Snapshot, lease: &Lease) -> Option<Arc<View>> {
    snapshot.views.get(&*lease.view()?).cloned()
}

/// The view once the publisher has assigned and built it.
async fn built_view(
    snapshots: &mut watch::Receiver<Option<Arc<Snapshot>>>,
    lease: &mut Lease,
) -> Result<Arc<View>, Status> {
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        if let Some(view) = snapshot.and_then(|snapshot| lookup(&snapshot, lease)) {
            return Ok(view);
        }
        tokio::select! {
            changed = snapshots.changed() => changed.map_err(|_| going_away())?,
            () = lease.reassigned() => {}
        }
    }
}

fn decode(message: Bytes, delta: bool) -> Result<Request, Status> {
    Request::decode(message, delta).map_err(|error| Status::invalid_argument(error.to_string()))
}

/// tonic says how long a request was and may be, not who decides that.
fn with_flag(status: Status) -> Status {
    match status.code() {
        tonic::Code::OutOfRange => {
            Status::out_of_range(format!("{} (--max-request-bytes)", status.message()))
        }
        _ => status,
    }
}

fn going_away() -> Status {
    Status::unavailable("the control plane is shutting down; connect again")
}

fn refused(connection: &Connection, status: &Status) {
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
}

/// Far apart for different streams, so that a nonce of an earlier stream, or of another replica,
/// is foreign to this one.
fn nonce_seed(stream: u64) -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let mut seed = [0; 16];
    seed[..8].copy_from_slice(&stream.to_le_bytes());
    seed[8..].copy_from_slice(&(now.as_nanos() as u64).to_le_bytes());
    xxhash_rust::xxh3::xxh3_64(&seed)
}

/// A token bucket that holds ten seconds' worth: an Envoy with many clusters starts in bursts.
#[derive(Debug)]
struct Budget {
    per_second: f64,
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(per_second: u32) -> Self {
        let per_second = f64::from(per_second);
        Self { per_second, left: per_second * 10.0, at: Instant::now() }
    }

    fn take(&mut self) -> bool {
        let now = Instant::now();
        let gained = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + gained).min(self.per_second * 10.0) - 1.0;
        self.at = now;
        self.left >= 0.0
    }
}
