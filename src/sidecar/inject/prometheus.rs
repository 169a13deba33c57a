//! The pod's annotations for Prometheus, merged as Istio does it: they are led to the agent, which shows
//! the application's metrics after Envoy's and its own, and is told what they were.

use super::annotations::{self, Annotations};
use super::node::{Node, map_at};
use crate::sidecar::agent;
use crate::well_known::{AGENT_PORTS, ENVOY_LISTENER_PORTS};

/// Prometheus makes labels of annotations, in which every other character than letters and digits is `_`,
/// so that `prometheus.io.port` is this too.
const SCRAPE: &str = "prometheus_io_scrape";
const PORT: &str = "prometheus_io_port";
const PATH: &str = "prometheus_io_path";
const SCHEME: &str = "prometheus_io_scheme";

const AGENTS_PATH: &str = "/stats/prometheus";

/// Leads the annotations to the agent. Gives what they were, as `ISTIO_PROMETHEUS_ANNOTATIONS` says it;
/// none where there were none, or where they stay as they are.
pub(super) fn merge(
    pod: &mut Node,
    annotations: &Annotations,
    merge: bool,
    status_port: u16,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, String> {
    if !annotations.truth(annotations::MERGE_METRICS)?.unwrap_or(merge) {
        return Ok(None);
    }
    let find = |wanted: &str| annotations.iter().find(|(name, _)| as_label(name) == wanted);
    let (scrape, port, path) = (find(SCRAPE), find(PORT), find(PATH));
    match scrape {
        None | Some((_, "true")) => {}
        Some((_, "false")) => return Ok(None),
        Some((name, said)) => {
            warnings.push(format!(
                "annotation {name} is {said:?}, which Prometheus takes for no: left as it is"
            ));
            return Ok(None);
        }
    }
    if let Some((name, said)) = find(SCHEME).filter(|(_, said)| *said != "http") {
        warnings.push(format!(
            "annotation {name} is {said:?}: the agent asks applications over HTTP only, so the annotations \
             for Prometheus stay as they are"
        ));
        return Ok(None);
    }
    if let Some((name, said)) = port {
        // Somebody has seen to it himself.
        if said == status_port.to_string() {
            return Ok(None);
        }
        let number: u16 = said
            .parse()
            .ok()
            .filter(|number| *number != 0)
            .ok_or_else(|| format!("annotation {name} is {said:?}, which is no port"))?;
        if ENVOY_LISTENER_PORTS.contains(&number) || AGENT_PORTS.contains(&number) {
            return Err(format!(
                "annotation {name} is {said:?}, a port of the sidecar, whose metrics are on the agent's \
                 page anyway: name the application's, or set {}: \"false\"",
                annotations::MERGE_METRICS
            ));
        }
    }
    if let Some((name, said)) = path {
        agent::check_metrics_path(said).map_err(|error| format!("annotation {name}: {error}"))?;
    }
    let text = |found: Option<(&str, &str)>| found.map_or("", |(_, said)| said).to_owned();
    let was = [("scrape", text(scrape)), ("path", text(path)), ("port", text(port))];
    let was = was.iter().any(|(_, said)| !said.is_empty()).then(|| {
        // In Istio's order of the fields.
        let fields = was.map(|(name, said)| format!("\"{name}\":{}", serde_json::json!(said)));
        format!("{{{}}}", fields.join(","))
    });

    let metadata = pod.as_map_mut().and_then(|pod| map_at(pod, "metadata"));
    let of_pod = metadata
        .and_then(|metadata| map_at(metadata, "annotations"))
        .ok_or("metadata.annotations is no object")?;
    of_pod.retain(|name, _| ![SCRAPE, PORT, PATH].contains(&as_label(name).as_str()));
    for (name, value) in [
        ("prometheus.io/scrape", "true".to_owned()),
        ("prometheus.io/port", status_port.to_string()),
        ("prometheus.io/path", AGENTS_PATH.to_owned()),
    ] {
        of_pod.insert(name.to_owned(), value.into());
    }
    Ok(was)
}

fn as_label(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect()
}
