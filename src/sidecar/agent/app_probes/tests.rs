use std::net::Ipv4Addr;

use axum::Router;
use axum::http::HeaderMap as Headers;
use axum::response::Redirect;
use axum::routing::get;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use super::*;

const POD: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// Serves these routes; the port.
async fn application(router: Router) -> u16 {
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, router).await });
    port
}

fn probes(prober: Value) -> AppProbes {
    let all = json!({ "/app-health/web/livez": prober });
    AppProbes::new(Probers::parse(&all.to_string()).unwrap(), POD).unwrap()
}

/// Status and body of the answer to that probe.
async fn asked(prober: Value, headers: &[(&str, &str)]) -> (u16, String) {
    let headers =
        headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
    let (status, body) = probes(prober).answer("/app-health/web/livez", &headers.collect()).await;
    (status.as_u16(), String::from_utf8(body).unwrap())
}

#[tokio::test]
async fn http_probes_are_what_the_kubelet_would_have_sent() {
    let shown = |headers: Headers| async move {
        let mut lines: Vec<String> = headers
            .iter()
            .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap()))
            .collect();
        lines.sort();
        lines.join("\n")
    };
    let port = application(Router::new().route("/health", get(shown))).await;
    let kubelets =
        [("host", "10.0.0.1:15020"), ("user-agent", "kube-probe/1.35"), ("x-mine", "kubelet")];
    let plain = json!({ "httpGet": { "path": "health?full", "port": port } });
    let wanted = format!(
        "connection: close\nhost: 127.0.0.1:{port}\nuser-agent: kube-probe/1.35\nx-mine: kubelet"
    );
    assert_eq!(asked(plain, &kubelets).await, (200, wanted));
    let headers = [("Host", "shop.example"), ("X-Mine", "1"), ("x-mine", "2")];
    let headers = headers.map(|(name, value)| json!({ "name": name, "value": value }));
    let own = json!({ "httpGet": { "path": "/health", "port": port, "httpHeaders": headers } });
    let wanted =
        "connection: close\nhost: shop.example\nuser-agent: kube-probe/1.35\nx-mine: 1\nx-mine: 2";
    assert_eq!(asked(own, &kubelets).await, (200, wanted.to_owned()));
}

#[tokio::test]
async fn the_answer_is_the_applications_and_no_longer_than_the_kubelet_reads() {
    let router = Router::new()
        .route("/ill", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, "no database") }))
        .route("/long", get(|| async { "x".repeat(1 << 20) }))
        .route("/again", get(|| async { Redirect::temporary("/ill") }))
        .route("/away", get(|| async { Redirect::temporary("http://elsewhere.example/") }))
        .route("/a/beside", get(|| async { Redirect::temporary("ill") }))
        .route("/a/ill", get(|| async { (StatusCode::GONE, "gone") }))
        .route("/round", get(|| async { Redirect::temporary("/round") }));
    let port = application(router).await;
    let ask =
        async |path: &str| asked(json!({ "httpGet": { "path": path, "port": port } }), &[]).await;
    assert_eq!(ask("/ill").await, (503, "no database".to_owned()));
    let (status, body) = ask("/long").await;
    assert_eq!((status, body.len()), (200, 10 << 10));
    // Redirects within the pod are followed; one that leads away means that somebody answers.
    assert_eq!(ask("/again").await.0, 503);
    assert_eq!(ask("/away").await.0, 307);
    assert_eq!(ask("/a/beside").await.0, 410);
    assert_eq!(ask("/round").await, (500, "more than 10 redirects\n".to_owned()));
    assert_eq!(ask("/none").await.0, 404);
}

#[tokio::test]
async fn nobody_who_listens_is_a_failure_of_every_kind() {
    let port = TcpListener::bind((POD, 0)).await.unwrap().local_addr().unwrap().port();
    for prober in [
        json!({ "httpGet": { "port": port } }),
        json!({ "httpGet": { "port": port, "scheme": "HTTPS" } }),
        json!({ "tcpSocket": { "port": port } }),
        json!({ "grpc": { "port": port } }),
    ] {
        let (status, body) = asked(prober, &[]).await;
        assert_eq!(status, 500);
        let wanted = format!("127.0.0.1:{port} cannot be reached: Connection refused");
        assert!(body.starts_with(&wanted), "{body}");
    }
    let (status, body) = probes(json!({ "tcpSocket": { "port": port } }))
        .answer("/app-health/other/livez", &HeaderMap::new())
        .await;
    assert_eq!(status, 404);
    assert!(String::from_utf8(body).unwrap().contains("has no probe /app-health/other/livez"));
}

