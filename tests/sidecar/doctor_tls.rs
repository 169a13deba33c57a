//! The doctor on a path over TLS: each fault is there for real, and must be told by its own code.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tonic::Status;

use crate::stand_in::{PILOT, Refusing, clock, tls_server};
use pilothouse_testkit::certificates::{Authority, Issued, Validity};
use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::manifests::Manifests;
use pilothouse_testkit::places;
use pilothouse_testkit::process::Process;

const OWN: &str = "spiffe://cluster.local/ns/shop/sa/web";
const HOUR: Duration = Duration::from_secs(3600);

/// The files of one proxy, and the authority that everybody believes.
struct Place {
    folder: TempDir,
    authority: Authority,
}

impl Place {
    /// With everything as it should be.
    fn new() -> Self {
        let place =
            Self { folder: TempDir::new().unwrap(), authority: Authority::new("the mesh's CA") };
        place.authority.write(&place.path("ca.crt"));
        place.authority.client(OWN).write(place.folder.path());
        place.token(&json!({ "exp": 4_000_000_000_u64 }));
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn token(&self, claims: &Value) {
        let mut claims = claims.clone();
        claims["sub"] = "system:serviceaccount:shop:web".into();
        let text = format!("{}.{}.c2ln", base64(b"{}"), base64(claims.to_string().as_bytes()));
        std::fs::write(self.path("token"), text).unwrap();
    }

    fn server(&self) -> Issued {
        self.authority.server(&[PILOT])
    }

    async fn asks(&self, mode: &str, at: impl ToString, more: &[&str]) -> Said {
        let file = |flag: &str, name: &str| format!("--{flag}={}", text(&self.path(name)));
        let files = [
            file("tls-ca", "ca.crt"),
            file("tls-cert", "tls.crt"),
            file("tls-key", "tls.key"),
            file("token-file", "token"),
        ];
        let (mode, address) =
            (format!("--tls={mode}"), format!("--discovery-address={}", at.to_string()));
        let mut all = vec!["doctor", "--json", "--timeout=5s", "--no-kubernetes", "--no-envoy"];
        all.extend(files.iter().map(String::as_str));
        all.extend([&*mode, &*address, "--tls-server-name", PILOT]);
        all.extend(more);
        let mut command = pilothouse(&all);
        command.env_remove("KUBECONFIG").env_remove("KUBERNETES_SERVICE_HOST");
        let mut process = Process::start("doctor", &mut command);
        process.end(Duration::from_secs(20)).await;
        let log = process.log();
        Said(serde_json::from_str(&log).unwrap_or_else(|error| panic!("{error}: {log}")))
    }
}

#[derive(Debug)]
struct Said(Value);

impl Said {
    fn is(&self, code: &str, words: &[&str]) {
        assert_eq!(self.0["code"], code, "{:#}", self.0);
        let cause = self.0["cause"].as_str().unwrap();
        for word in words {
            assert!(cause.contains(word), "{word:?} is not in {cause:?}");
        }
        assert!(!self.0["fix"].as_str().unwrap().is_empty(), "{:#}", self.0);
        assert!(self.0["seconds"].as_f64().unwrap() < 6.0, "{:#}", self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Without padding, as tokens have it (RFC 7515, appendix C).
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut encoded = String::new();
    for chunk in bytes.chunks(3) {
        let mut word = [0; 4];
        word[1..=chunk.len()].copy_from_slice(chunk);
        let word = u32::from_be_bytes(word);
        for at in 0..=chunk.len() {
            encoded.push(ALPHABET[(word >> (18 - 6 * at)) as usize & 63].into());
        }
    }
    encoded
}

/// A server with this certificate that wants clients of this authority, if any.
fn config(issued: &Issued, clients: Option<&Authority>, alpn: &[&[u8]]) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap();
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let roots: RootCertStore = authority.roots();
            let verifier =
                WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.unwrap())
        }
    };
    let mut config = builder.with_single_cert(issued.chain(), issued.private_key()).unwrap();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config
}

async fn served(issued: &Issued, clients: Option<&Authority>) -> std::net::SocketAddr {
    tls_server(config(issued, clients, &[b"h2"])).await
}

