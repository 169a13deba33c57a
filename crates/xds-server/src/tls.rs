//! TLS for xDS: what a listener shows and asks for, which can be replaced while it runs, and its handshakes.
//!
//! A handshake runs in its connection's own task (`handshake`), in turns, so that a flood of them delays
//! neither pushes nor other peers (`turns`). It ends with rustls' session, which the connection's task uses
//! directly. ALPN must agree on `h2`. A client certificate is verified if a CA for clients is configured
//! and the peer sends one; whether it must is for the user's [`Mesh`](crate::Mesh) to say, in words.
//!
//! Sessions are resumed by tickets that only this configuration can read, so the server keeps nothing for
//! them, and none survives a change of certificate or CA.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, SupportedProtocolVersion};
use thiserror::Error;

mod certificate;
pub(crate) mod handshake;
mod turns;

pub use certificate::{UnreadableCertificate, read_certificate};
use turns::HandshakeTurns;

/// The protocol that ALPN must agree on.
const H2: &[u8] = b"h2";

/// The other one that browsers and curl offer.
const HTTP1: &[u8] = b"http/1.1";

static VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS13, &TLS12];

/// Why a certificate cannot be served.
#[derive(Debug, Error)]
pub enum UnusableCertificate {
    /// Of the server's certificate and key.
    #[error("{0}")]
    Server(String),
    /// Of the CA for clients.
    #[error("{0}")]
    ClientCa(String),
}

/// What a TLS listener shows, and by which CA it verifies clients.
#[derive(Clone, Debug)]
pub struct TlsSettings(Arc<ServerConfig>);

impl TlsSettings {
    /// The server's certificates, its own first, with the key of that; and the certificates of the CA that
    /// client certificates must be signed by. Without a CA no client is asked for a certificate.
    ///
    /// # Errors
    /// The key does not fit, or a certificate cannot be used.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        client_ca: Option<Vec<CertificateDer<'static>>>,
    ) -> Result<Self, UnusableCertificate> {
        let server = |error: rustls::Error| UnusableCertificate::Server(in_words(&error));
        let provider = Arc::new(ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&VERSIONS)
            .map_err(server)?;
        let builder = match client_ca {
            None => builder.with_no_client_auth(),
            Some(certificates) => {
                let roots = Arc::new(client_roots(certificates)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .allow_unauthenticated()
                    .build();
                builder.with_client_cert_verifier(
                    verifier.map_err(|error| UnusableCertificate::ClientCa(error.to_string()))?,
                )
            }
        };
        let mut config = builder.with_single_cert(chain, key).map_err(server)?;
        config.alpn_protocols = vec![H2.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = ring::Ticketer::new().map_err(server)?;
        config.send_tls13_tickets = 1;
        Ok(Self(Arc::new(config)))
    }
}

fn client_roots(
    certificates: Vec<CertificateDer<'static>>,
) -> Result<RootCertStore, UnusableCertificate> {
    let mut roots = RootCertStore::empty();
    for (at, certificate) in certificates.into_iter().enumerate() {
        roots.add(certificate).map_err(|error| {
            let nth = at + 1;
            UnusableCertificate::ClientCa(format!("its certificate number {nth}: {error}"))
        })?;
    }
    Ok(roots)
}

/// What rustls says of a certificate that is configured, for whoever configured it.
fn in_words(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InconsistentKeys(_) => {
            "the key is not that of the (first) certificate".to_owned()
        }
        rustls::Error::NoCertificatesPresented => "there is no certificate in it".to_owned(),
        other => other.to_string(),
    }
}

/// How handshakes end, as labels of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandshakeResult {
    /// Done.
    Complete,
    /// Done by a ticket of an earlier session.
    Resumed,
    /// The peer speaks HTTP without TLS.
    Plaintext,
    /// The peer does not offer HTTP/2 by ALPN.
    NoHttp2,
    /// The peer's certificate is refused.
    ClientCertificate,
    /// The peer ends it by an alert: it does not trust the server's certificate, usually.
    RefusedByPeer,
    /// What the peer sends is no TLS, or no version or cipher that is served.
    Protocol,
    /// It took too long.
    Timeout,
    /// The peer closes the connection before it is done.
    Closed,
    /// The server ends it: to make room for others, or because it ends itself.
    Dropped,
}

impl HandshakeResult {
    const COUNT: usize = Self::Dropped as usize + 1;

    /// All of them, with their labels.
    pub const LABELS: [(Self, &'static str); Self::COUNT] = [
        (Self::Complete, "complete"),
        (Self::Resumed, "resumed"),
        (Self::Plaintext, "plaintext"),
        (Self::NoHttp2, "no_http2"),
        (Self::ClientCertificate, "client_certificate"),
        (Self::RefusedByPeer, "refused_by_peer"),
        (Self::Protocol, "protocol"),
        (Self::Timeout, "timeout"),
        (Self::Closed, "closed"),
        (Self::Dropped, "dropped"),
    ];
}

/// Makes TLS connections of those that a listener accepts.
#[derive(Debug)]
pub struct TlsAcceptor {
    // A std lock, never held across an await; read once a handshake, written when files change.
    settings: RwLock<TlsSettings>,
    turns: Arc<HandshakeTurns>,
    results: [AtomicU64; HandshakeResult::COUNT],
}

impl TlsAcceptor {
    /// With the settings to begin with.
    pub fn new(settings: TlsSettings) -> Arc<Self> {
        let (turns, results) = (Arc::default(), Default::default());
        Arc::new(Self { settings: RwLock::new(settings), turns, results })
    }

    /// Replaces the settings for handshakes that begin from now on; open connections go on.
    pub fn replace(&self, settings: TlsSettings) {
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
    }

    /// How many handshakes have ended so.
    pub fn count(&self, result: HandshakeResult) -> u64 {
        self.results[result as usize].load(Ordering::Relaxed)
    }

    /// The same for a listener of HTTP: HTTP/2 or HTTP/1.1 by ALPN, as the client prefers.
    pub fn http_config(&self) -> Arc<ServerConfig> {
        let mut config = (*self.config()).clone();
        config.alpn_protocols.push(HTTP1.to_vec());
        Arc::new(config)
    }

    fn config(&self) -> Arc<ServerConfig> {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).0.clone()
    }

    fn ended(&self, result: HandshakeResult) {
        self.results[result as usize].fetch_add(1, Ordering::Relaxed);
    }
}
