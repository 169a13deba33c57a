//! The bytes on the wire: resources, and the frames made of them.
//!
//! A frame is a gRPC message without its nonce. Protobuf fields may stand in any order, so the
//! nonce follows as a tail of its own and the frame, which is most of the bytes, is one [`Bytes`]
//! shared by every stream that is sent the same thing. Field numbers are those of
//! `envoy/service/discovery/v3/discovery.proto`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use bytes::{BufMut, Bytes};
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

use super::{Diff, Resource, TypeSet, Version};
use crate::names::ResourceType;

/// Tags of length-delimited fields: number << 3 | 2.
const VERSION_INFO: u8 = 0x0a; // 1, both variants; a Resource's version as well
const RESOURCES: u8 = 0x12; // 2, both variants; a Resource's Any as well
const RESOURCE_NAME: u8 = 0x1a; // 3
const TYPE_URL: u8 = 0x22; // 4, both variants
const NONCE: u8 = 0x2a; // 5, both variants
const SOTW_CONTROL_PLANE: u8 = 0x32; // 6
const DELTA_REMOVED: u8 = 0x32; // 6
const DELTA_CONTROL_PLANE: u8 = 0x3a; // 7

/// Hexadecimal digits of a nonce.
const NONCE_DIGITS: usize = 16;
/// The nonce field: tag, length, digits.
pub const TAIL_BYTES: usize = 2 + NONCE_DIGITS;
/// gRPC's message prefix: compression flag and length.
const PREFIX_BYTES: usize = 5;

/// What a peer's HTTP/2 takes in one frame unless it says otherwise, and Envoy does not.
const DATA_FRAME: usize = 16_384;
/// What is worth less than a frame, and a write to the socket, of its own.
const COPIED: usize = 4096;
/// A slow reader is one that takes less than this within the send deadline.
const PIECE: usize = 16 * DATA_FRAME;

/// Frames of one set are forgotten together once they take more than this, bytes: building one
/// again is a copy, keeping every one would grow with the number of different subscriptions.
const CACHED_BYTES: usize = 16 << 20;

impl Resource {
    /// Encodes a message. `name` must be the name that is inside it.
    pub fn new(of: ResourceType, name: Arc<str>, message: &impl Message) -> Arc<Self> {
        Self::from_encoded(of, name, &message.encode_to_vec())
    }

    /// From a message that is encoded already.
    pub fn from_encoded(of: ResourceType, name: Arc<str>, message: &[u8]) -> Arc<Self> {
        let version = Version(xxhash_rust::xxh3::xxh3_64(message));
        let version_text = version.to_string();

        // Any { type_url = 1, value = 2 }
        let any_len = field_len(of.type_url().len()) + field_len(message.len());
        let entry_len = field_len(name.len()) + field_len(version_text.len()) + field_len(any_len);
        let mut entry = Vec::with_capacity(field_len(entry_len));
        put_header(&mut entry, RESOURCES, entry_len);
        put_field(&mut entry, RESOURCE_NAME, name.as_bytes());
        put_field(&mut entry, VERSION_INFO, version_text.as_bytes());
        // The Any comes last so that a state-of-the-world entry is a suffix of this one.
        let any_at = entry.len();
        put_header(&mut entry, RESOURCES, any_len);
        put_field(&mut entry, 0x0a, of.type_url().as_bytes());
        let value_at = entry.len() + header_len(message.len());
        put_field(&mut entry, 0x12, message);
        Arc::new(Self { name, version, entry: entry.into(), any_at, value_at })
    }
}

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