#[tokio::test]
async fn the_servers_certificate() {
    let place = Place::new();
    let of = |names: &[&str], validity| place.authority.server_valid(names, validity);
    let asks = async |issued: &Issued| place.asks("token", served(issued, None).await, &[]).await;
    let said = asks(&of(&[PILOT], Validity::Expired)).await;
    said.is("server_certificate_expired", &["has expired at", "this machine's clock says"]);
    let said = asks(&of(&[PILOT], Validity::NotYet)).await;
    said.is("server_certificate_not_yet_valid", &["is valid only from"]);
    let said = asks(&of(&["other.example"], Validity::Now)).await;
    said.is("server_certificate_wrong_name", &["other.example", PILOT]);
    let stranger = Authority::new("somebody's CA").server(&[PILOT]);
    let said = asks(&stranger).await;
    said.is("server_certificate_unknown_ca", &["somebody's CA", "the mesh's CA", "ca.crt"]);
    // One of the same name, with another key.
    let said = asks(&Authority::new("the mesh's CA").server(&[PILOT])).await;
    said.is("server_certificate_unknown_ca", &["the mesh's CA"]);
    let said = asks(&place.authority.client(OWN)).await;
    said.is("server_certificate_unusable", &[]);
}

#[tokio::test]
async fn the_clients_certificate() {
    let place = Place::new();
    let address = served(&place.server(), Some(&place.authority)).await;
    place.asks("token", address, &[]).await.is("client_certificate_missing", &["--tls token"]);
    let write = |issued: &Issued| _ = issued.write(place.folder.path());
    write(&place.authority.client_valid(OWN, Validity::Expired));
    let said = place.asks("certificate", address, &[]).await;
    said.is("client_certificate_expired", &[OWN, "expires at", "tls.crt"]);
    write(&place.authority.client_valid(OWN, Validity::NotYet));
    place.asks("certificate", address, &[]).await.is("client_certificate_not_yet_valid", &[OWN]);
    write(&Authority::new("somebody's CA").client(OWN));
    let said = place.asks("certificate", address, &[]).await;
    said.is("client_certificate_refused", &[OWN, "somebody's CA"]);
    std::fs::write(place.path("tls.key"), &place.server().key).unwrap();
    place.asks("certificate", address, &[]).await.is("client_certificate_unusable", &["tls.key"]);
    std::fs::remove_file(place.path("tls.crt")).unwrap();
    let said = place.asks("certificate", address, &[]).await;
    said.is("client_certificate_missing", &["tls.crt is not there"]);
}

#[tokio::test]
async fn authorities_that_are_of_no_use() {
    let place = Place::new();
    let address = served(&place.server(), None).await;
    Authority::valid("the mesh's CA", Validity::Expired).write(&place.path("ca.crt"));
    place.asks("token", address, &[]).await.is("tls_ca_expired", &["ca.crt", "valid from"]);
    std::fs::remove_file(place.path("ca.crt")).unwrap();
    place.asks("token", address, &[]).await.is("tls_ca_unusable", &["ca.crt is not there"]);
}

#[tokio::test]
async fn a_clock_that_is_wrong() {
    let place = Place::new();
    let now = SystemTime::now();
    let validity = Validity::Between(now - 3 * HOUR, now - HOUR / 2);
    let address = served(&place.authority.server_valid(&[PILOT], validity), None).await;
    // There it is an hour earlier.
    let seconds = (now - HOUR).duration_since(UNIX_EPOCH).unwrap().as_secs();
    let monitoring = clock(http_date(seconds)).await.to_string();
    let said = place.asks("token", address, &["--monitoring-address", &monitoring]).await;
    said.is("clock_skew", &["Pilot's says", "ahead of", "has expired at"]);
    let monitoring = clock(http_date(seconds + 3600)).await.to_string();
    let said = place.asks("token", address, &["--monitoring-address", &monitoring]).await;
    said.is("server_certificate_expired", &["the clocks agree"]);
}

/// `date` of HTTP; the weekday is not looked at.
fn http_date(seconds: u64) -> String {
    let time = UNIX_EPOCH + Duration::from_secs(seconds);
    let time = humantime::format_rfc3339_seconds(time).to_string();
    let months =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months[time[5..7].parse::<usize>().unwrap() - 1];
    format!("Thu, {} {month} {} {} GMT", &time[8..10], &time[..4], &time[11..19])
}

