//! One type on one stream: what is subscribed, what was sent, what was acknowledged.
//!
//! The state is O(1): the subscription is interned, sets are shared, and what must be sent follows from
//! the changes between sets. Only names that a request asked for are listed, until they are sent.
//! Requests are handled here; `respond` builds responses.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::RequestKind;
use super::generations::TypeGenerations;
use super::on_demand::OnDemandState;
use super::pending::{PendingResources, SetChange};
use crate::TypeSet;
use crate::discovery_request::{Common, DeltaRequest, InitialVersions, Names, SotwRequest};
use crate::resource_type::{Role, ServedType};
use crate::subscription::{Change, Interner, Subscription};

/// The wildcard's name (rule 6). For a type without wildcard it has no meaning.
const WILDCARD: &str = "*";

/// Bytes of a pending name: its slot, and its text unless that is shared.
const PENDING_NAME_BYTES: usize = 64;

/// How a type behaves on the wire of one stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct TypeTraits {
    pub(super) delta: bool,
    /// Has the wildcard; in SotW, responses carry the whole set.
    pub(super) full_state: bool,
    /// This server has resources of the type.
    served: bool,
    /// Resources of other types refer to these, which are therefore removed last.
    referred_to: bool,
    /// Unknown names that something else may stand in for.
    pub(super) fallbacks: usize,
}

impl TypeTraits {
    pub(super) fn new(served: Option<ServedType>, delta: bool, fallbacks: usize) -> Self {
        Self {
            delta,
            full_state: served.is_some_and(|served| served.full_state),
            served: served.is_some(),
            referred_to: served.is_some_and(|served| served.role == Role::Target),
            fallbacks,
        }
    }
}

/// Whether the last response was acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AckState {
    /// No response was sent yet.
    NoneSent,
    Pending,
    Acked,
    Nacked,
    /// The ACK is no longer waited for; a late one still counts.
    TimedOut,
}

#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) open: bool,
    /// SotW: a name was subscribed, so that an empty list no longer means everything (rule 6).
    pub(super) had_names: bool,
    pub(super) subscription: Arc<Subscription>,
    /// SotW: hash of the last list of names as it was sent.
    pub(super) names_hash: Option<u64>,
    /// A response is due even if it is empty (rule 14).
    pub(super) must_respond: bool,
    /// What requests ask for, whatever was sent before (rules 5, 9, 11, 12).
    pub(super) requested: PendingResources,
    /// The client reconnected with resources of this type, so that what it requests can wait for the
    /// clusters that it refers to (rule 18).
    pub(super) resuming: bool,
    /// Delta CDS only: resources that the client has from an earlier stream and that are gone. Its routes
    /// may still refer to them, so their removal goes after the first response, and after the routes
    /// (rule 18).
    pub(super) removed_while_disconnected: BTreeSet<Arc<str>>,
    /// EDS only: clusters that CDS responses sent. Envoy waits for the endpoints of every changed cluster
    /// again, changed or not, and in delta does not ask for them (rule 19).
    pub(super) warming: PendingResources,
    /// The set that the stream has been brought to.
    pub(super) sent: Option<Arc<TypeSet>>,
    /// Delta: the set that an unacknowledged response led to, if something of it was removed while the
    /// client was not subscribed to that. If the client subscribes to everything again before it
    /// acknowledges, it takes that response for one to its newer request, and has what was removed.
    pub(super) may_have: Option<Arc<TypeSet>>,
    /// What the last response sent, until it is acknowledged.
    pub(super) unacked: PendingResources,
    /// What earlier responses sent and the client rejected: it is sent again with the next change, and
    /// not before (rule 3).
    pub(super) rejected: PendingResources,
    pub(super) nonce: u64,
    pub(super) ack_state: AckState,
    /// SotW: digest of `sent` restricted to the subscription, if it is known.
    pub(super) digest: Option<u64>,
    pub(super) generations: TypeGenerations,
    /// `None` unless something of it was needed: most types and streams never do.
    pub(super) on_demand: Option<Box<OnDemandState>>,
}

