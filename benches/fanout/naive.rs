//! What most write: tonic's generated service, a channel for every stream, and a response that is
//! put together and encoded for each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::pin::Pin;
use std::sync::Arc;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
    Resource as DeltaResource,
};
use envoy_types::pb::google::protobuf::Any;
use futures::Stream;
use pilothouse::names::ResourceType;
use tokio::net::TcpListener;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::{Options, mesh, now, raw, say};

/// All resources by type and name.
type Resources = BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>;

#[derive(Debug)]
struct Naive {
    resources: Resources,
    changes: broadcast::Sender<String>,
}

/// What the generated trait, which has `&self`, can be implemented for.
#[derive(Debug)]
struct Service(Arc<Naive>);

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let view = raw::view(options);
    let mut resources = Resources::new();
    for of in ResourceType::IN_ORDER {
        let all = view.set(of).iter().map(|one| (one.name.to_string(), one.value().to_vec()));
        resources.insert(of.type_url(), all.collect());
    }
    let (changes, _) = broadcast::channel(64);
    let service = AggregatedDiscoveryServiceServer::new(Service(Arc::new(Naive {
        resources,
        changes: changes.clone(),
    })));
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let port = listener.local_addr()?.port();
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    runtime.spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
    say("port", port);
    for line in std::io::stdin().lock().lines() {
        line?;
        say("begun", now());
        changes.send(mesh::cluster(0))?;
    }
    Ok(())
}

impl Naive {
    fn wanted<'a>(
        &'a self,
        type_url: &str,
        names: &BTreeSet<String>,
    ) -> impl Iterator<Item = (&'a String, &'a Vec<u8>)> {
        let all = self.resources.get(type_url).into_iter().flatten();
        let names = names.clone();
        all.filter(move |(name, _)| names.is_empty() || names.contains(*name))
    }

    fn sotw(&self, type_url: &str, names: &BTreeSet<String>, nonce: u64) -> DiscoveryResponse {
        let resources = self
            .wanted(type_url, names)
            .map(|(_, value)| Any { type_url: type_url.to_owned(), value: value.clone() });
        DiscoveryResponse {
            version_info: nonce.to_string(),
            resources: resources.collect(),
            type_url: type_url.to_owned(),
            nonce: nonce.to_string(),
            ..Default::default()
        }
    }

    fn delta(
        &self,
        type_url: &str,
        names: &BTreeSet<String>,
        nonce: u64,
    ) -> DeltaDiscoveryResponse {
        let resources = self.wanted(type_url, names).map(|(name, value)| DeltaResource {
            name: name.clone(),
            version: nonce.to_string(),
            resource: Some(Any { type_url: type_url.to_owned(), value: value.clone() }),
            ..Default::default()
        });
        DeltaDiscoveryResponse {
            system_version_info: nonce.to_string(),
            resources: resources.collect(),
            type_url: type_url.to_owned(),
            nonce: nonce.to_string(),
            ..Default::default()
        }
    }
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let (send, receive) = mpsc::channel(16);
        let mut requests = request.into_inner();
        let naive = self.0.clone();
        let mut changes = naive.changes.subscribe();
        tokio::spawn(async move {
            let mut nonce = 0;
            loop {
                let response = tokio::select! {
                    request = requests.message() => {
                        let Ok(Some(request)) = request else { return };
                        if !request.response_nonce.is_empty() {
                            continue;
                        }
                        let names = request.resource_names.into_iter().collect();
                        nonce += 1;
                        naive.sotw(&request.type_url, &names, nonce)
                    }
                    Ok(changed) = changes.recv() => {
                        nonce += 1;
                        naive.sotw(ResourceType::Endpoint.type_url(), &[changed].into(), nonce)
                    }
                };
                if send.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let (send, receive) = mpsc::channel(16);
        let mut requests = request.into_inner();
        let naive = self.0.clone();
        let mut changes = naive.changes.subscribe();
        tokio::spawn(async move {
            let mut nonce = 0;
            loop {
                let response = tokio::select! {
                    request = requests.message() => {
                        let Ok(Some(request)) = request else { return };
                        if !request.response_nonce.is_empty() {
                            continue;
                        }
                        let names = request.resource_names_subscribe.into_iter().collect();
                        nonce += 1;
                        naive.delta(&request.type_url, &names, nonce)
                    }
                    Ok(changed) = changes.recv() => {
                        nonce += 1;
                        naive.delta(ResourceType::Endpoint.type_url(), &[changed].into(), nonce)
                    }
                };
                if send.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}
