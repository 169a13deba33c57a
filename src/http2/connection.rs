//! One connection's rules (RFC 9113): what arrives becomes events, what must be said goes into an
//! outbox of frames, windows and streams are kept.

use std::borrow::Cow;

use closed::{Closed, Past};
use headers::Begun;
use http::Request;

use super::frame::{self, Code, Failure, Head, flag, kind, setting};
use super::hpack::Decoder;
use super::input::{Cut, Foreign, Input};
use super::request;
use super::window::{Inbound, Outbound, WINDOW};

mod closed;
mod headers;
mod send;
mod settings;

/// Streams that one peer may have open. A proxy has one, or five without ADS.
const MAX_STREAMS: usize = 100;

/// What a peer has done.
#[derive(Debug)]
pub enum Event<'a> {
    /// It has opened a stream.
    Request { stream: u32, head: Box<Request<()>>, ended: bool },
    /// Bytes of a request's body, to be taken (`taken`), and whether that was all.
    Data { stream: u32, bytes: Cow<'a, [u8]>, ended: bool },
    /// It has given up a stream, or broken its rules; what there is of it can go.
    Reset { stream: u32 },
    /// It has sent a header block that opens nothing: malformed, too long, or of one stream too
    /// many. That was answered; it costs about as much as a request, and is to be counted as one.
    Refused { stream: u32 },
}

/// A stream that we have not ended.
#[derive(Debug)]
struct Stream {
    id: u32,
    inbound: Inbound,
    outbound: Outbound,
    /// Bytes that came and were not taken.
    waiting: u32,
    /// The peer has said everything.
    ended: bool,
    /// What is to come of the body, if its length was announced.
    length: Option<u64>,
}

impl Stream {
    /// Takes off what has come; false if that, or the end, does not agree with the length that was
    /// announced (section 8.1.1).
    fn has_length(&mut self, bytes: usize, ends: bool) -> bool {
        let Some(length) = &mut self.length else { return true };
        let Some(left) = length.checked_sub(bytes as u64) else { return false };
        *length = left;
        !ends || left == 0
    }
}

/// What is known of one peer.
#[derive(Debug)]
pub struct Connection {
    input: Input,
    decoder: Decoder,
    begun: Option<Box<Begun>>,
    /// Few, so a search is a look at each.
    streams: Vec<Stream>,
    closed: Closed,
    /// The newest stream that the peer has opened.
    last: u32,
    /// The DATA frame that is under way: its stream, and whether it ends that.
    data: (u32, bool),
    inbound: Inbound,
    outbound: Outbound,
    /// What the peer gives each new stream.
    stream_window: u32,
    /// Our settings have been said, which come before everything else (section 3.4).
    greeted: bool,
    /// So have the peer's.
    settled: bool,
    /// The next header block must say that it uses no table.
    no_table: bool,
    going_away: bool,
    outbox: Vec<u8>,
}

impl Default for Connection {
    fn default() -> Self {
        Self::new()
    }
}

impl Connection {
    /// A new one. It says nothing before its peer has: one that does not speak HTTP/2 may then be
    /// told so in its own language ([`Self::foreign`]).
    pub fn new() -> Self {
        Self {
            input: Input::default(),
            decoder: Decoder::new(),
            begun: None,
            streams: Vec::new(),
            closed: Closed::default(),
            last: 0,
            data: (0, false),
            inbound: Inbound::new(),
            outbound: Outbound::new(frame::DEFAULT_WINDOW),
            stream_window: frame::DEFAULT_WINDOW,
            greeted: false,
            settled: false,
            no_table: false,
            going_away: false,
            outbox: Vec::new(),
        }
    }

    /// What the peer speaks instead of HTTP/2. It has been told nothing yet.
    pub fn foreign(&self) -> Option<Foreign> {
        self.input.foreign()
    }

    /// Our settings, once.
    fn greet(&mut self) {
        if std::mem::replace(&mut self.greeted, true) {
            return;
        }
        let settings = [
            (setting::MAX_CONCURRENT_STREAMS, MAX_STREAMS as u32),
            (setting::INITIAL_WINDOW_SIZE, WINDOW),
            (setting::MAX_HEADER_LIST_SIZE, request::MAX_HEADER_LIST as u32),
        ];
        frame::put_settings(&mut self.outbox, &settings);
        frame::put_window_update(&mut self.outbox, 0, WINDOW - frame::DEFAULT_WINDOW);
    }