#[tokio::test(start_paused = true)]
async fn an_application_that_hangs_is_given_up_after_the_probes_own_timeout() {
    // Accepts and says nothing; the clock is the test's, and stands still while anything happens.
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let of_open = asked(json!({ "tcpSocket": { "port": port } }), &[]).await;
    assert_eq!(of_open.0, 200);
    for (prober, said) in [
        (json!({ "httpGet": { "port": port } }), "no answer within 1s\n"),
        (json!({ "httpGet": { "port": port }, "timeoutSeconds": 0 }), "no answer within 1s\n"),
        (json!({ "grpc": { "port": port }, "timeoutSeconds": 7 }), "no answer within 7s\n"),
        (
            json!({ "httpGet": { "port": port, "scheme": "HTTPS" }, "timeoutSeconds": 2 }),
            "no answer within 2s\n",
        ),
    ] {
        assert_eq!(asked(prober, &[]).await, (500, said.to_owned()));
    }
}

#[tokio::test]
async fn grpc_probes_ask_the_health_service() {
    let (reporter, service) = tonic_health::server::health_reporter();
    reporter.set_service_status("up", tonic_health::ServingStatus::Serving).await;
    reporter.set_service_status("down", tonic_health::ServingStatus::NotServing).await;
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(incoming));
    let ask = async |service: &str| {
        asked(json!({ "grpc": { "port": port, "service": service } }), &[]).await
    };
    assert_eq!(ask("up").await, (200, "SERVING\n".to_owned()));
    assert_eq!(ask("").await.0, 200);
    assert_eq!(ask("down").await, (500, "the application says NOT_SERVING\n".to_owned()));
    assert_eq!(ask("none").await, (500, "service \"none\" is not known\n".to_owned()));
    // Whoever speaks no gRPC.
    let port = application(Router::new()).await;
    let (status, _) = asked(json!({ "grpc": { "port": port } }), &[]).await;
    assert_eq!(status, 500);
}

#[test]
fn a_hook_may_take_longer_than_a_probe() {
    let timeout = |path: &str| {
        let all = json!({ path: { "httpGet": { "port": 1 } } });
        Probers::parse(&all.to_string()).unwrap().0[path].timeout
    };
    assert_eq!(timeout("/app-health/a/livez"), Duration::from_secs(DEFAULT_TIMEOUT));
    for hook in ["/app-lifecycle/a/poststartz", "/app-lifecycle/a/prestopz"] {
        assert_eq!(timeout(hook), Duration::from_secs(HOOK_TIMEOUT));
    }
}

#[test]
fn what_the_variable_says_is_checked() {
    let parse = |path: &str, prober: Value| Probers::parse(&json!({ path: prober }).to_string());
    let port = json!({ "port": 1 });
    assert!(parse("/app-health/a/livez", json!({ "grpc": port })).is_ok());
    assert_eq!(Probers::parse("").unwrap(), Probers::default());
    for (path, prober, said) in [
        ("/healthz", json!({ "grpc": port }), "is neither /app-health/CONTAINER/livez"),
        ("/app-health//livez", json!({ "grpc": port }), "is neither /app-health/CONTAINER/livez"),
        ("/app-health/a/prestopz", json!({ "grpc": port }), "/app-lifecycle/CONTAINER/poststartz"),
        ("/app-lifecycle/a/livez", json!({ "grpc": port }), "/app-lifecycle/CONTAINER/poststartz"),
        ("/app-health/a/livez", json!({}), "exactly one of httpGet, tcpSocket and grpc"),
        ("/app-health/a/livez", json!({ "grpc": port, "tcpSocket": port }), "exactly one"),
        ("/app-health/a/livez", json!({ "grpc": { "port": 0 } }), "cannot be read"),
        ("/app-health/a/livez", json!({ "httpGet": { "port": "http" } }), "cannot be read"),
    ] {
        let error = parse(path, prober).unwrap_err().to_string();
        assert!(error.contains(said), "{error}");
    }
}

#[tokio::test]
async fn no_certificate_of_an_application_is_looked_at() {
    use rustls::pki_types::pem::PemObject as _;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    let pem = include_bytes!("tests/expired.pem");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![CertificateDer::from_pem_slice(pem).unwrap()],
            PrivateKeyDer::from_pem_slice(pem).unwrap(),
        )
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind((POD, 0)).await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            let secret = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecret";
            stream.write_all(secret).await.unwrap();
        }
    });
    let over_tls = json!({ "httpGet": { "port": port, "scheme": "HTTPS" } });
    assert_eq!(asked(over_tls, &[]).await, (200, "secret".to_owned()));
    // And one that is led there by a redirect.
    let there = format!("https://127.0.0.1:{port}/");
    let redirect = get(async move || Redirect::permanent(&there));
    let port = application(Router::new().route("/", redirect)).await;
    let plain = json!({ "httpGet": { "port": port } });
    assert_eq!(asked(plain, &[]).await, (200, "secret".to_owned()));
}
