//! The start of a stream: its first request, which identifies the proxy, and the view that follows.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use pilothouse_xds::discovery_request::DiscoveryRequest;
use pilothouse_xds::session::Session;
use pilothouse_xds::{TypeIndex, View};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;

use super::answered::AnsweredStream;
use super::{
    Admitted, AdsStream, LeaseOf, Method, Peer, ServerContext, SnapshotSignal, StreamContext,
    StreamOf, ToldGenerations, going_away, leased_view, malformed, reassigned, too_many_streams,
};
use crate::admission::PermitHolder;
use crate::admission::rate_limiter::RateLimiter;
use crate::grpc::messages::MessageReceiver;
use crate::mesh::{Identity, Mesh};
use crate::peer::{BearerToken, PeerCredentials, PeerKey, Refusal};

/// What a stream is, by its first request.
pub(super) enum Begun<M: Mesh> {
    Proxy(Box<AdsStream<M>>),
    Answered(Box<AnsweredStream<M>>),
}

/// Returns the stream once its view is built; `None` if the client ended it without a request.
pub(super) async fn handshake<M: Mesh>(
    context: Arc<StreamContext<M>>,
    method: Method,
    peer: Peer,
    stream: Arc<StreamOf<M>>,
    bearer: Option<BearerToken>,
    mut requests: MessageReceiver,
) -> Result<Option<Begun<M>>, Status> {
    let begun = Instant::now();
    let mut signal = context.signal.clone();
    let registered = context.streams.register(&stream, &peer.handle, &peer.account);
    let server = &context.server;
    let limit = server.limits.first_request;
    registered.set_own_bytes(bearer.as_ref().map_or(0, |token| token.as_str().len()));
    let first = tokio::select! {
        _ = signal.wait_for(|signal| signal.shutting_down) => return Err(going_away()),
        first = timeout(limit, requests.receive()) => first.map_err(|_| {
            Status::deadline_exceeded(format!(
                "no request within {} s of opening the stream ({})",
                limit.as_secs_f64(),
                M::TEXTS.first_request
            ))
        })??,
    };
    let Some(first) = first else { return Ok(None) };
    let time_left = limit.saturating_sub(begun.elapsed());
    let principal = tokio::select! {
        _ = signal.wait_for(|signal| signal.shutting_down) => return Err(going_away()),
        principal = timeout(time_left, authenticate(server, &peer, bearer)) => principal.map_err(|_| {
            Status::unavailable(format!(
                "who the proxy is could not be verified within {} s of opening the stream ({}); \
                 connect again",
                limit.as_secs_f64(),
                M::TEXTS.first_request
            ))
        })??,
    };
    let account = match &principal {
        Some(principal) => {
            let key = PeerKey::Principal(principal.to_string().into());
            let moved = server.proxies.count_by(&stream, &key, server.limits.streams_per_peer);
            moved.map_err(|error| too_many_streams::<M>(&error))?;
            peer.account.set_peer(&key);
            key
        }
        None => PeerKey::of_address(peer.address.ip()),
    };
    // While the view is built only the bytes are kept, not what they decode to.
    registered.set_own_bytes(first.len());
    if let Some(types) = server.answered.clone().filter(|types| types.begins_with(&first, method)) {
        let peer = (peer.address, principal_name(&account));
        let context = context.clone();
        let stream = AnsweredStream::new(context, types, peer, registered, requests, first)?;
        return Ok(Some(Begun::Answered(Box::new(stream))));
    }
    let address = peer.address.ip().to_canonical();
    let identified =
        identify(&server.mesh, first.clone(), method.delta, address, principal.as_ref())?;
    let (identity, view_request) = identified;

    if server.snapshots.borrow().is_none() {
        // A proxy opens its next stream on the same connection, for as long as that lives. Behind a
        // Service only a new connection leads to another replica, which may be ready: so this one ends.
        peer.handle.drain();
        return Err(Status::unavailable(M::TEXTS.not_ready));
    }
    let lease = server.view_registry.lease(view_request);
    server.mesh.proxy_connected(&identity, method.delta);
    let is_probe = identity.is_probe();
    stream.update(|status| {
        status.identity = Some(identity.clone());
        status.assigned = Some(Arc::new(lease.watch()));
    });
    let (view, generation) = wait_for_view(server, &mut signal, &lease).await?;

    static STREAMS: AtomicU64 = AtomicU64::new(0);
    let mut session = Session::new(
        method.delta,
        server.mesh.types(),
        method.only,
        server.limits.session,
        server.interner.clone(),
        server.frames.clone(),
        nonce_seed(STREAMS.fetch_add(1, Ordering::Relaxed)),
    );
    session.set_generation(generation);
    if method.delta {
        for at in 0..server.mesh.types().len() {
            let index = TypeIndex(at);
            session.set_initial_names(index, server.mesh.initial_names(&identity, index, &view));
        }
    }
    let holder = PermitHolder { peer: account, connection: peer.account.id() };
    let mut started = Box::new(AdsStream {
        stream,
        registered,
        requests,
        signal,
        session,
        generations: ToldGenerations::new(generation, is_probe),
        view,
        reassigned: Box::pin(reassigned(lease.watch())),
        lease,
        caught_up: false,
        is_idle: false,
        pieces: None,
        rate_limiter: RateLimiter::new(server.limits.requests_per_second),
        admitted: Admitted::Waiting(Box::pin(context.admission.clone().acquire(holder))),
        sent_at: server.mesh.types().iter().map(|_| None).collect(),
        timer: Box::pin(sleep(Duration::ZERO)),
        timer_set: false,
        last_event: Instant::now(),
        change_received: None,
        context,
    });
    started.handle_request(first)?;
    Ok(Some(Begun::Proxy(started)))
}

