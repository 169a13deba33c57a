//! One type on one stream: what goes out.
//!
//! What must be told is worked out from the steps between sets, shared by all streams that make
//! the same steps; a frame that another stream with the same subscription has needed is taken from
//! the set it leads to.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::{Answer, Kind, TypeState};
use super::told::{Step, Told};
use crate::snapshot::encode::{Frame, FrameBuilder, FrameKey};
use crate::snapshot::{Resource, TypeSet, Version};
use crate::subscription::Subscription;

/// So many names are asked for by many streams alike, when services come; more of them is what one
/// stream alone is about, and not worth keeping.
const SHARED_NAMES: usize = 16;

impl TypeState {
    /// Something that this stream wants differs between what was sent and `now`.
    pub(super) fn is_behind(&self, kind: Kind, now: &Arc<TypeSet>) -> bool {
        let Some(sent) = &self.sent else { return false };
        if !self.open || sent.id() == now.id() || sent.version() == now.version() {
            return false;
        }
        let wants = |name: &str| self.subscription.wants(name);
        // In SotW there is no way to say that an endpoint set or route is gone (rule 7); but if it
        // was the reason of a NACK, the others can come now.
        let removals = kind.delta || kind.full_state || self.is_rejected();
        let diff = now.diff_from(sent);
        diff.changed.iter().any(|resource| wants(&resource.name))
            || removals && diff.removed.iter().any(|name| wants(name))
    }

    /// Something that was sent was not accepted.
    fn is_rejected(&self) -> bool {
        self.rejected.is_something() || self.answer == Answer::Overdue
    }

    /// Nothing would be added or changed by going to `now`, and nothing was asked for.
    pub(super) fn only_removes(&self, now: &Arc<TypeSet>) -> bool {
        let changed = |sent: &Arc<TypeSet>| !now.diff_from(sent).changed.is_empty();
        !self.is_asked() && !self.sent.as_ref().is_some_and(changed)
    }

    /// The set to go to while something may still refer to what vanished: `now`, and with it what
    /// was sent and is in it no more. Not where something is told again: of that, nothing must be
    /// that is gone.
    pub(super) fn without_removals(&self, now: &Arc<TypeSet>) -> Arc<TypeSet> {
        match &self.sent {
            Some(sent) if !self.is_asked() && !self.is_rejected() => now.keeping(sent),
            _ => now.clone(),
        }
    }

    /// Clusters that were not there before are on their way: in a response that is not answered
    /// yet, or in `now` while that response keeps it from being sent. A cluster that only changes
    /// does not count, the proxy goes on with the old one until the new one is warm.
    pub(super) fn is_adding(&self, now: &Arc<TypeSet>) -> bool {
        let adds = |from: &Arc<TypeSet>, to: &Arc<TypeSet>| {
            to.diff_from(from).changed.iter().any(|resource| from.get(&resource.name).is_none())
        };
        self.awaits().is_some()
            && (self.outstanding.adds
                || self.outstanding.steps.iter().any(|step| adds(&step.from, &step.to))
                || self.sent.as_ref().is_some_and(|sent| adds(sent, now)))
    }

    /// EDS: a CDS response went out that told this.
    pub(super) fn warm(&mut self, clusters: &Told, now: &TypeSet) {
        let mut told = clusters.clone();
        // A cluster that is gone waits for nothing.
        told.names.retain(|name| now.get(name).is_some());
        told.steps.iter_mut().for_each(|step| step.removals = false);
        told.put_before(std::mem::take(&mut self.warming));
        told.bound();
        self.warming = told;
    }

