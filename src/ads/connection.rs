//! One TCP connection: HTTP/2 by hyper, and the means to look after it from outside.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::task::AtomicWaker;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tracing::debug;

use super::service::Service;

const OPEN: u8 = 0;
const ENDING: u8 = 1;
const CUT: u8 = 2;

/// Looks after a connection that may be waiting for its peer.
#[derive(Debug)]
pub(super) struct Control {
    state: AtomicU8,
    waker: AtomicWaker,
    opened: Instant,
    /// Milliseconds after `opened` since when the socket takes nothing, plus one; 0 if it does.
    full_since: AtomicU64,
}

impl Control {
    pub(super) fn new() -> Self {
        Self {
            state: AtomicU8::new(OPEN),
            waker: AtomicWaker::new(),
            opened: Instant::now(),
            full_since: AtomicU64::new(0),
        }
    }

    /// How long the socket has been taking nothing.
    pub(super) fn full_for(&self) -> Duration {
        match self.full_since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => Duration::from_millis((self.millis() + 1).saturating_sub(since)),
        }
    }

    fn millis(&self) -> u64 {
        self.opened.elapsed().as_millis() as u64
    }

    fn wrote<T>(&self, result: Poll<T>) -> Poll<T> {
        match (&result, self.full_since.load(Ordering::Relaxed)) {
            (Poll::Pending, 0) => self.full_since.store(self.millis() + 1, Ordering::Relaxed),
            (Poll::Ready(_), 1..) => self.full_since.store(0, Ordering::Relaxed),
            _ => {}
        }
        result
    }

    /// No further streams; it closes when those that are open have ended.
    pub(super) fn end(&self) {
        let _ = self.state.compare_exchange(OPEN, ENDING, Ordering::AcqRel, Ordering::Acquire);
        self.waker.wake();
    }

    /// Drops the connection with everything on it.
    pub(super) fn cut(&self) {
        self.state.store(CUT, Ordering::Release);
        self.waker.wake();
    }
}

/// How HTTP/2 is spoken. A quiet peer is asked every `keepalive` whether it is there, and dropped
/// if it does not answer within a third of that.
pub(super) fn http2(keepalive: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(keepalive)
        .keep_alive_timeout(keepalive / 3);
    builder
}

/// Serves until the peer goes, or the connection is ended.
pub(super) async fn serve(
    http2: Builder<TokioExecutor>,
    socket: TcpStream,
    peer: SocketAddr,
    service: Service,
    control: Arc<Control>,
) {
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%peer, %error, "TCP_NODELAY");
    }
    let socket = TokioIo::new(Socket { socket, control: control.clone() });
    let mut connection = pin!(http2.serve_connection(socket, service));
    let mut told = false;
    let ended = poll_fn(|context| {
        control.waker.register(context.waker());
        match control.state.load(Ordering::Acquire) {
            CUT => return Poll::Ready(Ok(())),
            ENDING if !told => {
                told = true;
                connection.as_mut().graceful_shutdown();
            }
            _ => {}
        }
        connection.as_mut().poll(context)
    });
    if let Err(error) = ended.await {
        // Broken connections are everyday life; streams say what they lost by it.
        debug!(%peer, %error, "connection ended");
    }
}

/// Notes when the peer stops reading.
struct Socket {
    socket: TcpStream,
    control: Arc<Control>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_read(context, into)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.control.wrote(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.control.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}