    /// The next event in what has come, which is taken off `bytes`; `None` when that is used up.
    ///
    /// # Errors
    /// What ends the connection, after [`Self::fail`].
    pub fn receive<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Event<'a>>, Failure> {
        loop {
            let cut = self.input.cut(bytes)?;
            if self.input.has_preface() {
                self.greet();
            }
            let Some(cut) = cut else { return Ok(None) };
            let event = match cut {
                Cut::Data(part, last) => {
                    let (stream, ends) = self.data;
                    self.data_event(stream, Cow::Borrowed(part), last && ends)
                }
                Cut::DataBegins(head) => {
                    self.check_order(head)?;
                    let ends = head.has(flag::END_STREAM);
                    self.data = (head.stream, ends);
                    let refused = self.data_arrives(head, head.len)?;
                    // Nothing follows an empty one.
                    if refused.is_none() && head.len == 0 && ends {
                        self.data_event(head.stream, Cow::default(), true)
                    } else {
                        refused
                    }
                }
                Cut::Frame(head, content) => {
                    self.check_order(head)?;
                    self.frame(head, content)?
                }
            };
            if event.is_some() {
                return Ok(event);
            }
        }
    }

    /// Settings come first, and nothing between the frames of a header block (section 3.4, 6.10).
    fn check_order(&mut self, head: Head) -> Result<(), Failure> {
        if !self.settled {
            if head.kind != kind::SETTINGS || head.has(flag::ACK) {
                return protocol("the first frame is not SETTINGS");
            }
            self.settled = true;
        }
        match &self.begun {
            Some(begun) if head.kind != kind::CONTINUATION || head.stream != begun.head.stream => {
                protocol("something else within a header block")
            }
            None if head.kind == kind::CONTINUATION => protocol("CONTINUATION of nothing"),
            _ => Ok(()),
        }
    }

    fn frame<'a>(
        &mut self,
        head: Head,
        content: Cow<'a, [u8]>,
    ) -> Result<Option<Event<'a>>, Failure> {
        match head.kind {
            kind::DATA => return self.padded_data(head, content),
            kind::HEADERS => {
                self.check_stream(head)?;
                let mut block = unpadded(head, &content)?;
                if head.has(flag::PRIORITY) {
                    block = block.get(5..).ok_or(SHORT)?;
                }
                return self.headers(head, block);
            }
            kind::CONTINUATION => return self.continuation(head, &content),
            kind::PRIORITY => return self.priority(head, &content),
            kind::RST_STREAM => {
                self.check_known(head)?;
                let _: [u8; 4] = exactly(&content)?;
                let closed = self.close(head.stream, true);
                return Ok(closed.map(|()| Event::Reset { stream: head.stream }));
            }
            kind::SETTINGS => self.settings(head, &content)?,
            kind::PUSH_PROMISE => return protocol("PUSH_PROMISE from a client"),
            kind::PING => {
                check_connection(head)?;
                let payload: [u8; 8] = exactly(&content)?;
                if !head.has(flag::ACK) {
                    frame::put(&mut self.outbox, kind::PING, flag::ACK, 0, &payload);
                }
            }
            // The peer opens no more streams; those that are open go on (section 6.8).
            kind::GOAWAY => {
                check_connection(head)?;
                let _: &[u8; 8] = content.first_chunk().ok_or(SHORT)?;
            }
            kind::WINDOW_UPDATE => return self.window_update(head, &content),
            // What is not known is to be ignored (section 4.1).
            _ => {}
        }
        Ok(None)
    }

    /// Section 6.3: no longer used, but still of one length. A stream that is not open cannot be
    /// reset, so there it is the connection that ends.
    fn priority<'a>(&mut self, head: Head, content: &[u8]) -> Result<Option<Event<'a>>, Failure> {
        if head.stream == 0 {
            return protocol("PRIORITY of the connection");
        }
        if content.len() == 5 {
            return Ok(None);
        }
        self.find(head.stream).ok_or(SHORT)?;
        self.reset(head.stream, Code::FrameSize);
        Ok(Some(Event::Reset { stream: head.stream }))
    }

    /// DATA is counted whole, padding included (section 6.1); `payload` is what there is without.
    fn data_arrives<'a>(
        &mut self,
        head: Head,
        payload: usize,
    ) -> Result<Option<Event<'a>>, Failure> {
        self.check_known(head)?;
        let len = head.len as u32;
        self.inbound.receive(len)?;
        let code = match self.find(head.stream) {
            Some(stream) if stream.ended => {
                self.taken_of_connection(len);
                Code::StreamClosed
            }
            Some(stream) => {
                stream.inbound.receive(len)?;
                stream.waiting += len;
                if stream.has_length(payload, head.has(flag::END_STREAM)) {
                    return Ok(None);
                }
                Code::Protocol
            }
            None => match self.closed.past(head.stream) {
                Past::Finished | Past::NeverOpened => return Err(AFTER_ITS_END),
                // The peer had not heard of the end.
                Past::CutOff | Past::Forgotten => {
                    self.taken_of_connection(len);
                    return Ok(None);
                }
            },
        };
        self.reset(head.stream, code);
        Ok(Some(Event::Reset { stream: head.stream }))
    }

    fn data_event<'a>(&mut self, id: u32, bytes: Cow<'a, [u8]>, ended: bool) -> Option<Event<'a>> {
        let stream = self.find(id)?;
        stream.ended |= ended;
        Some(Event::Data { stream: id, bytes, ended })
    }

    fn padded_data<'a>(
        &mut self,
        head: Head,
        content: Cow<'a, [u8]>,
    ) -> Result<Option<Event<'a>>, Failure> {
        let len = unpadded(head, &content)?.len();
        let refused = self.data_arrives(head, len)?;
        if refused.is_some() {
            return Ok(refused);
        }
        self.taken(head.stream, (head.len - len) as u32);
        let bytes = match content {
            Cow::Borrowed(all) => Cow::Borrowed(all.get(1..=len).unwrap_or_default()),
            Cow::Owned(all) => Cow::Owned(all.get(1..=len).unwrap_or_default().to_vec()),
        };
        Ok(self.data_event(head.stream, bytes, head.has(flag::END_STREAM)))
    }

    /// Of a stream that the peer may open (odd).
    fn check_stream(&self, head: Head) -> Result<(), Failure> {
        if head.stream.is_multiple_of(2) { protocol("a client's streams are odd") } else { Ok(()) }
    }

    /// Of a stream that the peer has opened once.
    fn check_known(&self, head: Head) -> Result<(), Failure> {
        self.check_stream(head)?;
        if head.stream > self.last { protocol("a stream that was not opened") } else { Ok(()) }
    }

    fn find(&mut self, id: u32) -> Option<&mut Stream> {
        self.streams.iter_mut().find(|stream| stream.id == id)
    }

    /// Forgets a stream, if it is there.
    fn close(&mut self, id: u32, by_peer: bool) -> Option<()> {
        let at = self.streams.iter().position(|stream| stream.id == id)?;
        let stream = self.streams.swap_remove(at);
        self.closed.note(id, by_peer || stream.ended);
        self.taken_of_connection(stream.waiting);
        Some(())
    }

    fn taken_of_connection(&mut self, bytes: u32) {
        if let Some(by) = self.inbound.take(bytes) {
            frame::put_window_update(&mut self.outbox, 0, by);
        }
    }

    /// So much of a stream's data has been used; its peer may send as much again.
    pub fn taken(&mut self, id: u32, bytes: u32) {
        let Some(stream) = self.find(id) else { return };
        // Never more than what came.
        let bytes = bytes.min(stream.waiting);
        stream.waiting -= bytes;
        if !stream.ended
            && let Some(by) = stream.inbound.take(bytes)
        {
            frame::put_window_update(&mut self.outbox, id, by);
        }
        self.taken_of_connection(bytes);
    }
}

const SHORT: Failure = Failure { code: Code::FrameSize, text: "a frame of the wrong length" };

/// Section 5.1: the peer has closed this stream itself, or skipped it.
const AFTER_ITS_END: Failure =
    Failure { code: Code::StreamClosed, text: "a frame on a stream that has ended" };

fn protocol<T>(text: &'static str) -> Result<T, Failure> {
    Err(Failure::new(Code::Protocol, text))
}

fn exactly<const N: usize>(content: &[u8]) -> Result<[u8; N], Failure> {
    content.try_into().map_err(|_| SHORT)
}

fn check_connection(head: Head) -> Result<(), Failure> {
    if head.stream == 0 { Ok(()) } else { protocol("a frame of the connection on a stream") }
}

/// What is between the padding's length and the padding.
fn unpadded(head: Head, content: &[u8]) -> Result<&[u8], Failure> {
    if !head.has(flag::PADDED) {
        return Ok(content);
    }
    let (padding, rest) = content.split_first().ok_or(SHORT)?;
    let len = rest.len().checked_sub(usize::from(*padding));
    let len = len.ok_or(Failure::new(Code::Protocol, "more padding than frame"))?;
    Ok(rest.get(..len).unwrap_or_default())
}

#[cfg(test)]
mod tests;
