//! The xDS protocol, state of the world and delta, as one state machine without I/O, time or locks.
//!
//! A request goes into [`Session::request`]; [`Session::poll`] says what to send next for the view
//! as it is now, one response at a time, until there is nothing to say. A response that is handed
//! out counts as sent. There is at most one unanswered response a type, so a slow proxy skips
//! versions and costs nothing. The rules that are cited by number are those of
//! `docs/protocol.md`. `state` holds what concerns one type; the order among types is here.

use std::sync::Arc;

use bytes::Bytes;
use thiserror::Error;

use crate::ads::request::{Malformed, Request};
use crate::names::ResourceType;
use crate::snapshot::encode::{Frame, FrameBuilder};
use crate::snapshot::{TypeSet, View};
use crate::subscription::{Interner, Subscription};

mod respond;
mod state;
#[cfg(test)]
mod tests;
mod told;

use state::{Kind, TypeState};

/// How many CDS responses in a row may go before changed listeners and routes do.
const ROUNDS: u32 = 4;

/// What one stream may ask for.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Names in one type's subscription.
    pub names: usize,
    /// Types that one stream may open, those that are not served included.
    pub types: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { names: 100_000, types: 16 }
    }
}

/// Why a stream is ended because of a request. The stream's gRPC status follows from it.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum Refusal {
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

/// What a request meant, for the proxy's status and the metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// The first request of its type, or a subscription change without a nonce.
    Subscribe,
    Ack {
        nonce: u64,
    },
    /// With the client's own words.
    Nack {
        nonce: u64,
        error: String,
    },
    /// Carried the nonce of another response than the last one, or of one answered already.
    Stale,
}

/// Something to send.
#[derive(Debug)]
pub struct Response {
    /// `None` for a type that is not served.
    pub of: Option<ResourceType>,
    pub frame: Frame,
    pub nonce: u64,
    /// The set it brings the proxy to, and what of it the proxy wants.
    pub set: Arc<TypeSet>,
    pub subscription: Arc<Subscription>,
}

/// One stream's side of the protocol.
#[derive(Debug)]
pub struct Session {
    delta: bool,
    /// Set on the single-type services.
    only: Option<ResourceType>,
    limits: Limits,
    interner: Arc<Interner>,
    frames: Arc<FrameBuilder>,
    /// The last nonce given out. Starts anywhere, so that nonces of an earlier stream are foreign.
    nonce: u64,
    types: [TypeState; ResourceType::COUNT],
    unserved: Vec<Unserved>,
    /// CDS responses that went out while changed listeners or routes waited.
    rounds_waited: u32,
}

/// A type that is well-formed and not served: a set that is always empty (rule 16).
#[derive(Debug)]
struct Unserved {
    type_url: String,
    state: TypeState,
    /// Its own, because frames are kept by the set and name the type.
    nothing: Arc<TypeSet>,
}

