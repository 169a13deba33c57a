//! A pod with its sidecar: what `istioctl kube-inject` makes of it, with Istio's names.

use super::args::Settings;
use super::documents::read_yaml;
use super::node::{Map, Node, list_at, map_at};
use crate::iptables;

const INIT: &str = "istio-init";
const PROXY: &str = "istio-proxy";
const INJECT: &str = "sidecar.istio.io/inject";

/// Pods of the cluster itself, which the control plane needs before it can serve anybody.
const SYSTEM_NAMESPACES: [&str; 3] = ["kube-system", "kube-public", "kube-node-lease"];

/// Istio's annotations about traffic, and the flags of `pilothouse iptables` that they become.
const TRAFFIC: [(&str, &str); 7] = [
    ("traffic.sidecar.istio.io/includeInboundPorts", "-b"),
    ("traffic.sidecar.istio.io/excludeInboundPorts", "-d"),
    ("traffic.sidecar.istio.io/includeOutboundIPRanges", "-i"),
    ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "-x"),
    ("traffic.sidecar.istio.io/includeOutboundPorts", "-q"),
    ("traffic.sidecar.istio.io/excludeOutboundPorts", "-o"),
    ("traffic.sidecar.istio.io/excludeInterfaces", "-c"),
];

pub(super) enum Outcome {
    Injected { native: bool },
    LeftAlone(String),
}

/// Adds the sidecar to a pod or a pod's template. `workload` is the name of what makes the pod,
/// `namespace` what that one says of itself.
pub(super) fn inject(
    pod: &mut Node,
    workload: &str,
    namespace: &str,
    settings: &Settings,
) -> Result<Outcome, String> {
    if let Some(why) = why_not(pod, namespace) {
        return Ok(Outcome::LeftAlone(why));
    }
    let annotations = Annotations::of(pod);
    let native = match annotations.get("sidecar.istio.io/nativeSidecar") {
        Some(said) => said == "true",
        None => settings.native_sidecar,
    };
    let captured = match annotations.get("sidecar.istio.io/interceptionMode") {
        None | Some("REDIRECT") => true,
        Some("NONE") => false,
        Some(other) => {
            return Err(format!(
                "annotation sidecar.istio.io/interceptionMode is {other:?}; REDIRECT and NONE are supported"
            ));
        }
    };
    let init = if captured { Some(init_container(settings, &annotations)?) } else { None };
    let mode = if captured { "REDIRECT" } else { "NONE" };
    let mut proxy = proxy_container(pod, workload, mode, settings, &annotations)?;
    let volumes = read_yaml(include_str!("volumes.yaml"), 0)?;

    let first =
        pod.at(&["spec", "containers"]).and_then(Node::as_list).and_then(|list| list.first());
    let application = first.map(|container| container.text(&["name"]).to_owned());
    let spec = pod.as_map_mut().and_then(|pod| map_at(pod, "spec")).ok_or("spec is no object")?;
    if native {
        if let Some(proxy) = proxy.as_map_mut() {
            proxy.insert("restartPolicy".to_owned(), "Always".into());
            proxy.insert(
                "startupProbe".to_owned(),
                read_yaml(include_str!("startup-probe.yaml"), 0)?,
            );
        }
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
    if let Node::List(volumes) = volumes {
        list_at(spec, "volumes").ok_or("volumes is no list")?.extend(volumes);
    }
    annotate(pod, application.as_deref(), captured, native)?;
    Ok(Outcome::Injected { native })
}

fn why_not(pod: &Node, namespace: &str) -> Option<String> {
    let said = |kind: &str| pod.at(&["metadata", kind, INJECT]).and_then(Node::as_str);
    if pod.at(&["spec", "hostNetwork"]) == Some(&Node::Bool(true)) {
        return Some("it uses its node's network (hostNetwork)".to_owned());
    }
    if SYSTEM_NAMESPACES.contains(&namespace) {
        return Some(format!("{namespace} is the cluster's own namespace"));
    }
    // A label counts more than an annotation.
    if let Some((kind, "false")) = said("labels")
        .map(|said| ("label", said))
        .or_else(|| said("annotations").map(|said| ("annotation", said)))
    {
        return Some(format!("its {kind} {INJECT} is \"false\""));
    }
    let has_proxy = |list: &str| {
        let containers = pod.at(&["spec", list]).and_then(Node::as_list);
        containers.into_iter().flatten().any(|container| container.text(&["name"]) == PROXY)
    };
    if has_proxy("containers") || has_proxy("initContainers") {
        return Some("it has its sidecar already".to_owned());
    }
    let containers = pod.at(&["spec", "containers"]).and_then(Node::as_list);
    containers.is_none_or(Vec::is_empty).then(|| "it has no containers".to_owned())
}

/// The pod's annotations that are text, as they were before anything was added.
struct Annotations(Map);

impl Annotations {
    fn of(pod: &Node) -> Self {
        match pod.at(&["metadata", "annotations"]) {
            Some(Node::Map(map)) => Self(map.clone()),
            _ => Self(Map::new()),
        }
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).and_then(Node::as_str)
    }
}

