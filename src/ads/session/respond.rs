//! One type on one stream: what goes out.
//!
//! What must be told is worked out from the steps between sets, shared by all streams that make
//! the same steps; a frame that another stream with the same subscription has needed is taken from
//! the set it leads to.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::state::{Answer, Asked, Kind, Step, TypeState, Warming};
use crate::snapshot::encode::{Frame, FrameBuilder, FrameKey};
use crate::snapshot::{Resource, TypeSet, Version};
use crate::subscription::Subscription;

impl TypeState {
    /// Something that this stream wants differs between what was sent and `now`.
    pub(super) fn is_behind(&self, kind: Kind, now: &Arc<TypeSet>) -> bool {
        let Some(sent) = &self.sent else { return false };
        if !self.open || sent.id() == now.id() || sent.version() == now.version() {
            return false;
        }
        let wants = |name: &str| self.subscription.wants(name);
        let diff = now.diff_from(sent);
        diff.changed.iter().any(|resource| wants(&resource.name))
            // In SotW there is no way to say that an endpoint set or route is gone (rule 7).
            || ((kind.delta || kind.full_state) && diff.removed.iter().any(|name| wants(name)))
    }

    /// Nothing would be added or changed by going to `now`, and nothing was asked for.
    pub(super) fn only_removes(&self, now: &Arc<TypeSet>) -> bool {
        let changed = |sent: &Arc<TypeSet>| !now.diff_from(sent).changed.is_empty();
        !self.asked.is_something() && !self.rejected && !self.sent.as_ref().is_some_and(changed)
    }

    /// A response that adds or changes something is not answered yet.
    pub(super) fn has_unanswered_additions(&self) -> bool {
        let adds = |accepted: &Arc<TypeSet>| match &self.sent {
            Some(sent) if sent.id() != accepted.id() => {
                !sent.diff_from(accepted).changed.is_empty()
            }
            _ => false,
        };
        self.awaits().is_some() && self.accepted.as_ref().is_none_or(adds)
    }

    /// What a response to `now` would tell: for CDS, which clusters Envoy will warm.
    pub(super) fn would_tell(&self, now: &Arc<TypeSet>) -> Warming {
        let Some(steps) = self.steps_to(now) else {
            return Warming { all: true, ..Default::default() };
        };
        Warming { all: self.asked.all, steps, names: self.asked.names.clone() }
    }

    /// The way to `now` from what the client accepted; `None` if that is everything.
    fn steps_to(&self, now: &Arc<TypeSet>) -> Option<Vec<Step>> {
        if self.rejected && self.accepted.is_none() {
            return None;
        }
        let sent = self.sent.as_ref()?;
        let mut steps = Vec::new();
        if let (true, Some(accepted)) = (self.rejected, &self.accepted) {
            steps.push((accepted.clone(), sent.clone()));
        }
        if sent.id() != now.id() {
            steps.push((sent.clone(), now.clone()));
        }
        Some(steps)
    }

    /// EDS: a CDS response went out that told this.
    pub(super) fn warm(&mut self, told: Warming) {
        // The first EDS response of a stream tells everything anyway, but for a client that
        // brings endpoints along: it may open EDS after CDS was answered.
        let warming = &mut self.warming;
        warming.all |= told.all;
        warming.steps.extend(told.steps);
        warming.names.extend(told.names);
        // Clusters that change again and again while EDS is held by a missing ACK.
        if warming.steps.len() > 8 || warming.all {
            *warming = Warming { all: true, ..Default::default() };
        }
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
        if std::mem::take(&mut self.warming.all) {
            self.asked.all = true;
        }
        let warming = std::mem::take(&mut self.warming);
        let wanted = warming.names.into_iter().filter(|name| self.subscription.wants(name));
        self.asked.names.extend(wanted);
        if !behind && !self.asked.is_something() && warming.steps.is_empty() {
            self.advance(now);
            return None;
        }
        let frame = if kind.full_state && !kind.delta {
            self.whole_set(type_url, now, frames)
        } else {
            self.partial(kind, behind, warming.steps, type_url, now, frames)?
        };
        self.sent = Some(now.clone());
        self.asked = Asked::default();
        Some(frame)
    }