impl TypeState {
    pub(super) fn new(empty: Arc<Subscription>) -> Self {
        Self {
            open: false,
            had_names: false,
            subscription: empty,
            names_hash: None,
            must_respond: false,
            requested: PendingResources::default(),
            resuming: false,
            removed_while_disconnected: BTreeSet::new(),
            warming: PendingResources::default(),
            sent: None,
            may_have: None,
            unacked: PendingResources::default(),
            rejected: PendingResources::default(),
            nonce: 0,
            ack_state: AckState::NoneSent,
            digest: None,
            generations: TypeGenerations::default(),
            on_demand: None,
        }
    }

    pub(super) fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    pub(super) fn is_requested(&self) -> bool {
        self.must_respond || self.requested.is_any()
    }

    /// Only the differences to what the reconnected client has are requested.
    pub(super) fn is_catching_up(&self) -> bool {
        self.resuming && self.is_requested()
    }

    /// Pending names that no other stream shares: those that are not in the set.
    pub(super) fn requested_names(&self, now: &TypeSet) -> usize {
        (self.requested.names.len() + self.removed_while_disconnected.len())
            .saturating_sub(now.len())
    }

    /// Bytes of the names that are to be sent or may have to be sent again.
    pub(super) fn pending_bytes(&self) -> usize {
        let all = [&self.requested, &self.warming, &self.unacked, &self.rejected];
        let names = all.map(|pending| pending.names.len()).iter().sum::<usize>()
            + self.removed_while_disconnected.len()
            + self.on_demand.as_ref().map_or(0, |on_demand| on_demand.len());
        names * PENDING_NAME_BYTES
    }

    pub(super) fn unacked_nonce(&self) -> Option<u64> {
        (self.ack_state == AckState::Pending).then_some(self.nonce)
    }

    pub(super) fn ack_timed_out(&mut self, nonce: u64) {
        if self.unacked_nonce() == Some(nonce) {
            self.ack_state = AckState::TimedOut;
        }
    }

    // === requests ===

    pub(super) fn sotw_request(
        &mut self,
        traits: TypeTraits,
        request: &SotwRequest,
        now: &Arc<TypeSet>,
        interner: &Interner,
    ) -> RequestKind {
        let first = !std::mem::replace(&mut self.open, true);
        let repeated = self.ack_state == AckState::Acked && self.is_current(&request.common);
        self.resuming = first && !request.version_info.is_empty();
        // A nonce on a type's first request is from an earlier stream (rule 1).
        let kind = if first { RequestKind::Subscribe } else { self.handle_ack(&request.common) };

        let same = request.names.known() == Some(self.subscription.id());
        let hash = (!same).then(|| request.names.hash());
        let list_changed = !same && std::mem::replace(&mut self.names_hash, hash) != hash;
        let before = self.subscription.clone();
        if list_changed {
            // Even a stale request carries the current names of the client (rule 4).
            self.subscription = self.sotw_subscription(traits, &request.names, now, interner);
        }
        let (old, new) = (&before, &self.subscription);
        let changed = old.id() != new.id();
        if changed {
            self.digest = None;
        }

        if first {
            let current = request.version_info == now.version().to_string();
            if traits.full_state && new.is_wildcard() && new.names().next().is_none() && current {
                // The client has exactly this from an earlier stream (rule 22).
                self.set_synced(now);
            } else {
                self.requested.all = true;
                // What it has is unknown, only that it differs.
                self.requested.adds = self.resuming;
                self.must_respond = traits.full_state || !traits.served && request.names.is_empty();
            }
        } else if request.common.response_nonce.is_empty() {
            self.requested.all = true;
        } else if changed && traits.full_state {
            let added = new.added_since(old);
            self.must_respond |= new.is_wildcard() != old.is_wildcard() || !added.is_empty();
            self.requested.all |= new.is_wildcard() && !old.is_wildcard();
            if !old.is_wildcard() {
                self.requested.names.extend(added.iter().cloned());
            }
        } else if changed {
            self.requested.names.extend(new.added_since(old).iter().cloned());
        } else if repeated && request.common.error.is_none() {
            // The same request again after its ACK: the client lost the resources (rule 5).
            self.requested.all = true;
        }
        kind
    }

