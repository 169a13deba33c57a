//! What a proxy proves itself with to its control plane, and whom it believes: the flags for it, which the
//! agent and the doctor share, and (in `files`) what stands in the files.

use std::path::PathBuf;

use clap::ValueEnum;

use crate::sidecar::host_port::HostPort;

pub mod files;

/// Where injection mounts certificate, key and CA.
pub const TLS_FOLDER: &str = "/var/run/secrets/pilothouse/tls";
/// Where injection, like Istio's, mounts the ServiceAccount token for the control plane.
pub const TOKEN_FILE: &str = "/var/run/secrets/tokens/istio-token";

const CA_FILE: &str = "/var/run/secrets/pilothouse/tls/ca.crt";
const CERTIFICATE_FILE: &str = "/var/run/secrets/pilothouse/tls/tls.crt";
const KEY_FILE: &str = "/var/run/secrets/pilothouse/tls/tls.key";

/// Whether the control plane is spoken to over TLS, and what the proxy says there of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TlsMode {
    /// In plaintext, without an identity.
    #[value(alias = "false")]
    Off,
    /// Mutual TLS: the proxy has a certificate.
    #[value(alias = "true")]
    Certificate,
    /// The control plane has a certificate, the proxy a ServiceAccount token.
    Token,
}

/// The flags; what is not given is told by [`TlsArgs::credentials`].
#[derive(Clone, Debug, Default, clap::Args)]
pub struct TlsArgs {
    /// Speak to the control plane in plaintext, or over TLS with a client certificate or a
    /// ServiceAccount token [default: off; of the doctor what Envoy's bootstrap says]
    #[arg(
        long,
        value_enum,
        value_name = "MODE",
        env = "PILOTHOUSE_TLS",
        help_heading = "TLS to the control plane"
    )]
    pub tls: Option<TlsMode>,

    /// Certificates of the authorities that the control plane's certificate may come from, PEM
    /// [default: /var/run/secrets/pilothouse/tls/ca.crt]
    #[arg(
        long,
        value_name = "FILE",
        env = "PILOTHOUSE_TLS_CA",
        help_heading = "TLS to the control plane"
    )]
    pub tls_ca: Option<PathBuf>,

    /// The proxy's certificate with its chain, PEM [default: /var/run/secrets/pilothouse/tls/tls.crt]
    #[arg(
        long,
        value_name = "FILE",
        env = "PILOTHOUSE_TLS_CERT",
        help_heading = "TLS to the control plane"
    )]
    pub tls_cert: Option<PathBuf>,

    /// Its private key, PEM [default: /var/run/secrets/pilothouse/tls/tls.key]
    #[arg(
        long,
        value_name = "FILE",
        env = "PILOTHOUSE_TLS_KEY",
        help_heading = "TLS to the control plane"
    )]
    pub tls_key: Option<PathBuf>,

    /// The ServiceAccount token [default: /var/run/secrets/tokens/istio-token]
    #[arg(
        long,
        value_name = "FILE",
        env = "PILOTHOUSE_TOKEN_FILE",
        help_heading = "TLS to the control plane"
    )]
    pub token_file: Option<PathBuf>,

    /// The name that the control plane's certificate must have [default: the host of the discovery
    /// address]
    #[arg(
        long, value_name = "NAME", value_parser = server_name,
        env = "PILOTHOUSE_TLS_SERVER_NAME", help_heading = "TLS to the control plane"
    )]
    pub tls_server_name: Option<String>,
}

/// With what the control plane is met over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// Authorities that are believed.
    pub ca: PathBuf,
    /// What the control plane's certificate must name: a DNS name or an IP address.
    pub server_name: String,
    pub client: ClientCredential,
}

/// What the proxy says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCredential {
    /// Nothing, as only a hand-made bootstrap has it.
    None,
    Certificate {
        certificate: PathBuf,
        key: PathBuf,
    },
    Token(PathBuf),
}

