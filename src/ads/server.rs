//! The gRPC server: every discovery service, health and reflection on one port.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{Id, JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tracing::warn;

use super::connection;
use super::control::Control;
use super::service::{AGGREGATED, Service};
use super::stream::{Context as Streams, News, Shared};

/// How often turns and send deadlines are looked at, at most.
const LOOK: Duration = Duration::from_millis(500);

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
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let (news, follow) = watch::channel(News::default());
        let streams = Arc::new(Streams::new(self.shared.clone(), follow));
        let health = stop.run_until_cancelled(report_health(self.health, &self.shared));
        let looked = stop.run_until_cancelled(look(&streams));
        let accepted = accept(listener, &stop, |socket, peer, control: Arc<Control>| {
            let account = streams.account(peer, &control);
            let service = Service {
                streams: streams.clone(),
                others: self.others.clone(),
                peer,
                control: control.clone(),
                account: account.clone(),
            };
            connection::serve(socket, peer, service, control, account, self.keepalive)
        });
        tokio::join!(accepted, tell(&streams, &self.shared, &news), health, looked);
    }
}

/// Takes connections until `stop`, then waits until the last one has ended.
async fn accept<F>(
    listener: TcpListener,
    stop: &CancellationToken,
    serve: impl Fn(TcpStream, SocketAddr, Arc<Control>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut connections = JoinSet::new();
    let mut controls: HashMap<Id, Arc<Control>> = HashMap::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((socket, peer)) => {
                    let control = Arc::new(Control::new());
                    let task = connections.spawn(serve(socket, peer, control.clone()));
                    controls.insert(task.id(), control);
                }
                Err(error) => {
                    warn!(%error, "cannot take a connection (too many open files? see ulimit -n)");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            Some(ended) = connections.join_next_with_id() => {
                let id = ended.map_or_else(|failed| failed.id(), |(id, ())| id);
                controls.remove(&id);
            }
        }
    }
    drop(listener);
    controls.values().for_each(|control| control.end());
    while connections.join_next().await.is_some() {}
}

/// Hands snapshots on to the streams, and that it is time to go: they wait for one thing only.
async fn tell(streams: &Streams, shared: &Shared, news: &watch::Sender<News>) {
    let mut snapshots = shared.snapshots.clone();
    snapshots.mark_changed();
    loop {
        tokio::select! {
            biased;
            () = shared.shutdown.cancelled() => break,
            changed = snapshots.changed() => match changed {
                Ok(()) => {
                    let snapshot = snapshots.borrow_and_update().clone();
                    news.send_modify(|news| news.snapshot = snapshot);
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
    let every = |period: Duration| {
        // A period of nothing would never rest.
        let mut interval = tokio::time::interval(period.max(Duration::from_millis(1)));
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        interval
    };
    let mut look = every(LOOK.min(streams.send_timeout() / 4));
    let mut admit = every(ADMIT);
    loop {
        tokio::select! {
            _ = look.tick() => streams.look(),
            _ = admit.tick() => streams.admit(),
        }
    }
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
