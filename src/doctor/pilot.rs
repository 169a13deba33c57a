//! What the control plane says of itself: ready or not, how old its knowledge is, and what it
//! thinks that this proxy has.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;

use super::ads;
use super::finding::{Code, Finding};
use super::http::get;

/// A watch of Kubernetes is heard from every 30 s; beyond this its age is a fault.
const STALE: f64 = 120.0;

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

#[derive(Debug)]
pub(super) struct Ready {
    /// The watch that was silent for longest, and for how many seconds.
    pub(super) oldest: Option<(String, f64)>,
}

impl Ready {
    pub(super) fn summary(&self) -> String {
        match &self.oldest {
            Some((watch, age)) => format!("ready; heard of {watch} {age:.0} s ago"),
            None => "ready".to_owned(),
        }
    }

    pub(super) fn stale(&self) -> Option<Finding> {
        let (watch, age) = self.oldest.as_ref().filter(|(_, age)| *age > STALE)?;
        Some(Finding::new(
            Code::PilotStale,
            format!(
                "Pilot has not heard from the Kubernetes API server for {age:.0} s (its watch of \
                 {watch}): what it serves is as old as that"
            ),
            "look at /debug/sourcez for the watch's last error, and whether Pilot may and can \
             reach the API server",
        ))
    }
}

/// Watches of Kubernetes only: a folder of manifests is silent for as long as nobody edits it.
fn oldest_watch(metrics: &str) -> Option<(String, f64)> {
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix("pilothouse_watch_age_seconds{watch=\"")?;
        let (watch, age) = rest.split_once("\"} ")?;
        let age = age.parse().ok().filter(|age: &f64| age.is_finite())?;
        let kind = watch.split(' ').next().unwrap_or_default();
        ["services", "endpointslices", "endpoints"].contains(&kind).then(|| (watch.to_owned(), age))
    });
    samples.max_by(|(_, a), (_, b)| a.total_cmp(b))
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
        assert_eq!(oldest_watch(page), Some(("endpointslices in shop".to_owned(), 200.0)));
        assert_eq!(oldest_watch(""), None);
        let code = |age| {
            let ready = Ready { oldest: Some(("services".to_owned(), age)) };
            ready.stale().map(|finding| finding.code)
        };
        assert_eq!((code(30.0), code(121.0)), (None, Some(Code::PilotStale)));
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
        ]);
        let errors = vec![("Listener".to_owned(), "no!".to_owned())];
        assert_eq!(find(&page, "a"), Some(Seen { errors }));
        assert_eq!(find(&page, "b"), None);
    }
}
