//! One question to the application, over a connection of its own, as the kubelet asks it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HOST, LOCATION, TE, TRANSFER_ENCODING, UPGRADE,
    USER_AGENT,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_rustls::TlsConnector;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::{Grpc, HttpGet, ProbeResponse, Scheme};
use crate::causes::with_causes;

/// Whose connections to the pod's own address are not led to Envoy: istio-init spares this source, as it
/// does for Envoy's own calls to the application.
const UNCAPTURED_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The kubelet reads no more of an answer either.
const BODY_BYTES: usize = 10 << 10;
/// Go's client, which is the kubelet's, follows as many.
const REDIRECTS: usize = 10;

/// A connection to the application.
pub(in crate::sidecar::agent) async fn connect(
    pod: IpAddr,
    port: u16,
) -> Result<TcpStream, String> {
    let address = SocketAddr::new(pod, port);
    let connected = async {
        // IPv6 is not captured.
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        if address.is_ipv4() {
            socket.bind((UNCAPTURED_SOURCE, 0).into())?;
        }
        socket.connect(address).await
    };
    connected.await.map_err(|error: std::io::Error| format!("{address} cannot be reached: {error}"))
}

/// GET, with redirects followed as long as they lead to the pod itself.
pub(super) async fn http(
    pod: IpAddr,
    get: &HttpGet,
    headers: &HeaderMap,
    tls: &Arc<ClientConfig>,
) -> Result<ProbeResponse, String> {
    let path = if get.path.starts_with('/') { get.path.clone() } else { format!("/{}", get.path) };
    let mut target = Target { scheme: get.scheme, port: get.port.get(), path };
    for _ in 0..=REDIRECTS {
        let request = request(pod, &target, get, headers)?;
        let stream = connect(pod, target.port).await?;
        let response = match target.scheme {
            Scheme::Http => exchange(stream, request, first_bytes).await?,
            Scheme::Https => {
                let name = ServerName::IpAddress(pod.into());
                let connected = TlsConnector::from(tls.clone()).connect(name, stream).await;
                let no_tls = |error| format!("{pod}:{}: no TLS: {error}", target.port);
                exchange(connected.map_err(no_tls)?, request, first_bytes).await?
            }
        };
        match target.redirected(&response, pod) {
            Some(next) => target = next,
            None => return Ok((response.status(), response.into_body())),
        }
    }
    Err(format!("more than {REDIRECTS} redirects"))
}

struct Target {
    scheme: Scheme,
    port: u16,
    path: String,
}

impl Target {
    /// Where a response sends whoever asked, if that is the pod.
    fn redirected(&self, response: &Response<Vec<u8>>, pod: IpAddr) -> Option<Self> {
        let followed = [301, 302, 303, 307, 308].contains(&response.status().as_u16());
        let location = response.headers().get(LOCATION).filter(|_| followed)?.to_str().ok()?;
        if !location.contains("://") {
            // Of the same server: a path, or one beside the one that was asked for. `//` names another.
            let asked = self.path.split(['?', '#']).next().unwrap_or_default();
            let folder = asked.rsplit_once('/').map_or("", |(folder, _)| folder);
            return match location.as_bytes() {
                [b'/', b'/', ..] => None,
                [b'/', ..] => Some(Self { path: location.to_owned(), ..*self }),
                _ => Some(Self { path: format!("{folder}/{location}"), ..*self }),
            };
        }
        let uri: Uri = location.parse().ok()?;
        let path = uri.path_and_query().map(|path| path.as_str().to_owned());
        let host = uri.host()?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if host.parse() != Ok(pod) {
            return None;
        }
        let scheme = match uri.scheme_str() {
            Some("https") => Scheme::Https,
            _ => Scheme::Http,
        };
        let port = uri.port_u16().unwrap_or(if scheme == Scheme::Https { 443 } else { 80 });
        Some(Self { scheme, port, path: path.unwrap_or_else(|| "/".to_owned()) })
    }
}

/// With the kubelet's headers and above them those of the probe.
fn request(
    pod: IpAddr,
    target: &Target,
    get: &HttpGet,
    headers: &HeaderMap,
) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(&target.path)
        .body(Empty::new())
        .map_err(|error| format!("path {:?}: {error}", target.path))?;
    let own = request.headers_mut();
    // What is about the connection to the agent.
    const HOP_BY_HOP: [HeaderName; 6] =
        [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING, UPGRADE, TE];
    own.extend(
        headers
            .iter()
            .filter(|(name, _)| !HOP_BY_HOP.contains(name))
            .map(|(name, value)| (name.clone(), value.clone())),
    );
    let host = SocketAddr::new(pod, target.port).to_string();
    own.insert(HOST, value(HOST.as_str(), &host)?);
    own.insert(CONNECTION, HeaderValue::from_static("close"));
    let mut given = HeaderMap::new();
    for header in &get.http_headers {
        let name: HeaderName = match header.name.as_str() {
            ":authority" => HOST,
            name => name.parse().map_err(|error| format!("header {name:?}: {error}"))?,
        };
        given.append(name, value(&header.name, &header.value)?);
    }
    for name in given.keys() {
        own.remove(name);
    }
    own.extend(given);
    Ok(request)
}