    /// The frame that [`Self::respond`] gave is on its way.
    pub(super) fn sent_as(&mut self, nonce: u64) {
        self.nonce = nonce;
        self.answer = Answer::Awaited;
    }

    /// Goes along with a set that differs in nothing this stream wants.
    fn advance(&mut self, now: &Arc<TypeSet>) {
        let Some(sent) = &self.sent else { return };
        if sent.id() == now.id() {
            return;
        }
        if now.diff_from(sent).removed.iter().any(|name| self.subscription.wants(name)) {
            self.digest = None;
        }
        if !self.rejected {
            self.accepted = Some(now.clone());
        }
        self.sent = Some(now.clone());
    }

    /// SotW, LDS and CDS: all that is wanted, because absence deletes (rule 7).
    fn whole_set(&mut self, type_url: &str, now: &Arc<TypeSet>, frames: &FrameBuilder) -> Frame {
        self.completes = true;
        let key = FrameKey { delta: false, subscription: self.subscription.id(), steps: None };
        let subscription = &self.subscription;
        now.frame(key, || {
            if subscription.is_wildcard() {
                let all: Vec<&Resource> = now.iter().map(|one| &**one).collect();
                return frames.sotw(type_url, now.version(), &all);
            }
            let wanted = subscription.names().iter().filter_map(|name| now.get(name));
            let wanted: Vec<&Resource> = wanted.map(|one| &**one).collect();
            frames.sotw(type_url, restricted(now, subscription), &wanted)
        })
    }

    /// Only what changed or was asked for; `None` if that comes to nothing.
    fn partial(
        &mut self,
        kind: Kind,
        behind: bool,
        mut steps: Vec<Step>,
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Option<Frame> {
        // After a NACK, what was rejected comes again with the next change, and not before
        // (rule 3).
        let all = self.asked.all || behind && self.rejected && self.accepted.is_none();
        if behind && !all {
            steps.extend(self.steps_to(now).unwrap_or_default());
        }
        let completes = all || behind || !self.rejected;

        let key = FrameKey {
            delta: kind.delta,
            subscription: self.subscription.id(),
            steps: (!all).then(|| steps.iter().map(|(from, to)| (from.id(), to.id())).collect()),
        };
        let build = || self.build_partial(kind, all, &steps, type_url, now, frames);
        let frame = if self.asked.names.is_empty() { now.frame(key, build) } else { build() };
        if frame.resources == 0 && frame.removed == 0 && !(kind.delta && self.asked.reply) {
            self.asked = Asked::default();
            match self.sent {
                Some(_) => self.advance(now),
                None => self.settle(now),
            }
            return None;
        }
        self.completes = completes;
        if !kind.delta {
            self.digest = Some(frame.version.0);
        }
        Some(frame)
    }

    fn build_partial(
        &self,
        kind: Kind,
        all: bool,
        steps: &[Step],
        type_url: &str,
        now: &Arc<TypeSet>,
        frames: &FrameBuilder,
    ) -> Frame {
        let subscription = &self.subscription;
        let mut names: BTreeSet<&str> = self.asked.names.iter().map(|name| &**name).collect();
        let diffs: Vec<_> = steps.iter().map(|(from, to)| to.diff_from(from)).collect();
        for diff in &diffs {
            let changed = diff.changed.iter().map(|resource| &resource.name);
            let wanted = changed.chain(&diff.removed).filter(|name| subscription.wants(name));
            names.extend(wanted.map(|name| &**name));
        }
        if all {
            names.extend(subscription.names().iter().map(|name| &**name));
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
            (Some(digest), Some(sent)) if !all => {
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
    let shares = subscription.names().iter().filter_map(|name| set.get(name));
    Version(shares.fold(0, |sum, one| sum.wrapping_add(one.digest())))
}
