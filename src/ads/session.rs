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

use crate::ads::discovery_request::{DiscoveryRequest, MalformedRequest};
use crate::names::ResourceType;
use crate::snapshot::encode::{Frame, FrameBuilder};
use crate::snapshot::{TypeSet, View};
use crate::subscription::{Interner, Subscription};

mod pending;
mod respond;
mod state;
#[cfg(test)]
mod tests;

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
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self { names: 100_000, types: 16 }
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
    #[error("{got} names asked for of one type, the limit is {limit} (--max-names)")]
    TooManyNames { got: usize, limit: usize },
    #[error("more than {limit} resource types on one stream (--max-types)")]
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
    pub resource_type: Option<ResourceType>,
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
    only: Option<ResourceType>,
    limits: SessionLimits,
    interner: Arc<Interner>,
    frames: Arc<FrameBuilder>,
    /// The last nonce that was used. Starts anywhere, so that nonces of an earlier stream are foreign.
    nonce: u64,
    types: [TypeState; ResourceType::COUNT],
    unserved: Vec<Unserved>,
    /// CDS responses that were sent while changed listeners or routes waited.
    rounds_waited: u32,
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
    /// A fresh stream. `nonce` seeds the nonces; different streams should get different seeds.
    pub fn new(
        delta: bool,
        only: Option<ResourceType>,
        limits: SessionLimits,
        interner: Arc<Interner>,
        frames: Arc<FrameBuilder>,
        nonce: u64,
    ) -> Self {
        let none = interner.intern(false, Vec::new());
        let types = std::array::from_fn(|_| TypeState::new(none.clone()));
        let unserved = Vec::new();
        let rounds_waited = 0;
        Self { delta, only, limits, interner, frames, nonce, types, unserved, rounds_waited }
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
    ) -> Result<(Option<ResourceType>, RequestKind), RequestError> {
        let resource_type = self.type_of(&request.common().type_url)?;
        let (limit, delta) = (self.limits.names, self.delta);
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
        if resource_type == Some(ResourceType::Endpoint) {
            self.expect_warming();
        }
        let (state, traits, now) = match resource_type {
            Some(resource_type) => (
                &mut self.types[resource_type.index()],
                TypeTraits::new(Some(resource_type), delta),
                view.set(resource_type),
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
                (state, TypeTraits::new(None, delta), &*empty_set)
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
        let got = state.subscription().len().max(state.requested_names(now));
        if got > limit {
            return Err(RequestError::TooManyNames { got, limit });
        }
        Ok((resource_type, kind))
    }

    /// The next response, or `None` while there is nothing to send. Call until `None` after every
    /// request and every new snapshot.
    ///
    /// Types are sent in the order CDS, EDS, LDS, RDS, and removals of clusters last, in a response of
    /// their own, so that nothing refers to a missing resource (rule 18). Only sends are ordered: no type
    /// waits for another type's ACK. The one exception is that changed listeners and routes wait for the
    /// ACK of a CDS response that adds clusters: Envoy sends it once those are warm, and a route that
    /// came sooner would answer 503 until then (seen under load). The wait ends with the ACK timeout; in
    /// a mesh that changes all the time there is always another such response, so after a few rounds
    /// listeners and routes go first. Those that were requested on this stream wait if the client
    /// reconnected with what it had, and never if it starts: Envoy then requests them when its clusters
    /// are warm.
    pub fn next_response(&mut self, view: &View) -> Option<Response> {
        use ResourceType::{Cluster, Endpoint, Listener, Route};
        let referrers_behind = [Listener, Route].into_iter().any(|resource_type| {
            self.is_behind(resource_type, view)
                || self.types[resource_type.index()].is_catching_up()
        });
        if !referrers_behind {
            self.rounds_waited = 0;
        }
        let clusters_warming = self.types[Cluster.index()].is_adding(view.set(Cluster));
        let order = if self.rounds_waited > MAX_ROUNDS && !clusters_warming {
            [Listener, Route, Cluster, Endpoint]
        } else {
            ResourceType::IN_ORDER
        };
        for resource_type in order {
            let state = &self.types[resource_type.index()];
            let wait = match resource_type {
                Cluster => referrers_behind && state.only_removes(view.set(resource_type)),
                Listener | Route => {
                    clusters_warming && (!state.is_requested() || state.is_catching_up())
                }
                Endpoint => false,
            };
            if wait {
                continue;
            }
            let kept =
                (resource_type == Cluster && referrers_behind && state.unacked_nonce().is_none())
                    .then(|| state.without_removals(view.set(resource_type)));
            if let Some(response) =
                self.poll_type(resource_type, kept.as_ref().unwrap_or(view.set(resource_type)))
            {
                if resource_type == Cluster && referrers_behind {
                    self.rounds_waited += 1;
                }
                return Some(response);
            }
        }
        self.poll_unserved()
    }

    /// Stops waiting for the ACK of a response, so that newer content can be sent: a withheld ACK may never
    /// come (Envoy withholds CDS' while clusters warm).
    pub fn ack_timed_out(&mut self, resource_type: ResourceType, nonce: u64) {
        self.types[resource_type.index()].ack_timed_out(nonce);
    }

    /// The nonce of this type's unacknowledged response.
    pub fn unacked_nonce(&self, resource_type: ResourceType) -> Option<u64> {
        self.types[resource_type.index()].unacked_nonce()
    }

    /// The subscription of this type.
    pub fn subscription(&self, resource_type: ResourceType) -> &Arc<Subscription> {
        self.types[resource_type.index()].subscription()
    }

    /// The set that the proxy was brought to, or had from an earlier stream; `None` if neither.
    pub fn sent_set(&self, resource_type: ResourceType) -> Option<&Arc<TypeSet>> {
        self.types[resource_type.index()].sent.as_ref()
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
    fn expect_warming(&mut self) {
        let [clusters, endpoints, ..] = &mut self.types;
        if self.delta && self.only.is_none() && !clusters.open && !endpoints.open {
            endpoints.warming.all = true;
        }
    }

    fn is_behind(&self, resource_type: ResourceType, view: &View) -> bool {
        self.types[resource_type.index()]
            .is_behind(TypeTraits::new(Some(resource_type), self.delta), view.set(resource_type))
    }

    fn type_of(&self, type_url: &str) -> Result<Option<ResourceType>, RequestError> {
        let resource_type = ResourceType::from_type_url(type_url);
        match self.only {
            Some(only) if type_url.is_empty() || resource_type == Some(only) => Ok(Some(only)),
            Some(only) => {
                Err(RequestError::WrongType { expected: only.type_url(), got: type_url.to_owned() })
            }
            None if type_url.is_empty() => Err(RequestError::NoType),
            // An unknown type must not cost the proxy the types that it needs; a string that cannot be
            // a type means a broken client, and silence would hide that.
            None if resource_type.is_none() && !type_url.starts_with("type.googleapis.com/") => {
                Err(RequestError::BadType(type_url.to_owned()))
            }
            None => Ok(resource_type),
        }
    }

    fn poll_type(&mut self, resource_type: ResourceType, now: &Arc<TypeSet>) -> Option<Response> {
        let traits = TypeTraits::new(Some(resource_type), self.delta);
        let state = &mut self.types[resource_type.index()];
        let frame = state.respond(traits, resource_type.type_url(), now, &self.frames)?;
        let nonce = next_nonce(&mut self.nonce);
        state.set_sent(nonce);
        let subscription = state.subscription().clone();
        if resource_type == ResourceType::Cluster {
            let [clusters, endpoints, ..] = &mut self.types;
            endpoints.add_warming(clusters.last_sent_resources(), now);
        }
        Some(Response {
            resource_type: Some(resource_type),
            frame,
            nonce,
            set: now.clone(),
            subscription,
        })
    }

    fn poll_unserved(&mut self) -> Option<Response> {
        let traits = TypeTraits::new(None, self.delta);
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
