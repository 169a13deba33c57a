//! The two containers that are added: what stands in the YAML files beside this, filled in by flags,
//! annotations and what the pod's author says in a container of the same name.

use super::annotations::{self, Annotations};
use super::documents::read_yaml;
use super::node::{Map, Node, list_at};
use super::overlay;
use super::owner::Owner;
use super::resources::{self, Asked, Wish};
use super::settings::{NativeSidecars, Settings};
use crate::sidecar::agent::{self, ProxyConfig};
use crate::sidecar::iptables;

/// What Kubernetes gives a pod that says nothing of it.
const GRACE_SECONDS: u64 = 30;

/// All that decides what the containers are like.
pub(super) struct Injection<'a> {
    pub(super) settings: &'a Settings,
    pub(super) annotations: &'a Annotations,
    pub(super) config: ProxyConfig,
    pub(super) owner: &'a Owner,
    pub(super) captured: bool,
    pub(super) native: bool,
    /// The application's probes, which the agent is to ask.
    pub(super) probers: Option<String>,
}

impl<'a> Injection<'a> {
    /// The proxy configuration's part is read here.
    pub(super) fn new(
        settings: &'a Settings,
        annotations: &'a Annotations,
        owner: &'a Owner,
    ) -> Result<Self, String> {
        let config = annotations.get(annotations::PROXY_CONFIG);
        let config = ProxyConfig::parse(config.unwrap_or_default())
            .map_err(|error| format!("annotation {}: {error}", annotations::PROXY_CONFIG))?;
        let native = annotations
            .truth(annotations::NATIVE)?
            .unwrap_or(settings.native_sidecars == NativeSidecars::Always);
        let captured = match annotations.get(annotations::INTERCEPTION) {
            None | Some("REDIRECT") => true,
            Some("NONE") => false,
            Some(other) => {
                return Err(format!(
                    "annotation {} is {other:?}; REDIRECT and NONE are supported",
                    annotations::INTERCEPTION
                ));
            }
        };
        Ok(Self { settings, annotations, config, owner, captured, native, probers: None })
    }

    /// An annotation that must pass a check.
    fn checked<T>(
        &self,
        name: &str,
        check: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Option<&'a str>, String> {
        let Some(said) = self.annotations.get(name) else { return Ok(None) };
        check(said).map_err(|error| format!("annotation {name}: {error}"))?;
        Ok(Some(said))
    }

    /// The container that leads the pod's traffic to Envoy.
    pub(super) fn init(&self, over: Option<Map>) -> Result<Node, String> {
        let mut arguments = vec!["iptables".to_owned()];
        for (annotation, flag) in annotations::TRAFFIC {
            // Found here, not by a pod that does not start.
            if let Some(said) =
                self.checked(annotation, |said| iptables::IptablesArgs::check(&[flag, said]))?
            {
                arguments.extend([flag.to_owned(), said.to_owned()]);
            }
        }
        let flags: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        iptables::IptablesArgs::check(&flags)
            .map_err(|error| format!("annotations traffic.sidecar.istio.io/...: {error}"))?;
        let mut container = template(include_str!("istio-init.yaml"))?;
        let image = self.settings.init_image.as_ref().unwrap_or(&self.settings.image);
        self.fill(&mut container, image, arguments);
        self.finish(container, over, false)
    }

    /// The container of the agent and its Envoy.
    pub(super) fn proxy(&self, pod: &Node, over: Option<Map>) -> Result<Node, String> {
        let mut container = template(include_str!("istio-proxy.yaml"))?;
        let image = self.checked(annotations::IMAGE, super::args::image)?;
        self.fill(&mut container, image.unwrap_or(&self.settings.image), self.arguments()?);
        let env = list_at(&mut container, "env").ok_or("env is no list")?;
        overlay::merge_list(env, self.environment(pod)?, "name");
        if self.native {
            container.insert("restartPolicy".to_owned(), "Always".into());
            let probe = read_yaml(include_str!("startup-probe.yaml"), 0)?;
            container.insert("startupProbe".to_owned(), probe);
        }
        self.finish(container, over, true)
    }

