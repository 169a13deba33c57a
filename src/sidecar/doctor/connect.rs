//! TCP, HTTP/2 and gRPC to the control plane, each by itself so that the broken one shows.

use std::error::Error as StdError;
use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http2::{self, SendRequest};
use hyper::rt::Executor as _;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::body::Body;

use crate::causes::with_causes;

/// RFC 9113, section 3.4: the preface, and an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const FRAME_HEADER: usize = 9;
const SETTINGS: u8 = 4;
/// TLS' type of record.
const HANDSHAKE: u8 = 0x16;

/// Why there is no connection.
#[derive(Debug)]
pub(super) enum ConnectError {
    Refused,
    /// The network says that nobody has the address, or that there is no way to it.
    Unreachable(String),
    /// Nothing came back.
    Timeout,
}

/// Connects; `Timeout` if nothing comes back within `limit`.
pub(super) async fn tcp(address: SocketAddr, limit: Duration) -> Result<TcpStream, ConnectError> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) if error.kind() == ErrorKind::ConnectionRefused => {
            Err(ConnectError::Refused)
        }
        Ok(Err(error)) => Err(ConnectError::Unreachable(error.to_string())),
        // The kernel asks its neighbours for three seconds before it gives up, but knows at once
        // that it has no answer.
        Err(_) if nobody_answers_for(address.ip()) => {
            Err(ConnectError::Unreachable("no machine on this network has it (ARP)".to_owned()))
        }
        Err(_) => Err(ConnectError::Timeout),
    }
}

/// Whether the kernel asked for the address' owner in vain.
fn nobody_answers_for(address: IpAddr) -> bool {
    let table = std::fs::read_to_string("/proc/net/arp").unwrap_or_default();
    let address = address.to_string();
    // IP address, HW type, Flags (0x2: complete), HW address, Mask, Device
    table.lines().skip(1).any(|line| {
        let mut words = line.split_whitespace();
        words.next() == Some(&address) && words.nth(1) == Some("0x0")
    })
}

/// What a port speaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    Http2,
    Http1,
    Tls,
    /// It takes connections and says nothing.
    Silent,
    Other(String),
}

impl Protocol {
    pub(super) fn from_bytes(bytes: &[u8]) -> Self {
        match bytes {
            [_, _, _, SETTINGS, _, 0, 0, 0, 0, ..] => Self::Http2,
            [b'H', b'T', b'T', b'P', ..] => Self::Http1,
            // A handshake record or an alert, of any version.
            [0x15 | 0x16, 3, ..] => Self::Tls,
            [] => Self::Other("it closes the connection without a word".to_owned()),
            other => Self::Other(format!("its first words are {:?}", printable(other))),
        }
    }
}

pub(super) fn printable(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).chars().take(40).collect()
}

/// Finds out what is spoken there, beginning with HTTP/2 on a connection that is there already.
pub(super) async fn detect_protocol(
    stream: TcpStream,
    address: SocketAddr,
    limit: Duration,
) -> Protocol {
    let first = first_response(stream, PREFACE, limit).await;
    let Some(Protocol::Other(first)) = first else { return first.unwrap_or(Protocol::Silent) };
    // Servers that were spoken to in the wrong tongue may just hang up: try the others.
    let greetings = [client_hello(address.ip()), b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec()];
    for greeting in greetings {
        if let Ok(stream) = tcp(address, limit).await
            && let Some(found @ (Protocol::Tls | Protocol::Http1)) =
                first_response(stream, &greeting, limit).await
        {
            return found;
        }
    }
    Protocol::Other(first)
}

/// Whether TLS is spoken there: a handshake begins. An alert is no sign of it, since plaintext ports say by
/// one that they speak no TLS.
pub(super) async fn speaks_tls(address: SocketAddr, limit: Duration) -> bool {
    let Ok(stream) = tcp(address, limit).await else { return false };
    let heard = timeout(limit, exchange(stream, &client_hello(address.ip()))).await;
    heard.is_ok_and(|(heard, _)| heard.first() == Some(&HANDSHAKE))
}

/// Whether HTTP/2 is spoken there without TLS.
pub(super) async fn speaks_http2(address: SocketAddr, limit: Duration) -> bool {
    let Ok(stream) = tcp(address, limit).await else { return false };
    first_response(stream, PREFACE, limit).await == Some(Protocol::Http2)
}

