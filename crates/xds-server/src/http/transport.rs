//! The bytes of a connection: a socket, with TLS over it or without.
//!
//! Buffers belong to the thread here too. With TLS a connection keeps what rustls keeps: 4 KiB of what was
//! read last, and of records that the socket did not take at most [`ENCRYPTED_BYTES`]. What waits beyond
//! that is not encrypted yet, and is shared with other connections as in plaintext.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustls::ServerConnection;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Bytes that are encrypted for one write: two full records.
pub(crate) const ENCRYPTED_BYTES: usize = 32 << 10;

/// What a session at rest holds, bytes: measured, 6.4 KiB more a connection than without TLS, of which 4 KiB
/// are rustls' buffer for what is read next.
const SESSION_BYTES: usize = 7 << 10;

/// What a record adds to what is in it: header, tag, and the type of TLS 1.3 (TLS 1.2 adds 29).
const RECORD_OVERHEAD: usize = 22;

/// The two ends of a connection's bytes.
#[derive(Debug)]
pub(crate) enum Transport {
    Plaintext(TcpStream),
    Tls(Box<TlsTransport>),
}

/// A socket and the TLS session over it, after the handshake.
#[derive(Debug)]
pub(crate) struct TlsTransport {
    socket: TcpStream,
    session: ServerConnection,
}

/// Where bytes are read into; of the thread.
#[derive(Debug)]
pub(crate) struct ReadBuffers {
    /// As they come from the socket.
    received: Vec<u8>,
    /// The same decrypted.
    plaintext: Vec<u8>,
}

impl ReadBuffers {
    /// For reads of `bytes` from the socket.
    pub(crate) fn new(bytes: usize) -> Self {
        Self { received: vec![0; bytes], plaintext: Vec::new() }
    }
}

/// What one read brought.
#[derive(Debug)]
pub(crate) struct Received<'a> {
    /// May be empty with TLS: a record is incomplete, or was not data.
    pub(crate) bytes: &'a [u8],
    /// TLS records that were decrypted, about.
    pub(crate) records: usize,
}

impl Transport {
    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plaintext(socket) => socket,
            Self::Tls(tls) => &mut tls.socket,
        }
    }

    /// Reads once.
    ///
    /// # Errors
    /// The connection has ended (`UnexpectedEof`), is broken, or what came is not TLS of this session.
    pub(crate) fn poll_read<'a>(
        &mut self,
        context: &mut Context<'_>,
        buffers: &'a mut ReadBuffers,
    ) -> Poll<io::Result<Received<'a>>> {
        if let Self::Tls(tls) = self {
            return tls.poll_read(context, buffers);
        }
        let mut into = ReadBuf::new(&mut buffers.received);
        ready!(Pin::new(self.socket()).poll_read(context, &mut into))?;
        let read = into.filled().len();
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        Poll::Ready(Ok(Received { bytes: &buffers.received[..read], records: 0 }))
    }

    /// Writes once. With TLS, bytes that are accepted may be encrypted and not sent: see
    /// [`Self::is_flushed`].
    pub(crate) fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Plaintext(socket) => poll_write(socket, context, slices),
            Self::Tls(tls) => tls.poll_write(context, slices),
        }
    }

    /// Whether all that was accepted has been handed to the socket.
    pub(crate) fn is_flushed(&self) -> bool {
        match self {
            Self::Plaintext(_) => true,
            Self::Tls(tls) => !tls.session.wants_write(),
        }
    }

    /// Hands some of it over; pending if the socket takes none.
    pub(crate) fn poll_flush_some(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plaintext(_) => Poll::Ready(Ok(())),
            Self::Tls(tls) => tls.poll_flush_some(context),
        }
    }

    /// Bytes of memory that TLS holds, with what the socket has not taken yet.
    pub(crate) fn held(&self) -> usize {
        match self {
            Self::Plaintext(_) => 0,
            Self::Tls(_) if self.is_flushed() => SESSION_BYTES,
            Self::Tls(_) => SESSION_BYTES + ENCRYPTED_BYTES,
        }
    }

    /// Says that no more follows (TLS), sends what is left, and closes our side of the socket.
    pub(crate) fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Self::Tls(tls) = self {
            tls.session.send_close_notify();
            while tls.session.wants_write() {
                ready!(tls.poll_flush_some(context))?;
            }
        }
        Pin::new(self.socket()).poll_shutdown(context)
    }

    /// Reads once and drops what comes. Returns whether the peer has closed its side.
    pub(crate) fn poll_discard(
        &mut self,
        context: &mut Context<'_>,
        buffers: &mut ReadBuffers,
    ) -> Poll<io::Result<bool>> {
        let mut into = ReadBuf::new(&mut buffers.received);
        ready!(Pin::new(self.socket()).poll_read(context, &mut into))?;
        Poll::Ready(Ok(into.filled().is_empty()))
    }
}

