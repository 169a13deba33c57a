//! Limits: each is answered with the fitting status and a message that says it, and touches nobody
//! else.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use tonic::Code;

use crate::harness::{CDS, EDS, LDS, PATIENCE, Server, ack, cluster, delta, sotw};

#[tokio::test]
async fn request_size() {
    let server = Server::with(|config| config.limits.request_bytes = 10_000).await;
    let mut stream = server.sotw().await;
    let long = "x".repeat(20_000);
    stream.say(sotw(EDS, &[&long])).await;
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::OutOfRange, "{message}");
    assert!(message.contains("10000") && message.contains("--max-request-bytes"), "{message}");
}

#[tokio::test]
async fn names_of_one_type() {
    let server = Server::with(|config| config.limits.session.names = 3).await;
    let mut stream = server.sotw().await;
    stream.say(sotw(EDS, &["a", "b", "c", "d"])).await;
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("limit is 3") && message.contains("--max-names"), "{message}");

    // Bit by bit as well.
    let mut stream = server.delta().await;
    for name in ["a", "b", "c", "d"] {
        stream.say(delta(EDS, &[name])).await;
    }
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("--max-names"), "{message}");
}

#[tokio::test]
async fn types_on_one_stream() {
    let server = Server::with(|config| config.limits.session.types = 5).await;
    let mut stream = server.sotw().await;
    for number in 0..2 {
        let type_url = format!("type.googleapis.com/none.such.v{number}");
        stream.say(DiscoveryRequest { type_url, ..sotw(CDS, &[]) }).await;
    }
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("more than 5") && message.contains("--max-types"), "{message}");
}

#[tokio::test]
async fn streams_of_one_address() {
    let server = Server::with(|config| config.limits.streams_per_peer = 2).await;
    let mut streams = Vec::new();
    for _ in 0..2 {
        let mut stream = server.delta().await;
        stream.say(delta(CDS, &[])).await;
        stream.response().await;
        streams.push(stream);
    }
    let mut third = server.delta().await;
    let (code, message) = third.refusal().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("127.0.0.1 has 2 streams open"), "{message}");
    assert!(message.contains("--max-streams-per-peer"), "{message}");

    // One that ends makes room.
    streams.pop();
    let begun = Instant::now();
    loop {
        let mut stream = server.delta().await;
        stream.say(delta(CDS, &[])).await;
        match stream.next().await {
            Ok(Some(_)) => break,
            other => assert!(begun.elapsed() < PATIENCE, "{other:?}"),
        }
    }
}

#[tokio::test]
async fn requests_per_second() {
    let server = Server::with(|config| config.limits.requests_per_second = 2).await;
    let mut stream = server.delta().await;
    // Ten seconds' worth may come at once.
    for _ in 0..60 {
        stream.say(delta(LDS, &[])).await;
    }
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::ResourceExhausted);
    assert!(message.contains("more than 2 requests a second"), "{message}");
    assert!(message.contains("--max-requests-per-second"), "{message}");
}

#[tokio::test]
async fn the_first_request_has_a_deadline() {
    let wait = Duration::from_millis(200);
    let server = Server::with(|config| config.limits.first_request = wait).await;
    let mut stream = server.delta().await;
    let (code, message) = stream.refusal().await;
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(message.contains("0.2 s") && message.contains("--first-request-timeout"), "{message}");
}

#[tokio::test]
async fn an_ack_that_does_not_come_holds_newer_content_for_the_ack_timeout_only() {
    let server = Server::with(|config| config.limits.ack = Duration::from_millis(200)).await;
    let mut stream = server.delta().await;
    let web = cluster("web");
    stream.say(delta(EDS, &[&web])).await;
    let first = stream.response().await;
    server.write("web", &["10.0.0.9"]);
    let second = stream.response().await;
    assert_eq!(second.resources[0].name, web);
    assert_ne!(second.resources[0].version, first.resources[0].version);
}

#[tokio::test]
async fn nothing_of_a_bad_client_reaches_another() {
    let server = Server::with(|config| {
        config.limits.requests_per_second = 2;
        config.limits.session.names = 3;
    })
    .await;
    let web = cluster("web");
    let mut good = server.delta().await;
    good.say(delta(EDS, &[&web])).await;
    let first = good.response().await;
    good.say(ack(&first)).await;

    let mut greedy = server.sotw().await;
    greedy.say(sotw(EDS, &["a", "b", "c", "d"])).await;
    greedy.refusal().await;
    let mut noisy = server.delta().await;
    for number in 0..60 {
        let type_url = format!("type.googleapis.com/none.such.v{}", number % 3);
        noisy.say(DeltaDiscoveryRequest { type_url, ..delta(EDS, &[&web]) }).await;
    }
    noisy.refusal().await;
    // Asks for everything and never reads.
    let deaf = server.sotw().await;
    deaf.say(sotw(CDS, &[])).await;

    server.write("web", &["10.0.0.2"]);
    let second = good.response().await;
    assert_eq!(second.resources[0].name, web);
    assert_ne!(second.resources[0].version, first.resources[0].version);
}
