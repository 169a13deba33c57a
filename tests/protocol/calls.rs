//! How calls begin and end: what gRPC over HTTP/2 asks of a request, deadlines, clients that have
//! said everything, and what those are told who speak something else.

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
use http::{HeaderMap, Request, StatusCode};
use prost::Message;
use tokio::io::AsyncWriteExt;

use crate::harness::{CDS, DELTA, EDS, LDS, Server, ack, cluster, delta, in_time, message, sotw};
use crate::http2::{connect, last_words, post, response, socket};

const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

/// A whole response.
struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: HeaderMap,
}

impl Answer {
    /// In the trailers, or in the headers if there is nothing else.
    fn grpc(&self, name: &str) -> &str {
        let found = self.trailers.get(name).or(self.headers.get(name));
        found.map_or("", |value| value.to_str().unwrap())
    }

    fn text(&self) -> &str {
        str::from_utf8(&self.body).unwrap()
    }

    /// The messages in the body.
    fn messages(&self) -> Vec<&[u8]> {
        let (mut rest, mut all) = (&self.body[..], Vec::new());
        while let Some(([_, len @ ..], after)) = rest.split_first_chunk::<5>() {
            let (message, after) = after.split_at(u32::from_be_bytes(*len) as usize);
            all.push(message);
            rest = after;
        }
        all
    }
}

/// What comes of a request whose client says this and then that this was all; or does not.
async fn call(server: &Server, request: Request<()>, says: &[Bytes], end: bool) -> Answer {
    let (mut client, _connection) =
        connect(socket(server).await, &h2::client::Builder::new()).await;
    let (head, mut requests) = client.send_request(request, end && says.is_empty()).unwrap();
    for (at, message) in says.iter().enumerate() {
        requests.send_data(message.clone(), end && at + 1 == says.len()).unwrap();
    }
    let (parts, mut body) = in_time("headers", head).await.unwrap().into_parts();
    let mut answer = Answer {
        status: parts.status,
        headers: parts.headers,
        body: Vec::new(),
        trailers: HeaderMap::new(),
    };
    while let Some(piece) = in_time("data", body.data()).await {
        let piece = piece.unwrap();
        body.flow_control().release_capacity(piece.len()).unwrap();
        answer.body.extend_from_slice(&piece);
    }
    answer.trailers = in_time("trailers", body.trailers()).await.unwrap().unwrap_or_default();
    answer
}

fn with(request: Request<()>, name: &'static str, value: &str) -> Request<()> {
    let (mut parts, ()) = request.into_parts();
    parts.headers.insert(name, value.parse().unwrap());
    Request::from_parts(parts, ())
}

fn sotw_post(server: &Server) -> Request<()> {
    let (mut parts, ()) = post(server).into_parts();
    parts.uri = format!("http://{}{SOTW}", server.grpc()).parse().unwrap();
    Request::from_parts(parts, ())
}

/// As `grpcurl -d` does it.
#[tokio::test]
async fn who_asks_and_says_no_more_is_answered() {
    let server = Server::start().await;
    server.ready().await;
    for asked in [vec![CDS], vec![CDS, LDS], vec![CDS, EDS, LDS]] {
        let asked_for: Vec<_> = asked.iter().map(|of| of.type_url()).collect();
        let name = cluster("web");
        let names = |of| if of == EDS { vec![name.as_str()] } else { Vec::new() };
        let says: Vec<_> = asked.iter().map(|of| message(&delta(*of, &names(*of)))).collect();
        let answer = call(&server, post(&server), &says, true).await;
        assert_eq!((answer.status.as_u16(), answer.grpc("grpc-status")), (200, "0"));
        let messages = answer.messages();
        let told: Vec<_> =
            messages.iter().map(|one| DeltaDiscoveryResponse::decode(*one).unwrap()).collect();
        let told: Vec<_> = told.iter().map(|one| &*one.type_url).collect();
        assert_eq!(told, asked_for, "delta");
        assert!(contains(messages[0], name.as_bytes()), "its cluster");

        let says: Vec<_> = asked.iter().map(|of| message(&sotw(*of, &names(*of)))).collect();
        let answer = call(&server, sotw_post(&server), &says, true).await;
        assert_eq!((answer.status.as_u16(), answer.grpc("grpc-status")), (200, "0"));
        let messages = answer.messages();
        let told: Vec<_> =
            messages.iter().map(|one| DiscoveryResponse::decode(*one).unwrap()).collect();
        let told: Vec<_> = told.iter().map(|one| &*one.type_url).collect();
        assert_eq!(told, asked_for, "state of the world");
        assert!(contains(messages[0], name.as_bytes()), "its cluster");
    }
    // Who says nothing is told nothing.
    let answer = call(&server, post(&server), &[], true).await;
    assert_eq!((answer.grpc("grpc-status"), answer.body.len()), ("0", 0));
}

