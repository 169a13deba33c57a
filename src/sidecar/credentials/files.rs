//! What stands in the files that a proxy proves itself with. Read only to say what is wrong with them, and
//! to ask the control plane as the proxy would: Envoy reads them itself.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::Deserialize;
use thiserror::Error;
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::{ClientCredential, Credentials};
use crate::causes::with_causes;

/// A file larger than this is no certificate and no token.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Which file is of no use, and why.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{} {why}", .file.display())]
pub struct FileError {
    pub file: PathBuf,
    pub why: String,
}

/// From when to when something counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    pub not_before: SystemTime,
    pub not_after: SystemTime,
}

impl Validity {
    pub fn contains(&self, now: SystemTime) -> bool {
        self.not_before <= now && now <= self.not_after
    }
}

impl fmt::Display for Validity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "valid from {} to {}", utc(self.not_before), utc(self.not_after))
    }
}

/// As people and certificates write it, to the second.
pub fn utc(time: SystemTime) -> String {
    humantime::format_rfc3339_seconds(time).to_string()
}

/// What a certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// DNS names, URIs and addresses of its subjectAltName.
    pub names: Vec<String>,
    pub issuer: String,
    pub validity: Validity,
}

impl CertificateFacts {
    /// # Errors
    /// It is no certificate: why, in the parser's words.
    pub fn read(der: &[u8]) -> Result<Self, String> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|problem| problem.to_string())?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.map(|names| &names.value.general_names).into_iter().flatten();
        Ok(Self {
            names: names.filter_map(name_of).collect(),
            issuer: certificate.issuer().to_string(),
            validity: Validity {
                not_before: unix_time(certificate.validity().not_before.timestamp()),
                not_after: unix_time(certificate.validity().not_after.timestamp()),
            },
        })
    }
}

fn name_of(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) | GeneralName::URI(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => Some(std::net::IpAddr::from(<[u8; 4]>::try_from(*bytes).ok()?).to_string()),
            16 => Some(std::net::IpAddr::from(<[u8; 16]>::try_from(*bytes).ok()?).to_string()),
            _ => None,
        },
        _ => None,
    }
}

/// Before 1970 there were no certificates.
fn unix_time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// A certificate with its key.
#[derive(Clone, Debug)]
pub struct ClientCertificate {
    pub key: Arc<CertifiedKey>,
    pub facts: CertificateFacts,
}

/// A ServiceAccount token.
#[derive(Clone)]
pub struct Token {
    pub text: String,
    pub claims: Claims,
}

// Never the token itself.
impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Token").field("claims", &self.claims).finish_non_exhaustive()
    }
}

/// What a token says of itself, which nobody has verified here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Claims {
    /// The ServiceAccount: `system:serviceaccount:NAMESPACE:NAME`.
    pub sub: String,
    aud: Option<Audience>,
    /// Seconds since 1970.
    exp: Option<u64>,
    nbf: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    pub fn audiences(&self) -> &[String] {
        match &self.aud {
            None => &[],
            Some(Audience::One(one)) => std::slice::from_ref(one),
            Some(Audience::Many(many)) => many,
        }
    }

    /// `None` if it never expires.
    pub fn validity(&self) -> Option<Validity> {
        let time = |seconds: u64| UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
        Some(Validity {
            not_before: self.nbf.and_then(time).unwrap_or(UNIX_EPOCH),
            not_after: time(self.exp?)?,
        })
    }
}

/// What the client proves itself with, as it was read.
#[derive(Clone, Debug)]
pub enum LoadedClient {
    None,
    Certificate(ClientCertificate),
    Token(Token),
}

impl LoadedClient {
    /// When it counts, and what it is.
    pub fn validity(&self) -> Option<(&'static str, Validity)> {
        match self {
            Self::None => None,
            Self::Certificate(certificate) => {
                Some(("client certificate", certificate.facts.validity))
            }
            Self::Token(token) => Some(("token", token.claims.validity()?)),
        }
    }
}

