//! A real Envoy, in both variants, gets the resources and serves with them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // all of it is test code

use std::net::SocketAddr;
use std::process::Command;

use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::process::Process;
use pilothouse_testkit::{DEADLINE, eventually, places};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// Answers every connection with `hello`.
async fn backend(listener: TcpListener) {
    while let Ok((mut socket, _)) = listener.accept().await {
        let _ = socket.read(&mut [0; 4096]).await;
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello";
        let _ = socket.write_all(answer).await;
    }
}

async fn an_envoy_serves_what_it_is_sent(wire: Wire) {
    let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
    let backend_address = listener.local_addr().unwrap();
    tokio::spawn(backend(listener));
    let place = || SocketAddr::new(places::address(), places::port());
    let (xds, listen) = (place(), place());
    let mut command = Command::new(env!("CARGO_BIN_EXE_static-xds"));
    command.args([xds, listen, backend_address].map(|address| address.to_string()));
    let _server = Process::start("static-xds", &mut command);
    let envoy = Envoy::start(Sample::Standalone, wire, xds).await;
    let got = eventually(DEADLINE, "the backend's answer", async || {
        envoy.fetch_at(listen, "any.host").await
    })
    .await;
    assert_eq!(got.body, "hello");
    let rejected = envoy.stats("update_rejected$").await.unwrap();
    assert!(rejected.values().all(|count| *count == 0), "{rejected:?}");
}

#[tokio::test]
async fn an_envoy_serves_what_it_is_sent_in_the_state_of_the_world() {
    an_envoy_serves_what_it_is_sent(Wire::Sotw).await;
}

#[tokio::test]
async fn an_envoy_serves_what_it_is_sent_in_delta() {
    an_envoy_serves_what_it_is_sent(Wire::Delta).await;
}
