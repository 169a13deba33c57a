//! One type on one stream: what was asked for, what was sent, what was answered.
//!
//! The state is O(1): the subscription is interned, sets are shared, and what must be sent follows
//! from the steps between sets. Only what a request asked for by name is listed, until it is sent.
//! Requests are taken in here; `respond` makes what goes out.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::Meaning;
use super::told::{Step, Told};
use crate::ads::request::{Common, DeltaRequest, InitialVersions, Names, SotwRequest};
use crate::names::ResourceType;
use crate::snapshot::TypeSet;
use crate::subscription::{Change, Interner, Subscription};

/// The wildcard's name (rule 6). Of a type that has none it means nothing.
const WILDCARD: &str = "*";

/// What a name that is to be told holds: its slot, and its text unless others have that too.
const PENDING_NAME_BYTES: usize = 64;

/// How a type behaves on the wire.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kind {
    pub(super) delta: bool,
    /// Knows the wildcard; in SotW, responses carry the whole set.
    pub(super) full_state: bool,
    /// There are resources of it.
    served: bool,
    /// Other types refer to its resources, which should go after what refers to them.
    referred: bool,
}

impl Kind {
    pub(super) fn new(of: Option<ResourceType>, delta: bool) -> Self {
        Self {
            delta,
            full_state: of.is_some_and(ResourceType::is_full_state),
            served: of.is_some(),
            referred: of == Some(ResourceType::Cluster),
        }
    }
}

/// What became of the last response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// None was sent yet.
    Nothing,
    Awaited,
    Acked,
    Nacked,
    /// Nobody waits for it any more; a late ACK still counts.
    Overdue,
}

#[derive(Debug)]
pub(super) struct TypeState {
    pub(super) open: bool,
    /// SotW: a name was seen, so that an empty list no longer means everything (rule 6).
    pub(super) named: bool,
    pub(super) subscription: Arc<Subscription>,
    /// SotW: hash of the last list of names as it was sent.
    pub(super) names_hash: Option<u64>,
    /// An answer is due even if there is nothing to tell (rule 14).
    pub(super) reply: bool,
    /// What requests ask for beyond the newest changes, whatever was sent before (rules 5, 9, 11,
    /// 12).
    pub(super) asked: Told,
    /// The client came back with something of this type, so that what is asked can wait for the
    /// clusters that it refers to (rule 18).
    pub(super) patient: bool,
    /// Delta CDS only: what a client brought along and will not find. Its routes may still lead
    /// there, so this goes after the first answer, and after the routes (rule 18).
    pub(super) vanished: BTreeSet<Arc<str>>,
    /// EDS only: clusters that CDS responses told of. Envoy waits for the endpoints of every
    /// changed cluster again, changed or not, and in delta does not ask for them (rule 19).
    pub(super) warming: Told,
    /// The set that the stream has been brought to.
    pub(super) sent: Option<Arc<TypeSet>>,
    /// Delta: the set that an unanswered response led to, if something of it vanished while the
    /// client wanted nothing of that. If it asks for everything again before it answers, it takes
    /// that response for one to its newer request, and has what vanished.
    pub(super) may_have: Option<Arc<TypeSet>>,
    /// What the last response told, until it is accepted.
    pub(super) outstanding: Told,
    /// What earlier responses told and the client did not accept: it comes again with the next
    /// change, and not before (rule 3).
    pub(super) rejected: Told,
    pub(super) nonce: u64,
    pub(super) answer: Answer,
    /// SotW: digest of `sent` restricted to the subscription, if it is known.
    pub(super) digest: Option<u64>,
}

impl TypeState {
    pub(super) fn new(nothing: Arc<Subscription>) -> Self {
        Self {
            open: false,
            named: false,
            subscription: nothing,
            names_hash: None,
            reply: false,
            asked: Told::default(),
            patient: false,
            vanished: BTreeSet::new(),
            warming: Told::default(),
            sent: None,
            may_have: None,
            outstanding: Told::default(),
            rejected: Told::default(),
            nonce: 0,
            answer: Answer::Nothing,
            digest: None,
        }
    }

    pub(super) fn subscription(&self) -> &Arc<Subscription> {
        &self.subscription
    }

    pub(super) fn is_asked(&self) -> bool {
        self.reply || self.asked.is_something()
    }

    /// What is asked are only the differences to what the client came back with.
    pub(super) fn catches_up(&self) -> bool {
        self.patient && self.is_asked()
    }

    /// Names that are to be answered and that nobody else keeps: those that are not in the set.
    pub(super) fn asked_names(&self, now: &TypeSet) -> usize {
        (self.asked.names.len() + self.vanished.len()).saturating_sub(now.len())
    }

    /// Bytes of the names that are to be told or may have to be told again.
    pub(super) fn pending_bytes(&self) -> usize {
        let told = [&self.asked, &self.warming, &self.outstanding, &self.rejected];
        let names = told.map(|told| told.names.len()).iter().sum::<usize>() + self.vanished.len();
        names * PENDING_NAME_BYTES
    }