/// Permits to be brought into sync are few, and its client has gone silent before it has one.
#[tokio::test]
async fn who_says_no_more_while_it_waits_for_its_turn_is_answered_all_the_same() {
    let server = Server::with(|config| config.limits.starting = 1).await;
    let mut first = server.delta().await;
    first.say(delta(CDS, &[])).await;
    first.response().await; // and keeps its permit, for it does not answer
    let answer = call(&server, post(&server), &[message(&delta(CDS, &[]))], true).await;
    assert_eq!((answer.grpc("grpc-status"), answer.messages().len()), ("0", 1));
}

/// The exact case: HEADERS, the request and END_STREAM are there in one read.
#[tokio::test]
async fn headers_request_and_end_in_one_read_are_answered() {
    let server = Server::start().await;
    server.ready().await;
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    let mut block = vec![0x83, 0x86];
    for (name, value) in [(":path", DELTA), ("content-type", "application/grpc")] {
        block.extend([&[0, name.len() as u8], name.as_bytes(), &[value.len() as u8]].concat());
        block.extend(value.as_bytes());
    }
    let body = message(&delta(CDS, &[]));
    for (kind, flags, content) in [(1, 4, &block[..]), (0, 1, &body)] {
        let [_, len @ ..] = (content.len() as u32).to_be_bytes();
        bytes.extend([&len[..], &[kind, flags, 0, 0, 0, 1], content].concat());
    }
    // Our side of the connection stays open: what ends the response is the server.
    let mut peer = socket(&server).await;
    peer.write_all(&bytes).await.unwrap();
    let mut heard = Vec::new();
    let ended = async {
        while !contains(&heard, b"grpc-status\x010") {
            use tokio::io::AsyncReadExt;
            assert_ne!(peer.read_buf(&mut heard).await.unwrap(), 0, "{heard:?}");
        }
    };
    in_time("the trailers", ended).await;
    assert!(contains(&heard, cluster("web").as_bytes()), "not answered: {heard:?}");
}

fn contains(all: &[u8], wanted: &[u8]) -> bool {
    all.windows(wanted.len()).any(|window| window == wanted)
}

#[tokio::test]
async fn a_deadline_of_the_client_is_kept() {
    let server = Server::start().await;
    server.ready().await;
    let says = [message(&delta(CDS, &[]))];
    // After an answer, before one, and on the health service.
    let request = with(post(&server), "grpc-timeout", "500m");
    let answer = call(&server, request, &says, false).await;
    assert_eq!(answer.grpc("grpc-status"), "4");
    assert!(answer.grpc("grpc-message").contains("grpc-timeout"));
    assert_eq!(answer.messages().len(), 1, "it was served before");
    for (path, timeout) in [(DELTA, "1n"), (DELTA, "0S"), ("/grpc.health.v1.Health/Watch", "1m")] {
        let (mut parts, ()) = with(post(&server), "grpc-timeout", timeout).into_parts();
        parts.uri = format!("http://{}{path}", server.grpc()).parse().unwrap();
        let answer = call(&server, Request::from_parts(parts, ()), &[], false).await;
        assert_eq!(answer.grpc("grpc-status"), "4", "{path} {timeout}");
    }
}

