//! The TLS handshake with the control plane, as the proxy makes it, with a verifier that keeps what it saw.
//!
//! The server's certificate is verified as Envoy does it, so nothing is said to a server that the proxy
//! would not talk to; in particular no token.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, Error, SignatureScheme,
};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::connect::{self, Protocol};
use crate::causes::with_causes;
use crate::sidecar::credentials::Credentials;
use crate::sidecar::credentials::files::{Authorities, CertificateFacts, LoadedClient};

/// What the files say, ready to be used.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) credentials: Credentials,
    pub(super) authorities: Authorities,
    pub(super) client: LoadedClient,
}

/// Why there is no TLS connection, or none any more.
#[derive(Clone, Debug)]
pub(super) enum TlsFailure {
    /// Nothing came within the limit.
    Timeout,
    /// The server's certificate is not accepted here.
    Certificate(CertificateError),
    /// The server ended it, with this reason.
    Alert(AlertDescription),
    /// It was ended without a reason, or with something that is no TLS.
    Other(String),
}

/// What was seen of the other side.
#[derive(Clone, Debug, Default)]
pub(super) struct Seen {
    pub(super) server: Option<CertificateFacts>,
    /// Whether it asked for a client certificate.
    pub(super) asked: bool,
    /// What was agreed on, `None` if the server speaks no ALPN.
    pub(super) protocol: Option<Vec<u8>>,
}

/// A TLS client that remembers; one for each walk.
#[derive(Debug)]
pub(super) struct TlsClient {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
    verifier: Arc<Verifier>,
    resolver: Arc<Resolver>,
}

impl TlsClient {
    /// # Errors
    /// With what of the credentials is of no use.
    pub(super) fn new(loaded: &Loaded) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let inner = WebPkiServerVerifier::builder_with_provider(
            loaded.authorities.roots.clone(),
            provider.clone(),
        );
        let inner = inner.build().map_err(|error| with_causes(&error))?;
        let verifier = Arc::new(Verifier { inner, server: OnceLock::new() });
        let key = match &loaded.client {
            LoadedClient::Certificate(certificate) => Some(certificate.key.clone()),
            LoadedClient::None | LoadedClient::Token(_) => None,
        };
        let resolver = Arc::new(Resolver { key, asked: AtomicBool::new(false) });
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|error| with_causes(&error))?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(resolver.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        // Each connection is to be verified anew.
        config.resumption = rustls::client::Resumption::disabled();
        let name = ServerName::try_from(loaded.credentials.server_name.clone());
        let name = name.map_err(|error| error.to_string())?;
        Ok(Self { config: Arc::new(config), name, verifier, resolver })
    }

    /// The handshake, over a connection that is there.
    ///
    /// # Errors
    /// See [`TlsFailure`].
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        limit: Duration,
    ) -> Result<TlsStream<TcpStream>, TlsFailure> {
        let connected = TlsConnector::from(self.config.clone()).connect(self.name.clone(), stream);
        match timeout(limit, connected).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(TlsFailure::from_io(&error)),
            Err(_) => Err(TlsFailure::Timeout),
        }
    }

    /// A connection of its own, with the handshake made.
    ///
    /// # Errors
    /// In words.
    pub(super) async fn connect(
        &self,
        address: SocketAddr,
        limit: Duration,
    ) -> Result<TlsStream<TcpStream>, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        self.handshake(stream, limit).await.map_err(|failure| format!("{failure:?}"))
    }

    /// What was seen so far.
    pub(super) fn seen(&self, stream: Option<&TlsStream<TcpStream>>) -> Seen {
        Seen {
            server: self.verifier.server.get().cloned().flatten(),
            asked: self.resolver.asked.load(Ordering::Relaxed),
            protocol: stream
                .and_then(|stream| stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec)),
        }
    }
}

/// What comes over the connection first. With TLS 1.3 a server says only here that it does not accept the
/// client's certificate: for the client the handshake is over before.
///
/// # Errors
/// The server has ended the connection, or says nothing.
pub(super) async fn first_words(
    stream: TlsStream<TcpStream>,
    limit: Duration,
) -> Result<Protocol, TlsFailure> {
    match timeout(limit, connect::exchange_preface(stream)).await {
        Ok(Ok(heard)) => Ok(Protocol::from_bytes(&heard)),
        Ok(Err(error)) => Err(TlsFailure::from_io(&error)),
        Err(_) => Err(TlsFailure::Timeout),
    }
}

impl TlsFailure {
    fn from_io(error: &io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
            Some(Error::InvalidCertificate(wrong)) => Self::Certificate(wrong.clone()),
            Some(Error::AlertReceived(alert)) => Self::Alert(*alert),
            Some(other) => Self::Other(with_causes(other)),
            None => Self::Other(with_causes(error)),
        }
    }
}

/// The usual verification, and what was verified.
#[derive(Debug)]
struct Verifier {
    inner: Arc<WebPkiServerVerifier>,
    server: OnceLock<Option<CertificateFacts>>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.server.get_or_init(|| CertificateFacts::read(certificate).ok());
        self.inner.verify_server_cert(certificate, intermediates, name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// The client's certificate, and whether it was asked for.
#[derive(Debug)]
struct Resolver {
    key: Option<Arc<CertifiedKey>>,
    asked: AtomicBool,
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.asked.store(true, Ordering::Relaxed);
        self.key.clone()
    }

    // Else it is not even asked, and nobody would know that the server wants one.
    fn has_certs(&self) -> bool {
        true
    }
}
