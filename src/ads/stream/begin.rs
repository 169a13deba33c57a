//! The start of a stream: its first request, which says who is asking, and the view that follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tracing::info;

use super::{
    Admitted, AdsStream, Context, Method, News, Peer, Shared, going_away, lookup, malformed,
};
use crate::ads::admission::Holder;
use crate::ads::budget::Budget;
use crate::ads::node;
use crate::ads::request::Request;
use crate::ads::requests::Requests;
use crate::ads::session::Session;
use crate::proxies::{Connection, ProxyIdentity};
use crate::snapshot::View;
use crate::view::{ViewLease, ViewRequest};

/// The stream once its view is there; `None` if the client went without a word.
pub(super) async fn begin(
    context: &Arc<Context>,
    method: Method,
    peer: &Peer,
    connection: &Arc<Connection>,
    news: &mut watch::Receiver<News>,
    requests: &mut Requests,
) -> Result<Option<Box<AdsStream>>, Status> {
    let outbox = context.outboxes.open(connection, &peer.control, &peer.account);
    let shared = &context.shared;
    let limit = shared.limits.first_request;
    let first = tokio::select! {
        _ = news.wait_for(|news| news.ending) => return Err(going_away()),
        first = timeout(limit, requests.next()) => first.map_err(|_| {
            Status::deadline_exceeded(format!(
                "no request within {} s of opening the stream (--first-request-timeout)",
                limit.as_secs_f64()
            ))
        })??,
    };
    let Some(first) = first else { return Ok(None) };
    // Only the bytes are kept while the view is waited for, not what they decode to.
    outbox.holds(first.len());
    let (identity, need) = identify(first.clone(), method.delta)?;

    if shared.snapshots.borrow().is_none() {
        // A proxy opens its next stream on the connection that it has, for ever. Behind a Service only
        // a new connection leads to another replica, which may be ready: so this one ends.
        peer.control.end();
        return Err(Status::unavailable(
            "not ready: the source has not been listed completely yet (see /ready on the \
             monitoring port for what is missing)",
        ));
    }
    let address = Some(peer.address.ip().to_canonical());
    let lease = shared.view_registry.lease(ViewRequest { peer: address, ..need });
    if identity.probe {
        shared.metrics.probe();
        info!(proxy = %identity.name, by = %identity.user_agent, "probe connected");
    } else {
        info!(
            proxy = %identity.name, view = %identity.view, delta = method.delta, "proxy connected"
        );
    }
    connection.update(|status| {
        status.identity = Some(identity);
        status.assigned = Some(Arc::new(lease.watch()));
    });
    let view = built_view(shared, news, &lease).await?;

    static STREAMS: AtomicU64 = AtomicU64::new(0);
    let session = Session::new(
        method.delta,
        method.only,
        shared.limits.session,
        shared.interner.clone(),
        shared.frames.clone(),
        nonce_seed(STREAMS.fetch_add(1, Ordering::Relaxed)),
    );
    let holder = Holder { address: peer.address.ip(), connection: peer.account.id() };
    let mut stream = Box::new(AdsStream {
        context: context.clone(),
        connection: connection.clone(),
        outbox,
        session,
        view,
        lease,
        budget: Budget::new(shared.limits.requests_per_second),
        admitted: Admitted::Waiting(Box::pin(context.admission.clone().turn(holder))),
        sent_at: Default::default(),
        alarm: Box::pin(sleep(Duration::ZERO)),
        alarm_set: false,
        woken: Instant::now(),
        since: None,
    });
    stream.take(first)?;
    Ok(Some(stream))
}

/// Who sends a stream's first request, and the view that it needs.
fn identify(first: Bytes, delta: bool) -> Result<(ProxyIdentity, ViewRequest), Status> {
    let request = Request::decode(first, delta).map_err(malformed)?;
    let identified = node::identify(request.common().node.as_deref());
    identified.map_err(|error| Status::invalid_argument(error.to_string()))
}

/// The view once the publisher has assigned and built it.
async fn built_view(
    shared: &Shared,
    news: &mut watch::Receiver<News>,
    lease: &ViewLease,
) -> Result<Arc<View>, Status> {
    let mut seat = lease.watch();
    loop {
        if news.borrow_and_update().ending {
            return Err(going_away());
        }
        let view = shared.snapshots.borrow().as_ref().and_then(|newest| lookup(newest, lease));
        if let Some(view) = view {
            return Ok(view);
        }
        if let Some(refusal) = lease.refusal() {
            return Err(Status::resource_exhausted(refusal.to_string()));
        }
        tokio::select! {
            changed = news.changed() => changed.map_err(|_| going_away())?,
            () = seat.reassigned() => {}
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