#[tokio::test]
async fn protocols_that_do_not_fit() {
    let place = Place::new();
    for alpn in [&[][..], &[&b"http/1.1"[..]]] {
        let address = tls_server(config(&place.server(), None, alpn)).await;
        place.asks("token", address, &[]).await.is("alpn_missing", &[&address.to_string(), "h2"]);
    }
    let hangs_up = TcpListener::bind((places::address(), 0)).await.unwrap();
    let address = hangs_up.local_addr().unwrap();
    tokio::spawn(async move { while hangs_up.accept().await.is_ok() {} });
    place.asks("token", address, &[]).await.is("tls_handshake_failed", &[&address.to_string()]);
    let manifests = Manifests::new(&[]);
    let control = ControlPlane::start(manifests.path()).await;
    place.asks("certificate", control.grpc, &[]).await.is("tls_to_plaintext_port", &[]);
    let address = served(&place.server(), None).await;
    place.asks("off", address, &[]).await.is("plaintext_to_tls_port", &[]);
}

#[tokio::test]
async fn one_port_of_two() {
    let place = Place::new();
    for (open, asked, mode, code) in [
        (15010, 15012, "token", "only_plaintext_port_open"),
        (15012, 15010, "off", "only_tls_port_open"),
    ] {
        let address = places::address();
        let _open = TcpListener::bind((address, open)).await.unwrap();
        let said = place.asks(mode, format!("{address}:{asked}"), &[]).await;
        said.is(code, &[&format!("{address}:{asked}"), &open.to_string()]);
    }
}

#[tokio::test]
async fn tokens() {
    let place = Place::new();
    let refused = async |status: Status| {
        let (server, address) = Refusing::start(status, Some(&place.server())).await;
        let said = place.asks("token", address, &[]).await;
        assert!(server.last_bearer().unwrap().starts_with("Bearer e30."), "the token came along");
        said
    };
    let no = Status::unauthenticated;
    place.token(&json!({ "exp": 4_000_000_000_u64, "aud": ["other"] }));
    let sentence = "the token is for the audience \"other\", and \"istio-ca\" is wanted: set \
                    `audience` of the projected serviceAccountToken volume";
    refused(no(sentence)).await.is("token_wrong_audience", &["shop:web", "other", "istio-ca"]);
    let sentence = "the signature of the token is not one of the issuer's key \"a\"";
    refused(no(sentence)).await.is("token_refused", &["shop:web", "signature"]);
    let unavailable =
        Status::unavailable("the keys that tokens are verified with cannot be fetched");
    refused(unavailable).await.is("token_not_verified", &["cannot be fetched"]);
    place.token(&json!({ "exp": 1_000_000_000_u64 }));
    let sentence = "the token expired at 2001-09-09T01:46:40Z";
    refused(no(sentence)).await.is("token_expired", &["2001-09-09", "this machine's clock"]);
    place.token(&json!({ "exp": 4_000_000_000_u64, "nbf": 3_900_000_000_u64 }));
    let sentence = "the token is valid from 2093-08-01T21:20:00Z on";
    refused(no(sentence)).await.is("token_not_yet_valid", &["2093-08-01"]);

    let (server, address) = Refusing::start(no("no"), Some(&place.server())).await;
    std::fs::write(place.path("token"), "hello").unwrap();
    place.asks("token", address, &[]).await.is("token_unusable", &["no JWT"]);
    std::fs::remove_file(place.path("token")).unwrap();
    place.asks("token", address, &[]).await.is("token_missing", &["token is not there"]);
    // Nor is a token told to somebody who is not believed.
    place.token(&json!({ "exp": 4_000_000_000_u64 }));
    Authority::new("another CA").write(&place.path("ca.crt"));
    place.asks("token", address, &[]).await.is("server_certificate_unknown_ca", &[]);
    assert_eq!(server.last_bearer(), None);
}

#[tokio::test]
async fn identities() {
    let place = Place::new();
    let sentence = "the proxy's node id claims the namespace \"bank\", and its identity \
                    spiffe://cluster.local/ns/shop/sa/web is of the namespace \"shop\"";
    let status = Status::permission_denied(sentence);
    let (_, address) = Refusing::start(status, Some(&place.server())).await;
    for mode in ["token", "certificate"] {
        place.asks(mode, address, &[]).await.is("namespace_mismatch", &["\"bank\"", "\"shop\""]);
    }
    let status = Status::unauthenticated("the certificate names no identity");
    let (_, address) = Refusing::start(status.clone(), Some(&place.server())).await;
    let said = place.asks("certificate", address, &[]).await;
    said.is("client_certificate_refused", &["names no identity", OWN]);
    let (_, address) = Refusing::start(status, None).await;
    place.asks("off", address, &[]).await.is("identity_missing", &["names no identity"]);
}
