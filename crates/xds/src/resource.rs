//! Resources, each encoded once.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::rope::Rope;
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
    name_hash: u64,
    /// A `DeltaDiscoveryResponse.resources` field with its tag: name, version, then the `Any`.
    pub(crate) entry: Rope,
    /// Where in `entry` the `Any` begins, with the tag that it has in common with
    /// `DiscoveryResponse.resources` (both are field 2).
    any_at: usize,
    /// Where the message itself begins.
    value_at: usize,
}

impl Resource {
    /// As it stands in a `DeltaDiscoveryResponse`, or in a `DiscoveryResponse`, tag included: the second is a
    /// suffix of the first.
    pub(crate) fn field(&self, delta: bool) -> impl Iterator<Item = Bytes> + '_ {
        self.entry.slices(self.field_at(delta)..self.entry.len())
    }

    pub(crate) fn field_len(&self, delta: bool) -> usize {
        self.entry.len() - self.field_at(delta)
    }

    fn field_at(&self, delta: bool) -> usize {
        if delta { 0 } else { self.any_at }
    }

    /// The encoded message itself: a copy, if it is made of several parts.
    pub fn value(&self) -> Bytes {
        self.entry.contiguous(self.value_at..self.entry.len())
    }

    /// Bytes of the encoded message.
    pub fn value_len(&self) -> usize {
        self.entry.len() - self.value_at
    }
}

impl Resource {
    /// Encodes a message. `name` must be the name that is inside it.
    pub fn new(type_url: impl AsRef<str>, name: Arc<str>, message: &impl Message) -> Arc<Self> {
        Self::from_encoded(type_url, name, &message.encode_to_vec())
    }

    /// From a message that is encoded already.
    pub fn from_encoded(type_url: impl AsRef<str>, name: Arc<str>, message: &[u8]) -> Arc<Self> {
        let version = Version(xxh3_64(message));
        let (mut entry, any_at) = begin_entry(type_url.as_ref(), &name, version, message.len());
        let value_at = entry.len();
        entry.extend_from_slice(message);
        Arc::new(Self::with_entry(name, version, entry.into(), any_at, value_at))
    }

    /// From the parts of an encoded message, which other resources may share. The same as
    /// [`Self::from_encoded`] of them in a row.
    pub fn from_parts(type_url: impl AsRef<str>, name: Arc<str>, parts: Vec<Bytes>) -> Arc<Self> {
        let mut hash = Xxh3::new();
        parts.iter().for_each(|part| hash.update(part));
        let version = Version(hash.digest());
        let len = parts.iter().map(Bytes::len).sum();
        let (head, any_at) = begin_entry(type_url.as_ref(), &name, version, len);
        let value_at = head.len();
        // What the head was given room for is in the parts.
        let head = Bytes::from(head.into_boxed_slice());
        let entry = [head].into_iter().chain(parts).collect();
        Arc::new(Self::with_entry(name, version, entry, any_at, value_at))
    }

    fn with_entry(
        name: Arc<str>,
        version: Version,
        entry: Rope,
        any_at: usize,
        value_at: usize,
    ) -> Self {
        let name_hash = xxh3_64(name.as_bytes());
        Self { name, version, name_hash, entry, any_at, value_at }
    }
}

/// An entry up to the message of `len` bytes, with room for that, and where in it the `Any` begins.
fn begin_entry(type_url: &str, name: &str, version: Version, len: usize) -> (Vec<u8>, usize) {
    let version = version.to_string();
    // Any { type_url = 1, value = 2 }
    let any_len = field_len(type_url.len()) + field_len(len);
    let entry_len = field_len(name.len()) + field_len(version.len()) + field_len(any_len);
    let mut entry = Vec::with_capacity(header_len(entry_len) + entry_len);
    put_field_header(&mut entry, RESOURCES, entry_len);
    put_field(&mut entry, RESOURCE_NAME, name.as_bytes());
    put_field(&mut entry, VERSION_INFO, version.as_bytes());
    // The Any comes last so that a state-of-the-world entry is a suffix of this one.
    let any_at = entry.len();
    put_field_header(&mut entry, RESOURCES, any_len);
    put_field(&mut entry, 0x0a, type_url.as_bytes());
    put_field_header(&mut entry, 0x12, len);
    (entry, any_at)
}

impl Resource {
    /// The resource's summand in the digest of a set: its name and its content.
    pub fn digest(&self) -> u64 {
        // Multiplying keeps equal content under two names apart when digests are summed.
        self.version.0.wrapping_mul(self.name_hash | 1)
    }

    /// A hash of the name alone.
    pub(crate) fn name_hash(&self) -> u64 {
        self.name_hash
    }
}

impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.name == other.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ServedType;

    #[test]
    fn a_resource_of_parts_is_that_of_the_same_bytes() {
        let url = ServedType::ROUTE.type_url;
        let message = [b'm'; 1000];
        let whole = Resource::from_encoded(url, "r".into(), &message);
        for cuts in [&[][..], &[0], &[1, 500], &[240, 241, 999]] {
            let mut rest = Bytes::copy_from_slice(&message);
            let mut parts = Vec::new();
            for (cut, before) in cuts.iter().zip([0].iter().chain(cuts)) {
                parts.push(rest.split_to(cut - before));
            }
            parts.push(rest);
            let made = Resource::from_parts(url, "r".into(), parts);
            assert_eq!((&made.version, &made.entry), (&whole.version, &whole.entry), "{cuts:?}");
            assert_eq!(made.value(), whole.value());
            assert_eq!((made.value_len(), made.digest()), (message.len(), whole.digest()));
            assert_eq!(
                made.field(false).collect::<Vec<_>>().concat(),
                whole.field(false).collect::<Vec<_>>().concat()
            );
        }
    }
}
