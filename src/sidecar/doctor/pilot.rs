//! What the control plane says of itself: ready or not, how old its knowledge is, and what it
//! thinks that this proxy has.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::ads;
use super::finding::{Code, Finding};
use super::verdict::one_line;
use crate::sidecar::http_client::get;

/// How long a watch request lasts where the control plane does not say: its default.
const DEFAULT_WATCH_SECONDS: f64 = 30.0;
/// A watch is heard from each time that its request is over, so this many times that without a word
/// is a fault.
const STALE_AFTER_WATCHES: f64 = 2.0;

/// What the monitoring port says of the control plane.
#[derive(Debug)]
pub(super) enum Readiness {
    Ready(ReadyPilot),
    NotReady(Finding),
    /// With the reason: the port does not answer, or is not the control plane's.
    Unknown(String),
}

/// Asks the monitoring port.
pub(super) async fn readiness(address: SocketAddr, limit: Duration) -> Readiness {
    let ready = match get(address, "/ready", limit).await {
        Ok(ready) => ready,
        Err(error) => {
            return Readiness::Unknown(format!("{address} could not be asked: {error}"));
        }
    };
    match ready.status {
        200 => {}
        503 => return Readiness::NotReady(ads::not_ready(&ready.body)),
        status => return Readiness::Unknown(format!("{address} answers {status} to /ready")),
    }
    let metrics = get(address, "/metrics", limit).await;
    let oldest = metrics.ok().and_then(|page| longest_silent_watch(&page.body));
    Readiness::Ready(ReadyPilot { oldest })
}

/// What a pod that is not ready says of itself; `None` if it says nothing, or that it is.
pub(super) async fn why_not_ready(address: SocketAddr, limit: Duration) -> Option<String> {
    let answer = get(address, "/ready", limit).await.ok()?;
    (answer.status == 503).then(|| one_line(&answer.body))
}

#[derive(Debug)]
pub(super) struct ReadyPilot {
    /// The watch that was silent for longest.
    pub(super) oldest: Option<SilentWatch>,
}

/// A watch that is not heard from all the time.
#[derive(Debug, PartialEq)]
pub(super) struct SilentWatch {
    pub(super) watch: String,
    /// For how many seconds.
    pub(super) age: f64,
    /// How many seconds one request of it lasts.
    pub(super) timeout: f64,
}

impl ReadyPilot {
    pub(super) fn summary(&self) -> String {
        match &self.oldest {
            Some(SilentWatch { watch, age, .. }) => {
                format!("ready; heard of {watch} {age:.0} s ago")
            }
            None => "ready".to_owned(),
        }
    }

    pub(super) fn stale(&self) -> Option<Finding> {
        let SilentWatch { watch, age, timeout } = self
            .oldest
            .as_ref()
            .filter(|oldest| oldest.age > STALE_AFTER_WATCHES * oldest.timeout)?;
        Some(Finding::new(
            Code::PilotStale,
            format!(
                "Pilot has not heard from the Kubernetes API server for {age:.0} s (its watch of \
                 {watch}, which hears from it every {timeout:.0} s): what it serves is as old as that"
            ),
            "look at /debug/sourcez for the watch's last error, and whether Pilot may and can \
             reach the API server",
        ))
    }
}

/// Watches of Kubernetes only: a folder of manifests is silent for as long as nobody edits it.
fn longest_silent_watch(metrics: &str) -> Option<SilentWatch> {
    let of_metric = |name: &'static str| {
        metrics.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?.strip_prefix("{watch=\"")?;
            let (watch, value) = rest.split_once("\"} ")?;
            let value = value.parse().ok().filter(|value: &f64| value.is_finite())?;
            Some((watch, value))
        })
    };
    let timeout = |wanted: &str| {
        let mut told = of_metric("pilothouse_watch_timeout_seconds");
        told.find(|(watch, _)| *watch == wanted)
            .map_or(DEFAULT_WATCH_SECONDS, |(_, timeout)| timeout)
    };
    let ages = of_metric("pilothouse_watch_age_seconds").filter(|(watch, _)| {
        let kind = watch.split(' ').next().unwrap_or_default();
        ["services", "endpointslices", "endpoints"].contains(&kind)
    });
    let silent = ages.map(|(watch, age)| SilentWatch {
        watch: watch.to_owned(),
        age,
        timeout: timeout(watch),
    });
    silent.max_by(|a, b| a.age.total_cmp(&b.age))
}

