//! From a page to the body of a response, piece by piece: a page of five thousand proxies is
//! hundreds of megabytes, and at no time is more than a few pieces of it there as text.
//!
//! A page is made on a blocking thread, two at a time, as fast as the client reads it. Nothing is
//! locked meanwhile. A client that stops reading is cut off; so is one whose page fails half-way,
//! since a page that merely ended would look complete.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::header;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::Stream;
use serde::{Serialize, Serializer};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::parameters::Parameters;
use super::{DebugState, Make, Problem};

/// Pages that are made at the same time.
const PAGES_AT_ONCE: usize = 2;
/// How long a request waits for a slot, and how long a client may take no chunk of its page.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a chunk; a page that fits into one is sent with its length.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait for the client.
const QUEUED_CHUNKS: usize = 2;

type ChunkResult = Result<Chunk, Problem>;

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    is_last: bool,
}

#[derive(Clone, Debug)]
pub(super) struct Pages {
    pub(super) state: DebugState,
    slots: Arc<Semaphore>,
}

impl Pages {
    pub(super) fn new(state: DebugState) -> Self {
        Self { state, slots: Arc::new(Semaphore::new(PAGES_AT_ONCE)) }
    }

    /// Makes a page off the runtime's threads, so that no stream waits for it.
    pub(super) async fn make(
        self,
        parameters: Parameters,
        make: Make,
    ) -> Result<Response, Problem> {
        let pretty = parameters.pretty()?;
        let slot = self.slot().await?;
        let (sender, mut pieces) = mpsc::channel(QUEUED_CHUNKS);
        let (state, runtime) = (self.state, Handle::current());
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let buffer = Vec::with_capacity(CHUNK_BYTES);
            let mut output = Output { pretty, buffer, sender: sender.clone(), runtime };
            if let Err(problem) = make(&state, &parameters, &mut output) {
                // Of no use to a client that has gone; it need not be waited for.
                _ = sender.try_send(Err(problem));
            }
        });
        let first = pieces.recv().await.unwrap_or_else(|| Err(Problem::failed("broken off")))?;
        let body = match first.is_last {
            true => Body::from(first.bytes),
            false => Body::from_stream(all(first, pieces)),
        };
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// Makes something else of the state, in the same turns.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        make: impl FnOnce(&DebugState) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (slot, state) = (self.slot().await?, self.state.clone());
        let made = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            make(&state)
        });
        made.await.map_err(Problem::failed)
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let turn = timeout(CLIENT_TIMEOUT, self.slots.clone().acquire_owned()).await;
        turn.map_err(|_| Problem::Busy)?.map_err(Problem::failed)
    }
}

fn all(
    first: Chunk,
    mut pieces: mpsc::Receiver<ChunkResult>,
) -> impl Stream<Item = io::Result<Bytes>> {
    async_stream::try_stream! {
        let mut piece = first;
        loop {
            yield piece.bytes;
            if piece.is_last {
                return;
            }
            let next = pieces.recv().await.unwrap_or_else(|| Err(Problem::failed("broken off")));
            piece = next.map_err(io::Error::other)?;
        }
    }
}

/// Where a page is written to.
#[derive(Debug)]
pub(super) struct Output {
    pretty: bool,
    buffer: Vec<u8>,
    sender: mpsc::Sender<ChunkResult>,
    runtime: Handle,
}

impl Output {
    /// Writes the whole page.
    pub(super) fn json(&mut self, page: &impl Serialize) -> Result<(), Problem> {
        match self.pretty {
            true => serde_json::to_writer_pretty(&mut *self, page),
            false => serde_json::to_writer(&mut *self, page),
        }
        .map_err(Problem::failed)?;
        self.buffer.push(b'\n');
        self.send(true).map_err(Problem::failed)
    }

    fn send(&mut self, is_last: bool) -> io::Result<()> {
        let bytes = Bytes::copy_from_slice(&self.buffer);
        self.buffer.clear();
        let sent = self.sender.send(Ok(Chunk { bytes, is_last }));
        match self.runtime.block_on(timeout(CLIENT_TIMEOUT, sent)) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(io::Error::other("the client has gone")),
            Err(_) => Err(io::Error::other("the client has stopped reading")),
        }
    }
}

/// Escapes what JSON does not ask for and a terminal may obey: DEL and the control characters from
/// U+0080 to U+009F, which are in the words of a peer if anywhere. (JSON's own are those below
/// U+0020.) All of this is within strings, since there is nothing but ASCII elsewhere, and each
/// character comes in one piece, since the text of a string does.
impl Write for Output {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        let mut rest = text;
        while let Some(at) = rest
            .windows(2)
            .position(is_control)
            .or_else(|| (rest.last() == Some(&0x7f)).then(|| rest.len() - 1))
        {
            let (before, from) = rest.split_at(at);
            let (code, length) = match from {
                [0xc2, code, ..] => (*code, 2),
                _ => (0x7f, 1),
            };
            self.buffer.extend_from_slice(before);
            write!(self.buffer, "\\u{code:04x}")?;
            rest = from.get(length..).unwrap_or_default();
        }
        self.buffer.extend_from_slice(rest);
        if self.buffer.len() >= CHUNK_BYTES {
            self.send(false)?;
        }
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether one begins here.
fn is_control(bytes: &[u8]) -> bool {
    matches!(bytes, [0x7f, _] | [0xc2, 0x80..=0x9f])
}

/// A list whose entries are made one by one while it is written.
pub(super) struct Each<T, F>(pub(super) Vec<T>, pub(super) F);

impl<T, R: Serialize, F: Fn(&T) -> R> Serialize for Each<T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

#[cfg(test)]
mod tests;
