//! The application's own metrics, which the agent shows beside Envoy's and its own: injection leads the
//! pod's annotations for Prometheus here and says in `ISTIO_PROMETHEUS_ANNOTATIONS` what they were.
//!
//! Whatever the application does costs its own part of the page alone: it has a time, a number of bytes,
//! and what it says is checked line by line (`text_format`).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::num::NonZeroU16;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONNECTION, CONTENT_TYPE, HOST, HeaderName, LOCATION, USER_AGENT};
use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde::Deserialize;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::app_probes;
use crate::causes::with_causes;

mod text_format;

/// Istio's name of the variable that says what the annotations were.
pub const APP_METRICS: &str = "ISTIO_PROMETHEUS_ANNOTATIONS";

/// Istio's, for annotations that name none.
const DEFAULT_PORT: NonZeroU16 = NonZeroU16::MIN.saturating_add(79);
const DEFAULT_PATH: &str = "/metrics";
/// Whoever reaches the pod can ask for the page, and each part of the application's may have this much.
const MAX_CONCURRENT: usize = 2;
const MAX_BYTES: usize = 16 << 20;
/// Where who asks does not say how long he waits; Prometheus does.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60);
const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");
/// What the page that is merged is; an application that speaks OpenMetrics alone is converted.
const ACCEPTED: HeaderValue = HeaderValue::from_static("text/plain;version=0.0.4;q=1,*/*;q=0.1");
const OPENMETRICS: &str = "application/openmetrics-text";
/// As Go's client, which is Istio's agent's.
const REDIRECTS: usize = 10;

