//! HTTP/1.1 for probes and people, with a deadline for everything that a peer can delay and a limit of
//! connections (`door`). axum's own server has neither.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::{JoinError, JoinSet};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tracing::{debug, error};

use crate::door::{ConnectionCounters, LimitedListener};

/// How long a peer may take for the head of a request, from the connection's begin or the last response.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a connection is kept for further requests.
const KEEP_ALIVE: Duration = Duration::from_secs(60);
/// How long a connection lasts at most, the last response included.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(180);
/// A request's head, at most; also what is read at a time.
const MAX_HEAD_BYTES: usize = 16 << 10;

/// Serves until `stop`; then no new connection is accepted, and it returns when the requests that are
/// in progress are answered.
pub async fn serve(mut listener: LimitedListener, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let counts = listener.stats().counts;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (socket, peer) = listener.accept() => {
                let evicted = CancellationToken::new();
                let slot = listener.admit(peer.ip(), { let evicted = evicted.clone(); move || evicted.cancel() });
                let Some(slot) = slot else { continue };
                let served = serve_connection(socket, peer, router.clone(), stop.clone());
                connections.spawn(async move {
                    evicted.run_until_cancelled(served).await;
                    drop(slot);
                });
            }
            Some(ended) = connections.join_next() => count_panic(ended, &counts),
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        count_panic(ended, &counts);
    }
}

/// Logs and counts a panic, which ends its own connection only.
fn count_panic(ended: Result<(), JoinError>, counts: &ConnectionCounters) {
    if let Err(ended) = ended
        && ended.is_panic()
    {
        counts.count_panic();
        error!("an HTTP connection was dropped: {ended}");
    }
}

async fn serve_connection(
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let response = router.clone().oneshot(request.map(Body::new));
        async { response.await as Result<Response, Infallible> }
    });
    let mut http1 = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(socket), service)
    );
    let mut drain = pin!(async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(KEEP_ALIVE) => {}
        }
    });
    let mut deadline = pin!(sleep(MAX_CONNECTION_AGE));
    let mut keeps_alive = true;
    loop {
        tokio::select! {
            ended = http1.as_mut() => {
                if let Err(error) = ended {
                    debug!(%peer, %error, "HTTP connection ended");
                }
                return;
            }
            () = &mut drain, if keeps_alive => {
                keeps_alive = false;
                http1.as_mut().graceful_shutdown();
            }
            () = &mut deadline => return debug!(%peer, "HTTP connection cut after {MAX_CONNECTION_AGE:?}"),
        }
    }
}
