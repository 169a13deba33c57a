//! gRPC below tonic's codec: which method was called, headers, trailers, early errors.
//!
//! tonic's generated services encode every response for every stream. Here a response is bytes
//! that all streams share, so the service is made by hand, and nothing stands between it and
//! HTTP/2. Health and reflection are tonic's own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use pin_project_lite::pin_project;
use tonic::{Code, Status};

use super::call;
use super::exchange::{Exchange, GRPC, Part};
use super::requests::requests;
use super::status;
use super::stream::{self, Context as Streams, Method, Peer};
use crate::names::ResourceType;
use crate::snapshot::encode::Piece;

/// The aggregated service's name, which health checks may ask for.
pub(super) const AGGREGATED: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// Names of the discovery services, what their methods end in, and what they serve.
const SERVICES: [(&str, &str, Option<ResourceType>); 5] = [
    (AGGREGATED, "AggregatedResources", None),
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

/// Everything that one connection may call.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) streams: Arc<Streams>,
    /// Health and reflection, and the answer to what does not exist.
    pub(super) others: tonic::service::Routes,
    pub(super) peer: Peer,
}

impl Service {
    /// What becomes of a request on this stream of the connection.
    pub(super) fn call(&self, stream: u32, request: Request<()>) -> Exchange {
        let timeout = match call::check(&request) {
            Ok(timeout) => timeout,
            Err(unfit) => return Exchange::unfit(stream, unfit, request.method()),
        };
        let mut exchange = match method(request.uri().path()) {
            None => Exchange::other(stream, request, self.others.clone()),
            Some(Ok(method)) => self.discover(stream, method, request.headers()),
            Some(Err(status)) => Exchange::refused(stream, StatusCode::OK, &status),
        };
        if let Some(timeout) = timeout {
            exchange.ends_after(timeout);
        }
        exchange
    }

    fn discover(&self, stream: u32, method: Method, headers: &HeaderMap) -> Exchange {
        let encoding = headers.get("grpc-encoding");
        if let Some(encoding) = encoding.filter(|it| *it != "identity") {
            let mut status = Status::unimplemented(format!(
                "requests compressed as {encoding:?} are not accepted, send them uncompressed"
            ));
            let identity = tonic::metadata::MetadataValue::from_static("identity");
            status.metadata_mut().insert("grpc-accept-encoding", identity);
            return Exchange::refused(stream, StatusCode::OK, &status);
        }
        let (feed, requests) = requests(self.streams.request_bytes());
        let responses = stream::serve(self.streams.clone(), method, self.peer.clone(), requests);
        let answer = Answer { greeted: false, responses };
        Exchange::discovery(stream, feed, Box::pin(answer))
    }
}

/// What a path calls: nothing of ours, or a method, or one that we do not have.
fn method(path: &str) -> Option<Result<Method, Status>> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    let (_, noun, only) = *SERVICES.iter().find(|(own, ..)| *own == service)?;
    Some(match name.strip_suffix(noun) {
        Some("Stream") => Ok(Method { delta: false, only }),
        Some("Delta") => Ok(Method { delta: true, only }),
        Some("Fetch") => Err(Status::unimplemented(format!(
            "unary {name} is not served: open Stream{noun} or Delta{noun} instead"
        ))),
        _ => Err(Status::unimplemented(format!("there is no method {path}"))),
    })
}

pin_project! {
    /// What a stream says, in gRPC's order: headers at once, then messages as they come, then the
    /// trailers that say how it ended.
    struct Answer<S> {
        greeted: bool,
        #[pin]
        responses: S,
    }
}

impl<S: Stream<Item = Result<Piece, Status>>> Stream for Answer<S> {
    type Item = Part;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Part>> {
        let this = self.project();
        if !std::mem::replace(this.greeted, true) {
            let (mut parts, ()) = Response::new(()).into_parts();
            parts.headers.insert(CONTENT_TYPE, GRPC);
            return Poll::Ready(Some(Part::Head(Box::new(parts), false)));
        }
        let status = match ready!(this.responses.poll_next(context)) {
            Some(Ok(piece)) => return Poll::Ready(Some(Part::Data(piece))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        let mut trailers = HeaderMap::new();
        status::put(&status, &mut trailers);
        Poll::Ready(Some(Part::Trailers(trailers)))
    }
}
