//! Where an issuer's keys are asked for: its discovery document (OpenID Connect Discovery, as Kubernetes'
//! ServiceAccountIssuerDiscovery has it) and the key set that it names.
//!
//! An API server that is the issuer is asked for both itself: the `jwks_uri` of its document names an address
//! from outside, which a pod often cannot reach or has no CA for. kube's client is the HTTP client for both,
//! for it brings the cluster's credentials and CA; for an issuer elsewhere it has neither credentials nor
//! redirects, and believes the CAs of the system and of the cluster.

use bytes::Bytes;
use http::Request;
use http::header::ACCEPT;
use http_body_util::{BodyExt as _, Limited};
use kube::client::Body;
use kube::{Client, Config};
use serde::Deserialize;
use tokio::sync::OnceCell;

use super::keys::KeySet;
use super::{IssuerUrl, TIMEOUT};
use crate::causes::with_causes;
use crate::kubeconfig;

const DISCOVERY: &str = "/.well-known/openid-configuration";
const API_SERVER_KEYS: &str = "/openid/v1/jwks";
/// Kubernetes' API server answers 406 to who does not take key sets by their own type.
const ACCEPTED: &str = "application/json, application/jwk-set+json";
/// Of a document; Kubernetes' have a few hundred.
const MAX_DOCUMENT_BYTES: usize = 256 << 10;

/// Whom to ask for keys.
pub(super) enum Issuer {
    ApiServer(ApiServer),
    Elsewhere {
        url: IssuerUrl,
        /// Certificates (DER) that are believed besides the system's: the cluster's, if there is one.
        cluster_ca: ClusterCa,
    },
}

/// Which CAs a cluster has.
#[derive(Debug)]
pub(super) enum ClusterCa {
    /// No cluster is meant.
    None,
    /// That of the kubeconfig or of the pod, looked up at each fetch, since it changes.
    Of(Option<String>),
    #[cfg(test)]
    Given(Vec<Vec<u8>>),
}

/// What an issuer publishes.
#[derive(Debug)]
pub(super) struct Published {
    pub(super) issuer: String,
    pub(super) keys: KeySet,
}

#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl Issuer {
    /// The issuer's name and keys as they are now.
    ///
    /// Fails with a sentence for people.
    pub(super) async fn fetch(&self) -> Result<Published, String> {
        match self {
            Self::ApiServer(server) => {
                let client = server.client().await?;
                let discovery = discovery(&server.get(client, DISCOVERY).await?, DISCOVERY)?;
                let keys = server.get(client, API_SERVER_KEYS).await?;
                let keys = read_keys(&keys, API_SERVER_KEYS)?;
                Ok(Published { issuer: discovery.issuer, keys })
            }
            Self::Elsewhere { url, cluster_ca } => {
                let cas = cluster_ca.look_up().await;
                let address = format!("{}{DISCOVERY}", url.as_str().trim_end_matches('/'));
                let discovery = discovery(&get(&address, &cas).await?, &address)?;
                if discovery.issuer != url.as_str() {
                    return Err(format!(
                        "{address} is of the issuer {:?}, and --token-issuer says {:?}: they must be \
                         equal to the letter",
                        discovery.issuer,
                        url.as_str()
                    ));
                }
                let address = IssuerUrl::read(&discovery.jwks_uri)
                    .map_err(|error| format!("the jwks_uri of {address} is of no use: {error}"))?;
                let address = address.as_str();
                let keys = read_keys(&get(address, &cas).await?, address)?;
                Ok(Published { issuer: discovery.issuer, keys })
            }
        }
    }
}

fn discovery(document: &[u8], place: &str) -> Result<Discovery, String> {
    serde_json::from_slice(document)
        .map_err(|error| format!("{place} is no discovery document of an issuer: {error}"))
}

fn read_keys(document: &[u8], place: &str) -> Result<KeySet, String> {
    KeySet::read(document).map_err(|error| format!("{place} cannot be used: {error}"))
}

/// The API server as an issuer, or as one that reviews tokens.
pub(super) struct ApiServer {
    /// Of the kubeconfig.
    context: Option<String>,
    client: OnceCell<Client>,
}

