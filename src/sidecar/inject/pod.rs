//! A pod with its sidecar: what `istioctl kube-inject` makes of it, with Istio's names.

use super::annotations::{self, Annotations, INJECT, is_yes};
use super::containers::{INIT_CONTAINER, Injection, MERGED_IMAGE, PROXY_CONTAINER};
use super::metadata::{self, Added};
use super::node::{Map, Node, list_at, map_at};
use super::owner::Owner;
use super::probes::{self, Probers};
use super::prometheus;
use super::settings::Settings;
use super::volumes::Volumes;
use crate::sidecar::host_port::HostPort;
use crate::well_known::PROXY_UID;

/// Pods of the cluster itself, which the control plane needs before it can serve anybody.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

pub(super) enum InjectionResult {
    /// With what should be known about it.
    Injected {
        native: bool,
        warnings: Vec<String>,
    },
    Skipped(String),
}

/// Adds the sidecar to a pod or a pod's template. `namespace` is where it will be; empty where a
/// manifest does not say.
pub(super) fn inject(
    pod: &mut Node,
    owner: &Owner,
    namespace: &str,
    settings: &Settings,
) -> Result<InjectionResult, String> {
    let annotations = Annotations::from_pod(pod)?;
    if let Some(why) = reason_to_skip(pod, namespace) {
        return Ok(InjectionResult::Skipped(why));
    }
    let mut injection = Injection::new(settings, &annotations, owner)?;
    let mut warnings = warnings(pod, &injection);
    if injection.captured {
        no_application_is_taken_for_the_proxy(pod)?;
    }
    let proxy_over = take_override(pod, PROXY_CONTAINER)?;
    let init_over = if injection.captured { take_override(pod, INIT_CONTAINER)? } else { None };
    if annotations.truth(annotations::REWRITE_PROBES)?.unwrap_or(true) {
        injection.probers = rewrite_probes(pod, &injection, &mut warnings)?;
    }
    let (merge, port) = (settings.prometheus_merge, injection.status_port);
    injection.scraping = prometheus::merge(pod, &annotations, merge, port, &mut warnings)?;
    let volumes = Volumes::new(settings, injection.tls, &annotations)?;
    let init = if injection.captured { Some(injection.init(pod, init_over)?) } else { None };
    let proxy = injection.proxy(pod, proxy_over, &volumes)?;

    let first =
        pod.at(&["spec", "containers"]).and_then(Node::as_list).and_then(|list| list.first());
    let application = first.map(|container| container.text(&["name"]).to_owned());
    let spec = pod.as_map_mut().and_then(|pod| map_at(pod, "spec")).ok_or("spec is no object")?;
    if injection.native {
        // The pod's own init containers come after both and are part of the mesh.
        let containers = list_at(spec, "initContainers").ok_or("initContainers is no list")?;
        containers.splice(0..0, init.into_iter().chain([proxy]));
    } else {
        // The pod's own init containers come first, while the network is as it was.
        if let Some(init) = init {
            list_at(spec, "initContainers").ok_or("initContainers is no list")?.push(init);
        }
        let containers = list_at(spec, "containers").ok_or("containers is no list")?;
        // The kubelet starts them in this order, and waits for the hook of each. Else last, so that
        // kubectl goes on to take the application for the pod's main container.
        let at = if injection.held { 0 } else { containers.len() };
        containers.insert(at, proxy);
    }
    let added = Added {
        volumes: volumes.add(spec)?,
        pull_secrets: add_pull_secrets(spec, &settings.image_pull_secrets)?,
    };
    metadata::mark(pod, application.as_deref(), &injection, &added)?;
    Ok(InjectionResult::Injected { native: injection.native, warnings })
}

/// Adds those that the pod does not name itself; gives their names.
fn add_pull_secrets(spec: &mut Map, names: &[String]) -> Result<Vec<String>, String> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let secrets = list_at(spec, "imagePullSecrets").ok_or("imagePullSecrets is no list")?;
    for name in names {
        if !secrets.iter().any(|secret| secret.text(&["name"]) == name) {
            let secret = [("name".to_owned(), name.as_str().into())].into_iter().collect();
            secrets.push(Node::Map(secret));
        }
    }
    Ok(names.to_vec())
}

fn containers<'a>(pod: &'a Node, list: &str) -> &'a [Node] {
    let containers = pod.at(&["spec", list]).and_then(Node::as_list);
    containers.map(Vec::as_slice).unwrap_or_default()
}

