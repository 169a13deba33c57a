//! The user's half of the server: who a proxy is, which view it gets, and which types there are.

use std::fmt;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use pilothouse_xds::{ServedType, TypeIndex, View};

use crate::peer::{PeerCredentials, Refusal};

/// What is served, and to whom.
///
/// A stream's first request identifies the proxy ([`Mesh::identify`]) and says what its view depends on, the
/// [`Mesh::ViewRequest`]. The server holds the request in the [`ViewRegistry`](crate::ViewRegistry) for as
/// long as the stream is open. Somebody assigns a [`Mesh::ViewKey`] to each request there, and the view of
/// that key in the newest snapshot is what the proxy is sent.
pub trait Mesh: fmt::Debug + Send + Sync + 'static {
    /// Who a proxy is, for log and status.
    type Identity: Identity;
    /// Who a peer has been authenticated as. Limits are counted by how it is displayed.
    type Principal: Clone + Eq + Hash + fmt::Debug + fmt::Display + Send + Sync + 'static;
    /// What a proxy says of itself that decides its view.
    type ViewRequest: Clone + Ord + Hash + fmt::Debug + Send + Sync + 'static;
    /// What proxies differ by: those with equal keys share a view.
    type ViewKey: fmt::Debug + Send + Sync + 'static;
    /// All views at one moment.
    type Snapshot: fmt::Debug + Send + Sync + 'static;

    /// What messages say where only the program knows the words.
    const TEXTS: &'static ServerTexts = &ServerTexts::DEFAULT;

    /// The types that are served, in the order in which their resources must be sent. The same at every call.
    fn types(&self) -> &'static [ServedType];

    /// Who the peer of a stream is, by what it has shown; `None` for a peer that is served without. Called
    /// once for each stream, in the stream's own task, when its first request has come and before
    /// [`Self::identify`]; it is dropped when the time for the first request is over
    /// ([`ServerLimits::first_request`](crate::ServerLimits)).
    ///
    /// # Errors
    /// What the stream ends with.
    fn authenticate(
        &self,
        credentials: PeerCredentials<'_>,
    ) -> impl Future<Output = Result<Option<Self::Principal>, Refusal>> + Send;

    /// Reads the encoded `Node` of a stream's first request. `delta` is the variant of the stream, `peer`
    /// where the proxy connects from, and `principal` who it has been authenticated as.
    ///
    /// # Errors
    /// There is no node, it is invalid, the variant is not for this proxy, or the principal may not be it:
    /// what the stream ends with.
    fn identify(
        &self,
        node: Option<&[u8]>,
        delta: bool,
        peer: IpAddr,
        principal: Option<&Self::Principal>,
    ) -> Result<(Self::Identity, Self::ViewRequest), Refusal>;

    /// The names of a type that a proxy is subscribed to with its first wildcard, beside what it names
    /// itself ([`Session::set_initial_names`](pilothouse_xds::Session::set_initial_names)). Called for each
    /// type of a delta stream when its view is there.
    fn initial_names(&self, _: &Self::Identity, _: TypeIndex, _view: &View) -> Arc<[Arc<str>]> {
        Arc::default()
    }

    /// A proxy has identified itself, to be logged and counted.
    fn proxy_connected(&self, identity: &Self::Identity, delta: bool);

    /// The view of a key, if it is built.
    fn view(snapshot: &Self::Snapshot, key: &Self::ViewKey) -> Option<Arc<View>>;

    /// Counts the snapshots, so that it can be said up to which one a proxy has acknowledged everything
    /// ([`XdsStream::generations`](crate::proxies::XdsStream::generations)). Zero if nobody asks that.
    fn generation(_: &Self::Snapshot) -> u64 {
        0
    }

    /// When the source sent the first of the changes that are new in a snapshot.
    fn change_received(snapshot: &Self::Snapshot) -> Option<Instant>;

    /// Calls [`View::forget_gone_sets`] of every view; the server does so periodically.
    fn forget_gone_sets(snapshot: &Self::Snapshot);
}

/// Who a proxy is.
pub trait Identity: Clone + fmt::Debug + Send + Sync + 'static {
    /// The name that people search for, in log and status.
    fn name(&self) -> &str;

    /// Whether it is no proxy itself and acts in the name of one.
    fn is_probe(&self) -> bool {
        false
    }
}

/// What messages to peers and in the log say where only the program knows the words. The names are those of
/// [`ServerLimits`](crate::ServerLimits)' settings, for instance the flags that set them.
#[derive(Clone, Copy, Debug)]
pub struct ServerTexts {
    /// Why there is no snapshot yet.
    pub not_ready: &'static str,
    /// Where a client that does not speak gRPC may have wanted to go; a sentence, or empty.
    pub other_ports: &'static str,
    pub max_names: &'static str,
    pub max_types: &'static str,
    pub request_bytes: &'static str,
    pub first_request: &'static str,
    pub send: &'static str,
    pub requests_per_second: &'static str,
    pub streams_per_peer: &'static str,
    pub connection_age: &'static str,
    pub connection_memory: &'static str,
    pub peer_memory: &'static str,
    pub keepalive: &'static str,
}

impl ServerTexts {
    /// The names of the fields.
    pub const DEFAULT: Self = Self {
        not_ready: "not ready: there is no snapshot yet",
        other_ports: "",
        max_names: "SessionLimits::names",
        max_types: "SessionLimits::types",
        request_bytes: "ServerLimits::request_bytes",
        first_request: "ServerLimits::first_request",
        send: "ServerLimits::send",
        requests_per_second: "ServerLimits::requests_per_second",
        streams_per_peer: "ServerLimits::streams_per_peer",
        connection_age: "ServerLimits::connection_age",
        connection_memory: "ServerLimits::connection_memory",
        peer_memory: "ServerLimits::peer_memory",
        keepalive: "keepalive",
    };
}
