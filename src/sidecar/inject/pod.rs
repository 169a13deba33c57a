//! A pod with its sidecar: what `istioctl kube-inject` makes of it, with Istio's names.

use super::annotations::{self, Annotations, INJECT, is_yes};
use super::containers::{INIT_CONTAINER, Injection, MERGED_IMAGE, PROXY_CONTAINER};
use super::documents::read_yaml;
use super::node::{Map, Node, list_at, map_at};
use super::overlay;
use super::owner::Owner;
use super::probes::{self, Probers};
use super::settings::Settings;
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
        injection.probers = rewrite_probes(pod, injection.native, &mut warnings)?;
    }
    let init = if injection.captured { Some(injection.init(init_over)?) } else { None };
    let proxy = injection.proxy(pod, proxy_over)?;

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
        // Last, so that kubectl goes on to take the application for the pod's main container.
        list_at(spec, "containers").ok_or("containers is no list")?.push(proxy);
    }
    add_volumes(spec)?;
    annotate(pod, application.as_deref(), injection.captured, injection.native)?;
    Ok(InjectionResult::Injected { native: injection.native, warnings })
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
    let policy = pod.text(&["spec", "dnsPolicy"]);
    let configured = injection.config.discovery_address.as_ref();
    let discovery = configured.unwrap_or(&injection.settings.discovery_address);
    if matches!(policy, "None" | "Default") && discovery.address().is_none() {
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
    native: bool,
    warnings: &mut Vec<String>,
) -> Result<Option<String>, String> {
    let mut probers = Probers::default();
    if let Some(Node::List(containers)) = pod.at_mut(&["spec", "containers"]) {
        probers.rewrite(containers);
    }
    if native {
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
        let hooked =
            containers(pod, "containers").iter().filter(|one| probes::asks_after_start(one));
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

/// A volume of the pod's own that has one of our names is merged with ours if it is of the same kind.
fn add_volumes(spec: &mut Map) -> Result<(), String> {
    let Node::List(ours) = read_yaml(include_str!("volumes.yaml"), 0)? else {
        return Err("the volumes are no list".to_owned());
    };
    let volumes = list_at(spec, "volumes").ok_or("volumes is no list")?;
    for our in ours {
        let Node::Map(mut our) = our else { continue };
        let name = our.get("name").cloned();
        let Some(at) = volumes.iter().position(|volume| volume.get("name") == name.as_ref()) else {
            volumes.push(Node::Map(our));
            continue;
        };
        match &volumes[at] {
            Node::Map(own) if own.keys().all(|key| our.contains_key(key)) => {
                overlay::merge_object(&mut our, own.clone());
                volumes[at] = Node::Map(our);
            }
            _ => {
                let name = name.as_ref().and_then(Node::as_str).unwrap_or_default();
                return Err(format!(
                    "it has a volume {name} of its own, and the sidecar needs one of that name: rename it"
                ));
            }
        }
    }
    Ok(())
}

/// What tools look for to see that a pod has a sidecar, and which container they should take for the
/// pod's main one.
fn annotate(
    pod: &mut Node,
    application: Option<&str>,
    captured: bool,
    native: bool,
) -> Result<(), String> {
    let init = captured.then_some(INIT_CONTAINER);
    let (init, containers) = match native {
        true => (init.into_iter().chain([PROXY_CONTAINER]).collect(), Vec::new()),
        false => (init.into_iter().collect::<Vec<_>>(), vec![PROXY_CONTAINER]),
    };
    let status = serde_json::json!({ "initContainers": init, "containers": containers });
    let metadata = pod.as_map_mut().and_then(|pod| map_at(pod, "metadata"));
    let annotations = metadata
        .and_then(|metadata| map_at(metadata, "annotations"))
        .ok_or("metadata.annotations is no object")?;
    if let Some(application) = application {
        annotations
            .entry("kubectl.kubernetes.io/default-container".to_owned())
            .or_insert(application.into());
    }
    annotations.insert(annotations::STATUS.to_owned(), status.to_string().into());
    Ok(())
}