/// Who the peer is, by what it has shown. A peer that has shown nothing that holds must connect again: on
/// this connection it would show the same certificate.
async fn authenticate<M: Mesh>(
    server: &ServerContext<M>,
    peer: &Peer,
    bearer: Option<BearerToken>,
) -> Result<Option<M::Principal>, Status> {
    let credentials = PeerCredentials {
        address: peer.address.ip().to_canonical(),
        encrypted: peer.encrypted,
        certificate: peer.certificate.as_deref(),
        bearer: bearer.as_ref().map(BearerToken::as_str),
    };
    let authenticated = server.mesh.authenticate(credentials).await;
    authenticated.map_err(|refusal| {
        if matches!(refusal, Refusal::Unauthenticated(_)) {
            peer.handle.drain();
        }
        refusal.into()
    })
}

/// The principal that a key has, as it is shown.
fn principal_name(key: &PeerKey) -> Option<Arc<str>> {
    match key {
        PeerKey::Principal(principal) => Some(principal.clone()),
        PeerKey::Address(_) => None,
    }
}

/// Who sends a stream's first request, and the view that it requests.
fn identify<M: Mesh>(
    mesh: &M,
    first: Bytes,
    delta: bool,
    peer: IpAddr,
    principal: Option<&M::Principal>,
) -> Result<(M::Identity, M::ViewRequest), Status> {
    let request = DiscoveryRequest::decode(first, delta).map_err(malformed)?;
    Ok(mesh.identify(request.common().node.as_deref(), delta, peer, principal)?)
}

/// The view once the publisher has assigned and built it, and the generation that it is of.
async fn wait_for_view<M: Mesh>(
    server: &ServerContext<M>,
    signal: &mut watch::Receiver<SnapshotSignal>,
    lease: &LeaseOf<M>,
) -> Result<(Arc<View>, u64), Status> {
    let mut watch = lease.watch();
    loop {
        if signal.borrow_and_update().shutting_down {
            return Err(going_away());
        }
        let newest = server.snapshots.borrow().clone();
        let view = newest
            .and_then(|newest| Some((leased_view::<M>(&newest, lease)?, M::generation(&newest))));
        if let Some(view) = view {
            return Ok(view);
        }
        if let Some(refusal) = lease.refusal() {
            return Err(Status::resource_exhausted(&*refusal));
        }
        tokio::select! {
            changed = signal.changed() => changed.map_err(|_| going_away())?,
            () = watch.reassigned() => {}
        }
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