    pub(super) fn awaits(&self) -> Option<u64> {
        (self.answer == Answer::Awaited).then_some(self.nonce)
    }

    pub(super) fn overdue(&mut self, nonce: u64) {
        if self.awaits() == Some(nonce) {
            self.answer = Answer::Overdue;
        }
    }

    // === requests ===

    pub(super) fn sotw_request(
        &mut self,
        kind: Kind,
        request: &SotwRequest,
        now: &Arc<TypeSet>,
        interner: &Interner,
    ) -> Meaning {
        let first = !std::mem::replace(&mut self.open, true);
        let repeated = self.answer == Answer::Acked && self.is_current(&request.common);
        self.patient = first && !request.version_info.is_empty();
        // A nonce on a type's first request is of another stream (rule 1).
        let meaning = if first { Meaning::Subscribe } else { self.answer(&request.common) };

        let same = request.names.known() == Some(self.subscription.id());
        let hash = (!same).then(|| request.names.hash());
        let renamed = !same && std::mem::replace(&mut self.names_hash, hash) != hash;
        let before = self.subscription.clone();
        if renamed {
            // Even a stale request carries the names the client wants by now (rule 4).
            self.subscription = self.sotw_subscription(kind, &request.names, now, interner);
        }
        let (old, new) = (&before, &self.subscription);
        let changed = old.id() != new.id();
        if changed {
            self.digest = None;
        }

        if first {
            let current = request.version_info == now.version().to_string();
            if kind.full_state && new.is_wildcard() && new.names().next().is_none() && current {
                // The client brings exactly this along from another stream (rule 22).
                self.settle(now);
            } else {
                self.asked.all = true;
                // What it had cannot be known, but that it had something else.
                self.asked.adds = self.patient;
                self.reply = kind.full_state || !kind.served && request.names.is_empty();
            }
        } else if request.common.response_nonce.is_empty() {
            self.asked.all = true;
        } else if changed && kind.full_state {
            let added = new.added_since(old);
            self.reply |= new.is_wildcard() != old.is_wildcard() || !added.is_empty();
            self.asked.all |= new.is_wildcard() && !old.is_wildcard();
            if !old.is_wildcard() {
                self.asked.names.extend(added.iter().cloned());
            }
        } else if changed {
            self.asked.names.extend(new.added_since(old).iter().cloned());
        } else if repeated && request.common.error.is_none() {
            // The same once more, after its ACK: the client lost it and asks again (rule 5).
            self.asked.all = true;
        }
        meaning
    }

    pub(super) fn delta_request(
        &mut self,
        kind: Kind,
        request: &DeltaRequest,
        now: &Arc<TypeSet>,
        interner: &Interner,
    ) -> Meaning {
        let first = !std::mem::replace(&mut self.open, true);
        let meaning = if first { Meaning::Subscribe } else { self.answer(&request.common) };
        self.patient = false;

        let plain = first && !kind.full_state && self.subscription.is_empty();
        let plain = plain && request.unsubscribe.is_empty();
        if plain {
            self.subscription = plain_subscription(&request.subscribe, now, interner);
        }
        let mut change = Change { wildcard: self.subscription.is_wildcard(), ..Change::default() };
        if first && kind.full_state && request.subscribe.is_empty() {
            change.wildcard = true;
        }
        for name in request.unsubscribe.iter() {
            if name == WILDCARD {
                change.wildcard = false;
                continue;
            }
            let name = shared_name(now, name);
            if change.wildcard {
                // Still wanted by the wildcard; the client cannot know whether to keep it
                // (rule 12).
                self.asked.names.insert(name.clone());
            } else {
                self.asked.names.remove(&name);
            }
            change.without.push(name);
        }
        for name in request.subscribe.iter().filter(|_| !plain) {
            if name == WILDCARD {
                if kind.full_state {
                    // On a first request it is compared with what the client brings along.
                    self.asked.all |= !first;
                    self.reply |= !first;
                    change.wildcard = true;
                    if let Some(from) = self.may_have.take() {
                        let to = now.clone();
                        self.asked.steps.push(Step { from, to, removals: true });
                        self.asked.bound();
                    }
                }
                continue;
            }
            let name = shared_name(now, name);
            if !first {
                // Whatever was sent before: the client may have dropped it since (rule 11).
                self.asked.names.insert(name.clone());
            }
            change.with.push(name);
        }
        let renamed = !change.without.is_empty() || !change.with.is_empty();
        if renamed || change.wildcard != self.subscription.is_wildcard() {
            self.subscription = interner.change(&self.subscription, change);
        }

        if first {
            // Clusters may have been sent before this type was opened; of those, "has it already"
            // does not count.
            if request.initial_versions.is_empty() || self.warming.all {
                self.asked.all = true;
                self.reply = self.subscription.is_wildcard();
                self.asked.names.extend(self.missing(&request.initial_versions, now));
            } else {
                self.compare(kind, &request.initial_versions, now);
            }
            // Everything of a type of which there is nothing (rule 14).
            self.reply |= !kind.served && request.subscribe.iter().all(|name| name == WILDCARD);
        }
        meaning
    }

