//! gRPC below tonic's codec: which method was called, headers, trailers, early errors.
//!
//! tonic's generated services encode every response for every stream. Here a response is bytes
//! that all streams share, so the service is made by hand: `Streaming` decodes what comes, and the
//! stream of shared bytes is the body of what goes.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use http::HeaderMap;
use http_body::{Body, Frame};
use tonic::server::NamedService;
use tonic::transport::server::TcpConnectInfo;
use tonic::{Code, Status, Streaming};
use tower::Service;

use crate::ads::stream::{self, Method, RawDecoder, Shared};
use crate::names::ResourceType;

const GRPC: http::HeaderValue = http::HeaderValue::from_static("application/grpc");

/// The aggregated discovery service, or the service of a single type.
#[derive(Clone, Debug)]
pub struct Discovery<const NAME: usize> {
    shared: Arc<Shared>,
}

/// Names of the services and what they serve.
const SERVICES: [(&str, &str, Option<ResourceType>); 5] = [
    ("envoy.service.discovery.v3.AggregatedDiscoveryService", "AggregatedResources", None),
    ("envoy.service.cluster.v3.ClusterDiscoveryService", "Clusters", Some(ResourceType::Cluster)),
    (
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        "Endpoints",
        Some(ResourceType::Endpoint),
    ),
    (
        "envoy.service.listener.v3.ListenerDiscoveryService",
        "Listeners",
        Some(ResourceType::Listener),
    ),
    ("envoy.service.route.v3.RouteDiscoveryService", "Routes", Some(ResourceType::Route)),
];

pub type Aggregated = Discovery<0>;
pub type Clusters = Discovery<1>;
pub type Endpoints = Discovery<2>;
pub type Listeners = Discovery<3>;
pub type Routes = Discovery<4>;

impl<const NAME: usize> Discovery<NAME> {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// What the last part of the path calls.
    fn method(path: &str) -> Result<Method, Status> {
        let (_, noun, only) = SERVICES[NAME];
        let name = path.rsplit('/').next().unwrap_or_default();
        match name.strip_suffix(noun) {
            Some("Stream") => Ok(Method { delta: false, only }),
            Some("Delta") => Ok(Method { delta: true, only }),
            Some("Fetch") => Err(Status::unimplemented(format!(
                "unary {name} is not served: open Stream{noun} or Delta{noun} instead"
            ))),
            _ => Err(Status::unimplemented(format!("there is no method {path}"))),
        }
    }
}

impl<const NAME: usize> NamedService for Discovery<NAME> {
    const NAME: &'static str = SERVICES[NAME].0;
}

impl<const NAME: usize> Service<http::Request<tonic::body::Body>> for Discovery<NAME> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = match Self::method(request.uri().path()) {
            Ok(method) => method,
            Err(status) => return ready(Ok(status.into_http())),
        };
        if let Some(encoding) =
            request.headers().get("grpc-encoding").filter(|it| *it != "identity")
        {
            let mut status = Status::unimplemented(format!(
                "requests compressed as {encoding:?} are not accepted, send them uncompressed"
            ));
            let identity = tonic::metadata::MetadataValue::from_static("identity");
            status.metadata_mut().insert("grpc-accept-encoding", identity);
            return ready(Ok(status.into_http()));
        }
        let peer = peer(&request);
        let limit = self.shared.limits.request_bytes;
        let requests = Streaming::new_request(RawDecoder, request.into_body(), None, Some(limit));
        let responses = stream::serve(self.shared.clone(), method, peer, requests);
        let body = GrpcBody { responses: Some(Box::pin(responses)) };
        let mut response = http::Response::new(tonic::body::Body::new(body));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
        ready(Ok(response))
    }
}

fn peer<B>(request: &http::Request<B>) -> Option<SocketAddr> {
    request.extensions().get::<TcpConnectInfo>().and_then(TcpConnectInfo::remote_addr)
}

/// Data frames as they come, then the trailers that say how the stream ended.
struct GrpcBody<S> {
    responses: Option<Pin<Box<S>>>,
}

impl<S: Stream<Item = Result<Bytes, Status>>> Body for GrpcBody<S> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(responses) = &mut self.responses else { return Poll::Ready(None) };
        let status = match std::task::ready!(responses.as_mut().poll_next(context)) {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        // The generator is done: what it holds (session, registration, lease) goes now.
        self.responses = None;
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(status),
        }))
    }
}
