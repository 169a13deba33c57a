//! A control plane of one's own: it serves the resources of `resources.rs` to any Envoy that asks.
//!
//! `static-xds XDS-ADDRESS LISTENER-ADDRESS BACKEND-ADDRESS`: Envoys connect to the first, and forward what
//! comes to the second to the third.
//!
//! The messages are those of tonic's generated service, so that this is short. A server with thousands of
//! streams writes the pieces of each frame to HTTP/2 itself, as the program's `src/ads` does.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use envoy_types::pb::envoy::service::discovery::v3 as xds;
use futures::{Stream, StreamExt as _, stream};
use pilothouse_xds::{FrameBuilder, Interner, ServedType, Session, SessionLimits, View};
use prost::Message;
use tonic::{Request, Response, Status, Streaming};
use xds::aggregated_discovery_service_server as server;

mod resources;

/// The types in the order in which they must be sent.
static TYPES: [ServedType; 4] =
    [ServedType::CLUSTER, ServedType::ENDPOINT, ServedType::LISTENER, ServedType::ROUTE];

struct Ads {
    view: Arc<View>,
    interner: Arc<Interner>,
    frames: Arc<FrameBuilder>,
    streams: AtomicU64,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Ads {
    /// One stream: each request goes into the session, and what comes out of it is sent.
    fn serve<Q: Message + 'static, R: Message + Default + 'static>(
        &self,
        delta: bool,
        requests: Streaming<Q>,
    ) -> Response<Responses<R>> {
        // Nonces of different streams must not be mistaken for each other.
        let seed = self.streams.fetch_add(1, Ordering::Relaxed) << 32;
        let (interner, frames) = (self.interner.clone(), self.frames.clone());
        let limits = SessionLimits::default();
        let mut session = Session::new(delta, &TYPES, None, limits, interner, frames, seed);
        let view = self.view.clone();
        let mut respond = move |request: Result<Q, Status>| -> Result<Vec<R>, Status> {
            let request = session.decode(request?.encode_to_vec().into()).map_err(invalid)?;
            session.handle_request(&request, &view).map_err(invalid)?;
            let responses = std::iter::from_fn(|| session.next_response(&view));
            // After gRPC's prefix of five bytes.
            let decode = |bytes: Vec<u8>| R::decode(&bytes[5..]).map_err(invalid);
            responses.map(|response| decode(response.frame.to_bytes(response.nonce))).collect()
        };
        let responses = requests.flat_map(move |request| match respond(request) {
            Ok(responses) => stream::iter(responses.into_iter().map(Ok).collect::<Vec<_>>()),
            Err(status) => stream::iter(vec![Err(status)]),
        });
        Response::new(Box::pin(responses))
    }
}

fn invalid(error: impl std::error::Error) -> Status {
    Status::invalid_argument(error.to_string())
}

#[tonic::async_trait]
impl server::AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<xds::DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<xds::DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<xds::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Ok(self.serve(false, request.into_inner()))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<xds::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Ok(self.serve(true, request.into_inner()))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut addresses = std::env::args().skip(1).map(|text| text.parse());
    let mut address = |what| addresses.next().context(what)?.context(what);
    let xds = address("XDS-ADDRESS is HOST:PORT")?;
    let (listener, backend) =
        (address("LISTENER-ADDRESS is HOST:PORT")?, address("BACKEND-ADDRESS is HOST:PORT")?);
    let ads = Ads {
        view: Arc::new(resources::view(listener, backend)),
        interner: Arc::default(),
        frames: Arc::new(FrameBuilder::new("static-xds")),
        streams: AtomicU64::new(0),
    };
    let service = server::AggregatedDiscoveryServiceServer::new(ads);
    tonic::transport::Server::builder().add_service(service).serve(xds).await?;
    Ok(())
}
