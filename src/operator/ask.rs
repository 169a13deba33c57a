//! One replica, and one question to it: HTTP/1.1 over a connection to its debug port, be it one of TCP or
//! one that the API server forwards. A deadline is around everything, and an answer has a limit, since
//! nobody knows who answers there.

use std::fmt;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::Portforwarder;
use serde::de::DeserializeOwned;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use crate::causes::with_causes;
use crate::well_known::DEBUG_PORT;

/// A larger answer is not read: a thousand proxies are about one megabyte.
const MAX_ANSWER_BYTES: usize = 32 << 20;
/// Connections to one replica that are kept for the next question.
const MAX_IDLE: usize = 4;
/// How long it may take until it is known why a connection has ended.
const REASON: Duration = Duration::from_millis(200);
/// A server says something every five seconds while all is well.
const STREAM_SILENCE: Duration = Duration::from_secs(12);
/// Of a refusal, so much is repeated to the operator.
const SAID: usize = 200;

/// Why a replica has not answered a question.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum AskError {
    #[error("cannot be reached: {0}")]
    Unreachable(String),
    #[error("no answer within {0:?}")]
    Late(Duration),
    /// It has answered, and may be of another version or no Pilothouse at all.
    #[error("answers {status}: {said}")]
    Refused { status: u16, said: String },
    #[error("more than {} MB of an answer", MAX_ANSWER_BYTES >> 20)]
    TooLong,
    #[error("its answer is not understood ({0})")]
    Nonsense(String),
}

/// An answer with its whole body.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

#[derive(Clone)]
enum Way {
    Address(SocketAddr),
    Pod { pods: Api<Pod>, name: String },
}

/// One server of the control plane. Cheap to clone; clones share their idle connections.
#[derive(Clone)]
pub(super) struct Replica {
    /// The pod's name, or the address.
    pub(super) name: String,
    way: Way,
    limit: Duration,
    idle: Arc<Mutex<Vec<Connection>>>,
}

impl fmt::Debug for Replica {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Replica").field(&self.name).finish()
    }
}

impl Replica {
    pub(super) fn at(address: SocketAddr, limit: Duration) -> Self {
        Self::new(address.to_string(), Way::Address(address), limit)
    }

    pub(super) fn pod(name: &str, pods: Api<Pod>, limit: Duration) -> Self {
        Self::new(name.to_owned(), Way::Pod { pods, name: name.to_owned() }, limit)
    }

    fn new(name: String, way: Way, limit: Duration) -> Self {
        Self { name, way, limit, idle: Arc::default() }
    }

    /// The JSON of a page.
    ///
    /// # Errors
    /// See [`AskError`].
    pub(super) async fn json<T: DeserializeOwned>(&self, path: &str) -> Result<T, AskError> {
        let answer = self.get(path).await?;
        if answer.status != StatusCode::OK {
            let said: String = String::from_utf8_lossy(&answer.body).chars().take(SAID).collect();
            let said = said.trim().to_owned();
            return Err(AskError::Refused { status: answer.status.as_u16(), said });
        }
        serde_json::from_slice(&answer.body).map_err(|error| AskError::Nonsense(error.to_string()))
    }

    /// A page with any status.
    ///
    /// # Errors
    /// See [`AskError`]; an answer with any status is none.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, AskError> {
        let asked = async {
            // It may have been closed meanwhile, and then a new one is needed.
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            if let Some(mut connection) = idle
                && let Ok(answer) = connection.get(path).await
            {
                self.keep(connection);
                return Ok(answer);
            }
            let mut connection = self.connect().await?;
            let answer = connection.get(path).await?;
            self.keep(connection);
            Ok(answer)
        };
        timeout(self.limit, asked).await.unwrap_or(Err(AskError::Late(self.limit)))
    }

    /// A page that goes on and on; the limit is for its begin.
    ///
    /// # Errors
    /// See [`AskError`]; a status that is not 200 is one.
    pub(super) async fn stream(&self, path: &str) -> Result<Stream, AskError> {
        let begun = async {
            let mut connection = self.connect().await?;
            let response = connection.send(path).await?;
            let status = response.status().as_u16();
            match response.status() {
                StatusCode::OK => {
                    Ok(Stream { body: response.into_body(), _connection: connection })
                }
                _ => Err(AskError::Refused { status, said: path.to_owned() }),
            }
        };
        timeout(self.limit, begun).await.unwrap_or(Err(AskError::Late(self.limit)))
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_IDLE {
            idle.push(connection);
        }
    }

    async fn connect(&self) -> Result<Connection, AskError> {
        match &self.way {
            Way::Address(address) => {
                let stream = TcpStream::connect(address).await;
                let stream = stream.map_err(|error| AskError::Unreachable(error.to_string()))?;
                Connection::over(stream, address.to_string(), None).await
            }
            Way::Pod { pods, name } => {
                let unreachable = |why: String| AskError::Unreachable(why);
                let forwarded = pods.portforward(name, &[DEBUG_PORT]).await;
                let mut forwarder = forwarded.map_err(|error| unreachable(with_causes(&error)))?;
                let stream = forwarder.take_stream(DEBUG_PORT);
                let stream = stream.ok_or_else(|| unreachable("no stream".to_owned()))?;
                // The guard of the debug pages wants this machine's name.
                let host = format!("localhost:{DEBUG_PORT}");
                Connection::over(stream, host, Some(Forwarder(forwarder))).await
            }
        }
    }
}

