//! Control planes that are none: what real ones cannot be asked for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use envoy_types::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use rustls::ServerConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_stream::Empty;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Identity, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

use pilothouse_testkit::certificates::Issued;
use pilothouse_testkit::places;

/// The name that every server here has.
pub(crate) const PILOT: &str = "istio-pilot.istio-system.svc";

/// A gRPC server that ends every ADS stream with one status, and keeps what `authorization` said.
#[derive(Clone, Debug)]
pub(crate) struct Refusing {
    status: Status,
    bearers: Arc<Mutex<Vec<String>>>,
}

impl Refusing {
    /// Over TLS if it has a certificate. It ends with the test's runtime.
    pub(crate) async fn start(status: Status, issued: Option<&Issued>) -> (Self, SocketAddr) {
        let refusing = Self { status, bearers: Arc::default() };
        let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(issued) = issued {
            let identity = Identity::from_pem(&issued.certificate, &issued.key);
            server = server.tls_config(ServerTlsConfig::new().identity(identity)).unwrap();
        }
        let service = AggregatedDiscoveryServiceServer::new(refusing.clone());
        let served =
            server.add_service(service).serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(served);
        (refusing, address)
    }

    /// What the last stream said.
    pub(crate) fn last_bearer(&self) -> Option<String> {
        self.bearers.lock().unwrap().last().cloned()
    }

    fn refuse<T>(&self, request: &Request<T>) -> Status {
        let bearer = request.metadata().get("authorization");
        let bearer = bearer.map_or("nothing", |bearer| bearer.to_str().unwrap());
        self.bearers.lock().unwrap().push(bearer.to_owned());
        self.status.clone()
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Refusing {
    type StreamAggregatedResourcesStream = Empty<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = Empty<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(self.refuse(&request))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        Err(self.refuse(&request))
    }
}

/// A server that makes the handshake, says SETTINGS, and listens. It ends with the test's runtime.
pub(crate) async fn tls_server(config: ServerConfig) -> SocketAddr {
    let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                _ = stream.write_all(b"\0\0\0\x04\0\0\0\0\0").await;
                let mut heard = [0; 1024];
                while stream.read(&mut heard).await.is_ok_and(|length| length > 0) {}
            });
        }
    });
    address
}

/// A monitoring port whose clock says this.
pub(crate) async fn clock(date: String) -> SocketAddr {
    let listener = TcpListener::bind((places::address(), 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut heard = [0; 1024];
            _ = stream.read(&mut heard).await;
            let answer = format!("HTTP/1.1 200 OK\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n");
            _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    address
}
