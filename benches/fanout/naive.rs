//! What most write: tonic's generated service, a channel for every stream, and a response that is
//! put together and encoded for each of them.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufRead;
use std::pin::Pin;
use std::sync::{Arc, PoisonError, RwLock};

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
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::raw::Mesh;
use crate::{Options, now, process, say};

type Names = BTreeSet<String>;

/// Resources by type and name.
type Resources = BTreeMap<&'static str, BTreeMap<String, Vec<u8>>>;

#[derive(Debug)]
struct Naive {
    resources: RwLock<Resources>,
    /// Type and names of what changed.
    changes: broadcast::Sender<(&'static str, Arc<Names>)>,
}

/// What the generated trait, which has `&self`, can be implemented for.
#[derive(Debug)]
struct Service(Arc<Naive>);

pub(crate) fn main(options: &Options) -> anyhow::Result<()> {
    process::raise_files(options.streams)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut mesh = Mesh::new(options);
    let mut resources = Resources::new();
    for of in ResourceType::IN_ORDER {
        let set = mesh.view().set(of);
        let all = set.iter().map(|one| (one.name.to_string(), one.value().to_vec()));
        resources.insert(of.type_url(), all.collect());
    }
    let (changes, _) = broadcast::channel(64);
    let naive = Arc::new(Naive { resources: RwLock::new(resources), changes: changes.clone() });
    let service = AggregatedDiscoveryServiceServer::new(Service(naive.clone()));
    let port = runtime.block_on(async {
        let listener = process::listen()?;
        let port = listener.local_addr()?.port();
        let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
        tokio::spawn(Server::builder().add_service(service).serve_with_incoming(incoming));
        anyhow::Ok(port)
    })?;
    say("port", port);
    for line in std::io::stdin().lock().lines() {
        if line?.starts_with("service") {
            let added = mesh.add();
            say("begun", now());
            for (of, told) in added {
                let names: Names = told.iter().map(|one| one.name.to_string()).collect();
                naive.set_resources(
                    of,
                    told.iter().map(|one| (one.name.to_string(), one.value().to_vec())),
                );
                if of != ResourceType::Endpoint {
                    changes.send((of.type_url(), names.into()))?;
                }
            }
        } else {
            say("begun", now());
            let names = Names::from([mesh.changed_cluster()]);
            changes.send((ResourceType::Endpoint.type_url(), names.into()))?;
        }
    }
    Ok(())
}

impl Naive {
    fn set_resources(&self, of: ResourceType, told: impl Iterator<Item = (String, Vec<u8>)>) {
        let mut all = self.resources.write().unwrap_or_else(PoisonError::into_inner);
        all.entry(of.type_url()).or_default().extend(told);
    }

    /// What a response carries; everything of the type for no names.
    fn wanted(&self, type_url: &str, names: &Names) -> Vec<(String, Any)> {
        let all = self.resources.read().unwrap_or_else(PoisonError::into_inner);
        let Some(of_type) = all.get(type_url) else { return Vec::new() };
        let any = |value: &Vec<u8>| Any { type_url: type_url.to_owned(), value: value.clone() };
        if names.is_empty() {
            return of_type.iter().map(|(name, value)| (name.clone(), any(value))).collect();
        }
        let named = names.iter().filter_map(|name| Some((name.clone(), any(of_type.get(name)?))));
        named.collect()
    }

    fn sotw(&self, type_url: &str, names: &Names, nonce: u64) -> DiscoveryResponse {
        DiscoveryResponse {
            version_info: nonce.to_string(),
            resources: self.wanted(type_url, names).into_iter().map(|(_, any)| any).collect(),
            type_url: type_url.to_owned(),
            nonce: nonce.to_string(),
            ..Default::default()
        }
    }

    fn delta(&self, type_url: &str, names: &Names, nonce: u64) -> DeltaDiscoveryResponse {
        let resources = self.wanted(type_url, names).into_iter().map(|(name, any)| DeltaResource {
            name,
            version: nonce.to_string(),
            resource: Some(any),
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

    /// One stream. `read` gives the type and names of a request, `respond` makes what is sent.
    fn serve<Q, R>(
        self: &Arc<Self>,
        mut requests: Streaming<Q>,
        read: fn(Q) -> (String, Vec<String>),
        respond: fn(&Self, &str, &Names, u64) -> R,
    ) -> Response<Responses<R>>
    where
        Q: Send + 'static,
        R: Send + 'static,
    {
        let (send, receive) = mpsc::channel(16);
        let (naive, mut changes) = (self.clone(), self.changes.subscribe());
        tokio::spawn(async move {
            let mut nonce = 0;
            let mut subscribed: BTreeMap<String, Names> = BTreeMap::new();
            loop {
                let response = tokio::select! {
                    request = requests.message() => {
                        let Ok(Some(request)) = request else { return };
                        let (type_url, names) = read(request);
                        let first = !subscribed.contains_key(&type_url);
                        let own = subscribed.entry(type_url.clone()).or_default();
                        let new: Names = names.into_iter().filter(|one| !own.contains(one)).collect();
                        if !first && new.is_empty() {
                            continue; // an ACK
                        }
                        own.extend(new.iter().cloned());
                        nonce += 1;
                        respond(&naive, &type_url, &new, nonce)
                    }
                    Ok((type_url, names)) = changes.recv() => {
                        let Some(own) = subscribed.get(type_url) else { continue };
                        let names = match own.is_empty() {
                            true => names,
                            false => Arc::new(names.intersection(own).cloned().collect()),
                        };
                        if names.is_empty() {
                            continue;
                        }
                        nonce += 1;
                        respond(&naive, type_url, &names, nonce)
                    }
                };
                if send.send(Ok(response)).await.is_err() {
                    return;
                }
            }
        });
        Response::new(Box::pin(ReceiverStream::new(receive)))
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
        let read = |request: DiscoveryRequest| (request.type_url, request.resource_names);
        Ok(self.0.serve(request.into_inner(), read, Naive::sotw))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let read = |it: DeltaDiscoveryRequest| (it.type_url, it.resource_names_subscribe);
        Ok(self.0.serve(request.into_inner(), read, Naive::delta))
    }
}