/// The pieces of a body, as they come.
pub(super) struct Stream {
    body: Incoming,
    _connection: Connection,
}

impl Stream {
    /// The next piece; none at its end, and an error after [`STREAM_SILENCE`] without one.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, AskError> {
        loop {
            let frame = timeout(STREAM_SILENCE, self.body.frame()).await;
            match frame.map_err(|_| AskError::Late(STREAM_SILENCE))? {
                None => return Ok(None),
                Some(Err(error)) => return Err(http(error)),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        return Ok(Some(bytes));
                    }
                }
            }
        }
    }
}

/// Ends with its connection: by itself it would wait for the pod's end of it.
struct Forwarder(Portforwarder);

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.0.abort();
    }
}

type ForwardReason = Pin<Box<dyn Future<Output = Option<String>> + Send>>;

struct Connection {
    sender: SendRequest<Empty<Bytes>>,
    host: String,
    /// What the API server says when it can forward no longer.
    forward_reason: Option<ForwardReason>,
    /// Ends with what went wrong on the connection.
    driver: AbortOnDropHandle<Option<hyper::Error>>,
}

impl Connection {
    async fn over(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        host: String,
        mut forwarder: Option<Forwarder>,
    ) -> Result<Self, AskError> {
        let forward_reason = forwarder.as_mut().and_then(|forwarder| {
            let reason = forwarder.0.take_error(DEBUG_PORT)?;
            Some(Box::pin(reason) as ForwardReason)
        });
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(http)?;
        let driver = tokio::spawn(async move {
            let ended = connection.await;
            drop(forwarder);
            ended.err()
        });
        Ok(Self { sender, host, forward_reason, driver: AbortOnDropHandle::new(driver) })
    }

    async fn get(&mut self, path: &str) -> Result<Answer, AskError> {
        let response = self.send(path).await?;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| match error.is::<LengthLimitError>() {
            true => AskError::TooLong,
            false => AskError::Unreachable(with_causes(&*error)),
        })?;
        Ok(Answer { status, body: body.to_bytes() })
    }

    async fn send(&mut self, path: &str) -> Result<Response<Incoming>, AskError> {
        let request = Request::get(path).header(header::HOST, &self.host).body(Empty::new());
        let request = request.map_err(|error| AskError::Nonsense(error.to_string()))?;
        let sent = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        match sent.await {
            Ok(response) => Ok(response),
            Err(error) => Err(self.reason(error).await),
        }
    }

    /// Why the connection has ended: the API server's words, else what its task has seen, else `error`,
    /// which may be no more than that it has ended.
    async fn reason(&mut self, error: hyper::Error) -> AskError {
        if let Some(reason) = &mut self.forward_reason
            && let Ok(Some(reason)) = timeout(REASON, reason).await
        {
            return AskError::Unreachable(reason.trim().to_owned());
        }
        match timeout(REASON, &mut self.driver).await {
            Ok(Ok(Some(seen))) => http(seen),
            _ if error.is_closed() || error.is_canceled() => {
                AskError::Unreachable("it has ended the connection".to_owned())
            }
            _ => http(error),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn http(error: hyper::Error) -> AskError {
    match error.is_parse() {
        true => AskError::Nonsense(with_causes(&error)),
        false => AskError::Unreachable(with_causes(&error)),
    }
}

/// A value of a query, or a part of a path.
pub(super) fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
}

/// `path` with the parameters that have a value.
pub(super) fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut whole = path.to_owned();
    let given = parameters.iter().filter(|(_, value)| !value.is_empty());
    for (number, (name, value)) in given.enumerate() {
        let mark = if number == 0 { '?' } else { '&' };
        whole.push_str(&format!("{mark}{name}={}", encoded(value)));
    }
    whole
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_values_stay_values() {
        let path = with_query(
            "/debug/proxies",
            &[("search", "a b&limit=1#\n/ü"), ("state", ""), ("x", "1")],
        );
        assert_eq!(path, "/debug/proxies?search=a%20b%26limit%3D1%23%0A%2F%C3%BC&x=1");
    }
}
