//! Certificates of a test's own: an authority, servers and proxies that it signs for, valid or not, and a
//! folder that changes as a mounted Secret does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose, SanType,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};
use tempfile::TempDir;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// When a certificate is valid.
#[derive(Clone, Copy, Debug)]
pub enum Validity {
    /// From yesterday until tomorrow.
    Now,
    /// Until yesterday.
    Expired,
    /// From tomorrow on.
    NotYet,
    /// From the first until the second.
    Between(SystemTime, SystemTime),
}

impl Validity {
    fn range(self) -> (SystemTime, SystemTime) {
        let now = SystemTime::now();
        match self {
            Self::Now => (now - DAY, now + DAY),
            Self::Expired => (now - 2 * DAY, now - DAY),
            Self::NotYet => (now + DAY, now + 2 * DAY),
            Self::Between(from, until) => (from, until),
        }
    }
}

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one with a key of its own. Two of the same name are as different as any two.
    pub fn new(name: &str) -> Self {
        Self::valid(name, Validity::Now)
    }

    /// One that is valid at that time only.
    pub fn valid(name: &str, validity: Validity) -> Self {
        let mut params = params(name, validity);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap());
        Self { issuer: issuer.unwrap() }
    }

    /// The authority's certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// Writes [`Self::pem`] to a file.
    pub fn write(&self, file: &Path) {
        fs::write(file, self.pem()).unwrap();
    }

    /// A server's certificate for these DNS names and IP addresses.
    pub fn server(&self, names: &[&str]) -> Issued {
        self.server_valid(names, Validity::Now)
    }

    /// The same, valid at that time only.
    pub fn server_valid(&self, names: &[&str], validity: Validity) -> Issued {
        self.issue(names, &[], ExtendedKeyUsagePurpose::ServerAuth, validity)
    }

    /// A client's certificate with this URI name, for instance `spiffe://cluster.local/ns/shop/sa/web`.
    pub fn client(&self, uri: &str) -> Issued {
        self.client_valid(uri, Validity::Now)
    }

    /// The same, valid at that time only.
    pub fn client_valid(&self, uri: &str, validity: Validity) -> Issued {
        self.issue(&[], &[uri], ExtendedKeyUsagePurpose::ClientAuth, validity)
    }

    /// A client's certificate with these DNS names and no URI.
    pub fn client_by_dns(&self, names: &[&str]) -> Issued {
        self.issue(names, &[], ExtendedKeyUsagePurpose::ClientAuth, Validity::Now)
    }

    /// A certificate with any names, for the purpose.
    pub fn issue(
        &self,
        names: &[&str],
        uris: &[&str],
        purpose: ExtendedKeyUsagePurpose,
        validity: Validity,
    ) -> Issued {
        let mut params = params("pilothouse test", validity);
        let named =
            CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>());
        params.subject_alt_names = named.unwrap().subject_alt_names;
        let uris = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![purpose];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }

    /// What a client that trusts this authority alone verifies servers by.
    pub fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        roots
    }

    /// What a TLS client that trusts this authority and speaks HTTP/2 uses, with a certificate of its own if
    /// there is one.
    pub fn client_config(&self, own: Option<&Issued>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots());
        let mut config = match own {
            Some(own) => builder.with_client_auth_cert(own.chain(), own.private_key()).unwrap(),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }
}

fn params(name: &str, validity: Validity) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let (from, until) = validity.range();
    (params.not_before, params.not_after) = (from.into(), until.into());
    params
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    pub certificate: String,
    pub key: String,
}

impl Issued {
    /// Writes `tls.crt` and `tls.key` into a folder and returns their paths.
    pub fn write(&self, folder: &Path) -> (PathBuf, PathBuf) {
        let (certificate, key) = (folder.join("tls.crt"), folder.join("tls.key"));
        fs::write(&certificate, &self.certificate).unwrap();
        fs::write(&key, &self.key).unwrap();
        (certificate, key)
    }

    /// The certificates, its own first.
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        CertificateDer::pem_slice_iter(self.certificate.as_bytes())
            .collect::<Result<_, _>>()
            .unwrap()
    }

    pub fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::from_pem_slice(self.key.as_bytes()).unwrap()
    }
}

/// A folder that changes as the kubelet changes a mounted Secret: its files are symbolic links through
/// `..data`, which is a symbolic link to the folder of the present content and is replaced in one step.
#[derive(Debug)]
pub struct SecretVolume {
    folder: TempDir,
}

impl SecretVolume {
    /// With `tls.crt`, `tls.key` and `ca.crt`.
    pub fn new(issued: &Issued, authority: &str) -> Self {
        let volume = Self { folder: tempfile::tempdir().unwrap() };
        volume.swap(issued, authority);
        for name in ["tls.crt", "tls.key", "ca.crt"] {
            symlink(Path::new("..data").join(name), volume.path(name)).unwrap();
        }
        volume
    }

    /// The path of one of the files.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The flags of `pilothouse serve` that name the files.
    pub fn flags(&self) -> [String; 3] {
        [("tls-cert", "tls.crt"), ("tls-key", "tls.key"), ("client-ca", "ca.crt")]
            .map(|(flag, name)| format!("--{flag}={}", self.path(name).display()))
    }

    /// The volume itself.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Replaces the content of all three files at once.
    pub fn swap(&self, issued: &Issued, authority: &str) {
        static VERSIONS: AtomicU64 = AtomicU64::new(0);
        let version = format!("..version-{}", VERSIONS.fetch_add(1, Ordering::Relaxed));
        let (folder, data) = (self.folder.path(), self.folder.path().join("..data"));
        let before = fs::read_link(&data).ok();
        fs::create_dir(folder.join(&version)).unwrap();
        issued.write(&folder.join(&version));
        fs::write(folder.join(&version).join("ca.crt"), authority).unwrap();
        symlink(&version, folder.join("..data_tmp")).unwrap();
        fs::rename(folder.join("..data_tmp"), &data).unwrap();
        if let Some(before) = before {
            fs::remove_dir_all(folder.join(before)).unwrap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_swapped_as_a_whole_and_its_certificates_are_those_of_the_authority() {
        let authority = Authority::new("test CA");
        let first = authority.server(&["localhost", "127.0.0.1"]);
        let volume = SecretVolume::new(&first, &authority.pem());
        assert_eq!(fs::read_to_string(volume.path("tls.crt")).unwrap(), first.certificate);
        let second = authority.client_valid("spiffe://cluster.local/ns/a/sa/b", Validity::Expired);
        volume.swap(&second, "other");
        assert_eq!(fs::read_to_string(volume.path("tls.key")).unwrap(), second.key);
        assert_eq!(fs::read_to_string(volume.path("ca.crt")).unwrap(), "other");
        let config = authority.client_config(Some(&second));
        assert_eq!(config.alpn_protocols, [b"h2"]);
    }
}
