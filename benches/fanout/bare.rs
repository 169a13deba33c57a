//! What an HTTP/2 library costs: the messages of the raw writer through hyper, which the real server
//! was once built on. It decides nothing either, and reads what the sidecars say to throw it away.

use std::convert::Infallible;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use futures::Stream;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::CONTENT_TYPE;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::broadcast;

/// Serves the one stream of a sidecar, with the keepalive of the real server.
pub(crate) async fn serve(
    socket: impl AsyncRead + AsyncWrite + Unpin,
    start: Bytes,
    changes: broadcast::Receiver<Bytes>,
) -> anyhow::Result<()> {
    let what = Mutex::new(Some((start, changes)));
    let service = service_fn(|request: Request<Incoming>| {
        let what = what.lock().ok().and_then(|mut what| what.take());
        async {
            let (start, changes) = what.context("one stream a sidecar")?;
            let body = StreamBody::new(responses(start, changes, request.into_body()));
            let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
            anyhow::Ok(response.body(body)?)
        }
    });
    let keepalive = Duration::from_secs(30);
    let mut http2 = Builder::new(TokioExecutor::new());
    http2.timer(TokioTimer::new()).keep_alive_interval(keepalive).keep_alive_timeout(keepalive / 3);
    Ok(http2.serve_connection(TokioIo::new(socket), service).await?)
}

fn responses(
    start: Bytes,
    mut changes: broadcast::Receiver<Bytes>,
    mut requests: Incoming,
) -> impl Stream<Item = Result<Frame<Bytes>, Infallible>> {
    async_stream::stream! {
        yield Ok(Frame::data(start));
        loop {
            tokio::select! {
                message = changes.recv() => match message {
                    Ok(message) => yield Ok(Frame::data(message)),
                    Err(_) => return,
                },
                request = requests.frame() => match request {
                    Some(Ok(_)) => {}
                    _ => return,
                },
            }
        }
    }
}
