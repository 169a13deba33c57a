//! A proxy that has every cluster, and notes when it was told of each change.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::{Address, Node, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use pilothouse::names::ResourceType;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::common::until;
use crate::mesh::{Mesh, number};

pub(crate) struct Follower {
    /// When it was told of a change, by its number.
    told: Arc<Mutex<HashMap<u32, Instant>>>,
    stream: AbortOnDropHandle<()>,
}

impl Follower {
    /// Connects and waits until it has all clusters, which show the numbers up to `last`.
    pub(crate) async fn start(grpc: u16, clusters: Vec<String>, last: u32) -> Self {
        let told = Arc::<Mutex<HashMap<u32, Instant>>>::default();
        let url = format!("http://127.0.0.1:{grpc}");
        let channel = Channel::from_shared(url).unwrap().connect().await.unwrap();
        let stream = AbortOnDropHandle::new(tokio::spawn(follow(channel, clusters, told.clone())));
        let follower = Self { told, stream };
        follower.has(0..last).await;
        follower
    }

    /// Waits until it was told of all these changes.
    pub(crate) async fn has(&self, changes: Range<u32>) {
        until("the proxy to have everything", async || {
            assert!(!self.stream.is_finished(), "the stream ended");
            let told = self.told.lock().unwrap();
            let missing = changes.clone().filter(|number| !told.contains_key(number)).count();
            if missing == 0 { Ok(()) } else { Err(format!("{missing} of {changes:?} missing")) }
        })
        .await;
    }

    /// Milliseconds that those of these changes took that arrived.
    pub(crate) fn lags(&self, mesh: &Mesh, changes: Range<u32>) -> Vec<f64> {
        let told = self.told.lock().unwrap();
        let arrived = changes.filter_map(|number| Some((number, told.get(&number)?)));
        arrived.map(|(number, at)| (*at - mesh.made(number)).as_secs_f64() * 1000.0).collect()
    }
}

async fn follow(channel: Channel, clusters: Vec<String>, told: Arc<Mutex<HashMap<u32, Instant>>>) {
    if let Err(status) = stream(channel, clusters, &told).await {
        eprintln!("{status}");
    }
}

async fn stream(
    channel: Channel,
    clusters: Vec<String>,
    told: &Mutex<HashMap<u32, Instant>>,
) -> Result<(), tonic::Status> {
    let (send, requests) = mpsc::channel(16);
    let first = |of: ResourceType, names: Vec<String>| DeltaDiscoveryRequest {
        node: Some(Node { id: "proxy".to_owned(), ..Default::default() }),
        type_url: of.type_url().to_owned(),
        resource_names_subscribe: names,
        ..Default::default()
    };
    let _ = send.send(first(ResourceType::Cluster, vec!["*".to_owned()])).await;
    let _ = send.send(first(ResourceType::Endpoint, clusters)).await;
    let client = AggregatedDiscoveryServiceClient::new(channel);
    let mut client = client.max_decoding_message_size(usize::MAX);
    let requests = ReceiverStream::new(requests);
    let mut responses = client.delta_aggregated_resources(requests).await?.into_inner();
    while let Some(response) = responses.message().await? {
        let now = Instant::now();
        if response.type_url == ResourceType::Endpoint.type_url() {
            let mut told = told.lock().unwrap();
            for resource in &response.resources {
                let bytes = &*resource.resource.as_ref().unwrap().value;
                let assignment = ClusterLoadAssignment::decode(bytes).unwrap();
                told.extend(numbers(&assignment).map(|number| (number, now)));
            }
        }
        let accepted = DeltaDiscoveryRequest {
            type_url: response.type_url,
            response_nonce: response.nonce,
            ..Default::default()
        };
        let _ = send.send(accepted).await;
    }
    Ok(())
}

/// The number that the endpoints say.
fn numbers(assignment: &ClusterLoadAssignment) -> impl Iterator<Item = u32> {
    let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
    endpoints.filter_map(|one| {
        let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &one.host_identifier else {
            return None;
        };
        number(ip(endpoint.address.as_ref()?)?)
    })
}

fn ip(address: &Address) -> Option<Ipv4Addr> {
    let Some(address::Address::SocketAddress(socket)) = &address.address else { return None };
    matches!(socket.port_specifier, Some(socket_address::PortSpecifier::PortValue(_)))
        .then(|| socket.address.parse().ok())?
}