/// What is wrong with [`APP_METRICS`].
#[derive(Debug, Error)]
pub enum AppMetricsError {
    #[error("it cannot be read: {0}")]
    Syntax(#[from] serde_json::Error),
    #[error("port is {found:?}, which is no port")]
    Port { found: String },
    #[error("path: {0}")]
    Path(String),
}

/// Where the application's metrics are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    port: NonZeroU16,
    path: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Fields {
    scrape: String,
    port: String,
    path: String,
}

impl Target {
    /// As injection says it; none where there is nothing to be merged.
    pub(super) fn parse(text: Option<&str>) -> Result<Option<Self>, AppMetricsError> {
        let Some(text) = text.filter(|text| !text.trim().is_empty()) else { return Ok(None) };
        let Fields { scrape, port, path } = serde_json::from_str(text)?;
        if scrape == "false" {
            return Ok(None);
        }
        let port = match port.as_str() {
            "" => DEFAULT_PORT,
            said => said.parse().map_err(|_| AppMetricsError::Port { found: port.clone() })?,
        };
        let path = if path.is_empty() { DEFAULT_PATH.to_owned() } else { rooted(&path) };
        check_metrics_path(&path).map_err(AppMetricsError::Path)?;
        Ok(Some(Self { port, path }))
    }
}

/// Whether metrics can be asked for at this path.
///
/// # Errors
/// It holds what no request line can.
pub fn check_metrics_path(path: &str) -> Result<(), String> {
    let uri = rooted(path).parse::<Uri>();
    uri.map(|_| ()).map_err(|error| format!("{path:?} is no path of HTTP: {error}"))
}

/// As Prometheus completes it.
fn rooted(path: &str) -> String {
    if path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// Asks for the application's metrics.
#[derive(Debug)]
pub(super) struct AppMetrics {
    target: Target,
    pod: IpAddr,
    turns: Semaphore,
}

impl AppMetrics {
    pub(super) fn new(target: Target, pod: IpAddr) -> Self {
        Self { target, pod, turns: Semaphore::new(MAX_CONCURRENT) }
    }

    /// The application's part of the page, in Prometheus' text format. `headers` are those of whoever
    /// asks.
    ///
    /// # Errors
    /// What became of it instead, for the log.
    pub(super) async fn scrape(&self, headers: &HeaderMap) -> Result<String, String> {
        let limit = time_limit(headers);
        let Target { port, path } = &self.target;
        let scraped = async {
            let _turn = self.turns.acquire().await.map_err(|error| error.to_string())?;
            let (kind, body) = self.get(headers).await?;
            let page = String::from_utf8(body).map_err(|_| "it is no text in UTF-8".to_owned())?;
            let openmetrics = kind.starts_with(OPENMETRICS);
            text_format::checked(&page, openmetrics).map_err(|error| error.to_string())
        };
        let page = timeout(limit, scraped).await;
        let page = page.unwrap_or_else(|_| Err(format!("no page within {limit:?}")));
        page.map_err(|error| format!("port {port}, path {path}: {error}"))
    }

    /// The page with its type, of the application itself: a redirect leads to another path of it.
    async fn get(&self, headers: &HeaderMap) -> Result<(String, Vec<u8>), String> {
        let mut path = self.target.path.clone();
        for _ in 0..=REDIRECTS {
            let (stream, host) = self.connect().await?;
            let request = request(host, &path, headers)?;
            let response = app_probes::exchange(stream, request, page).await?;
            let header = |name: HeaderName| {
                let value = response.headers().get(name)?;
                Some(value.to_str().ok()?.to_owned())
            };
            match response.status().as_u16() {
                200 => return Ok((header(CONTENT_TYPE).unwrap_or_default(), response.into_body())),
                301 | 302 | 303 | 307 | 308 => {
                    let location = header(LOCATION).unwrap_or_default();
                    path = redirected(&location, host)
                        .ok_or_else(|| format!("it leads to somebody else, {location:?}"))?;
                }
                status => return Err(format!("it answers {status}")),
            }
        }
        Err(format!("more than {REDIRECTS} redirects"))
    }

    /// On loopback as Istio's agent does, for many applications show their metrics there alone; else at
    /// the pod's address. Neither is captured.
    async fn connect(&self) -> Result<(TcpStream, SocketAddr), String> {
        let port = self.target.port.get();
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        match TcpStream::connect(loopback).await {
            Ok(stream) => Ok((stream, loopback)),
            Err(_) => {
                let stream = app_probes::connect(self.pod, port).await?;
                Ok((stream, SocketAddr::new(self.pod, port)))
            }
        }
    }
}

/// A little less than whoever asks waits, so that he has the rest of the page.
fn time_limit(headers: &HeaderMap) -> Duration {
    let said = headers.get(TIMEOUT_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
    let said = said.and_then(|seconds: f64| Duration::try_from_secs_f64(seconds).ok());
    match said {
        Some(limit) => limit.min(LONGEST_TIMEOUT).mul_f64(0.9),
        None => DEFAULT_TIMEOUT,
    }
}

fn request(
    host: SocketAddr,
    path: &str,
    headers: &HeaderMap,
) -> Result<Request<Empty<Bytes>>, String> {
    let mut request = Request::get(path)
        .header(HOST, host.to_string())
        .header(CONNECTION, "close")
        .header(ACCEPT, ACCEPTED)
        .body(Empty::new())
        .map_err(|error| format!("path {path:?}: {error}"))?;
    for name in [USER_AGENT, TIMEOUT_HEADER] {
        if let Some(value) = headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    Ok(request)
}

/// The path that a redirect names, if it is one of the same server.
fn redirected(location: &str, host: SocketAddr) -> Option<String> {
    let uri: Uri = location.parse().ok()?;
    let same = match uri.authority() {
        // Two slashes begin the name of a server.
        None => location.starts_with('/') && !location.starts_with("//"),
        Some(authority) => authority.as_str() == host.to_string(),
    };
    same.then(|| uri.path_and_query().map_or("/", |path| path.as_str()).to_owned())
}

async fn page(body: Incoming) -> Result<Vec<u8>, String> {
    let body = Limited::new(body, MAX_BYTES).collect().await;
    let body = body.map_err(|error| match error.is::<LengthLimitError>() {
        true => format!("its page is larger than {} MiB", MAX_BYTES >> 20),
        false => format!("its page ends early: {}", with_causes(&*error)),
    })?;
    Ok(body.to_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_annotations_are_read_as_istio_reads_them() {
        let target = |text: &str| Target::parse(Some(text)).unwrap();
        let at = |port: u16, path: &str| {
            Some(Target { port: port.try_into().unwrap(), path: path.to_owned() })
        };
        assert_eq!(target(r#"{"scrape":"true","path":"/m","port":"8080"}"#), at(8080, "/m"));
        assert_eq!(target(r#"{"scrape":"","path":"","port":""}"#), at(80, "/metrics"));
        assert_eq!(target(r#"{"path":"m?x=y","port":"1"}"#), at(1, "/m?x=y"));
        assert_eq!(target(r#"{"scrape":"false","port":"8080"}"#), None);
        assert_eq!(Target::parse(None).unwrap(), None);
        for wrong in ["8080", r#"{"port":"0"}"#, r#"{"port":"http"}"#, r#"{"path":"/a b"}"#] {
            assert!(Target::parse(Some(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_time_is_that_of_whoever_asks() {
        let limit = |said: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(said.map(|said| (TIMEOUT_HEADER, HeaderValue::from_static(said))));
            time_limit(&headers).as_millis()
        };
        assert_eq!(limit(Some("10")), 9_000);
        assert_eq!(limit(Some("0.5")), 450);
        assert_eq!(limit(Some("1e9")), 54_000);
        for nonsense in [None, Some("soon"), Some("-1"), Some("NaN")] {
            assert_eq!(limit(nonsense), 5_000, "{nonsense:?}");
        }
    }

    #[test]
    fn redirects_lead_to_the_same_server() {
        let host = "127.0.0.1:8080".parse().unwrap();
        for (location, path) in [
            ("/metrics/", Some("/metrics/")),
            ("http://127.0.0.1:8080/m?x", Some("/m?x")),
            ("http://127.0.0.1:9090/m", None),
            ("http://elsewhere.example/m", None),
            ("//elsewhere.example/m", None),
            ("", None),
        ] {
            assert_eq!(redirected(location, host).as_deref(), path, "{location}");
        }
    }
}
