//! What all streams share, and what one peer may do.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::ads::account::{ConnectionAccount, MemoryAccount};
use crate::ads::admission::Admission;
use crate::ads::control::Control;
use crate::ads::outbox::Outboxes;
use crate::ads::session;
use crate::metrics::Metrics;
use crate::proxies::Proxies;
use crate::snapshot::Snapshot;
use crate::snapshot::encode::FrameBuilder;
use crate::subscription::Interner;
use crate::view::{ViewLimits, ViewRegistry};

/// What one peer may do, each with a flag.
#[derive(Clone, Debug)]
pub struct Limits {
    pub session: session::Limits,
    /// Bytes of one request.
    pub request_bytes: usize,
    /// Until the first request of a stream has come.
    pub first_request: Duration,
    /// Until newer content is sent although the last response of the type was not answered.
    pub ack: Duration,
    /// Until a reader that takes nothing of a response is disconnected.
    pub send: Duration,
    /// Requests per second on one stream, averaged over ten seconds.
    pub requests_per_second: u32,
    /// Streams from one IP address; 0 for no limit.
    pub streams_per_peer: usize,
    /// New streams that are brought into sync at the same time; 0 for no limit.
    pub starting: usize,
    /// About how long a connection may last; zero for as long as it pleases.
    pub connection_age: Duration,
    /// Different views.
    pub views: ViewLimits,
    /// Connections of all peers together; fewer where the descriptors do not suffice.
    pub connections: usize,
    /// Bytes that one connection may make the server hold, and all together; 0 for no limit.
    pub connection_memory: usize,
    pub peer_memory: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            session: session::Limits::default(),
            request_bytes: 4 << 20,
            first_request: Duration::from_secs(10),
            ack: Duration::from_secs(30),
            send: Duration::from_secs(60),
            requests_per_second: 500,
            streams_per_peer: 0,
            starting: 100,
            connection_age: Duration::ZERO,
            views: ViewLimits::default(),
            connections: 20_000,
            connection_memory: 32 << 20,
            peer_memory: 0,
        }
    }
}

/// What all streams share.
#[derive(Debug)]
pub struct Shared {
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub view_registry: Arc<ViewRegistry>,
    pub interner: Arc<Interner>,
    pub frames: Arc<FrameBuilder>,
    pub proxies: Arc<Proxies>,
    pub metrics: Arc<Metrics>,
    pub limits: Limits,
    /// Ends every stream so that proxies go to another replica.
    pub shutdown: CancellationToken,
}

/// Marked as changed by every snapshot. Streams look at it whenever they are woken, and do not wait
/// for it: see [`Context::wake`].
#[derive(Clone, Debug, Default)]
pub(in crate::ads) struct News {
    /// The control plane is shutting down.
    pub(in crate::ads) ending: bool,
}

/// [`Shared`], and what the server adds to it.
#[derive(Debug)]
pub(in crate::ads) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) news: watch::Receiver<News>,
    pub(super) admission: Arc<Admission>,
    pub(super) outboxes: Arc<Outboxes>,
    account: Arc<MemoryAccount>,
}

impl Context {
    pub(in crate::ads) fn new(shared: Arc<Shared>, news: watch::Receiver<News>) -> Self {
        let admission = Admission::new(shared.limits.starting, shared.metrics.clone());
        let Limits { peer_memory, connection_memory, .. } = shared.limits;
        let account = MemoryAccount::new(peer_memory, connection_memory, shared.metrics.clone());
        let outboxes = Arc::new(Outboxes::new());
        Self { shared, news, admission: Arc::new(admission), outboxes, account }
    }

    pub(in crate::ads) fn request_bytes(&self) -> usize {
        self.shared.limits.request_bytes
    }

    pub(in crate::ads) fn send_timeout(&self) -> Duration {
        self.shared.limits.send
    }

    /// To be called after the news have changed.
    pub(in crate::ads) fn wake(&self) {
        self.outboxes.wake();
    }

    /// An account for a connection from this peer.
    pub(in crate::ads) fn account(
        &self,
        peer: SocketAddr,
        control: &Arc<Control>,
    ) -> Arc<ConnectionAccount> {
        Arc::new(self.account.open(peer, control.clone()))
    }

    /// Lets those go on who wait for others that take nothing; to be called often.
    pub(in crate::ads) fn admit(&self) {
        self.outboxes.take_permits_back(&self.admission);
        self.admission.expire();
    }

    /// Ends what has lasted too long, drops what is kept for nobody, and brings the account of
    /// memory up to date; to be called now and then.
    pub(in crate::ads) fn look(&self) {
        self.shared.frames.sweep();
        self.shared.interner.forget_gone();
        let snapshot = self.shared.snapshots.borrow().clone();
        if let Some(snapshot) = snapshot {
            snapshot.forget_gone_sets();
        }
        self.outboxes.end_aged(self.shared.limits.connection_age, &self.shared.metrics);
        self.outboxes.cut_stalled(self.shared.limits.send, &self.shared.metrics);
        self.outboxes.charge_shares();
        self.shared.metrics.peer_bytes(self.account.total());
    }
}