impl ApiServer {
    pub(super) fn new(context: Option<String>) -> Self {
        Self { context, client: OnceCell::new() }
    }

    /// Made when it is first needed: there may be no configuration yet.
    pub(super) async fn client(&self) -> Result<&Client, String> {
        let make = || kubeconfig::client(self.context.as_deref(), TIMEOUT);
        self.client.get_or_try_init(make).await
    }

    async fn get(&self, client: &Client, path: &str) -> Result<Bytes, String> {
        match request(client, path).await {
            Ok(document) => Ok(document),
            Err(Failure::Status(403, said)) => Err(format!(
                "403 Forbidden: {said}; give the control plane's ServiceAccount the ClusterRole \
                 system:service-account-issuer-discovery, which Kubernetes gives to every one unless \
                 told otherwise"
            )),
            Err(failure) => Err(format!("{path} of the API server: {failure}")),
        }
    }
}

impl ClusterCa {
    async fn look_up(&self) -> Vec<Vec<u8>> {
        match self {
            Self::None => Vec::new(),
            // Without a cluster there are the system's.
            Self::Of(context) => kubeconfig::choose(context.as_deref())
                .await
                .ok()
                .and_then(|config| config.root_cert)
                .unwrap_or_default(),
            #[cfg(test)]
            Self::Given(cas) => cas.clone(),
        }
    }
}

/// An https address with the CAs of the cluster, then with the system's: an issuer has its certificate of
/// the one or of the other.
async fn get(address: &str, cluster_ca: &[Vec<u8>]) -> Result<Bytes, String> {
    let (origin, path) = IssuerUrl::read(address)?.into_parts();
    let with_cas = async |cas: Option<Vec<Vec<u8>>>| {
        let mut config = Config::new(origin.clone());
        config.root_cert = cas;
        prepare(&mut config);
        let client = Client::try_from(config).map_err(|error| with_causes(&error));
        request(&client.map_err(Failure::Connection)?, &path).await
    };
    let said = |failure: Failure| format!("{address}: {failure}");
    let mut by_cluster = None;
    if !cluster_ca.is_empty() {
        match with_cas(Some(cluster_ca.to_vec())).await {
            Ok(document) => return Ok(document),
            Err(Failure::Connection(error)) => by_cluster = Some(error),
            Err(failure) => return Err(said(failure)),
        }
    }
    with_cas(None).await.map_err(|failure| match (&failure, by_cluster) {
        (Failure::Connection(error), Some(other)) if *error != other => {
            format!("{address}: {error}; with the cluster's CA: {other}")
        }
        _ => said(failure),
    })
}

fn prepare(config: &mut Config) {
    config.connect_timeout = Some(TIMEOUT);
    config.read_timeout = Some(TIMEOUT);
    // Whoever asks has a pace of its own.
    config.default_retry = false;
}

enum Failure {
    /// An answer, but not the document.
    Status(u16, String),
    /// None: nobody is there, or nobody who is believed.
    Connection(String),
    /// One that breaks off or is too long.
    Body(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(code, said) => write!(f, "status {code} ({said})"),
            Self::Connection(error) | Self::Body(error) => f.write_str(error),
        }
    }
}

async fn request(client: &Client, path: &str) -> Result<Bytes, Failure> {
    let failed = |error: &dyn std::error::Error| Failure::Connection(with_causes(error));
    let request = Request::get(path).header(ACCEPT, ACCEPTED).body(Body::empty());
    let request = request.map_err(|error| failed(&error))?;
    let response = client.send(request).await.map_err(|error| failed(&error))?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_DOCUMENT_BYTES).collect().await;
    let body = body.map_err(|error| Failure::Body(with_causes(&*error)))?.to_bytes();
    match status.is_success() {
        true => Ok(body),
        false => Err(Failure::Status(status.as_u16(), words(&body))),
    }
}

/// The message of the API server's answer, or how it begins.
fn words(body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Status {
        message: String,
    }
    match serde_json::from_slice::<Status>(body) {
        Ok(status) => status.message,
        Err(_) => super::error::quoted(&String::from_utf8_lossy(body)),
    }
}
