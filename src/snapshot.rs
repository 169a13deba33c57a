//! The resources that proxies are sent, encoded once and immutable.
//!
//! A [`Resource`] is encoded when it changes and never again; a [`TypeSet`] is all resources of one type
//! in one view; a [`View`] is the four sets of one kind of proxy; a [`Snapshot`] is every view at one
//! moment. Sets are persistent maps, so a new snapshot shares what did not change, and the difference
//! between two sets is found without walking what they share.
//!
//! Uses `names`, `view` and `subscription`; knows nothing of the model, of streams or of async.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use bytes::Bytes;
use imbl::OrdMap;

use crate::names::ResourceType;
use crate::view::ViewKey;

mod diff_cache;
pub mod encode;
mod frame_cache;

pub use diff_cache::SharedDiff;

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
    entry: Bytes,
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

/// All resources of one type in one view. Two sets with the same content are the same `Arc`
/// wherever that can be arranged, so most comparisons are of pointers.
#[derive(Debug)]
pub struct TypeSet {
    /// Unique within the process; key of cached frames and differences.
    id: u64,
    resources: OrdMap<Arc<str>, Arc<Resource>>,
    /// Sum of the resources' [`Resource::digest`]s: order does not matter, one change costs one
    /// subtraction and one addition.
    digest: u64,
    /// Encoded size of all resources, bytes.
    bytes: usize,
    diffs: diff_cache::DiffCache,
}

/// The difference between two sets.
#[derive(Debug, Default)]
pub struct Diff {
    /// Added or changed, in the order of their names.
    pub changed: Vec<Arc<Resource>>,
    pub removed: Vec<Arc<str>>,
}

/// The resources of one kind of proxy.
#[derive(Clone, Debug)]
pub struct View {
    sets: [Arc<TypeSet>; ResourceType::COUNT],
}

/// Two services claim the same listener or port; the kinds are Istio's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConflictKind {
    /// Between two TCP services.
    TcpOverTcp,
    /// A TCP service's, taken by HTTP services.
    TcpOverHttp,
    /// A workload's port that two services call by different protocols.
    Inbound,
}

impl ConflictKind {
    pub const ALL: [Self; 3] = [Self::TcpOverTcp, Self::TcpOverHttp, Self::Inbound];

    /// Istio's name for the number of them.
    pub fn metric(self) -> &'static str {
        match self {
            Self::TcpOverTcp => "pilot_conflict_outbound_listener_tcp_over_current_tcp",
            Self::TcpOverHttp => "pilot_conflict_outbound_listener_tcp_over_current_http",
            Self::Inbound => "pilot_conflict_inbound_listener",
        }
    }

    /// What that metric says.
    pub fn help(self) -> &'static str {
        match self {
            Self::TcpOverTcp => {
                "TCP services without a listener because another TCP service has it"
            }
            Self::TcpOverHttp => "TCP services without a listener because HTTP services have it",
            Self::Inbound => {
                "Ports of workloads that a service calls by another protocol than an earlier one"
            }
        }
    }
}

/// A listener or port that a service does not get.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Conflict {
    pub kind: ConflictKind,
    /// The listener's name; for [`ConflictKind::Inbound`] the workload's port.
    pub place: Arc<str>,
    /// `NAMESPACE/NAME` of the service.
    pub loser: Arc<str>,
}

/// All conflicts in a snapshot, each with a sentence for people.
pub type Conflicts = OrdMap<Conflict, Arc<str>>;

/// Every view at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Counts the snapshots published by this process; for people and ordering, not content.
    pub generation: u64,
    /// When the source sent the first of the changes that are new in this snapshot.
    pub since: Option<Instant>,
    pub views: HashMap<ViewKey, Arc<View>>,
    pub conflicts: Conflicts,
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

impl Default for TypeSet {
    fn default() -> Self {
        Self::from_map(OrdMap::new(), 0, 0)
    }
}

impl TypeSet {
    fn from_map(resources: OrdMap<Arc<str>, Arc<Resource>>, digest: u64, bytes: usize) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Self { id, resources, digest, bytes, diffs: diff_cache::DiffCache::default() }
    }

    /// This set with `changes` applied: `Some` inserts, `None` removes. Returns `self` itself if nothing
    /// differs.
    pub fn with(
        self: &Arc<Self>,
        changes: impl IntoIterator<Item = (Arc<str>, Option<Arc<Resource>>)>,
    ) -> Arc<Self> {
        let (mut map, mut digest, mut bytes) = (self.resources.clone(), self.digest, self.bytes);
        let mut touched = false;
        for (name, resource) in changes {
            let old = match &resource {
                Some(new) => {
                    if map.get(&name).is_some_and(|old| old.version == new.version) {
                        continue;
                    }
                    digest = digest.wrapping_add(new.digest());
                    bytes += new.entry.len();
                    map.insert(name, new.clone())
                }
                None => map.remove(&name),
            };
            touched |= resource.is_some() || old.is_some();
            if let Some(old) = old {
                digest = digest.wrapping_sub(old.digest());
                bytes -= old.entry.len();
            }
        }
        if touched { Arc::new(Self::from_map(map, digest, bytes)) } else { self.clone() }
    }

    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(name)
    }

    /// In the order of names.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    pub fn len(&self) -> usize {
        self.resources.len()
    }

    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// Version of the whole set.
    pub fn version(&self) -> Version {
        Version(self.digest)
    }

    /// Encoded size of all resources, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The difference from `self` to `newer`. Costs about the size of the difference, not of the sets:
    /// shared parts of the maps are skipped.
    pub fn diff(&self, newer: &Self) -> Diff {
        let mut diff = Diff::default();
        for item in self.resources.diff(&newer.resources) {
            match item {
                imbl::ordmap::DiffItem::Add(_, new) => diff.changed.push(new.clone()),
                imbl::ordmap::DiffItem::Update { new, .. } => diff.changed.push(new.1.clone()),
                imbl::ordmap::DiffItem::Remove(name, _) => diff.removed.push(name.clone()),
            }
        }
        diff
    }
}

impl View {
    /// The sets in the order of [`ResourceType::IN_ORDER`].
    pub fn new(sets: [Arc<TypeSet>; ResourceType::COUNT]) -> Self {
        Self { sets }
    }

    pub fn set(&self, of: ResourceType) -> &Arc<TypeSet> {
        &self.sets[of.index()]
    }
}
