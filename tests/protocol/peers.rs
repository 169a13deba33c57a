//! Peers that no library would be: bytes that are no request, compression, silence.

use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;
use tower::{Service, ServiceExt};

use crate::harness::{CDS, DELTA, Server, delta, in_time, message};

/// Sends one body as it is, and says the status that comes back.
async fn call(server: &Server, path: &str, encoding: Option<&str>, body: &[u8]) -> (Code, String) {
    let mut request = http::Request::post(format!("http://{}{path}", server.grpc()))
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let body = Full::new(Bytes::copy_from_slice(body));
    let request = request.body(tonic::body::Body::new(body)).unwrap();
    let mut channel = server.channel().await;
    let answer = async {
        let response = channel.ready().await.unwrap().call(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = body.collect().await.unwrap();
        body.trailers().cloned().unwrap_or(head.headers)
    };
    let status = tonic::Status::from_header_map(&in_time("an answer", answer).await);
    let status = status.expect("a gRPC status");
    (status.code(), status.message().to_owned())
}

#[tokio::test]
async fn compressed_requests_are_refused_with_what_to_do() {
    let server = Server::start().await;
    server.ready().await;
    let (code, message) = call(&server, DELTA, Some("gzip"), &[1, 0, 0, 0, 0]).await;
    assert_eq!(code, Code::Unimplemented);
    assert!(message.contains("gzip") && message.contains("uncompressed"), "{message}");
    // Compressed without saying how.
    let (code, message) = call(&server, DELTA, None, &[1, 0, 0, 0, 0]).await;
    assert!(matches!(code, Code::Internal | Code::Unimplemented), "{code:?} {message}");
    let (code, message) = call(&server, DELTA, Some("identity"), b"").await;
    assert_eq!(code, Code::Ok, "{message}");
}

#[tokio::test]
async fn bytes_that_are_no_request_end_their_own_stream_only() {
    let server = Server::start().await;
    let mut other = server.delta().await;
    other.say(delta(CDS, &[])).await;
    let garbage = [&[0, 0, 0, 0, 3][..], b"\xff\xff\xff"].concat();
    let (code, message) = call(&server, DELTA, None, &garbage).await;
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.starts_with("not a valid discovery request"), "{message}");
    // Cut off in the middle of a message.
    let (code, message) = call(&server, DELTA, None, &[0, 0, 0, 0, 9, 1]).await;
    assert_ne!(code, Code::Ok, "{message}");
    other.response().await;
}

#[tokio::test]
async fn unknown_methods_are_unimplemented() {
    let server = Server::start().await;
    let service = "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamEverything";
    for path in [service, "/none.such.Service/Method"] {
        assert_eq!(call(&server, path, None, b"").await.0, Code::Unimplemented, "{path}");
    }
}

/// An HTTP/2 frame.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// A header field, literal and not indexed.
fn field(name: &str, value: &str) -> Vec<u8> {
    let mut bytes = vec![0, name.len() as u8];
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(value.len() as u8);
    bytes.extend_from_slice(value.as_bytes());
    bytes
}

#[tokio::test]
async fn a_half_open_peer_is_dropped_by_keepalive() {
    let keepalive = Duration::from_millis(300);
    let server = Server::with(|config| {
        config.keepalive = keepalive;
        config.limits.streams_per_peer = 1;
    })
    .await;
    server.ready().await;

    // Opens a stream properly and then answers nothing, not even pings.
    let mut peer = TcpStream::connect(server.grpc()).await.unwrap();
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let (headers, data, settings) = (1, 0, 4);
    bytes.extend(frame(settings, 0, 0, b""));
    let authority = server.grpc().to_string();
    let fields = [
        field(":method", "POST"),
        field(":scheme", "http"),
        field(":path", DELTA),
        field(":authority", &authority),
        field("content-type", "application/grpc"),
        field("te", "trailers"),
    ];
    let end_of_headers = 4;
    bytes.extend(frame(headers, end_of_headers, 1, &fields.concat()));
    bytes.extend(frame(data, 0, 1, &message(&delta(CDS, &[]))));
    peer.write_all(&bytes).await.unwrap();

    // It is served, and takes the only place there is for its address …
    let mut got = Vec::new();
    let served = async {
        while !String::from_utf8_lossy(&got).contains("BlackHoleCluster") {
            assert_ne!(peer.read_buf(&mut got).await.unwrap(), 0, "closed too soon");
        }
    };
    in_time("a response", served).await;
    let (code, _) = server.delta().await.refusal().await;
    assert_eq!(code, Code::ResourceExhausted);

    // … until it is dropped.
    let begun = Instant::now();
    let closed = async { while matches!(peer.read_buf(&mut got).await, Ok(read) if read > 0) {} };
    in_time("the end of the connection", closed).await;
    assert!(begun.elapsed() < keepalive * 20, "{:?}", begun.elapsed());
    let mut next = server.delta().await;
    next.say(delta(CDS, &[])).await;
    next.response().await;

    // A peer that answers its pings stays.
    let begun = Instant::now();
    while begun.elapsed() < keepalive * 4 {
        let still = tokio::time::timeout(keepalive, next.responses.message()).await;
        assert!(still.is_err(), "ended: {still:?}");
    }
}
