//! The xDS protocol, state of the world and delta, as one state machine without I/O, time or locks.
//!
//! [`Session::handle_request`] takes a request; [`Session::next_response`] returns what to send for the
//! current view, one response at a time, until there is nothing to send. A returned response counts as
//! sent. There is at most one unacknowledged response a type, so a slow proxy skips versions and costs
//! nothing. The rules that are cited by number are those of `docs/protocol.md`. `state` and `respond` hold
//! what concerns one type; the order among types is here.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::discovery_request::{DiscoveryRequest, MalformedRequest};
use crate::frame::{Frame, FrameBuilder};
use crate::resource_type::{Role, ServedType, TypeIndex};
use crate::subscription::{Interner, Subscription};
use crate::{TypeSet, View};

mod generations;
mod on_demand;
mod pending;
mod respond;
mod state;
#[cfg(test)]
mod tests;

pub use generations::Generations;
use state::{TypeState, TypeTraits};

/// How many CDS responses in a row may go before changed listeners and routes.
const MAX_ROUNDS: u32 = 4;

/// What one stream may subscribe to.
#[derive(Clone, Copy, Debug)]
pub struct SessionLimits {
    /// Names in one type's subscription.
    pub names: usize,
    /// Types on one stream, those that are not served included.
    pub types: usize,
    /// Unknown names of one type that something else stands in for
    /// ([`OnDemandNames::fallback`](crate::OnDemandNames)).
    pub fallbacks: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { names: 100_000, types: 16, fallbacks: 100 }
    }
}

/// Why a request ends its stream; the gRPC status follows from it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    #[error("type_url is empty: on an aggregated stream every request must name its type")]
    NoType,
    #[error("type_url {0:?} is no resource type: expected \"type.googleapis.com/…\"")]
    BadType(String),
    #[error("type_url {got:?} on a stream that serves {expected} only")]
    WrongType { expected: &'static str, got: String },
    #[error("{got} names asked for of one type, the limit is {limit}")]
    TooManyNames { got: usize, limit: usize },
    #[error("more than {limit} resource types on one stream")]
    TooManyTypes { limit: usize },
}

/// What a request is, for the status and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// The first request of its type, or a subscription change without a nonce.
    Subscribe,
    Ack {
        nonce: u64,
    },
    /// With the client's text.
    Nack {
        nonce: u64,
        error: String,
    },
    /// With the nonce of another response than the last one, or of one that was acknowledged already.
    Stale,
}

/// A response to send.
#[derive(Debug)]
pub struct Response {
    /// `None` for a type that is not served.
    pub resource_type: Option<TypeIndex>,
    pub frame: Frame,
    pub nonce: u64,
    /// The set that it brings the proxy to, and the proxy's subscription.
    pub set: Arc<TypeSet>,
    pub subscription: Arc<Subscription>,
}

/// The server's side of one stream.
#[derive(Debug)]
pub struct Session {
    delta: bool,
    /// Set on the single-type services.
    only: Option<TypeIndex>,
    table: &'static [ServedType],
    limits: SessionLimits,
    interner: Arc<Interner>,
    frames: Arc<FrameBuilder>,
    /// The last nonce that was used. Starts anywhere, so that nonces of an earlier stream are foreign.
    nonce: u64,
    types: Box<[TypeState]>,
    unserved: Vec<Unserved>,
    /// CDS responses that were sent while changed listeners or routes waited.
    rounds_waited: u32,
    /// Of the snapshot that the view is from.
    generation: u64,
}

/// A type that is well-formed and not served: a set that is always empty (rule 16).
#[derive(Debug)]
struct Unserved {
    type_url: String,
    state: TypeState,
    /// Its own, because frames are cached by the set and contain the type.
    empty_set: Arc<TypeSet>,
}

