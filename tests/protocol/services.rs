//! Every service and method on the port.

use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use envoy_types::pb::envoy::service::listener::v3::listener_discovery_service_client::ListenerDiscoveryServiceClient;
use envoy_types::pb::envoy::service::route::v3::route_discovery_service_client::RouteDiscoveryServiceClient;
use pilothouse::names::ResourceType;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;
use tonic_reflection::pb::v1::{ServerReflectionRequest, ServerReflectionResponse};

use crate::harness::{
    CDS, EDS, LDS, RDS, Server, Stream, ack, cluster, delta, in_time, node, requests, sotw,
};

#[tokio::test]
async fn aggregated_streams_serve_every_type_and_follow_changes() {
    let server = Server::start().await;
    let web = cluster("web");

    let mut stream = server.sotw().await;
    for (of, names) in [(CDS, &[][..]), (EDS, &[&*web][..]), (LDS, &[]), (RDS, &["http"])] {
        stream.say(sotw(of, names)).await;
        let response = stream.response().await;
        assert_eq!(response.type_url, of.type_url());
        assert!(!response.resources.is_empty(), "{of:?}");
        assert!(!response.version_info.is_empty() && !response.nonce.is_empty());
    }

    let mut stream = server.delta().await;
    stream.say(delta(EDS, &[&web, "none.such"])).await;
    let first = stream.response().await;
    assert_eq!(first.resources[0].name, web);
    assert_eq!(first.removed_resources, ["none.such"]);
    stream.say(ack(&first)).await;
    server.write("web", &["10.0.0.1", "10.0.0.2"]);
    let second = stream.response().await;
    assert_eq!(second.resources[0].name, web);
    assert_ne!(second.resources[0].version, first.resources[0].version);
}

#[tokio::test]
async fn rule_15_the_node_may_come_on_the_first_message_only() {
    let server = Server::start().await;
    let mut stream = server.sotw().await;
    stream.say(sotw(CDS, &[])).await;
    stream.response().await;
    stream.say(DiscoveryRequest { node: None, ..sotw(LDS, &[]) }).await;
    assert_eq!(stream.response().await.type_url, LDS.type_url());

    let mut stream = server.sotw().await;
    stream.say(DiscoveryRequest { node: None, ..sotw(CDS, &[]) }).await;
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("missing node information"), "{message}");
}

#[tokio::test]
async fn rule_16_an_aggregated_request_needs_a_type() {
    let server = Server::start().await;
    let mut stream = server.sotw().await;
    stream.say(DiscoveryRequest { type_url: String::new(), ..sotw(CDS, &[]) }).await;
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("type_url is empty"), "{message}");

    let mut stream = server.delta().await;
    let secret = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    stream
        .say(DeltaDiscoveryRequest { type_url: secret.to_owned(), ..delta(CDS, &["certificate"]) })
        .await;
    let response = stream.response().await;
    assert_eq!((response.type_url.as_str(), response.removed_resources.len()), (secret, 1));
    stream.say(delta(CDS, &[])).await;
    assert_eq!(stream.response().await.type_url, CDS.type_url(), "others are served all the same");
}

#[tokio::test]
async fn rule_23_the_control_plane_is_named() {
    let server = Server::start().await;
    let mut stream = server.delta().await;
    stream.say(delta(CDS, &[])).await;
    let identifier = stream.response().await.control_plane.unwrap().identifier;
    assert!(identifier.contains(env!("CARGO_PKG_VERSION")), "{identifier}");
}

/// One single-type service: its stream, its delta stream, its Fetch.
macro_rules! single_service {
    ($test:ident, $client:ident, $of:expr, $names:expr, $stream:ident, $delta:ident, $fetch:ident) => {
        #[tokio::test]
        async fn $test() {
            let server = Server::start().await;
            server.ready().await;
            let mut client = $client::new(server.channel().await);
            let names: Vec<String> = $names;
            let names: Vec<&str> = names.iter().map(String::as_str).collect();

            // An empty type is the service's own.
            for type_url in ["", $of.type_url()] {
                let (send, requests) = requests();
                let responses = client.$stream(requests).await.unwrap().into_inner();
                let mut stream = Stream { send, responses };
                let type_url = type_url.to_owned();
                stream.say(DiscoveryRequest { type_url, ..sotw($of, &names) }).await;
                has_own(&stream.response().await, $of);

                let (send, requests) = crate::harness::requests();
                let responses = client.$delta(requests).await.unwrap().into_inner();
                let mut stream = Stream { send, responses };
                stream.say(delta($of, &names)).await;
                has_own_delta(&stream.response().await, $of);
            }

            // Any other type is a mistake, on the first request and on a later one.
            let other = ResourceType::IN_ORDER[($of.index() + 1) % ResourceType::COUNT];
            let (send, requests) = requests();
            let responses = client.$stream(requests).await.unwrap().into_inner();
            let mut stream = Stream { send, responses };
            stream.say(sotw($of, &names)).await;
            stream.response().await;
            stream.say(sotw(other, &[])).await;
            let (code, message) = stream.refusal().await;
            assert_eq!(code, Code::InvalidArgument);
            assert!(message.contains(other.type_url()), "{message}");
            assert!(message.contains($of.type_url()), "{message}");

            let fetched = client.$fetch(sotw($of, &names)).await;
            let status = fetched.map(drop).unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented);
            assert!(status.message().contains("is not served: open Stream"), "{status}");
        }
    };
}

