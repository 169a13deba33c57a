//! Resources, each encoded once.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use crate::wire::{
    RESOURCE_NAME, RESOURCES, VERSION_INFO, field_len, header_len, put_field, put_field_header,
};

/// A content hash. Equal content has an equal version on every replica and after every restart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Version(pub u64);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// One encoded resource.
#[derive(Debug)]
pub struct Resource {
    pub name: Arc<str>,
    pub version: Version,
    /// A `DeltaDiscoveryResponse.resources` field with its tag: name, version, then the `Any`.
    pub(crate) entry: Bytes,
    /// Where in `entry` the `Any` begins, with the tag that it has in common with
    /// `DiscoveryResponse.resources` (both are field 2).
    any_at: usize,
    /// Where the message itself begins.
    value_at: usize,
}

impl Resource {
    /// As it stands in a `DeltaDiscoveryResponse`, tag included.
    pub fn delta_field(&self) -> &[u8] {
        &self.entry
    }

    /// The encoded message itself.
    pub fn value(&self) -> &[u8] {
        self.entry.get(self.value_at..).unwrap_or_default()
    }

    /// As it stands in a `DiscoveryResponse`, tag included: a suffix of the same bytes.
    pub fn sotw_field(&self) -> &[u8] {
        self.entry.get(self.any_at..).unwrap_or_default()
    }
}

impl Resource {
    /// Encodes a message. `name` must be the name that is inside it.
    pub fn new(type_url: impl AsRef<str>, name: Arc<str>, message: &impl Message) -> Arc<Self> {
        Self::from_encoded(type_url, name, &message.encode_to_vec())
    }

    /// From a message that is encoded already.
    pub fn from_encoded(type_url: impl AsRef<str>, name: Arc<str>, message: &[u8]) -> Arc<Self> {
        let type_url = type_url.as_ref();
        let version = Version(xxhash_rust::xxh3::xxh3_64(message));
        let version_text = version.to_string();

        // Any { type_url = 1, value = 2 }
        let any_len = field_len(type_url.len()) + field_len(message.len());
        let entry_len = field_len(name.len()) + field_len(version_text.len()) + field_len(any_len);
        let mut entry = Vec::with_capacity(field_len(entry_len));
        put_field_header(&mut entry, RESOURCES, entry_len);
        put_field(&mut entry, RESOURCE_NAME, name.as_bytes());
        put_field(&mut entry, VERSION_INFO, version_text.as_bytes());
        // The Any comes last so that a state-of-the-world entry is a suffix of this one.
        let any_at = entry.len();
        put_field_header(&mut entry, RESOURCES, any_len);
        put_field(&mut entry, 0x0a, type_url.as_bytes());
        let value_at = entry.len() + header_len(message.len());
        put_field(&mut entry, 0x12, message);
        Arc::new(Self { name, version, entry: entry.into(), any_at, value_at })
    }
}

impl Resource {
    /// The resource's summand in the digest of a set: its name and its content.
    pub fn digest(&self) -> u64 {
        // Multiplying keeps equal content under two names apart when digests are summed.
        self.version.0.wrapping_mul(xxhash_rust::xxh3::xxh3_64(self.name.as_bytes()) | 1)
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.name == other.name
    }
}
