//! What a captured on-demand sidecar does with the first request to everything that there is to call.

use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use futures::StreamExt as _;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::{answers, cluster_ip, put};
use crate::captured::{asked, captured, connect, service};
use crate::meaning::{apply_objects, slice};
use pilothouse_testkit::backends::{Backend, target_port};
use pilothouse_testkit::envoy::Discovery;
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::{DEADLINE, VISIBLE, eventually, namespace, places, same};

/// More than Envoy buffers before it stops reading.
const LARGE: usize = 4 << 20;

/// Sends back what it is sent, and says what headers it saw that are nobody's business.
struct Echo {
    address: IpAddr,
    server: JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Echo {
    async fn start() -> Self {
        let address = places::address();
        let listener = TcpListener::bind((address, target_port())).await.expect("it is free");
        let router = axum::Router::new().fallback(|request: axum::extract::Request| async move {
            let (head, body) = request.into_parts();
            let inner =
                head.headers.keys().filter(|name| name.as_str().starts_with("x-pilothouse"));
            let seen = inner.count().to_string();
            Response::builder().header("seen", seen).body(axum::body::Body::new(body)).unwrap()
        });
        let server = tokio::spawn(async move {
            _ = axum::serve(listener, router).await;
        });
        Self { address, server }
    }
}

/// Puts a Service that leads to the pod at this address.
fn put_at(lab: &Lab, name: &str, speaks: &str, at: SocketAddr, pod: IpAddr) {
    let one = service(name, &at.ip().to_string(), speaks, at.port(), &Value::Null);
    let endpoints = [json!({ "addresses": [pod] })];
    apply_objects(lab, name, &[one, slice(name, "IPv4", &endpoints)]);
}

/// Waits until all that was put before can be asked for; so the next request to any of it is the first.
async fn all_is_there(lab: &Lab, client: IpAddr) {
    let known = Backend::http("w-known").await;
    let at = put(lab, "put-last", "http", cluster_ip(80), &[&known]);
    answers(client, at, "w-known").await;
}

async fn body(response: Response<Incoming>) -> Result<Vec<u8>, String> {
    let body = response.into_body().collect().await.map_err(|error| format!("{error:?}"))?;
    Ok(body.to_bytes().to_vec())
}

/// The first request to a service has a body, of which none is lost while the cluster is asked for.
#[tokio::test]
async fn the_first_request_may_have_a_body() {
    if !namespace::entered("on_demand::called::the_first_request_may_have_a_body") {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let echo = Echo::start().await;
    let sizes = [("small", 10), ("medium", 100_000), ("large", LARGE)];
    let services = sizes.map(|(name, len)| {
        let at = cluster_ip(80);
        put_at(&lab, name, "http", at, echo.address);
        (at, len)
    });
    all_is_there(&lab, client).await;
    for (at, len) in services {
        let sent: Vec<u8> = (0..len).map(|at| at as u8).collect();
        let io = TokioIo::new(connect(client, at).await.unwrap());
        let (mut sender, connection) = http1::handshake(io).await.unwrap();
        tokio::spawn(connection);
        // Headers that only the sidecar may set.
        let request = Request::post("/")
            .header("host", "any.host")
            .header("x-pilothouse-destination", "10.0.0.1")
            .header("x-pilothouse-address-cluster", "PassthroughCluster")
            .body(Full::new(Bytes::from(sent.clone())));
        let answer = sender.send_request(request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK, "{len} bytes");
        assert_eq!(answer.headers()["seen"], "0", "the workload sees none of them");
        assert!(body(answer).await.unwrap() == sent, "another body than the {len} bytes sent");
    }
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// A gRPC stream whose first message comes after its headers, and whose answers come between its messages.
#[tokio::test]
async fn the_first_request_may_be_a_stream_in_both_directions() {
    let test = "the_first_request_may_be_a_stream_in_both_directions";
    if !namespace::entered(&format!("on_demand::called::{test}")) {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let echo = Echo::start().await;
    let at = cluster_ip(80);
    put_at(&lab, "talk", "grpc", at, echo.address);
    all_is_there(&lab, client).await;
    let io = TokioIo::new(connect(client, at).await.unwrap());
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let (say, said) = futures::channel::mpsc::unbounded::<Bytes>();
    let said = StreamBody::new(said.map(|one| Ok::<_, std::io::Error>(Frame::data(one))));
    let request = Request::post("http://talk/talk.Talk/Talk")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(said);
    let answer = tokio::spawn(sender.send_request(request.unwrap()));
    say.unbounded_send(Bytes::from_static(b"0")).unwrap();
    let answer = answer.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let mut heard = answer.into_body();
    for turn in 0..3 {
        let frame = tokio::time::timeout(DEADLINE, heard.frame()).await;
        let frame = frame.expect("an answer before the next message").unwrap().unwrap();
        assert_eq!(&*frame.into_data().unwrap(), turn.to_string().as_bytes());
        say.unbounded_send(Bytes::from((turn + 1).to_string())).unwrap();
    }
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// Of a request or a response, as it is said.
async fn head_of(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// Connections that leave HTTP, as to a web socket.
#[tokio::test]
async fn the_first_request_may_be_an_upgrade() {
    if !namespace::entered("on_demand::called::the_first_request_may_be_an_upgrade") {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let pod = places::address();
    let listener = TcpListener::bind((pod, target_port())).await.unwrap();
    let server = tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            tokio::spawn(async move {
                head_of(&mut connection).await?;
                let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                connection.write_all(answer.as_bytes()).await?;
                let (mut read, mut write) = connection.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    let at = cluster_ip(80);
    put_at(&lab, "socket", "http", at, pod);
    all_is_there(&lab, client).await;
    let exchange = async {
        let mut stream = connect(client, at).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: socket\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
        stream.write_all(request.as_bytes()).await?;
        let head = head_of(&mut stream).await?;
        assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
        stream.write_all(b"hello").await?;
        let mut back = [0; 5];
        stream.read_exact(&mut back).await?;
        Ok::<_, std::io::Error>(back)
    };
    let back = tokio::time::timeout(DEADLINE, exchange).await.expect("an echo").unwrap();
    assert_eq!(&back, b"hello");
    server.abort();
    lab.assert_untroubled().await;
}

/// By Host as with everything from the start: services whose annotations change their routes, headless ones, aliases.
#[tokio::test]
async fn what_is_not_plain_is_led_by_its_host() {
    if !namespace::entered("on_demand::called::what_is_not_plain_is_led_by_its_host") {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let [plain, tuned, pods] = [
        Backend::http("w-plain").await,
        Backend::http("w-tuned").await,
        Backend::http("w-pods").await,
    ];
    let at = put(&lab, "plain", "http", cluster_ip(80), &[&plain]);
    let of_tuned = cluster_ip(80);
    let annotations = json!({ "pilothouse.io/request-timeout": "20s" });
    let endpoints = |to: &Backend| [json!({ "addresses": [to.address] })];
    let one = service("tuned", &of_tuned.ip().to_string(), "http", 80, &annotations);
    apply_objects(&lab, "tuned", &[one, slice("tuned", "IPv4", &endpoints(&tuned))]);
    let one = service("pods", "None", "http", target_port(), &Value::Null);
    apply_objects(&lab, "pods", &[one, slice("pods", "IPv4", &endpoints(&pods))]);
    let alias = json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "near", "namespace": "default" },
        "spec": { "type": "ExternalName", "externalName": "plain.default.svc.cluster.local" } });
    apply_objects(&lab, "near", &[alias]);

    let by_host = async |at: SocketAddr, host: &str, wanted: &str| {
        eventually(VISIBLE, &format!("{wanted} for {host}"), async || {
            same(asked(client, at, host, "HTTP/1.1").await?.as_str(), wanted)
        })
        .await;
    };
    by_host(of_tuned, "tuned", "w-tuned").await;
    by_host(of_tuned, "tuned.default.svc.cluster.local:80", "w-tuned").await;
    by_host(at, "near", "w-plain").await;
    by_host(at, "plain", "w-plain").await;
    // A plain service is who has the address, and no Host of another plain one changes that.
    by_host(at, "example.com", "w-plain").await;
    by_host(SocketAddr::new(pods.address, target_port()), "pods", "w-pods").await;
    lab.agrees().await;
    lab.assert_untroubled().await;
}

/// What no service has goes where the client sent it, within the range of cluster IPs and without.
#[tokio::test]
async fn an_address_of_nobody_is_passed_through_until_somebody_has_it() {
    let test = "an_address_of_nobody_is_passed_through_until_somebody_has_it";
    if !namespace::entered(&format!("on_demand::called::{test}")) {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let [known, direct, other] = [
        Backend::http("w-known").await,
        Backend::http("w-direct").await,
        Backend::http("w-other").await,
    ];
    // The port's listener is there, and the pods' addresses are in the range of cluster IPs as well.
    let at = put(&lab, "known", "http", cluster_ip(target_port()), &[&known]);
    answers(client, at, "w-known").await;
    let here = SocketAddr::new(direct.address, direct.port);
    answers(client, here, "w-direct").await;
    let name = format!("outbound|{}||{}", here.port(), here.ip());
    let passed = lab.envoy.stat("cluster.PassthroughCluster.upstream_rq_200").await;
    assert!(passed.as_ref().is_ok_and(|count| *count > 0), "{name}: {passed:?}");
    // Now it is a service's, and then again nobody's.
    put(&lab, "late", "http", here, &[&other]);
    answers(client, here, "w-other").await;
    std::fs::remove_file(lab.manifests.path().join("late.json")).unwrap();
    answers(client, here, "w-direct").await;
    lab.assert_untroubled().await;
}
