//! Response frames made of encoded resources.
//!
//! A frame is a gRPC message without its nonce. Protobuf fields may come in any order, so the nonce
//! follows as a tail, and the frame, which is most of the bytes, is shared by all streams that get the same
//! response. A large one is a list of segments, which it shares with those of other views. Field numbers are those of
//! `envoy/service/discovery/v3/discovery.proto`.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes};

use crate::frame_cache::FrameCache;
use crate::resource::{Resource, Version};
use crate::resource_set::TypeSet;
use crate::rope::Rope;
use crate::segments::Segments;
use crate::subscription::Subscription;
use crate::wire::{
    DELTA_CONTROL_PLANE, DELTA_REMOVED, NONCE, SOTW_CONTROL_PLANE, TYPE_URL, VERSION_INFO,
    field_len, put_field,
};

pub use crate::frame_cache::FrameKey;

/// Hexadecimal digits of a nonce.
const NONCE_DIGITS: usize = 16;
/// The nonce field: tag, length, digits.
pub const TAIL_BYTES: usize = 2 + NONCE_DIGITS;
/// gRPC's message prefix: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// Bytes of a piece. A reader that reads less than this within the send timeout is stalled.
const PIECE_BYTES: usize = 256 << 10;

/// A smaller frame is copied together: one DATA frame has room for it.
const SEGMENTED_BYTES: usize = 16 << 10;

/// See [`FrameBuilder::shared`].
const FEW_NAMES: usize = 64;
const FEW_STREAMS: usize = 8;

/// One response, complete but for its nonce.
#[derive(Clone, Debug)]
pub struct Frame {
    /// gRPC prefix and message; the prefix' length counts the tail too.
    pub head: Rope,
    /// Bytes of it that were made for it, and not for an earlier frame that has them as well.
    pub(crate) built: usize,
    /// `version_info`, or `system_version_info` in delta.
    pub version: Version,
    /// Resources carried and names reported as removed.
    pub resources: usize,
    pub removed: usize,
}

/// Part of a message: bytes that all streams share, and after the last of them the stream's own tail.
#[derive(Clone, Debug)]
pub struct FramePiece {
    frame: Rope,
    /// Where in the frame it is.
    range: Range<usize>,
    tail: Option<[u8; TAIL_BYTES]>,
}

impl FramePiece {
    /// Bytes of the piece that are shared.
    pub fn shared_len(&self) -> usize {
        self.range.len()
    }

    /// Those of a range of them, as they lie in memory.
    pub fn shared(&self, range: Range<usize>) -> impl Iterator<Item = Bytes> + '_ {
        let limit = |at: usize| (self.range.start + at).min(self.range.end);
        self.frame.slices(limit(range.start)..limit(range.end))
    }

    /// The stream's own bytes after them: none but for the last piece.
    pub fn tail(&self) -> &[u8] {
        self.tail.as_ref().map_or(&[], |tail| &tail[..])
    }
}

/// Bytes that are no part of a frame.
impl From<Bytes> for FramePiece {
    fn from(bytes: Bytes) -> Self {
        let range = 0..bytes.len();
        Self { frame: [bytes].into_iter().collect(), range, tail: None }
    }
}

impl Frame {
    /// The message with this nonce in pieces, the tail with the last one. Pieces, so that a reader's
    /// progress can be seen.
    pub fn pieces(&self, nonce: u64) -> FramePieces {
        FramePieces { frame: self.head.clone(), sent: 0, nonce }
    }

    /// The whole message with this nonce, in one piece.
    pub fn to_bytes(&self, nonce: u64) -> Vec<u8> {
        let mut message = Vec::with_capacity(self.len());
        self.head.parts().for_each(|part| message.extend_from_slice(&part));
        message.extend_from_slice(&tail(nonce));
        message
    }

    /// Bytes that it keeps alive by itself: those that were made for it, without the segments that other responses
    /// had before.
    pub fn own_bytes(&self) -> usize {
        self.built
    }

    /// Bytes on the stream, prefix and tail included.
    pub fn len(&self) -> usize {
        self.head.len() + TAIL_BYTES
    }

    /// Never: a frame has a prefix at least.
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// The pieces of one message, see [`Frame::pieces`].
#[derive(Clone, Debug)]
pub struct FramePieces {
    frame: Rope,
    /// Bytes of it that came already.
    sent: usize,
    nonce: u64,
}

impl Iterator for FramePieces {
    type Item = FramePiece;

    fn next(&mut self) -> Option<FramePiece> {
        // A frame has a gRPC prefix, so its last piece is never empty.
        let len = self.frame.len();
        if self.sent == len {
            return None;
        }
        let range = self.sent..len.min(self.sent + PIECE_BYTES);
        self.sent = range.end;
        let tail = (range.end == len).then(|| tail(self.nonce));
        Some(FramePiece { frame: self.frame.clone(), range, tail })
    }
}

/// Builds frames, and caches those that other streams are about to need.
#[derive(Debug)]
pub struct FrameBuilder {
    /// Encoded `ControlPlane { identifier }`.
    control_plane: Vec<u8>,
    cache: FrameCache,
    segments: Segments,
}

impl FrameBuilder {
    /// `identifier` is what Envoy shows as `control_plane.identifier` (rule 23).
    pub fn new(identifier: &str) -> Self {
        let mut control_plane = Vec::new();
        put_field(&mut control_plane, 0x0a, identifier.as_bytes());
        Self { control_plane, cache: FrameCache::default(), segments: Segments::default() }
    }