#[tokio::test]
async fn a_deadline_that_is_absurd_is_far_away_and_a_malformed_one_is_refused() {
    let server = Server::start().await;
    server.ready().await;
    let says = [message(&delta(CDS, &[]))];
    for timeout in ["99999999H", "99999999M", "1S"] {
        let request = with(post(&server), "grpc-timeout", timeout);
        let answer = call(&server, request, &says, true).await;
        assert_eq!((answer.grpc("grpc-status"), answer.messages().len()), ("0", 1), "{timeout}");
    }
    for timeout in ["", "5", "S", "-1S", "100000000S", "1.5S", "1s", "never"] {
        let request = with(post(&server), "grpc-timeout", timeout);
        let answer = call(&server, request, &says, false).await;
        assert_eq!((answer.status.as_u16(), answer.grpc("grpc-status")), (400, "13"), "{timeout}");
        assert!(answer.grpc("grpc-message").starts_with("malformed grpc-timeout"));
    }
}

#[tokio::test]
async fn what_is_no_grpc_is_refused_in_words_for_people() {
    let server = Server::start().await;
    let uri = format!("http://{}{DELTA}", server.grpc());
    let of = |method: &str, content_type: Option<&str>| {
        let request = Request::builder().method(method).uri(&uri);
        let request =
            content_type.iter().fold(request, |it, value| it.header("content-type", *value));
        request.body(()).unwrap()
    };
    for (request, status) in [
        (of("GET", None), 405),
        (of("PUT", Some("text/html")), 405),
        (of("POST", None), 415),
        (of("POST", Some("application/json")), 415),
        (of("POST", Some("application/grpc-web+proto")), 415),
    ] {
        let answer = call(&server, request, &[], true).await;
        assert_eq!((answer.status.as_u16(), answer.grpc("grpc-status")), (status, ""));
        assert_eq!(answer.headers["content-type"], "text/plain");
        assert_eq!(answer.headers.contains_key("allow"), status == 405);
        assert!(answer.text().starts_with("This port speaks gRPC"), "{}", answer.text());
        assert!(answer.text().contains("--http-addr"), "{}", answer.text());
    }
    let answer = call(&server, of("HEAD", None), &[], true).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (405, 0));
    // One that has not sent everything is answered all the same, a little later.
    let answer = call(&server, of("POST", None), &[Bytes::from_static(b"some")], false).await;
    assert_eq!(answer.status.as_u16(), 415);
    // A gRPC client is answered as one.
    let answer = call(&server, of("GET", Some("application/grpc")), &[], true).await;
    assert_eq!((answer.status.as_u16(), answer.grpc("grpc-status")), (405, "13"));
}

#[tokio::test]
async fn a_refusal_can_be_read_and_has_an_end() {
    let server = Server::start().await;
    server.ready().await;
    let mut wrong = sotw(CDS, &[]);
    wrong.type_url = "no type, 100% é".to_owned();
    let answer = call(&server, sotw_post(&server), &[message(&wrong)], false).await;
    assert_eq!(answer.grpc("grpc-status"), "3");
    let text = answer.grpc("grpc-message");
    assert!(text.contains("no type, 100%25 %C3%A9"), "{text}");

    wrong.type_url = "\u{1}".repeat(1 << 20);
    let answer = call(&server, sotw_post(&server), &[message(&wrong)], false).await;
    assert_eq!(answer.grpc("grpc-status"), "3");
    assert!(answer.grpc("grpc-message").len() <= 3 * 1024, "encoded, 1 KiB before");
    // tonic's own services quote, too.
    let symbol = "x".repeat(100_000);
    let mut asked = vec![0x22];
    prost::encoding::encode_varint(symbol.len() as u64, &mut asked);
    asked.extend(symbol.as_bytes());
    let (mut parts, ()) = post(&server).into_parts();
    let path = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
    parts.uri = format!("http://{}{path}", server.grpc()).parse().unwrap();
    let framed = [&[0][..], &(asked.len() as u32).to_be_bytes(), &asked].concat();
    let answer = call(&server, Request::from_parts(parts, ()), &[framed.into()], true).await;
    assert!(answer.grpc("grpc-message").len() <= 3 * 1024);
}

