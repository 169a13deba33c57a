//! The rules of a connection (RFC 9113): received bytes become events, frames to send are encoded,
//! streams and windows are kept. One connection, no I/O.

use std::borrow::Cow;

use http::Request;

use crate::flow_control::{RECEIVE_WINDOW, ReceiveWindow, SendWindow};
use crate::frame::{
    self, ConnectionError, DEFAULT_WINDOW, ErrorCode, FrameHeader, flag, frame_type, setting,
};
use crate::frame_reader::{FramePart, FrameReader, OtherProtocol};
use crate::hpack::Decoder;
use crate::request;

mod closed_streams;
mod data;
mod header_blocks;
mod send;
mod settings;

use closed_streams::ClosedStreams;
use header_blocks::PartialHeaderBlock;

/// Our SETTINGS_MAX_CONCURRENT_STREAMS: streams that a peer may have open at the same time.
const MAX_STREAMS: usize = 100;

/// What the peer has done.
#[derive(Debug)]
pub enum Event<'a> {
    /// It has opened a stream.
    Request {
        /// The new stream.
        stream_id: u32,
        /// Method, path and header fields.
        request: Box<Request<()>>,
        /// There is no body.
        end_stream: bool,
    },
    /// It has sent some of a request's body. The bytes count against the peer's window until they
    /// are released ([`Connection::release_capacity`]).
    Data {
        /// An open stream.
        stream_id: u32,
        /// The next bytes of the body; may be empty.
        data: Cow<'a, [u8]>,
        /// The body ends here.
        end_stream: bool,
    },
    /// A stream is closed: the peer has reset it or violated its rules. Nothing can be sent on it.
    StreamReset {
        /// The stream, which was open.
        stream_id: u32,
    },
    /// It has sent a header block that opens no stream: malformed, too large, of one stream too
    /// many, or of a stream that has ended. The answer is queued. A caller that limits the rate of
    /// requests has to count these too, because decoding one costs about as much as a request.
    RequestRejected {
        /// The stream that was not opened.
        stream_id: u32,
    },
}

/// An open stream.
#[derive(Debug)]
struct Stream {
    id: u32,
    receive_window: ReceiveWindow,
    send_window: SendWindow,
    /// Bytes of DATA that were received and not released.
    unreleased: u32,
    /// The peer has ended its side: half-closed (remote), section 5.1.
    remote_closed: bool,
    /// Bytes of the body that are still to come, if the request has a `content-length`.
    remaining_content_length: Option<u64>,
}

/// The server's side of one connection.
#[derive(Debug)]
pub struct Connection {
    reader: FrameReader,
    decoder: Decoder,
    partial_block: Option<Box<PartialHeaderBlock>>,
    /// Open streams: few, so a linear search is enough.
    streams: Vec<Stream>,
    closed_streams: ClosedStreams,
    /// The highest stream id that the peer has used.
    last_stream_id: u32,
    /// The DATA frame whose payload is being received: its stream, and whether it ends the stream.
    current_data: (u32, bool),
    receive_window: ReceiveWindow,
    send_window: SendWindow,
    /// The peer's SETTINGS_INITIAL_WINDOW_SIZE.
    initial_send_window: u32,
    /// Our SETTINGS, which must be the first frame that we send (section 3.4), are queued.
    settings_sent: bool,
    /// The peer's SETTINGS, which must be its first frame, have arrived.
    settings_received: bool,
    /// The next header block must begin with a dynamic table size update.
    table_size_update_due: bool,
    /// GOAWAY is queued.
    going_away: bool,
    pending_frames: Vec<u8>,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    /// A new connection. Nothing is sent before the peer's preface has arrived, so that a peer
    /// that speaks another protocol can be answered in that one ([`Self::other_protocol`]).
    pub fn new() -> Self {
        Self {
            reader: FrameReader::default(),
            decoder: Decoder::new(),
            partial_block: None,
            streams: Vec::new(),
            closed_streams: ClosedStreams::default(),
            last_stream_id: 0,
            current_data: (0, false),
            receive_window: ReceiveWindow::new(),
            send_window: SendWindow::new(DEFAULT_WINDOW),
            initial_send_window: DEFAULT_WINDOW,
            settings_sent: false,
            settings_received: false,
            table_size_update_due: false,
            going_away: false,
            pending_frames: Vec::new(),
        }
    }