impl TlsTransport {
    pub(crate) fn new(socket: TcpStream, mut session: ServerConnection) -> Self {
        session.set_buffer_limit(Some(ENCRYPTED_BYTES));
        Self { socket, session }
    }

    fn poll_read<'a>(
        &mut self,
        context: &mut Context<'_>,
        buffers: &'a mut ReadBuffers,
    ) -> Poll<io::Result<Received<'a>>> {
        let ReadBuffers { received, plaintext } = buffers;
        plaintext.clear();
        // The client's first request may have come with the end of its handshake.
        self.take_plaintext(plaintext)?;
        if !plaintext.is_empty() {
            return Poll::Ready(Ok(Received { bytes: plaintext, records: 1 }));
        }
        let mut into = ReadBuf::new(received);
        ready!(Pin::new(&mut self.socket).poll_read(context, &mut into))?;
        let mut unread = into.filled();
        let read = unread.len();
        if read == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let mut closed = false;
        while !unread.is_empty() && !closed {
            if self.session.read_tls(&mut unread)? == 0 {
                break;
            }
            match self.session.process_new_packets() {
                Ok(state) => closed = state.peer_has_closed(),
                Err(error) => {
                    // The alert that says why.
                    _ = self.poll_flush_some(context);
                    return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, error)));
                }
            }
            self.take_plaintext(plaintext)?;
        }
        if closed && plaintext.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        let records = 1 + read.saturating_sub(plaintext.len()) / RECORD_OVERHEAD;
        Poll::Ready(Ok(Received { bytes: plaintext, records }))
    }

    /// Appends what is decrypted.
    fn take_plaintext(&mut self, plaintext: &mut Vec<u8>) -> io::Result<()> {
        match self.session.reader().read_to_end(plaintext) {
            Ok(_) => Ok(()),
            // There is no more for now.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn poll_write(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        while self.session.wants_write() {
            ready!(self.poll_flush_some(context))?;
        }
        let accepted = self.session.writer().write_vectored(slices)?;
        // What the socket does not take now is flushed later.
        if let Poll::Ready(Err(error)) = self.poll_flush_some(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(accepted))
    }

    fn poll_flush_some(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut writer = SocketWriter { socket: &mut self.socket, context };
        match self.session.write_tls(&mut writer) {
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// A socket as rustls writes to it.
struct SocketWriter<'a, 'b> {
    socket: &'a mut TcpStream,
    context: &'a mut Context<'b>,
}

impl Write for SocketWriter<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match poll_write(self.socket, self.context, slices) {
            Poll::Ready(written) => written,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn poll_write(
    socket: &mut TcpStream,
    context: &mut Context<'_>,
    slices: &[IoSlice<'_>],
) -> Poll<io::Result<usize>> {
    match slices {
        [one] => Pin::new(socket).poll_write(context, one),
        all => Pin::new(socket).poll_write_vectored(context, all),
    }
}
