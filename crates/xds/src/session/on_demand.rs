//! One type on one stream whose sets are on demand ([`OnDemandNames`](crate::OnDemandNames)): names that the
//! stream has without having named them, and what stands in for those that nobody knows.
//!
//! Of both only names are kept, and of the second a bounded number: the resources are functions of their
//! names.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Session;
use super::pending::PendingResources;
use super::respond::named;
use super::state::{TypeState, TypeTraits, shared_name};
use crate::discovery_request::InitialVersions;
use crate::resource_type::TypeIndex;
use crate::{Resource, TypeSet};

/// What a type keeps.
#[derive(Debug, Default)]
pub(super) struct OnDemandState {
    /// To be subscribed with the first wildcard.
    initial: Arc<[Arc<str>]>,
    /// Unknown names that something was sent for.
    fallbacks: BTreeSet<Arc<str>>,
}

impl OnDemandState {
    pub(super) fn len(&self) -> usize {
        self.fallbacks.len()
    }

    pub(super) fn has_fallback(&self, name: &str) -> bool {
        self.fallbacks.contains(name)
    }
}

/// What a response carries for unknown names, in the order of these.
#[derive(Debug, Default)]
pub(super) struct Fallbacks(Vec<Arc<Resource>>);

impl Fallbacks {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Puts them among what is present instead of among what is gone.
    pub(super) fn stand_in<'a>(&'a self, present: &mut Vec<&'a Resource>, gone: &mut Vec<&str>) {
        if self.is_empty() {
            return;
        }
        gone.retain(|name| self.0.binary_search_by(|one| (*one.name).cmp(name)).is_err());
        present.extend(self.0.iter().map(|one| &**one));
        present.sort_unstable_by(|one, other| one.name.cmp(&other.name));
    }
}

impl Session {
    /// The stream has these names with its first wildcard of this type as if it had named them there. Those
    /// count that the set has then, and only if the set is on demand. To be called before the first request,
    /// and for delta alone.
    pub fn set_initial_names(
        &mut self,
        resource_type: impl Into<TypeIndex>,
        names: Arc<[Arc<str>]>,
    ) {
        if !names.is_empty() && self.is_delta() {
            let state = &mut self.types[resource_type.into().0];
            state.on_demand.get_or_insert_default().initial = names;
        }
    }
}

impl TypeState {
    /// Names that a wildcard does not cover and that the stream has with it all the same: the initial ones,
    /// and those of which the client has resources from an earlier stream without naming them (the initial
    /// ones of that). What a client has used stays.
    pub(super) fn implied_names(&mut self, held: &InitialVersions, now: &TypeSet) -> Vec<Arc<str>> {
        let initial = self.on_demand.as_mut().map(|one| std::mem::take(&mut one.initial));
        let held = held.iter().map(|(name, _)| name).filter(|name| now.is_named_only(name));
        let all = initial.iter().flat_map(|names| names.iter()).map(|name| &**name).chain(held);
        all.filter(|name| now.get(name).is_some()).map(|name| shared_name(now, name)).collect()
    }

    /// Whether names that are not wanted are answered: those that were unsubscribed under a wildcard that does
    /// not cover them go (rule 12).
    pub(super) fn says_unwanted(&self, traits: TypeTraits, now: &TypeSet) -> bool {
        traits.delta && self.subscription.is_wildcard() && now.is_on_demand()
    }

    /// A client that comes back with what stood in for a name has that again, and nothing is sent.
    pub(super) fn keep_fallbacks(
        &mut self,
        traits: TypeTraits,
        held: &HashMap<&str, &str>,
        now: &TypeSet,
    ) {
        if !now.is_on_demand() {
            return;
        }
        let subscription = self.subscription.clone();
        for (name, _) in named(now, &subscription).filter(|(_, resource)| resource.is_none()) {
            let Some(version) = held.get(&**name) else { continue };
            let kept = self.on_demand.get_or_insert_default();
            if kept.fallbacks.len() >= traits.fallbacks {
                return;
            }
            if now.fallback(name).is_some_and(|one| one.version.to_string() == *version) {
                kept.fallbacks.insert(name.clone());
            }
        }
    }

    /// What to send for the unknown names of a response: for as many as there may be, first come first
    /// served.
    pub(super) fn take_fallbacks(
        &mut self,
        traits: TypeTraits,
        pending: &PendingResources,
        now: &TypeSet,
    ) -> Fallbacks {
        if !now.is_on_demand() || !traits.delta {
            return Fallbacks::default();
        }
        let subscription = self.subscription.clone();
        let is_unknown = |name: &str| now.get(name).is_none() && subscription.is_named(name);
        if let Some(kept) = &mut self.on_demand {
            // What has come, and what was given up, make room.
            kept.fallbacks.retain(|name| is_unknown(name));
        }
        let mut unknown: BTreeSet<Arc<str>> =
            pending.names.iter().filter(|name| is_unknown(name)).cloned().collect();
        for change in &pending.changes {
            let diff = change.to.diff_from(&change.from);
            let removed = diff.removed.iter().filter(|_| change.removals);
            unknown.extend(removed.filter(|name| is_unknown(name)).cloned());
        }
        if pending.all {
            let missing = named(now, &subscription).filter(|(_, resource)| resource.is_none());
            unknown.extend(missing.map(|(name, _)| name.clone()));
        }
        let mut fallbacks = Fallbacks::default();
        for name in unknown {
            let kept = self.on_demand.get_or_insert_default();
            let is_kept = kept.fallbacks.contains(&name);
            if (is_kept || kept.fallbacks.len() < traits.fallbacks)
                && let Some(resource) = now.fallback(&name)
            {
                kept.fallbacks.insert(name);
                fallbacks.0.push(resource);
            }
        }
        fallbacks
    }
}