    fn arguments(&self) -> Result<Vec<String>, String> {
        let settings = self.settings;
        let mut arguments = vec!["agent".to_owned()];
        // A flag would win over the proxy configuration.
        if self.config.discovery_address.is_none() {
            arguments.push(format!("--discovery-address={}", settings.discovery_address));
        }
        if settings.domain != crate::names::DEFAULT_DOMAIN {
            arguments.push(format!("--domain={}", settings.domain));
        }
        if let Some(level) = self.checked(annotations::LOG_LEVEL, agent::check_log_level)? {
            arguments.push(format!("--proxy-log-level={level}"));
        }
        let levels =
            self.checked(annotations::COMPONENT_LOG_LEVEL, agent::check_component_log_levels)?;
        if let Some(levels) = levels {
            arguments.push(format!("--proxy-component-log-level={levels}"));
        }
        let drain = self.checked(annotations::TERMINATION_DRAIN, super::args::duration)?;
        let of_all = match self.config.termination_drain {
            None => settings.termination_drain_duration.as_deref(),
            Some(_) => None,
        };
        if let Some(drain) = drain.or(of_all) {
            arguments.push(format!("--termination-drain-duration={drain}"));
        }
        Ok(arguments)
    }

    /// What of the environment is not the same in every pod.
    fn environment(&self, pod: &Node) -> Result<Vec<Node>, String> {
        let containers = pod.at(&["spec", "containers"]).and_then(Node::as_list);
        let containers = containers.map(Vec::as_slice).unwrap_or_default();
        let names: Vec<_> = containers.iter().map(|container| container.text(&["name"])).collect();
        let names = names.join(",");
        let mode = if self.captured { "REDIRECT" } else { "NONE" };
        let mut variables = vec![
            variable("ISTIO_META_INTERCEPTION_MODE", mode),
            variable("ISTIO_META_WORKLOAD_NAME", &self.owner.name),
            variable("ISTIO_META_APP_CONTAINERS", &names),
        ];
        if !self.captured {
            // Envoy binds the ports of services, and these are the application's.
            variables.push(variable("ISTIO_META_POD_PORTS", &ports(containers)?));
        }
        // A native sidecar is asked to end when the application has ended.
        if !self.native {
            let grace = match pod.at(&["spec", "terminationGracePeriodSeconds"]) {
                Some(Node::Unsigned(seconds)) => *seconds,
                _ => GRACE_SECONDS,
            };
            variables.push(variable("PILOTHOUSE_TERMINATION_GRACE_PERIOD", &format!("{grace}s")));
        }
        if let Some(probers) = &self.probers {
            variables.push(variable(agent::APP_PROBERS, probers));
        }
        if let Some(config) = self.annotations.get(annotations::PROXY_CONFIG) {
            variables.push(variable("PROXY_CONFIG", config.trim_end()));
        }
        let metadata = self.config.metadata.iter();
        variables.extend(metadata.map(|(name, value)| variable(name, value)));
        Ok(variables)
    }

    fn fill(&self, container: &mut Map, image: &str, arguments: Vec<String>) {
        container.insert("image".to_owned(), image.into());
        if let Some(policy) = &self.settings.image_pull_policy {
            let after = container.get_index_of("image").map_or(0, |index| index + 1);
            container.shift_insert(after, "imagePullPolicy".to_owned(), policy.as_str().into());
        }
        let arguments = arguments.into_iter().map(Node::from).collect();
        container.insert("args".to_owned(), Node::List(arguments));
    }

