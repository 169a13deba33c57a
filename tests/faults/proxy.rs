//! A proxy that notes everything that it loses.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use pilothouse::names::ResourceType;
use prost::Message as _;
use tokio_util::task::AbortOnDropHandle;
use tonic::transport::Channel;

use pilothouse_testkit::kube_control_plane::Pilot;
use pilothouse_testkit::until;
use pilothouse_testkit::xds_client::{self, cluster};

#[derive(Default)]
struct Seen {
    clusters: BTreeSet<String>,
    /// Endpoints by cluster, as of now.
    endpoints: BTreeMap<String, usize>,
    /// Resources removed, and clusters left without an endpoint, since the start.
    lost: BTreeSet<String>,
    ended: Option<String>,
}

pub(crate) struct Proxy {
    seen: Arc<Mutex<Seen>>,
    _stream: AbortOnDropHandle<()>,
}

impl Proxy {
    /// Connects and has the endpoints of these services.
    pub(crate) async fn start(pilot: &Pilot, services: &[&str]) -> Self {
        let seen = Arc::<Mutex<Seen>>::default();
        let clusters: Vec<_> = services.iter().map(|name| cluster(name)).collect();
        let channel = xds_client::connect(pilot.grpc()).await;
        let stream =
            AbortOnDropHandle::new(tokio::spawn(run_stream(channel, clusters, seen.clone())));
        let proxy = Self { seen, _stream: stream };
        until("the proxy to have its endpoints", async || {
            let seen = proxy.seen.lock().unwrap();
            let has = |name: &&str| seen.endpoints.get(&cluster(name)).is_some_and(|&n| n > 0);
            if services.iter().all(has) { Ok(()) } else { Err(format!("{:?}", seen.endpoints)) }
        })
        .await;
        proxy
    }

    /// Waits until it has been told of this service.
    pub(crate) async fn learns(&self, service: &str) {
        until(&format!("the proxy to learn of {service}"), async || {
            let seen = self.seen.lock().unwrap();
            let known = seen.clusters.contains(&cluster(service));
            if known { Ok(()) } else { Err(format!("{:?}", seen.clusters)) }
        })
        .await;
    }

    /// Since the start it lost what belongs to these services, and nothing else.
    pub(crate) async fn lost_only(&self, services: &[&str]) {
        let wanted: BTreeSet<_> = services.iter().map(|name| cluster(name)).collect();
        until(&format!("the proxy to lose {wanted:?}"), async || {
            let seen = self.seen.lock().unwrap();
            assert_eq!(seen.ended, None, "the stream ended");
            let more: Vec<_> = seen.lost.difference(&wanted).collect();
            assert!(more.is_empty(), "the proxy lost {more:?}");
            if seen.lost == wanted { Ok(()) } else { Err(format!("{:?}", seen.lost)) }
        })
        .await;
    }
}

async fn run_stream(channel: Channel, clusters: Vec<String>, seen: Arc<Mutex<Seen>>) {
    let ended = stream(channel, clusters, &seen).await;
    seen.lock().unwrap().ended = Some(format!("{ended:?}"));
}

async fn stream(
    channel: Channel,
    clusters: Vec<String>,
    seen: &Mutex<Seen>,
) -> Result<(), tonic::Status> {
    let xds_client::Stream { send, mut responses } = xds_client::open_delta(channel).await;
    let clusters: Vec<_> = clusters.iter().map(String::as_str).collect();
    let _ = send.send(xds_client::delta(xds_client::CDS, &["*"])).await;
    let _ = send.send(xds_client::delta(xds_client::EDS, &clusters)).await;
    while let Some(response) = responses.message().await? {
        let accepted = xds_client::ack(&response);
        {
            let mut seen = seen.lock().unwrap();
            seen.lost.extend(response.removed_resources);
            if response.type_url == ResourceType::Cluster.type_url() {
                let names = response.resources.into_iter().map(|resource| resource.name);
                seen.clusters.extend(names);
            } else {
                for resource in response.resources {
                    let bytes = resource.resource.unwrap().value;
                    let assignment = ClusterLoadAssignment::decode(&*bytes).unwrap();
                    let of = assignment.endpoints.iter();
                    let count = of.map(|locality| locality.lb_endpoints.len()).sum();
                    if count == 0 && seen.endpoints.contains_key(&resource.name) {
                        seen.lost.insert(resource.name.clone());
                    }
                    seen.endpoints.insert(resource.name, count);
                }
            }
        }
        let _ = send.send(accepted).await;
    }
    Ok(())
}
