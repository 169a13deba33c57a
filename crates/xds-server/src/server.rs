//! The gRPC server: every discovery service, health and reflection on one port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::Builder;
use tracing::{debug, error};

use crate::grpc::service::{AGGREGATED, AdsService, service_names};
use crate::http::connection_handle::ConnectionHandle;
use crate::http::connection_task::serve_connection;
use crate::listener::{ConnectionCounters, LimitedListener, ServedListener};
use crate::mesh::Mesh;
use crate::stream::{Peer, ServerContext, SnapshotSignal, StreamContext};

/// How often connections, streams and caches are swept, at most.
const SWEEP_PERIOD: Duration = Duration::from_millis(500);

/// How long a new connection may be without a stream: a proxy opens one at once. With TLS it counts from the
/// end of the handshake, which may last as long.
pub(crate) const FIRST_STREAM_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may be without a stream after it had one. An Envoy whose stream has ended opens
/// the next within half a minute.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// How often permits are swept.
const PERMIT_SWEEP_PERIOD: Duration = Duration::from_millis(100);

/// Bytes of one request to the health and reflection services.
const OTHER_REQUEST_BYTES: usize = 64 << 10;

/// The server, not yet on a port.
#[derive(Debug)]
pub struct AdsServer<M: Mesh> {
    context: Arc<ServerContext<M>>,
    other_services: Routes,
    health: HealthReporter,
    keepalive: Duration,
}

impl<M: Mesh> AdsServer<M> {
    /// With the discovery services and health. A quiet peer is sent a PING every `keepalive`.
    pub fn new(context: Arc<ServerContext<M>>, keepalive: Duration) -> Self {
        let (health, health_service) = health_reporter();
        let health_service = health_service.max_decoding_message_size(OTHER_REQUEST_BYTES);
        Self { context, other_services: Routes::new(health_service), health, keepalive }
    }

    /// Adds reflection, so that `grpcurl` works. `descriptors` is an encoded `FileDescriptorSet`.
    ///
    /// # Errors
    /// Descriptors that do not decode.
    pub fn with_reflection(
        self,
        descriptors: &'static [u8],
    ) -> Result<Self, tonic_reflection::server::Error> {
        let describe = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        // The descriptors may have services that are not served here.
        let types = self.context.mesh.types();
        let describe = || service_names(types).fold(describe(), Builder::with_service_name);
        let bytes = OTHER_REQUEST_BYTES;
        let other_services = self
            .other_services
            .add_service(describe().build_v1()?.max_decoding_message_size(bytes))
            .add_service(describe().build_v1alpha()?.max_decoding_message_size(bytes));
        Ok(Self { other_services, ..self })
    }

    /// Serves the listeners until `stop`; then it accepts no new connection, and returns when the last
    /// stream has ended. All limits are for the listeners together.
    pub async fn run(self, listeners: Vec<ServedListener>, stop: CancellationToken) {
        let (signal, receiver) = watch::channel(SnapshotSignal::default());
        let streams = Arc::new(StreamContext::new(self.context.clone(), receiver));
        let health = stop.run_until_cancelled(report_health(self.health, &self.context));
        let swept = stop.run_until_cancelled(sweep(&streams));
        let other_services = self.other_services.prepare();
        let accepted = join_all(listeners.into_iter().map(|listener| {
            let (listener, port) = listener.divide();
            let listener = listener.accept_on_thread();
            accept(listener, &stop, {
                let (streams, other_services) = (&streams, &other_services);
                move |socket, address, handle: Arc<ConnectionHandle>| {
                    let account = streams.open_account(address, &handle);
                    let peer =
                        Peer { address, handle, account, encrypted: false, certificate: None };
                    let (context, other_services) = (streams.clone(), other_services.clone());
                    let service = AdsService { context, other_services, peer, refusal: None };
                    serve_connection(socket, port.clone(), service, self.keepalive)
                }
            })
        }));
        tokio::join!(accepted, broadcast(&streams, &self.context, &signal), health, swept);
    }
}

