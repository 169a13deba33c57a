//! The application's probes and the hooks of its life cycle, led to the agent as Istio does it: the kubelet
//! asks `:15020/app-health/CONTAINER/livez` or `:15020/app-lifecycle/CONTAINER/prestopz`, the agent asks
//! the application. Straight to the pod they would meet Envoy, which accepts every connection whether or
//! not anybody listens behind it, and which accepts none before the control plane has answered.

use serde::Serialize;

use super::containers::PROXY_CONTAINER;
use super::node::{Map, Node};
use crate::sidecar::agent::{APP_HEALTH, APP_LIFECYCLE};

const KINDS: [(&str, &str); 3] =
    [("readinessProbe", "readyz"), ("livenessProbe", "livez"), ("startupProbe", "startupz")];
/// Under `lifecycle`.
const HOOKS: [(&str, &str); 2] = [("postStart", "poststartz"), ("preStop", "prestopz")];

/// What the agent is to ask, as `ISTIO_KUBE_APP_PROBERS` says it to Istio's agent too.
#[derive(Debug)]
pub(super) struct Probers {
    asked: Map,
    /// Of the agent.
    port: u16,
}

impl Probers {
    pub(super) fn new(port: u16) -> Self {
        Self { asked: Map::new(), port }
    }

    /// None where there is nothing to ask.
    pub(super) fn to_json(&self) -> Result<Option<String>, String> {
        if self.asked.is_empty() {
            return Ok(None);
        }
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::new(&mut json);
        self.asked.serialize(&mut serializer).map_err(|error| error.to_string())?;
        String::from_utf8(json).map(Some).map_err(|error| error.to_string())
    }

    /// Rewrites the probes and hooks of these containers. Left as they are: commands, and probes that ask
    /// somebody else than the pod, that the agent answers already, or that name a port which the
    /// container does not have.
    pub(super) fn rewrite(&mut self, containers: &mut [Node]) {
        for container in containers {
            let name = container.text(&["name"]).to_owned();
            if name == PROXY_CONTAINER {
                continue;
            }
            let ports = named_ports(container);
            let Node::Map(container) = container else { continue };
            for (field, kind) in KINDS {
                let path = format!("{APP_HEALTH}/{name}/{kind}");
                if let Some(Node::Map(probe)) = container.get_mut(field)
                    && let Some(prober) = rewrite(probe, &path, &ports, self.port)
                {
                    self.asked.insert(path, prober);
                }
            }
            let Some(Node::Map(lifecycle)) = container.get_mut("lifecycle") else { continue };
            for (field, kind) in HOOKS {
                let path = format!("{APP_LIFECYCLE}/{name}/{kind}");
                if let Some(Node::Map(hook)) = lifecycle.get_mut(field)
                    && let Some(prober) = rewrite(hook, &path, &ports, self.port)
                {
                    self.asked.insert(path, prober);
                }
            }
        }
    }
}

/// Whether a container has a hook that asks the agent when it has started.
pub(super) fn asks_after_start(container: &Node) -> bool {
    container
        .text(&["lifecycle", "postStart", "httpGet", "path"])
        .starts_with(&format!("{APP_LIFECYCLE}/"))
}

/// Whether a container has a probe that [`Probers::rewrite`] might be for.
pub(super) fn has_probes(container: &Node) -> bool {
    let network = ["httpGet", "tcpSocket", "grpc"];
    KINDS
        .iter()
        .any(|(field, _)| network.iter().any(|action| container.at(&[field, action]).is_some()))
}

fn named_ports(container: &Node) -> Vec<(String, u16)> {
    let ports = container.get("ports").and_then(Node::as_list).into_iter().flatten();
    let named =
        ports.map(|port| (port.text(&["name"]).to_owned(), number(port.get("containerPort"))));
    named
        .filter_map(|(name, port)| Some((name, port?)))
        .filter(|(name, _)| !name.is_empty())
        .collect()
}

fn number(node: Option<&Node>) -> Option<u16> {
    match node {
        Some(Node::Unsigned(port)) => u16::try_from(*port).ok().filter(|port| *port != 0),
        _ => None,
    }
}

/// The probe, or the hook, becomes one of the agent; what it was comes back.
fn rewrite(probe: &mut Map, path: &str, ports: &[(String, u16)], agents: u16) -> Option<Node> {
    let at =
        probe.keys().position(|key| matches!(key.as_str(), "httpGet" | "tcpSocket" | "grpc"))?;
    let (kind, action) = probe.get_index(at)?;
    let (kind, Node::Map(action)) = (kind.clone(), action) else { return None };
    if action.get("host").is_some_and(|host| host.as_str() != Some("")) {
        return None;
    }
    let port = match action.get("port") {
        Some(Node::Text(name)) => ports.iter().find(|(one, _)| one == name).map(|(_, port)| *port),
        other => number(other),
    };
    let port = port.filter(|port| *port != agents)?;

    let mut original = action.clone();
    original.insert("port".to_owned(), Node::Unsigned(port.into()));
    // As in Istio the headers of the probe stand in both requests.
    let mut asked = if kind == "httpGet" { original.clone() } else { Map::new() };
    asked.insert("path".to_owned(), path.into());
    asked.insert("port".to_owned(), Node::Unsigned(agents.into()));
    if asked.contains_key("scheme") {
        asked.insert("scheme".to_owned(), "HTTP".into());
    }
    let mut prober = Map::new();
    prober.insert(kind.clone(), Node::Map(original));
    if let Some(timeout) = probe.get("timeoutSeconds") {
        prober.insert("timeoutSeconds".to_owned(), timeout.clone());
    }
    probe.shift_remove(&kind);
    probe.shift_insert(at, "httpGet".to_owned(), Node::Map(asked));
    Some(Node::Map(prober))
}