    /// The frame to send now, if there is anything to tell and no answer is awaited. The caller
    /// must send it and say so with [`Self::sent_as`].
    pub(super) fn respond(
        &mut self,
        kind: Kind,
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Option<Frame> {
        if !self.open || self.answer == Answer::Awaited {
            return None;
        }
        let behind = self.is_behind(kind, now);
        if !behind {
            self.advance(now);
        }
        let mut told = std::mem::take(&mut self.asked);
        told.put_before(std::mem::take(&mut self.warming));
        if self.answer != Answer::Nothing {
            // What returned is told as a change.
            let vanished = std::mem::take(&mut self.vanished).into_iter();
            told.names.extend(vanished.filter(|name| now.get(name).is_none()));
        }
        if !behind && !self.reply && !told.is_something() {
            return None;
        }
        let again = behind || told.all;
        if again {
            if self.answer == Answer::Overdue {
                told.put_before(std::mem::take(&mut self.outstanding));
            }
            told.put_before(std::mem::take(&mut self.rejected));
        }
        if let (true, Some(sent)) = (behind, &self.sent) {
            told.steps.push(Step { from: sent.clone(), to: now.clone(), removals: true });
        }
        // It may have been unsubscribed since.
        told.names.retain(|name| self.subscription.wants(name));

        let reply = std::mem::take(&mut self.reply);
        let frame = if kind.full_state && !kind.delta {
            self.whole_set(type_url, now, frames)
        } else {
            let frame = self.partial(kind, &told, type_url, now, frames);
            if !kind.delta {
                self.digest = Some(frame.version.0);
            }
            if frame.resources == 0 && frame.removed == 0 && !reply {
                self.sent = Some(now.clone());
                return None;
            }
            frame
        };
        self.sent = Some(now.clone());
        if self.answer == Answer::Overdue && !again {
            self.reject();
        }
        self.outstanding = told;
        Some(frame)
    }

    /// The frame that [`Self::respond`] gave is on its way.
    pub(super) fn sent_as(&mut self, nonce: u64) {
        self.patient = false;
        self.nonce = nonce;
        self.answer = Answer::Awaited;
    }

    /// What the last response told and the client has not accepted yet.
    pub(super) fn last_told(&self) -> &Told {
        &self.outstanding
    }

    /// Goes along with a set that differs in nothing this stream wants.
    fn advance(&mut self, now: &Arc<TypeSet>) {
        let Some(sent) = &self.sent else { return };
        if sent.id() == now.id() {
            return;
        }
        let removed = &now.diff_from(sent).removed;
        if removed.iter().any(|name| self.subscription.wants(name)) {
            self.digest = None;
        }
        let unanswered = matches!(self.answer, Answer::Awaited | Answer::Overdue);
        if unanswered && !removed.is_empty() && self.may_have.is_none() {
            self.may_have = Some(sent.clone());
        }
        self.sent = Some(now.clone());
    }

    /// SotW, LDS and CDS: all that is wanted, because absence deletes (rule 7).
    fn whole_set(&self, type_url: &str, now: &Arc<TypeSet>, frames: &FrameBuilder) -> Frame {
        let key = FrameKey {
            set: now.id(),
            delta: false,
            subscription: self.subscription.id(),
            all: true,
            steps: Vec::new(),
            names: Vec::new(),
        };
        let subscription = &self.subscription;
        frames.shared(key, now, subscription, || {
            if subscription.is_wildcard() {
                let all: Vec<&Resource> = now.iter().map(|one| &**one).collect();
                return frames.sotw(type_url, now.version(), &all);
            }
            let wanted = subscription.names().filter_map(|name| now.get(name));
            let wanted: Vec<&Resource> = wanted.map(|one| &**one).collect();
            frames.sotw(type_url, restricted(now, subscription), &wanted)
        })
    }

    /// Only what changed or was asked for.
    fn partial(
        &self,
        kind: Kind,
        told: &Told,
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Frame {
        // All names stand for themselves; only under a wildcard can something be gone that
        // nothing but the steps tells of.
        let steps = match told.all && !(kind.delta && self.subscription.is_wildcard()) {
            true => &[],
            false => &*told.steps,
        };
        let build = || self.build_partial(kind, told, steps, type_url, now, frames);
        // Nothing is kept under names that a client has made up.
        let shared = told.names.len() <= SHARED_NAMES
            && told.names.iter().all(|name| now.get(name).is_some());
        if !shared {
            return build();
        }
        let key = FrameKey {
            set: now.id(),
            delta: kind.delta,
            subscription: self.subscription.id(),
            all: told.all,
            steps: steps.iter().map(|step| (step.from.id(), step.to.id())).collect(),
            names: told.names.iter().cloned().collect(),
        };
        frames.shared(key, now, &self.subscription, build)
    }

    fn build_partial(
        &self,
        kind: Kind,
        told: &Told,
        steps: &[Step],
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Frame {
        let subscription = &self.subscription;
        let mut names: BTreeSet<&str> = told.names.iter().map(|name| &**name).collect();
        let diffs: Vec<_> =
            steps.iter().map(|step| (step.to.diff_from(&step.from), step.removals)).collect();
        for (diff, removals) in &diffs {
            let changed = diff.changed.iter().map(|resource| &resource.name);
            let removed = diff.removed.iter().filter(|_| *removals);
            let wanted = changed.chain(removed).filter(|name| subscription.wants(name));
            names.extend(wanted.map(|name| &**name));
        }
        if told.all {
            names.extend(subscription.names().map(|name| &**name));
            if subscription.is_wildcard() {
                names.extend(now.iter().map(|resource| &*resource.name));
            }
        }
        let there = names.iter().filter_map(|name| now.get(name));
        let there: Vec<&Resource> = there.map(|one| &**one).collect();
        if kind.delta {
            // Named and not there: said as such, and the subscription stays (rules 9, 10).
            let gone: Vec<&str> =
                names.iter().copied().filter(|name| now.get(name).is_none()).collect();
            return frames.delta(type_url, now.version(), &there, &gone);
        }
        let version = match (self.digest, &self.sent) {
            (Some(digest), Some(sent)) if !told.all => {
                Version(names.iter().fold(digest, |sum, name| {
                    let share = |set: &TypeSet| set.get(name).map_or(0, |one| one.digest());
                    sum.wrapping_sub(share(sent)).wrapping_add(share(now))
                }))
            }
            _ => restricted(now, subscription),
        };
        frames.sotw(type_url, version, &there)
    }
}

/// The version of what a subscription sees of a set: a function of the two alone, so it is equal
/// on every replica.
fn restricted(set: &TypeSet, subscription: &Subscription) -> Version {
    if subscription.is_wildcard() {
        return set.version();
    }
    let shares = subscription.names().filter_map(|name| set.get(name));
    Version(shares.fold(0, |sum, one| sum.wrapping_add(one.digest())))
}