/// Accepts connections until `stop`, then waits until the last one has ended.
async fn accept<F>(
    mut listener: LimitedListener,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Arc<ConnectionHandle>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut handles: HashMap<Id, (SocketAddr, Arc<ConnectionHandle>)> = HashMap::new();
    let counts = listener.stats().counts;
    let mut sweeps = every(SWEEP_PERIOD);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (socket, peer) = listener.accept() => {
                let handle = Arc::new(ConnectionHandle::new());
                // Weak, so that the connection's own slot does not keep it alive.
                let weak = Arc::downgrade(&handle);
                let abort = move || { weak.upgrade().inspect(|handle| handle.abort()); };
                let Some(slot) = listener.admit(peer.ip(), abort) else { continue };
                handle.set_slot(slot);
                let task = connections.spawn(serve(socket, peer, handle.clone()));
                handles.insert(task.id(), (peer, handle));
            }
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
                let peer = handles.remove(&id).map(|(peer, _)| peer);
                log_panic(ended.err(), peer, &counts);
            }
            _ = sweeps.tick() => close_idle(handles.values()),
        }
    }
    drop(listener);
    handles.values().for_each(|(_, handle)| handle.drain());
    while let Some(ended) = connections.join_next().await {
        log_panic(ended.err(), None, &counts);
    }
}

/// Logs and counts a panic, which ends its own connection only.
fn log_panic(ended: Option<JoinError>, peer: Option<SocketAddr>, counts: &ConnectionCounters) {
    if let Some(ended) = ended.filter(JoinError::is_panic) {
        counts.count_panic();
        error!(?peer, "a proxy's connection was dropped: {ended}");
    }
}

/// Closes connections without a stream.
fn close_idle<'a>(connections: impl Iterator<Item = &'a (SocketAddr, Arc<ConnectionHandle>)>) {
    for (peer, handle) in connections {
        let idle = handle.idle_for();
        if !handle.had_stream() && idle > FIRST_STREAM_TIMEOUT
            || idle > IDLE_TIMEOUT + FIRST_STREAM_TIMEOUT
        {
            debug!(%peer, "connection cut: no stream for {idle:?}");
            handle.abort();
        } else if idle > IDLE_TIMEOUT {
            handle.drain();
        }
    }
}

/// Signals new snapshots and the shutdown to all streams, which check one signal only.
async fn broadcast<M: Mesh>(
    streams: &StreamContext<M>,
    server: &ServerContext<M>,
    signal: &watch::Sender<SnapshotSignal>,
) {
    let mut snapshots = server.snapshots.clone();
    snapshots.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = server.shutdown.cancelled() => break,
            changed = snapshots.changed() => match changed {
                Ok(()) => {
                    snapshots.mark_unchanged();
                    signal.send_modify(|_| {});
                    streams.wake_for_snapshot();
                }
                // The publisher is gone: a shutdown.
                Err(_) => break,
            }
        }
    }
    signal.send_modify(|signal| signal.shutting_down = true);
    streams.wake_streams();
}

/// Runs the periodic sweeps.
async fn sweep<M: Mesh>(streams: &StreamContext<M>) {
    let mut all = every(SWEEP_PERIOD.min(streams.send_timeout() / 4));
    let mut permits = every(PERMIT_SWEEP_PERIOD);
    loop {
        tokio::select! {
            _ = all.tick() => streams.sweep(),
            _ = permits.tick() => streams.sweep_permits(),
        }
    }
}

fn every(period: Duration) -> Interval {
    // A period of zero would be a busy loop.
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Reports NOT_SERVING until there is a first snapshot (gRPC health checking protocol).
async fn report_health<M: Mesh>(health: HealthReporter, server: &ServerContext<M>) {
    let report = async |status| {
        for service in ["", AGGREGATED] {
            health.set_service_status(service, status).await;
        }
    };
    report(ServingStatus::NotServing).await;
    let mut snapshots = server.snapshots.clone();
    if snapshots.wait_for(Option::is_some).await.is_ok() {
        report(ServingStatus::Serving).await;
    }
}
