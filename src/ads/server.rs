//! The gRPC server: every discovery service, health and reflection on one port.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::server::NamedService;
use tonic::transport::Server;
use tonic::transport::server::{Router, TcpIncoming};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tracing::warn;

use super::service::{Aggregated, Clusters, Endpoints, Listeners, Routes};
use super::stream::Shared;

/// What there is to serve, not yet on a port.
#[derive(Debug)]
pub struct AdsServer {
    router: Router,
    health: HealthReporter,
    shared: Arc<Shared>,
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
        let router = Server::builder()
            .http2_keepalive_interval(Some(keepalive))
            .http2_keepalive_timeout(Some(keepalive / 3))
            .add_service(Aggregated::new(shared.clone()))
            .add_service(Clusters::new(shared.clone()))
            .add_service(Endpoints::new(shared.clone()))
            .add_service(Listeners::new(shared.clone()))
            .add_service(Routes::new(shared.clone()))
            .add_service(health_service)
            .add_service(describe().build_v1()?)
            .add_service(describe().build_v1alpha()?);
        Ok(Self { router, health, shared })
    }

    /// Serves until `stop`; then no new connection is taken, and it returns when the last stream
    /// has ended.
    pub async fn run(self, listener: TcpListener, stop: CancellationToken) {
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        let served =
            self.router.serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let health = stop.run_until_cancelled(report_health(self.health, self.shared));
        let (served, _) = tokio::join!(served, health);
        if let Err(error) = served {
            warn!(%error, "the gRPC server ended");
        }
    }
}

/// Not serving until there is a first snapshot (gRPC health checking protocol).
async fn report_health(health: HealthReporter, shared: Arc<Shared>) {
    let say = async |status| {
        for service in ["", Aggregated::NAME] {
            health.set_service_status(service, status).await;
        }
    };
    say(ServingStatus::NotServing).await;
    let mut snapshots = shared.snapshots.clone();
    if snapshots.wait_for(Option::is_some).await.is_ok() {
        say(ServingStatus::Serving).await;
    }
}