/// What comes back first; `None` for silence.
async fn first_response(stream: TcpStream, greeting: &[u8], limit: Duration) -> Option<Protocol> {
    let heard = timeout(limit, exchange(stream, greeting)).await.ok()?;
    Some(Protocol::from_bytes(&heard.0))
}

/// What comes back first to the preface of HTTP/2, over whatever connection.
///
/// # Errors
/// The connection failed before enough was there.
pub(super) async fn exchange_preface(
    stream: impl AsyncRead + AsyncWrite + Unpin,
) -> std::io::Result<Vec<u8>> {
    match exchange(stream, PREFACE).await {
        (_, Some(error)) => Err(error),
        (heard, None) => Ok(heard),
    }
}

/// The first bytes, and what kept more from coming.
async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    greeting: &[u8],
) -> (Vec<u8>, Option<std::io::Error>) {
    let mut heard = Vec::with_capacity(64);
    let spoken = async {
        stream.write_all(greeting).await?;
        stream.flush().await
    };
    let failed = spoken.await.err();
    // Even where nothing could be written there may be something to be read: why.
    while heard.len() < FRAME_HEADER {
        match stream.read_buf(&mut heard).await {
            Ok(0) => return (heard, failed),
            Ok(_) => {}
            Err(error) => return (heard, Some(error)),
        }
    }
    (heard, None)
}

/// A TLS ClientHello. Nothing is sent after it, so that no certificate is looked at.
fn client_hello(to: IpAddr) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let made = || -> Result<Vec<u8>, Box<dyn std::error::Error>> {
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::IpAddress(to.into());
        let mut bytes = Vec::new();
        rustls::ClientConnection::new(Arc::new(config), name)?.write_tls(&mut bytes)?;
        Ok(bytes)
    };
    made().unwrap_or_default()
}

/// Runs what hyper leaves to be run, until the connection is let go of.
#[derive(Clone)]
struct ConnectionTasks(CancellationToken);

impl<F> hyper::rt::Executor<F> for ConnectionTasks
where
    F: Future<Output: Send> + Send + 'static,
{
    fn execute(&self, work: F) {
        tokio::spawn(self.0.clone().run_until_cancelled_owned(work));
    }
}

/// An HTTP/2 connection; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) sender: SendRequest<Body>,
    pub(super) origin: http::Uri,
    _tasks: DropGuard,
}

impl Connection {
    /// In plaintext.
    pub(super) async fn open(address: SocketAddr) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        Self::over(TcpStream::connect(address).await?, "http", address).await
    }

    /// Over a connection that is there, to `address`.
    pub(super) async fn over(
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        scheme: &str,
        address: SocketAddr,
    ) -> Result<Self, Box<dyn StdError + Send + Sync>> {
        let tasks = ConnectionTasks(CancellationToken::new());
        let guard = tasks.0.clone().drop_guard();
        let mut builder = http2::Builder::new(tasks.clone());
        // A whole mesh comes in one response.
        builder.initial_stream_window_size(16 << 20).initial_connection_window_size(16 << 20);
        let (sender, connection) = builder.handshake(TokioIo::new(stream)).await?;
        tasks.execute(connection);
        let origin = http::Uri::builder().scheme(scheme).authority(address.to_string());
        Ok(Self { sender, origin: origin.path_and_query("/").build()?, _tasks: guard })
    }

    /// Asks for the health service: any gRPC server answers in gRPC, be it that it has none.
    ///
    /// # Errors
    /// With what it answers instead.
    pub(super) async fn speaks_grpc(&mut self) -> Result<(), String> {
        let request = http::Request::post(format!("{}grpc.health.v1.Health/Check", self.origin))
            .header(http::header::CONTENT_TYPE, "application/grpc")
            .header(http::header::TE, "trailers")
            // An empty message: not compressed, no bytes.
            .body(Body::new(Full::new(Bytes::from_static(&[0; 5]))))
            .map_err(|error| error.to_string())?;
        let answer =
            self.sender.send_request(request).await.map_err(|error| with_causes(&error))?;
        let kind = answer.headers().get(http::header::CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or("no content-type");
        match kind.starts_with("application/grpc") {
            true => Ok(()),
            false => Err(format!("HTTP {} with {kind}", answer.status().as_u16())),
        }
    }
}