fn has_own(response: &DiscoveryResponse, of: ResourceType) {
    assert_eq!(response.type_url, of.type_url());
    assert!(!response.resources.is_empty());
}

fn has_own_delta(response: &DeltaDiscoveryResponse, of: ResourceType) {
    assert_eq!(response.type_url, of.type_url());
    assert!(!response.resources.is_empty());
}

single_service!(
    rule_16_cluster_service,
    ClusterDiscoveryServiceClient,
    CDS,
    vec![],
    stream_clusters,
    delta_clusters,
    fetch_clusters
);
single_service!(
    rule_16_endpoint_service,
    EndpointDiscoveryServiceClient,
    EDS,
    vec![cluster("web")],
    stream_endpoints,
    delta_endpoints,
    fetch_endpoints
);
single_service!(
    rule_16_listener_service,
    ListenerDiscoveryServiceClient,
    LDS,
    vec![],
    stream_listeners,
    delta_listeners,
    fetch_listeners
);
single_service!(
    rule_16_route_service,
    RouteDiscoveryServiceClient,
    RDS,
    vec!["http".to_owned()],
    stream_routes,
    delta_routes,
    fetch_routes
);

#[tokio::test]
async fn health_says_serving_once_everything_is_listed() {
    let server = Server::start().await;
    server.ready().await;
    let mut health = HealthClient::new(server.channel().await);
    for service in ["", "envoy.service.discovery.v3.AggregatedDiscoveryService"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        let response = health.check(request).await.unwrap().into_inner();
        assert_eq!(response.status(), ServingStatus::Serving, "{service:?}");
    }
    let request = HealthCheckRequest { service: "none.such".to_owned() };
    assert_eq!(health.check(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn reflection_describes_what_is_served() {
    let server = Server::start().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let (send, requests) = requests();
    let responses = client.server_reflection_info(requests).await.unwrap().into_inner();
    let mut stream: Stream<ServerReflectionRequest, ServerReflectionResponse> =
        Stream { send, responses };
    let ask =
        |message| ServerReflectionRequest { host: String::new(), message_request: Some(message) };
    stream.say(ask(MessageRequest::ListServices(String::new()))).await;
    let Some(MessageResponse::ListServicesResponse(list)) =
        stream.response().await.message_response
    else {
        panic!("a list of services")
    };
    let names: Vec<String> = list.service.into_iter().map(|one| one.name).collect();
    for service in [
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "envoy.service.cluster.v3.ClusterDiscoveryService",
        "envoy.service.endpoint.v3.EndpointDiscoveryService",
        "envoy.service.listener.v3.ListenerDiscoveryService",
        "envoy.service.route.v3.RouteDiscoveryService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|name| name == service), "{service} in {names:?}");
    }
    // What grpcurl asks for to encode a request and to show a cluster.
    for symbol in [
        "envoy.service.discovery.v3.AggregatedDiscoveryService",
        "envoy.service.discovery.v3.DiscoveryRequest",
        "envoy.config.cluster.v3.Cluster",
    ] {
        stream.say(ask(MessageRequest::FileContainingSymbol(symbol.to_owned()))).await;
        let response = stream.response().await.message_response;
        assert!(
            matches!(response, Some(MessageResponse::FileDescriptorResponse(_))),
            "{symbol}: {response:?}"
        );
    }
}

#[tokio::test]
async fn at_shutdown_streams_are_told_and_end() {
    let server = Server::start().await;
    let mut idle = server.delta().await;
    let mut busy = server.sotw().await;
    busy.say(sotw(CDS, &[])).await;
    busy.response().await;
    let shutdown = tokio::spawn(server.running.shutdown());
    for end in [idle.refusal().await, busy.refusal().await] {
        assert_eq!(end.0, Code::Unavailable);
        assert!(end.1.contains("shutting down"), "{}", end.1);
    }
    drop((idle, busy));
    in_time("the shutdown", shutdown).await.unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_is_no_trouble() {
    let server = Server::start().await;
    let mut stream = server.delta().await;
    stream.say(DeltaDiscoveryRequest { node: Some(node("test")), ..delta(CDS, &[]) }).await;
    stream.response().await;
    drop(stream.send);
    let end = in_time("the end", stream.responses.message()).await;
    assert!(matches!(end, Ok(None)), "{end:?}");
}
