//! A part of the program that fails, as seen from outside. A listening socket that is shut down by
//! somebody else is a fault that needs no help of the program's.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tonic::transport::Channel;

use crate::harness::{Place, Running};
use pilothouse_testkit::{free_port, get, listener, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_fails_ends_the_program_drained_with_the_reason() {
    let place = Place::new();
    let (log, file) = place.file("log");
    let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let more = ["--http-addr", &http.to_string(), "--shutdown-timeout", "1m"];
    let mut serve = Running::start(place.serve(&more).stderr(file));
    place.is_ready().await;

    let channel = Channel::from_shared(format!("http://{}", place.grpc)).unwrap();
    let mut client = AggregatedDiscoveryServiceClient::new(channel.connect().await.unwrap());
    let request = DiscoveryRequest {
        node: Some(Node { id: "proxy".to_owned(), ..Default::default() }),
        type_url: "type.googleapis.com/envoy.config.cluster.v3.Cluster".to_owned(),
        ..Default::default()
    };
    let requests =
        futures::StreamExt::chain(tokio_stream::iter([request]), futures::stream::pending());
    let mut stream = client.stream_aggregated_resources(requests).await.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    // A request that is not whole yet: the debug pages wait for it, and the drain with them.
    let mut half = TcpStream::connect(http).unwrap();
    half.write_all(b"GET /debug/syncz HTTP/1.1\r\nhost: 127.0.0.1\r\n").unwrap();
    until("the half request to be there", async || {
        let open = place.metric("pilothouse_connections{door=\"debug\"}").await;
        if open == 1.0 { Ok(()) } else { Err(open.to_string()) }
    })
    .await;

    listener::lose(serve.id(), place.grpc);
    let reason = "the part \"gRPC listener\" ended although nobody had asked it to";
    for page in ["live", "ready"] {
        let url = format!("http://{}/{page}", place.monitoring);
        until(&format!("/{page} to fail with the reason"), async || match get(&url).await? {
            (503, body) if body.contains(reason) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
    // The proxy is told to go elsewhere rather than cut off.
    let told = stream.message().await.expect_err("an end with a status");
    assert_eq!(told.code(), tonic::Code::Unavailable, "{told:?}");
    assert!(told.message().contains("shutting down"), "{told:?}");
    drop(half);
    assert_eq!(serve.end().await.code(), Some(1));
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("the listening socket is lost"), "{said}");
    assert!(said.contains(&format!("ended because {reason}")), "{said}");
    assert!(!said.contains("dropped"), "it was drained within its time: {said}");
}

#[tokio::test]
async fn each_door_that_is_lost_ends_the_program() {
    for door in ["debug", "monitoring"] {
        let place = Place::new();
        let (log, file) = place.file("log");
        let http = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let mut serve =
            Running::start(place.serve(&["--http-addr", &http.to_string()]).stderr(file));
        place.is_ready().await;
        listener::lose(serve.id(), if door == "debug" { http } else { place.monitoring });
        assert_eq!(serve.end().await.code(), Some(1));
        let said = std::fs::read_to_string(log).unwrap();
        let reason = format!("ended because the part \"{door} listener\" ended");
        assert!(said.contains(&reason), "{said}");
    }
}

#[tokio::test]
async fn an_agent_whose_part_fails_ends_envoy_too() {
    let place = Place::new();
    let (log, file) = place.file("log");
    // Says that it was asked to end, and does.
    let script = "trap 'echo asked to end >&2; exit 0' TERM\nwhile :; do sleep 0.1; done";
    let command = &mut place.agent(script, &["--termination-drain-duration=100ms"]);
    let mut agent = Running::start(command.stderr(file));
    place.agent_answers().await;
    listener::lose(agent.id(), place.monitoring);
    assert_eq!(agent.end().await.code(), Some(1));
    let said = std::fs::read_to_string(log).unwrap();
    assert!(said.contains("the part \"status listener\" ended"), "{said}");
    assert!(said.contains("asked to end"), "Envoy was ended: {said}");
}
