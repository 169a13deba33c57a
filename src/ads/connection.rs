//! One TCP connection: bytes between the socket, HTTP/2 and the streams.
//!
//! One task for all that happens on a connection: a push is one wake-up, one write; an ACK is one
//! wake-up, one read. Buffers belong to the thread, and a connection holds one only while its peer
//! does not take what is written.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use pilothouse_http2::{
    self as http2, COPY_LIMIT, ConnectionError, ErrorCode, Event, MAX_IO_SLICES, WriteBatch,
};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio::task::{coop, yield_now};
use tokio::time::{Instant, Sleep, sleep, timeout};
use tracing::{debug, info};

use super::account::Charge;
use super::budget::Budget;
use super::control::Control;
use super::exchange::{Exchange, Polled};
use super::foreign;
use super::service::Service;

/// What is read at a time.
const READ: usize = 64 << 10;

/// What is gathered for one write, a frame more or less.
const WRITE: usize = 256 << 10;

/// Streams that one connection may open a second, averaged over ten seconds: a proxy opens one and
/// keeps it. Opening is the dearest thing that a peer can ask for (rapid reset, CVE-2023-44487).
const STREAMS_PER_SECOND: u32 = 100;

/// How long a peer that was told why the connection ends has to read that and close it.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Of a thread, for whichever connection it works on.
struct Scratch {
    read: Vec<u8>,
    batch: WriteBatch,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { read: vec![0; READ], batch: WriteBatch::default() });
}

/// Serves until the peer goes, or the connection is ended; to be spawned as a task by itself, whose
/// waker stays the same. A quiet peer is asked every `keepalive` whether it is there, and dropped
/// if nothing comes within a third of that.
pub(super) async fn serve(socket: TcpStream, service: Service, keepalive: Duration) {
    let peer = service.peer.address;
    if let Err(error) = socket.set_nodelay(true) {
        debug!(%peer, %error, "TCP_NODELAY");
    }
    let mut served = Served {
        socket,
        http2: http2::Connection::new(),
        // Nearly always one.
        exchanges: Vec::with_capacity(1),
        unsent: VecDeque::new(),
        control: service.peer.control.clone(),
        held: service.peer.account.charge(),
        service,
        new_streams: Budget::new(STREAMS_PER_SECOND),
        keepalive,
        heard: Instant::now(),
        asked: false,
        alarm: Box::pin(sleep(keepalive)),
        armed: false,
        failed: None,
    };
    // Broken connections are everyday life; streams say what they lost by it.
    match poll_fn(|context| served.poll(context)).await {
        Ok(()) => served.last_words().await,
        Err(error) if served.asked && error.kind() == io::ErrorKind::TimedOut => {
            info!(%peer, "dropped: no answer to a ping within {:?} (--keepalive)", keepalive / 3);
        }
        Err(error) => debug!(%peer, %error, "connection broken"),
    }
    if let Some(failure) = served.failed {
        debug!(%peer, code = ?failure.code, "connection ended: {failure}");
    }
}

struct Served {
    socket: TcpStream,
    http2: http2::Connection,
    /// One for each open stream.
    exchanges: Vec<Exchange>,
    /// What the socket did not take yet.
    unsent: VecDeque<Bytes>,
    service: Service,
    control: Arc<Control>,
    /// What the connection holds, but for its streams' own.
    held: Charge,
    new_streams: Budget,
    keepalive: Duration,
    /// When the peer was last heard of, and whether it was asked since.
    heard: Instant,
    asked: bool,
    alarm: Pin<Box<Sleep>>,
    armed: bool,
    /// Why the connection ends, if by the peer's fault.
    failed: Option<ConnectionError>,
}