    /// What the peer speaks, if it has sent something else than HTTP/2's preface. Nothing was sent to
    /// it yet.
    pub fn other_protocol(&self) -> Option<OtherProtocol> {
        self.reader.other_protocol()
    }

    /// Queues our SETTINGS, once.
    fn send_settings(&mut self) {
        if std::mem::replace(&mut self.settings_sent, true) {
            return;
        }
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, MAX_STREAMS as u32),
            (setting::INITIAL_WINDOW_SIZE, RECEIVE_WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, request::MAX_HEADER_LIST_SIZE as u32),
        ];
        frame::write_settings(&mut self.pending_frames, &settings);
        let increment = RECEIVE_WINDOW - DEFAULT_WINDOW;
        frame::write_window_update(&mut self.pending_frames, 0, increment);
    }

    /// The next event in received bytes, which are removed from the front of `bytes`; `None` when
    /// all of them are used. To be called until then, unless [`Self::is_flooded`].
    ///
    /// # Errors
    /// What ends the connection; the peer is told by [`Self::send_goaway`].
    pub fn receive<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        loop {
            let part = self.reader.next_part(bytes)?;
            if self.reader.has_preface() {
                self.send_settings();
            }
            let Some(part) = part else { return Ok(None) };
            let event = match part {
                FramePart::Data(data, is_last) => {
                    let (stream_id, end_stream) = self.current_data;
                    self.data_event(stream_id, Cow::Borrowed(data), is_last && end_stream)
                }
                FramePart::DataHeader(header) => {
                    self.check_frame_order(header)?;
                    let end_stream = header.has(flag::END_STREAM);
                    self.current_data = (header.stream_id, end_stream);
                    let reset = self.receive_data(header, header.len)?;
                    // An empty payload has no parts.
                    if reset.is_none() && header.len == 0 && end_stream {
                        self.data_event(header.stream_id, Cow::default(), true)
                    } else {
                        reset
                    }
                }
                FramePart::Frame(header, payload) => {
                    self.check_frame_order(header)?;
                    self.receive_frame(header, payload)?
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// SETTINGS are first (section 3.4), and no other frame stands between those of a header block
    /// (section 6.10).
    fn check_frame_order(&mut self, header: FrameHeader) -> Result<(), ConnectionError> {
        if !self.settings_received {
            if header.frame_type != frame_type::SETTINGS || header.has(flag::ACK) {
                return protocol_error("the first frame is not SETTINGS");
            }
            self.settings_received = true;
        }
        let is_continuation = header.frame_type == frame_type::CONTINUATION;
        match &self.partial_block {
            Some(block) if !is_continuation || header.stream_id != block.header.stream_id => {
                protocol_error("another frame within a header block")
            }
            None if is_continuation => protocol_error("CONTINUATION without a header block"),
            _ => Ok(()),
        }
    }

    fn receive_frame<'a>(
        &mut self,
        header: FrameHeader,
        payload: Cow<'a, [u8]>,
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        match header.frame_type {
            frame_type::DATA => return self.receive_padded_data(header, payload),
            frame_type::HEADERS => {
                check_client_stream_id(header)?;
                let mut block = strip_padding(header, &payload)?;
                if header.has(flag::PRIORITY) {
                    block = block.get(5..).ok_or(WRONG_LENGTH)?;
                }
                return self.receive_headers(header, block);
            }
            frame_type::CONTINUATION => return self.receive_continuation(header, &payload),
            frame_type::PRIORITY => return self.receive_priority(header, &payload),
            frame_type::RST_STREAM => {
                self.check_opened(header)?;
                let _: [u8; 4] = exact_length(&payload)?;
                let stream_id = header.stream_id;
                let closed = self.close_stream(stream_id, true);
                return Ok(closed.map(|()| Event::StreamReset { stream_id }));
            }
            frame_type::SETTINGS => self.receive_settings(header, &payload)?,
            frame_type::PUSH_PROMISE => return protocol_error("PUSH_PROMISE from a client"),
            frame_type::PING => {
                check_connection_frame(header)?;
                let payload: [u8; 8] = exact_length(&payload)?;
                if !header.has(flag::ACK) {
                    let out = &mut self.pending_frames;
                    frame::write_frame(out, frame_type::PING, flag::ACK, 0, &payload);
                }
            }
            // The peer opens no more streams; the open ones continue (section 6.8).
            frame_type::GOAWAY => {
                check_connection_frame(header)?;
                let _: &[u8; 8] = payload.first_chunk().ok_or(WRONG_LENGTH)?;
            }
            frame_type::WINDOW_UPDATE => return self.receive_window_update(header, &payload),
            // Unknown frame types are ignored (section 4.1).
            _ => {}
        }
        Ok(None)
    }

    /// Section 6.3: deprecated, but still of one length. A stream that is not open cannot be reset,
    /// so there a wrong length ends the connection.
    fn receive_priority<'a>(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
    ) -> Result<Option<Event<'a>>, ConnectionError> {
        let stream_id = header.stream_id;
        if stream_id == 0 {
            return protocol_error("PRIORITY of the connection");
        }
        if payload.len() == 5 {
            return Ok(None);
        }
        self.find_stream(stream_id).ok_or(WRONG_LENGTH)?;
        self.reset_stream(stream_id, ErrorCode::FrameSizeError);
        Ok(Some(Event::StreamReset { stream_id }))
    }

    /// The frame is of a stream that the peer has opened at some time.
    fn check_opened(&self, header: FrameHeader) -> Result<(), ConnectionError> {
        check_client_stream_id(header)?;
        if header.stream_id > self.last_stream_id {
            return protocol_error("a stream that was not opened");
        }
        Ok(())
    }

    fn find_stream(&mut self, stream_id: u32) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.id == stream_id)
    }

    /// Removes a stream if it is open, and gives the connection's window back what the stream had
    /// not released.
    fn close_stream(&mut self, stream_id: u32, by_peer: bool) -> Option<()> {
        let at = self.streams.iter().position(|stream| stream.id == stream_id)?;
        let stream = self.streams.swap_remove(at);
        self.closed_streams.record(stream_id, by_peer || stream.remote_closed);
        self.release_connection_capacity(stream.unreleased);
        Some(())
    }
}