impl TlsArgs {
    /// What these flags mean for a control plane at `discovery`; `None` for plaintext. Where they say
    /// nothing, `known` (of Envoy's bootstrap) counts, and then the defaults.
    pub fn credentials(
        &self,
        discovery: &HostPort,
        known: Option<&Credentials>,
    ) -> Option<Credentials> {
        let path = |given: &Option<PathBuf>, known: Option<&PathBuf>, default: &str| {
            given.clone().or_else(|| known.cloned()).unwrap_or_else(|| default.into())
        };
        let of_certificate = || {
            let (certificate, key) = match known.map(|known| &known.client) {
                Some(ClientCredential::Certificate { certificate, key }) => {
                    (Some(certificate), Some(key))
                }
                _ => (None, None),
            };
            ClientCredential::Certificate {
                certificate: path(&self.tls_cert, certificate, CERTIFICATE_FILE),
                key: path(&self.tls_key, key, KEY_FILE),
            }
        };
        let of_token = || {
            let token = match known.map(|known| &known.client) {
                Some(ClientCredential::Token(file)) => Some(file),
                _ => None,
            };
            ClientCredential::Token(path(&self.token_file, token, TOKEN_FILE))
        };
        let client = match (self.tls, known.map(|known| &known.client)) {
            (Some(TlsMode::Off), _) | (None, None) => return None,
            (Some(TlsMode::Certificate), _)
            | (None, Some(ClientCredential::Certificate { .. })) => of_certificate(),
            (Some(TlsMode::Token), _) | (None, Some(ClientCredential::Token(_))) => of_token(),
            (None, Some(ClientCredential::None)) => ClientCredential::None,
        };
        let name = self.tls_server_name.clone().or_else(|| Some(known?.server_name.clone()));
        Some(Credentials {
            ca: path(&self.tls_ca, known.map(|known| &known.ca), CA_FILE),
            server_name: name.unwrap_or_else(|| discovery.host.trim_end_matches('.').to_owned()),
            client,
        })
    }
}

/// Flags that say exactly this, whatever else is known.
impl From<Option<&Credentials>> for TlsArgs {
    fn from(credentials: Option<&Credentials>) -> Self {
        let Some(credentials) = credentials else {
            return Self { tls: Some(TlsMode::Off), ..Self::default() };
        };
        let common = Self {
            tls_ca: Some(credentials.ca.clone()),
            tls_server_name: Some(credentials.server_name.clone()),
            ..Self::default()
        };
        match &credentials.client {
            ClientCredential::None => common,
            ClientCredential::Certificate { certificate, key } => Self {
                tls: Some(TlsMode::Certificate),
                tls_cert: Some(certificate.clone()),
                tls_key: Some(key.clone()),
                ..common
            },
            ClientCredential::Token(file) => {
                Self { tls: Some(TlsMode::Token), token_file: Some(file.clone()), ..common }
            }
        }
    }
}

/// A name that can stand in a certificate.
///
/// # Errors
/// With what it is instead.
fn server_name(text: &str) -> Result<String, String> {
    match rustls::pki_types::ServerName::try_from(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(format!("{text:?} is neither a DNS name nor an IP address")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: TlsArgs,
    }

    fn args(flags: &[&str]) -> TlsArgs {
        Line::try_parse_from([&["test"][..], flags].concat()).unwrap().args
    }

    fn discovery() -> HostPort {
        "istio-pilot.istio-system.svc.:15012".parse().unwrap()
    }

    #[test]
    fn flags_win_over_the_bootstrap_and_that_over_defaults() {
        let known = Credentials {
            ca: "/own/ca".into(),
            server_name: "pilot".to_owned(),
            client: ClientCredential::Token("/own/token".into()),
        };
        let of = |flags: &[&str], known| args(flags).credentials(&discovery(), known);
        assert_eq!(of(&[], None), None);
        assert_eq!(of(&["--tls=off"], Some(&known)), None);
        assert_eq!(of(&[], Some(&known)).as_ref(), Some(&known));
        let token = of(&["--tls=token"], None).unwrap();
        assert_eq!(token.client, ClientCredential::Token(TOKEN_FILE.into()));
        assert_eq!(token.server_name, "istio-pilot.istio-system.svc");
        let certificate = of(&["--tls=certificate", "--tls-key=k", "--tls-ca=c"], Some(&known));
        let certificate = certificate.unwrap();
        assert_eq!((&certificate.ca, &*certificate.server_name), (&"c".into(), "pilot"));
        let client =
            ClientCredential::Certificate { certificate: CERTIFICATE_FILE.into(), key: "k".into() };
        assert_eq!(certificate.client, client);
    }

    #[test]
    fn credentials_are_said_by_flags() {
        for flags in [["--tls=token", "--token-file=t"], ["--tls=certificate", "--tls-cert=c"]] {
            let credentials = args(&flags).credentials(&discovery(), None);
            let again = TlsArgs::from(credentials.as_ref());
            assert_eq!(again.credentials(&"other:1".parse().unwrap(), None), credentials);
        }
        assert_eq!(TlsArgs::from(None).tls, Some(TlsMode::Off));
    }

    #[test]
    fn the_default_files_lie_where_injection_mounts_them() {
        for file in [CA_FILE, CERTIFICATE_FILE, KEY_FILE] {
            assert!(file.starts_with(&format!("{TLS_FOLDER}/")), "{file}");
        }
    }

    #[test]
    fn bad_values_are_refused_with_a_sentence() {
        for (flag, words) in [
            ("--tls=mutual", "[possible values: off, certificate, token]"),
            ("--tls-server-name=a b", "neither a DNS name nor an IP address"),
        ] {
            let error = Line::try_parse_from(["test", flag]).err().unwrap().to_string();
            assert!(error.contains(words), "{flag}: {error}");
        }
    }
}
