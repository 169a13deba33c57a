//! The principal that the names of a client certificate mean.
//!
//! A URI name `spiffe://TRUST-DOMAIN/ns/NS/sa/SA` is read as the SPIFFE specification and Istio have it: no
//! percent-encoding, no query, no empty segment, everything as it stands. Without one, a DNS name
//! `SA.NS.svc` or `SA.NS.svc.DOMAIN` counts, for issuers that give no URI names; the account's name has no dot
//! in it then, since a Service's or pod's name could be read two ways. The names of a certificate must agree.
//! Other names (of other URI schemes, bare host names) say nothing and do no harm.

use std::sync::Arc;

use pilothouse_xds::peer_text;
use thiserror::Error;

use super::Principal;
use crate::names::{is_dns_label, is_trust_domain, service_of_host};

/// Bytes of a SPIFFE id, by its specification; a longer one is refused unread.
const MAX_SPIFFE: usize = 2048;
/// Bytes of a ServiceAccount's name, which is a DNS subdomain.
const MAX_NAME: usize = 253;
/// Bytes of a name that are shown in a refusal.
const MAX_SHOWN: usize = 256;

/// The scheme of SPIFFE ids. Its case does not count, as of any URI's.
const SCHEME: &str = "spiffe:";

/// How certificates' names are read.
#[derive(Clone, Debug)]
pub struct CertificateNames {
    /// Whose identities count, usually `cluster.local`.
    pub trust_domain: Arc<str>,
    /// The cluster's DNS domain, in which DNS names may be.
    pub domain: Arc<str>,
}

/// Why a certificate's names do not say who the peer is.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum SanError {
    #[error(
        "the client certificate's URI name {name} is no identity of a ServiceAccount: it must be \
         spiffe://{trust_domain}/ns/NAMESPACE/sa/SERVICE-ACCOUNT"
    )]
    Malformed { name: String, trust_domain: Arc<str> },
    #[error(
        "the client certificate's URI name {name} is of the trust domain {found:?}, and this control plane's \
         is {wanted:?} (--trust-domain)"
    )]
    TrustDomain { name: String, found: String, wanted: Arc<str> },
    #[error(
        "the client certificate names both {one} and {other}: a certificate of a proxy names one ServiceAccount"
    )]
    Several { one: Box<Principal>, other: Box<Principal> },
}

impl CertificateNames {
    /// The principal that a certificate's names mean; none if it has no name of that form.
    ///
    /// # Errors
    /// It has names of that form that are wrong, of another trust domain, or contradict each other.
    pub fn principal<'a>(
        &self,
        uri_names: impl IntoIterator<Item = &'a str>,
        dns_names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Option<Principal>, SanError> {
        let spiffe = uri_names.into_iter().filter(|name| is_spiffe(name));
        let of_uris = the_one(spiffe.map(|name| self.of_spiffe(name)))?;
        if of_uris.is_some() {
            return Ok(of_uris);
        }
        the_one(dns_names.into_iter().filter_map(|name| self.of_dns(name)).map(Ok))
    }

    fn of_spiffe(&self, name: &str) -> Result<Principal, SanError> {
        let malformed =
            || SanError::Malformed { name: shown(name), trust_domain: self.trust_domain.clone() };
        let parts = spiffe_parts(name).ok_or_else(malformed)?;
        let (trust_domain, namespace, service_account) = parts;
        if trust_domain != &*self.trust_domain {
            return Err(SanError::TrustDomain {
                name: shown(name),
                found: trust_domain.to_owned(),
                wanted: self.trust_domain.clone(),
            });
        }
        Ok(Principal {
            trust_domain: self.trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }

    fn of_dns(&self, name: &str) -> Option<Principal> {
        let (service_account, namespace) = service_of_host(name, &self.domain)?;
        (is_dns_label(service_account) && is_dns_label(namespace)).then(|| Principal {
            trust_domain: self.trust_domain.clone(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }
}

impl Principal {
    /// Reads what [`Principal`] is displayed as.
    pub fn read(id: &str) -> Option<Self> {
        let (trust_domain, namespace, service_account) =
            Some(id).filter(|id| is_spiffe(id)).and_then(spiffe_parts)?;
        Some(Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }
}

/// The principal that all of them are.
fn the_one(
    mut all: impl Iterator<Item = Result<Principal, SanError>>,
) -> Result<Option<Principal>, SanError> {
    let Some(one) = all.next().transpose()? else { return Ok(None) };
    for other in all {
        let other = other?;
        if other != one {
            return Err(SanError::Several { one: one.into(), other: other.into() });
        }
    }
    Ok(Some(one))
}

fn is_spiffe(name: &str) -> bool {
    name.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME))
}

/// Trust domain, namespace and ServiceAccount of a SPIFFE id, each of the characters that it may have.
fn spiffe_parts(name: &str) -> Option<(&str, &str, &str)> {
    if name.len() > MAX_SPIFFE {
        return None;
    }
    let mut segments = name.get(SCHEME.len()..)?.strip_prefix("//")?.split('/');
    let trust_domain = segments.next().filter(|domain| is_trust_domain(domain))?;
    segments.next().filter(|word| *word == "ns")?;
    let namespace = segments.next().filter(|namespace| is_dns_label(namespace))?;
    segments.next().filter(|word| *word == "sa")?;
    let service_account = segments.next().filter(|account| is_account_name(account))?;
    segments.next().is_none().then_some((trust_domain, namespace, service_account))
}

/// A DNS subdomain, as the API server has the names of ServiceAccounts.
pub fn is_account_name(text: &str) -> bool {
    text.len() <= MAX_NAME && text.split('.').all(is_dns_label)
}

/// A name in quotes, short and without control characters.
fn shown(name: &str) -> String {
    format!("{:?}", peer_text::cut(name, MAX_SHOWN))
}
