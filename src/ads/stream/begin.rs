//! The start of a stream: its first request, which says who is asking, and the view that follows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tracing::info;

use super::{Admitted, AdsStream, Context, Method, News, going_away, lookup, malformed};
use crate::ads::budget::Budget;
use crate::ads::node;
use crate::ads::request::Request;
use crate::ads::requests::Requests;
use crate::ads::session::Session;
use crate::proxies::Connection;
use crate::snapshot::View;
use crate::view::Lease;

/// The stream once its view is there; `None` if the client went without a word.
pub(super) async fn begin(
    context: &Arc<Context>,
    method: Method,
    connection: &Arc<Connection>,
    news: &mut watch::Receiver<News>,
    requests: &mut Requests,
) -> Result<Option<Box<AdsStream>>, Status> {
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
    let request = Request::decode(first, method.delta).map_err(malformed)?;
    let invalid = |error: &dyn std::error::Error| Status::invalid_argument(error.to_string());
    let node = request.common().decode_node().map_err(|error| invalid(&error))?;
    let (identity, need) = node::identify(node.as_ref()).map_err(|error| invalid(&error))?;

    if shared.snapshots.borrow().is_none() {
        return Err(Status::unavailable(
            "not ready: the source has not been listed completely yet (see /ready on the \
             monitoring port for what is missing)",
        ));
    }
    let lease = shared.leases.take(need);
    if identity.probe {
        shared.metrics.probe();
        info!(proxy = %identity.name, by = %identity.user_agent, "probe connected");
    } else {
        info!(
            proxy = %identity.name, view = %identity.view, delta = method.delta, "proxy connected"
        );
    }
    connection.update(|status| status.identity = Some(identity));
    let view = built_view(news, &lease).await?;

    static STREAMS: AtomicU64 = AtomicU64::new(0);
    let session = Session::new(
        method.delta,
        method.only,
        shared.limits.session,
        shared.interner.clone(),
        shared.frames.clone(),
        nonce_seed(STREAMS.fetch_add(1, Ordering::Relaxed)),
    );
    let mut stream = Box::new(AdsStream {
        context: context.clone(),
        connection: connection.clone(),
        session,
        view,
        lease,
        budget: Budget::new(shared.limits.requests_per_second),
        admitted: Admitted::Waiting(Box::pin(context.admission.clone().turn())),
        sent_at: Default::default(),
        alarm: Box::pin(sleep(Duration::ZERO)),
        alarm_set: false,
        woken: Instant::now(),
        since: None,
    });
    stream.take(&request)?;
    Ok(Some(stream))
}

/// The view once the publisher has assigned and built it.
async fn built_view(news: &mut watch::Receiver<News>, lease: &Lease) -> Result<Arc<View>, Status> {
    let mut seat = lease.seat();
    loop {
        let (view, ending) = {
            let news = news.borrow_and_update();
            (lookup(&news, lease), news.ending)
        };
        if ending {
            return Err(going_away());
        }
        if let Some(view) = view {
            return Ok(view);
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
