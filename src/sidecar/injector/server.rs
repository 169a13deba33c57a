//! The port that the API server asks: TLS, HTTP/1.1, one path. Bounded in every direction, since whoever
//! reaches the port may ask: connections (`door`), requests at a time, their size and how long they may take.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::InForce;
use super::metrics::Metrics;
use super::review::{Outcome, review};
use crate::door::LimitedListener;
use crate::http_server;

/// Where the API server asks.
const PATH: &str = "/inject";
/// What an API server takes of an object itself.
const MAX_BODY_BYTES: usize = 3 << 20;
/// Up to here a body needs no place among the large ones. Pods have some 10 KiB.
const SMALL_BODY_BYTES: usize = 128 << 10;
/// Large bodies in memory at the same time; others wait for their place.
const MAX_LARGE_BODIES: usize = 8;
/// How long a request may wait and arrive: below the 10 s that an API server waits for the answer.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(8);
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be idle. The API server closes it after 90 s, and has to be the first:
/// otherwise its next request may meet a connection that is just being closed, and is not tried again.
const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// From then on a connection is closed with an answer, so that requests spread over new replicas.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(300);
const MAX_HEAD_BYTES: usize = 16 << 10;

static LARGE_BODIES: Semaphore = Semaphore::const_new(MAX_LARGE_BODIES);

/// What answers.
#[derive(Clone, Debug)]
pub(super) struct Server {
    pub(super) in_force: InForce,
    pub(super) tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    pub(super) metrics: Arc<Metrics>,
    /// Cancelled when the end is near: connections are closed with their next answer.
    pub(super) draining: CancellationToken,
}

type Answer = Response<Full<Bytes>>;

impl Server {
    /// Serves until `stop`, and returns when what is in progress is answered.
    pub(super) async fn run(self, listener: LimitedListener, stop: CancellationToken) {
        let serve = |socket, peer| self.clone().connection(socket, peer, stop.clone());
        http_server::accept(listener, &stop, serve).await;
    }

    async fn connection(self, socket: TcpStream, peer: SocketAddr, stop: CancellationToken) {
        let Some(config) = self.tls.borrow().clone() else {
            return debug!(%peer, "closed: there is no certificate yet");
        };
        // Answers are small: none is to wait for the one before to be acknowledged.
        _ = socket.set_nodelay(true);
        let handshake = timeout(HANDSHAKE_TIMEOUT, TlsAcceptor::from(config).accept(socket));
        let socket = match stop.run_until_cancelled(handshake).await {
            Some(Ok(Ok(socket))) => socket,
            Some(Ok(Err(error))) => return debug!(%peer, %error, "no TLS handshake"),
            Some(Err(_)) => return debug!(%peer, "no TLS handshake within {HANDSHAKE_TIMEOUT:?}"),
            None => return,
        };
        let begun = Instant::now();
        let service = service_fn(|request| self.request(request, begun));
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(socket), service);
        let mut connection = pin!(connection);
        let mut deadline = pin!(sleep(MAX_CONNECTION_AGE + IDLE_TIMEOUT + REQUEST_TIMEOUT));
        let mut stopping = false;
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%peer, %error, "connection ended");
                    }
                    return;
                }
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut deadline => return debug!(%peer, "connection cut"),
            }
        }
    }

    async fn request(
        &self,
        request: Request<Incoming>,
        begun: Instant,
    ) -> Result<Answer, Infallible> {
        let mut answer = self.answer(request).await;
        if self.draining.is_cancelled() || begun.elapsed() > MAX_CONNECTION_AGE {
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(answer)
    }

    async fn answer(&self, request: Request<Incoming>) -> Answer {
        if request.uri().path() != PATH {
            return text(StatusCode::NOT_FOUND, "the injector answers at /inject only");
        }
        if request.method() != Method::POST {
            let mut answer =
                text(StatusCode::METHOD_NOT_ALLOWED, "an AdmissionReview is to be posted");
            answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return answer;
        }
        let is_json = request
            .headers()
            .get(header::CONTENT_TYPE)
            .and_then(|kind| kind.to_str().ok())
            .and_then(|kind| kind.split(';').next())
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"));
        if !is_json {
            let what = "the Content-Type is not application/json";
            return self.without_review(StatusCode::UNSUPPORTED_MEDIA_TYPE, what, Outcome::Bad);
        }
        let taken = timeout(REQUEST_TIMEOUT, read_body(request.into_body())).await;
        let (body, _slot) = match taken {
            Ok(Ok(body)) => body,
            Ok(Err((status, what))) => return self.without_review(status, what, Outcome::Bad),
            Err(_) => {
                let what = "the request did not arrive in time, or too many others are in progress";
                let result = Outcome::Unavailable;
                return self.without_review(StatusCode::SERVICE_UNAVAILABLE, what, result);
            }
        };
        let settings = self.in_force.settings.borrow().clone();
        let Some(settings) = settings else {
            let what = "the settings are not read yet";
            let result = Outcome::Unavailable;
            return self.without_review(StatusCode::SERVICE_UNAVAILABLE, what, result);
        };
        let native = *self.in_force.native_sidecars.borrow();
        let begun = Instant::now();
        let reviewed = review(&body, &settings, native);
        let result = reviewed.outcome;
        self.metrics.count(result, Some(begun.elapsed()));
        match result {
            Outcome::Refused | Outcome::PassedThrough => {
                // The sentence goes to whoever made the pod: it repeats what the pod says.
                info!(
                    pod = reviewed.pod,
                    "{}: it says something wrong of its sidecar",
                    result.as_str()
                );
            }
            Outcome::Bad | Outcome::Unavailable => {
                warn!("a review could not be answered ({})", result.as_str());
            }
            Outcome::Injected | Outcome::Skipped => {
                debug!(pod = reviewed.pod, "{}", result.as_str());
            }
        }
        let status = StatusCode::from_u16(reviewed.status).unwrap_or(StatusCode::OK);
        let kind = if status == StatusCode::OK { "application/json" } else { TEXT };
        respond(status, kind, reviewed.body)
    }

    fn without_review(&self, status: StatusCode, what: &str, result: Outcome) -> Answer {
        self.metrics.count(result, None);
        warn!("a review could not be answered ({}): {what}", result.as_str());
        text(status, what)
    }
}

/// The body, and the place of a large one. A peer that sends slowly keeps nobody else waiting but those who
/// send much as well.
async fn read_body(
    mut body: Incoming,
) -> Result<(Vec<u8>, Option<SemaphorePermit<'static>>), (StatusCode, &'static str)> {
    let (mut bytes, mut place) = (Vec::new(), None);
    while let Some(frame) = body.frame().await {
        let cut = |_| (StatusCode::BAD_REQUEST, "the body ended before its end");
        let Ok(data) = frame.map_err(cut)?.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY_BYTES {
            let what = "the body has more than 3 MiB, which no pod can have";
            return Err((StatusCode::PAYLOAD_TOO_LARGE, what));
        }
        if place.is_none() && bytes.len() + data.len() > SMALL_BODY_BYTES {
            place = LARGE_BODIES.acquire().await.ok();
        }
        bytes.extend_from_slice(&data);
    }
    Ok((bytes, place))
}

const TEXT: &str = "text/plain; charset=utf-8";

fn text(status: StatusCode, what: &str) -> Answer {
    respond(status, TEXT, format!("{what}\n"))
}

fn respond(status: StatusCode, kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    answer
}