    pub(super) fn delta_request(
        &mut self,
        traits: TypeTraits,
        request: &DeltaRequest,
        now: &Arc<TypeSet>,
        interner: &Interner,
    ) -> RequestKind {
        let first = !std::mem::replace(&mut self.open, true);
        let kind = if first { RequestKind::Subscribe } else { self.handle_ack(&request.common) };
        self.resuming = false;

        let is_list = first && !traits.full_state && self.subscription.is_empty();
        let is_list = is_list && request.unsubscribe.is_empty();
        if is_list {
            self.subscription = subscription_to_names(&request.subscribe, now, interner);
        }
        let mut change = Change { wildcard: self.subscription.is_wildcard(), ..Change::default() };
        if first && traits.full_state && request.subscribe.is_empty() {
            change.wildcard = true;
        }
        for name in request.unsubscribe.iter() {
            if name == WILDCARD {
                change.wildcard = false;
                continue;
            }
            let name = shared_name(now, name);
            if change.wildcard {
                // Still subscribed by the wildcard; the client cannot know whether to keep it
                // (rule 12).
                self.requested.names.insert(name.clone());
            } else {
                self.requested.names.remove(&name);
            }
            change.without.push(name);
        }
        for name in request.subscribe.iter().filter(|_| !is_list) {
            if name == WILDCARD {
                if traits.full_state {
                    // The first request is compared with what the client has.
                    self.requested.all |= !first;
                    self.must_respond |= !first;
                    change.wildcard = true;
                    if let Some(from) = self.may_have.take() {
                        let to = now.clone();
                        self.requested.changes.push(SetChange { from, to, removals: true });
                        self.requested.enforce_bounds();
                    }
                }
                continue;
            }
            let name = shared_name(now, name);
            if !first {
                // Even if it was sent before: the client may have dropped it since (rule 11).
                self.requested.names.insert(name.clone());
            }
            change.with.push(name);
        }
        if change.wildcard && !self.subscription.is_wildcard() && now.is_on_demand() {
            change.with.extend(self.implied_names(&request.initial_versions, now));
        }
        let list_changed = !change.without.is_empty() || !change.with.is_empty();
        if list_changed || change.wildcard != self.subscription.is_wildcard() {
            self.subscription = interner.change(&self.subscription, change);
        }

        if first {
            // Clusters may have been sent before this type was opened; what the client says it has of
            // those does not count.
            if request.initial_versions.is_empty() || self.warming.all {
                self.requested.all = true;
                self.must_respond = self.subscription.is_wildcard();
                self.requested.names.extend(self.missing(&request.initial_versions, now));
            } else {
                self.compare_initial(traits, &request.initial_versions, now);
            }
            // A wildcard on a type without resources (rule 14).
            self.must_respond |=
                !traits.served && request.subscribe.iter().all(|name| name == WILDCARD);
        }
        kind
    }

    /// Compares what the client has with the set (rule 13), once.
    fn compare_initial(
        &mut self,
        traits: TypeTraits,
        initial: &InitialVersions,
        now: &Arc<TypeSet>,
    ) {
        let initial_versions: HashMap<&str, &str> = initial.iter().collect();
        let subscription = self.subscription.clone();
        self.keep_fallbacks(traits, &initial_versions, now);
        let on_demand = self.on_demand.take();
        let has_fallback =
            |name: &str| on_demand.as_ref().is_some_and(|on_demand| on_demand.has_fallback(name));
        let differs = |name: &str| match now.get(name) {
            Some(resource) => initial_versions
                .get(name)
                .is_none_or(|version| *version != resource.version.to_string()),
            // Subscribed or held by the client, and gone: reported as removed, even if the client knows
            // that already (it subscribes again to what it lost).
            None => !has_fallback(name),
        };
        let named = subscription.names().map(|name| &**name);
        let covered = subscription.is_wildcard().then(|| now.covered()).flatten();
        let everything = (subscription.is_wildcard() && covered.is_none()).then(|| now.iter());
        let everything = everything.into_iter().flatten().chain(covered.into_iter().flatten());
        // A name that no wildcard covers and that is gone: the client has it all the same.
        let candidates = named
            .chain(everything.map(|resource| &*resource.name))
            .chain(initial_versions.keys().copied().filter(|name| subscription.wants(name)));
        for name in candidates.filter(|name| differs(name)) {
            if traits.referred_to && now.get(name).is_none() && !subscription.is_named(name) {
                self.removed_while_disconnected.insert(name.into());
                continue;
            }
            self.requested.adds |= now.get(name).is_some() && !initial_versions.contains_key(name);
            self.requested.names.insert(shared_name(now, name));
        }
        // A response must go before the removals, so that the client has opened its other types by the
        // time its ACK is here.
        self.must_respond = !self.removed_while_disconnected.is_empty();
        // A name that is unknown on demand is no sign of a client that starts.
        let is_unknown = |name: &str| now.is_on_demand() && now.get(name).is_none();
        let is_known = |name: &str| initial_versions.contains_key(name) || is_unknown(name);
        self.resuming = subscription.names().all(|name| is_known(name));
        self.on_demand = on_demand;
        self.set_synced(now);
    }