/// Authorities, with the first one's own validity.
#[derive(Clone, Debug)]
pub struct Authorities {
    pub roots: Arc<RootCertStore>,
    pub facts: Vec<CertificateFacts>,
}

/// The authorities that are believed.
///
/// # Errors
/// The file is not there, or has no certificate of an authority.
pub fn authorities(file: &Path) -> Result<Authorities, FileError> {
    let certificates = certificates(file)?;
    let facts = certificates.iter().filter_map(|der| CertificateFacts::read(der).ok()).collect();
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates);
    match usable {
        0 => Err(error(file, "has no certificate that can be read")),
        _ => Ok(Authorities { roots: Arc::new(roots), facts }),
    }
}

/// What the client proves itself with.
///
/// # Errors
/// A file is not there or is of no use. That something has expired is none.
pub fn client(credential: &ClientCredential) -> Result<LoadedClient, FileError> {
    match credential {
        ClientCredential::None => Ok(LoadedClient::None),
        ClientCredential::Token(file) => token(file).map(LoadedClient::Token),
        ClientCredential::Certificate { certificate, key } => {
            client_certificate(certificate, key).map(LoadedClient::Certificate)
        }
    }
}

/// The first file of these that is missing or of no use.
///
/// # Errors
/// With that file.
pub fn check(credentials: &Credentials) -> Result<LoadedClient, FileError> {
    authorities(&credentials.ca)?;
    client(&credentials.client)
}

fn client_certificate(certificate: &Path, key: &Path) -> Result<ClientCertificate, FileError> {
    let chain = certificates(certificate)?;
    let facts = chain.first().and_then(|leaf| CertificateFacts::read(leaf).ok());
    let facts = facts.ok_or_else(|| error(certificate, "has no certificate that can be read"))?;
    let key_bytes = read(key)?;
    let parsed = PrivateKeyDer::from_pem_slice(&key_bytes)
        .map_err(|problem| error(key, &format!("has no private key ({problem})")))?;
    let signing = CertifiedKey::from_der(chain, parsed, &ring::default_provider());
    let signing = signing.map_err(|problem| {
        let of = certificate.display();
        error(key, &format!("is no key for the certificate in {of}: {}", with_causes(&problem)))
    })?;
    Ok(ClientCertificate { key: Arc::new(signing), facts })
}

/// Everything but its signature.
fn token(file: &Path) -> Result<Token, FileError> {
    let text = String::from_utf8(read(file)?).map_err(|_| error(file, "is no token"))?;
    let text = text.trim().to_owned();
    if text.is_empty() {
        return Err(error(file, "is empty"));
    }
    let claims = jsonwebtoken::dangerous::insecure_decode_claims::<Claims>(&text)
        .map_err(|_| error(file, "is no token (it is no JWT)"))?;
    Ok(Token { text, claims })
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = read(file)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|problem| error(file, &format!("is no PEM: {problem}")))?;
    match found.is_empty() {
        true => Err(error(file, "has no certificate in it (PEM, BEGIN CERTIFICATE)")),
        false => Ok(found),
    }
}

fn read(file: &Path) -> Result<Vec<u8>, FileError> {
    let cannot = |problem: std::io::Error| match problem.kind() {
        std::io::ErrorKind::NotFound => error(file, "is not there"),
        _ => error(file, &format!("cannot be read: {problem}")),
    };
    let metadata = std::fs::metadata(file).map_err(cannot)?;
    if !metadata.is_file() || metadata.len() > MAX_FILE_BYTES {
        return Err(error(file, "is no file of a certificate, key or token"));
    }
    std::fs::read(file).map_err(cannot)
}

fn error(file: &Path, why: &str) -> FileError {
    FileError { file: file.to_owned(), why: why.to_owned() }
}

#[cfg(test)]
mod tests;
