//! HTTP/1.1 for probes and people, with a deadline for everything that a peer can delay and a limit of
//! connections (`door`). axum's own server has neither. Where gRPC is served too, a connection that begins
//! as HTTP/2 does is HTTP/2; over TLS, ALPN says which it is.

use std::convert::Infallible;
use std::future::Future;
use std::io::{self, Cursor};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::response::Response;
use axum::{Extension, Router};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::{Service as HttpService, service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use pilothouse_xds_server::tls::read_certificate;
use pilothouse_xds_server::{PeerCertificate, TlsAcceptor};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{sleep, timeout};
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

/// How HTTP/2 with prior knowledge begins. No request of HTTP/1.1 does.
const HTTP2_BEGIN: &[u8] = b"PRI";
/// Calls at the same time on one connection of HTTP/2.
const MAX_CALLS: u32 = 8;
/// Bytes that HTTP/2 holds of one response.
const MAX_SEND_BUFFER: usize = 128 << 10;

/// Serves until `stop`; then no new connection is accepted, and it returns when the requests that are
/// in progress are answered.
pub async fn serve(listener: LimitedListener, router: Router, stop: CancellationToken) {
    let serve = |socket, peer| serve_http1(socket, peer, router.clone(), stop.clone());
    accept(listener, &stop, serve).await;
}

/// The same, HTTP/2 without TLS too.
pub async fn serve_with_grpc(listener: LimitedListener, router: Router, stop: CancellationToken) {
    let serve = |socket, peer| serve_either(socket, peer, router.clone(), stop.clone());
    accept(listener, &stop, serve).await;
}

/// The same over TLS. A request has the certificate of its client, if that showed one, as an extension
/// (`Arc<PeerCertificate>`).
pub async fn serve_secure(
    listener: LimitedListener,
    router: Router,
    acceptor: Arc<TlsAcceptor>,
    stop: CancellationToken,
) {
    let serve =
        |socket, peer| serve_tls(socket, peer, router.clone(), acceptor.clone(), stop.clone());
    accept(listener, &stop, serve).await;
}

/// Accepts connections until `stop`, has each served in a task of its own, and returns when the last has
/// ended. `serve` sees to it that a connection ends soon after `stop`.
pub async fn accept<F: Future<Output = ()> + Send + 'static>(
    mut listener: LimitedListener,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr) -> F,
) {
    let mut connections = JoinSet::new();
    let counts = listener.stats().counts;
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (socket, peer) = listener.accept() => {
                let evicted = CancellationToken::new();
                let slot = listener.admit(peer.ip(), { let evicted = evicted.clone(); move || evicted.cancel() });
                let Some(slot) = slot else { continue };
                let served = serve(socket, peer);
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

async fn serve_http1<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let http1 = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(socket), service(peer, router));
    run(http1, |http1| http1.graceful_shutdown(), peer, stop).await;
}

async fn serve_either(
    mut socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let begin = tokio::select! {
        () = stop.cancelled() => return,
        begin = timeout(HEAD_TIMEOUT, read_begin(&mut socket)) => begin,
    };
    let begin = match begin {
        Ok(Ok(begin)) => begin,
        Ok(Err(error)) => return debug!(%peer, %error, "HTTP connection ended"),
        Err(_) => return debug!(%peer, "HTTP connection cut: no request"),
    };
    let is_http2 = begin == HTTP2_BEGIN;
    let (reader, writer) = socket.into_split();
    let socket = tokio::io::join(Cursor::new(begin).chain(reader), writer);
    if !is_http2 {
        return serve_http1(socket, peer, router, stop).await;
    }
    serve_http2(socket, peer, router, stop).await;
}

async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin>(
    socket: S,
    peer: SocketAddr,
    router: Router,
    stop: CancellationToken,
) {
    let http2 = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_CALLS)
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_send_buf_size(MAX_SEND_BUFFER)
        .serve_connection(TokioIo::new(socket), service(peer, router));
    run(http2, |http2| http2.graceful_shutdown(), peer, stop).await;
}

async fn serve_tls(
    socket: TcpStream,
    peer: SocketAddr,
    router: Router,
    acceptor: Arc<TlsAcceptor>,
    stop: CancellationToken,
) {
    let tls = tokio_rustls::TlsAcceptor::from(acceptor.http_config());
    let accepted = tokio::select! {
        () = stop.cancelled() => return,
        accepted = timeout(HEAD_TIMEOUT, tls.accept(socket)) => accepted,
    };
    let stream = match accepted {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return debug!(%peer, %error, "TLS handshake of HTTP refused"),
        Err(_) => return debug!(%peer, "TLS handshake of HTTP cut"),
    };
    let (_, session) = stream.get_ref();
    let shown = session.peer_certificates().and_then(|chain| chain.first());
    let certificate: Option<Arc<PeerCertificate>> = match shown.map(|der| read_certificate(der)) {
        None => None,
        Some(Ok(certificate)) => Some(Arc::new(certificate)),
        Some(Err(error)) => return debug!(%peer, %error, "client certificate of HTTP"),
    };
    let is_http2 = session.alpn_protocol() == Some(b"h2");
    let router = match certificate {
        Some(certificate) => router.layer(Extension(certificate)),
        None => router,
    };
    match is_http2 {
        true => serve_http2(stream, peer, router, stop).await,
        false => serve_http1(stream, peer, router, stop).await,
    }
}

/// As many bytes as tell the two apart; fewer if the peer has ended.
async fn read_begin(socket: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut begin = Vec::new();
    while begin.len() < HTTP2_BEGIN.len() && HTTP2_BEGIN.starts_with(&begin) {
        let missing = (HTTP2_BEGIN.len() - begin.len()) as u64;
        if socket.take(missing).read_buf(&mut begin).await? == 0 {
            break;
        }
    }
    Ok(begin)
}

type Answer = Pin<Box<dyn Future<Output = Result<Response, Infallible>> + Send>>;

/// Hands requests to the router.
fn service(
    peer: SocketAddr,
    router: Router,
) -> impl HttpService<Request<Incoming>, Response = Response, Error = Infallible, Future = Answer> {
    service_fn(move |mut request: Request<Incoming>| -> Answer {
        request.extensions_mut().insert(ConnectInfo(peer));
        Box::pin(router.clone().oneshot(request.map(Body::new)))
    })
}

/// Runs a connection for as long as it may last; `drain_connection` lets it end with the requests in progress.
async fn run<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    drain_connection: impl Fn(Pin<&mut C>),
    peer: SocketAddr,
    stop: CancellationToken,
) {
    let mut connection = pin!(connection);
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
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    debug!(%peer, %error, "HTTP connection ended");
                }
                return;
            }
            () = &mut drain, if keeps_alive => {
                keeps_alive = false;
                drain_connection(connection.as_mut());
            }
            () = &mut deadline => return debug!(%peer, "HTTP connection cut after {MAX_CONNECTION_AGE:?}"),
        }
    }
}
