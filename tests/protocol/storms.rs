//! Many at once, and those that do not keep up.

use std::time::Duration;

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::Channel;

use crate::harness::{CDS, EDS, LDS, Server, Stream, ack, cluster, delta, in_time, requests, sotw};

/// The value of a metric without labels.
async fn metric(server: &Server, name: &str) -> u64 {
    let mut socket = TcpStream::connect(server.running.monitoring).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.unwrap();
    let mut text = String::new();
    socket.read_to_string(&mut text).await.unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

async fn until(server: &Server, name: &str, wanted: impl Fn(u64) -> bool) {
    let reached = async {
        while !wanted(metric(server, name).await) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    in_time(name, reached).await;
}

#[tokio::test]
async fn the_last_wait_for_their_turn_and_those_in_sync_do_not() {
    let server = Server::with(|config| {
        config.limits.starting = 1;
        // Waiting for a turn is not waiting for the first request.
        config.limits.first_request = Duration::from_millis(500);
    })
    .await;
    let waiting = "pilothouse_waiting_streams";
    let web = cluster("web");
    let mut connected = server.delta().await;
    connected.say(delta(EDS, &[&web])).await;
    let mut last = connected.response().await;
    connected.say(ack(&last)).await;

    // Each has its turn for as long as a turn may last, because it never answers.
    let mut slow = Vec::new();
    for _ in 0..10 {
        let stream = server.sotw().await;
        stream.say(sotw(CDS, &[])).await;
        slow.push(stream);
    }
    until(&server, waiting, |waiting| waiting > 0).await;
    let mut late = server.delta().await;
    late.say(delta(CDS, &[])).await;
    // More requests while it waits are taken in.
    late.say(delta(LDS, &[])).await;

    for address in ["10.0.0.2", "10.0.0.3"] {
        server.write("web", &[address]);
        let next = connected.response().await;
        assert_ne!(next.resources[0].version, last.resources[0].version);
        connected.say(ack(&next)).await;
        last = next;
    }
    slow[0].response().await;

    slow.clear();
    let types = [late.response().await.type_url, late.response().await.type_url];
    assert_eq!(types, [CDS.type_url(), LDS.type_url()]);
    until(&server, waiting, |waiting| waiting == 0).await;
}

#[tokio::test]
async fn a_turn_is_over_when_its_stream_is_in_sync() {
    let server = Server::with(|config| config.limits.starting = 1).await;
    // One after the other, all stay.
    let mut streams = Vec::new();
    for _ in 0..5 {
        let mut stream = server.delta().await;
        stream.say(delta(CDS, &[])).await;
        let response = stream.response().await;
        stream.say(ack(&response)).await;
        streams.push(stream);
    }
    until(&server, "pilothouse_waiting_streams", |waiting| waiting == 0).await;
}

#[tokio::test]
async fn a_reader_that_has_stopped_is_disconnected() {
    let server = Server::with(|config| config.limits.send = Duration::from_millis(300)).await;
    for number in 0..20 {
        server.write(&format!("web-{number}"), &["10.0.0.1"]);
    }
    let mut good = server.delta().await;
    let web = cluster("web");
    good.say(delta(EDS, &[&web])).await;
    let first = good.response().await;
    good.say(ack(&first)).await;
    // All clusters must be there, so that their response is longer than the reader's window.
    let mut all = server.delta().await;
    all.say(delta(CDS, &[])).await;
    let mut clusters = std::collections::BTreeSet::new();
    while clusters.len() < 20 {
        let response = all.response().await;
        all.say(ack(&response)).await;
        clusters.extend(
            response.resources.into_iter().map(|one| one.name).filter(|name| name.contains("web-")),
        );
    }

    let endpoint = Channel::from_shared(format!("http://{}", server.grpc())).unwrap();
    let channel = endpoint.initial_stream_window_size(1000).connect().await.unwrap();
    let (send, asked) = requests();
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let responses = client.stream_aggregated_resources(asked).await.unwrap().into_inner();
    let mut deaf = Stream { send, responses };
    deaf.say(sotw(CDS, &[])).await;
    until(&server, "pilothouse_send_timeouts_total", |cut| cut == 1).await;
    let ended = async { while deaf.responses.message().await.is_ok_and(|one| one.is_some()) {} };
    in_time("the end of the stream", ended).await;

    // The others do not notice.
    server.write("web", &["10.0.0.9"]);
    let second = good.response().await;
    assert_ne!(second.resources[0].version, first.resources[0].version);
    assert_eq!(metric(&server, "pilothouse_send_timeouts_total").await, 1);
}