    /// The frame under `key`, made of this set for this subscription; the first caller builds it. What a few names
    /// select for a few streams is built for each of them: thousands of proxies on demand have names of their own,
    /// and to keep their first responses for a while costs more than to make them.
    pub fn shared(
        &self,
        key: impl FnOnce() -> FrameKey,
        set: &Arc<TypeSet>,
        subscription: &Arc<Subscription>,
        build: impl FnOnce() -> Frame,
    ) -> Frame {
        let everything = subscription.is_wildcard() && !set.is_on_demand();
        if !everything && subscription.len() <= FEW_NAMES && subscription.streams() <= FEW_STREAMS {
            return build();
        }
        self.cache.frame(key(), set, subscription, build)
    }

    /// Drops cached frames that no stream needs any more; to be called periodically.
    pub fn sweep(&self) {
        self.cache.sweep(Instant::now());
        self.segments.sweep();
    }

    /// Bytes of all cached frames.
    pub fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// A `DiscoveryResponse`.
    pub fn sotw(&self, type_url: &str, version: Version, resources: &[&Resource]) -> Frame {
        self.message(type_url, false, version, resources, &[])
    }

    /// A `DeltaDiscoveryResponse`.
    pub fn delta(
        &self,
        type_url: &str,
        version: Version,
        resources: &[&Resource],
        removed: &[&str],
    ) -> Frame {
        self.message(type_url, true, version, resources, removed)
    }

    fn message(
        &self,
        type_url: &str,
        delta: bool,
        version: Version,
        resources: &[&Resource],
        removed: &[&str],
    ) -> Frame {
        let len = resources.iter().map(|resource| resource.field_len(delta)).sum::<usize>()
            + removed.iter().map(|name| field_len(name.len())).sum::<usize>();
        let control_plane = if delta { DELTA_CONTROL_PLANE } else { SOTW_CONTROL_PLANE };
        let mut message = self.begin_message(type_url, version, control_plane);
        if message.len() + len >= SEGMENTED_BYTES {
            return self.segmented(message, type_url, delta, version, resources, removed);
        }
        message.reserve(len);
        let fields = resources.iter().flat_map(|resource| resource.field(delta));
        fields.for_each(|field| message.put_slice(&field));
        put_removed(&mut message, removed);
        let len = message.len();
        set_prefix(&mut message, len);
        let head = message.into();
        Frame { head, built: len, version, resources: resources.len(), removed: removed.len() }
    }

    /// A message up to its resources, with room for its prefix.
    fn begin_message(&self, type_url: &str, version: Version, control_plane: u8) -> Vec<u8> {
        let version = version.to_string();
        let fixed = field_len(version.len())
            + field_len(type_url.len())
            + field_len(self.control_plane.len());
        let mut message = Vec::with_capacity(PREFIX_BYTES + fixed);
        message.put_bytes(0, PREFIX_BYTES);
        put_field(&mut message, VERSION_INFO, version.as_bytes());
        put_field(&mut message, TYPE_URL, type_url.as_bytes());
        put_field(&mut message, control_plane, &self.control_plane);
        message
    }

    fn segmented(
        &self,
        mut message: Vec<u8>,
        type_url: &str,
        delta: bool,
        version: Version,
        resources: &[&Resource],
        removed: &[&str],
    ) -> Frame {
        let segmented = self.segments.segment(type_url, delta, resources);
        let mut gone = Vec::new();
        put_removed(&mut gone, removed);
        let shared = segmented.parts.iter().map(|part| part.len()).sum::<usize>();
        let len = message.len() + gone.len() + shared;
        set_prefix(&mut message, len);
        let own = segmented.built + message.len() + gone.len();
        let [message, gone] = [message, gone].map(|own| Arc::new(Bytes::from(own)));
        let parts = [message].into_iter().chain(segmented.parts).chain([gone]);
        let head: Rope = parts.collect();
        let built = own + head.overhead();
        Frame { head, built, version, resources: resources.len(), removed: removed.len() }
    }
}

fn put_removed(message: &mut Vec<u8>, removed: &[&str]) {
    removed.iter().for_each(|name| put_field(message, DELTA_REMOVED, name.as_bytes()));
}

/// Writes gRPC's prefix of a frame of `len` bytes.
fn set_prefix(message: &mut [u8], len: usize) {
    let len = (len - PREFIX_BYTES + TAIL_BYTES) as u32;
    if let Some(prefix) = message.get_mut(1..PREFIX_BYTES) {
        prefix.copy_from_slice(&len.to_be_bytes());
    }
}

fn tail(nonce: u64) -> [u8; TAIL_BYTES] {
    std::array::from_fn(|at| match at {
        0 => NONCE,
        1 => NONCE_DIGITS as u8,
        at => b"0123456789abcdef"[(nonce >> (4 * (TAIL_BYTES - 1 - at))) as usize & 15],
    })
}

#[cfg(test)]
mod tests;