const WRONG_LENGTH: ConnectionError =
    ConnectionError { code: ErrorCode::FrameSizeError, reason: "a frame of the wrong length" };

/// Section 5.1: the peer has closed this stream itself, or skipped it.
const STREAM_ENDED: ConnectionError =
    ConnectionError { code: ErrorCode::StreamClosed, reason: "a frame on a stream that has ended" };

fn protocol_error<T>(reason: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError::new(ErrorCode::ProtocolError, reason))
}

fn exact_length<const N: usize>(payload: &[u8]) -> Result<[u8; N], ConnectionError> {
    payload.try_into().map_err(|_| WRONG_LENGTH)
}

/// The frame is of a stream that a client may open: an odd one (section 5.1.1).
fn check_client_stream_id(header: FrameHeader) -> Result<(), ConnectionError> {
    if header.stream_id.is_multiple_of(2) {
        return protocol_error("a client's streams are odd");
    }
    Ok(())
}

fn check_connection_frame(header: FrameHeader) -> Result<(), ConnectionError> {
    if header.stream_id != 0 {
        return protocol_error("a frame of the connection on a stream");
    }
    Ok(())
}

/// The payload without the padding's length and the padding (section 6.1).
fn strip_padding(header: FrameHeader, payload: &[u8]) -> Result<&[u8], ConnectionError> {
    if !header.has(flag::PADDED) {
        return Ok(payload);
    }
    let (padding, rest) = payload.split_first().ok_or(WRONG_LENGTH)?;
    let Some(len) = rest.len().checked_sub(usize::from(*padding)) else {
        return protocol_error("more padding than frame");
    };
    Ok(rest.get(..len).unwrap_or_default())
}

#[cfg(test)]
mod tests;
