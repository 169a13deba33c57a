//! As much HTTP/2 as a simulated sidecar needs: one POST, its messages both ways. The clients
//! share the processors with the server that is measured, so they must cost next to nothing.

use bytes::{Buf, BufMut, Bytes, BytesMut};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;
const END_STREAM: u8 = 1;

/// What a connection begins with: windows as wide as they can be, and the request's head.
pub(crate) fn opening(path: &str) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE (4)
    frame(&mut out, SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    literal(&mut block, Some(4), path); // :path
    literal(&mut block, Some(1), "bench"); // :authority
    literal(&mut block, Some(31), "application/grpc"); // content-type
    named(&mut block, "te", "trailers");
    frame(&mut out, HEADERS, END_HEADERS, 1, &block);
    out
}

/// A gRPC message in DATA frames of at most 16 KiB.
pub(crate) fn message(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut all = Vec::with_capacity(len + 5);
    all.put_u8(0);
    all.put_u32(len as u32);
    for part in parts {
        all.extend_from_slice(part);
    }
    for piece in all.chunks(16_384) {
        frame(out, DATA, 0, 1, piece);
    }
}

/// What arrived.
pub(crate) enum Event {
    /// A whole gRPC message.
    Message(Bytes),
    /// Bytes to send back (acknowledgements of settings and pings).
    Reply(Vec<u8>),
    Ended(String),
}

/// Cuts the byte stream into frames and messages.
#[derive(Default)]
pub(crate) struct Reader {
    pub(crate) raw: BytesMut,
    grpc: BytesMut,
}

impl Reader {
    pub(crate) fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(prefix) = self.grpc.get(..5) {
                let len = u32::from_be_bytes([prefix[1], prefix[2], prefix[3], prefix[4]]) as usize;
                if self.grpc.len() >= len + 5 {
                    self.grpc.advance(5);
                    return Some(Event::Message(self.grpc.split_to(len).freeze()));
                }
            }
            let head = self.raw.get(..9)?;
            let len = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
            let (kind, flags, stream) = (head[3], head[4], head[8]);
            if self.raw.len() < len + 9 {
                return None;
            }
            self.raw.advance(9);
            let content = self.raw.split_to(len);
            match kind {
                DATA => self.grpc.unsplit(content),
                SETTINGS if flags & ACK == 0 => {
                    let mut out = Vec::new();
                    frame(&mut out, SETTINGS, ACK, 0, &[]);
                    return Some(Event::Reply(out));
                }
                PING if flags & ACK == 0 => {
                    let mut out = Vec::new();
                    frame(&mut out, PING, ACK, 0, &content);
                    return Some(Event::Reply(out));
                }
                HEADERS if flags & END_STREAM != 0 && stream == 1 => {
                    let text = String::from_utf8_lossy(&content).into_owned();
                    return Some(Event::Ended(format!("the stream was ended: {text}")));
                }
                GOAWAY => return Some(Event::Ended("GOAWAY".to_owned())),
                _ => {}
            }
        }
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, content: &[u8]) {
    out.extend_from_slice(&(content.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(content);
}

/// A header without indexing, its name from the static table.
fn literal(block: &mut Vec<u8>, name: Option<u8>, value: &str) {
    match name {
        Some(index) if index < 15 => block.push(index),
        Some(index) => block.extend_from_slice(&[15, index - 15]),
        None => block.push(0),
    }
    text(block, value);
}

fn named(block: &mut Vec<u8>, name: &str, value: &str) {
    block.push(0);
    text(block, name);
    text(block, value);
}

fn text(block: &mut Vec<u8>, value: &str) {
    if value.len() < 127 {
        block.push(value.len() as u8);
    } else {
        block.push(127);
        block.push((value.len() - 127) as u8);
    }
    block.extend_from_slice(value.as_bytes());
}
