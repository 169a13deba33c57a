//! Who the peer of a connection is, by its certificate or else by its token.

use std::sync::Arc;
use std::time::SystemTime;

use pilothouse_xds_server::{PeerCertificate, PeerCredentials, Refusal};

use super::tokens::{TokenError, TokenVerifier, VerifiedToken};
use super::{CertificateNames, Principal};

/// Verifies what peers show of themselves.
#[derive(Clone, Debug)]
pub struct Authenticator {
    pub names: CertificateNames,
    /// None if no token is accepted (`--token-verification off`).
    pub tokens: Option<Arc<TokenVerifier>>,
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

impl Authenticator {
    /// Nobody needs an identity, and certificates count that are of this trust domain.
    pub fn new(trust_domain: &str, domain: &str) -> Self {
        let names = CertificateNames { trust_domain: trust_domain.into(), domain: domain.into() };
        Self { names, tokens: None, required: false }
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
        let of_token = match (&self.tokens, credentials.bearer) {
            (Some(tokens), Some(token)) => Some(tokens.verify(token).await),
            (None, _) | (_, None) => None,
        };
        if let Some(found) = self.agreed(of_certificate, of_token)? {
            return Ok(Some(found));
        }
        match self.required {
            true => Err(Refusal::Unauthenticated(self.missing(credentials))),
            false => Ok(None),
        }
    }

    /// Who both are. A token that is wrong is not passed over beside a certificate; one that cannot be verified
    /// now is, since the certificate alone would do.
    fn agreed(
        &self,
        of_certificate: Option<Principal>,
        of_token: Option<Result<VerifiedToken, TokenError>>,
    ) -> Result<Option<Authenticated>, Refusal> {
        let of_token = match of_token {
            Some(Err(error)) if error.is_temporary() && of_certificate.is_none() => {
                return Err(Refusal::Unavailable(error.to_string()));
            }
            Some(Err(error)) if !error.is_temporary() => {
                return Err(Refusal::Unauthenticated(error.to_string()));
            }
            Some(Ok(token)) => Some(Principal {
                trust_domain: self.names.trust_domain.clone(),
                namespace: token.namespace,
                service_account: token.service_account,
            }),
            Some(Err(_)) | None => None,
        };
        Ok(match (of_certificate, of_token) {
            (Some(certificate), Some(token)) if certificate != token => {
                return Err(Refusal::Unauthenticated(format!(
                    "the client certificate is of {certificate} and the token of {token}: both must be of the \
                     same ServiceAccount, or only one be sent"
                )));
            }
            (Some(principal), _) => Some(Authenticated { principal, by: Proof::Certificate }),
            (None, Some(principal)) => Some(Authenticated { principal, by: Proof::Token }),
            (None, None) => None,
        })
    }

