//! Addresses where nobody is, or somebody else, and control planes that hang, wait, or refuse.

use std::net::SocketAddr;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinSet;

use super::{doctor, to};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::manifests::{Manifests, Service};
use pilothouse_testkit::{places, until};

/// A server that reads what comes first and answers with these bytes, then hangs up.
async fn server(answer: impl Fn(&[u8]) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    // It ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0; 1024];
            let length = stream.read(&mut heard).await.unwrap_or_default();
            _ = stream.write_all(&answer(&heard[..length])).await;
        }
    });
    address
}

/// An alert (`handshake_failure` or the like), which TLS servers send to who speaks plaintext.
fn alert() -> Vec<u8> {
    vec![0x15, 3, 3, 0, 2, 2, 40]
}

#[tokio::test]
async fn a_refused_connection() {
    let nobody = SocketAddr::new(places::address(), places::port());
    let said = to(nobody).await;
    said.is("connection_refused", 1);
    said.names(&[&nobody.to_string()]);
}

#[tokio::test]
async fn packets_that_are_dropped() {
    // A full queue of connections that nobody accepts: the kernel drops what else comes.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((places::address(), 0).into()).unwrap();
    let listener = socket.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(stream) =
        tokio::time::timeout(std::time::Duration::from_millis(500), TcpStream::connect(address))
            .await
    {
        queued.push(stream.unwrap());
        assert!(queued.len() < 100, "the queue takes them all");
    }
    let said = to(address).await;
    said.is("packets_dropped", 1);
    assert_eq!((said.link("TCP"), said.link("HTTP/2")), (Some("broken"), None));
}

#[tokio::test]
async fn a_port_that_speaks_http1() {
    let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    to(server(|_| answer.to_vec()).await).await.is("port_speaks_http1", 1);
    // One that answers only what it understands.
    let shy = server(|heard| if heard.starts_with(b"GET") { answer.to_vec() } else { Vec::new() });
    to(shy.await).await.is("port_speaks_http1", 1);
}

#[tokio::test]
async fn plaintext_to_a_tls_port() {
    to(server(|_| alert()).await).await.is("plaintext_to_tls_port", 1);
    // One that hangs up on plaintext without an alert.
    let shy = server(|heard| if heard.first() == Some(&0x16) { alert() } else { Vec::new() });
    to(shy.await).await.is("plaintext_to_tls_port", 1);
}

#[tokio::test]
async fn a_port_that_speaks_something_else() {
    let said = to(server(|_| b"220 mail.example ESMTP\r\n".to_vec()).await).await;
    said.is("port_speaks_something_else", 1);
    said.names(&["ESMTP"]);
}

#[tokio::test]
async fn http2_without_grpc() {
    let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut connections = JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            connections.spawn(async move {
                let Ok(mut connection) = h2::server::handshake(socket).await else { return };
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let nothing = http::Response::builder().status(404).body(()).unwrap();
                    let _ = respond.send_response(nothing, true);
                }
            });
        }
    });
    to(address).await.is("not_grpc", 1);
    serving.abort();
}

/// The pages of the control plane itself.
#[tokio::test]
async fn the_monitoring_port_is_no_ads_port() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    to(control.monitoring).await.is("port_speaks_http1", 1);
}

#[tokio::test]
async fn a_stopped_control_plane() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    control.process.signal(Signal::STOP);
    let said = to(control.grpc).await;
    control.process.signal(Signal::CONT);
    said.is("pilot_silent", 1);
    assert_eq!((said.link("TCP"), said.link("HTTP/2")), (Some("well"), Some("broken")));
}

#[tokio::test]
async fn a_control_plane_without_a_snapshot() {
    // Its API server is nowhere to be found.
    let folder = tempfile::TempDir::new().unwrap();
    let nobody = SocketAddr::new(places::address(), places::port());
    let config = folder.path().join("kubeconfig");
    let text = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "clusters": [{ "name": "c", "cluster": { "server": format!("http://{nobody}") } }],
        "users": [{ "name": "u", "user": {} }],
        "contexts": [{ "name": "c", "context": { "cluster": "c", "user": "u" } }],
    });
    std::fs::write(&config, text.to_string()).unwrap();
    let environment = [("KUBECONFIG", config.to_str().unwrap())];
    let control = ControlPlane::start_with(&["--source", "kube"], &environment).await;
    let (grpc, monitoring) = (control.grpc.to_string(), control.monitoring.to_string());
    let arguments = ["--no-envoy", "--discovery-address", &grpc];
    // Before it has looked for its API server it says that its source has not started.
    until("the control plane to wait for its lists", async || {
        let ready =
            pilothouse_testkit::http::get(&format!("http://{monitoring}/ready"), None).await?;
        if ready.body.contains("not listed yet") { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
    // By its monitoring port, with the reason; by ADS, where that cannot be reached.
    let said = doctor(&[&arguments[..], &["--monitoring-address", &monitoring]].concat()).await;
    said.is("pilot_not_ready", 1);
    said.names(&["not listed yet"]);
    doctor(&arguments).await.is("pilot_not_ready", 1);
}

#[tokio::test]
async fn a_node_that_is_refused() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    let grpc = control.grpc.to_string();
    let node = "sidecar~nonsense~p.default~x";
    let arguments = ["--no-envoy", "--discovery-address", &grpc, "--node-id", node];
    let said = doctor(&arguments).await;
    said.is("node_refused", 1);
    said.names(&[node, "no valid IP address"]);
}

#[tokio::test]
async fn a_limit_that_refuses() {
    let manifests = Manifests::new(&[Service::new("a", "http", 80)]);
    let source = ["--manifests", manifests.path().to_str().unwrap()];
    let limits = [("PILOTHOUSE_MAX_STREAMS_PER_PEER", "1")];
    let control = ControlPlane::start_with(&source, &limits).await;
    control.becomes_ready().await;
    // It has the one stream that this address may have.
    let _envoy = Envoy::start(Sample::Bound, Wire::Sotw, control.grpc).await;
    let said = to(control.grpc).await;
    said.is("limit_refused", 1);
}
