//! xDS over TLS: clients of several libraries, what is refused and how, files that change, and the limits.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryResponse;
use envoy_types::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use pilothouse::app::{ControlPlaneConfig, TlsConfig};
use pilothouse::certificates::files::ServerFiles;
use pilothouse_testkit::certificates::{Authority, Issued, SecretVolume, Validity};
use pilothouse_testkit::xds_client::{self, PILOT};
use prost::Message;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, HandshakeKind, ProtocolVersion};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::Code;

use crate::c_core::CCore;
use crate::harness::{CDS, EDS, Server, ack, cluster, delta, eventually, in_time, sotw};

const SOTW: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";

const PROXY: &str = "spiffe://cluster.local/ns/default/sa/web";

/// A server with and without TLS, whose files are a mounted Secret.
pub(crate) struct Secure {
    pub(crate) server: Server,
    pub(crate) authority: Authority,
    volume: SecretVolume,
}

impl Secure {
    pub(crate) async fn start() -> Self {
        Self::with(|_| {}).await
    }

    pub(crate) async fn with(change: impl FnOnce(&mut ControlPlaneConfig)) -> Self {
        let authority = Authority::new("test CA");
        let volume = SecretVolume::new(&authority.server(&[PILOT]), &authority.pem());
        let files = ServerFiles {
            certificate: volume.path("tls.crt"),
            key: volume.path("tls.key"),
            client_ca: Some(volume.path("ca.crt")),
        };
        let server = Server::with(|config| {
            config.tls = Some(TlsConfig { address: ([127, 0, 0, 1], 0).into(), files });
            change(config);
        })
        .await;
        server.ready().await;
        Self { server, authority, volume }
    }

    fn address(&self) -> SocketAddr {
        self.server.running.secure_grpc.unwrap()
    }

    fn own(&self) -> Issued {
        self.authority.client(PROXY)
    }

    /// A connection of a client with a certificate of its own.
    async fn channel(&self) -> tonic::transport::Channel {
        let pem = self.authority.pem();
        xds_client::connect_by_tls(self.address(), &pem, Some(&self.own())).await.unwrap()
    }

    /// What a peer is told that speaks plaintext to it.
    fn hint(&self) -> String {
        let port = self.server.grpc().port();
        format!("gRPC without TLS is served on port {port} (--grpc-addr).")
    }

    async fn metric(&self, sample: &str) -> Result<f64, String> {
        let url = format!("http://{}/metrics", self.server.running.monitoring);
        let (_, page) = pilothouse_testkit::get(&url).await?;
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.and_then(|value| value.parse().ok()).ok_or_else(|| format!("no {sample}: {page}"))
    }

    async fn handshakes(&self, result: &str) -> f64 {
        let sample = format!("pilothouse_tls_handshakes_total{{result=\"{result}\"}}");
        self.metric(&sample).await.unwrap()
    }

    /// Waits until so many handshakes have ended so.
    async fn ended(&self, result: &str, wanted: f64) {
        eventually(&format!("{wanted} handshakes to be {result}"), async || {
            match self.handshakes(result).await {
                count if count == wanted => Ok(()),
                count => Err(format!("{count}")),
            }
        })
        .await;
    }

    async fn certificates(&self) -> Result<Value, String> {
        let url = format!("http://{}/debug/sourcez", self.server.running.http);
        let page = pilothouse_testkit::json(&url).await?;
        Ok(page["certificates"].clone())
    }
}

/// A TLS connection; an error is what the client saw.
async fn handshake(
    address: SocketAddr,
    config: Arc<ClientConfig>,
) -> io::Result<TlsStream<TcpStream>> {
    let socket = TcpStream::connect(address).await?;
    let name = ServerName::try_from(PILOT).unwrap();
    in_time("a handshake", TlsConnector::from(config).connect(name, socket)).await
}

/// What a client is told that is refused: with TLS 1.3 it reads that after its own handshake is done.
async fn refusal(address: SocketAddr, config: ClientConfig) -> String {
    let stream = handshake(address, Arc::new(config)).await;
    let error = match stream {
        Err(error) => error,
        Ok(mut stream) => {
            let mut answer = [0; 100];
            let read = in_time("an alert", stream.read(&mut answer)).await;
            read.expect_err("an alert, not an answer")
        }
    };
    error.to_string()
}

