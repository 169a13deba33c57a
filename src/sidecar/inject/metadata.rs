//! What a pod with a sidecar says of itself: labels and annotations that Istio's tools, and kubectl, look
//! for.

use serde_json::json;

use super::containers::{INIT_CONTAINER, Injection, PROXY_CONTAINER};
use super::node::{Map, Node, map_at};

const NAME_LABEL: &str = "service.istio.io/canonical-name";
const REVISION_LABEL: &str = "service.istio.io/canonical-revision";
const NETWORK_LABEL: &str = "topology.istio.io/network";
/// There are no revisions of this control plane; this is what Istio calls its only one.
const REVISION: &str = "default";
/// What a label's value may have.
const LABEL_LEN: usize = 63;

/// What was added to the pod's spec.
pub(super) struct Added {
    pub(super) volumes: Vec<String>,
    pub(super) pull_secrets: Vec<String>,
}

/// Adds labels, and annotations that say what was added. `application` is the pod's main container.
pub(super) fn mark(
    pod: &mut Node,
    application: Option<&str>,
    injection: &Injection<'_>,
    added: &Added,
) -> Result<(), String> {
    let metadata =
        pod.as_map_mut().and_then(|pod| map_at(pod, "metadata")).ok_or("metadata is no object")?;
    let labels = map_at(metadata, "labels").ok_or("metadata.labels is no object")?;
    label(labels, injection);

    let annotations = map_at(metadata, "annotations").ok_or("metadata.annotations is no object")?;
    if let Some(application) = application {
        for name in [
            "kubectl.kubernetes.io/default-container",
            "kubectl.kubernetes.io/default-logs-container",
        ] {
            annotations.entry(name.to_owned()).or_insert(application.into());
        }
    }
    annotations.entry("istio.io/rev".to_owned()).or_insert(REVISION.into());
    annotations.insert(super::annotations::STATUS.to_owned(), status(injection, added).into());
    Ok(())
}

/// `security.istio.io/tlsMode` is not among them: it tells Istio's proxies that this workload takes
/// their mutual TLS.
fn label(labels: &mut Map, injection: &Injection<'_>) {
    let first = |names: [&str; 2]| {
        let of =
            |name: &str| labels.get(name).and_then(Node::as_str).filter(|value| !value.is_empty());
        names.into_iter().find_map(of).map(str::to_owned)
    };
    let name = first(["app.kubernetes.io/name", "app"]);
    let name = name.unwrap_or_else(|| injection.owner.name.clone());
    let cut = &name[..name.floor_char_boundary(LABEL_LEN)];
    let name = cut.trim_matches(|c| "-_.".contains(c)).to_owned();
    let revision = first(["app.kubernetes.io/version", "version"]);
    let revision = revision.unwrap_or_else(|| "latest".to_owned());
    let mut add = |label: &str, value: &str| {
        if !value.is_empty() {
            labels.entry(label.to_owned()).or_insert(value.into());
        }
    };
    add(NAME_LABEL, &name);
    add(REVISION_LABEL, &revision);
    if let Some(network) = &injection.settings.network {
        add(NETWORK_LABEL, network);
    }
}

/// As Istio's tools read it.
fn status(injection: &Injection<'_>, added: &Added) -> String {
    let init = injection.captured.then_some(INIT_CONTAINER);
    let (init, containers) = match injection.native {
        true => (init.into_iter().chain([PROXY_CONTAINER]).collect(), Vec::new()),
        false => (init.into_iter().collect::<Vec<_>>(), vec![PROXY_CONTAINER]),
    };
    json!({
        "initContainers": init,
        "containers": containers,
        "volumes": added.volumes,
        "imagePullSecrets": added.pull_secrets,
        "revision": REVISION,
    })
    .to_string()
}
