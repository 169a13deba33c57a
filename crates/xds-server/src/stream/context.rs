//! What all streams of a server share, and the limits for one peer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use pilothouse_xds::session::SessionLimits;
use pilothouse_xds::{FrameBuilder, Interner, ServedType};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::answered::AnsweredTypes;
use super::registry::StreamRegistry;
use super::stall_detector::StallDetector;
use crate::admission::Admission;
use crate::admission::memory_account::{ConnectionAccount, MemoryAccounts};
use crate::http::connection_handle::ConnectionHandle;
use crate::mesh::Mesh;
use crate::metrics::ServerMetrics;
use crate::proxies::Proxies;
use crate::view_registry::ViewRegistry;

/// What one peer may do, each with a flag.
#[derive(Clone, Debug)]
pub struct ServerLimits {
    pub session: SessionLimits,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// Until the first request of a stream has come.
    pub first_request: Duration,
    /// Until newer content is sent although the last response of the type was not acknowledged.
    pub ack: Duration,
    /// Until a reader that reads nothing of a response is disconnected.
    pub send: Duration,
    /// Requests per second on one stream, averaged over ten seconds.
    pub requests_per_second: u32,
    /// Streams from one IP address; 0 for no limit.
    pub streams_per_peer: usize,
    /// New streams that are brought into sync at the same time; 0 for no limit.
    pub starting: usize,
    /// About how long a connection may last; zero for no limit.
    pub connection_age: Duration,
    /// Connections of all peers together; fewer where the descriptors do not suffice.
    pub connections: usize,
    /// Bytes that one connection may make the server hold, and all together; 0 for no limit.
    pub connection_memory: usize,
    pub peer_memory: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            session: SessionLimits::default(),
            request_bytes: 4 << 20,
            first_request: Duration::from_secs(10),
            ack: Duration::from_secs(30),
            send: Duration::from_secs(60),
            requests_per_second: 500,
            streams_per_peer: 0,
            starting: 100,
            connection_age: Duration::ZERO,
            connections: 20_000,
            connection_memory: 32 << 20,
            peer_memory: 0,
        }
    }
}

/// What the program gives to the server.
#[derive(Debug)]
pub struct ServerContext<M: Mesh> {
    pub mesh: M,
    /// `None` until there is a first one.
    pub snapshots: watch::Receiver<Option<Arc<M::Snapshot>>>,
    pub view_registry: Arc<ViewRegistry<M::ViewRequest, M::ViewKey>>,
    pub interner: Arc<Interner>,
    pub frames: Arc<FrameBuilder>,
    pub proxies: Arc<Proxies<M::Identity, M::ViewKey>>,
    pub metrics: Arc<ServerMetrics>,
    pub limits: ServerLimits,
    /// Answered beside the resources.
    pub answered: Option<AnsweredTypes>,
    /// Ends every stream so that proxies go to another replica.
    pub shutdown: CancellationToken,
}

/// Marked as changed by every new snapshot. Streams check it whenever they are polled and register no
/// waker with it: see [`StreamContext::wake_streams`].
#[derive(Clone, Debug, Default)]
pub(crate) struct SnapshotSignal {
    /// The control plane is shutting down.
    pub(crate) shutting_down: bool,
}

/// [`ServerContext`], and what the server adds to it for its streams.
#[derive(Debug)]
pub(crate) struct StreamContext<M: Mesh> {
    pub(super) server: Arc<ServerContext<M>>,
    pub(super) signal: watch::Receiver<SnapshotSignal>,
    pub(super) admission: Arc<Admission>,
    pub(super) streams: Arc<StreamRegistry<M>>,
    stall_detector: StallDetector,
    accounts: Arc<MemoryAccounts>,
}

impl<M: Mesh> StreamContext<M> {
    pub(crate) fn new(
        server: Arc<ServerContext<M>>,
        signal: watch::Receiver<SnapshotSignal>,
    ) -> Self {
        let (limits, metrics) = (&server.limits, &server.metrics);
        let (all, one) = (limits.peer_memory, limits.connection_memory);
        Self {
            admission: Arc::new(Admission::new(limits.starting, metrics.clone())),
            streams: Arc::new(StreamRegistry::new()),
            stall_detector: StallDetector::new(limits.send, metrics.clone(), M::TEXTS),
            accounts: MemoryAccounts::new(all, one, metrics.clone(), M::TEXTS),
            server,
            signal,
        }
    }

    pub(crate) fn types(&self) -> &'static [ServedType] {
        self.server.mesh.types()
    }

    pub(crate) fn request_bytes(&self) -> usize {
        self.server.limits.request_bytes
    }

    pub(crate) fn send_timeout(&self) -> Duration {
        self.server.limits.send
    }

    /// Polls every stream; to be called after the signal has changed.
    pub(crate) fn wake_streams(&self) {
        self.streams.wake_all();
    }

    /// The same for a new snapshot: all but those that want nothing of it.
    pub(crate) fn wake_for_snapshot(&self) {
        let snapshot = self.server.snapshots.borrow().clone();
        match snapshot {
            Some(snapshot) => {
                self.streams.wake_wanting(&snapshot, &self.server.proxies.generations);
            }
            None => self.streams.wake_all(),
        }
    }

    /// Opens the memory account of a connection from this peer.
    pub(crate) fn open_account(
        &self,
        peer: SocketAddr,
        handle: &Arc<ConnectionHandle>,
    ) -> Arc<ConnectionAccount> {
        Arc::new(self.accounts.open_account(peer, handle.clone()))
    }

    /// Passes permits on that expired or whose holders read nothing; to be called often.
    pub(crate) fn sweep_permits(&self) {
        self.streams.reclaim_unused_permits(&self.admission);
        self.admission.expire();
    }

    /// Closes stalled and aged connections, drops cached frames and differences that no stream needs,
    /// and updates the memory accounts; to be called periodically.
    pub(crate) fn sweep(&self) {
        self.server.frames.sweep();
        self.server.interner.forget_gone();
        let snapshot = self.server.snapshots.borrow().clone();
        if let Some(snapshot) = snapshot {
            M::forget_gone_sets(&snapshot);
        }
        let (limits, metrics) = (&self.server.limits, &self.server.metrics);
        self.streams.drain_aged(limits.connection_age, metrics);
        self.stall_detector.sweep(&self.streams.entries());
        self.streams.charge_shares();
        metrics.set_peer_bytes(self.accounts.total());
    }
}
