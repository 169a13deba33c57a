//! What an application does through its sidecar, and the workloads that answer it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use axum::extract::Request;
use axum::http::HeaderMap;
use axum::serve::ListenerExt as _;
use bytes::Bytes;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::task::AbortOnDropHandle;

use crate::mesh::{Kind, Mesh, Service};

/// Where workloads listen, on every address.
pub(crate) const HTTP_TARGET: u16 = 18080;
pub(crate) const TCP_TARGET: u16 = 18081;

const PATIENCE: Duration = Duration::from_secs(15);

/// Until dropped.
pub(crate) struct Workloads {
    _http: AbortOnDropHandle<()>,
    _tcp: AbortOnDropHandle<()>,
}

impl Workloads {
    pub(crate) async fn start() -> Self {
        let http = TcpListener::bind((Ipv4Addr::UNSPECIFIED, HTTP_TARGET)).await.unwrap();
        // Small answers must not wait for a delayed ACK.
        let http = http.tap_io(|connection| connection.set_nodelay(true).unwrap());
        let router = axum::Router::new().fallback(async |request: Request| {
            let mut headers = HeaderMap::new();
            let kind = request.headers().get("content-type");
            let is_grpc = kind.is_some_and(|kind| kind == "application/grpc");
            // An answer that comes before the request's end would end the request.
            _ = axum::body::to_bytes(request.into_body(), 1024).await;
            // A reply of gRPC that is all headers.
            if is_grpc {
                headers.insert("content-type", "application/grpc".parse().unwrap());
                headers.insert("grpc-status", "0".parse().unwrap());
                return (headers, "");
            }
            (headers, "here")
        });
        let http = tokio::spawn(async move { axum::serve(http, router).await.unwrap() });
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, TCP_TARGET)).await.unwrap();
        let tcp = tokio::spawn(async move {
            while let Ok((mut connection, _)) = tcp.accept().await {
                _ = connection.write_all(b"here").await;
            }
        });
        Self { _http: AbortOnDropHandle::new(http), _tcp: AbortOnDropHandle::new(tcp) }
    }
}

/// Calls the service from this address, and gives how long it took: connect, request, answer.
pub(crate) async fn call(from: IpAddr, mesh: &Mesh, to: Service) -> Result<Duration, String> {
    let begun = Instant::now();
    let answered = async {
        let connection = connect(from, to.address()).await.map_err(|error| error.to_string())?;
        match to.kind() {
            Kind::Http => http(connection, &mesh.host(to)).await,
            Kind::Grpc => grpc(connection, &mesh.host(to)).await,
            Kind::Tcp => tcp(connection).await,
        }
    };
    let answered = tokio::time::timeout(PATIENCE, answered).await;
    answered.unwrap_or_else(|_| Err(format!("no answer in {PATIENCE:?}")))?;
    Ok(begun.elapsed())
}

async fn connect(from: IpAddr, to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.set_nodelay(true)?;
    socket.connect(to).await
}

async fn http(mut connection: TcpStream, host: &str) -> Result<(), String> {
    let request = format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    connection.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.map_err(|error| error.to_string())?;
    let good = answer.starts_with("HTTP/1.1 200") && answer.contains("here");
    if good { Ok(()) } else { Err(answer) }
}

async fn grpc(connection: TcpStream, host: &str) -> Result<(), String> {
    let explain = |error: h2::Error| error.to_string();
    let (mut client, driver) = h2::client::handshake(connection).await.map_err(explain)?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(async move { _ = driver.await }));
    let request = http::Request::post(format!("http://{host}/bench.Service/Call"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())
        .unwrap();
    let (answer, mut body) = client.send_request(request, false).map_err(explain)?;
    // A message of nothing: not compressed, of length 0.
    body.send_data(Bytes::from_static(&[0; 5]), true).map_err(explain)?;
    let answer = answer.await.map_err(explain)?;
    let status = answer.headers().get("grpc-status").and_then(|value| value.to_str().ok());
    let good = answer.status() == 200 && status == Some("0");
    if good { Ok(()) } else { Err(format!("{answer:?}")) }
}

async fn tcp(mut connection: TcpStream) -> Result<(), String> {
    let mut text = String::new();
    connection.read_to_string(&mut text).await.map_err(|error| error.to_string())?;
    if text == "here" { Ok(()) } else { Err("closed without a word".to_owned()) }
}
