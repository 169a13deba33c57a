//! What is asked of the port, and what comes back.

use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{DEADLINE, Running, patched, pod, review_of};

#[tokio::test]
async fn a_pod_is_injected_over_one_connection_as_often_as_it_is_asked() {
    let running = Running::new("nativeSidecars: never").await;
    let mut client = running.client().await;
    for _ in 0..3 {
        let response = client.review(&review_of(&pod(), "shop")).await;
        assert_eq!(response["allowed"], true, "{response}");
        let containers = patched(&pod(), &response)["spec"]["containers"].clone();
        assert_eq!(containers[1]["name"], "istio-proxy");
    }
    let mut wrong = pod();
    wrong["metadata"]["annotations"] = json!({ "sidecar.istio.io/proxyMemory": "much" });
    assert_eq!(client.review(&review_of(&wrong, "shop")).await["allowed"], false);
    let mut without = pod();
    without["metadata"]["labels"]["sidecar.istio.io/inject"] = "false".into();
    assert_eq!(client.review(&review_of(&without, "shop")).await["allowed"], true);
    for (name, count) in [
        ("sidecar_injection_requests_total", 5.0),
        ("sidecar_injection_success_total", 3.0),
        ("sidecar_injection_failure_total", 1.0),
        ("sidecar_injection_skip_total", 1.0),
        ("pilothouse_injector_reviews_total{result=\"injected\"}", 3.0),
        ("pilothouse_injector_reviews_total{result=\"refused\"}", 1.0),
        ("pilothouse_injector_reviews_total{result=\"passed_through\"}", 0.0),
        ("sidecar_injection_time_seconds_count", 5.0),
    ] {
        assert_eq!(running.metric(name).await, count, "{name}");
    }
    running.injector.shutdown().await;
}

#[tokio::test]
async fn what_is_no_review_is_answered_with_what_is_wrong() {
    let running = Running::new("nativeSidecars: never").await;
    let json = "application/json";
    let large = vec![b' '; 4 << 20];
    let largest_pod = {
        let mut pod = pod();
        pod["metadata"]["annotations"] = json!({ "large": "x".repeat(1 << 20) });
        review_of(&pod, "shop").to_string()
    };
    for (path, kind, body, status, words) in [
        ("/", json, b"{}".to_vec(), 404, "/inject only"),
        ("/inject/", json, b"{}".to_vec(), 404, "/inject only"),
        ("/inject", "application/yaml", b"{}".to_vec(), 415, "application/json"),
        ("/inject", json, Vec::new(), 400, "the body is empty"),
        ("/inject", json, b"{".to_vec(), 400, "no AdmissionReview in JSON"),
        ("/inject", json, large, 413, "more than 3 MiB"),
        ("/inject", "application/json; charset=utf-8", b"{}".to_vec(), 400, "kind \"\""),
        ("/inject", json, largest_pod.into_bytes(), 200, "JSONPatch"),
    ] {
        let mut client = running.client().await;
        let (found, answer) = client.post(path, kind, body.into()).await;
        assert_eq!(found.as_u16(), status, "{answer}");
        assert!(answer.contains(words), "{words}: {answer}");
    }
    // The port goes on.
    assert_eq!(running.review(&review_of(&pod(), "shop")).await["allowed"], true);
    assert_eq!(running.metric("pilothouse_injector_reviews_total{result=\"bad\"}").await, 5.0);
}

/// Peers that connect and do nothing, or send slowly, keep nobody waiting.
#[tokio::test]
async fn slow_and_silent_peers_keep_nobody_waiting() {
    let running = Running::new("nativeSidecars: never").await;
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(TcpStream::connect(running.injector.address).await.unwrap());
    }
    let mut slow = Vec::new();
    for _ in 0..40 {
        let config = running.authority.client_config(None);
        let mut config = std::sync::Arc::unwrap_or_clone(config);
        config.alpn_protocols.clear();
        let socket = TcpStream::connect(running.injector.address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from(crate::client::NAME).unwrap();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let mut socket = connector.connect(name, socket).await.unwrap();
        let head = "POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n\
                    Content-Length: 2000000\r\n\r\n";
        socket.write_all(head.as_bytes()).await.unwrap();
        socket.write_all(&vec![b' '; 200_000]).await.unwrap();
        slow.push(socket);
    }
    let review = review_of(&pod(), "shop");
    let answered = tokio::time::timeout(Duration::from_secs(5), running.review(&review)).await;
    assert_eq!(answered.unwrap()["allowed"], true);
    // And those are told.
    let mut answer = String::new();
    let told = tokio::time::timeout(DEADLINE, slow[0].read_to_string(&mut answer)).await;
    assert!(told.is_ok() && answer.contains("503"), "{answer}");
    assert!(answer.contains("did not arrive in time"), "{answer}");
    drop(held);
}

#[tokio::test]
async fn plaintext_and_other_protocols_are_closed() {
    let running = Running::new("nativeSidecars: never").await;
    let mut socket = TcpStream::connect(running.injector.address).await.unwrap();
    socket.write_all(b"POST /inject HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let closed = tokio::time::timeout(DEADLINE, socket.read_to_end(&mut answer)).await;
    assert!(closed.is_ok());
    // An alert of TLS at most.
    assert!(answer.len() < 16, "{answer:?}");
    let mut client = running.client().await;
    let (status, _) = client.post("/inject", "application/json", "{}".into()).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
}

/// What is in progress is answered; the process is not ready from the start of its end.
#[tokio::test]
async fn connections_end_with_an_answer() {
    let running = Running::new("nativeSidecars: never").await;
    let mut client = running.client().await;
    assert_eq!(client.review(&review_of(&pod(), "shop")).await["allowed"], true);
    let address = running.injector.address;
    tokio::time::timeout(DEADLINE, running.injector.shutdown()).await.unwrap();
    assert!(TcpStream::connect(address).await.is_err());
}
