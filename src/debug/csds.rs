//! CSDS (`envoy.service.status.v3.ClientStatusDiscoveryService`) by gRPC on the debug port, with health and
//! reflection: who has what, for tools that know Envoy's API rather than Istio's.
//!
//! On this port alone, under the same guards as the pages, since it shows all configuration. An answer is
//! one message, so it is bounded, and so is the number of calls that hold one: a call ends when its reader
//! has read it, or with its connection.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::Response;
use bytes::Bytes;
use envoy_types::pb::envoy::service::status::v3::client_status_discovery_service_server::{
    ClientStatusDiscoveryService, ClientStatusDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse};
use futures::Stream;
use http_body::Frame;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::Status;

use super::client_status::{self, Budget, Detail, TooLarge};
use super::node_matcher;
use super::response_writer::HandlerPool;
use super::{DebugError, DebugState};
use crate::descriptors;

const SERVICE: &str = "envoy.service.status.v3.ClientStatusDiscoveryService";
const HEALTH: &str = "grpc.health.v1.Health";
const REFLECTION: &str = "grpc.reflection.v1.ServerReflection";
const REFLECTION_ALPHA: &str = "grpc.reflection.v1alpha.ServerReflection";

/// Calls of CSDS at the same time.
const MAX_CALLS: usize = 4;
/// Bytes of a request.
const MAX_REQUEST: usize = 64 << 10;
/// Bytes of an answer that HTTP/2 is given at a time.
const PIECE_BYTES: usize = 64 << 10;

/// The gRPC services of the debug port.
///
/// # Errors
/// The descriptors for reflection do not decode.
pub(super) fn router(pool: HandlerPool) -> Result<Router, tonic_reflection::server::Error> {
    let describe = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(descriptors::encoded())
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .with_service_name(SERVICE)
            .with_service_name(HEALTH)
            .with_service_name(REFLECTION)
    };
    // Serving for as long as the port is there: whether proxies are served says the other port.
    let (_, health) = tonic_health::server::health_reporter();
    let csds = ClientStatusDiscoveryServiceServer::new(Csds { pool })
        .max_decoding_message_size(MAX_REQUEST);
    let calls = Arc::new(Semaphore::new(MAX_CALLS));
    let path = |service: &str| format!("/{service}/{{method}}");
    let csds = Router::new()
        .route_service(&path(SERVICE), csds)
        .layer(middleware::from_fn_with_state(calls, few_at_once));
    let v1 = describe().build_v1()?.max_decoding_message_size(MAX_REQUEST);
    let v1alpha = describe().build_v1alpha()?.max_decoding_message_size(MAX_REQUEST);
    Ok(csds
        .route_service(&path(HEALTH), health.max_decoding_message_size(MAX_REQUEST))
        .route_service(&path(REFLECTION), v1)
        .route_service(&path(REFLECTION_ALPHA), v1alpha))
}

#[derive(Debug)]
struct Csds {
    pool: HandlerPool,
}

impl Csds {
    async fn answer(&self, request: ClientStatusRequest) -> Result<ClientStatusResponse, Status> {
        let matchers = &request.node_matchers;
        node_matcher::check(matchers)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let made = self.pool.compute(move |state| client_configs(state, &request)).await;
        match made {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(error)) => Err(Status::resource_exhausted(format!(
                "{error}: name fewer proxies by node_matchers, or set exclude_resource_contents"
            ))),
            Err(problem @ DebugError::Busy) => Err(Status::resource_exhausted(problem.to_string())),
            Err(problem) => Err(Status::internal(problem.to_string())),
        }
    }
}

/// Of the proxies that match, by node id; of several streams of a proxy there are several.
fn client_configs(
    state: &DebugState,
    request: &ClientStatusRequest,
) -> Result<ClientStatusResponse, TooLarge> {
    let detail = match request.exclude_resource_contents {
        true => Detail::Names,
        false => Detail::Contents,
    };
    let mut budget = Budget::default();
    let mut config = Vec::new();
    for stream in state.proxies.all() {
        let status = stream.status();
        let Some(identity) = status.identity.as_ref().filter(|identity| !identity.probe) else {
            continue;
        };
        let node = client_status::node(identity, &identity.node_id);
        if node_matcher::matches(&request.node_matchers, &node) {
            config.push(client_status::client_config(node, &status, detail, &mut budget)?);
        }
    }
    let id = |node: &Option<envoy_types::pb::envoy::config::core::v3::Node>| {
        node.as_ref().map(|node| node.id.clone())
    };
    config.sort_by_cached_key(|one| id(&one.node));
    Ok(ClientStatusResponse { config })
}

type Responses = Pin<Box<dyn Stream<Item = Result<ClientStatusResponse, Status>> + Send>>;

#[tonic::async_trait]
impl ClientStatusDiscoveryService for Csds {
    type StreamClientStatusStream = Responses;

    /// One answer to each request, as Envoy's own CSDS gives it.
    async fn stream_client_status(
        &self,
        request: tonic::Request<tonic::Streaming<ClientStatusRequest>>,
    ) -> Result<tonic::Response<Responses>, Status> {
        let own = Self { pool: self.pool.clone() };
        let mut requests = request.into_inner();
        let responses = async_stream::try_stream! {
            while let Some(request) = requests.message().await? {
                yield own.answer(request).await?;
            }
        };
        Ok(tonic::Response::new(Box::pin(responses)))
    }

    async fn fetch_client_status(
        &self,
        request: tonic::Request<ClientStatusRequest>,
    ) -> Result<tonic::Response<ClientStatusResponse>, Status> {
        self.answer(request.into_inner()).await.map(tonic::Response::new)
    }
}

/// Refuses a call while there are many, and counts it until its reader has it.
async fn few_at_once(
    State(calls): State<Arc<Semaphore>>,
    request: Request,
    next: Next,
) -> Response {
    let Ok(call) = calls.try_acquire_owned() else {
        let refused = Status::resource_exhausted(format!(
            "{MAX_CALLS} calls are being answered, try again later"
        ));
        return refused.into_http();
    };
    let pieces = |body| Body::new(CountedBody { body, rest: Bytes::new(), _call: call });
    next.run(request).await.map(pieces)
}

/// A body that goes piece by piece, so that it is not with HTTP/2 long before it is read.
struct CountedBody {
    body: Body,
    rest: Bytes,
    _call: OwnedSemaphorePermit,
}

impl HttpBody for CountedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = &mut *self;
        if this.rest.is_empty() {
            match ready!(Pin::new(&mut this.body).poll_frame(context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                other => return Poll::Ready(other),
            }
        }
        let piece = this.rest.split_to(this.rest.len().min(PIECE_BYTES));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    /// A call that fails has no body, and its status stands in the head.
    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}
