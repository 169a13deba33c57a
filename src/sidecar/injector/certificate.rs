//! The webhook's own certificate, from the bytes of two files to what rustls serves by. Pure.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;

use crate::sidecar::credentials::files::{CertificateFacts, Validity, utc};

/// What the API server's client of webhooks speaks: HTTP/1.1 alone, so that it spreads over replicas.
const PROTOCOL: &[u8] = b"http/1.1";

/// Why a certificate cannot be served.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum CertificateError {
    #[error("no certificate can be read from it: {0}")]
    Certificate(String),
    #[error("no private key can be read from it: {0}")]
    Key(String),
    #[error("certificate and key do not go together: {0}")]
    Pair(String),
    #[error("it has expired at {0}: renew it (pilothouse injector manifests)")]
    Expired(String),
    #[error("it is not valid before {0}: the clock of this machine or of its issuer is wrong")]
    NotYetValid(String),
}

/// A certificate that can be served.
#[derive(Clone, Debug)]
pub(super) struct Served {
    pub(super) config: Arc<ServerConfig>,
    pub(super) not_after: SystemTime,
    /// For the log.
    pub(super) names: String,
}

/// Checks both files together.
pub(super) fn read(
    certificate: &[u8],
    key: &[u8],
    now: SystemTime,
) -> Result<Served, CertificateError> {
    let unreadable = |error: rustls::pki_types::pem::Error| {
        CertificateError::Certificate(format!("{error} (PEM is expected)"))
    };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(certificate)
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    let first =
        chain.first().ok_or_else(|| CertificateError::Certificate("it has none".to_owned()))?;
    let CertificateFacts { names, validity: Validity { not_before, not_after }, .. } =
        CertificateFacts::read(first).map_err(CertificateError::Certificate)?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| CertificateError::Key(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| CertificateError::Pair(error.to_string()))?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| CertificateError::Pair(error.to_string()))?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    if now > not_after {
        return Err(CertificateError::Expired(utc(not_after)));
    }
    if now < not_before {
        return Err(CertificateError::NotYetValid(utc(not_before)));
    }
    Ok(Served { config: Arc::new(config), not_after, names: names.join(", ") })
}
