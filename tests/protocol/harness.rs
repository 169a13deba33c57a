//! The control plane on free ports over a folder of manifests, and streams to it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use pilothouse::ads::ServerLimits;
use pilothouse::app::{self, ControlPlane, ControlPlaneConfig, IdentityConfig, SourceConfig};
use pilothouse::publish::Timing;
use pilothouse::source::files;
use pilothouse::view::ViewLimits;
use pilothouse_testkit::manifests::{self, http_service};
use pilothouse_testkit::xds_client;
pub(crate) use pilothouse_testkit::xds_client::{
    CDS, DELTA, EDS, LDS, PATIENCE, RDS, Stream, ack, cluster, delta, message, node, requests, sotw,
};
use tempfile::TempDir;
use tonic::transport::Channel;

pub(crate) struct Server {
    pub(crate) running: ControlPlane,
    folder: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With limits of one's own.
    pub(crate) async fn with(change: impl FnOnce(&mut ControlPlaneConfig)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "web", &["10.0.0.1"]);
        Self::over(folder, change).await
    }

    pub(crate) async fn over(
        folder: TempDir,
        change: impl FnOnce(&mut ControlPlaneConfig),
    ) -> Self {
        let any_port: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut config = ControlPlaneConfig {
            tokens: None,
            identity: IdentityConfig::default(),
            source: SourceConfig::Files(files::FileSourceConfig {
                paths: vec![folder.path().to_owned()],
                namespaces: Vec::new(),
            }),
            domain: "cluster.local".to_owned(),
            grpc_addr: Some(any_port),
            tls: None,
            http_addr: any_port,
            secure_http_addr: None,
            monitoring_addr: any_port,
            timing: Timing {
                pace: Duration::from_millis(5),
                linger: Duration::from_millis(5),
                ..Timing::default()
            },
            limits: ServerLimits::default(),
            view_limits: ViewLimits::default(),
            events: false,
            keepalive: Duration::from_secs(30),
            shutdown_timeout: PATIENCE,
        };
        change(&mut config);
        let running = app::start(config).await.unwrap();
        Self { running, folder }
    }

    /// A service `NAME.default` on port 80, HTTP, with these endpoints.
    pub(crate) fn write(&self, name: &str, addresses: &[&str]) {
        write(self.folder.path(), name, addresses);
    }

    /// Where xDS is served without TLS.
    pub(crate) fn grpc(&self) -> SocketAddr {
        self.running.grpc.unwrap()
    }

    /// A connection of its own.
    pub(crate) async fn channel(&self) -> Channel {
        xds_client::connect(self.grpc()).await
    }

    /// An aggregated stream, once the server is ready for one.
    pub(crate) async fn sotw(&self) -> Stream<DiscoveryRequest, DiscoveryResponse> {
        self.ready().await;
        xds_client::open_sotw(self.channel().await).await
    }

    pub(crate) async fn delta(&self) -> Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        self.ready().await;
        xds_client::open_delta(self.channel().await).await
    }

    /// Waits until everything has been listed, as gRPC's own health service says.
    pub(crate) async fn ready(&self) {
        use tonic_health::pb::health_check_response::ServingStatus;
        use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

        let mut health = HealthClient::new(self.channel().await);
        let mut changes = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
        let serving = async {
            while let Some(now) = changes.message().await.unwrap() {
                if now.status() == ServingStatus::Serving {
                    return;
                }
            }
            panic!("the health service ended the watch");
        };
        in_time("ready", serving).await;
    }
}

fn write(folder: &Path, name: &str, addresses: &[&str]) {
    manifests::write(folder, &format!("{name}.yaml"), &http_service(name, 8080, addresses));
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Looks again and again until `check` says yes; panics with what it said last.
pub(crate) async fn eventually(what: &str, check: impl AsyncFnMut() -> Result<(), String>) {
    pilothouse_testkit::eventually(PATIENCE, what, check).await;
}
