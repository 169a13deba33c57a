//! The bytes of responses in segments, which the responses of all views share.
//!
//! Views differ in few resources, and a response of a whole set has thousands. So a large response is not
//! copied together but is a list of segments: of some resources in a row each, built once while some
//! response has it. Where a segment ends depends on the names of its resources alone, so sets that differ
//! in one name differ in one segment, whatever they came from.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use crate::resource::Resource;

/// A segment has about so many resources, a power of two: fewer make a response a longer list, more make
/// longer what a view has of its own.
const RESOURCES_PER_SEGMENT: u64 = 16;

/// A resource of so many bytes is a segment of its own, without a copy.
const LARGE_RESOURCE: usize = 4 << 10;

/// All segments that some response has.
#[derive(Debug, Default)]
pub(crate) struct Segments {
    // A std mutex, locked for look-ups; segments are built outside.
    by_content: Mutex<HashMap<u128, Arc<Bytes>>>,
}

/// Resources as they stand in a response, in segments.
#[derive(Debug, Default)]
pub(crate) struct Segmented {
    pub(crate) parts: Vec<Arc<Bytes>>,
    /// Bytes that were not there before.
    pub(crate) built: usize,
}

impl Segments {
    /// These resources, as they stand in the delta or the state-of-the-world responses of a type.
    pub(crate) fn segment(
        &self,
        type_url: &str,
        delta: bool,
        resources: &[&Resource],
    ) -> Segmented {
        let seed = xxhash_rust::xxh3::xxh3_64(type_url.as_bytes()) ^ u64::from(delta);
        let runs = runs(resources);
        let mut keys = Vec::with_capacity(runs.len());
        let mut digests = Vec::new();
        for run in &runs {
            digests.clear();
            run.iter().for_each(|one| digests.extend_from_slice(&one.digest().to_le_bytes()));
            keys.push(xxh3_128_with_seed(&digests, seed));
        }
        let mut found: Vec<Option<Arc<Bytes>>> = {
            let known = self.lock();
            keys.iter().map(|key| known.get(key).cloned()).collect()
        };
        let mut all = Segmented::default();
        let mut made = Vec::new();
        for (at, run) in runs.iter().enumerate() {
            match (found.get_mut(at).and_then(Option::take), run) {
                (Some(bytes), _) => all.parts.push(bytes),
                (None, [large]) if is_large(large) => {
                    all.parts.extend(large.field(delta).map(Arc::new));
                }
                (None, _) => {
                    let len = run.iter().map(|one| one.field_len(delta)).sum();
                    let mut bytes = Vec::with_capacity(len);
                    run.iter()
                        .flat_map(|one| one.field(delta))
                        .for_each(|part| bytes.extend_from_slice(&part));
                    all.built += bytes.len();
                    let bytes = Arc::new(Bytes::from(bytes));
                    all.parts.push(bytes.clone());
                    made.push((keys[at], bytes));
                }
            }
        }
        if !made.is_empty() {
            self.lock().extend(made);
        }
        all
    }

    /// Drops the segments that no response has any more.
    pub(crate) fn sweep(&self) {
        let mut known = self.lock();
        known.retain(|_, bytes| Arc::strong_count(bytes) > 1);
        if known.capacity() > 64 + 4 * known.len() {
            known.shrink_to_fit();
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u128, Arc<Bytes>>> {
        self.by_content.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Cuts resources into the runs of which segments are made.
fn runs<'a, 'b>(resources: &'a [&'b Resource]) -> Vec<&'a [&'b Resource]> {
    let mut runs = Vec::with_capacity(resources.len() / RESOURCES_PER_SEGMENT as usize + 1);
    let mut from = 0;
    for (at, resource) in resources.iter().enumerate() {
        if is_large(resource) {
            runs.extend(resources.get(from..at).filter(|run| !run.is_empty()));
            runs.push(&resources[at..=at]);
            from = at + 1;
        } else if resource.name_hash() % RESOURCES_PER_SEGMENT == 0 {
            runs.push(&resources[from..=at]);
            from = at + 1;
        }
    }
    runs.extend(resources.get(from..).filter(|run| !run.is_empty()));
    runs
}

fn is_large(resource: &Resource) -> bool {
    resource.entry.len() >= LARGE_RESOURCE
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ServedType;

    const CLUSTER: &str = ServedType::CLUSTER.type_url;

    fn resource(name: &str, content: &[u8]) -> Arc<Resource> {
        Resource::from_encoded(CLUSTER, name.into(), content)
    }

    fn named(count: usize) -> Vec<Arc<Resource>> {
        (0..count).map(|at| resource(&format!("r{at:04}"), b"content")).collect()
    }

    fn concat(of: &Segmented) -> Vec<u8> {
        of.parts.iter().flat_map(|part| part.to_vec()).collect()
    }

    fn segment(segments: &Segments, all: &[Arc<Resource>], delta: bool) -> Segmented {
        let refs: Vec<&Resource> = all.iter().map(|one| &**one).collect();
        let made = segments.segment(CLUSTER, delta, &refs);
        let whole = all.iter().flat_map(|one| one.field(delta)).collect::<Vec<_>>().concat();
        assert_eq!(concat(&made), whole);
        made
    }

    #[test]
    fn sets_that_differ_in_a_few_resources_share_all_other_segments() {
        let segments = Segments::default();
        let mut all = named(1000);
        let first = segment(&segments, &all, true);
        let bytes: usize = first.parts.iter().map(|part| part.len()).sum();
        assert_eq!(first.built, bytes);
        assert!((20..200).contains(&first.parts.len()), "{}", first.parts.len());
        let again = segment(&segments, &all, true);
        assert_eq!(again.built, 0);
        assert!(first.parts.iter().zip(&again.parts).all(|(a, b)| a.as_ptr() == b.as_ptr()));
        // One changes, one comes, one goes.
        all[100] = resource("r0100", b"changed");
        all.insert(500, resource("r0499a", b"new"));
        all.remove(900);
        let changed = segment(&segments, &all, true);
        assert!((1..bytes / 5).contains(&changed.built), "{} of {bytes}", changed.built);
        let other_variant = segment(&segments, &all, false);
        assert!(other_variant.built > bytes / 2, "another message");
        segments.sweep();
        let held = segments.len();
        drop((again, changed));
        segments.sweep();
        assert!(segments.len() < held);
        drop((first, other_variant));
        segments.sweep();
        assert_eq!(segments.len(), 0);
    }

    #[test]
    fn a_large_resource_is_not_copied() {
        let segments = Segments::default();
        let mut all = named(3);
        all.insert(1, resource("r0000a", &[7; LARGE_RESOURCE]));
        let made = segment(&segments, &all, true);
        let large = all[1].entry.parts().next().unwrap();
        assert!(made.parts.iter().any(|part| part.as_ptr() == large.as_ptr()));
        assert!(made.built < LARGE_RESOURCE);
    }

    #[test]
    fn equal_content_of_another_type_is_another_segment() {
        let segments = Segments::default();
        let one = [resource("a", b"x")];
        let other = Resource::from_encoded(ServedType::ENDPOINT.type_url, "a".into(), b"x");
        assert_eq!((other.digest(), other.version), (one[0].digest(), one[0].version));
        segment(&segments, &one, true);
        let made = segments.segment(ServedType::ENDPOINT.type_url, true, &[&other]);
        assert_eq!(concat(&made), other.field(true).collect::<Vec<_>>().concat());
    }
}
