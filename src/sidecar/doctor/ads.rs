//! ADS as the proxy itself speaks it, up to the first acknowledged CDS and LDS.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{Locality, Node};
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{DiscoveryRequest, DiscoveryResponse};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::AsciiMetadataValue;
use tonic::{Code as GrpcCode, Request, Status};
use tower::service_fn;

use super::connect::Connection;
use super::finding::{Code, Finding};
use crate::names::{DISCOVERY_METADATA, PROBE_METADATA, ResourceType, USES_METADATA};
use crate::sidecar::credentials::files::Token;
use crate::sidecar::doctor::ProbeOrigin;
use crate::sidecar::proto_value::{to_struct, to_value};

/// What the node's user agent, which syncz shows, begins with.
pub(super) const USER_AGENT: &str = "pilothouse-";

/// A response may be as large as the mesh.
const RESPONSE_BYTES: usize = 512 << 20;

/// What was served.
#[derive(Debug)]
pub(super) struct ResourceCounts {
    pub(super) clusters: usize,
    pub(super) listeners: usize,
}

/// The proxy's own node, marked as asked by us.
pub(super) fn node(of_envoy: &Value, id: &str, origin: ProbeOrigin) -> Node {
    let origin = match origin {
        ProbeOrigin::Doctor => "doctor",
        ProbeOrigin::Agent => "agent",
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let locality = &of_envoy["locality"];
    let mut metadata = of_envoy["metadata"].as_object().map(to_struct).unwrap_or_default();
    metadata.fields.insert(PROBE_METADATA.to_owned(), to_value(&Value::from(origin)));
    // The probe asks for the state of the world, in which there are no clusters on demand.
    for own in [DISCOVERY_METADATA, USES_METADATA] {
        metadata.fields.remove(own);
    }
    Node {
        id: id.to_owned(),
        cluster: text(&of_envoy["cluster"]),
        metadata: Some(metadata),
        locality: locality.is_object().then(|| Locality {
            region: text(&locality["region"]),
            zone: text(&locality["zone"]),
            sub_zone: text(&locality["sub_zone"]),
        }),
        user_agent_name: format!("{USER_AGENT}{origin}"),
        ..Node::default()
    }
}

/// Opens a stream, asks for clusters and listeners, and acknowledges both.
///
/// # Errors
/// If it is refused or ended.
pub(super) async fn probe(
    connection: &Connection,
    node: Node,
    token: Option<&Token>,
) -> Result<ResourceCounts, Status> {
    let service = service_fn(|request| {
        let mut sender = connection.sender.clone();
        async move { sender.send_request(request).await }
    });
    let client = AggregatedDiscoveryServiceClient::with_origin(service, connection.origin.clone());
    let mut client = client.max_decoding_message_size(RESPONSE_BYTES);
    let (requests, stream) = mpsc::channel(4);
    let types = [ResourceType::Cluster, ResourceType::Listener];
    for of in types {
        let request = DiscoveryRequest {
            node: Some(node.clone()),
            type_url: of.type_url().to_owned(),
            ..DiscoveryRequest::default()
        };
        send(&requests, request).await?;
    }
    let mut request = Request::new(ReceiverStream::new(stream));
    if let Some(token) = token {
        let bearer = format!("Bearer {}", token.text).parse();
        let mut bearer: AsciiMetadataValue =
            bearer.map_err(|_| Status::unauthenticated("the token has characters of no header"))?;
        bearer.set_sensitive(true);
        request.metadata_mut().insert("authorization", bearer);
    }
    let called = client.stream_aggregated_resources(request);
    let mut responses = called.await?.into_inner();
    let mut served = types.map(|_| None);
    while served.iter().any(Option::is_none) {
        let Some(response) = responses.message().await? else {
            return Err(Status::unavailable("the stream was ended without a reason"));
        };
        for (of, slot) in types.iter().zip(&mut served) {
            if of.type_url() == response.type_url {
                *slot = Some(response.resources.len());
            }
        }
        send(&requests, acknowledgement(response)).await?;
    }
    // Done talking: the server reads the ACKs, then ends the stream on its side.
    drop(requests);
    while responses.message().await?.is_some() {}
    let [clusters, listeners] = served.map(Option::unwrap_or_default);
    Ok(ResourceCounts { clusters, listeners })
}

async fn send(
    to: &mpsc::Sender<DiscoveryRequest>,
    request: DiscoveryRequest,
) -> Result<(), Status> {
    to.send(request).await.map_err(|_| Status::unavailable("the stream was ended"))
}

fn acknowledgement(response: DiscoveryResponse) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: response.type_url,
        version_info: response.version_info,
        response_nonce: response.nonce,
        ..DiscoveryRequest::default()
    }
}

/// What the end of a stream means.
pub(super) fn stream_error(address: SocketAddr, id: &str, status: &Status) -> Finding {
    let said = status.message();
    match status.code() {
        GrpcCode::InvalidArgument => Finding::new(
            Code::NodeRefused,
            format!("Pilot refuses the proxy's node {id:?}: {said}"),
            "correct the node of Envoy's bootstrap (node.id and its metadata; --service-node): a \
             sidecar is sidecar~IP~POD.NAMESPACE~DOMAIN",
        ),
        GrpcCode::ResourceExhausted => Finding::new(
            Code::LimitRefused,
            format!("Pilot refuses the stream because of a limit: {said}"),
            "raise the limit that it names at the control plane, or find who takes so much of it \
             (/debug/connections)",
        ),
        GrpcCode::Unavailable if said.contains("not ready") => not_ready(said),
        GrpcCode::Unimplemented => Finding::new(
            Code::NotAPilot,
            format!("a gRPC server listens at {address}, but it knows no ADS: it is no Pilot"),
            "correct the discovery address: Pilot serves ADS on port 15010",
        ),
        code => Finding::new(
            Code::StreamRefused,
            format!("Pilot ended the ADS stream with {code:?}: {said}"),
            "look into its log (kubectl -n istio-system logs deployment/istio-pilot)",
        ),
    }
}

/// Up, but without a first snapshot.
pub(super) fn not_ready(reason: &str) -> Finding {
    let reason = reason.trim().trim_start_matches("not ready: ");
    Finding::new(
        Code::PilotNotReady,
        format!("Pilot is up but not ready: {reason}"),
        "give it what it waits for: that is the API server, and the rights to list Services and \
         EndpointSlices (kubectl apply -k manifests), or its manifests",
    )
}
