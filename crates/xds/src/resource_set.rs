//! All resources of a type, and the sets that one kind of proxy gets.
//!
//! Sets are persistent maps, so a new set shares what did not change with the one before, and the
//! difference between two is found without walking what they share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use imbl::OrdMap;

use crate::diff_cache::DiffCache;
use crate::resource::{Resource, Version};
use crate::resource_type::TypeIndex;

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
    pub(crate) diffs: DiffCache,
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
    sets: Box<[Arc<TypeSet>]>,
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
        Self { id, resources, digest, bytes, diffs: DiffCache::default() }
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
    /// One set for each type, in the order of the server's table.
    pub fn new(sets: impl Into<Box<[Arc<TypeSet>]>>) -> Self {
        Self { sets: sets.into() }
    }

    /// The set of a type.
    ///
    /// # Panics
    /// If the view has fewer sets than the table has types.
    pub fn set(&self, of: impl Into<TypeIndex>) -> &Arc<TypeSet> {
        &self.sets[of.into().0]
    }

    /// Drops cached differences from sets that no stream is at any more; to be called periodically.
    pub fn forget_gone_sets(&self) {
        self.sets.iter().for_each(|set| set.diffs.forget_gone());
    }
}
