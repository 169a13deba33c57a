//! A client that keeps its connection, and opens another only when it is told that this one ends.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::task::JoinHandle;

use crate::captured::connect;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    Http1,
    Http2,
}

/// One connection.
pub(super) enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    pub(super) async fn open(
        version: Version,
        client: IpAddr,
        to: SocketAddr,
    ) -> Result<Self, String> {
        let io = TokioIo::new(connect(client, to).await?);
        match version {
            Version::Http1 => {
                let (sender, connection) =
                    http1::handshake(io).await.map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Ok(Self::Http1(sender))
            }
            Version::Http2 => {
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io)
                    .await
                    .map_err(|error| error.to_string())?;
                tokio::spawn(connection);
                Ok(Self::Http2(sender))
            }
        }
    }

    /// Whether it takes another request: it was not told to end.
    async fn is_open(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    /// Who answers a GET for this Host; `None` if the connection ended before the request was sent.
    pub(super) async fn ask(&mut self, host: &str) -> Result<Option<String>, String> {
        if !self.is_open().await {
            return Ok(None);
        }
        let body = Empty::<Bytes>::new();
        let response = match self {
            Self::Http1(sender) => {
                let request = Request::get("/").header(http::header::HOST, host).body(body);
                sender.send_request(request.expect("a valid request")).await
            }
            Self::Http2(sender) => {
                let request = Request::get(format!("http://{host}/")).body(body);
                sender.send_request(request.expect("a valid request")).await
            }
        };
        let response = match response {
            Err(error) if error.is_canceled() => return Ok(None),
            other => other.map_err(|error| format!("{error:?}"))?,
        };
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
        let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
        if status != 200 {
            return Err(format!("{status} {body}"));
        }
        Ok(Some(body.split(' ').next().unwrap_or_default().to_owned()))
    }
}

/// Asks again and again until dropped.
pub(super) struct Visitor {
    seen: Arc<Mutex<Seen>>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    connections: usize,
    last: String,
    lost: Vec<String>,
}

impl Visitor {
    pub(super) fn start(version: Version, client: IpAddr, to: SocketAddr, host: &str) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let (log, host) = (seen.clone(), host.to_owned());
        let task = tokio::spawn(async move {
            let mut connection = None;
            loop {
                let own = match &mut connection {
                    Some(own) => own,
                    None => match Connection::open(version, client, to).await {
                        Ok(new) => {
                            log.lock().unwrap().connections += 1;
                            connection.insert(new)
                        }
                        Err(error) => {
                            log.lock().unwrap().lost.push(error);
                            continue;
                        }
                    },
                };
                match own.ask(&host).await {
                    Ok(Some(who)) => log.lock().unwrap().last = who,
                    Ok(None) => connection = None,
                    Err(error) => {
                        log.lock().unwrap().lost.push(error);
                        connection = None;
                    }
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        });
        Self { seen, task }
    }

    /// Who answered last.
    pub(super) fn last(&self) -> String {
        self.seen.lock().unwrap().last.clone()
    }

    /// Connections so far; panics if a request was lost.
    pub(super) fn connections(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        assert!(seen.lost.is_empty(), "{seen:?}");
        seen.connections
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        self.task.abort();
    }
}
