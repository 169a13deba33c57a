//! One GET over a connection of its own, with a limit.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// A page larger than this is not read: a config dump of a very large mesh stays below it.
const PAGE_BYTES: usize = 256 << 20;

#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) body: String,
}

#[derive(Debug, Error)]
pub(super) enum GetError {
    #[error("{0}")]
    Connect(io::Error),
    #[error("no connection within {0:?}")]
    NoConnection(Duration),
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("no HTTP is spoken there ({0})")]
    NotHttp(String),
}

pub(super) async fn get(
    address: SocketAddr,
    path: &str,
    limit: Duration,
) -> Result<Answer, GetError> {
    let stream = timeout(limit, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| GetError::NoConnection(limit))?.map_err(GetError::Connect)?;
    let not_http = |error: &dyn std::error::Error| GetError::NotHttp(error.to_string());
    let exchange = async {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| not_http(&error))?;
        let request = http::Request::get(path)
            .header(http::header::HOST, address.to_string())
            .body(Empty::<Bytes>::new())
            .map_err(|error| not_http(&error))?;
        let asked = async {
            let response = sender.send_request(request).await.map_err(|error| not_http(&error))?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), PAGE_BYTES).collect().await;
            let body = body.map_err(|error| GetError::NotHttp(error.to_string()))?.to_bytes();
            Ok(Answer { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        tokio::pin!(asked);
        // The connection must be driven, and may end before the answer is read to its end.
        tokio::select! {
            answer = &mut asked => answer,
            _ = connection => asked.await,
        }
    };
    timeout(limit, exchange).await.unwrap_or(Err(GetError::NoAnswer(limit)))
}
