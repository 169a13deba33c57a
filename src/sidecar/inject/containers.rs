//! The two containers that are added: what stands in the YAML files beside this, filled in by flags,
//! annotations and what the pod's author says in a container of the same name.

use super::annotations::{self, Annotations};
use super::documents::read_yaml;
use super::node::{Map, Node, list_at, map_at};
use super::overlay;
use super::owner::Owner;
use super::resources::{self, Asked, Wish};
use super::settings::{NativeSidecars, SeccompProfile, Settings, Tls};
use super::volumes::Volumes;
use crate::sidecar::agent::{self, ProxyConfig};
use crate::sidecar::iptables;
use crate::well_known::AGENT_STATUS_PORT;

mod discovery;
mod environment;

use discovery::InjectedDiscovery;

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
    /// What the annotations for Prometheus were, which the agent is to ask.
    pub(super) scraping: Option<String>,
    /// Whether the application starts once the proxy serves.
    pub(super) held: bool,
    /// Of the agent's pages.
    pub(super) status_port: u16,
    /// Whether the kubelet asks there; annotation `status.sidecar.istio.io/port` 0 is no.
    probed: bool,
    pub(super) tls: Tls,
    pub(super) discovery: InjectedDiscovery,
}

/// The variable by which a pod may say that its agent is to use TLS.
const TLS_VARIABLE: &str = "PILOTHOUSE_TLS";

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
        let held = config.hold_application.unwrap_or(settings.hold_application_until_proxy_starts);
        let (status_port, probed) = match annotations.get(annotations::STATUS_PORT) {
            None => (settings.status_port, true),
            Some("0") => (settings.status_port, false),
            Some(said) => match super::args::status_port(said) {
                Ok(port) => (port, true),
                Err(error) => {
                    return Err(format!("annotation {}: {error}", annotations::STATUS_PORT));
                }
            },
        };
        let tls = match config.metadata.get(TLS_VARIABLE) {
            None => settings.tls,
            Some(said) => Tls::parse(said).map_err(|error| {
                format!(
                    "annotation {}: {TLS_VARIABLE} of proxyMetadata: {error}",
                    annotations::PROXY_CONFIG
                )
            })?,
        };
        let discovery = InjectedDiscovery::new(settings, annotations, &config, captured)?;
        Ok(Self {
            settings,
            annotations,
            config,
            owner,
            captured,
            native,
            probers: None,
            scraping: None,
            held: held && !native,
            status_port,
            probed,
            tls,
            discovery,
        })
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
    pub(super) fn init(&self, pod: &Node, over: Option<Map>) -> Result<Node, String> {
        let mut arguments = vec!["iptables".to_owned()];
        for ((annotation, flag), (_, of_all)) in
            annotations::TRAFFIC.into_iter().zip(self.settings.capture.flags())
        {
            // Found here, not by a pod that does not start.
            let said =
                self.checked(annotation, |said| iptables::IptablesArgs::check(&[flag, said]))?;
            let said = said.or(of_all).map(|said| self.with_status_port(flag, said));
            // Of the agent's usual port iptables knows.
            let said = said.or_else(|| {
                let needed = flag == EXCLUDED_INBOUND && self.status_port != AGENT_STATUS_PORT;
                needed.then(|| self.status_port.to_string())
            });
            if let Some(said) = said {
                arguments.extend([flag.to_owned(), said]);
            }
        }
        let flags: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
        iptables::IptablesArgs::check(&flags)
            .map_err(|error| format!("annotations traffic.sidecar.istio.io/...: {error}"))?;
        let mut container = template(include_str!("istio-init.yaml"))?;
        let image = self.settings.init_image.as_ref().unwrap_or(&self.settings.image);
        self.fill(&mut container, image, arguments);
        self.profile(&mut container, pod)?;
        self.finish(container, over, false)
    }

    /// The agent's port is not captured, or the kubelet would ask Envoy.
    fn with_status_port(&self, flag: &str, said: &str) -> String {
        match flag == EXCLUDED_INBOUND && self.status_port != AGENT_STATUS_PORT {
            true if said.is_empty() => self.status_port.to_string(),
            true => format!("{said},{}", self.status_port),
            false => said.to_owned(),
        }
    }

    /// Pod Security `restricted` asks for a seccomp profile of each container; of the pod's own ones or
    /// of the pod as a whole.
    fn profile(&self, container: &mut Map, pod: &Node) -> Result<(), String> {
        let profile = self.settings.seccomp_profile.or_else(|| {
            let containers = pod.at(&["spec", "containers"]).and_then(Node::as_list)?;
            let mut own = containers.iter().filter(|one| one.text(&["name"]) != PROXY_CONTAINER);
            let each = own.all(|one| one.at(&["securityContext", "seccompProfile"]).is_some());
            let of_pod = pod.at(&["spec", "securityContext", "seccompProfile"]).is_some();
            (each && !of_pod).then_some(SeccompProfile::RuntimeDefault)
        });
        let kind = match profile {
            None => return Ok(()),
            Some(SeccompProfile::RuntimeDefault) => "RuntimeDefault",
            Some(SeccompProfile::Unconfined) => "Unconfined",
        };
        let context = map_at(container, "securityContext").ok_or("securityContext is no object")?;
        let profile = [("type".to_owned(), kind.into())].into_iter().collect();
        context.insert("seccompProfile".to_owned(), Node::Map(profile));
        Ok(())
    }

    /// The container of the agent and its Envoy.
    pub(super) fn proxy(
        &self,
        pod: &Node,
        over: Option<Map>,
        volumes: &Volumes,
    ) -> Result<Node, String> {
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
        self.probe(&mut container)?;
        if self.held {
            container.insert("lifecycle".to_owned(), self.wait_hook());
        }
        self.profile(&mut container, pod)?;
        volumes.mount(&mut container)?;
        self.finish(container, over, true)
    }

    /// What annotations and settings say of the kubelet's questions to the agent.
    fn probe(&self, container: &mut Map) -> Result<(), String> {
        let number = |annotation: &str, least: u32| {
            let said = self.checked(annotation, |said| match said.parse::<i32>() {
                Ok(number) if i64::from(number) >= i64::from(least) => Ok(()),
                _ => Err(format!("{said:?} is no whole number of at least {least}")),
            })?;
            Ok::<_, String>(said.and_then(|said| said.parse().ok()).map(Node::Unsigned))
        };
        let fields = [
            ("initialDelaySeconds", number(annotations::INITIAL_DELAY, 0)?),
            ("periodSeconds", number(annotations::PERIOD, 1)?),
            ("failureThreshold", number(annotations::FAILURE_THRESHOLD, 1)?),
        ];
        for probe in ["readinessProbe", "livenessProbe", "startupProbe"] {
            if !self.probed {
                container.shift_remove(probe);
                continue;
            }
            let Some(probe) = container.get_mut(probe) else { continue };
            if let Some(port) = probe.at_mut(&["httpGet", "port"]) {
                *port = Node::Unsigned(self.status_port.into());
            }
        }
        if let Some(Node::Map(readiness)) = container.get_mut("readinessProbe") {
            let given = fields.into_iter().filter_map(|(field, value)| Some((field, value?)));
            readiness.extend(given.map(|(field, value)| (field.to_owned(), value)));
        }
        Ok(())
    }

    /// The kubelet starts the next container once this has ended well.
    fn wait_hook(&self) -> Node {
        let mut command = vec!["pilothouse".to_owned(), "agent-wait".to_owned()];
        if self.status_port != AGENT_STATUS_PORT {
            command.push(format!("--status-addr=127.0.0.1:{}", self.status_port));
        }
        let command = Node::List(command.into_iter().map(Node::from).collect());
        ["command", "exec", "postStart"].into_iter().fold(command, |inner, field| {
            Node::Map([(field.to_owned(), inner)].into_iter().collect())
        })
    }

    fn arguments(&self) -> Result<Vec<String>, String> {
        let settings = self.settings;
        let mut arguments = vec!["agent".to_owned()];
        // A flag would win over the proxy configuration.
        if self.config.discovery_address.is_none() {
            let address = settings.discovery_address(self.tls);
            arguments.push(format!("--discovery-address={address}"));
        }
        arguments.extend(self.discovery.arguments());
        if settings.domain != crate::names::DEFAULT_DOMAIN {
            arguments.push(format!("--domain={}", settings.domain));
        }
        if self.status_port != AGENT_STATUS_PORT {
            arguments.push(format!("--status-addr=:{}", self.status_port));
        }
        let level = self.checked(annotations::LOG_LEVEL, agent::check_log_level)?;
        if let Some(level) = level.or(settings.log_level.as_deref()) {
            arguments.push(format!("--proxy-log-level={level}"));
        }
        let levels =
            self.checked(annotations::COMPONENT_LOG_LEVEL, agent::check_component_log_levels)?;
        if let Some(levels) = levels.or(settings.component_log_level.as_deref()) {
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
        // As in Istio: whoever says something of resources says all of it.
        let annotated = [
            annotations::CPU,
            annotations::MEMORY,
            annotations::CPU_LIMIT,
            annotations::MEMORY_LIMIT,
        ];
        let annotated = annotated.iter().any(|name| self.annotations.get(name).is_some());
        if annotated {
            container.insert("resources".to_owned(), Node::Map(Map::new()));
        }
        let wish = |resource: &str, names: [&str; 2], flags: [&Option<String>; 2]| {
            let one = |at: usize, place: &str| {
                let own = said.at(&["resources", place, resource]).map(|value| Asked {
                    place: format!("resources.{place}.{resource} of its own container"),
                    value: value.clone(),
                });
                let of_pod = || {
                    let value = self.annotations.get(names[at])?;
                    Some(Asked { place: format!("annotation {}", names[at]), value: value.into() })
                };
                let flag = || {
                    let value = flags[at].as_deref().filter(|_| !annotated)?;
                    let limit = if at == 1 { "Limit" } else { "" };
                    Some(Asked { place: format!("setting {resource}{limit}"), value: value.into() })
                };
                own.or_else(of_pod).or_else(flag)
            };
            // Where the namespace has a quota every container must have a limit. What istio-init asks
            // for stays little, since it is over before the proxy begins.
            let request = if asks || annotated { one(0, "requests") } else { None };
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

/// The flag of `pilothouse iptables` for inbound ports that are not captured.
const EXCLUDED_INBOUND: &str = "-d";

/// The image of a container that stands for ours, in Istio's words.
pub(super) const MERGED_IMAGE: &str = "auto";

fn template(text: &str) -> Result<Map, String> {
    match read_yaml(text, 0)? {
        Node::Map(map) => Ok(map),
        _ => Err("a template is no object".to_owned()),
    }
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
