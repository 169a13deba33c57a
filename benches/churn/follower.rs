//! A proxy that has every cluster, and notes when it was told of each change.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::{Address, address, socket_address};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use pilothouse::names::ResourceType;
use prost::Message as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use crate::mesh::{Mesh, number};
use pilothouse_testkit::{until, xds_client};

pub(crate) struct Follower {
    /// When it was told of a change, by its number.
    told: Arc<Mutex<HashMap<u32, Instant>>>,
    stream: AbortOnDropHandle<()>,
}

impl Follower {
    /// Connects and waits until it has all clusters, which show the numbers up to `last`.
    pub(crate) async fn start(grpc: SocketAddr, clusters: Vec<String>, last: u32) -> Self {
        let told = Arc::<Mutex<HashMap<u32, Instant>>>::default();
        let channel = xds_client::connect(grpc).await;
        let stream =
            AbortOnDropHandle::new(tokio::spawn(run_stream(channel, clusters, told.clone())));
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

async fn run_stream(
    channel: Channel,
    clusters: Vec<String>,
    told: Arc<Mutex<HashMap<u32, Instant>>>,
) {
    if let Err(status) = stream(channel, clusters, &told).await {
        eprintln!("{status}");
    }
}

async fn stream(
    channel: Channel,
    clusters: Vec<String>,
    told: &Mutex<HashMap<u32, Instant>>,
) -> Result<(), tonic::Status> {
    let xds_client::Stream { send, mut responses } = xds_client::open_delta(channel).await;
    let clusters: Vec<_> = clusters.iter().map(String::as_str).collect();
    let _ = send.send(xds_client::delta(xds_client::CDS, &["*"])).await;
    let _ = send.send(xds_client::delta(xds_client::EDS, &clusters)).await;
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
        let _ = send.send(xds_client::ack(&response)).await;
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