impl Session {
    /// A new stream. `table` has the types that are served, in the order in which they must be sent;
    /// `only` is the one type of a single-type service. `nonce` seeds the nonces; different streams
    /// should get different seeds.
    pub fn new(
        delta: bool,
        table: &'static [ServedType],
        only: Option<TypeIndex>,
        limits: SessionLimits,
        interner: Arc<Interner>,
        frames: Arc<FrameBuilder>,
        nonce: u64,
    ) -> Self {
        let none = interner.intern(false, Vec::new());
        let types = table.iter().map(|_| TypeState::new(none.clone())).collect();
        let unserved = Vec::new();
        Self {
            delta,
            only,
            table,
            limits,
            interner,
            frames,
            nonce,
            types,
            unserved,
            rounds_waited: 0,
            generation: 0,
        }
    }

    /// Reads a request of this stream.
    ///
    /// # Errors
    /// Bytes that are no such message.
    pub fn decode(&self, message: Bytes) -> Result<DiscoveryRequest, MalformedRequest> {
        let known = self.types.iter().map(|state| &**state.subscription());
        DiscoveryRequest::decode_with_known_names(message, self.delta, known)
    }

    /// Handles a request; responses to it come out of [`Self::next_response`].
    ///
    /// # Errors
    /// A [`RequestError`], after which the stream must be ended.
    pub fn handle_request(
        &mut self,
        request: &DiscoveryRequest,
        view: &View,
    ) -> Result<(Option<TypeIndex>, RequestKind), RequestError> {
        let resource_type = self.type_of(&request.common().type_url)?;
        let limit = self.limits.names;
        let sent = match request {
            DiscoveryRequest::Sotw(request) => request.names.len(),
            DiscoveryRequest::Delta(request) => {
                [request.subscribe.len(), request.unsubscribe.len(), request.initial_versions.len()]
                    .into_iter()
                    .max()
                    .unwrap_or_default()
            }
        };
        if sent > limit {
            return Err(RequestError::TooManyNames { got: sent, limit });
        }
        if let Some(index) = resource_type
            && self.table[index.0].role == Role::Member
        {
            self.expect_warming(index);
        }
        let (state, traits, now) = match resource_type {
            Some(index) => (
                &mut self.types[index.0],
                TypeTraits::new(Some(self.table[index.0]), self.delta, self.limits.fallbacks),
                view.set(index),
            ),
            None => {
                let url = &request.common().type_url;
                let at = match self.unserved.iter().position(|one| one.type_url == *url) {
                    Some(at) => at,
                    None if self.unserved.len() + self.types.len() >= self.limits.types => {
                        return Err(RequestError::TooManyTypes { limit: self.limits.types });
                    }
                    None => {
                        let none = self.interner.intern(false, Vec::new());
                        self.unserved.push(Unserved {
                            type_url: url.clone(),
                            state: TypeState::new(none),
                            empty_set: Arc::default(),
                        });
                        self.unserved.len() - 1
                    }
                };
                let Unserved { state, empty_set, .. } = &mut self.unserved[at];
                (state, TypeTraits::new(None, self.delta, 0), &*empty_set)
            }
        };
        let kind = match request {
            DiscoveryRequest::Sotw(request) => {
                state.sotw_request(traits, request, now, &self.interner)
            }
            DiscoveryRequest::Delta(request) => {
                state.delta_request(traits, request, now, &self.interner)
            }
        };
        if matches!(kind, RequestKind::Ack { .. }) {
            state.acknowledge_generation();
        }
        let got = state.subscription().len().max(state.requested_names(now));
        if got > limit {
            return Err(RequestError::TooManyNames { got, limit });
        }
        Ok((resource_type, kind))
    }

