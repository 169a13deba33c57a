//! Servers that take the connection and are no Pilot, or one that lets go, keeps silent, or lives
//! in the past; and an Envoy that looks elsewhere.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

use super::proxy::examine;
use super::{doctor, to};
use pilothouse_testkit::control_plane::ControlPlane;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::places;
use pilothouse_testkit::relay::Relay;

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((places::address(), 0)).await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    (listener, address)
}

#[tokio::test]
async fn a_grpc_server_without_ads() {
    let (listener, address) = listen().await;
    let (_, health) = tonic_health::server::health_reporter();
    let served =
        Server::builder().add_service(health).serve_with_incoming(TcpListenerStream::new(listener));
    tokio::spawn(served);
    let said = to(address).await;
    said.is("not_a_pilot", 1);
    said.names(&[&address.to_string(), "knows no ADS"]);
    assert_eq!((said.link("gRPC"), said.link("ADS")), (Some("well"), Some("broken")));
}

#[tokio::test]
async fn a_stream_that_is_refused() {
    // A proxy before the control plane, which cannot reach it.
    let nobody = SocketAddr::new(places::address(), places::port());
    let relay = Relay::start(nobody).await;
    let said = to(relay.address).await;
    said.is("stream_refused", 1);
    said.names(&["Unavailable"]);
}

#[tokio::test]
async fn a_stream_on_which_nothing_comes() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    control.becomes_ready().await;
    let relay = Relay::start(control.grpc).await;
    relay.pause(true);
    let said = to(relay.address).await;
    said.is("stream_silent", 1);
    assert_eq!((said.link("gRPC"), said.link("ADS")), (Some("well"), Some("broken")));
}

#[tokio::test]
async fn a_control_plane_that_has_not_heard_from_its_api_server() {
    // Minutes of silence cannot be waited for: its monitoring port is played.
    let (listener, monitoring) = listen().await;
    tokio::spawn(async move {
        let page = "pilothouse_watch_age_seconds{watch=\"endpointslices\"} 912.5\n";
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0; 1024];
            _ = stream.read(&mut heard).await;
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n", page.len());
            _ = stream.write_all(format!("{head}connection: close\r\n\r\n{page}").as_bytes()).await;
        }
    });
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    control.becomes_ready().await;
    let (grpc, monitoring) = (control.grpc.to_string(), monitoring.to_string());
    let arguments = ["--no-envoy", "--discovery-address", &grpc];
    let said = doctor(&[&arguments[..], &["--monitoring-address", &monitoring]].concat()).await;
    said.is("pilot_stale", 1);
    said.names(&["endpointslices", "91"]);
    assert_eq!(said.link("ADS"), Some("well"), "proxies are served all the same");
}

#[tokio::test]
async fn an_envoy_that_looks_elsewhere() {
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    control.becomes_ready().await;
    let nobody = SocketAddr::new(places::address(), places::port());
    let envoy = Envoy::start_unready(Sample::Bound, Wire::Delta, nobody, &[]).await;
    let grpc = control.grpc.to_string();
    let said = examine(&envoy, &control, &["--discovery-address", &grpc]).await;
    said.is("envoy_not_connected", 1);
    assert_eq!((said.link("ADS"), said.link("configuration")), (Some("well"), Some("broken")));
}