impl Frame {
    /// The whole message with this nonce. What is shared comes as slices of `head`; its last few
    /// bytes are copied to the nonce's, so that most responses are one DATA frame and one write.
    /// In more than one piece, so that a reader's progress can be seen.
    pub fn pieces(&self, nonce: u64) -> impl Iterator<Item = Bytes> + use<> {
        let full = self.head.len() / DATA_FRAME * DATA_FRAME;
        let shared = if self.head.len() - full <= COPIED { full } else { self.head.len() };
        let mut last = Vec::with_capacity(self.head.len() - shared + TAIL_BYTES);
        last.extend_from_slice(self.head.get(shared..).unwrap_or_default());
        put_tail(&mut last, nonce);
        let head = self.head.clone();
        let starts = (0..shared).step_by(PIECE);
        let pieces = starts.map(move |at| head.slice(at..shared.min(at + PIECE)));
        pieces.chain([Bytes::from(last)])
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

/// Builds frames; holds the one field that is the same in all of them.
#[derive(Debug)]
pub struct FrameBuilder {
    /// Encoded `ControlPlane { identifier }`.
    control_plane: Vec<u8>,
}

impl FrameBuilder {
    /// `identifier` is what Envoy shows as `control_plane.identifier` (rule 23).
    pub fn new(identifier: &str) -> Self {
        let mut control_plane = Vec::new();
        put_field(&mut control_plane, 0x0a, identifier.as_bytes());
        Self { control_plane }
    }

    /// A `DiscoveryResponse`.
    pub fn sotw(&self, type_url: &str, version: Version, resources: &[&Resource]) -> Frame {
        let len = resources.iter().map(|one| one.sotw_field().len()).sum();
        let mut message = self.begin(type_url, version, len, SOTW_CONTROL_PLANE);
        for resource in resources {
            message.put_slice(resource.sotw_field());
        }
        Self::finish(message, version, resources.len(), 0)
    }

    /// A `DeltaDiscoveryResponse`.
    pub fn delta(
        &self,
        type_url: &str,
        version: Version,
        resources: &[&Resource],
        removed: &[&str],
    ) -> Frame {
        let len = resources.iter().map(|one| one.delta_field().len()).sum::<usize>()
            + removed.iter().map(|name| field_len(name.len())).sum::<usize>();
        let mut message = self.begin(type_url, version, len, DELTA_CONTROL_PLANE);
        for resource in resources {
            message.put_slice(resource.delta_field());
        }
        for name in removed {
            put_field(&mut message, DELTA_REMOVED, name.as_bytes());
        }
        Self::finish(message, version, resources.len(), removed.len())
    }

    fn begin(&self, type_url: &str, version: Version, more: usize, control_plane: u8) -> Vec<u8> {
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

    fn finish(mut message: Vec<u8>, version: Version, resources: usize, removed: usize) -> Frame {
        let len = (message.len() - PREFIX_BYTES + TAIL_BYTES) as u32;
        if let Some(prefix) = message.get_mut(1..PREFIX_BYTES) {
            prefix.copy_from_slice(&len.to_be_bytes());
        }
        Frame { head: message.into(), version, resources, removed }
    }
}

/// What makes two responses equal: the variant, who asks, and the way from one set to another.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrameKey {
    pub delta: bool,
    /// [`crate::subscription::Subscription::id`].
    pub subscription: u64,
    /// Everything subscribed is told.
    pub all: bool,
    /// Pairs of set ids whose differences are told.
    pub steps: Vec<(u64, u64)>,
}

/// What has been made of a set so far; dies with the set.
#[derive(Debug, Default)]
pub struct FrameCache {
    // Std mutexes, held for a look-up; the building happens outside, once, behind the OnceLock.
    frames: Mutex<Frames>,
    diffs: Mutex<HashMap<u64, Arc<OnceLock<Diff>>>>,
    kept: Mutex<HashMap<u64, Arc<TypeSet>>>,
}

#[derive(Debug, Default)]
struct Frames {
    by_key: HashMap<FrameKey, Arc<OnceLock<Frame>>>,
    bytes: usize,
}

impl TypeSet {
    /// The frame under `key`, built by whoever asks first.
    pub fn frame(&self, key: FrameKey, build: impl FnOnce() -> Frame) -> Frame {
        let cell = {
            let mut guard = self.frames.frames.lock().unwrap_or_else(PoisonError::into_inner);
            guard.by_key.entry(key).or_default().clone()
        };
        let mut built = 0;
        let frame = cell
            .get_or_init(|| {
                let frame = build();
                built = frame.len();
                frame
            })
            .clone();
        if built > 0 {
            let mut guard = self.frames.frames.lock().unwrap_or_else(PoisonError::into_inner);
            guard.bytes += built;
            if guard.bytes > CACHED_BYTES {
                *guard = Frames::default();
            }
        }
        frame
    }

    /// [`Self::diff`] from `older` to this set, worked out once for all streams that make this
    /// step.
    pub fn diff_from(&self, older: &Self) -> SharedDiff {
        let cell = {
            let mut diffs = self.frames.diffs.lock().unwrap_or_else(PoisonError::into_inner);
            diffs.entry(older.id()).or_default().clone()
        };
        cell.get_or_init(|| older.diff(self));
        SharedDiff(cell)
    }

    /// This set together with what `older` has and it has not: one set for all streams that make
    /// this step, so that their frames are shared as well.
    pub fn keeping(self: &Arc<Self>, older: &Self) -> Arc<Self> {
        let diff = self.diff_from(older);
        if diff.removed.is_empty() {
            return self.clone();
        }
        let mut kept = self.frames.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = diff.removed.iter().map(|name| (name.clone(), older.get(name).cloned()));
        kept.entry(older.id()).or_insert_with(|| self.with(removed)).clone()
    }
}

/// A difference that all streams share.
#[derive(Clone, Debug)]
pub struct SharedDiff(Arc<OnceLock<Diff>>);

impl std::ops::Deref for SharedDiff {
    type Target = Diff;

    fn deref(&self) -> &Diff {
        static NOTHING: Diff = Diff { changed: Vec::new(), removed: Vec::new() };
        self.0.get().unwrap_or(&NOTHING)
    }
}

fn put_tail(into: &mut Vec<u8>, nonce: u64) {
    into.extend_from_slice(&[NONCE, NONCE_DIGITS as u8]);
    let digit = |at: usize| b"0123456789abcdef"[(nonce >> (60 - 4 * at)) as usize & 15];
    into.extend((0..NONCE_DIGITS).map(digit));
}

fn header_len(content: usize) -> usize {
    1 + encoded_len_varint(content as u64)
}

fn field_len(content: usize) -> usize {
    header_len(content) + content
}

fn put_header(into: &mut Vec<u8>, tag: u8, len: usize) {
    into.push(tag);
    encode_varint(len as u64, into);
}

fn put_field(into: &mut Vec<u8>, tag: u8, content: &[u8]) {
    put_header(into, tag, content.len());
    into.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
    use envoy_types::pb::envoy::service::discovery::v3::{
        DeltaDiscoveryResponse, DiscoveryResponse,
    };

    use super::*;

    fn load_assignment(name: &str) -> Arc<Resource> {
        let message = ClusterLoadAssignment { cluster_name: name.to_owned(), ..Default::default() };
        Resource::new(ResourceType::Endpoint, name.into(), &message)
    }

    fn message(frame: &Frame, nonce: u64) -> Vec<u8> {
        let mut bytes = frame.pieces(nonce).collect::<Vec<_>>().concat();
        let len = u32::from_be_bytes(bytes[1..5].try_into().unwrap()) as usize;
        assert_eq!((bytes[0], len), (0, bytes.len() - 5), "gRPC prefix");
        bytes.split_off(5)
    }

    #[test]
    fn both_variants_decode_to_the_same_resource() {
        let frames = FrameBuilder::new("me");
        let resource = load_assignment("a");
        let url = ResourceType::Endpoint.type_url();
        let list = [&*resource];

        let frame = frames.sotw(url, Version(7), &list);
        let sotw = DiscoveryResponse::decode(&*message(&frame, 0xab)).unwrap();
        assert_eq!(sotw.version_info, "0000000000000007");
        assert_eq!((sotw.type_url.as_str(), sotw.nonce.as_str()), (url, "00000000000000ab"));
        assert_eq!(sotw.control_plane.unwrap().identifier, "me");
        let any = sotw.resources.first().unwrap();
        assert_eq!(any.type_url, url);
        assert_eq!(ClusterLoadAssignment::decode(&*any.value).unwrap().cluster_name, "a");
        assert_eq!(resource.value(), &*any.value);

        let frame = frames.delta(url, Version(7), &list, &["gone"]);
        let delta = DeltaDiscoveryResponse::decode(&*message(&frame, 1)).unwrap();
        assert_eq!(delta.removed_resources, ["gone"]);
        assert_eq!(delta.control_plane.unwrap().identifier, "me");
        let entry = delta.resources.first().unwrap();
        assert_eq!((entry.name.as_str(), &entry.version), ("a", &resource.version.to_string()));
        assert_eq!(entry.resource.as_ref().unwrap(), any);
    }

    #[test]
    fn a_message_is_few_pieces_and_shares_all_but_its_end() {
        let pieces = |len: usize| {
            let head = Bytes::from(vec![b'x'; len]);
            let frame = Frame { head, version: Version(0), resources: 0, removed: 0 };
            let pieces: Vec<Bytes> = frame.pieces(0xfedc_ba98_7654_3210).collect();
            let all = pieces.concat();
            assert_eq!(all.len(), frame.len());
            assert!(all.ends_with(b"\x2a\x10fedcba9876543210"));
            pieces.iter().map(Bytes::len).collect::<Vec<_>>()
        };
        assert_eq!(pieces(100), [118]);
        assert_eq!(pieces(COPIED), [COPIED + 18]);
        assert_eq!(pieces(COPIED + 1), [COPIED + 1, 18]);
        assert_eq!(pieces(DATA_FRAME + 7), [DATA_FRAME, 25]);
        assert_eq!(pieces(2 * PIECE + 7), [PIECE, PIECE, 25]);
        assert_eq!(pieces(PIECE - 1), [PIECE - 1, 18]);
    }

    #[test]
    fn sets_know_their_digest_and_difference() {
        let (a, b) = (load_assignment("a"), load_assignment("b"));
        let put = |one: &Arc<Resource>| (one.name.clone(), Some(one.clone()));
        let empty = Arc::new(TypeSet::default());
        let one_way = empty.with([put(&a)]).with([put(&b)]);
        let other_way = empty.with([put(&b), put(&a)]);
        assert_eq!(one_way.version(), other_way.version());
        assert_eq!(one_way.bytes(), other_way.bytes());
        assert!(Arc::ptr_eq(&one_way, &one_way.with([put(&a)])), "nothing changed");

        let less = one_way.with([("a".into(), None), ("never there".into(), None)]);
        let diff = less.diff_from(&one_way);
        assert_eq!((diff.changed.len(), &*diff.removed), (0, &["a".into()][..]));
        let back = less.with([put(&a)]);
        assert_eq!(back.version(), one_way.version());
        assert_eq!(back.diff_from(&less).changed, [a]);
    }
}
