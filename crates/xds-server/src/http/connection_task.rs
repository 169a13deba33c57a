//! The task of one TCP connection: it moves bytes between the socket, HTTP/2 and the streams.
//!
//! One task does everything on a connection: a push is one wake-up and one write, an ACK one wake-up and
//! one read. Buffers belong to the thread; a connection holds one only while the socket does not accept
//! all that is to be written.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pilothouse_http2::{
    self as http2, COPY_LIMIT, ConnectionError, ErrorCode, Event, MAX_IO_SLICES, OtherProtocol,
    WriteBatch,
};
use tokio::net::TcpStream;
use tokio::task::{coop, yield_now};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, info};

use crate::admission::memory_account::Charge;
use crate::admission::rate_limiter::RateLimiter;
use crate::admission::work_meter::response_units;
use crate::grpc::not_grpc;
use crate::grpc::service::AdsService;
use crate::http::connection_handle::ConnectionHandle;
use crate::http::http_stream::{HttpStream, StreamState};
use crate::http::transport::{ReadBuffers, Transport};
use crate::listener::ServedPort;
use crate::mesh::Mesh;
use crate::tls::handshake::{Accepted, accept};

/// Bytes of one read.
const READ_BYTES: usize = 64 << 10;

/// Bytes gathered for one write, a frame more or less.
const WRITE_BYTES: usize = 256 << 10;

/// Streams that one connection may open a second, averaged over ten seconds: a proxy opens one and
/// keeps it. Opening a stream is the most expensive thing that a peer can ask for (rapid reset,
/// CVE-2023-44487).
const STREAMS_PER_SECOND: u32 = 100;

/// How long a peer may take to read the last frames (which say why the connection ends) and to close
/// its side.
const LINGER: Duration = Duration::from_secs(1);

/// Per-thread scratch buffers, shared by all connections that the thread polls.
struct Scratch {
    read: ReadBuffers,
    batch: WriteBatch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { read: ReadBuffers::new(READ_BYTES), batch: WriteBatch::default() });
}

/// Serves a connection until the peer closes it or its handle does; to be spawned as a task of its own,
/// whose waker stays the same. A quiet peer is sent a PING every `keepalive`, and is dropped if nothing
/// comes within a third of that. On a port with TLS the handshake comes first.
pub(crate) async fn serve_connection<M: Mesh>(
    socket: TcpStream,
    port: Arc<ServedPort>,
    mut service: AdsService<M>,
    keepalive: Duration,
) {
    let address = service.peer.address;
    if let Err(error) = socket.set_nodelay(true) {
        debug!(peer = %address, %error, "TCP_NODELAY");
    }
    let transport = match &port.tls {
        None => Transport::Plaintext(socket),
        Some(tls) => {
            // Not part of this task for as long as the connection lasts.
            match Box::pin(accept(socket, &service.peer, tls, &port)).await {
                None => return,
                Some(Accepted::Tls { transport, certificate }) => {
                    service.peer.encrypted = true;
                    service.peer.certificate = certificate;
                    Transport::Tls(transport)
                }
                Some(Accepted::Refused { socket, reason }) => {
                    service.refusal = Some(reason);
                    Transport::Plaintext(socket)
                }
            }
        }
    };
    run_connection(transport, port, service, keepalive, address).await;
}

async fn run_connection<M: Mesh>(
    transport: Transport,
    port: Arc<ServedPort>,
    service: AdsService<M>,
    keepalive: Duration,
    peer: SocketAddr,
) {
    let mut task = ConnectionTask {
        transport,
        port,
        http2: http2::Connection::new(),
        // Nearly always one.
        streams: Vec::with_capacity(1),
        unsent: VecDeque::new(),
        handle: service.peer.handle.clone(),
        memory: service.peer.account.new_charge(),
        service,
        new_streams: RateLimiter::new(STREAMS_PER_SECOND),
        keepalive,
        last_read: Instant::now(),
        ping_sent: false,
        keepalive_timer: Box::pin(sleep(keepalive)),
        timer_armed: false,
        failure: None,
    };
    // Broken connections are normal; each stream logs its own end.
    match poll_fn(|context| task.poll(context)).await {
        Ok(()) => task.linger_close().await,
        Err(error) if task.ping_sent && error.kind() == io::ErrorKind::TimedOut => {
            let (limit, setting) = (keepalive / 3, M::TEXTS.keepalive);
            info!(%peer, "dropped: no answer to a ping within {limit:?} ({setting})");
        }
        Err(error) => debug!(%peer, %error, "connection broken"),
    }
    if let Some(failure) = task.failure {
        debug!(%peer, code = ?failure.code, "connection ended: {failure}");
    }
}