    /// Subscribed resources that the client has and that are gone.
    fn missing(&self, initial: &InitialVersions, now: &TypeSet) -> Vec<Arc<str>> {
        let names = initial.iter().map(|(name, _)| name);
        let gone = names.filter(|name| self.subscription.wants(name) && now.get(name).is_none());
        gone.map(Arc::from).collect()
    }

    /// The client has everything of `now` that it subscribed to, but for what is requested.
    pub(super) fn set_synced(&mut self, now: &Arc<TypeSet>) {
        self.sent = Some(now.clone());
    }

    fn is_current(&self, request: &Common) -> bool {
        self.nonce != 0 && u64::from_str_radix(&request.response_nonce, 16) == Ok(self.nonce)
    }

    /// Applies the ACK or NACK that a later request carries.
    fn handle_ack(&mut self, request: &Common) -> RequestKind {
        if request.response_nonce.is_empty() {
            return RequestKind::Subscribe;
        }
        let unacked = matches!(self.ack_state, AckState::Pending | AckState::TimedOut);
        if !self.is_current(request) {
            return RequestKind::Stale;
        }
        let nonce = self.nonce;
        self.may_have = None;
        match &request.error {
            // Presence of error_detail is what makes a NACK, not the version (rule 2).
            Some(error) if unacked => {
                self.ack_state = AckState::Nacked;
                self.mark_rejected();
                RequestKind::Nack { nonce, error: error.clone() }
            }
            None if unacked => {
                self.ack_state = AckState::Acked;
                self.unacked = PendingResources::default();
                RequestKind::Ack { nonce }
            }
            // The nonce of a response that was acknowledged before: a subscription change.
            _ => RequestKind::Subscribe,
        }
    }

    /// What the last response sent was not accepted.
    pub(super) fn mark_rejected(&mut self) {
        let mut pending = std::mem::take(&mut self.unacked);
        pending.prepend(std::mem::take(&mut self.rejected));
        pending.enforce_bounds();
        self.rejected = pending;
    }

    fn sotw_subscription(
        &mut self,
        traits: TypeTraits,
        names: &Names,
        now: &TypeSet,
        interner: &Interner,
    ) -> Arc<Subscription> {
        let has_wildcard = traits.full_state && names.iter().any(|name| name == WILDCARD);
        // Once any name was subscribed, an empty list means none (rule 6).
        let legacy = traits.full_state && names.is_empty() && !self.had_names;
        self.had_names |= !names.is_empty();
        if !traits.full_state {
            return subscription_to_names(names, now, interner);
        }
        let names = names
            .iter()
            .filter(|name| *name != WILDCARD)
            .map(|name| shared_name(now, name))
            .collect();
        interner.intern(has_wildcard || legacy, names)
    }
}

/// The subscription to a list of names of a type without wildcard.
fn subscription_to_names(names: &Names, now: &TypeSet, interner: &Interner) -> Arc<Subscription> {
    let list = || {
        let names = names.iter().filter(|name| *name != WILDCARD);
        names.map(|name| shared_name(now, name)).collect()
    };
    interner.intern_as_sent(names.as_sent(), names.len(), list)
}

/// The set's own allocation of a name, so that a thousand streams do not hold a thousand copies.
pub(super) fn shared_name(set: &TypeSet, name: &str) -> Arc<str> {
    set.get(name).map_or_else(|| Arc::from(name), |resource| resource.name.clone())
}