    /// What is missing when nothing that was shown says who the peer is.
    fn missing(&self, credentials: PeerCredentials<'_>) -> String {
        let found = match credentials {
            PeerCredentials { bearer: Some(_), certificate: None, .. } => {
                "tokens are not verified here (--token-verification is off)"
            }
            PeerCredentials { certificate: Some(_), .. } => {
                "the client certificate has no name of a ServiceAccount"
            }
            _ => "there is no client certificate and no token",
        };
        let trust_domain = &self.names.trust_domain;
        let token = match self.tokens {
            Some(_) => ", or send the pod's ServiceAccount token as `authorization: Bearer TOKEN`",
            None => "",
        };
        format!(
            "this port serves only proxies that prove who they are (--require-identity), and {found}: connect with \
             a client certificate that names spiffe://{trust_domain}/ns/NAMESPACE/sa/SERVICE-ACCOUNT{token}"
        )
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NOW: Duration = Duration::from_secs(1_700_000_000);

    fn authenticator(required: bool) -> Authenticator {
        Authenticator { required, ..Authenticator::new("cluster.local", "cluster.local") }
    }

    fn certificate(uri: &[&str], dns: &[&str], valid_for: i64) -> PeerCertificate {
        let not_after = SystemTime::UNIX_EPOCH + NOW;
        PeerCertificate {
            uri_names: uri.iter().map(|name| Arc::from(*name)).collect(),
            dns_names: dns.iter().map(|name| Arc::from(*name)).collect(),
            not_after: match u64::try_from(valid_for) {
                Ok(seconds) => not_after + Duration::from_secs(seconds),
                Err(_) => not_after - Duration::from_secs(valid_for.unsigned_abs()),
            },
        }
    }

    /// The principal, or the refusal's sentence.
    async fn found(
        authenticator: &Authenticator,
        encrypted: bool,
        certificate: Option<&PeerCertificate>,
        bearer: Option<&str>,
    ) -> Result<Option<String>, Refusal> {
        let address = [10, 0, 0, 1].into();
        let credentials = PeerCredentials { address, encrypted, certificate, bearer };
        let now = SystemTime::UNIX_EPOCH + NOW;
        let found = authenticator.authenticate(credentials, now).await?;
        Ok(found.map(|found| found.principal.to_string()))
    }

    fn web() -> Principal {
        Principal {
            trust_domain: "cluster.local".into(),
            namespace: "shop".into(),
            service_account: "web".into(),
        }
    }

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

    #[tokio::test]
    async fn a_certificate_says_who_it_is_until_it_expires() {
        let of = authenticator(true);
        for named in [certificate(&[WEB], &[], 1), certificate(&[], &["web.shop.svc"], 1)] {
            assert_eq!(found(&of, true, Some(&named), None).await, Ok(Some(WEB.to_owned())));
        }
        let expired = certificate(&[WEB], &[], -60);
        let refusal = found(&of, true, Some(&expired), None).await.unwrap_err();
        assert_eq!(
            refusal,
            Refusal::Unauthenticated(
                "the client certificate of this connection has expired at 2023-11-14T22:12:20Z: connect again \
                 with a renewed one"
                    .to_owned()
            )
        );
        let elsewhere = certificate(&["spiffe://else/ns/shop/sa/web"], &[], 1);
        for required in [true, false] {
            let refusal = found(&authenticator(required), true, Some(&elsewhere), None).await;
            assert!(matches!(refusal, Err(Refusal::Unauthenticated(_))), "{refusal:?}");
        }
    }

    #[tokio::test]
    async fn nobody_is_anybody_in_the_clear() {
        let named = certificate(&[WEB], &[], 1);
        for required in [true, false] {
            let of = authenticator(required);
            assert_eq!(found(&of, false, Some(&named), Some("token")).await, Ok(None));
        }
    }

    #[tokio::test]
    async fn an_identity_that_is_required_and_missing_is_said_with_how_to_get_one() {
        let nameless = certificate(&["urn:x"], &["example.com"], 1);
        let how = "connect with a client certificate that names \
                   spiffe://cluster.local/ns/NAMESPACE/sa/SERVICE-ACCOUNT";
        for (certificate, bearer, what) in [
            (None, None, "there is no client certificate and no token"),
            (Some(&nameless), None, "the client certificate has no name of a ServiceAccount"),
            (None, Some("x"), "tokens are not verified here (--token-verification is off)"),
        ] {
            let refusal = found(&authenticator(true), true, certificate, bearer).await;
            let sentence = format!(
                "this port serves only proxies that prove who they are (--require-identity), and {what}: {how}"
            );
            assert_eq!(refusal, Err(Refusal::Unauthenticated(sentence)));
            assert_eq!(found(&authenticator(false), true, certificate, bearer).await, Ok(None));
        }
    }

    #[test]
    fn a_certificate_and_a_token_must_agree() {
        let of = authenticator(true);
        let token = |namespace: &str| {
            Some(Ok(VerifiedToken {
                namespace: namespace.into(),
                service_account: "web".into(),
                pod: None,
                expires: SystemTime::UNIX_EPOCH,
                issuer: "issuer".into(),
                audiences: Vec::new(),
                groups: Vec::new(),
            }))
        };
        let by = |found: Result<Option<Authenticated>, Refusal>| found.unwrap().map(|one| one.by);
        assert_eq!(by(of.agreed(Some(web()), token("shop"))), Some(Proof::Certificate));
        assert_eq!(by(of.agreed(Some(web()), None)), Some(Proof::Certificate));
        assert_eq!(by(of.agreed(None, token("shop"))), Some(Proof::Token));
        assert_eq!(by(of.agreed(None, None)), None);
        assert_eq!(
            of.agreed(Some(web()), token("bank")),
            Err(Refusal::Unauthenticated(
                "the client certificate is of spiffe://cluster.local/ns/shop/sa/web and the token of \
                 spiffe://cluster.local/ns/bank/sa/web: both must be of the same ServiceAccount, or only one be \
                 sent"
                .to_owned()
            ))
        );
    }

    #[test]
    fn a_wrong_token_is_refused_even_beside_a_certificate_and_an_unverifiable_one_is_not() {
        let of = authenticator(true);
        let wrong = || TokenError::TooLong { bytes: 1 << 20 };
        let down = || TokenError::KeysUnavailable { error: "no route".to_owned() };
        for certificate in [None, Some(web())] {
            let refusal = of.agreed(certificate, Some(Err(wrong()))).unwrap_err();
            assert_eq!(refusal, Refusal::Unauthenticated(wrong().to_string()));
        }
        let refusal = of.agreed(None, Some(Err(down()))).unwrap_err();
        assert_eq!(refusal, Refusal::Unavailable(down().to_string()));
        let found = of.agreed(Some(web()), Some(Err(down()))).unwrap().unwrap();
        assert_eq!(found.by, Proof::Certificate);
    }
}
