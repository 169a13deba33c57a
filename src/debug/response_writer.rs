//! From a page to the body of a response, chunk by chunk: a page of five thousand proxies is
//! hundreds of megabytes, and at no time are more than a few chunks of it in memory.
//!
//! Handlers run on blocking threads, two at a time, as fast as the client reads it. Nothing is
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
use super::{DebugError, DebugState, HandlerFn};

/// How many handlers run at the same time.
const CONCURRENT_HANDLERS: usize = 2;
/// How long a request waits for a slot, and how long a client may take no chunk of its page.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a chunk; a page that fits into one is sent with its length.
const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait for the client.
const QUEUED_CHUNKS: usize = 2;

type ChunkResult = Result<Chunk, DebugError>;

#[derive(Debug)]
struct Chunk {
    bytes: Bytes,
    is_last: bool,
}

/// Runs handlers, a limited number at a time.
#[derive(Clone, Debug)]
pub(super) struct HandlerPool {
    pub(super) state: DebugState,
    slots: Arc<Semaphore>,
}

impl HandlerPool {
    pub(super) fn new(state: DebugState) -> Self {
        Self { state, slots: Arc::new(Semaphore::new(CONCURRENT_HANDLERS)) }
    }

    /// Runs a handler off the runtime's threads, so that no xDS stream waits for it.
    pub(super) async fn run(
        self,
        parameters: Parameters,
        handler: HandlerFn,
    ) -> Result<Response, DebugError> {
        let pretty = parameters.pretty()?;
        let slot = self.slot().await?;
        let (sender, mut chunks) = mpsc::channel(QUEUED_CHUNKS);
        let (state, runtime) = (self.state, Handle::current());
        tokio::task::spawn_blocking(move || {
            let _slot = slot;
            let buffer = Vec::with_capacity(CHUNK_BYTES);
            let mut writer = ResponseWriter { pretty, buffer, sender: sender.clone(), runtime };
            if let Err(error) = handler(&state, &parameters, &mut writer) {
                // Of no use to a client that has gone; it need not be waited for.
                _ = sender.try_send(Err(error));
            }
        });
        let first = chunks.recv().await.unwrap_or_else(|| Err(DebugError::failed("broken off")))?;
        let body = match first.is_last {
            true => Body::from(first.bytes),
            false => Body::from_stream(chunk_stream(first, chunks)),
        };
        Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
    }

    /// Makes something else of the state, in the same turns.
    pub(super) async fn compute<T: Send + 'static>(
        &self,
        make: impl FnOnce(&DebugState) -> T + Send + 'static,
    ) -> Result<T, DebugError> {
        let (slot, state) = (self.slot().await?, self.state.clone());
        let made = tokio::task::spawn_blocking(move || {
            let _slot = slot;
            make(&state)
        });
        made.await.map_err(DebugError::failed)
    }

    async fn slot(&self) -> Result<OwnedSemaphorePermit, DebugError> {
        let turn = timeout(CLIENT_TIMEOUT, self.slots.clone().acquire_owned()).await;
        turn.map_err(|_| DebugError::Busy)?.map_err(DebugError::failed)
    }
}

fn chunk_stream(
    first: Chunk,
    mut chunks: mpsc::Receiver<ChunkResult>,
) -> impl Stream<Item = io::Result<Bytes>> {
    async_stream::try_stream! {
        let mut chunk = first;
        loop {
            yield chunk.bytes;
            if chunk.is_last {
                return;
            }
            let next = chunks.recv().await.unwrap_or_else(|| Err(DebugError::failed("broken off")));
            chunk = next.map_err(io::Error::other)?;
        }
    }
}

/// Sends what is written to it as the body of the response, a chunk at a time.
#[derive(Debug)]
pub(super) struct ResponseWriter {
    pretty: bool,
    buffer: Vec<u8>,
    sender: mpsc::Sender<ChunkResult>,
    runtime: Handle,
}

impl ResponseWriter {
    /// Writes the whole page as JSON.
    pub(super) fn json(&mut self, page: &impl Serialize) -> Result<(), DebugError> {
        match self.pretty {
            true => serde_json::to_writer_pretty(&mut *self, page),
            false => serde_json::to_writer(&mut *self, page),
        }
        .map_err(DebugError::failed)?;
        self.buffer.push(b'\n');
        self.send(true).map_err(DebugError::failed)
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
/// character comes in one call, since the text of a string does.
impl Write for ResponseWriter {
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

/// Whether the two bytes begin with such a character.
fn is_control(bytes: &[u8]) -> bool {
    matches!(bytes, [0x7f, _] | [0xc2, 0x80..=0x9f])
}

/// A list whose entries are computed one by one while it is written.
pub(super) struct LazyList<T, F>(pub(super) Vec<T>, pub(super) F);

impl<T, R: Serialize, F: Fn(&T) -> R> Serialize for LazyList<T, F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(&self.1))
    }
}

#[cfg(test)]
mod tests;