impl Served {
    /// Done when everything has been said.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.control.wakes(context.waker());
        self.control.work.begin_stretch();
        if self.control.is_evicted() && self.failed.is_none() {
            self.exchanges.clear();
            self.held.set(0);
            if !self.unsent.is_empty() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            let failure = ConnectionError::new(
                ErrorCode::EnhanceYourCalm,
                "this connection holds too much memory",
            );
            self.http2.send_goaway(&failure);
            self.failed = Some(failure);
        }
        if self.control.is_cut() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.control.is_ending() {
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
            if self.is_over() && self.unsent.is_empty() {
                return Poll::Ready(Ok(()));
            }
            readable |= flooded && !self.http2.is_flooded();
            if self.control.work.is_stretch_over() {
                // The others' turn, and the sockets': this task is polled again after them.
                let _ = pin!(yield_now()).poll(context);
                break;
            }
        }
        self.control.has_streams(!self.exchanges.is_empty());
        self.poll_alarm(context)
    }

    fn is_over(&self) -> bool {
        self.failed.is_some() || self.control.is_ending() && self.exchanges.is_empty()
    }

    /// One read. Whether there may be more.
    fn read(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        if self.failed.is_some() {
            return Ok(false);
        }
        SCRATCH.with_borrow_mut(|scratch| {
            let mut into = ReadBuf::new(&mut scratch.read);
            match Pin::new(&mut self.socket).poll_read(context, &mut into)? {
                Poll::Pending => return Ok(false),
                Poll::Ready(()) if into.filled().is_empty() => {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                Poll::Ready(()) => {}
            }
            (self.heard, self.asked) = (Instant::now(), false);
            if let Err(failure) = self.take(into.filled()) {
                match self.http2.other_protocol().and_then(foreign::answer) {
                    Some(answer) => *self.http2.pending_frames() = answer,
                    None => self.http2.send_goaway(&failure),
                }
                self.failed = Some(failure);
                self.exchanges.clear();
            }
            Ok(true)
        })
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), ConnectionError> {
        while let Some(event) = self.http2.receive(&mut bytes)? {
            match event {
                Event::Request { stream_id, request, end_stream } => {
                    self.opens()?;
                    let mut exchange = self.service.call(stream_id, *request);
                    if end_stream {
                        exchange.request_ended();
                    }
                    self.exchanges.push(exchange);
                }
                Event::Data { stream_id, data, end_stream } => {
                    let Some(at) = self.position(stream_id) else { continue };
                    if !self.exchanges[at].request_data(&data) {
                        self.http2.reset_stream(stream_id, ErrorCode::EnhanceYourCalm);
                        self.exchanges.swap_remove(at);
                    } else if end_stream {
                        self.exchanges[at].request_ended();
                    }
                }
                Event::RequestRejected { .. } => self.opens()?,
                Event::StreamReset { stream_id } => {
                    if let Some(at) = self.position(stream_id) {
                        self.exchanges.swap_remove(at);
                    }
                }
            }
        }
        Ok(())
    }

    /// Counts a stream that the peer opens, or tries to.
    fn opens(&mut self) -> Result<(), ConnectionError> {
        if self.new_streams.take(self.heard) {
            return Ok(());
        }
        Err(ConnectionError::new(ErrorCode::EnhanceYourCalm, "too many streams in a short time"))
    }

    fn position(&self, stream: u32) -> Option<usize> {
        self.exchanges.iter().position(|one| one.stream == stream)
    }

    /// Lets every stream say what it has to say, as far as it has no more on its way.
    fn poll_streams(&mut self, context: &mut Context<'_>) {
        let http2 = &mut self.http2;
        let (mut held, mut oldest) = (0, None);
        self.exchanges.retain_mut(|exchange| {
            let polled = exchange.poll(http2, context);
            let body = exchange.request_state();
            http2.release_capacity(exchange.stream, body.taken);
            held += body.held;
            oldest = oldest.into_iter().chain(body.begun).min();
            polled == Polled::Goes
        });
        // What is longer is shared with others.
        let unsent: usize = self.unsent.iter().map(|part| part.len().min(COPY_LIMIT)).sum();
        self.held.set(held + unsent + http2.pending_frames().capacity());
        self.control.message_begun(oldest.map(Instant::into_std));
    }

    /// Writes what there is. Whether a stream has got rid of everything, and may have more.
    fn write(&mut self, context: &mut Context<'_>) -> io::Result<bool> {
        let mut free = false;
        loop {
            if !self.unsent.is_empty() {
                let mut into = [IoSlice::new(&[]); MAX_IO_SLICES];
                let slices =
                    http2::fill_io_slices(self.unsent.iter().map(|bytes| &**bytes), &mut into);
                let written = write(&mut self.socket, &self.control, context, slices)?;
                let Poll::Ready(written) = written else { return Ok(free) };
                http2::advance_unsent(&mut self.unsent, written);
                continue;
            }
            let written = SCRATCH.with_borrow_mut(|scratch| {
                free |= self.gather(&mut scratch.batch);
                if scratch.batch.is_empty() {
                    return Ok(false);
                }
                let mut into = [IoSlice::new(&[]); MAX_IO_SLICES];
                let slices = http2::fill_io_slices(scratch.batch.parts(), &mut into);
                let written = match write(&mut self.socket, &self.control, context, slices)? {
                    Poll::Ready(written) => written,
                    Poll::Pending => 0,
                };
                if written < scratch.batch.len() {
                    self.unsent = scratch.batch.unsent(written);
                }
                // What it shares may be the last of a frame that nobody needs any more.
                scratch.batch.clear();
                io::Result::Ok(true)
            })?;
            if !written {
                return Ok(free);
            }
        }
    }

    /// Frames for the next write. Whether a stream has got rid of everything.
    fn gather(&mut self, batch: &mut WriteBatch) -> bool {
        // Whatever a write that failed has left there is another connection's.
        batch.clear();
        let pending = self.http2.pending_frames();
        if !pending.is_empty() {
            batch.push(pending);
            *pending = Vec::new();
        }
        let mut free = false;
        for exchange in &mut self.exchanges {
            free |= exchange.gather(&mut self.http2, batch, WRITE);
        }
        if self.exchanges.len() > 1 {
            // Whoever was first is last the next time: the connection's window is for all.
            self.exchanges.rotate_left(1);
        }
        free
    }

    /// Asks a peer that has been quiet whether it is there.
    fn poll_alarm(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // What has come was read before this, so a server that was too busy to read in time does
        // not blame its peer.
        // It wakes the same task however often that is polled, so it is left alone until then.
        if self.armed && !self.alarm.is_elapsed() {
            return Poll::Pending;
        }
        let now = Instant::now();
        // Without a budget it would not be set, and this task be polled again.
        self.armed = coop::has_budget_remaining();
        while self.alarm.as_mut().poll(context).is_ready() {
            let due = self.heard + self.keepalive;
            let next = if now < due {
                due
            } else if self.asked {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            } else {
                self.asked = true;
                self.http2.send_ping();
                context.waker().wake_by_ref();
                now + self.keepalive / 3
            };
            self.alarm.as_mut().reset(next);
        }
        Poll::Pending
    }

    /// Closes our side, and gives the peer a moment to read what was said: a socket that is closed
    /// with bytes unread takes that away again.
    async fn last_words(&mut self) {
        let read = async {
            self.socket.shutdown().await?;
            loop {
                self.socket.readable().await?;
                let read =
                    SCRATCH.with_borrow_mut(|scratch| self.socket.try_read(&mut scratch.read));
                match read {
                    Ok(0) => return Ok(()),
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                    _ => {}
                }
            }
        };
        let _ = timeout(LAST_WORDS, read).await;
    }
}

fn write(
    socket: &mut TcpStream,
    control: &Control,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> io::Result<Poll<usize>> {
    let socket = Pin::new(socket);
    let result = match slices {
        [one] => socket.poll_write(context, one),
        all => socket.poll_write_vectored(context, all),
    };
    Ok(control.wrote(result)?)
}