/// Clusters of services, without those that every proxy has.
fn services(response: &DiscoveryResponse) -> usize {
    let clusters = response.resources.iter().map(|any| String::from_utf8_lossy(&any.value));
    clusters.filter(|cluster| cluster.contains("outbound|80||")).count()
}

async fn is_served(secure: &Secure) {
    let mut stream = xds_client::open_sotw(secure.channel().await).await;
    stream.say(sotw(CDS, &[])).await;
    assert!(!stream.response().await.resources.is_empty());
}

#[tokio::test]
async fn tonic_is_served_in_both_variants_and_follows_changes() {
    let secure = Secure::start().await;
    let channel = secure.channel().await;
    let mut sotw_stream = xds_client::open_sotw(channel.clone()).await;
    sotw_stream.say(sotw(CDS, &[])).await;
    assert_eq!(services(&sotw_stream.response().await), 1);
    let mut stream = xds_client::open_delta(channel).await;
    stream.say(delta(EDS, &[&cluster("web")])).await;
    let response = stream.response().await;
    stream.say(ack(&response)).await;
    secure.server.write("web", &["10.0.0.9"]);
    let changed = stream.response().await;
    assert_eq!(changed.resources.len(), 1);
    secure.ended("complete", 1.0).await;
    assert_eq!(secure.metric("pilothouse_connections{door=\"secure gRPC\"}").await, Ok(1.0));
}

