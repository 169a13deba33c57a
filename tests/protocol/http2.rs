//! HTTP/2 on the wire, with a client that can be asked for what gRPC's own never do: windows of a
//! few bytes, streams that are dropped as soon as they are opened, pings without end. (Rules one
//! by one are in `crates/http2/src/connection/tests/`.)

use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::cluster::v3::cluster_discovery_service_client::ClusterDiscoveryServiceClient;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use envoy_types::pb::envoy::service::endpoint::v3::endpoint_discovery_service_client::EndpointDiscoveryServiceClient;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::Request;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{
    CDS, DELTA, EDS, Server, Stream, ack, cluster, delta, in_time, message, requests, sotw,
};

/// A connection, and the task that works on it.
pub(crate) async fn connect(
    socket: TcpStream,
    builder: &h2::client::Builder,
) -> (SendRequest<Bytes>, JoinHandle<Result<(), h2::Error>>) {
    let (client, connection) = builder.handshake(socket).await.unwrap();
    let task = tokio::spawn(connection);
    (client.ready().await.unwrap(), task)
}

pub(crate) fn post(server: &Server) -> Request<()> {
    Request::post(format!("http://{}{DELTA}", server.grpc()))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap()
}

pub(crate) async fn socket(server: &Server) -> TcpStream {
    TcpStream::connect(server.grpc()).await.unwrap()
}

/// The first message of a response, the only one that has been sent; the sizes of its DATA frames go
/// to `check`.
pub(crate) async fn response(
    body: &mut RecvStream,
    mut check: impl FnMut(usize),
) -> DeltaDiscoveryResponse {
    let (mut bytes, mut whole) = (Vec::new(), usize::MAX);
    while bytes.len() < whole {
        let piece = in_time("data", body.data()).await.unwrap().unwrap();
        check(piece.len());
        body.flow_control().release_capacity(piece.len()).unwrap();
        bytes.extend_from_slice(&piece);
        if let Some([_, len @ ..]) = bytes.first_chunk::<5>() {
            whole = 5 + u32::from_be_bytes(*len) as usize;
        }
    }
    assert_eq!(bytes.len(), whole);
    DeltaDiscoveryResponse::decode(&bytes[5..]).unwrap()
}

/// The end comes too, and is gRPC's.
async fn ends_well(body: &mut RecvStream) {
    let trailers = in_time("trailers", body.trailers()).await.unwrap().expect("trailers");
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
}

#[tokio::test]
async fn a_window_of_a_few_bytes_carries_everything() {
    let server = Server::start().await;
    server.ready().await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(7);
    let (mut client, _connection) = connect(socket(&server).await, &builder).await;
    let (head, mut requests) = client.send_request(post(&server), false).unwrap();
    requests.send_data(message(&delta(CDS, &[])), false).unwrap();
    let mut body = in_time("headers", head).await.unwrap().into_body();

    let mut pieces = 0;
    let decoded = response(&mut body, |len| {
        assert!(len <= 7, "more than the window");
        pieces += 1;
    });
    let decoded = decoded.await;
    assert!(pieces > 50, "{pieces} pieces");
    let names: Vec<_> = decoded.resources.iter().map(|one| one.name.clone()).collect();
    assert!(names.contains(&cluster("web")), "{names:?}");

    requests.send_data(message(&ack(&decoded)), true).unwrap();
    ends_well(&mut body).await;
}

/// What Envoy does that has a gRPC service for each type, but not ADS, on one cluster.
#[tokio::test]
async fn streams_of_one_connection_do_not_wait_for_each_other() {
    let server = Server::start().await;
    server.ready().await;
    let channel = server.channel().await;

    let (send, body) = requests();
    let mut client = ClusterDiscoveryServiceClient::new(channel.clone());
    let responses = client.delta_clusters(body).await.unwrap().into_inner();
    let mut clusters = Stream { send, responses };
    let (send, body) = requests();
    let mut client = EndpointDiscoveryServiceClient::new(channel.clone());
    let responses = client.stream_endpoints(body).await.unwrap().into_inner();
    let mut endpoints = Stream { send, responses };
    let (send, body) = requests();
    let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
    let responses = client.delta_aggregated_resources(body).await.unwrap().into_inner();
    let mut all = Stream { send, responses };
    let mut health = HealthClient::new(channel.clone());
    let mut watched = health.watch(HealthCheckRequest::default()).await.unwrap().into_inner();
    in_time("health", watched.message()).await.unwrap();

    clusters.say(delta(CDS, &[])).await;
    let told = clusters.response().await;
    clusters.say(ack(&told)).await;
    endpoints.say(sotw(EDS, &[&cluster("web")])).await;
    endpoints.response().await; // and never answered
    all.say(delta(CDS, &[])).await;
    let told = all.response().await;
    all.say(ack(&told)).await;

    server.write("news", &["10.0.0.9"]);
    for stream in [&mut clusters, &mut all] {
        let told = stream.response().await;
        assert!(told.resources.iter().any(|one| one.name == cluster("news")), "{told:?}");
        stream.say(ack(&told)).await;
    }
    // One ends, the others do not.
    drop(all);
    health.check(HealthCheckRequest::default()).await.unwrap();
    drop(watched);
    server.write("more", &["10.0.0.9"]);
    let told = clusters.response().await;
    assert!(told.resources.iter().any(|one| one.name == cluster("more")), "{told:?}");
}

#[tokio::test]
async fn a_request_may_be_larger_than_every_window() {
    let server = Server::start().await;
    let mut stream = server.delta().await;
    let names: Vec<String> = (0..30_000).map(|at| format!("{at:0>100}")).collect();
    let names: Vec<&str> = names.iter().map(|name| &**name).collect();
    stream.say(delta(EDS, &names)).await;
    assert_eq!(stream.response().await.removed_resources.len(), 30_000, "3 MB were read");
}

