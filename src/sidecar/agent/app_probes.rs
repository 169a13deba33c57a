//! The application's probes, asked on behalf of the kubelet as by Istio's agent: injection turns them
//! into `GET :15020/app-health/CONTAINER/livez` and says in `ISTIO_KUBE_APP_PROBERS` what they were. So too
//! the hooks of its life cycle, `GET :15020/app-lifecycle/CONTAINER/prestopz`.
//!
//! They are answered from the agent's start to its end, whatever Envoy and the control plane do, so that
//! an outage of theirs restarts no application. The application is asked at the pod's own address, from
//! 127.0.0.6, whose connections the rules of istio-init leave alone.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use thiserror::Error;
use tokio::sync::Semaphore;
use tokio::time::timeout;

mod client;

pub(super) use client::{connect, exchange};

/// Istio's name of the variable that says what the probes were.
pub const APP_PROBERS: &str = "ISTIO_KUBE_APP_PROBERS";
/// How the paths begin.
pub const APP_HEALTH: &str = "/app-health";

/// How the paths of hooks begin.
pub const APP_LIFECYCLE: &str = "/app-lifecycle";

/// The kubelet's own for a probe that says none.
const DEFAULT_TIMEOUT: u64 = 1;
/// A hook has no timeout: the kubelet hangs up when the pod's grace period is over, which ends it here too.
const HOOK_TIMEOUT: u64 = 24 * 3600;
/// Whoever reaches the pod can ask for a probe. More wait, within the probe's timeout.
const MAX_CONCURRENT: usize = 64;
/// Hooks may take long, and must not keep probes waiting.
const MAX_CONCURRENT_HOOKS: usize = 8;

/// What is wrong with [`APP_PROBERS`].
#[derive(Debug, Error)]
pub enum ProbersError {
    #[error("it cannot be read: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error(
        "{path:?} is neither {APP_HEALTH}/CONTAINER/livez, readyz or startupz nor \
         {APP_LIFECYCLE}/CONTAINER/poststartz or prestopz"
    )]
    Path { path: String },
    #[error("{path} must have exactly one of httpGet, tcpSocket and grpc")]
    Action { path: String },
}

/// A probe as Kubernetes' API has it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Fields {
    http_get: Option<HttpGet>,
    tcp_socket: Option<TcpSocket>,
    grpc: Option<Grpc>,
    timeout_seconds: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HttpGet {
    port: std::num::NonZeroU16,
    #[serde(default)]
    path: String,
    #[serde(default)]
    scheme: Scheme,
    #[serde(default)]
    http_headers: Vec<Header>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Scheme {
    #[default]
    Http,
    Https,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Header {
    name: String,
    #[serde(default)]
    value: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct TcpSocket {
    port: std::num::NonZeroU16,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct Grpc {
    port: std::num::NonZeroU16,
    #[serde(default)]
    service: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Action {
    HttpGet(HttpGet),
    TcpSocket(TcpSocket),
    Grpc(Grpc),
}

/// One probe.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Prober {
    action: Action,
    timeout: Duration,
}

/// All of a pod, by their path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Probers(BTreeMap<String, Prober>);

impl Probers {
    /// Reads [`APP_PROBERS`].
    ///
    /// # Errors
    /// See [`ProbersError`].
    pub fn parse(json: &str) -> Result<Self, ProbersError> {
        if json.trim().is_empty() {
            return Ok(Self::default());
        }
        let all: BTreeMap<String, Fields> = serde_json::from_str(json)?;
        all.into_iter()
            .map(|(path, fields)| {
                let parts: Vec<&str> = path.split('/').collect();
                let default = match parts.as_slice() {
                    ["", _, "", _] => return Err(ProbersError::Path { path }),
                    ["", "app-health", _, "livez" | "readyz" | "startupz"] => DEFAULT_TIMEOUT,
                    ["", "app-lifecycle", _, "poststartz" | "prestopz"] => HOOK_TIMEOUT,
                    _ => return Err(ProbersError::Path { path }),
                };
                let action = match (fields.http_get, fields.tcp_socket, fields.grpc) {
                    (Some(get), None, None) => Action::HttpGet(get),
                    (None, Some(socket), None) => Action::TcpSocket(socket),
                    (None, None, Some(grpc)) => Action::Grpc(grpc),
                    _ => return Err(ProbersError::Action { path }),
                };
                let seconds = fields.timeout_seconds.filter(|seconds| *seconds > 0);
                let timeout = Duration::from_secs(seconds.unwrap_or(default));
                Ok((path, Prober { action, timeout }))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

/// What the kubelet is told: below 400 is well.
pub(super) type ProbeResponse = (StatusCode, Vec<u8>);

/// Asks the application.
#[derive(Debug)]
pub(super) struct AppProbes {
    probers: Probers,
    pod: IpAddr,
    permits: Semaphore,
    hook_permits: Semaphore,
    tls: Arc<rustls::ClientConfig>,
}

impl AppProbes {
    /// `pod` is the address at which the kubelet would have asked.
    pub(super) fn new(probers: Probers, pod: IpAddr) -> Result<Self, rustls::Error> {
        let tls = client::accept_any_certificate()?;
        let permits = Semaphore::new(MAX_CONCURRENT);
        let hook_permits = Semaphore::new(MAX_CONCURRENT_HOOKS);
        Ok(Self { probers, pod, permits, hook_permits, tls })
    }

    /// The answer to a probe, and always one within its timeout. `headers` are those of the kubelet.
    pub(super) async fn answer(&self, path: &str, headers: &HeaderMap) -> ProbeResponse {
        let Some(prober) = self.probers.0.get(path) else {
            let said = format!("{APP_PROBERS} has no probe {path}\n");
            return (StatusCode::NOT_FOUND, said.into_bytes());
        };
        let asked = async {
            let is_hook = path.starts_with(APP_LIFECYCLE);
            let permits = if is_hook { &self.hook_permits } else { &self.permits };
            let _permit = permits.acquire().await.map_err(|error| error.to_string())?;
            match &prober.action {
                Action::HttpGet(get) => client::http(self.pod, get, headers, &self.tls).await,
                Action::TcpSocket(socket) => {
                    client::connect(self.pod, socket.port.get()).await?;
                    Ok((StatusCode::OK, Vec::new()))
                }
                Action::Grpc(grpc) => client::grpc(self.pod, grpc).await,
            }
        };
        let failed = match timeout(prober.timeout, asked).await {
            Ok(Ok(answer)) => return answer,
            Ok(Err(why)) => why,
            Err(_) => format!("no answer within {:?}", prober.timeout),
        };
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{failed}\n").into_bytes())
    }
}

#[cfg(test)]
mod tests;
