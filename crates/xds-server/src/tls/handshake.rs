//! The handshake of one connection, in the connection's own task.
//!
//! What speaks no TLS is answered before it costs anything. Everything else is polled in turns (`turns`), and
//! ends by [`HANDSHAKE_TIMEOUT`]. A peer that is refused gets the alert that says why.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, SystemTime};

use pilothouse_http2::OtherProtocol;
use rustls::server::Acceptor;
use rustls::{AlertDescription, CertificateError, Error, HandshakeKind, ServerConnection};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::yield_now;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tracing::{debug, info};

use super::certificate::read_certificate;
use super::turns::BegunHandshake;
use super::{H2, HandshakeResult, TlsAcceptor};
use crate::grpc::not_grpc;
use crate::http::connection_handle::ConnectionHandle;
use crate::http::transport::TlsTransport;
use crate::listener::ServedPort;
use crate::peer::PeerCertificate;
use crate::server::FIRST_STREAM_TIMEOUT;
use crate::stream::Peer;

/// How long a handshake may take, waiting for turns included.
const HANDSHAKE_TIMEOUT: Duration = FIRST_STREAM_TIMEOUT;

/// What is charged for a handshake that is begun, bytes: what rustls holds until it is done, about.
const HANDSHAKE_BYTES: usize = 16 << 10;

/// How long a peer may take to read why it is refused, and to close its side.
const LINGER: Duration = Duration::from_secs(1);

/// Bytes that are looked at to tell what a peer speaks.
const PEEKED_BYTES: usize = 24;

/// A connection that is served.
pub(crate) enum Accepted {
    /// After its handshake.
    Tls { transport: Box<TlsTransport>, certificate: Option<Arc<PeerCertificate>> },
    /// It is HTTP/2 without TLS: every call is answered by the reason.
    Refused { socket: TcpStream, reason: String },
}

/// Why there was none.
struct Refused {
    result: HandshakeResult,
    reason: String,
}

impl Refused {
    fn new(result: HandshakeResult, reason: impl ToString) -> Self {
        Self { result, reason: reason.to_string() }
    }
}

/// Does the handshake. `None` if there is no connection after it; the peer was told why if it listens.
pub(crate) async fn accept(
    socket: TcpStream,
    peer: &Peer,
    acceptor: &TlsAcceptor,
    port: &ServedPort,
) -> Option<Accepted> {
    let handle = &peer.handle;
    let outcome = {
        let mut handshake =
            pin!(timeout(HANDSHAKE_TIMEOUT, handshake(socket, peer, acceptor, port)));
        poll_fn(|context| {
            handle.set_waker(context.waker());
            if handle.is_closing() {
                return Poll::Ready(Err(dropped(handle)));
            }
            handshake.as_mut().poll(context).map(|done| match done {
                Ok(done) => done,
                Err(_) => Err(timed_out()),
            })
        })
        .await
    };
    let address = peer.address;
    match outcome {
        Ok((accepted, result)) => {
            acceptor.ended(result);
            handle.restart_idle();
            Some(accepted)
        }
        Err(Refused { result, reason }) => {
            acceptor.ended(result);
            match result {
                // Load balancers and probes do that, and floods.
                HandshakeResult::Closed | HandshakeResult::Dropped | HandshakeResult::Timeout => {
                    debug!(peer = %address, %reason, "TLS handshake broke off");
                }
                HandshakeResult::Plaintext => port.note_wrong_protocol(address, "plaintext"),
                _ => info!(peer = %address, %reason, "TLS handshake refused"),
            }
            None
        }
    }
}

fn timed_out() -> Refused {
    let seconds = HANDSHAKE_TIMEOUT.as_secs();
    Refused::new(HandshakeResult::Timeout, format!("not done within {seconds} s"))
}

/// The connection was aborted from outside: as one without a stream for too long, or for another.
fn dropped(handle: &ConnectionHandle) -> Refused {
    if handle.age() >= HANDSHAKE_TIMEOUT {
        return timed_out();
    }
    Refused::new(HandshakeResult::Dropped, "ended by the server: it makes room, or ends")
}

async fn handshake(
    socket: TcpStream,
    peer: &Peer,
    acceptor: &TlsAcceptor,
    port: &ServedPort,
) -> Result<(Accepted, HandshakeResult), Refused> {
    let mut first = [0; PEEKED_BYTES];
    let peeked = socket.peek(&mut first).await.map_err(broken)?;
    match first[..peeked] {
        [] => return Err(Refused::new(HandshakeResult::Closed, "closed without a byte")),
        // A record of a handshake (RFC 8446, section 5.1).
        [22, ..] => {}
        [b'P', b'R', b'I', ..] => {
            port.note_wrong_protocol(peer.address, "plaintext");
            let accepted = Accepted::Refused { socket, reason: no_tls(port) };
            return Ok((accepted, HandshakeResult::Plaintext));
        }
        ref other => return Err(answer_plaintext(socket, other, port).await),
    }
    let memory = peer.account.new_charge();
    let mut begun: Option<BegunHandshake> = None;
    let address = peer.address.ip().to_canonical();
    let (socket, session) = {
        let mut steps = pin!(tls_handshake(socket, acceptor));
        loop {
            let turn = acceptor.turns.acquire(address, begun.is_some()).await;
            if begun.is_none() {
                let handle = Arc::downgrade(&peer.handle);
                let end = move || _ = handle.upgrade().inspect(|handle| handle.abort());
                begun = Some(acceptor.turns.begin(address, end).ok_or_else(|| {
                    Refused::new(HandshakeResult::Dropped, "too many handshakes")
                })?);
                memory.set(HANDSHAKE_BYTES);
            }
            let mut step = poll_fn(|context| Poll::Ready(steps.as_mut().poll(context))).await;
            // The next turn begins after the runtime has looked at its sockets. As long as tasks are ready it
            // does so after a thousand of them only (`event_interval`), and these are long ones: beside a
            // flood whoever connected waited for seconds.
            yield_now().await;
            if step.is_pending() {
                // What it waits for may have come in between, and this task was woken for that.
                step = poll_fn(|context| Poll::Ready(steps.as_mut().poll(context))).await;
            }
            drop(turn);
            match step {
                Poll::Ready(done) => break done?,
                Poll::Pending => next_wake().await,
            }
        }
    };
    let certificate = peer_certificate(&session)?;
    let result = match session.handshake_kind() {
        Some(HandshakeKind::Resumed) => HandshakeResult::Resumed,
        _ => HandshakeResult::Complete,
    };
    let transport = Box::new(TlsTransport::new(socket, session));
    Ok((Accepted::Tls { transport, certificate }, result))
}

