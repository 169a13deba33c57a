//! One type on one stream: its responses.
//!
//! What must be sent follows from the changes between sets, which all streams share; a frame that
//! another stream with the same subscription has needed comes from the cache.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::on_demand::Fallbacks;
use super::pending::{PendingResources, SetChange};
use super::state::{AckState, TypeState, TypeTraits};
use crate::frame::{Frame, FrameBuilder, FrameKey};
use crate::subscription::Subscription;
use crate::{Resource, TypeSet, Version};

/// Up to so many names are requested by many streams alike, when services are added; a longer list is of
/// one stream only and not worth caching.
const SHARED_NAMES: usize = 16;

impl TypeState {
    /// Whether something that this stream is subscribed to differs between what was sent and `now`.
    #[inline]
    pub(super) fn is_behind(&self, traits: TypeTraits, now: &Arc<TypeSet>) -> bool {
        let Some(sent) = &self.sent else { return false };
        if !self.open || sent.id() == now.id() || sent.version() == now.version() {
            return false;
        }
        let wants = |name: &str| self.subscription.wants_in(now, name);
        // In SotW the removal of an endpoint set or route cannot be expressed (rule 7); but if it was
        // the reason of a NACK, the other resources can be sent now.
        let removals = traits.delta || traits.full_state || self.is_rejected();
        let diff = now.diff_from(sent);
        diff.changed.iter().any(|resource| wants(&resource.name))
            || removals && diff.removed.iter().any(|name| wants(name))
    }

    /// Whether something that was sent was rejected, or not acknowledged in time.
    fn is_rejected(&self) -> bool {
        self.rejected.is_any() || self.ack_state == AckState::TimedOut
    }

    /// Whether going to `now` only removes resources, and nothing was requested.
    pub(super) fn only_removes(&self, now: &Arc<TypeSet>) -> bool {
        let changed = |sent: &Arc<TypeSet>| !now.diff_from(sent).changed.is_empty();
        !self.is_requested() && !self.sent.as_ref().is_some_and(changed)
    }

    /// The set to go to while other resources may still refer to removed ones: `now` with the resources
    /// that were sent and are not in it. Just `now` if something is sent again, because that must not
    /// include what is gone.
    pub(super) fn without_removals(&self, now: &Arc<TypeSet>) -> Arc<TypeSet> {
        match &self.sent {
            Some(sent) if !self.is_requested() && !self.is_rejected() => now.with_removed_of(sent),
            _ => now.clone(),
        }
    }

    /// Whether new clusters are on their way: in an unacknowledged response, or in `now` while that
    /// response keeps it from being sent. A changed cluster does not count, the proxy uses the old one
    /// until the new one is warm.
    pub(super) fn is_adding(&self, now: &Arc<TypeSet>) -> bool {
        let adds = |from: &Arc<TypeSet>, to: &Arc<TypeSet>| {
            to.diff_from(from).changed.iter().any(|resource| from.get(&resource.name).is_none())
        };
        self.unacked_nonce().is_some()
            && (self.unacked.adds
                || self.unacked.changes.iter().any(|change| adds(&change.from, &change.to))
                || self.sent.as_ref().is_some_and(|sent| adds(sent, now)))
    }

    /// EDS: these clusters were sent, so their endpoints must be sent again.
    pub(super) fn add_warming(&mut self, clusters: PendingResources, now: &TypeSet) {
        let mut pending = clusters;
        // A removed cluster does not warm.
        pending.names.retain(|name| now.get(name).is_some());
        pending.changes.iter_mut().for_each(|change| change.removals = false);
        pending.prepend(std::mem::take(&mut self.warming));
        pending.enforce_bounds();
        self.warming = pending;
    }

