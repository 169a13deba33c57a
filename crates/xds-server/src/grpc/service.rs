//! Routes a call to its method, and frames its response as gRPC: headers, messages, trailers.
//!
//! tonic's generated services encode every response for every stream. Here a response is bytes that all
//! streams share, so the service is written by hand and hands its frames to HTTP/2 directly. Health and
//! reflection are tonic's own.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Request, Response, StatusCode};
use pilothouse_xds::{FramePiece, ServedType, TypeIndex};
use pin_project_lite::pin_project;
use tonic::{Code, Status};

use crate::grpc::call;
use crate::grpc::messages::grpc_messages;
use crate::grpc::status;
use crate::http::http_stream::{GRPC_CONTENT_TYPE, HttpStream, ResponsePart};
use crate::mesh::Mesh;
use crate::peer::BearerToken;
use crate::stream::{Method, Peer, ResponseStream, StreamContext};

/// The aggregated service's name, which health checks may ask for.
pub(crate) const AGGREGATED: &str = "envoy.service.discovery.v3.AggregatedDiscoveryService";

/// The names of all services of the port, health and reflection included.
pub(crate) fn service_names(types: &[ServedType]) -> impl Iterator<Item = &'static str> {
    let single = types.iter().filter_map(|served| served.service.map(|own| own.name));
    let others = ["grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"];
    [AGGREGATED].into_iter().chain(single).chain(others)
}

/// The services, as one connection calls them.
#[derive(Debug)]
pub(crate) struct AdsService<M: Mesh> {
    pub(crate) context: Arc<StreamContext<M>>,
    /// Health and reflection, and the error for services that do not exist.
    pub(crate) other_services: tonic::service::Routes,
    pub(crate) peer: Peer,
    /// Why every call fails: the peer speaks HTTP/2 without TLS where TLS is wanted.
    pub(crate) refusal: Option<String>,
}

impl<M: Mesh> AdsService<M> {
    /// Starts the call that came on this HTTP/2 stream.
    pub(crate) fn start_call(&self, stream: u32, request: Request<()>) -> HttpStream {
        if let Some(refusal) = &self.refusal {
            // In an answer, since a GOAWAY would only make gRPC's C-core connect again and say nothing.
            self.peer.handle.drain();
            let status = Status::unavailable(refusal);
            return HttpStream::failed_call(stream, StatusCode::OK, &status);
        }
        let timeout = match call::check_call(&request) {
            Ok(timeout) => timeout,
            Err(error) => {
                let ports = M::TEXTS.other_ports;
                return HttpStream::invalid_call(stream, error, request.method(), ports);
            }
        };
        let mut http_stream = match method(request.uri().path(), self.context.types()) {
            None => HttpStream::forwarded(stream, request, self.other_services.clone()),
            Some(Ok(method)) => self.start_discovery(stream, method, request.headers()),
            Some(Err(status)) => HttpStream::failed_call(stream, StatusCode::OK, &status),
        };
        if let Some(timeout) = timeout {
            http_stream.set_deadline(timeout);
        }
        http_stream
    }

    fn start_discovery(&self, stream: u32, method: Method, headers: &HeaderMap) -> HttpStream {
        let encoding = headers.get("grpc-encoding");
        if let Some(encoding) = encoding.filter(|it| *it != "identity") {
            let mut status = Status::unimplemented(format!(
                "requests compressed as {encoding:?} are not accepted, send them uncompressed"
            ));
            let identity = tonic::metadata::MetadataValue::from_static("identity");
            status.metadata_mut().insert("grpc-accept-encoding", identity);
            return HttpStream::failed_call(stream, StatusCode::OK, &status);
        }
        let (feed, requests) = grpc_messages(self.context.request_bytes(), M::TEXTS.request_bytes);
        let bearer = match BearerToken::of(headers, self.peer.encrypted) {
            Ok(bearer) => bearer,
            Err(refusal) => {
                return HttpStream::failed_call(stream, StatusCode::OK, &refusal.into());
            }
        };
        let context = self.context.clone();
        let responses = ResponseStream::new(context, method, self.peer.clone(), bearer, requests);
        let response = GrpcResponse { head_sent: false, responses };
        HttpStream::discovery(stream, feed, Box::pin(response))
    }
}

/// The method of a path: `None` for services that are not discovery, an error for methods that a
/// discovery service does not have.
fn method(path: &str, types: &[ServedType]) -> Option<Result<Method, Status>> {
    let (service, name) = path.strip_prefix('/')?.split_once('/')?;
    let (noun, only) = if service == AGGREGATED {
        ("AggregatedResources", None)
    } else {
        let single = |(at, served): (usize, &ServedType)| {
            let own = served.service.filter(|own| own.name == service)?;
            Some((own.noun, Some(TypeIndex(at))))
        };
        types.iter().enumerate().find_map(single)?
    };
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
    /// A gRPC response: headers at once, then messages as they come, then the trailers with the status.
    struct GrpcResponse<S> {
        head_sent: bool,
        #[pin]
        responses: S,
    }
}

impl<S: Stream<Item = Result<FramePiece, Status>>> Stream for GrpcResponse<S> {
    type Item = ResponsePart;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<ResponsePart>> {
        let this = self.project();
        if !std::mem::replace(this.head_sent, true) {
            let (mut parts, ()) = Response::new(()).into_parts();
            parts.headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
            return Poll::Ready(Some(ResponsePart::Head(Box::new(parts), false)));
        }
        let status = match ready!(this.responses.poll_next(context)) {
            Some(Ok(piece)) => return Poll::Ready(Some(ResponsePart::Data(piece))),
            Some(Err(status)) => status,
            None => Status::new(Code::Ok, ""),
        };
        let mut trailers = HeaderMap::new();
        status::insert_status(&status, &mut trailers);
        Poll::Ready(Some(ResponsePart::Trailers(trailers)))
    }
}
