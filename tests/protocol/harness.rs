//! The control plane on free ports over a folder of manifests, and streams to it.

use std::fmt::Debug;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use pilothouse::ads::stream::ServerLimits;
use pilothouse::app::{self, Config, Running, Source};
use pilothouse::names::ResourceType;
use pilothouse::publish::Timing;
use pilothouse::source::files;
use prost::Message;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Status, Streaming};

/// Long enough for a busy machine; nothing waits for it to pass.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Where delta streams are opened, for peers that no generated client is.
pub(crate) const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

pub(crate) const CDS: ResourceType = ResourceType::Cluster;
pub(crate) const EDS: ResourceType = ResourceType::Endpoint;
pub(crate) const LDS: ResourceType = ResourceType::Listener;
pub(crate) const RDS: ResourceType = ResourceType::Route;

pub(crate) struct Server {
    pub(crate) running: Running,
    folder: TempDir,
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    /// With limits of one's own.
    pub(crate) async fn with(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), "web", &["10.0.0.1"]);
        Self::over(folder, change).await
    }

    pub(crate) async fn over(folder: TempDir, change: impl FnOnce(&mut Config)) -> Self {
        let any_port = "127.0.0.1:0".parse().unwrap();
        let mut config = Config {
            source: Source::Files(files::Config {
                paths: vec![folder.path().to_owned()],
                namespaces: Vec::new(),
            }),
            domain: "cluster.local".to_owned(),
            grpc_addr: any_port,
            http_addr: any_port,
            monitoring_addr: any_port,
            timing: Timing { pace: Duration::from_millis(5), linger: Duration::from_millis(5) },
            limits: ServerLimits::default(),
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

    /// A connection of its own.
    pub(crate) async fn channel(&self) -> Channel {
        let endpoint = Channel::from_shared(format!("http://{}", self.running.grpc)).unwrap();
        endpoint.connect().await.unwrap()
    }

    /// An aggregated stream, once the server is ready for one.
    pub(crate) async fn sotw(&self) -> Stream<DiscoveryRequest, DiscoveryResponse> {
        self.ready().await;
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await)
            .max_decoding_message_size(64 << 20);
        let (send, requests) = requests();
        let responses = client.stream_aggregated_resources(requests).await;
        Stream { send, responses: responses.unwrap().into_inner() }
    }

    pub(crate) async fn delta(&self) -> Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
        self.ready().await;
        let mut client = AggregatedDiscoveryServiceClient::new(self.channel().await);
        let (send, requests) = requests();
        let responses = client.delta_aggregated_resources(requests).await;
        Stream { send, responses: responses.unwrap().into_inner() }
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
    let endpoints: String =
        addresses.iter().map(|address| format!("  - addresses: [\"{address}\"]\n")).collect();
    let text = format!(
        "apiVersion: v1
kind: Service
metadata: {{name: {name}, namespace: default}}
spec:
  ports:
    - {{name: http, port: 80}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: {name}-1
  namespace: default
  labels: {{kubernetes.io/service-name: {name}}}
addressType: IPv4
ports:
  - {{name: http, port: 8080}}
endpoints:
{endpoints}"
    );
    // Renamed into its place, so that no half file is read.
    let draft = folder.join(format!(".{name}"));
    std::fs::write(&draft, text).unwrap();
    std::fs::rename(draft, folder.join(format!("{name}.yaml"))).unwrap();
}

/// The cluster of a service that [`Server::write`] made.
pub(crate) fn cluster(name: &str) -> String {
    format!("outbound|80||{name}.default.svc.cluster.local")
}

pub(crate) fn requests<T>() -> (mpsc::Sender<T>, ReceiverStream<T>) {
    let (send, requests) = mpsc::channel(16);
    (send, ReceiverStream::new(requests))
}

pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what}: not in time"))
}

/// Looks again and again until `check` says yes; panics with what it said last.
pub(crate) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> Result<(), String>) {
    let begun = Instant::now();
    while let Err(seen) = check().await {
        assert!(begun.elapsed() < PATIENCE, "waited for {what}; last seen: {seen}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub(crate) struct Stream<Q, R> {
    pub(crate) send: mpsc::Sender<Q>,
    pub(crate) responses: Streaming<R>,
}

impl<Q: Debug, R: Debug> Stream<Q, R> {
    pub(crate) async fn say(&self, request: Q) {
        // It may have ended; then the reason stands in the responses.
        let _ = self.send.send(request).await;
    }

    pub(crate) async fn next(&mut self) -> Result<Option<R>, Status> {
        in_time("a response", self.responses.message()).await
    }

    pub(crate) async fn response(&mut self) -> R {
        self.next().await.expect("a response").expect("not the end")
    }

    /// How the stream ended.
    pub(crate) async fn refusal(&mut self) -> (Code, String) {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return (status.code(), status.message().to_owned()),
            }
        }
    }
}

pub(crate) fn node() -> Node {
    Node { id: "test".to_owned(), cluster: "test".to_owned(), ..Default::default() }
}

/// A message as gRPC sends it: uncompressed, its length before it.
pub(crate) fn message(request: &impl Message) -> Bytes {
    let body = request.encode_to_vec();
    [&[0], &(body.len() as u32).to_be_bytes()[..], &body].concat().into()
}

/// The first request of a stream.
pub(crate) fn sotw(of: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node()),
        type_url: of.type_url().to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

pub(crate) fn delta(of: ResourceType, subscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node()),
        type_url: of.type_url().to_owned(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// Accepts a delta response.
pub(crate) fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}