fn init_container(settings: &Settings, annotations: &Annotations) -> Result<Node, String> {
    let mut arguments = vec!["iptables".to_owned()];
    for (annotation, flag) in TRAFFIC {
        if let Some(said) = annotations.get(annotation) {
            // Found here, not by a pod that does not start.
            iptables::Args::check(flag, said)
                .map_err(|error| format!("annotation {annotation}: {error}"))?;
            arguments.extend([flag.to_owned(), said.to_owned()]);
        }
    }
    let mut container = read_yaml(include_str!("istio-init.yaml"), 0)?;
    let image = settings.init_image.as_ref().unwrap_or(&settings.image);
    fill(&mut container, image, arguments, settings);
    Ok(container)
}

fn proxy_container(
    pod: &Node,
    workload: &str,
    mode: &str,
    settings: &Settings,
    annotations: &Annotations,
) -> Result<Node, String> {
    let mut arguments =
        vec!["agent".to_owned(), format!("--discovery-address={}", settings.discovery_address)];
    if settings.domain != crate::names::DEFAULT_DOMAIN {
        arguments.push(format!("--domain={}", settings.domain));
    }
    if let Some(level) = annotations.get("sidecar.istio.io/logLevel") {
        arguments.push(format!("--proxy-log-level={level}"));
    }
    let mut container = read_yaml(include_str!("istio-proxy.yaml"), 0)?;
    let image = annotations.get("sidecar.istio.io/proxyImage").unwrap_or(&settings.image);
    fill(&mut container, image, arguments, settings);

    let containers = pod.at(&["spec", "containers"]).and_then(Node::as_list);
    let names: Vec<_> =
        containers.into_iter().flatten().map(|container| container.text(&["name"])).collect();
    if let Some(Node::List(env)) = container.at_mut(&["env"]) {
        for (name, value) in [
            ("ISTIO_META_INTERCEPTION_MODE", mode),
            ("ISTIO_META_WORKLOAD_NAME", workload),
            ("ISTIO_META_APP_CONTAINERS", &names.join(",")),
        ] {
            let pair = [("name", name), ("value", value)];
            let pair = pair.map(|(key, text)| (key.to_owned(), Node::from(text)));
            env.push(Node::Map(pair.into_iter().collect()));
        }
    }
    for (place, resource, annotation, flag) in [
        ("requests", "cpu", "proxyCPU", &settings.cpu),
        ("requests", "memory", "proxyMemory", &settings.memory),
        ("limits", "cpu", "proxyCPULimit", &settings.cpu_limit),
        ("limits", "memory", "proxyMemoryLimit", &settings.memory_limit),
    ] {
        let annotated = annotations.get(&format!("sidecar.istio.io/{annotation}"));
        if let Some(quantity) = annotated.or(flag.as_deref())
            && let Some(Node::Map(resources)) = container.at_mut(&["resources", place])
        {
            resources.insert(resource.to_owned(), quantity.into());
        }
    }
    Ok(container)
}

fn fill(container: &mut Node, image: &str, arguments: Vec<String>, settings: &Settings) {
    let Node::Map(container) = container else { return };
    container.insert("image".to_owned(), image.into());
    if let Some(policy) = &settings.image_pull_policy {
        let after = container.get_index_of("image").map_or(0, |index| index + 1);
        container.shift_insert(after, "imagePullPolicy".to_owned(), policy.as_str().into());
    }
    container
        .insert("args".to_owned(), Node::List(arguments.into_iter().map(Node::from).collect()));
}

/// What tools look for to see that a pod has a sidecar, and which container they should take for the
/// pod's main one.
fn annotate(
    pod: &mut Node,
    application: Option<&str>,
    captured: bool,
    native: bool,
) -> Result<(), String> {
    let init = captured.then_some(INIT);
    let (init, containers) = match native {
        true => (init.into_iter().chain([PROXY]).collect(), Vec::new()),
        false => (init.into_iter().collect::<Vec<_>>(), vec![PROXY]),
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
    annotations.insert("sidecar.istio.io/status".to_owned(), status.to_string().into());
    Ok(())
}