fn value(name: &str, value: &str) -> Result<HeaderValue, String> {
    value.parse().map_err(|error| format!("header {name:?}: {error}"))
}

/// Sends the request and reads the answer, of its body what `read` takes.
pub(in crate::sidecar::agent) async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    request: Request<Empty<Bytes>>,
    read: impl AsyncFnOnce(Incoming) -> Result<Vec<u8>, String>,
) -> Result<Response<Vec<u8>>, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(no_http)?;
    let asked = async {
        let (parts, body) = sender.send_request(request).await.map_err(no_http)?.into_parts();
        Ok(Response::from_parts(parts, read(body).await?))
    };
    tokio::pin!(asked);
    // The connection must be driven, and may end before the answer is read to its end.
    tokio::select! {
        answer = &mut asked => answer,
        _ = connection => asked.await,
    }
}

fn no_http(error: hyper::Error) -> String {
    format!("no answer in HTTP: {}", with_causes(&error))
}

/// The first bytes of a body.
async fn first_bytes(mut body: Incoming) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(no_http)?.into_data() {
            let room = BODY_BYTES - bytes.len();
            bytes.extend_from_slice(&data[..data.len().min(room)]);
            if bytes.len() == BODY_BYTES {
                break;
            }
        }
    }
    Ok(bytes)
}

/// `grpc.health.v1.Health/Check`.
pub(super) async fn grpc(pod: IpAddr, probe: &Grpc) -> Result<ProbeResponse, String> {
    let stream = connect(pod, probe.port.get()).await?;
    let said = |error: hyper::Error| format!("no answer in gRPC: {}", with_causes(&error));
    // Its tasks end with the connection, which is dropped here.
    let (mut sender, connection) =
        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(said)?;
    let message = HealthCheckRequest { service: probe.service.clone() }.encode_to_vec();
    let mut body = BytesMut::with_capacity(5 + message.len());
    body.put_u8(0);
    body.put_u32(u32::try_from(message.len()).map_err(|error| error.to_string())?);
    body.put_slice(&message);
    let address = SocketAddr::new(pod, probe.port.get());
    let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(CONTENT_TYPE, "application/grpc")
        .header(TE, "trailers")
        .header(USER_AGENT, concat!("pilothouse-probe/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(body.freeze()))
        .map_err(|error| error.to_string())?;
    let asked = async {
        let response = sender.send_request(request).await.map_err(said)?;
        let mut status = grpc_status(response.headers());
        let mut bytes = Vec::new();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            match frame.map_err(said)?.into_data() {
                Ok(data) if bytes.len() + data.len() <= BODY_BYTES => {
                    bytes.extend_from_slice(&data)
                }
                Ok(_) => return Err("the answer is too long".to_owned()),
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        status = grpc_status(&trailers).or(status);
                    }
                }
            }
        }
        match status.as_deref() {
            Some("0") => {}
            Some("12") => return Err("the application has no grpc.health.v1.Health".to_owned()),
            Some("5") => return Err(format!("service {:?} is not known", probe.service)),
            other => return Err(format!("gRPC status {}", other.unwrap_or("is missing"))),
        }
        let message = bytes.get(5..).filter(|_| bytes[0] == 0).ok_or("no message in the answer")?;
        let answer = HealthCheckResponse::decode(message).map_err(|error| error.to_string())?;
        match answer.status() {
            ServingStatus::Serving => Ok((StatusCode::OK, b"SERVING\n".to_vec())),
            other => Err(format!("the application says {}", other.as_str_name())),
        }
    };
    tokio::pin!(asked);
    tokio::select! {
        answer = &mut asked => answer,
        _ = connection => asked.await,
    }
}

fn grpc_status(headers: &HeaderMap) -> Option<String> {
    headers.get("grpc-status").and_then(|status| status.to_str().ok()).map(str::to_owned)
}

/// For TLS with whomever: the kubelet checks no certificate of an application either.
pub(super) fn accept_any_certificate() -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let schemes = provider.signature_verification_algorithms.supported_schemes();
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { schemes }))
        .with_no_client_auth();
    Ok(Arc::new(config))
}

/// Trusts nobody and accepts everybody. Signatures are not looked at: they would prove that the peer has
/// the key of a certificate which nobody vouches for, and old ones (X.509 v1) could not be read.
#[derive(Debug)]
struct AnyCertificate {
    schemes: Vec<SignatureScheme>,
}

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.schemes.clone()
    }
}