struct ConnectionTask<M: Mesh> {
    transport: Transport,
    port: Arc<ServedPort>,
    http2: http2::Connection,
    /// The open streams.
    streams: Vec<HttpStream>,
    /// Bytes that the socket did not accept yet.
    unsent: VecDeque<Bytes>,
    service: AdsService<M>,
    handle: Arc<ConnectionHandle>,
    /// The memory of the connection, without that of its streams.
    memory: Charge,
    new_streams: RateLimiter,
    keepalive: Duration,
    /// When bytes were last read, and whether a PING was sent since.
    last_read: Instant,
    ping_sent: bool,
    keepalive_timer: Pin<Box<Sleep>>,
    timer_armed: bool,
    /// The peer's error that ends the connection.
    failure: Option<ConnectionError>,
}

impl<M: Mesh> ConnectionTask<M> {
    /// Ready when the connection has ended and everything was written.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.handle.set_waker(context.waker());
        self.handle.work.begin_slice();
        if self.handle.is_evicted() && self.failure.is_none() {
            self.streams.clear();
            self.memory.set(0);
            if !self.unsent.is_empty() || !self.transport.is_flushed() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let failure = ConnectionError::new(
                ErrorCode::EnhanceYourCalm,
                "this connection holds too much memory",
            );
            self.http2.send_goaway(&failure);
            self.failure = Some(failure);
        }
        if self.handle.is_aborted() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.handle.is_closing() {
            self.http2.begin_graceful_shutdown();
        }
        let (mut readable, mut due) = (true, true);
        while readable || due {
            let flooded = self.http2.is_flooded();
            readable = readable && !flooded && self.read(context)?;
            if readable || due {
                self.poll_streams(context);
            }
            due = self.write(context)?;
            if self.is_over() && self.unsent.is_empty() && self.transport.is_flushed() {
                return Poll::Ready(Ok(()));
            }
            readable |= flooded && !self.http2.is_flooded();
            if self.handle.work.is_slice_over() {
                // Other tasks and sockets come first; this task is polled again after them.
                let _ = pin!(yield_now()).poll(context);
                break;
            }
        }
        self.handle.set_has_streams(!self.streams.is_empty());
        self.poll_keepalive(context)
    }

    fn is_over(&self) -> bool {
        self.failure.is_some() || self.handle.is_closing() && self.streams.is_empty()
    }

    /// Reads once. Returns whether there may be more to read.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if self.failure.is_some() {
            return Ok(false);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let Poll::Ready(received) = self.transport.poll_read(context, &mut scratch.read)?
            else {
                return Ok(false);
            };
            (self.last_read, self.ping_sent) = (Instant::now(), false);
            if received.records > 0 {
                // A peer may send records with nothing in them as fast as it can.
                let units = received.records + response_units(received.bytes.len());
                self.handle.work.charge(units, self.last_read);
            }
            if let Err(failure) = self.receive(received.bytes) {
                let other = self.http2.other_protocol();
                if other == Some(OtherProtocol::Tls) {
                    self.port.note_wrong_protocol(self.service.peer.address, "TLS");
                }
                match other.and_then(|other| not_grpc::raw_reply(other, M::TEXTS.other_ports)) {
                    Some(reply) => *self.http2.pending_frames() = reply,
                    None => self.http2.send_goaway(&failure),
                }
                self.failure = Some(failure);
                self.streams.clear();
            }
            Ok(true)
        })
    }

    fn receive(&mut self, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        while let Some(event) = self.http2.receive(&mut bytes)? {
            match event {
                Event::Request { stream_id, request, end_stream } => {
                    self.count_new_stream()?;
                    let mut new_stream = self.service.start_call(stream_id, *request);
                    if end_stream {
                        new_stream.end_request();
                    }
                    self.streams.push(new_stream);
                }
                Event::Data { stream_id, data, end_stream } => {
                    let Some(at) = self.position(stream_id) else { continue };
                    if !self.streams[at].receive_data(&data) {
                        self.http2.reset_stream(stream_id, ErrorCode::EnhanceYourCalm);
                        self.streams.swap_remove(at);
                    } else if end_stream {
                        self.streams[at].end_request();
                    }
                }
                Event::RequestRejected { .. } => self.count_new_stream()?,
                Event::StreamReset { stream_id } => {
                    if let Some(at) = self.position(stream_id) {
                        self.streams.swap_remove(at);
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts a stream that the peer opens, or tries to open.
    fn count_new_stream(&mut self) -> Result<(), ConnectionError> {
        if self.new_streams.allow_request(self.last_read) {
            return Ok(());
        }
        Err(ConnectionError::new(ErrorCode::EnhanceYourCalm, "too many streams in a short time"))
    }

    fn position(&self, stream: u32) -> Option<usize> {
        self.streams.iter().position(|open| open.id == stream)
    }

    /// Polls the response of every stream that has no piece left to send.
    fn poll_streams(&mut self, context: &mut Context<'_>) {
        let http2 = &mut self.http2;
        let (mut buffered, mut oldest) = (0, None);
        self.streams.retain_mut(|stream| {
            let state = stream.poll(http2, context);
            let body = stream.body_state();
            http2.release_capacity(stream.id, body.released);
            buffered += body.buffered;
            oldest = oldest.into_iter().chain(body.message_begun).min();
            state == StreamState::Open
        });
        // Longer parts are shared with other connections.
        let unsent: usize = self.unsent.iter().map(|part| part.len().min(COPY_LIMIT)).sum();
        let encrypted = self.transport.held();
        self.memory.set(buffered + unsent + encrypted + http2.pending_frames().capacity());
        self.handle.set_message_begun(oldest.map(Instant::into_std));
    }

    /// Writes until the socket accepts no more. Returns whether a stream has finished a piece and may
    /// have another.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut piece_finished = false;
        loop {
            if !self.transport.is_flushed() {
                let flushed = self.transport.poll_flush_some(context);
                let Poll::Ready(()) = self.handle.record_write(flushed)? else {
                    return Ok(piece_finished);
                };
                continue;
            }
            if !self.unsent.is_empty() {
                let mut into = [IoSlice::new(&[]); MAX_IO_SLICES];
                let slices =
                    http2::fill_io_slices(self.unsent.iter().map(|bytes| &**bytes), &mut into);
                let written =
                    self.handle.record_write(self.transport.poll_write(context, slices))?;
                let Poll::Ready(written) = written else { return Ok(piece_finished) };
                http2::advance_unsent(&mut self.unsent, written);
                continue;
            }
            let written = SCRATCH.with_borrow_mut(|scratch| {
                piece_finished |= self.gather_frames(&mut scratch.batch);
                if scratch.batch.is_empty() {
                    return Ok(false);
                }
                let mut into = [IoSlice::new(&[]); MAX_IO_SLICES];
                let slices = http2::fill_io_slices(scratch.batch.parts(), &mut into);
                let written = self.transport.poll_write(context, slices);
                let written = match self.handle.record_write(written)? {
                    Poll::Ready(written) => written,
                    Poll::Pending => 0,
                };
                if written < scratch.batch.len() {
                    self.unsent = scratch.batch.unsent(written);
                }
                // Drops the last reference to frames that no other stream needs.
                scratch.batch.clear();
                io::Result::Ok(true)
            })?;
            if !written {
                return Ok(piece_finished);
            }
        }
    }

    /// Gathers frames for the next write. Returns whether a stream has finished a piece.
    fn gather_frames(&mut self, batch: &mut WriteBatch) -> bool {
        // A failed write may have left frames of another connection in the batch.
        batch.clear();
        let pending = self.http2.pending_frames();
        if !pending.is_empty() {
            batch.push(pending);
            *pending = Vec::new();
        }
        let mut piece_finished = false;
        for stream in &mut self.streams {
            piece_finished |= stream.add_frames(&mut self.http2, batch, WRITE_BYTES);
        }
        if self.streams.len() > 1 {
            // Round robin: all streams share the connection's window.
            self.streams.rotate_left(1);
        }
        piece_finished
    }

    /// Sends a PING to a peer that has been quiet, and gives up on one that did not answer.
    fn poll_keepalive(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Bytes that came were read before this, so a server that was too busy to read in time does not
        // blame its peer. The timer wakes the same task however often that is polled, so it is not polled
        // until it has elapsed.
        if self.timer_armed && !self.keepalive_timer.is_elapsed() {
            return Poll::Pending;
        }
        let now = Instant::now();
        // Without a budget the timer is not registered, and this task is polled again.
        self.timer_armed = coop::has_budget_remaining();
        while self.keepalive_timer.as_mut().poll(context).is_ready() {
            let due = self.last_read + self.keepalive;
            let next = if now < due {
                due
            } else if self.ping_sent {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            } else {
                self.ping_sent = true;
                self.http2.send_ping();
                context.waker().wake_by_ref();
                now + self.keepalive / 3
            };
            self.keepalive_timer.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Closes our side and waits until the peer closes its own, for [`LINGER`] at most: closing a socket
    /// with unread bytes resets the connection, and the peer would lose the last frames.
    async fn linger_close(&mut self) {
        let closed = async {
            poll_fn(|context| self.transport.poll_close(context)).await?;
            let discard = |context: &mut Context<'_>| {
                SCRATCH.with_borrow_mut(|scratch| {
                    self.transport.poll_discard(context, &mut scratch.read)
                })
            };
            let mut discard = discard;
            while !poll_fn(&mut discard).await? {}
            io::Result::Ok(())
        };
        let _ = timeout(LINGER, closed).await;
    }
}
