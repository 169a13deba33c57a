//! A connection between Envoy and the control plane that can be cut at a chosen moment.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt as _};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::places;

/// Until dropped.
#[derive(Debug)]
pub struct Relay {
    pub address: SocketAddr,
    line: Line,
    server: JoinHandle<()>,
}

#[derive(Clone, Debug)]
struct Line {
    control: SocketAddr,
    /// Responses of this type do not get through.
    held: Arc<Mutex<Option<&'static str>>>,
    /// Nothing gets through to Envoy for now.
    paused: Arc<watch::Sender<bool>>,
    /// Counts the cuts.
    cuts: Arc<watch::Sender<usize>>,
    /// Types as Envoy opened them on the newest stream.
    opened: Arc<Mutex<Vec<String>>>,
}

impl Relay {
    pub async fn start(control: SocketAddr) -> Self {
        let listener = TcpListener::bind((places::address(), 0)).await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let line = Line {
            control,
            held: Arc::default(),
            paused: Arc::new(watch::Sender::new(false)),
            cuts: Arc::new(watch::Sender::new(0)),
            opened: Arc::default(),
        };
        let service = AggregatedDiscoveryServiceServer::new(line.clone());
        let incoming = TcpListenerStream::new(listener);
        let server = tokio::spawn(async move {
            _ = Server::builder().add_service(service).serve_with_incoming(incoming).await;
        });
        Self { address, line, server }
    }

    /// From here on, no response of this type gets through.
    pub fn hold(&self, type_url: &'static str) {
        *self.line.held.lock().expect("nobody panics here") = Some(type_url);
    }

    /// Lets responses wait, or go on their way again.
    pub fn pause(&self, paused: bool) {
        self.line.paused.send_replace(paused);
    }

    /// Ends every stream; on the next one everything gets through.
    pub fn cut(&self) {
        *self.line.held.lock().expect("nobody panics here") = None;
        self.line.opened.lock().expect("nobody panics here").clear();
        self.line.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// The types in the order in which Envoy asked for them on the newest stream.
    pub fn opened(&self) -> Vec<String> {
        self.line.opened.lock().expect("nobody panics here").clone()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.server.abort();
    }
}

type Responses<R> = Pin<Box<dyn Stream<Item = Result<R, Status>> + Send>>;

impl Line {
    fn count_request(&self, type_url: &str) {
        let mut opened = self.opened.lock().expect("nobody panics here");
        if !opened.iter().any(|one| one == type_url) {
            opened.push(type_url.to_owned());
        }
    }

    /// Requests on their way to the control plane, until the line is cut.
    fn up<Q: Send + 'static>(
        &self,
        mut requests: Streaming<Q>,
        type_of: fn(&Q) -> &str,
    ) -> ReceiverStream<Q> {
        let (send, onward) = mpsc::channel(16);
        let (line, mut cut) = (self.clone(), self.cuts.subscribe());
        tokio::spawn(async move {
            let pass = async {
                while let Ok(Some(request)) = requests.message().await {
                    line.count_request(type_of(&request));
                    if send.send(request).await.is_err() {
                        return;
                    }
                }
            };
            tokio::select! { () = pass => {}, _ = cut.changed() => {} }
        });
        ReceiverStream::new(onward)
    }

    /// Responses on their way to Envoy, until the line is cut.
    fn down<R: Send + 'static>(
        &self,
        responses: Streaming<R>,
        type_of: fn(&R) -> &str,
    ) -> Response<Responses<R>> {
        let (held, mut cut) = (self.held.clone(), self.cuts.subscribe());
        let passed = responses.filter(move |response| {
            let held = held.lock().expect("nobody panics here");
            response.as_ref().map_or(true, |response| Some(type_of(response)) != *held)
        });
        let paused = self.paused.clone();
        let passed = passed.then(move |response| {
            let mut paused = paused.subscribe();
            async move {
                _ = paused.wait_for(|paused| !paused).await;
                response
            }
        });
        let cut = async move { _ = cut.changed().await };
        Response::new(Box::pin(futures::StreamExt::take_until(passed, Box::pin(cut))))
    }

    async fn client(
        &self,
    ) -> Result<AggregatedDiscoveryServiceClient<tonic::transport::Channel>, Status> {
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.control))
            .await
            .map_err(|error| Status::unavailable(error.to_string()))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Line {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        requests: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        let requests = self.up(requests.into_inner(), |request| &request.type_url);
        let responses = self.client().await?.stream_aggregated_resources(requests).await?;
        Ok(self.down(responses.into_inner(), |response| &response.type_url))
    }

    async fn delta_aggregated_resources(
        &self,
        requests: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let requests = self.up(requests.into_inner(), |request| &request.type_url);
        let responses = self.client().await?.delta_aggregated_resources(requests).await?;
        Ok(self.down(responses.into_inner(), |response| &response.type_url))
    }
}