fn reason_to_skip(pod: &Node, namespace: &str) -> Option<String> {
    if pod.at(&["spec", "hostNetwork"]) == Some(&Node::Bool(true)) {
        return Some("it uses its node's network (hostNetwork)".to_owned());
    }
    if pod.text(&["spec", "os", "name"]) == "windows"
        || pod.text(&["spec", "nodeSelector", "kubernetes.io/os"]) == "windows"
    {
        return Some("it runs on Windows, for which there is no sidecar".to_owned());
    }
    if SYSTEM_NAMESPACES.contains(&namespace) {
        return Some(format!("{namespace} is the cluster's own namespace"));
    }
    let said = |kind: &str| pod.at(&["metadata", kind, INJECT]).and_then(Node::as_str);
    // A label counts more than an annotation.
    if let Some((kind, said)) = said("labels")
        .map(|said| ("label", said))
        .or_else(|| said("annotations").map(|said| ("annotation", said)))
        && !said.is_empty()
        && !is_yes(said)
    {
        return Some(format!("its {kind} {INJECT} is {said:?}"));
    }
    let is_proxy = |container: &&Node| {
        container.text(&["name"]) == PROXY_CONTAINER && container.text(&["image"]) != MERGED_IMAGE
    };
    let mut all = containers(pod, "containers").iter().chain(containers(pod, "initContainers"));
    if all.any(|container| is_proxy(&container)) {
        return Some("it has its sidecar already".to_owned());
    }
    let application = |container: &Node| container.text(&["name"]) != PROXY_CONTAINER;
    let none = !containers(pod, "containers").iter().any(application);
    none.then(|| "it has no containers".to_owned())
}

/// What is not wrong but will surprise somebody.
fn warnings(pod: &Node, injection: &Injection<'_>) -> Vec<String> {
    let mut warnings = injection.annotations.without_effect();
    if !injection.config.without_effect.is_empty() {
        warnings.push(format!(
            "of annotation {} these have no effect here: {}",
            annotations::PROXY_CONFIG,
            injection.config.without_effect.join(", ")
        ));
    }
    warnings.extend(injection.discovery.warnings.iter().cloned());
    let policy = pod.text(&["spec", "dnsPolicy"]);
    let configured = injection.config.discovery_address.as_ref().map(ToString::to_string);
    let discovery =
        configured.unwrap_or_else(|| injection.settings.discovery_address(injection.tls));
    let by_name =
        discovery.parse::<HostPort>().is_ok_and(|discovery| discovery.address().is_none());
    if matches!(policy, "None" | "Default") && by_name {
        warnings.push(format!(
            "its dnsPolicy is {policy}: the proxy finds {discovery} only if the pod's own name \
             servers and search list lead to the cluster's DNS"
        ));
    }
    warnings
}

/// istio-init spares what the proxy's user and group send.
fn no_application_is_taken_for_the_proxy(pod: &Node) -> Result<(), String> {
    for (field, kind) in [("runAsUser", "user"), ("runAsGroup", "group")] {
        let of_pod = pod.at(&["spec", "securityContext", field]);
        for container in containers(pod, "containers") {
            let name = container.text(&["name"]);
            let own = container.at(&["securityContext", field]).or(of_pod);
            if name != PROXY_CONTAINER && own == Some(&Node::Unsigned(PROXY_UID.into())) {
                return Err(format!(
                    "container {name} runs as {kind} {PROXY_UID}, which is the proxy's: its traffic would \
                     not be captured. Let it run as another, or set {}: NONE or {INJECT}: \"false\"",
                    annotations::INTERCEPTION
                ));
            }
        }
    }
    Ok(())
}

/// Takes the container by which the author of the pod changes one of ours.
fn take_override(pod: &mut Node, name: &str) -> Result<Option<Map>, String> {
    let mut found = Vec::new();
    for list in ["containers", "initContainers"] {
        if let Some(Node::List(containers)) = pod.at_mut(&["spec", list]) {
            found.extend(containers.extract_if(.., |container| container.text(&["name"]) == name));
        }
    }
    match found.as_slice() {
        [] => Ok(None),
        [Node::Map(own)] if own.get("image").and_then(Node::as_str) == Some(MERGED_IMAGE) => {
            Ok(Some(own.clone()))
        }
        [_] => Err(format!(
            "it has a container {name} of its own, and there cannot be two: remove it, give it the image \
             {MERGED_IMAGE:?} to have it merged with ours, or set {INJECT}: \"false\""
        )),
        _ => Err(format!("it has several containers called {name}")),
    }
}

/// Leads the application's probes to the agent, and says what that one is to ask.
fn rewrite_probes(
    pod: &mut Node,
    injection: &Injection<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, String> {
    let mut probers = Probers::new(injection.status_port);
    if let Some(Node::List(containers)) = pod.at_mut(&["spec", "containers"]) {
        probers.rewrite(containers);
    }
    if injection.native {
        if let Some(Node::List(containers)) = pod.at_mut(&["spec", "initContainers"]) {
            probers.rewrite(containers);
        }
    } else {
        let probed = containers(pod, "initContainers").iter().filter(|one| probes::has_probes(one));
        warnings.extend(probed.map(|container| {
            format!(
                "the probes of its init container {} stay as they are, since the agent starts after it; \
                 with --native-sidecar it starts before",
                container.text(&["name"])
            )
        }));
        let hooked = containers(pod, "containers")
            .iter()
            .filter(|one| !injection.held && probes::asks_after_start(one));
        warnings.extend(hooked.map(|container| {
            format!(
                "the postStart hook of its container {} fails until the proxy runs, which starts after \
                 it, so that the kubelet restarts the container; with --native-sidecar the proxy starts \
                 before",
                container.text(&["name"])
            )
        }));
    }
    probers.to_json()
}