impl Session {
    /// A fresh stream. `nonce` seeds the nonces; different streams should get different seeds.
    pub fn new(
        delta: bool,
        only: Option<ResourceType>,
        limits: Limits,
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
    pub fn decode(&self, message: Bytes) -> Result<Request, Malformed> {
        let known = self.types.iter().map(|state| &**state.subscription());
        Request::decode_knowing(message, self.delta, known)
    }

    /// Takes a request in; what it leads to comes out of [`Self::poll`].
    ///
    /// # Errors
    /// A [`Refusal`], after which the stream must be ended.
    pub fn request(
        &mut self,
        request: &Request,
        view: &View,
    ) -> Result<(Option<ResourceType>, Meaning), Refusal> {
        let of = self.type_of(&request.common().type_url)?;
        let (limit, delta) = (self.limits.names, self.delta);
        let sent = match request {
            Request::Sotw(request) => request.names.len(),
            Request::Delta(request) => {
                [request.subscribe.len(), request.unsubscribe.len(), request.initial_versions.len()]
                    .into_iter()
                    .max()
                    .unwrap_or_default()
            }
        };
        if sent > limit {
            return Err(Refusal::TooManyNames { got: sent, limit });
        }
        if of == Some(ResourceType::Endpoint) {
            self.expect_warming();
        }
        let (state, kind, now) = match of {
            Some(of) => (&mut self.types[of.index()], Kind::new(Some(of), delta), view.set(of)),
            None => {
                let url = &request.common().type_url;
                let at = match self.unserved.iter().position(|one| one.type_url == *url) {
                    Some(at) => at,
                    None if self.unserved.len() + self.types.len() >= self.limits.types => {
                        return Err(Refusal::TooManyTypes { limit: self.limits.types });
                    }
                    None => {
                        let none = self.interner.intern(false, Vec::new());
                        self.unserved.push(Unserved {
                            type_url: url.clone(),
                            state: TypeState::new(none),
                            nothing: Arc::default(),
                        });
                        self.unserved.len() - 1
                    }
                };
                let Unserved { state, nothing, .. } = &mut self.unserved[at];
                (state, Kind::new(None, delta), &*nothing)
            }
        };
        let meaning = match request {
            Request::Sotw(request) => state.sotw_request(kind, request, now, &self.interner),
            Request::Delta(request) => state.delta_request(kind, request, now, &self.interner),
        };
        let got = state.subscription().len().max(state.asked_names(now));
        if got > limit {
            return Err(Refusal::TooManyNames { got, limit });
        }
        Ok((of, meaning))
    }

    /// The next response, or `None` while there is nothing to send. Call until `None` after every
    /// request and every new snapshot.
    ///
    /// Types go in the order CDS, EDS, LDS, RDS, and clusters that vanish go last, with a response
    /// of their own, so that nothing refers to what is not there (rule 18). Order is of sends: no
    /// type waits for another type's ACK. The one exception is that changed listeners and routes
    /// wait for the answer to a CDS response that adds clusters: Envoy gives it once those are
    /// warm, and a route that came sooner would answer 503 until then (seen under load). The wait
    /// ends with the ACK timeout, and in a mesh that never rests there is always another such
    /// response, so after a few rounds they go first. Those that were asked for on this stream wait
    /// if the client came back with what it had, and never if it starts: Envoy then asks for them
    /// when its clusters are warm.
    pub fn poll(&mut self, view: &View) -> Option<Response> {
        use ResourceType::{Cluster, Endpoint, Listener, Route};
        let referrers_behind = [Listener, Route]
            .into_iter()
            .any(|of| self.is_behind(of, view) || self.types[of.index()].catches_up());
        if !referrers_behind {
            self.rounds_waited = 0;
        }
        let clusters_warming = self.types[Cluster.index()].is_adding(view.set(Cluster));
        let order = if self.rounds_waited > ROUNDS && !clusters_warming {
            [Listener, Route, Cluster, Endpoint]
        } else {
            ResourceType::IN_ORDER
        };
        for of in order {
            let state = &self.types[of.index()];
            let wait = match of {
                Cluster => referrers_behind && state.only_removes(view.set(of)),
                Listener | Route => clusters_warming && (!state.is_asked() || state.catches_up()),
                Endpoint => false,
            };
            if wait {
                continue;
            }
            let kept = (of == Cluster && referrers_behind && state.awaits().is_none())
                .then(|| state.without_removals(view.set(of)));
            if let Some(response) = self.poll_type(of, kept.as_ref().unwrap_or(view.set(of))) {
                if of == Cluster && referrers_behind {
                    self.rounds_waited += 1;
                }
                return Some(response);
            }
        }
        self.poll_unserved()
    }

    /// Gives up waiting for the answer to a response, so that newer content can be sent: a
    /// withheld ACK may never come (Envoy withholds CDS' while clusters warm).
    pub fn overdue(&mut self, of: ResourceType, nonce: u64) {
        self.types[of.index()].overdue(nonce);
    }

    /// The nonce of this type's response that is not answered yet.
    pub fn awaits(&self, of: ResourceType) -> Option<u64> {
        self.types[of.index()].awaits()
    }

    /// What is asked for of this type.
    pub fn subscription(&self, of: ResourceType) -> &Arc<Subscription> {
        self.types[of.index()].subscription()
    }

    /// The set that the proxy has been brought to, or that it brought along; `None` if neither.
    pub fn held(&self, of: ResourceType) -> Option<&Arc<TypeSet>> {
        self.types[of.index()].sent.as_ref()
    }

    /// Bytes that this stream alone holds, about: names that are to be told, and what it asks for of
    /// types that are not served.
    pub fn bytes(&self) -> usize {
        let unserved = self.unserved.iter();
        let unserved =
            unserved.map(|one| one.state.pending_bytes() + one.state.subscription().bytes());
        self.types.iter().map(TypeState::pending_bytes).sum::<usize>() + unserved.sum::<usize>()
    }

    /// Whether the stream speaks the delta variant.
    pub fn is_delta(&self) -> bool {
        self.delta
    }

    /// A delta client that opens endpoints before clusters may have a cluster that was warming when
    /// its last stream broke: Envoy does not ask for clusters before that one is warm, and says of
    /// its endpoints that it has them, although it waits for them to come again (seen with 1.40).
    /// So whatever it brings along does not count (rule 19).
    fn expect_warming(&mut self) {
        let [clusters, endpoints, ..] = &mut self.types;
        if self.delta && self.only.is_none() && !clusters.open && !endpoints.open {
            endpoints.warming.all = true;
        }
    }

    fn is_behind(&self, of: ResourceType, view: &View) -> bool {
        self.types[of.index()].is_behind(Kind::new(Some(of), self.delta), view.set(of))
    }

    fn type_of(&self, type_url: &str) -> Result<Option<ResourceType>, Refusal> {
        let of = ResourceType::from_type_url(type_url);
        match self.only {
            Some(only) if type_url.is_empty() || of == Some(only) => Ok(Some(only)),
            Some(only) => {
                Err(Refusal::WrongType { expected: only.type_url(), got: type_url.to_owned() })
            }
            None if type_url.is_empty() => Err(Refusal::NoType),
            // An unknown type must not cost the proxy the types it needs; a string that cannot be
            // a type is a broken client, and silence would hide that.
            None if of.is_none() && !type_url.starts_with("type.googleapis.com/") => {
                Err(Refusal::BadType(type_url.to_owned()))
            }
            None => Ok(of),
        }
    }

    fn poll_type(&mut self, of: ResourceType, now: &Arc<TypeSet>) -> Option<Response> {
        let kind = Kind::new(Some(of), self.delta);
        let state = &mut self.types[of.index()];
        let frame = state.respond(kind, of.type_url(), now, &self.frames)?;
        let nonce = next_nonce(&mut self.nonce);
        state.sent_as(nonce);
        let subscription = state.subscription().clone();
        if of == ResourceType::Cluster {
            let [clusters, endpoints, ..] = &mut self.types;
            endpoints.warm(clusters.last_told(), now);
        }
        Some(Response { of: Some(of), frame, nonce, set: now.clone(), subscription })
    }

    fn poll_unserved(&mut self) -> Option<Response> {
        let kind = Kind::new(None, self.delta);
        for Unserved { type_url, state, nothing } in &mut self.unserved {
            if let Some(frame) = state.respond(kind, type_url, nothing, &self.frames) {
                let nonce = next_nonce(&mut self.nonce);
                state.sent_as(nonce);
                let subscription = state.subscription().clone();
                return Some(Response {
                    of: None,
                    frame,
                    nonce,
                    set: nothing.clone(),
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