/// Completes when the task is woken.
async fn next_wake() {
    let mut polled = false;
    poll_fn(|_| if std::mem::replace(&mut polled, true) { Poll::Ready(()) } else { Poll::Pending })
        .await;
}

/// The handshake itself. Each poll uses the processor for a fraction of a millisecond.
async fn tls_handshake(
    socket: TcpStream,
    acceptor: &TlsAcceptor,
) -> Result<(TcpStream, ServerConnection), Refused> {
    let mut acceptor_of_hello = LazyConfigAcceptor::new(Acceptor::default(), socket);
    let start = match Pin::new(&mut acceptor_of_hello).await {
        Ok(start) => start,
        Err(error) => {
            let alert = match tls_error(&error) {
                // For these rustls sends none.
                Some(
                    Error::InappropriateMessage { .. }
                    | Error::InappropriateHandshakeMessage { .. },
                ) => not_grpc::tls_alert(AlertDescription::UnexpectedMessage),
                _ => Vec::new(),
            };
            if let Some(mut socket) = acceptor_of_hello.take_io() {
                refuse(&mut socket, &alert).await;
            }
            return Err(refused(error));
        }
    };
    let offered = start.client_hello().alpn().is_some_and(|mut names| names.any(|name| name == H2));
    if !offered {
        let mut socket = start.io;
        refuse(&mut socket, &not_grpc::tls_alert(AlertDescription::NoApplicationProtocol)).await;
        let reason = "the client does not offer HTTP/2 (ALPN h2), which gRPC needs";
        return Err(Refused::new(HandshakeResult::NoHttp2, reason));
    }
    match start.into_stream(acceptor.config()).into_fallible().await {
        Ok(stream) => Ok(stream.into_inner()),
        Err((error, mut socket)) => {
            let refused = refused(error);
            // The alert is written; an unread byte would reset the connection before it is read.
            refuse(&mut socket, &[]).await;
            Err(refused)
        }
    }
}

/// What the peer has shown, if its certificate is still valid: a resumed session shows that of the first.
fn peer_certificate(session: &ServerConnection) -> Result<Option<Arc<PeerCertificate>>, Refused> {
    let Some([own, ..]) = session.peer_certificates() else { return Ok(None) };
    let refused = |reason: String| Refused::new(HandshakeResult::ClientCertificate, reason);
    let read = read_certificate(own)
        .map_err(|error| refused(format!("the client's certificate {error}")))?;
    if read.not_after <= SystemTime::now() {
        return Err(refused("the client's certificate has expired since its first session".into()));
    }
    Ok(Some(Arc::new(read)))
}

fn broken(error: io::Error) -> Refused {
    Refused::new(HandshakeResult::Closed, error)
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

/// Why a handshake failed, from what rustls says.
fn refused(error: io::Error) -> Refused {
    let Some(tls) = tls_error(&error) else { return broken(error) };
    match tls {
        Error::InvalidCertificate(reason) => {
            let mut text = format!("the client's certificate is refused: {reason}");
            if let CertificateError::UnknownIssuer = reason {
                text.push_str(" (not of the CA of --client-ca)");
            }
            Refused::new(HandshakeResult::ClientCertificate, text)
        }
        Error::AlertReceived(alert) => Refused::new(
            HandshakeResult::RefusedByPeer,
            format!("the client refuses it: {alert:?}; does it trust the CA of this certificate?"),
        ),
        other => Refused::new(HandshakeResult::Protocol, other),
    }
}

/// For a peer that speaks plaintext.
fn no_tls(port: &ServedPort) -> String {
    format!("This port speaks gRPC over TLS, and got no TLS. {}", port.hint)
}

/// Answers a peer that speaks neither TLS nor HTTP/2 so that it understands.
async fn answer_plaintext(mut socket: TcpStream, first: &[u8], port: &ServedPort) -> Refused {
    let (result, reply) = match OtherProtocol::detect(first) {
        OtherProtocol::Http1 => (HandshakeResult::Plaintext, not_grpc::bad_request(&no_tls(port))),
        _ => (HandshakeResult::Protocol, not_grpc::tls_alert(AlertDescription::DecodeError)),
    };
    refuse(&mut socket, &reply).await;
    Refused::new(result, "the peer speaks no TLS")
}

/// Writes the last bytes, and waits for a moment until the peer has closed its side, so that it can read
/// them.
async fn refuse(socket: &mut TcpStream, reply: &[u8]) {
    let end = async {
        socket.write_all(reply).await?;
        socket.shutdown().await?;
        let mut dropped = [0; 512];
        while socket.read(&mut dropped).await? > 0 {}
        io::Result::Ok(())
    };
    _ = timeout(LINGER, Box::pin(end) as Pin<Box<dyn Future<Output = _> + Send>>).await;
}
