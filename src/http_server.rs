//! HTTP/1.1 for probes and people, with a deadline for everything that a peer may drag out and a bound
//! on connections (`door`). axum's own server has neither.

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

use crate::door::{Counts, Door};

/// Until the head of a request is there: the first, or the next on a connection that is kept.
const HEAD: Duration = Duration::from_secs(10);
/// How long a connection is kept for further requests.
const KEPT: Duration = Duration::from_secs(60);
/// A connection's whole life, the last answer included.
const WHOLE: Duration = Duration::from_secs(180);
/// A request's head, at most; also what is read at a time.
const BUFFER: usize = 16 << 10;

/// Serves until `stop`; then no new connection is taken, and it returns when the requests that are
/// under way are answered.
pub async fn serve(mut door: Door, router: Router, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    let counts = door.stats().counts;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (socket, peer) = door.accept() => {
                let cut = CancellationToken::new();
                let place = door.admit(peer.ip(), { let cut = cut.clone(); move || cut.cancel() });
                let Some(place) = place else { continue };
                let served = connection(socket, peer, router.clone(), stop.clone());
                connections.spawn(async move {
                    cut.run_until_cancelled(served).await;
                    drop(place);
                });
            }
            Some(ended) = connections.join_next() => note(ended, &counts),
        }
    }
    drop(door);
    while let Some(ended) = connections.join_next().await {
        note(ended, &counts);
    }
}

/// A panic ends its own connection only.
fn note(ended: Result<(), JoinError>, counts: &Counts) {
    if let Err(ended) = ended
        && ended.is_panic()
    {
        counts.note_panic();
        error!("an HTTP connection was dropped: {ended}");
    }
}

async fn connection(socket: TcpStream, peer: SocketAddr, router: Router, stop: CancellationToken) {
    let service = service_fn(move |mut request: hyper::Request<Incoming>| {
        request.extensions_mut().insert(ConnectInfo(peer));
        let answer = router.clone().oneshot(request.map(Body::new));
        async { answer.await as Result<Response, Infallible> }
    });
    let mut http1 = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .max_buf_size(BUFFER)
            .serve_connection(TokioIo::new(socket), service)
    );
    let mut last = pin!(async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = sleep(KEPT) => {}
        }
    });
    let mut whole = pin!(sleep(WHOLE));
    let mut keeps = true;
    loop {
        tokio::select! {
            ended = http1.as_mut() => {
                if let Err(error) = ended {
                    debug!(%peer, %error, "HTTP connection ended");
                }
                return;
            }
            () = &mut last, if keeps => {
                keeps = false;
                http1.as_mut().graceful_shutdown();
            }
            () = &mut whole => return debug!(%peer, "HTTP connection cut after {WHOLE:?}"),
        }
    }
}
