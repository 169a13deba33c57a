//! All resources of a type, and the sets that one kind of proxy gets.
//!
//! Sets are persistent maps, so a new set shares what did not change with the one before, and the
//! difference between two is found without walking what they share.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

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
    on_demand: Option<Box<OnDemand>>,
}

/// Which resources of a set go only to who names them, and what stands in for unknown names. Both functions
/// must depend on the name alone: the sets of all replicas answer alike.
#[derive(Clone, Copy, Debug)]
pub struct OnDemandNames {
    /// A wildcard does not cover this name.
    pub is_named_only: fn(&str) -> bool,
    /// The resource that answers this name, to who has subscribed to it, while the set has none of it. Of
    /// this name. In delta alone, and for a bounded number of names of a stream
    /// ([`SessionLimits::fallbacks`](crate::SessionLimits)).
    pub fallback: fn(&str) -> Option<Arc<Resource>>,
}

/// The property of a set, and what follows from it.
#[derive(Debug)]
struct OnDemand {
    names: OnDemandNames,
    /// What a wildcard covers, in the order of names. Worked out when a first stream needs it.
    covered: OnceLock<Box<[Arc<Resource>]>>,
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
    pub(crate) sets: Box<[Arc<TypeSet>]>,
}

impl Default for TypeSet {
    fn default() -> Self {
        Self::from_map(OrdMap::new(), 0, 0, None)
    }
}

impl TypeSet {
    fn from_map(
        resources: OrdMap<Arc<str>, Arc<Resource>>,
        digest: u64,
        bytes: usize,
        on_demand: Option<OnDemandNames>,
    ) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let on_demand =
            on_demand.map(|names| Box::new(OnDemand { names, covered: OnceLock::new() }));
        Self { id, resources, digest, bytes, diffs: DiffCache::default(), on_demand }
    }

    /// An empty set of which a wildcard covers a part only. [`Self::with`] keeps that.
    pub fn on_demand(names: OnDemandNames) -> Arc<Self> {
        Self::default().to_on_demand(names)
    }

    /// The resources of this set in one of which a wildcard covers a part only. They are shared.
    pub fn to_on_demand(&self, names: OnDemandNames) -> Arc<Self> {
        let set = Self::from_map(self.resources.clone(), self.digest, self.bytes, Some(names));
        Arc::new(set)
    }

    /// Whether a wildcard covers a part only.
    pub fn is_on_demand(&self) -> bool {
        self.on_demand.is_some()
    }

    /// Whether the resource of this name, if there is one, goes only to who names it.
    pub fn is_named_only(&self, name: &str) -> bool {
        self.on_demand.as_ref().is_some_and(|on_demand| (on_demand.names.is_named_only)(name))
    }

    /// What stands in for a name that the set does not have.
    pub fn fallback(&self, name: &str) -> Option<Arc<Resource>> {
        self.on_demand.as_ref().and_then(|on_demand| (on_demand.names.fallback)(name))
    }

    /// What a wildcard covers, in the order of names, where that is not everything.
    pub(crate) fn covered(&self) -> Option<&[Arc<Resource>]> {
        let OnDemand { names, covered } = &**self.on_demand.as_ref()?;
        Some(covered.get_or_init(|| {
            self.iter().filter(|one| !(names.is_named_only)(&one.name)).cloned().collect()
        }))
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
        if !touched {
            return self.clone();
        }
        let on_demand = self.on_demand.as_ref().map(|on_demand| on_demand.names);
        Arc::new(Self::from_map(map, digest, bytes, on_demand))
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

    /// Whether one of the sets is on demand.
    pub fn is_on_demand(&self) -> bool {
        self.sets.iter().any(|set| set.is_on_demand())
    }

    /// Drops cached differences from sets that no stream is at any more; to be called periodically.
    pub fn forget_gone_sets(&self) {
        self.sets.iter().for_each(|set| set.diffs.forget_gone());
    }
}