/// Nothing is lost or said twice where the socket takes half of what it is given.
#[tokio::test]
async fn a_large_response_through_a_narrow_socket_comes_whole() {
    let server = Server::start().await;
    server.ready().await;
    let narrow = TcpSocket::new_v4().unwrap();
    narrow.set_recv_buffer_size(8192).unwrap();
    let narrow = narrow.connect(server.grpc()).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(64 << 20).initial_connection_window_size(64 << 20);
    let (mut client, _connection) = connect(narrow, &builder).await;

    let (head, mut requests) = client.send_request(post(&server), false).unwrap();
    let names: Vec<String> = (0..35_000).map(|at| format!("{at:0>100}")).collect();
    let wanted: Vec<&str> = names.iter().map(|name| &**name).collect();
    requests.send_data(message(&delta(EDS, &wanted)), false).unwrap();
    let mut body = in_time("headers", head).await.unwrap().into_body();
    let decoded = response(&mut body, |_| {}).await;
    assert_eq!(decoded.removed_resources, names);
    requests.send_data(Bytes::new(), true).unwrap();
    ends_well(&mut body).await;
}

/// CVE-2023-44487
#[tokio::test]
async fn who_opens_streams_only_to_drop_them_is_disconnected() {
    let server = Server::start().await;
    let mut other = server.delta().await;
    other.say(delta(CDS, &[])).await;
    let told = other.response().await;
    other.say(ack(&told)).await;

    let (mut client, connection) =
        connect(socket(&server).await, &h2::client::Builder::new()).await;
    let opened = async {
        let mut opened = 0;
        while let Ok(mut ready) = client.clone().ready().await {
            let Ok((_, mut stream)) = ready.send_request(post(&server), false) else { break };
            stream.send_reset(Reason::CANCEL);
            client = ready;
            opened += 1;
            // The connection and the server run on the same thread.
            tokio::task::yield_now().await;
        }
        opened
    };
    let opened = in_time("an end", opened).await;
    assert!(opened >= 1000, "cut after {opened} streams, a burst should be fine");
    let ended = in_time("the connection's end", connection).await.unwrap();
    // What it was told may be lost to its own writes.
    if let Err(error) = ended
        && let Some(reason) = error.reason()
    {
        assert_eq!(reason, Reason::ENHANCE_YOUR_CALM);
    }
    server.write("news", &["10.0.0.9"]);
    assert!(!other.response().await.resources.is_empty(), "the others do not notice");
}

/// CVE-2025-8671 (MadeYouReset): it is the server that resets the streams, for an error of the client's.
#[tokio::test]
async fn streams_that_the_server_is_made_to_reset_count_as_well() {
    let server = Server::start().await;
    let mut peer = socket(&server).await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    for stream in (1_u32..).step_by(2).take(1200) {
        let id = stream.to_be_bytes();
        // `:method POST`, `:scheme http`, `:path /`; then a WINDOW_UPDATE by 0.
        bytes.extend([&[0, 0, 3, 1, 4][..], &id, &[0x83, 0x86, 0x84]].concat());
        bytes.extend([&[0, 0, 4, 8, 0][..], &id, &[0; 4]].concat());
    }
    let (mut read, mut write) = peer.split();
    let mut heard = Vec::new();
    // It may be cut while it writes.
    let both = async { tokio::join!(read.read_to_end(&mut heard), write.write_all(&bytes)) };
    let (read, _) = in_time("the end", both).await;
    drop(read);
    let resets = heard.windows(5).filter(|window| *window == [0, 0, 4, 3, 0]).count();
    assert!(resets >= 1000, "cut after {resets} streams, a burst should be fine");
    let reason = b"too many streams";
    assert!(heard.windows(reason.len()).any(|window| window == reason), "{} bytes", heard.len());
}

/// Everything that comes before the end, as text.
pub(crate) async fn last_words(peer: &mut TcpStream) -> String {
    let mut heard = Vec::new();
    in_time("the end", peer.read_to_end(&mut heard)).await.unwrap();
    String::from_utf8_lossy(&heard).into_owned()
}

#[tokio::test]
async fn who_pings_without_reading_is_not_read_until_it_does() {
    let server = Server::start().await;
    let mut peer = socket(&server).await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    peer.write_all(&bytes).await.unwrap();
    bytes = b"\0\0\x08\x06\0\0\0\0\0pingpong".repeat(10_000);
    let (mut at, mut written) = (0, 0);
    // Until the sockets' buffers are full both ways: what they hold differs from system to system,
    // but nobody's hold a gigabyte.
    while let Ok(result) = timeout(Duration::from_secs(1), peer.write(&bytes[at..])).await {
        let some = result.unwrap();
        (at, written) = ((at + some) % bytes.len(), written + some);
        assert!(written < 1 << 30, "it is read without end");
    }
    // And when it reads, everything is answered.
    let (mut read, mut write) = peer.into_split();
    let wanted = b"\0\0\x08\x06\x01\0\0\0\0the last";
    let drained = async {
        let mut last = vec![0; 1 << 20];
        let mut end: Vec<u8> = Vec::new();
        while !end.windows(wanted.len()).any(|window| window == wanted) {
            let got = read.read(&mut last).await.unwrap();
            assert_ne!(got, 0, "closed");
            end.drain(..end.len().saturating_sub(wanted.len()));
            end.extend_from_slice(&last[..got]);
        }
    };
    let rest = async {
        write.write_all(&bytes[at..]).await.unwrap();
        write.write_all(b"\0\0\x08\x06\0\0\0\0\0the last").await.unwrap();
    };
    in_time("answers", async { tokio::join!(drained, rest) }).await;
}
