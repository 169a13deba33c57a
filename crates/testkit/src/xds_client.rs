//! Proxies without an Envoy: streams of the client that tonic generates, and the messages on them.

use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use pilothouse::names::ResourceType;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Identity};
use tonic::{Code, Status, Streaming};

use crate::certificates::Issued;

/// The name that a control plane's certificate has in tests.
pub const PILOT: &str = "istio-pilot.istio-system.svc";

/// Long enough for a busy machine; nothing waits for it to pass.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Where delta streams are opened, for peers that no generated client is.
pub const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

pub const CDS: ResourceType = ResourceType::Cluster;
pub const EDS: ResourceType = ResourceType::Endpoint;
pub const LDS: ResourceType = ResourceType::Listener;
pub const RDS: ResourceType = ResourceType::Route;

/// A connection of its own.
pub async fn connect(control: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{control}")).unwrap();
    endpoint.connect().await.unwrap()
}

/// The same from an address of one's choice.
pub async fn connect_from(own: IpAddr, control: SocketAddr) -> Channel {
    let endpoint = Channel::from_shared(format!("http://{control}")).unwrap();
    endpoint.local_address(Some(own)).connect().await.unwrap()
}

/// A connection by TLS to a control plane whose certificate is `istio-pilot.istio-system.svc`'s, signed by
/// `authority` (PEM), with a certificate of one's own or without.
///
/// # Errors
/// The handshake fails, as far as the client sees it: that it is refused shows with TLS 1.3 on the first call.
pub async fn connect_by_tls(
    control: SocketAddr,
    authority: &str,
    own: Option<&Issued>,
) -> Result<Channel, tonic::transport::Error> {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authority)).domain_name(PILOT);
    if let Some(own) = own {
        tls = tls.identity(Identity::from_pem(&own.certificate, &own.key));
    }
    let endpoint = Channel::from_shared(format!("https://{control}")).unwrap();
    endpoint.tls_config(tls)?.connect().await
}

/// The two ends of a stream's requests.
pub fn requests<T>() -> (mpsc::Sender<T>, ReceiverStream<T>) {
    let (send, requests) = mpsc::channel(16);
    (send, ReceiverStream::new(requests))
}

/// One stream, in the words of either variant.
#[derive(Debug)]
pub struct Stream<Q, R> {
    pub send: mpsc::Sender<Q>,
    pub responses: Streaming<R>,
}

/// An aggregated stream in the state of the world.
pub async fn open_sotw(channel: Channel) -> Stream<DiscoveryRequest, DiscoveryResponse> {
    let (send, requests) = requests();
    let responses = client(channel).stream_aggregated_resources(requests).await;
    Stream { send, responses: responses.unwrap().into_inner() }
}

/// An aggregated stream in delta.
pub async fn open_delta(channel: Channel) -> Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse> {
    let (send, requests) = requests();
    let responses = client(channel).delta_aggregated_resources(requests).await;
    Stream { send, responses: responses.unwrap().into_inner() }
}

fn client(channel: Channel) -> AggregatedDiscoveryServiceClient<Channel> {
    // tonic's own limit is below what a large mesh takes.
    AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(usize::MAX)
}

impl<Q: Debug, R: Debug> Stream<Q, R> {
    pub async fn say(&self, request: Q) {
        // It may have ended; then the reason stands in the responses.
        let _ = self.send.send(request).await;
    }

    pub async fn next(&mut self) -> Result<Option<R>, Status> {
        let next = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        next.unwrap_or_else(|_| panic!("a response: not in time"))
    }

    pub async fn response(&mut self) -> R {
        self.next().await.expect("a response").expect("not the end")
    }

    /// How the stream ended.
    pub async fn refusal(&mut self) -> (Code, String) {
        loop {
            match self.next().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended well"),
                Err(status) => return (status.code(), status.message().to_owned()),
            }
        }
    }
}

/// The node of a standalone proxy.
pub fn node(id: &str) -> Node {
    Node { id: id.to_owned(), cluster: id.to_owned(), ..Default::default() }
}

/// A message as gRPC sends it: uncompressed, its length before it.
pub fn message(request: &impl Message) -> Bytes {
    let body = request.encode_to_vec();
    [&[0], &(body.len() as u32).to_be_bytes()[..], &body].concat().into()
}

/// The first request of a stream, by the node `test`.
pub fn sotw(of: ResourceType, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node("test")),
        type_url: of.type_url().to_owned(),
        resource_names: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// The same in delta.
pub fn delta(of: ResourceType, subscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(node("test")),
        type_url: of.type_url().to_owned(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

/// Accepts a delta response.
pub fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

/// The cluster of an HTTP service `NAME.default` on port 80.
pub fn cluster(name: &str) -> String {
    format!("outbound|80||{name}.default.svc.cluster.local")
}
