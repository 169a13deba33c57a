//! A gRPC client as it should be: it opens a stream, asks, ACKs, and follows changes.

use std::net::Ipv4Addr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::victim::Victim;

/// Nobody waits longer for a first response, whoever else is there; a debug build on a busy machine
/// has as long again to work.
const FIRST_RESPONSE: Duration = Duration::from_secs(10);

/// Where the good ones are, and where the hostile ones: another address, unless a test says so.
pub(crate) const GOOD: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const EDS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const WEB: &str = "outbound|80||web.default.svc.cluster.local";

/// A stream that follows the endpoints of `web`.
pub(crate) struct Follower {
    send: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
    changes: u8,
}

struct Stream {
    send: mpsc::Sender<DeltaDiscoveryRequest>,
    responses: Streaming<DeltaDiscoveryResponse>,
}

async fn open(victim: &Victim, from: Ipv4Addr) -> Stream {
    let endpoint = Channel::from_shared(format!("http://{}", victim.grpc)).unwrap();
    let channel = endpoint.local_address(Some(from.into())).connect().await.unwrap();
    let (send, requests) = mpsc::channel(16);
    let mut client =
        AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let responses = client.delta_aggregated_resources(ReceiverStream::new(requests)).await.unwrap();
    Stream { send, responses: responses.into_inner() }
}

fn ask(type_url: &str, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: Some(Node { id: "good".to_owned(), ..Default::default() }),
        type_url: type_url.to_owned(),
        resource_names_subscribe: names.iter().map(|name| (*name).to_owned()).collect(),
        ..Default::default()
    }
}

fn ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

/// Asks for all clusters on a fresh connection, and gets them in time.
pub(crate) async fn is_served(victim: &Victim, from: Ipv4Addr) {
    let served = async {
        let mut stream = open(victim, from).await;
        stream.send.send(ask(CDS, &[])).await.unwrap();
        let response = stream.responses.message().await.expect("served").expect("a response");
        assert!(response.resources.iter().any(|one| one.name == WEB), "no cluster of web");
        stream.send.send(ack(&response)).await.unwrap();
    };
    tokio::time::timeout(FIRST_RESPONSE, served)
        .await
        .unwrap_or_else(|_| panic!("no first response within {FIRST_RESPONSE:?}"));
}

impl Follower {
    pub(crate) async fn start(victim: &Victim) -> Self {
        let Stream { send, responses } = open(victim, GOOD).await;
        send.send(ask(EDS, &[WEB])).await.unwrap();
        let mut follower = Self { send, responses, changes: 0 };
        follower.next().await;
        follower
    }

    async fn next(&mut self) -> DeltaDiscoveryResponse {
        let next = tokio::time::timeout(FIRST_RESPONSE, self.responses.message());
        let next = next.await.expect("no push in time");
        let response = next.expect("the stream goes on").expect("a response");
        self.send.send(ack(&response)).await.unwrap();
        response
    }

    /// A change of the mesh reaches it in time.
    pub(crate) async fn follows_a_change(&mut self, victim: &Victim) {
        self.changes += 1;
        let address = format!("10.200.0.{}", 100 + self.changes);
        victim.write_web(&address, 80);
        loop {
            let response = self.next().await;
            let text: Vec<u8> = response
                .resources
                .iter()
                .flat_map(|one| one.resource.clone())
                .flat_map(|any| any.value)
                .collect();
            if String::from_utf8_lossy(&text).contains(&address) {
                return;
            }
        }
    }
}