    /// The next response, or `None` while there is nothing to send. Call until `None` after every
    /// request and every new snapshot.
    ///
    /// Types are sent in the order of the table (CDS, EDS, LDS, RDS), and removals of clusters last, in a
    /// response of their own, so that nothing refers to a missing resource (rule 18). Only sends are ordered: no type
    /// waits for another type's ACK. The one exception is that changed listeners and routes wait for the
    /// ACK of a CDS response that adds clusters: Envoy sends it once those are warm, and a route that
    /// came sooner would answer 503 until then (seen under load). The wait ends with the ACK timeout; in
    /// a mesh that changes all the time there is always another such response, so after a few rounds
    /// listeners and routes go first. Those that were requested on this stream wait if the client
    /// reconnected with what it had, and never if it starts: Envoy then requests them when its clusters
    /// are warm.
    pub fn next_response(&mut self, view: &View) -> Option<Response> {
        let behind = self.referrers_are_behind(view);
        if let Some(response) = self.next_served(view, behind) {
            return Some(response);
        }
        // A referrer of which there was nothing to send has caught up without a response: what waited
        // for it goes now.
        if behind
            && !self.referrers_are_behind(view)
            && let Some(response) = self.next_served(view, false)
        {
            return Some(response);
        }
        let response = self.poll_unserved();
        if response.is_none() {
            self.note_caught_up(view);
        }
        response
    }

    fn referrers_are_behind(&self, view: &View) -> bool {
        self.with_role(Role::Referrer)
            .any(|index| self.is_behind(index, view) || self.types[index.0].is_catching_up())
    }

    fn next_served(&mut self, view: &View, referrers_behind: bool) -> Option<Response> {
        if !referrers_behind {
            self.rounds_waited = 0;
        }
        let targets_warming = self
            .with_role(Role::Target)
            .any(|index| self.types[index.0].is_adding(view.set(index)));
        let referrers_first = self.rounds_waited > MAX_ROUNDS && !targets_warming;
        // Whether a pass is the one of the referrers that go first.
        let passes: &[bool] = if referrers_first { &[true, false] } else { &[false] };
        for pass in passes {
            for at in 0..self.table.len() {
                let (index, role) = (TypeIndex(at), self.table[at].role);
                if *pass != (referrers_first && role == Role::Referrer) {
                    continue;
                }
                let state = &self.types[at];
                let wait = match role {
                    Role::Target => referrers_behind && state.only_removes(view.set(index)),
                    Role::Referrer => {
                        targets_warming && (!state.is_requested() || state.is_catching_up())
                    }
                    Role::Member | Role::Independent => false,
                };
                if wait {
                    continue;
                }
                let delayed = role == Role::Target && referrers_behind;
                let kept = (delayed && state.unacked_nonce().is_none())
                    .then(|| state.without_removals(view.set(index)));
                let set = kept.as_ref().unwrap_or(view.set(index));
                let complete = set.id() == view.set(index).id();
                if let Some(response) = self.poll_type(index, set, complete) {
                    self.rounds_waited += u32::from(delayed);
                    return Some(response);
                }
            }
        }
        None
    }

    /// Stops waiting for the ACK of a response, so that newer content can be sent: a withheld ACK may never
    /// come (Envoy withholds CDS' while clusters warm).
    pub fn ack_timed_out(&mut self, resource_type: impl Into<TypeIndex>, nonce: u64) {
        self.types[resource_type.into().0].ack_timed_out(nonce);
    }

    /// The nonce of this type's unacknowledged response.
    pub fn unacked_nonce(&self, resource_type: impl Into<TypeIndex>) -> Option<u64> {
        self.types[resource_type.into().0].unacked_nonce()
    }

    /// The subscription of this type.
    pub fn subscription(&self, resource_type: impl Into<TypeIndex>) -> &Arc<Subscription> {
        self.types[resource_type.into().0].subscription()
    }

    /// The set that the proxy was brought to, or had from an earlier stream; `None` if neither.
    pub fn sent_set(&self, resource_type: impl Into<TypeIndex>) -> Option<&Arc<TypeSet>> {
        self.types[resource_type.into().0].sent.as_ref()
    }

    /// About how many bytes this stream alone holds: pending names, and subscriptions of types that are not
    /// served.
    pub fn held_bytes(&self) -> usize {
        let unserved = self.unserved.iter();
        let unserved =
            unserved.map(|one| one.state.pending_bytes() + one.state.subscription().bytes());
        self.types.iter().map(TypeState::pending_bytes).sum::<usize>() + unserved.sum::<usize>()
    }

