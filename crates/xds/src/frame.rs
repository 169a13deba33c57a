//! Response frames made of encoded resources.
//!
//! A frame is a gRPC message without its nonce. Protobuf fields may come in any order, so the nonce
//! follows as a tail, and the frame, which is most of the bytes, is one [`Bytes`] shared by all streams
//! that get the same response. Field numbers are those of
//! `envoy/service/discovery/v3/discovery.proto`.

use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes};

use crate::frame_cache::FrameCache;
use crate::resource::{Resource, Version};
use crate::resource_set::TypeSet;
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

/// One response, complete but for its nonce.
#[derive(Clone, Debug)]
pub struct Frame {
    /// gRPC prefix and message; the prefix' length counts the tail too.
    pub head: Bytes,
    /// `version_info`, or `system_version_info` in delta.
    pub version: Version,
    /// Resources carried and names reported as removed.
    pub resources: usize,
    pub removed: usize,
}

/// Part of a message: bytes that all streams share, and after the last of them the stream's own tail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FramePiece {
    pub shared: Bytes,
    pub tail: Option<[u8; TAIL_BYTES]>,
}

impl Frame {
    /// The message with this nonce in pieces, the tail with the last one. Pieces, so that a reader's
    /// progress can be seen.
    pub fn pieces(&self, nonce: u64) -> FramePieces {
        FramePieces { rest: self.head.clone(), nonce }
    }

    /// The whole message with this nonce, in one piece.
    pub fn to_bytes(&self, nonce: u64) -> Vec<u8> {
        [&self.head, &tail(nonce)[..]].concat()
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
    rest: Bytes,
    nonce: u64,
}

impl Iterator for FramePieces {
    type Item = FramePiece;

    fn next(&mut self) -> Option<FramePiece> {
        // A frame has a gRPC prefix, so its last piece is never empty.
        if self.rest.is_empty() {
            return None;
        }
        let shared = self.rest.split_to(self.rest.len().min(PIECE_BYTES));
        Some(FramePiece { shared, tail: self.rest.is_empty().then(|| tail(self.nonce)) })
    }
}

/// Builds frames, and caches those that other streams are about to need.
#[derive(Debug)]
pub struct FrameBuilder {
    /// Encoded `ControlPlane { identifier }`.
    control_plane: Vec<u8>,
    cache: FrameCache,
}

impl FrameBuilder {
    /// `identifier` is what Envoy shows as `control_plane.identifier` (rule 23).
    pub fn new(identifier: &str) -> Self {
        let mut control_plane = Vec::new();
        put_field(&mut control_plane, 0x0a, identifier.as_bytes());
        Self { control_plane, cache: FrameCache::default() }
    }

    /// The frame under `key`, made of this set for this subscription; the first caller builds it.
    pub fn shared(
        &self,
        key: FrameKey,
        set: &Arc<TypeSet>,
        subscription: &Arc<Subscription>,
        build: impl FnOnce() -> Frame,
    ) -> Frame {
        self.cache.frame(key, set, subscription, build)
    }

    /// Drops cached frames that no stream needs any more; to be called periodically.
    pub fn sweep(&self) {
        self.cache.sweep(Instant::now());
    }

    /// Bytes of all cached frames.
    pub fn cached_bytes(&self) -> usize {
        self.cache.bytes()
    }

    /// A `DiscoveryResponse`.
    pub fn sotw(&self, type_url: &str, version: Version, resources: &[&Resource]) -> Frame {
        let len = resources.iter().map(|resource| resource.sotw_field().len()).sum();
        let mut message = self.begin_message(type_url, version, len, SOTW_CONTROL_PLANE);
        for resource in resources {
            message.put_slice(resource.sotw_field());
        }
        Self::finish_message(message, version, resources.len(), 0)
    }

    /// A `DeltaDiscoveryResponse`.
    pub fn delta(
        &self,
        type_url: &str,
        version: Version,
        resources: &[&Resource],
        removed: &[&str],
    ) -> Frame {
        let len = resources.iter().map(|resource| resource.delta_field().len()).sum::<usize>()
            + removed.iter().map(|name| field_len(name.len())).sum::<usize>();
        let mut message = self.begin_message(type_url, version, len, DELTA_CONTROL_PLANE);
        for resource in resources {
            message.put_slice(resource.delta_field());
        }
        for name in removed {
            put_field(&mut message, DELTA_REMOVED, name.as_bytes());
        }
        Self::finish_message(message, version, resources.len(), removed.len())
    }

    fn begin_message(
        &self,
        type_url: &str,
        version: Version,
        more: usize,
        control_plane: u8,
    ) -> Vec<u8> {
        let version = version.to_string();
        let fixed = field_len(version.len())
            + field_len(type_url.len())
            + field_len(self.control_plane.len());
        let mut message = Vec::with_capacity(PREFIX_BYTES + fixed + more);
        message.put_bytes(0, PREFIX_BYTES);
        put_field(&mut message, VERSION_INFO, version.as_bytes());
        put_field(&mut message, TYPE_URL, type_url.as_bytes());
        put_field(&mut message, control_plane, &self.control_plane);
        message
    }

    fn finish_message(
        mut message: Vec<u8>,
        version: Version,
        resources: usize,
        removed: usize,
    ) -> Frame {
        let len = (message.len() - PREFIX_BYTES + TAIL_BYTES) as u32;
        if let Some(prefix) = message.get_mut(1..PREFIX_BYTES) {
            prefix.copy_from_slice(&len.to_be_bytes());
        }
        Frame { head: message.into(), version, resources, removed }
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