    /// Compares once what the client brings along with what there is (rule 13), and forgets it.
    fn compare(&mut self, kind: Kind, initial: &InitialVersions, now: &Arc<TypeSet>) {
        let brought: std::collections::HashMap<&str, &str> = initial.iter().collect();
        let subscription = self.subscription.clone();
        let differs = |name: &str| match now.get(name) {
            Some(resource) => {
                brought.get(name).is_none_or(|version| *version != resource.version.to_string())
            }
            // Subscribed or brought along and not there: reported as removed, even where the
            // client knows that already (it subscribes again to what it lost).
            None => true,
        };
        let named = subscription.names().map(|name| &**name);
        let everything = now.iter().map(|resource| &*resource.name);
        let candidates = named
            .chain(subscription.is_wildcard().then_some(everything).into_iter().flatten())
            .chain(brought.keys().copied().filter(|name| subscription.wants(name)));
        for name in candidates.filter(|name| differs(name)) {
            if kind.referred && now.get(name).is_none() && !subscription.is_named(name) {
                self.vanished.insert(name.into());
                continue;
            }
            self.asked.adds |= now.get(name).is_some() && !brought.contains_key(name);
            self.asked.names.insert(shared_name(now, name));
        }
        // Something must be answered before, so that the client has opened its other types by
        // the time its ACK is here.
        self.reply = !self.vanished.is_empty();
        self.patient = subscription.names().all(|name| brought.contains_key(&**name));
        self.settle(now);
    }

    /// What the client brings along, wants, and will not find.
    fn missing(&self, initial: &InitialVersions, now: &TypeSet) -> Vec<Arc<str>> {
        let names = initial.iter().map(|(name, _)| name);
        let gone = names.filter(|name| self.subscription.wants(name) && now.get(name).is_none());
        gone.map(Arc::from).collect()
    }

    /// The client has all of `now` that it wants, but for what is asked.
    pub(super) fn settle(&mut self, now: &Arc<TypeSet>) {
        self.sent = Some(now.clone());
    }

    fn is_current(&self, request: &Common) -> bool {
        self.nonce != 0 && u64::from_str_radix(&request.response_nonce, 16) == Ok(self.nonce)
    }

    /// What a later request's nonce says about the last response.
    fn answer(&mut self, request: &Common) -> Meaning {
        if request.response_nonce.is_empty() {
            return Meaning::Subscribe;
        }
        let unanswered = matches!(self.answer, Answer::Awaited | Answer::Overdue);
        if !self.is_current(request) {
            return Meaning::Stale;
        }
        let nonce = self.nonce;
        self.may_have = None;
        match &request.error {
            // Presence of error_detail is what makes a NACK, not the version (rule 2).
            Some(error) if unanswered => {
                self.answer = Answer::Nacked;
                self.reject();
                Meaning::Nack { nonce, error: error.clone() }
            }
            None if unanswered => {
                self.answer = Answer::Acked;
                self.outstanding = Told::default();
                Meaning::Ack { nonce }
            }
            // The nonce of a response that was answered: a subscription change.
            _ => Meaning::Subscribe,
        }
    }

    /// What the last response told was not accepted.
    pub(super) fn reject(&mut self) {
        let mut told = std::mem::take(&mut self.outstanding);
        told.put_before(std::mem::take(&mut self.rejected));
        told.bound();
        self.rejected = told;
    }

    fn sotw_subscription(
        &mut self,
        kind: Kind,
        names: &Names,
        now: &TypeSet,
        interner: &Interner,
    ) -> Arc<Subscription> {
        let star = kind.full_state && names.iter().any(|name| name == WILDCARD);
        // Once any name was seen, an empty list means none (rule 6).
        let legacy = kind.full_state && names.is_empty() && !self.named;
        self.named |= !names.is_empty();
        if !kind.full_state {
            return plain_subscription(names, now, interner);
        }
        let names = names
            .iter()
            .filter(|name| *name != WILDCARD)
            .map(|name| shared_name(now, name))
            .collect();
        interner.intern(star || legacy, names)
    }
}

/// To names of a type that has no wildcard, as they are listed.
fn plain_subscription(names: &Names, now: &TypeSet, interner: &Interner) -> Arc<Subscription> {
    let list = || {
        let names = names.iter().filter(|name| *name != WILDCARD);
        names.map(|name| shared_name(now, name)).collect()
    };
    interner.intern_as_sent(names.as_sent(), names.len(), list)
}

/// The name as the set has it, so that a thousand streams do not hold a thousand copies.
fn shared_name(set: &TypeSet, name: &str) -> Arc<str> {
    set.get(name).map_or_else(|| Arc::from(name), |resource| resource.name.clone())
}
