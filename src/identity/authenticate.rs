//! Who the peer of a connection is, by its certificate or else by its token.

use std::sync::Arc;
use std::time::SystemTime;

use pilothouse_xds_server::{PeerCertificate, PeerCredentials, Refusal};

use super::{CertificateNames, Principal};

/// Verifies what peers show of themselves.
#[derive(Clone, Debug)]
pub struct Authenticator {
    pub names: CertificateNames,
    /// Whether a peer on an encrypted connection must have an identity (`--require-identity`).
    pub required: bool,
}

/// A peer that has been authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authenticated {
    pub principal: Principal,
    pub by: Proof,
}

/// What a principal was proven by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    Certificate,
    Token,
}

/// How a peer gets an identity; the end of every sentence that says that it needs one.
const HOW: &str = "connect with a client certificate that names spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/ACCOUNT, or \
                   send the pod's ServiceAccount token as `authorization: Bearer TOKEN`";

impl Authenticator {
    /// Nobody needs an identity, and certificates count that are of this trust domain.
    pub fn new(trust_domain: &str, domain: &str) -> Self {
        let names = CertificateNames { trust_domain: trust_domain.into(), domain: domain.into() };
        Self { names, required: false }
    }

    /// Who it is; none if it has shown nothing and need not.
    ///
    /// On a connection in the clear nobody is anybody: as in Istio, a token that came there is not looked at,
    /// since whoever reads the network could have it.
    ///
    /// # Errors
    /// What it has shown does not hold, contradicts itself, or is not enough.
    pub async fn authenticate(
        &self,
        credentials: PeerCredentials<'_>,
        now: SystemTime,
    ) -> Result<Option<Authenticated>, Refusal> {
        if !credentials.encrypted {
            return Ok(None);
        }
        let of_certificate = match credentials.certificate {
            Some(certificate) => self.of_certificate(certificate, now)?,
            None => None,
        };
        if let Some(principal) = of_certificate {
            return Ok(Some(Authenticated { principal, by: Proof::Certificate }));
        }
        if self.required { Err(Refusal::Unauthenticated(missing(credentials))) } else { Ok(None) }
    }

    fn of_certificate(
        &self,
        certificate: &PeerCertificate,
        now: SystemTime,
    ) -> Result<Option<Principal>, Refusal> {
        let PeerCertificate { uri_names, dns_names, not_after } = certificate;
        // The handshake has seen to it, but the connection may be older than the certificate is valid.
        if *not_after <= now {
            return Err(Refusal::Unauthenticated(format!(
                "the client certificate of this connection has expired at {}: connect again with a renewed one",
                humantime::format_rfc3339_seconds(*not_after)
            )));
        }
        let principal = self.names.principal(texts(uri_names), texts(dns_names));
        principal.map_err(|error| Refusal::Unauthenticated(error.to_string()))
    }
}

fn texts(names: &[Arc<str>]) -> impl Iterator<Item = &str> {
    names.iter().map(|name| &**name)
}

/// What is missing when nothing that was shown says who the peer is.
fn missing(credentials: PeerCredentials<'_>) -> String {
    let found = match credentials {
        PeerCredentials { certificate: Some(_), .. } => {
            "the client certificate has no name of a ServiceAccount"
        }
        _ => "there is no client certificate and no token",
    };
    format!(
        "this port serves only proxies that prove who they are (--require-identity), and {found}: {HOW}"
    )
}