/// How the control plane sees one proxy.
#[derive(Debug, PartialEq)]
pub(super) struct ProxyStatus {
    /// Type and last NACK.
    pub(super) errors: Vec<(String, String)>,
    /// Which clusters it is sent, where the control plane says that.
    pub(super) discovery: Option<String>,
}

/// The proxy's newest stream in syncz, `None` if it has none there; an error if the page cannot be
/// had, which is no fault: it is on loopback unless opened.
pub(super) async fn proxy_status(
    address: SocketAddr,
    node_id: &str,
    limit: Duration,
) -> Result<Option<ProxyStatus>, String> {
    let answer = get(address, "/debug/syncz", limit).await;
    let answer = answer.map_err(|error| format!("{address} could not be asked: {error}"))?;
    let page: Value = serde_json::from_str(&answer.body)
        .map_err(|_| format!("{address} answers {} to /debug/syncz", answer.status))?;
    Ok(newest_status(&page, node_id))
}

fn newest_status(page: &Value, node_id: &str) -> Option<ProxyStatus> {
    let mut own = page.as_array()?.iter().filter(|entry| {
        let agent = entry["user_agent"].as_str().unwrap_or_default();
        entry["node_id"] == node_id && !agent.starts_with(ads::USER_AGENT)
    });
    let newest = own.next_back()?;
    let types = newest["resources"].as_object()?;
    let errors = types.iter().filter_map(|(url, status)| {
        let kind = url.rsplit('.').next().unwrap_or(url);
        Some((kind.to_owned(), status["lastError"].as_str()?.to_owned()))
    });
    let discovery = newest["discovery"].as_str().map(str::to_owned);
    Some(ProxyStatus { errors: errors.collect(), discovery })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_oldest_watch_of_kubernetes_counts() {
        let page = "# HELP x\npilothouse_watch_age_seconds{watch=\"services\"} 2.5\n\
                    pilothouse_watch_age_seconds{watch=\"endpointslices in shop\"} 200.0\n\
                    pilothouse_watch_age_seconds{watch=\"/manifests\"} 9999\n\
                    pilothouse_watch_age_seconds{watch=\"endpoints\"} NaN\n";
        let watch = "endpointslices in shop".to_owned();
        assert_eq!(
            longest_silent_watch(page),
            Some(SilentWatch { watch, age: 200.0, timeout: 30.0 })
        );
        assert_eq!(longest_silent_watch(""), None);
    }

    #[test]
    fn silence_is_a_fault_from_twice_the_watchs_own_time_on() {
        let code = |age: u32, timeout: &str| {
            let page =
                format!("pilothouse_watch_age_seconds{{watch=\"services\"}} {age}\n{timeout}");
            ReadyPilot { oldest: longest_silent_watch(&page) }.stale().map(|finding| finding.code)
        };
        assert_eq!((code(35, ""), code(60, "")), (None, None));
        // As it was seen with an API server that hung.
        assert_eq!(code(88, ""), Some(Code::PilotStale));
        let timeout = "pilothouse_watch_timeout_seconds{watch=\"services\"} 300\n";
        assert_eq!((code(88, timeout), code(601, timeout)), (None, Some(Code::PilotStale)));
    }

    #[test]
    fn the_proxys_own_newest_entry_counts_and_not_the_probes() {
        let entry = |agent: &str, error: Value| {
            json!({ "node_id": "a", "user_agent": agent, "resources":
                { "type.googleapis.com/envoy.config.listener.v3.Listener": { "lastError": error } } })
        };
        let page = json!([
            entry("envoy/1.40.0", json!("old")),
            entry("envoy/1.40.0", json!("no!")),
            entry("pilothouse-doctor", Value::Null),
            entry("pilothouse-agent", Value::Null),
        ]);
        let errors = vec![("Listener".to_owned(), "no!".to_owned())];
        assert_eq!(newest_status(&page, "a"), Some(ProxyStatus { errors, discovery: None }));
        assert_eq!(newest_status(&page, "b"), None);
    }
}
