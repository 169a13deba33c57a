//! Mutual TLS of a run: its certificates, and what the raw ends need of it. The settings are those of the real
//! server: TLS 1.3 by rustls with ring, HTTP/2 by ALPN, the client's certificate verified.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;

use pilothouse_testkit::certificates::Authority;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// The name in the server's certificate.
pub(crate) const SERVER_NAME: &str = "istio-pilot.istio-system.svc";

const CA: &str = "ca.crt";

thread_local! {
    /// Where a thread reads into: ten thousand idle sidecars need no buffers.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 256 << 10]);
}

/// Certificates of a run, for all its processes. They go when it is dropped.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let folder = TempDir::new()?;
        let authority = Authority::new("fanout");
        authority.write(&folder.path().join(CA));
        let server = authority.server(&[SERVER_NAME]);
        // The namespace that the sidecars' ids have.
        let client = authority.client("spiffe://cluster.local/ns/default/sa/default");
        for (name, issued) in [("server", server), ("client", client)] {
            std::fs::write(folder.path().join(format!("{name}.crt")), issued.certificate)?;
            std::fs::write(folder.path().join(format!("{name}.key")), issued.key)?;
        }
        Ok(Self(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

fn identity(folder: &Path, name: &str) -> anyhow::Result<Identity> {
    let chain = CertificateDer::pem_file_iter(folder.join(format!("{name}.crt")))?;
    let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key")))?;
    Ok((chain.collect::<Result<_, _>>()?, key))
}

fn roots(folder: &Path) -> anyhow::Result<Arc<RootCertStore>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(folder.join(CA))?)?;
    Ok(Arc::new(roots))
}

pub(crate) fn acceptor(folder: &Path) -> anyhow::Result<TlsAcceptor> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots(folder)?, provider.clone());
    let (chain, key) = identity(folder, "server")?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier.build()?)
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config).into())
}

/// That of the real server.
pub(crate) fn real_acceptor(
    folder: &Path,
) -> anyhow::Result<Arc<pilothouse_xds_server::tls::TlsAcceptor>> {
    let (chain, key) = identity(folder, "server")?;
    let client_ca = CertificateDer::from_pem_file(folder.join(CA))?;
    let settings = pilothouse_xds_server::tls::TlsSettings::new(chain, key, Some(vec![client_ca]))?;
    Ok(pilothouse_xds_server::tls::TlsAcceptor::new(settings))
}

pub(crate) fn connector(folder: &Path) -> anyhow::Result<TlsConnector> {
    let (chain, key) = identity(folder, "client")?;
    let mut config =
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots(folder)?)
            .with_client_auth_cert(chain, key)?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    // Each sidecar is a stranger, as the proxies of a fleet are.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config).into())
}

/// Reads what is there into the thread's buffer, and gives what `receive` makes of it; `None` at the end.
pub(crate) async fn read_some<T>(
    socket: &mut (impl AsyncRead + Unpin),
    mut receive: impl FnMut(&[u8]) -> T,
) -> io::Result<Option<T>> {
    poll_fn(|context| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *socket).poll_read(context, &mut buffer))?;
            let read = buffer.filled();
            let end = read.is_empty();
            Ok((!end).then(|| receive(read))).into()
        })
    })
    .await
}