    /// Lays the author's own container over ours, and sees to the resources.
    fn finish(&self, mut container: Map, over: Option<Map>, asks: bool) -> Result<Node, String> {
        let mut over = over.unwrap_or_default();
        if over.get("image").and_then(Node::as_str) == Some(MERGED_IMAGE) {
            over.shift_remove("image");
        }
        let said = Node::Map(over.clone());
        let wish = |resource: &str, names: [&str; 2], flags: [&Option<String>; 2]| {
            let one = |at: usize, place: &str| {
                let own = said.at(&["resources", place, resource]).map(|value| Asked {
                    place: format!("resources.{place}.{resource} of its own container"),
                    value: value.clone(),
                });
                let annotated = || {
                    let value = self.annotations.get(names[at])?;
                    Some(Asked { place: format!("annotation {}", names[at]), value: value.into() })
                };
                let flag = || {
                    let value = flags[at].as_deref()?;
                    let limit = if at == 1 { "-limit" } else { "" };
                    Some(Asked { place: format!("--{resource}{limit}"), value: value.into() })
                };
                own.or_else(annotated).or_else(flag)
            };
            // Where the namespace has a quota every container must have a limit. What istio-init asks
            // for stays little, since it is over before the proxy begins.
            let request = if asks { one(0, "requests") } else { None };
            Wish { request, limit: one(1, "limits") }
        };
        let settings = self.settings;
        let cpu = wish(
            "cpu",
            [annotations::CPU, annotations::CPU_LIMIT],
            [&settings.cpu, &settings.cpu_limit],
        );
        let memory = wish(
            "memory",
            [annotations::MEMORY, annotations::MEMORY_LIMIT],
            [&settings.memory, &settings.memory_limit],
        );
        overlay::merge_object(&mut container, over);
        resources::apply(&mut container, cpu, memory)?;
        Ok(Node::Map(container))
    }
}

/// Istio's names of the two containers.
pub(super) const INIT_CONTAINER: &str = "istio-init";
pub(super) const PROXY_CONTAINER: &str = "istio-proxy";

/// The image of a container that stands for ours, in Istio's words.
pub(super) const MERGED_IMAGE: &str = "auto";

fn template(text: &str) -> Result<Map, String> {
    match read_yaml(text, 0)? {
        Node::Map(map) => Ok(map),
        _ => Err("a template is no object".to_owned()),
    }
}

fn variable(name: &str, value: &str) -> Node {
    let pair = [("name", name), ("value", value)];
    Node::Map(pair.into_iter().map(|(key, text)| (key.to_owned(), Node::from(text))).collect())
}

/// The ports of these containers, as Istio's agent reads them from `ISTIO_META_POD_PORTS`.
fn ports(containers: &[Node]) -> Result<String, String> {
    let ports = |container: &Node| container.get("ports").and_then(Node::as_list).cloned();
    let ports: Vec<Node> = containers.iter().filter_map(ports).flatten().collect();
    serde_json::to_string(&ports).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::well_known::{AGENT_STATUS_PORT, ENVOY_PROMETHEUS_PORT, PROXY_UID};

    #[test]
    fn the_templates_have_the_well_known_ports_and_the_proxys_user() {
        let proxy = Node::Map(template(include_str!("istio-proxy.yaml")).unwrap());
        let startup_probe = read_yaml(include_str!("startup-probe.yaml"), 0).unwrap();
        let number = |number: u64| Some(Node::Unsigned(number));
        for probe in ["readinessProbe", "livenessProbe"] {
            let port = proxy.at(&[probe, "httpGet", "port"]).cloned();
            assert_eq!(port, number(AGENT_STATUS_PORT.into()), "{probe}");
        }
        let port = startup_probe.at(&["httpGet", "port"]).cloned();
        assert_eq!(port, number(AGENT_STATUS_PORT.into()));
        let ports = proxy.get("ports").and_then(Node::as_list).unwrap();
        assert_eq!(ports[0].get("containerPort").cloned(), number(ENVOY_PROMETHEUS_PORT.into()));
        for id in ["runAsUser", "runAsGroup"] {
            let own = proxy.at(&["securityContext", id]).cloned();
            assert_eq!(own, number(PROXY_UID.into()), "{id}");
        }
    }
}
