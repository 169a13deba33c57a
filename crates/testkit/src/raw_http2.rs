//! As much HTTP/2 and gRPC as the benchmark's ends need: one POST, its messages both ways. The
//! clients share the processors with the server that is measured, so they must cost next to
//! nothing: what arrives is looked at where it lies and never put together.

use bytes::BufMut;
use pilothouse::names::ResourceType;

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
/// What a peer takes that says nothing else, Envoy for instance.
const MAX_FRAME: usize = 16_384;

/// What a client's connection begins with: windows as wide as they can be, and the request's head.
pub fn opening(path: &str) -> Vec<u8> {
    let mut out = PREFACE.to_vec();
    // SETTINGS_INITIAL_WINDOW_SIZE (4)
    frame(&mut out, SETTINGS, 0, 0, &[0, 4, 0x7f, 0xff, 0xff, 0xff]);
    frame(&mut out, WINDOW_UPDATE, 0, 0, &(0x7fff_ffff_u32 - 65_535).to_be_bytes());
    let mut block = vec![0x83, 0x86]; // :method POST, :scheme http
    literal(&mut block, Some(4), path); // :path
    literal(&mut block, Some(1), "bench"); // :authority
    literal(&mut block, Some(31), "application/grpc"); // content-type
    block.push(0);
    text(&mut block, "te");
    text(&mut block, "trailers");
    frame(&mut out, HEADERS, END_HEADERS, 1, &block);
    out
}

/// What a server begins with that decides nothing: settings and the response's head.
pub fn greeting() -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, SETTINGS, 0, 0, &[]);
    let mut block = vec![0x88]; // :status 200
    literal(&mut block, Some(31), "application/grpc");
    frame(&mut out, HEADERS, END_HEADERS, 1, &block);
    out
}

/// A gRPC message in DATA frames.
pub fn message(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let mut all = Vec::with_capacity(len + 5);
    all.put_u8(0);
    all.put_u32(len as u32);
    for part in parts {
        all.extend_from_slice(part);
    }
    data(out, &all);
}

/// Bytes of the stream, whatever they mean, in DATA frames.
pub fn data(out: &mut Vec<u8>, content: &[u8]) {
    for piece in content.chunks(MAX_FRAME) {
        frame(out, DATA, 0, 1, piece);
    }
}

/// A whole response arrived.
#[derive(Clone, Debug, Default)]
pub struct Response {
    pub of: Option<ResourceType>,
    pub version: String,
    pub nonce: String,
    pub bytes: usize,
}

/// Cuts the bytes of a connection into frames, and those into messages.
#[derive(Debug, Default)]
pub struct Reader {
    /// Of the frame that is being read.
    head: Vec<u8>,
    left: usize,
    /// What it carries, unless that is data.
    control: Vec<u8>,
    message: Message,
}

impl Reader {
    /// Takes bytes in. `out` gets what must be answered at once (settings and pings).
    ///
    /// # Errors
    /// The server ended the stream or the connection.
    pub fn receive(
        &mut self,
        mut bytes: &[u8],
        out: &mut Vec<u8>,
        mut arrived: impl FnMut(Response, &mut Vec<u8>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            if self.head.len() < 9 {
                let part = split(&mut bytes, 9 - self.head.len());
                self.head.extend_from_slice(part);
                if self.head.len() < 9 {
                    return Ok(());
                }
                self.left =
                    u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
            }
            let part = split(&mut bytes, self.left);
            self.left -= part.len();
            if self.head[3] == DATA {
                self.message.receive(part, |response| arrived(response, out))?;
            } else {
                self.control.extend_from_slice(part);
            }
            if self.left == 0 {
                self.frame(out)?;
                self.head.clear();
                self.control.clear();
            }
        }
        Ok(())
    }

    fn frame(&mut self, out: &mut Vec<u8>) -> anyhow::Result<()> {
        let (kind, flags, stream) = (self.head[3], self.head[4], self.head[8]);
        match kind {
            SETTINGS if flags & ACK == 0 => frame(out, SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => frame(out, PING, ACK, 0, &self.control),
            HEADERS if flags & END_STREAM != 0 && stream == 1 => {
                anyhow::bail!("the stream was ended: {}", String::from_utf8_lossy(&self.control))
            }
            GOAWAY => anyhow::bail!("GOAWAY"),
            _ => {}
        }
        Ok(())
    }
}

/// What of a message comes next.
#[derive(Debug, Default)]
enum Next {
    #[default]
    Prefix,
    /// A field's tag and length.
    Field,
    /// A field's content, and whether it is wanted.
    Content { field: u8, left: usize },
}

/// Discovery responses of either variant, of which the top level's fields 1 (version), 4 (type)
/// and 5 (nonce) are looked at.
#[derive(Debug, Default)]
struct Message {
    next: Next,
    small: Vec<u8>,
    left: usize,
    response: Response,
}

impl Message {
    fn receive(
        &mut self,
        mut bytes: &[u8],
        mut arrived: impl FnMut(Response) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        while !bytes.is_empty() {
            match self.next {
                Next::Prefix => {
                    let part = split(&mut bytes, 5 - self.small.len());
                    self.small.extend_from_slice(part);
                    if let [_, a, b, c, d] = self.small[..] {
                        self.left = u32::from_be_bytes([a, b, c, d]) as usize;
                        self.response.bytes = self.left + 5;
                        self.next = Next::Field;
                        self.small.clear();
                    }
                    continue;
                }
                Next::Field => {
                    self.small.extend_from_slice(split(&mut bytes, 1));
                    self.left -= 1;
                    if let [tag, len @ ..] = &self.small[..]
                        && len.last().is_some_and(|last| *last < 0x80)
                    {
                        let left = len
                            .iter()
                            .rev()
                            .fold(0, |sum, byte| sum << 7 | usize::from(byte & 0x7f));
                        self.next = Next::Content { field: tag >> 3, left };
                        self.small.clear();
                    }
                }
                Next::Content { field, ref mut left } => {
                    let part = split(&mut bytes, *left);
                    *left -= part.len();
                    self.left -= part.len();
                    if matches!(field, 1 | 4 | 5) {
                        self.small.extend_from_slice(part);
                    }
                    if *left == 0 {
                        let text = std::str::from_utf8(&self.small)?;
                        match field {
                            1 => self.response.version = text.to_owned(),
                            4 => self.response.of = ResourceType::from_type_url(text),
                            5 => self.response.nonce = text.to_owned(),
                            _ => {}
                        }
                        self.small.clear();
                        self.next = Next::Field;
                    }
                }
            }
            if self.left == 0 {
                self.next = Next::Prefix;
                arrived(std::mem::take(&mut self.response))?;
            }
        }
        Ok(())
    }
}

/// At most `len` bytes off the front.
fn split<'a>(bytes: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (part, rest) = bytes.split_at(len.min(bytes.len()));
    *bytes = rest;
    part
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

fn text(block: &mut Vec<u8>, value: &str) {
    if value.len() < 127 {
        block.push(value.len() as u8);
    } else {
        block.push(127);
        block.push((value.len() - 127) as u8);
    }
    block.extend_from_slice(value.as_bytes());
}
