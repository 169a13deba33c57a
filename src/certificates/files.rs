//! Reading the files, and what may be wrong with them, each in words that name the file.

use std::fs::File;
use std::hash::Hasher as _;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use pilothouse_xds_server::tls::{TlsSettings, UnusableCertificate, read_certificate};
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use thiserror::Error;
use xxhash_rust::xxh3::Xxh3;

/// Bytes of one file, at most: a hundred CAs are some 200 KiB.
const MAX_FILE: u64 = 4 << 20;

/// The files of a TLS listener. Certificate and key may be one file, as the kubelet's projected
/// `podCertificate` volumes have them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    /// `--tls-cert`: the server's certificate and those between it and the CA, PEM.
    pub certificate: PathBuf,
    /// `--tls-key`: its key, PEM.
    pub key: PathBuf,
    /// `--client-ca`: the certificates that client certificates must be signed by, PEM.
    pub client_ca: Option<PathBuf>,
}

/// A file that cannot be used.
#[derive(Debug, Error)]
#[error("{flag} {}: {reason}", path.display())]
pub struct UnusableFile {
    pub flag: &'static str,
    pub path: PathBuf,
    pub reason: String,
}

/// What was read.
pub(super) struct Loaded {
    pub(super) settings: TlsSettings,
    pub(super) server_expires: SystemTime,
    pub(super) client_ca_expires: Option<SystemTime>,
    /// Of all that was read.
    pub(super) digest: u64,
}

impl ServerFiles {
    /// All of them.
    pub(super) fn paths(&self) -> Vec<PathBuf> {
        let Self { certificate, key, client_ca } = self.clone();
        [Some(certificate), Some(key), client_ca].into_iter().flatten().collect()
    }

    /// The same as [`Self::load`] from async code.
    pub(super) async fn load_blocking(&self) -> Result<Loaded, UnusableFile> {
        let files = self.clone();
        let unusable = UnusableFile {
            flag: "--tls-cert",
            path: files.certificate.clone(),
            reason: "reading it broke off".to_owned(),
        };
        tokio::task::spawn_blocking(move || files.load()).await.unwrap_or(Err(unusable))
    }

    /// Reads and checks them.
    pub(super) fn load(&self) -> Result<Loaded, UnusableFile> {
        let mut digest = Xxh3::new();
        let certificate = OpenFile::read("--tls-cert", &self.certificate, &mut digest)?;
        let chain = certificate.certificates()?;
        let server_expires = certificate.expires(&chain, Iterator::min)?;
        let key = OpenFile::read("--tls-key", &self.key, &mut digest)?;
        let private = key.private_key()?;
        let ca = self.client_ca.as_ref();
        let ca = ca.map(|path| OpenFile::read("--client-ca", path, &mut digest)).transpose()?;
        let roots = ca.as_ref().map(OpenFile::certificates).transpose()?;
        let client_ca_expires = match (&ca, &roots) {
            (Some(ca), Some(roots)) => Some(ca.expires(roots, Iterator::max)?),
            _ => None,
        };
        let settings = TlsSettings::new(chain, private, roots).map_err(|error| match error {
            UnusableCertificate::ClientCa(reason) => {
                ca.as_ref().unwrap_or(&certificate).unusable(reason)
            }
            UnusableCertificate::Server(reason) => {
                key.unusable(format!("{reason} (--tls-cert {})", self.certificate.display()))
            }
        })?;
        let digest = digest.finish();
        Ok(Loaded { settings, server_expires, client_ca_expires, digest })
    }
}

/// One of the files, and its content.
struct OpenFile<'a> {
    flag: &'static str,
    path: &'a Path,
    content: Vec<u8>,
}

impl<'a> OpenFile<'a> {
    fn read(flag: &'static str, path: &'a Path, digest: &mut Xxh3) -> Result<Self, UnusableFile> {
        let mut file = Self { flag, path, content: Vec::new() };
        let opened = File::open(path).and_then(|opened| match opened.metadata()?.is_dir() {
            true => Err(io::ErrorKind::IsADirectory.into()),
            false => opened.take(MAX_FILE + 1).read_to_end(&mut file.content),
        });
        if let Err(error) = opened {
            return Err(file.unusable(format!("cannot be read: {error}")));
        }
        if file.content.len() as u64 > MAX_FILE {
            return Err(file.unusable(format!("has more than {MAX_FILE} bytes: is it PEM?")));
        }
        if file.content.trim_ascii().is_empty() {
            return Err(file.unusable("is empty"));
        }
        digest.write(&file.content);
        digest.write_u64(file.content.len() as u64);
        Ok(file)
    }

    fn certificates(&self) -> Result<Vec<CertificateDer<'static>>, UnusableFile> {
        let certificates = CertificateDer::pem_slice_iter(&self.content);
        let certificates: Result<Vec<_>, _> = certificates.collect();
        match certificates {
            Ok(none) if none.is_empty() => Err(self.unusable(format!(
                "there is no certificate in it (PEM, -----BEGIN CERTIFICATE-----){}",
                self.what_is_there()
            ))),
            Ok(certificates) => Ok(certificates),
            Err(error) => Err(self.unusable(in_words(&error))),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, UnusableFile> {
        PrivateKeyDer::from_pem_slice(&self.content).map_err(|error| match error {
            pem::Error::NoItemsFound => self.unusable(format!(
                "there is no private key in it (PEM, PKCS#8, PKCS#1 or SEC1, without a password){}",
                self.what_is_there()
            )),
            other => self.unusable(in_words(&other)),
        })
    }

    /// When the certificates expire: the first or the last of them.
    fn expires(
        &self,
        certificates: &[CertificateDer<'_>],
        which: fn(std::vec::IntoIter<SystemTime>) -> Option<SystemTime>,
    ) -> Result<SystemTime, UnusableFile> {
        let ends = certificates.iter().map(|der| Ok(read_certificate(der)?.not_after));
        let ends: Result<Vec<_>, pilothouse_xds_server::tls::UnreadableCertificate> =
            ends.collect();
        let ends = ends.map_err(|error| self.unusable(format!("a certificate in it {error}")))?;
        Ok(which(ends.into_iter()).unwrap_or(SystemTime::UNIX_EPOCH))
    }

    /// What a file without what is wanted has instead, for instance if two flags were mixed up.
    fn what_is_there(&self) -> String {
        let text = String::from_utf8_lossy(&self.content);
        let labels = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
        match labels.take(3).collect::<Vec<_>>().join(", ") {
            none if none.is_empty() => ", and nothing else in PEM".to_owned(),
            labels => format!(", but: {labels}"),
        }
    }

    fn unusable(&self, reason: impl Into<String>) -> UnusableFile {
        let (flag, path) = (self.flag, self.path.to_owned());
        UnusableFile { flag, path, reason: reason.into() }
    }
}

fn in_words(error: &pem::Error) -> String {
    match error {
        pem::Error::MissingSectionEnd { .. } => {
            "a PEM section of it has no end: is the file complete?".to_owned()
        }
        other => format!("cannot be read as PEM: {other:?}"),
    }
}

/// A time as people and logs have it, to the second.
pub(super) fn rfc3339(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}
