//! gRPC below tonic's codec: which method was called, headers, trailers, early errors.
//!
//! tonic's generated services encode every response for every stream. Here a response is bytes
//! that all streams share, so the service is made by hand, and nothing stands between it and
//! hyper. Health and reflection are tonic's own.

use std::convert::Infallible;
use std::error::Error;
use std::future::{Ready, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::Stream;
use futures::future::{BoxFuture, Either};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tonic::{Code, Status};
use tower::Service as _;

use super::connection::Control;
use super::requests::Requests;
use super::stream::{self, Context as Streams, Method};
use crate::names::ResourceType;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

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
    pub(super) peer: SocketAddr,
    pub(super) control: Arc<Control>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Either<
        Ready<Result<Self::Response, Infallible>>,
        BoxFuture<'static, Result<Self::Response, Infallible>>,
    >;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        let Some(method) = method(request.uri().path()) else {
            let answer = self.others.clone().call(request.map(tonic::body::Body::new));
            let answer = async { answer.await.map(|answer| answer.map(Answer::Other)) };
            return Either::Right(Box::pin(answer));
        };
        let answer = method.and_then(|method| self.discover(method, request));
        Either::Left(ready(Ok(answer.unwrap_or_else(|status| status.into_http::<Answer>()))))
    }
}

impl Service {
    fn discover(
        &self,
        method: Method,
        request: Request<Incoming>,
    ) -> Result<Response<Answer>, Status> {
        let encoding = request.headers().get("grpc-encoding");
        if let Some(encoding) = encoding.filter(|it| *it != "identity") {
            let mut status = Status::unimplemented(format!(
                "requests compressed as {encoding:?} are not accepted, send them uncompressed"
            ));
            let identity = tonic::metadata::MetadataValue::from_static("identity");
            status.metadata_mut().insert("grpc-accept-encoding", identity);
            return Err(status);
        }
        let requests = Requests::new(request.into_body(), self.streams.request_bytes());
        let (streams, control) = (self.streams.clone(), self.control.clone());
        let responses = stream::serve(streams, method, self.peer, control, requests);
        let mut response = Response::new(Answer::Stream(Some(Box::pin(responses))));
        response.headers_mut().insert(http::header::CONTENT_TYPE, GRPC);
        Ok(response)
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

type Responses = Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>;

/// A response's body.
pub(super) enum Answer {
    /// Data frames as they come, then the trailers that say how the stream ended.
    Stream(Option<Responses>),
    Other(tonic::body::Body),
}

impl Default for Answer {
    /// Of an error, which is said in the headers.
    fn default() -> Self {
        Self::Stream(None)
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let responses = match &mut *self {
            Self::Stream(Some(responses)) => responses,
            Self::Stream(None) => return Poll::Ready(None),
            Self::Other(body) => {
                return Pin::new(body).poll_frame(context).map_err(Into::into);
            }
        };
        let status = match std::task::ready!(responses.as_mut().poll_next(context)) {
            Some(Ok(bytes)) => return Poll::Ready(Some(Ok(Frame::data(bytes)))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        // The generator is done: what it holds (session, registration, lease) goes now.
        *self = Self::Stream(None);
        let mut trailers = HeaderMap::new();
        let written = status.add_header(&mut trailers);
        Poll::Ready(Some(written.map(|()| Frame::trailers(trailers)).map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Stream(responses) => responses.is_none(),
            Self::Other(body) => body.is_end_stream(),
        }
    }
}