#[tokio::test]
async fn both_versions_are_spoken_and_nothing_is_lost_of_megabytes() {
    let secure = Secure::start().await;
    for number in 0..1500 {
        secure.server.write(&format!("service-with-a-long-name-{number}"), &["10.0.0.1"]);
    }
    eventually("all services to be known", async || match secure.metric("pilot_services").await {
        Ok(1501.0) => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    for (version, wanted) in [
        (&rustls::version::TLS12, ProtocolVersion::TLSv1_2),
        (&rustls::version::TLS13, ProtocolVersion::TLSv1_3),
    ] {
        let roots = secure.authority.roots();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let own = secure.own();
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(own.chain(), own.private_key())
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = handshake(secure.address(), Arc::new(config)).await.unwrap();
        assert_eq!(stream.get_ref().1.protocol_version(), Some(wanted));
        let (client, connection) = h2::client::handshake(stream).await.unwrap();
        let running = tokio::spawn(connection);
        let request = http::Request::post(format!("https://{PILOT}{SOTW}"))
            .header("content-type", "application/grpc")
            .body(())
            .unwrap();
        let mut client = client.ready().await.unwrap();
        let (response, mut send) = client.send_request(request, false).unwrap();
        send.send_data(xds_client::message(&sotw(CDS, &[])), false).unwrap();
        let mut body = in_time("a response", response).await.unwrap().into_body();
        let (mut message, mut wanted_len) = (Vec::new(), usize::MAX);
        while message.len() < wanted_len {
            let data = in_time("data", body.data()).await.unwrap().unwrap();
            body.flow_control().release_capacity(data.len()).unwrap();
            message.extend_from_slice(&data);
            if message.len() >= 5 {
                wanted_len = 5 + u32::from_be_bytes(message[1..5].try_into().unwrap()) as usize;
            }
        }
        assert!(message.len() > 300_000, "{}", message.len());
        let response = DiscoveryResponse::decode(&message[5..]).unwrap();
        assert_eq!(services(&response), 1501);
        running.abort();
    }
}

#[tokio::test]
async fn c_core_is_served_and_is_told_why_where_it_is_not() {
    let secure = Secure::start().await;
    let client = CCore::start(secure.address());
    let target = secure.address().to_string();
    let request = [sotw(CDS, &[]).encode_to_vec()];
    // Without TLS.
    let answer = client.stream(&target, SOTW, &request, 1).await;
    assert_eq!(answer.code, "UNAVAILABLE", "{answer:?}");
    assert!(answer.details.contains(&secure.hint()), "{answer:?}");
    client.trust(&secure.authority.pem(), Some(&secure.own()), PILOT).await;
    let answer = client.stream(&target, SOTW, &request, 1).await;
    let response = DiscoveryResponse::decode(&*answer.answers[0]).unwrap();
    assert_eq!(services(&response), 1);
    // By TLS where there is none.
    let plain = secure.server.grpc().to_string();
    let answer = client.stream(&plain, SOTW, &request, 1).await;
    assert_eq!(answer.code, "UNAVAILABLE", "{answer:?}");
    // By an unknown CA.
    client.trust(&Authority::new("other").pem(), Some(&secure.own()), PILOT).await;
    let answer = client.stream(&target, SOTW, &request, 1).await;
    assert_eq!(answer.code, "UNAVAILABLE", "{answer:?}");
    // It closes without an alert.
    eventually("the refusal to be counted", async || {
        match secure.handshakes("closed").await + secure.handshakes("refused_by_peer").await {
            0.0 => Err("none".to_owned()),
            _ => Ok(()),
        }
    })
    .await;
}

#[tokio::test]
async fn http2_must_be_agreed_on() {
    let secure = Secure::start().await;
    let config = (*secure.authority.client_config(Some(&secure.own()))).clone();
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let mut config = config.clone();
        config.alpn_protocols = protocols;
        let said = refusal(secure.address(), config).await;
        assert!(said.contains("NoApplicationProtocol"), "{said}");
    }
    secure.ended("no_http2", 2.0).await;
    is_served(&secure).await;
}

#[tokio::test]
async fn a_client_certificate_must_hold_and_may_be_left_out() {
    let secure = Secure::start().await;
    let config = |own: &Issued| (*secure.authority.client_config(Some(own))).clone();
    for (own, alert) in [
        (Authority::new("other CA").client(PROXY), "UnknownCA"),
        // The name of the CA is right, its key is not.
        (Authority::new("test CA").client(PROXY), "DecryptError"),
        (secure.authority.client_valid(PROXY, Validity::Expired), "CertificateExpired"),
        (secure.authority.client_valid(PROXY, Validity::NotYet), "BadCertificate"),
        (secure.authority.server(&["web"]), "BadCertificate"),
    ] {
        let said = refusal(secure.address(), config(&own)).await;
        assert!(said.contains(alert) || alert == "BadCertificate", "{alert}: {said}");
        assert!(said.contains("received fatal alert"), "{said}");
    }
    secure.ended("client_certificate", 5.0).await;
    handshake(secure.address(), secure.authority.client_config(None)).await.unwrap();
    secure.ended("complete", 1.0).await;
    let foreign = Authority::new("other CA").client_config(None);
    let refused = handshake(secure.address(), foreign).await.unwrap_err().to_string();
    assert!(refused.contains("UnknownIssuer"), "{refused}");
    secure.ended("refused_by_peer", 1.0).await;
}

#[tokio::test]
async fn plaintext_is_told_where_it_belongs() {
    let secure = Secure::start().await;
    let hint = secure.hint();
    let answer = answered(secure.address(), b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let text = String::from_utf8_lossy(&answer);
    assert!(text.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{text}");
    assert!(text.contains("got no TLS") && text.contains(&hint), "{text}");
    secure.ended("plaintext", 1.0).await;
    let channel = xds_client::connect(secure.address()).await;
    let requests = tokio_stream::iter([sotw(CDS, &[])]);
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let refused = in_time("an answer", client.stream_aggregated_resources(requests)).await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains(&hint), "{refused}");
    secure.ended("plaintext", 2.0).await;
}

/// What is answered until the server closes.
async fn answered(address: SocketAddr, said: &[u8]) -> Vec<u8> {
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(said).await.unwrap();
    let mut answer = Vec::new();
    in_time("the end", socket.read_to_end(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn tls_on_the_port_without_and_garbage_on_the_one_with_get_an_alert() {
    let secure = Secure::start().await;
    let config = (*secure.authority.client_config(None)).clone();
    let said = refusal(secure.server.grpc(), config).await;
    assert!(said.contains("HandshakeFailure"), "{said}");
    for garbage in [&b"\0\0\0\0\0\0"[..], b"SSH-2.0-x\r\n", &[0x15; 100]] {
        let answer = answered(secure.address(), garbage).await;
        assert_eq!(answer, [21, 3, 1, 0, 2, 2, 50], "a decode_error");
    }
    // It looks like TLS at first.
    let answer = answered(secure.address(), &[22, 3, 1, 0, 5, 99, 0, 0, 1, 7]).await;
    assert_eq!((answer[0], answer.len()), (21, 7), "{answer:?}");
    secure.ended("protocol", 4.0).await;
    is_served(&secure).await;
}

#[tokio::test]
async fn a_handshake_that_never_ends_is_ended() {
    let secure = Secure::start().await;
    // The header of a record and nothing of what it announces; and nothing at all.
    for said in [&[22, 3, 1, 1, 0][..], &[]] {
        let mut socket = TcpStream::connect(secure.address()).await.unwrap();
        socket.write_all(said).await.unwrap();
        let mut answer = Vec::new();
        let read = in_time("the end", socket.read_to_end(&mut answer)).await;
        assert!(read.is_err() || answer.is_empty(), "{answer:?}");
    }
    secure.ended("timeout", 2.0).await;
    let socket = TcpStream::connect(secure.address()).await.unwrap();
    drop(socket);
    secure.ended("closed", 1.0).await;
}

#[tokio::test]
async fn sessions_are_resumed_until_the_certificate_changes() {
    let secure = Secure::start().await;
    let config = secure.authority.client_config(Some(&secure.own()));
    let kind = async || {
        let mut stream = handshake(secure.address(), config.clone()).await.unwrap();
        // The ticket comes before the server's first frame.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        in_time("a frame", stream.read(&mut [0; 9])).await.unwrap();
        stream.get_ref().1.handshake_kind().unwrap()
    };
    assert_eq!(kind().await, HandshakeKind::Full);
    assert_eq!(kind().await, HandshakeKind::Resumed);
    secure.ended("resumed", 1.0).await;
    secure.volume.swap(&secure.authority.server(&[PILOT]), &secure.authority.pem());
    reloaded(&secure, 1).await;
    assert_eq!(kind().await, HandshakeKind::Full);
}

/// Seconds since 1970.
fn now() -> f64 {
    SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs_f64()
}

async fn reloaded(secure: &Secure, times: u64) {
    eventually("the files to be read again", async || match secure.certificates().await? {
        page if page["reloads"] == times => Ok(()),
        page => Err(page.to_string()),
    })
    .await;
}

#[tokio::test]
async fn certificates_change_under_open_streams() {
    let secure = Secure::start().await;
    let mut stream = xds_client::open_delta(secure.channel().await).await;
    stream.say(delta(EDS, &[&cluster("web")])).await;
    let response = stream.response().await;
    stream.say(ack(&response)).await;
    // A new CA for both: first both are trusted, then the new one alone.
    let next = Authority::new("next CA");
    let (old_proxy, new_proxy) = (secure.own(), next.client(PROXY));
    let both = secure.authority.pem() + &next.pem();
    secure.volume.swap(&next.server(&[PILOT]), &both);
    reloaded(&secure, 1).await;
    for own in [&old_proxy, &new_proxy] {
        let stream = handshake(secure.address(), next.client_config(Some(own))).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        assert_ne!(chain.len(), 0);
        let channel = xds_client::connect_by_tls(secure.address(), &next.pem(), Some(own)).await;
        let mut other = xds_client::open_sotw(channel.unwrap()).await;
        other.say(sotw(CDS, &[])).await;
        other.response().await;
    }
    secure.volume.swap(&next.server(&[PILOT]), &next.pem());
    reloaded(&secure, 2).await;
    let config = next.client_config(Some(&old_proxy));
    let said = refusal(secure.address(), (*config).clone()).await;
    assert!(said.contains("UnknownCA"), "{said}");
    // The stream of before goes on.
    secure.server.write("web", &["10.0.0.9"]);
    assert_eq!(stream.response().await.resources.len(), 1);
}

#[tokio::test]
async fn files_that_cannot_be_used_change_nothing_and_are_told() {
    let secure = Secure::start().await;
    let good = secure.authority.server(&[PILOT]);
    let bad = Issued { key: secure.authority.server(&[PILOT]).key, ..good.clone() };
    secure.volume.swap(&bad, &secure.authority.pem());
    eventually("the fault to be told", async || {
        let page = secure.certificates().await?;
        let text = page["unusable"].as_str().unwrap_or_default();
        let told = text.contains("--tls-key") && text.contains("the key is not that of");
        if told { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    assert_eq!(secure.metric("pilothouse_certificate_unusable").await, Ok(1.0));
    let failed = "pilothouse_certificate_reloads_total{result=\"failed\"}";
    assert_eq!(secure.metric(failed).await, Ok(1.0));
    is_served(&secure).await;
    secure.volume.swap(&good, &secure.authority.pem());
    reloaded(&secure, 1).await;
    assert_eq!(secure.metric("pilothouse_certificate_unusable").await, Ok(0.0));
    is_served(&secure).await;
    // One that has expired is served, since nobody is better served by none.
    let expired = secure.authority.server_valid(&[PILOT], Validity::Expired);
    secure.volume.swap(&expired, &secure.authority.pem());
    reloaded(&secure, 2).await;
    let left = secure.metric("pilothouse_certificate_expiry_seconds{certificate=\"server\"}").await;
    assert!(left.clone().unwrap() < now(), "{left:?}");
    let refused = handshake(secure.address(), secure.authority.client_config(None)).await;
    let said = refused.unwrap_err().to_string();
    assert!(said.contains("certificate expired"), "{said}");
    let left = secure.metric("pilothouse_certificate_expiry_seconds{certificate=\"client_ca\"}");
    assert!(left.await.unwrap() > now());
}

#[tokio::test]
async fn limits_hold_as_without_tls() {
    let secure = Secure::with(|config| {
        config.limits.request_bytes = 10_000;
        config.limits.first_request = Duration::from_millis(200);
        config.limits.streams_per_peer = 2;
    })
    .await;
    let channel = secure.channel().await;
    let mut stream = xds_client::open_sotw(channel.clone()).await;
    stream.say(sotw(EDS, &[&"x".repeat(20_000)])).await;
    assert_eq!(stream.refusal().await.0, Code::OutOfRange);
    let mut stream = xds_client::open_sotw(channel.clone()).await;
    assert_eq!(stream.refusal().await.0, Code::DeadlineExceeded);
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = xds_client::open_sotw(channel.clone()).await;
        stream.say(sotw(CDS, &[])).await;
        stream.response().await;
        open.push(stream);
    }
    let mut stream = xds_client::open_sotw(channel).await;
    stream.say(sotw(CDS, &[])).await;
    assert_eq!(stream.refusal().await.0, Code::ResourceExhausted);
}

/// The connections of both ports are counted together.
#[tokio::test]
async fn both_ports_share_the_limit_of_connections() {
    let secure = Secure::with(|config| config.limits.connections = 2).await;
    let address = secure.address();
    let one = TcpStream::connect(address).await.unwrap();
    let open = |door: &str| format!("pilothouse_connections{{door=\"{door}\"}}");
    let becomes = async |door: &str, wanted: f64| {
        eventually("the connections", async || match secure.metric(&open(door)).await? {
            count if count == wanted => Ok(()),
            count => Err(format!("{door}: {count}")),
        })
        .await;
    };
    becomes("secure gRPC", 1.0).await;
    // One address may have one of two.
    let two = TcpStream::connect(secure.server.grpc()).await.unwrap();
    becomes("gRPC", 1.0).await;
    becomes("secure gRPC", 0.0).await;
    drop((one, two));
}

#[test]
fn certificates_that_cannot_be_used_refuse_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new("test CA");
    let (certificate, key) = authority.server(&[PILOT]).write(folder.path());
    fs::write(folder.path().join("ca.crt"), "").unwrap();
    let client_ca = Some(folder.path().join("ca.crt"));
    let files = ServerFiles { certificate, key, client_ca };
    let refused = pilothouse::certificates::Certificates::load(files).map(drop).unwrap_err();
    assert!(refused.to_string().ends_with("ca.crt: is empty"), "{refused}");
}
