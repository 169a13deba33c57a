//! What the control plane says of itself: ready or not, how old its knowledge is, and what it
//! thinks that this proxy has.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::ads;
use super::finding::{Code, Finding};
use super::http::get;
use super::verdict::one_line;

/// Where it says how it is, beside its ADS port.
pub(super) const MONITORING_PORT: u16 = 15014;

/// How long a watch request lasts where the control plane does not say: its default.
const WATCH: f64 = 30.0;
/// A watch is heard from each time that its request is over, so this many times that without a word
/// is a fault.
const STALE: f64 = 2.0;

/// What its monitoring port says; an error if that cannot be looked at.
pub(super) async fn monitoring(
    address: SocketAddr,
    limit: Duration,
) -> Result<Result<Ready, Finding>, String> {
    let ready = get(address, "/ready", limit).await;
    let ready = ready.map_err(|error| format!("{address} could not be asked: {error}"))?;
    match ready.status {
        200 => {}
        503 => return Ok(Err(ads::not_ready(&ready.body))),
        status => return Err(format!("{address} answers {status} to /ready")),
    }
    let metrics = get(address, "/metrics", limit).await;
    Ok(Ok(Ready { oldest: metrics.ok().and_then(|page| oldest_watch(&page.body)) }))
}

/// What a pod that is not ready says of itself; `None` if it says nothing, or that it is.
pub(super) async fn why_not_ready(address: SocketAddr, limit: Duration) -> Option<String> {
    let answer = get(address, "/ready", limit).await.ok()?;
    (answer.status == 503).then(|| one_line(&answer.body))
}

#[derive(Debug)]
pub(super) struct Ready {
    /// The watch that was silent for longest.
    pub(super) oldest: Option<Silent>,
}

/// A watch that is not heard from all the time.
#[derive(Debug, PartialEq)]
pub(super) struct Silent {
    pub(super) watch: String,
    /// For how many seconds.
    pub(super) age: f64,
    /// How many seconds one request of it lasts.
    pub(super) lasts: f64,
}

impl Ready {
    pub(super) fn summary(&self) -> String {
        match &self.oldest {
            Some(Silent { watch, age, .. }) => format!("ready; heard of {watch} {age:.0} s ago"),
            None => "ready".to_owned(),
        }
    }

    pub(super) fn stale(&self) -> Option<Finding> {
        let Silent { watch, age, lasts } =
            self.oldest.as_ref().filter(|oldest| oldest.age > STALE * oldest.lasts)?;
        Some(Finding::new(
            Code::PilotStale,
            format!(
                "Pilot has not heard from the Kubernetes API server for {age:.0} s (its watch of \
                 {watch}, which hears from it every {lasts:.0} s): what it serves is as old as that"
            ),
            "look at /debug/sourcez for the watch's last error, and whether Pilot may and can \
             reach the API server",
        ))
    }
}

/// Watches of Kubernetes only: a folder of manifests is silent for as long as nobody edits it.
fn oldest_watch(metrics: &str) -> Option<Silent> {
    let of_metric = |name: &'static str| {
        metrics.lines().filter_map(move |line| {
            let rest = line.strip_prefix(name)?.strip_prefix("{watch=\"")?;
            let (watch, value) = rest.split_once("\"} ")?;
            let value = value.parse().ok().filter(|value: &f64| value.is_finite())?;
            Some((watch, value))
        })
    };
    let lasts = |wanted: &str| {
        let mut told = of_metric("pilothouse_watch_timeout_seconds");
        told.find(|(watch, _)| *watch == wanted).map_or(WATCH, |(_, lasts)| lasts)
    };
    let ages = of_metric("pilothouse_watch_age_seconds").filter(|(watch, _)| {
        let kind = watch.split(' ').next().unwrap_or_default();
        ["services", "endpointslices", "endpoints"].contains(&kind)
    });
    let silent =
        ages.map(|(watch, age)| Silent { watch: watch.to_owned(), age, lasts: lasts(watch) });
    silent.max_by(|a, b| a.age.total_cmp(&b.age))
}

/// How the control plane sees one proxy.
#[derive(Debug, PartialEq)]
pub(super) struct Seen {
    /// Type and last NACK.
    pub(super) errors: Vec<(String, String)>,
}

/// The proxy's newest stream in syncz, `None` if it has none there; an error if the page cannot be
/// had, which is no fault: it is on loopback unless opened.
pub(super) async fn sync(
    address: SocketAddr,
    node_id: &str,
    limit: Duration,
) -> Result<Option<Seen>, String> {
    let answer = get(address, "/debug/syncz", limit).await;
    let answer = answer.map_err(|error| format!("{address} could not be asked: {error}"))?;
    let page: Value = serde_json::from_str(&answer.body)
        .map_err(|_| format!("{address} answers {} to /debug/syncz", answer.status))?;
    Ok(find(&page, node_id))
}

fn find(page: &Value, node_id: &str) -> Option<Seen> {
    let mut own = page.as_array()?.iter().filter(|entry| {
        let agent = entry["user_agent"].as_str().unwrap_or_default();
        entry["node_id"] == node_id && !agent.starts_with(ads::USER_AGENT)
    });
    let types = own.next_back()?["resources"].as_object()?;
    let errors = types.iter().filter_map(|(url, status)| {
        let kind = url.rsplit('.').next().unwrap_or(url);
        Some((kind.to_owned(), status["lastError"].as_str()?.to_owned()))
    });
    Some(Seen { errors: errors.collect() })
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
        assert_eq!(oldest_watch(page), Some(Silent { watch, age: 200.0, lasts: 30.0 }));
        assert_eq!(oldest_watch(""), None);
    }

    #[test]
    fn silence_is_a_fault_from_twice_the_watchs_own_time_on() {
        let code = |age: u32, lasts: &str| {
            let page = format!("pilothouse_watch_age_seconds{{watch=\"services\"}} {age}\n{lasts}");
            Ready { oldest: oldest_watch(&page) }.stale().map(|finding| finding.code)
        };
        assert_eq!((code(35, ""), code(60, "")), (None, None));
        // As it was seen with an API server that hung.
        assert_eq!(code(88, ""), Some(Code::PilotStale));
        let lasts = "pilothouse_watch_timeout_seconds{watch=\"services\"} 300\n";
        assert_eq!((code(88, lasts), code(601, lasts)), (None, Some(Code::PilotStale)));
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
        assert_eq!(find(&page, "a"), Some(Seen { errors }));
        assert_eq!(find(&page, "b"), None);
    }
}