    /// The frame to send now, if there is anything to send and no response is unacknowledged. The caller
    /// must send it and call [`Self::set_sent`].
    pub(super) fn respond(
        &mut self,
        traits: TypeTraits,
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Option<Frame> {
        if !self.open || self.ack_state == AckState::Pending {
            return None;
        }
        let behind = self.is_behind(traits, now);
        if !behind {
            self.skip_to(now);
        }
        if !behind
            && !self.must_respond
            && self.requested.is_empty()
            && self.warming.is_empty()
            && self.removed_while_disconnected.is_empty()
        {
            // Most types, most of the time.
            return None;
        }
        let mut pending = std::mem::take(&mut self.requested);
        pending.prepend(std::mem::take(&mut self.warming));
        if self.ack_state != AckState::NoneSent {
            // A resource that is back is sent as a change, unless this stream has not named what no wildcard
            // covers: what the client has of that is from before, and goes.
            let is_back =
                |name: &str| now.get(name).is_some() && self.subscription.wants_in(now, name);
            let removed_while_disconnected = std::mem::take(&mut self.removed_while_disconnected);
            let removed = removed_while_disconnected.into_iter().filter(|name| !is_back(name));
            pending.names.extend(removed);
        }
        if !behind && !self.must_respond && !pending.is_any() {
            return None;
        }
        let resend = behind || pending.all;
        if resend {
            if self.ack_state == AckState::TimedOut {
                pending.prepend(std::mem::take(&mut self.unacked));
            }
            pending.prepend(std::mem::take(&mut self.rejected));
        }
        if let (true, Some(sent)) = (behind, &self.sent) {
            pending.changes.push(SetChange { from: sent.clone(), to: now.clone(), removals: true });
        }
        // A name may have been unsubscribed since.
        pending.names.retain(|name| {
            self.subscription.wants_in(now, name) || self.says_unwanted(traits, now)
        });

        let must_respond = std::mem::take(&mut self.must_respond);
        let frame = if traits.full_state && !traits.delta {
            self.whole_set(type_url, now, frames)
        } else {
            let fallbacks = self.take_fallbacks(traits, &pending, now);
            let frame = self.partial(traits, &pending, &fallbacks, type_url, now, frames);
            if !traits.delta {
                self.digest = Some(frame.version.0);
            }
            if frame.resources == 0 && frame.removed == 0 && !must_respond {
                self.sent = Some(now.clone());
                return None;
            }
            frame
        };
        self.sent = Some(now.clone());
        if self.ack_state == AckState::TimedOut && !resend {
            self.mark_rejected();
        }
        self.unacked = pending;
        Some(frame)
    }

    /// The frame of [`Self::respond`] is sent with this nonce.
    pub(super) fn set_sent(&mut self, nonce: u64) {
        self.resuming = false;
        self.nonce = nonce;
        self.ack_state = AckState::Pending;
    }

    /// What the last response sent, unless it is acknowledged.
    pub(super) fn last_sent_resources(&self) -> &PendingResources {
        &self.unacked
    }

    /// Goes to a set that differs in nothing that this stream is subscribed to.
    fn skip_to(&mut self, now: &Arc<TypeSet>) {
        let Some(sent) = &self.sent else { return };
        if sent.id() == now.id() {
            return;
        }
        let removed = &now.diff_from(sent).removed;
        if removed.iter().any(|name| self.subscription.wants_in(now, name)) {
            self.digest = None;
        }
        let unacked = matches!(self.ack_state, AckState::Pending | AckState::TimedOut);
        if unacked && !removed.is_empty() && self.may_have.is_none() {
            self.may_have = Some(sent.clone());
        }
        self.sent = Some(now.clone());
    }

    /// SotW, LDS and CDS: everything subscribed, because absence deletes (rule 7).
    fn whole_set(&self, type_url: &str, now: &Arc<TypeSet>, frames: &FrameBuilder) -> Frame {
        let key = || FrameKey {
            set: now.id(),
            delta: false,
            subscription: self.subscription.id(),
            all: true,
            changes: Vec::new(),
            names: Vec::new(),
        };
        let subscription = &self.subscription;
        frames.shared(key, now, subscription, || {
            let wanted = split_subscribed(now, subscription).0;
            frames.sotw(type_url, restricted_version(now, subscription), &wanted)
        })
    }

    /// Only what changed or was requested.
    fn partial(
        &self,
        traits: TypeTraits,
        pending: &PendingResources,
        fallbacks: &Fallbacks,
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Frame {
        // A list of names covers its removals; only under a wildcard are there removals that nothing but
        // the changes says.
        let changes = match pending.all && !(traits.delta && self.subscription.is_wildcard()) {
            true => &[],
            false => &*pending.changes,
        };
        let build =
            || self.build_partial(traits, pending, (changes, fallbacks), type_url, now, frames);
        // Nothing is cached under names that a client made up, or that depends on what a stream asked
        // for first.
        let shared = fallbacks.is_empty()
            && pending.names.len() <= SHARED_NAMES
            && pending.names.iter().all(|name| now.get(name).is_some());
        if !shared {
            return build();
        }
        let key = || FrameKey {
            set: now.id(),
            delta: traits.delta,
            subscription: self.subscription.id(),
            all: pending.all,
            changes: changes.iter().map(|change| (change.from.id(), change.to.id())).collect(),
            names: pending.names.iter().cloned().collect(),
        };
        frames.shared(key, now, &self.subscription, build)
    }

    fn build_partial(
        &self,
        traits: TypeTraits,
        pending: &PendingResources,
        (changes, fallbacks): (&[SetChange], &Fallbacks),
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Frame {
        let subscription = &self.subscription;
        if pending.all && changes.is_empty() && pending.names.is_empty() && traits.delta {
            // A start or a relist: both are sorted, so that nothing is looked up.
            let (mut present, mut gone) = split_subscribed(now, subscription);
            fallbacks.stand_in(&mut present, &mut gone);
            return frames.delta(type_url, now.version(), &present, &gone);
        }
        let mut names: BTreeSet<&str> = pending.names.iter().map(|name| &**name).collect();
        let diffs: Vec<_> = changes
            .iter()
            .map(|change| (change.to.diff_from(&change.from), change.removals))
            .collect();
        for (diff, removals) in &diffs {
            let changed = diff.changed.iter().map(|resource| &resource.name);
            let removed = diff.removed.iter().filter(|_| *removals);
            let wanted = changed.chain(removed).filter(|name| subscription.wants_in(now, name));
            names.extend(wanted.map(|name| &**name));
        }
        if pending.all {
            names.extend(subscription.names().map(|name| &**name));
            match now.covered() {
                _ if !subscription.is_wildcard() => {}
                None => names.extend(now.iter().map(|resource| &*resource.name)),
                Some(covered) => names.extend(covered.iter().map(|resource| &*resource.name)),
            }
        }
        // On demand, a name that was unsubscribed under a wildcard may be there and go all the same.
        let get = |name: &str| {
            now.get(name).filter(|_| !now.is_on_demand() || subscription.wants_in(now, name))
        };
        let present = names.iter().filter_map(|name| get(name));
        let mut present: Vec<&Resource> = present.map(|one| &**one).collect();
        if traits.delta {
            // Subscribed by name and missing: reported as removed, and the subscription stays (rules 9,
            // 10).
            let mut gone: Vec<&str> =
                names.iter().copied().filter(|name| get(name).is_none()).collect();
            fallbacks.stand_in(&mut present, &mut gone);
            return frames.delta(type_url, now.version(), &present, &gone);
        }
        let version = match (self.digest, &self.sent) {
            (Some(digest), Some(sent)) if !pending.all => {
                Version(names.iter().fold(digest, |sum, name| {
                    let share = |set: &TypeSet| set.get(name).map_or(0, |one| one.digest());
                    sum.wrapping_sub(share(sent)).wrapping_add(share(now))
                }))
            }
            _ => restricted_version(now, subscription),
        };
        frames.sotw(type_url, version, &present)
    }
}

/// The version of the part of a set that a subscription selects: a function of the two alone, so it is
/// equal on every replica.
fn restricted_version(set: &TypeSet, subscription: &Subscription) -> Version {
    if subscription.is_wildcard() && !set.is_on_demand() {
        return set.version();
    }
    let covered = subscription.is_wildcard().then(|| set.covered()).flatten().unwrap_or_default();
    let named = named(set, subscription).filter_map(|(_, resource)| resource);
    let named = named.filter(|one| !subscription.is_wildcard() || set.is_named_only(&one.name));
    let shares = named.chain(covered.iter().map(|one| &**one));
    Version(shares.fold(0, |sum, one| sum.wrapping_add(one.digest())))
}

/// What a response with everything carries, in the order of names: what a wildcard covers, the resources that
/// are named, and names that are not in the set.
fn split_subscribed<'a>(
    set: &'a TypeSet,
    subscription: &'a Subscription,
) -> (Vec<&'a Resource>, Vec<&'a str>) {
    let (mut present, mut gone) = (Vec::new(), Vec::new());
    for (name, resource) in named(set, subscription) {
        match resource {
            Some(_) if subscription.is_wildcard() && !set.is_named_only(name) => {}
            Some(resource) => present.push(resource),
            None => gone.push(&**name),
        }
    }
    match set.covered() {
        _ if !subscription.is_wildcard() => {}
        None => present = set.iter().map(|one| &**one).collect(),
        Some(covered) => {
            present.extend(covered.iter().map(|one| &**one));
            present.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        }
    }
    (present, gone)
}

/// Each subscribed name with its resource. Long lists are walked side by side with the set, since a look-up
/// of each of 5,000 names takes a millisecond, and streams with lists of their own share none of it.
pub(super) fn named<'a>(
    set: &'a TypeSet,
    subscription: &'a Subscription,
) -> impl Iterator<Item = (&'a Arc<str>, Option<&'a Resource>)> {
    let walks = subscription.len() > set.len() / 8;
    let mut all = walks.then(|| set.iter().peekable());
    subscription.names().map(move |name| {
        let resource = match &mut all {
            Some(all) => {
                // Mostly they are one string.
                let is_before =
                    |one: &&Arc<Resource>| !Arc::ptr_eq(&one.name, name) && one.name < *name;
                while all.next_if(is_before).is_some() {}
                all.next_if(|one| Arc::ptr_eq(&one.name, name) || one.name == *name)
            }
            None => set.get(name),
        };
        (name, resource.map(|one| &**one))
    })
}