    /// Whether the stream speaks the delta variant.
    pub fn is_delta(&self) -> bool {
        self.delta
    }

    /// A delta client that opens endpoints before clusters may have a cluster that was warming when its
    /// last stream broke: Envoy does not request clusters before that one is warm, and says that it has
    /// the endpoints, although it waits for them to be sent again (seen with 1.40). So what it says it has
    /// does not count (rule 19).
    fn expect_warming(&mut self, member: TypeIndex) {
        let targets_open = self.with_role(Role::Target).any(|index| self.types[index.0].open);
        let state = &mut self.types[member.0];
        if self.delta && self.only.is_none() && !targets_open && !state.open {
            state.warming.all = true;
        }
    }

    fn with_role(&self, role: Role) -> impl Iterator<Item = TypeIndex> + use<> {
        let served = self.table.iter().enumerate();
        served.filter(move |(_, served)| served.role == role).map(|(at, _)| TypeIndex(at))
    }

    fn is_behind(&self, index: TypeIndex, view: &View) -> bool {
        let traits = TypeTraits::new(Some(self.table[index.0]), self.delta, 0);
        self.types[index.0].is_behind(traits, view.set(index))
    }

    fn type_of(&self, type_url: &str) -> Result<Option<TypeIndex>, RequestError> {
        let at = self.table.iter().position(|served| served.type_url == type_url);
        let index = at.map(TypeIndex);
        match self.only {
            Some(only) if type_url.is_empty() || index == Some(only) => Ok(Some(only)),
            Some(only) => Err(RequestError::WrongType {
                expected: self.table[only.0].type_url,
                got: type_url.to_owned(),
            }),
            None if type_url.is_empty() => Err(RequestError::NoType),
            // An unknown type must not cost the proxy the types that it needs; a string that cannot be
            // a type means a broken client, and silence would hide that.
            None if index.is_none() && !type_url.starts_with("type.googleapis.com/") => {
                Err(RequestError::BadType(type_url.to_owned()))
            }
            None => Ok(index),
        }
    }

    /// `complete`: the set is the view's.
    fn poll_type(
        &mut self,
        index: TypeIndex,
        now: &Arc<TypeSet>,
        complete: bool,
    ) -> Option<Response> {
        let served = self.table[index.0];
        let traits = TypeTraits::new(Some(served), self.delta, self.limits.fallbacks);
        let state = &mut self.types[index.0];
        let frame = state.respond(traits, served.type_url, now, &self.frames)?;
        let nonce = next_nonce(&mut self.nonce);
        state.set_sent(nonce);
        // What vanished while the client was away goes after its first ACK.
        let complete = complete && state.removed_while_disconnected.is_empty();
        state.generations.responded(self.generation, complete);
        let subscription = state.subscription().clone();
        if served.role == Role::Target {
            let mut sent = state.last_sent_resources().clone();
            if now.is_on_demand() {
                // Of a name that was given up the removal was sent.
                sent.names.retain(|name| subscription.wants_in(now, name));
            }
            for member in self.with_role(Role::Member) {
                self.types[member.0].add_warming(sent.clone(), now);
            }
        }
        Some(Response { resource_type: Some(index), frame, nonce, set: now.clone(), subscription })
    }

    fn poll_unserved(&mut self) -> Option<Response> {
        let traits = TypeTraits::new(None, self.delta, 0);
        for Unserved { type_url, state, empty_set } in &mut self.unserved {
            if let Some(frame) = state.respond(traits, type_url, empty_set, &self.frames) {
                let nonce = next_nonce(&mut self.nonce);
                state.set_sent(nonce);
                let subscription = state.subscription().clone();
                return Some(Response {
                    resource_type: None,
                    frame,
                    nonce,
                    set: empty_set.clone(),
                    subscription,
                });
            }
        }
        None
    }
}

/// Never zero, which stands for "none yet".
fn next_nonce(nonce: &mut u64) -> u64 {
    *nonce = nonce.wrapping_add(1).max(1);
    *nonce
}
