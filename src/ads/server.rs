//! The gRPC server: every discovery service, health and reflection on one port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Interval, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tracing::{debug, error};

use super::connection;
use super::control::Control;
use super::service::{AGGREGATED, Service};
use super::stream::{Context as Streams, News, Peer, Shared};
use crate::door::{Counts, Door};

/// How often turns and send deadlines are looked at, at most.
const LOOK: Duration = Duration::from_millis(500);

/// How long a new connection may go without a stream: a proxy opens one at once.
const SILENT: Duration = Duration::from_secs(10);

/// How long one may that has had a stream. An Envoy whose stream has ended opens the next within half a
/// minute.
const IDLE: Duration = Duration::from_secs(60);

/// How often it is looked whether somebody waits for others that take nothing.
const ADMIT: Duration = Duration::from_millis(100);

/// Bytes of one request to the health and reflection services.
const OTHER_REQUEST_BYTES: usize = 64 << 10;

/// What there is to serve, not yet on a port.
#[derive(Debug)]
pub struct AdsServer {
    shared: Arc<Shared>,
    others: Routes,
    health: HealthReporter,
    keepalive: Duration,
}

impl AdsServer {
    /// `descriptors` is an encoded `FileDescriptorSet` for reflection, so that `grpcurl` works.
    ///
    /// # Errors
    /// Descriptors that do not decode.
    pub fn new(
        shared: Arc<Shared>,
        descriptors: &'static [u8],
        keepalive: Duration,
    ) -> Result<Self, tonic_reflection::server::Error> {
        let describe = || {
            tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(descriptors)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let (health, health_service) = health_reporter();
        let bytes = OTHER_REQUEST_BYTES;
        let others = Routes::new(health_service.max_decoding_message_size(bytes))
            .add_service(describe().build_v1()?.max_decoding_message_size(bytes))
            .add_service(describe().build_v1alpha()?.max_decoding_message_size(bytes))
            .prepare();
        Ok(Self { shared, others, health, keepalive })
    }

    /// Serves until `stop`; then no new connection is taken, and it returns when the last stream
    /// has ended.
    pub async fn run(self, door: Door, stop: CancellationToken) {
        let (news, follow) = watch::channel(News::default());
        let streams = Arc::new(Streams::new(self.shared.clone(), follow));
        let health = stop.run_until_cancelled(report_health(self.health, &self.shared));
        let looked = stop.run_until_cancelled(look(&streams));
        let accepted = accept(door, &stop, |socket, peer, control: Arc<Control>| {
            let account = streams.account(peer, &control);
            let peer = Peer { address: peer, control, account };
            let service = Service { streams: streams.clone(), others: self.others.clone(), peer };
            connection::serve(socket, service, self.keepalive)
        });
        tokio::join!(accepted, tell(&streams, &self.shared, &news), health, looked);
    }
}

/// Takes connections until `stop`, then waits until the last one has ended.
async fn accept<F>(
    mut door: Door,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Arc<Control>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut controls: HashMap<Id, (SocketAddr, Arc<Control>)> = HashMap::new();
    let counts = door.stats().counts;
    let mut looks = every(LOOK);
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (socket, peer) = door.accept() => {
                let control = Arc::new(Control::new());
                // Not kept alive by its own place.
                let to_cut = Arc::downgrade(&control);
                let cut = move || { to_cut.upgrade().inspect(|control| control.cut()); };
                let Some(place) = door.admit(peer.ip(), cut) else { continue };
                control.holds(place);
                let task = connections.spawn(serve(socket, peer, control.clone()));
                controls.insert(task.id(), (peer, control));
            }
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
                let peer = controls.remove(&id).map(|(peer, _)| peer);
                note_panic(ended.err(), peer, &counts);
            }
            _ = looks.tick() => end_idle(controls.values()),
        }
    }
    drop(door);
    controls.values().for_each(|(_, control)| control.end());
    while let Some(ended) = connections.join_next().await {
        note_panic(ended.err(), None, &counts);
    }
}

/// A panic ends its own connection only.
fn note_panic(ended: Option<JoinError>, peer: Option<SocketAddr>, counts: &Counts) {
    if let Some(ended) = ended.filter(JoinError::is_panic) {
        counts.note_panic();
        error!(?peer, "a proxy's connection was dropped: {ended}");
    }
}

/// Ends connections on which nothing is asked for.
fn end_idle<'a>(connections: impl Iterator<Item = &'a (SocketAddr, Arc<Control>)>) {
    for (peer, control) in connections {
        let idle = control.idle_for();
        if !control.has_spoken() && idle > SILENT || idle > IDLE + SILENT {
            debug!(%peer, "connection cut: no stream for {idle:?}");
            control.cut();
        } else if idle > IDLE {
            control.end();
        }
    }
}

/// Tells the streams of snapshots, and that it is time to go: they wait for one thing only.
async fn tell(streams: &Streams, shared: &Shared, news: &watch::Sender<News>) {
    let mut snapshots = shared.snapshots.clone();
    snapshots.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => break,
            changed = snapshots.changed() => match changed {
                Ok(()) => {
                    snapshots.mark_unchanged();
                    news.send_modify(|_| {});
                    streams.wake();
                }
                // The publisher has gone: a shutdown.
                Err(_) => break,
            }
        }
    }
    news.send_modify(|news| news.ending = true);
    streams.wake();
}

/// Ends the turns and connections that have lasted too long.
async fn look(streams: &Streams) {
    let mut look = every(LOOK.min(streams.send_timeout() / 4));
    let mut admit = every(ADMIT);
    loop {
        tokio::select! {
            _ = look.tick() => streams.look(),
            _ = admit.tick() => streams.admit(),
        }
    }
}

fn every(period: Duration) -> Interval {
    // A period of nothing would never rest.
    let mut ticks = interval(period.max(Duration::from_millis(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Not serving until there is a first snapshot (gRPC health checking protocol).
async fn report_health(health: HealthReporter, shared: &Shared) {
    let say = async |status| {
        for service in ["", AGGREGATED] {
            health.set_service_status(service, status).await;
        }
    };
    say(ServingStatus::NotServing).await;
    let mut snapshots = shared.snapshots.clone();
    if snapshots.wait_for(Option::is_some).await.is_ok() {
        say(ServingStatus::Serving).await;
    }
}