#[tokio::test]
async fn other_protocols_are_told_what_this_port_speaks() {
    let server = Server::start().await;
    for request in
        [&b"GET /debug/syncz HTTP/1.1\r\nHost: x\r\n\r\n"[..], b"POST / HTTP/1.0\r\n\r\n"]
    {
        let mut peer = socket(&server).await;
        peer.write_all(request).await.unwrap();
        let heard = last_words(&mut peer).await;
        let (head, body) = heard.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{heard:?}");
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())), "{heard:?}");
        assert!(body.starts_with("This port speaks gRPC"), "{heard:?}");
        assert!(body.contains("--http-addr") && body.contains("--monitoring-addr"), "{heard:?}");
    }
    let mut peer = socket(&server).await;
    peer.write_all(&[0x16, 3, 1, 0, 200]).await.unwrap();
    assert_eq!(last_words(&mut peer).await.as_bytes(), [21, 3, 1, 0, 2, 2, 40], "a fatal alert");
    let mut peer = socket(&server).await;
    peer.write_all(b"\0\0\0\0").await.unwrap();
    assert!(last_words(&mut peer).await.contains("does not speak HTTP/2"));
}

/// What opens nothing costs about as much as what does.
#[tokio::test]
async fn streams_that_are_refused_count_against_the_budget_for_new_ones() {
    let server = Server::start().await;
    // Without `:path`; with more header fields than are taken; and what is asked for that is refused.
    let long = [&[0x83, 0x86, 0x84, 0, 1, b'x', 0x7f, 0x81, 0x3e][..], &[b'x'; 8064]].concat();
    let long = [&long[..], &[0x0f, 0x11, 0x7f, 0x81, 0x3e], &[b'x'; 8064]].concat();
    for (what, block) in [("malformed", &[0x83, 0x86][..]), ("431", &long)] {
        let mut peer = socket(&server).await;
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
        let [_, len @ ..] = (block.len() as u32).to_be_bytes();
        for stream in (1_u32..).step_by(2).take(1200) {
            bytes.extend([&len[..], &[1, 5], &stream.to_be_bytes(), block].concat());
        }
        let (mut read, mut write) = peer.split();
        let mut heard = Vec::new();
        let reads = tokio::io::AsyncReadExt::read_to_end(&mut read, &mut heard);
        // It may be cut while it writes.
        let (read, _) =
            in_time("the end", async { tokio::join!(reads, write.write_all(&bytes)) }).await;
        drop(read);
        assert!(contains(&heard, b"too many streams"), "{what}: {} bytes", heard.len());
    }
}

/// An ACK after the last answer ends the stream well, too.
#[tokio::test]
async fn who_ends_its_side_after_an_answer_is_told_that_all_is_well() {
    let server = Server::start().await;
    server.ready().await;
    let (mut client, _connection) =
        connect(socket(&server).await, &h2::client::Builder::new()).await;
    let (head, mut requests) = client.send_request(post(&server), false).unwrap();
    requests.send_data(message(&delta(CDS, &[])), false).unwrap();
    let mut body = in_time("headers", head).await.unwrap().into_body();
    let told = response(&mut body, |_| {}).await;
    requests.send_data(message(&ack(&told)), true).unwrap();
    let trailers = in_time("trailers", body.trailers()).await.unwrap().expect("trailers");
    assert_eq!(trailers.get("grpc-status").unwrap(), "0");
}
