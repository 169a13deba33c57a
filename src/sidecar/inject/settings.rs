//! What sidecars are to be like in a whole mesh: the flags of `pilothouse inject`, and the file that
//! `pilothouse injector` reads (YAML, camelCase). A pod's annotations are above all of it.

use clap::ValueEnum;
use serde::Deserialize;
use thiserror::Error;

use super::{args, resources};
use crate::flags;
use crate::names;
use crate::sidecar::agent::Discovery;
use crate::sidecar::host_port::HostPort;
use crate::well_known::{AGENT_STATUS_PORT, DEFAULT_DISCOVERY_ADDRESS};
use crate::yaml;

mod capture;
mod values;

pub use capture::Capture;
use values::PULL_POLICIES;

const DEFAULT_IMAGE: &str = concat!("pilothouse-proxy:", env!("CARGO_PKG_VERSION"));
/// The first API server beside which every kubelet has native sidecars: one may be three minor versions
/// older, and 1.29 was the first that had them switched on.
const NATIVE_SINCE: (u32, u32) = (1, 33);

/// Whether the proxy is an init container with `restartPolicy: Always`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NativeSidecars {
    /// Where the cluster has them, which `inject` does not know and takes for no.
    #[default]
    Auto,
    Always,
    Never,
}

/// How the proxy speaks to the control plane, and what it shows of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tls {
    /// Plaintext.
    #[default]
    Off,
    /// TLS with a client certificate, of a Secret.
    Certificate,
    /// TLS with the ServiceAccount's token, mounted as Istio mounts it.
    Token,
}

impl Tls {
    /// As the agent reads it.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Certificate => "certificate",
            Self::Token => "token",
        }
    }

    /// Of the variable that a pod may give its agent.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
            .map_err(|_| format!("{text:?} is none of off, certificate and token"))
    }
}

/// The profile of system calls that containers have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Deserialize)]
#[value(rename_all = "PascalCase")]
pub enum SeccompProfile {
    /// The container runtime's own.
    RuntimeDefault,
    /// None: what a container has that says nothing.
    Unconfined,
}

const DEFAULT_CLUSTER: &str = "Kubernetes";
/// As above, with the name that the control plane's certificate has.
const DEFAULT_TLS_DISCOVERY_ADDRESS: &str = "istio-pilot.istio-system.svc:15012";
const DEFAULT_TLS_SECRET: &str = "pilothouse-proxy-tls";
const DEFAULT_CA_CONFIG_MAP: &str = "pilothouse-ca";

/// What the sidecar is to be like, unless the pod's annotations say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Image of the agent and its Envoy
    #[arg(long, value_name = "IMAGE", value_parser = args::image, default_value = DEFAULT_IMAGE)]
    #[serde(deserialize_with = "values::image")]
    pub image: String,

    /// Image of istio-init, which needs pilothouse and iptables; the proxy's image if not given
    #[arg(long, value_name = "IMAGE", value_parser = args::image)]
    #[serde(deserialize_with = "values::some_image")]
    pub init_image: Option<String>,

    /// When the images are pulled; Kubernetes' default if not given
    #[arg(long, value_name = "POLICY", value_parser = PULL_POLICIES)]
    #[serde(deserialize_with = "values::pull_policy")]
    pub image_pull_policy: Option<String>,

    /// Secrets with which the images are pulled
    #[arg(long = "image-pull-secret", value_name = "SECRET", value_parser = args::object)]
    #[serde(deserialize_with = "values::objects")]
    pub image_pull_secrets: Vec<String>,

    /// The control plane that Envoy asks [default: istio-pilot.istio-system:15010, with --tls
    /// istio-pilot.istio-system.svc:15012]
    #[arg(long, value_name = "HOST:PORT")]
    #[serde(deserialize_with = "values::some_host_port")]
    pub discovery_address: Option<HostPort>,

    /// Which clusters the proxy holds: those of all Services, or those that are called. Proxies whose
    /// traffic is not captured hold all
    #[arg(long, value_enum, value_name = "MODE", default_value = "all")]
    pub discovery: Discovery,

    /// How the proxy speaks to the control plane, and what it shows of itself
    #[arg(long, value_enum, value_name = "MODE", default_value = "off")]
    pub tls: Tls,

    /// Secret in the pod's namespace with tls.crt, tls.key and ca.crt, for --tls certificate [default:
    /// pilothouse-proxy-tls]
    #[arg(long, value_name = "SECRET", value_parser = args::object)]
    #[serde(deserialize_with = "values::some_object")]
    pub tls_secret: Option<String>,

    /// ConfigMap in the pod's namespace with ca.crt, for --tls token [default: pilothouse-ca]
    #[arg(long, value_name = "CONFIGMAP", value_parser = args::object)]
    #[serde(deserialize_with = "values::some_object")]
    pub ca_config_map: Option<String>,

    /// DNS domain of the cluster
    #[arg(long, value_name = "DOMAIN", value_parser = flags::domain, default_value = names::DEFAULT_DOMAIN)]
    #[serde(deserialize_with = "values::domain")]
    pub domain: String,

    /// Make the proxy an init container with restartPolicy Always: it serves before the application
    /// starts and ends after it, so that Jobs complete. Without a value always; auto is never here, for
    /// no cluster is asked
    #[arg(
        long = "native-sidecar",
        value_enum,
        value_name = "WHEN",
        num_args = 0..=1,
        require_equals = true,
        default_value = "auto",
        default_missing_value = "always"
    )]
    pub native_sidecars: NativeSidecars,

    /// Where the proxy is no native sidecar: start the application once the proxy serves
    #[arg(long)]
    pub hold_application_until_proxy_starts: bool,

    /// How long the proxy drains once the pod is to end [default: until the application has ended, as
    /// far as the pod's grace period allows]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    #[serde(deserialize_with = "values::some_duration")]
    pub termination_drain_duration: Option<String>,

    /// CPU that the proxy asks for
    #[arg(long, value_name = "QUANTITY", value_parser = resources::cpu)]
    #[serde(deserialize_with = "values::some_cpu")]
    pub cpu: Option<String>,

    /// Memory that the proxy asks for
    #[arg(long, value_name = "QUANTITY", value_parser = resources::memory)]
    #[serde(deserialize_with = "values::some_memory")]
    pub memory: Option<String>,

    /// CPU that the proxy and istio-init may take; no limit if not given
    #[arg(long, value_name = "QUANTITY", value_parser = resources::cpu)]
    #[serde(deserialize_with = "values::some_cpu")]
    pub cpu_limit: Option<String>,

    /// Memory that the proxy and istio-init may take
    #[arg(long, value_name = "QUANTITY", value_parser = resources::memory)]
    #[serde(deserialize_with = "values::some_memory")]
    pub memory_limit: Option<String>,

    /// Envoy's log level; the agent's default is warning
    #[arg(long, value_name = "LEVEL", value_parser = args::log_level)]
    #[serde(deserialize_with = "values::some_log_level")]
    pub log_level: Option<String>,

    /// Log levels of Envoy's parts, as in upstream:debug,http:info
    #[arg(long, value_name = "LIST", value_parser = args::component_log_levels)]
    #[serde(deserialize_with = "values::some_component_log_levels")]
    pub component_log_level: Option<String>,

    /// Port of the agent's pages: probes and metrics
    #[arg(long, value_name = "PORT", value_parser = args::status_port, default_value_t = AGENT_STATUS_PORT)]
    #[serde(deserialize_with = "values::status_port")]
    pub status_port: u16,

    /// Whether the pod's annotations for Prometheus are led to the agent, which merges the application's
    /// metrics with Envoy's and its own
    #[arg(long, value_name = "YES", action = clap::ArgAction::Set, default_value_t = true)]
    pub prometheus_merge: bool,

    /// Name of the cluster, which the proxy tells
    #[arg(long, value_name = "NAME", value_parser = args::word, default_value = DEFAULT_CLUSTER)]
    #[serde(deserialize_with = "values::word")]
    pub cluster_id: String,

    /// Name of the mesh, which the proxy tells [default: the cluster's domain]
    #[arg(long, value_name = "NAME", value_parser = args::word)]
    #[serde(deserialize_with = "values::some_word")]
    pub mesh_id: Option<String>,

    /// Name of the network that the pods are in, which the proxy tells
    #[arg(long, value_name = "NAME", value_parser = args::word)]
    #[serde(deserialize_with = "values::some_word")]
    pub network: Option<String>,

    /// Seccomp profile of both containers [default: RuntimeDefault where the pod's own containers say
    /// it each, else the pod's]
    #[arg(long, value_enum, value_name = "PROFILE")]
    pub seccomp_profile: Option<SeccompProfile>,

    #[command(flatten)]
    pub capture: Capture,
}

/// What is wrong with a file of settings: what, where, and what would be right.
#[derive(Debug, Error)]
#[error("{0}")]
pub struct SettingsError(String);

impl Settings {
    /// From YAML; an empty file has the defaults.
    ///
    /// # Errors
    /// A field that is not known, a value that makes no sense, or two that contradict each other.
    pub fn from_yaml(text: &str) -> Result<Self, SettingsError> {
        // Only comments are no document.
        let said = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
        let settings: Self = match text.lines().any(said) {
            true => serde_saphyr::from_str(text)
                .map_err(|error| SettingsError(yaml::explain(&error, text.as_bytes())))?,
            false => Self::default(),
        };
        settings.check().map_err(SettingsError)?;
        Ok(settings)
    }

    /// Whether the values go together.
    ///
    /// # Errors
    /// A sentence that names both.
    pub(super) fn check(&self) -> Result<(), String> {
        for (of, request, limit) in
            [("cpu", &self.cpu, &self.cpu_limit), ("memory", &self.memory, &self.memory_limit)]
        {
            if let (Some(request), Some(limit)) = (request, limit)
                && resources::quantity(request)? > resources::quantity(limit)?
            {
                return Err(format!(
                    "{of} is {request} and {of}Limit is {limit}: a request must not be above its limit"
                ));
            }
        }
        // Who gives one of these expects that it is used.
        for (field, given, needs) in [
            ("tlsSecret", self.tls_secret.is_some(), Tls::Certificate),
            ("caConfigMap", self.ca_config_map.is_some(), Tls::Token),
        ] {
            if given && self.tls != needs {
                return Err(format!(
                    "{field} is for tls: {}, and tls is {}: leave {field} out or change tls",
                    needs.as_str(),
                    self.tls.as_str()
                ));
            }
        }
        self.capture.check()
    }

    /// Where the control plane is for a proxy that speaks like this.
    pub(super) fn discovery_address(&self, tls: Tls) -> String {
        match &self.discovery_address {
            Some(given) => given.to_string(),
            None if tls == Tls::Off => DEFAULT_DISCOVERY_ADDRESS.to_owned(),
            None => DEFAULT_TLS_DISCOVERY_ADDRESS.to_owned(),
        }
    }

    pub(super) fn tls_secret(&self) -> &str {
        self.tls_secret.as_deref().unwrap_or(DEFAULT_TLS_SECRET)
    }

    pub(super) fn ca_config_map(&self) -> &str {
        self.ca_config_map.as_deref().unwrap_or(DEFAULT_CA_CONFIG_MAP)
    }

    pub(super) fn mesh_id(&self) -> &str {
        self.mesh_id.as_deref().unwrap_or(&self.domain)
    }

    /// Says what `auto` is: the webhook knows by the version of its API server.
    pub fn resolve_native_sidecars(&mut self, the_cluster_has_them: bool) {
        if self.native_sidecars == NativeSidecars::Auto {
            self.native_sidecars = match the_cluster_has_them {
                true => NativeSidecars::Always,
                false => NativeSidecars::Never,
            };
        }
    }
}

/// Whether every kubelet beside an API server of this version has native sidecars.
pub fn has_native_sidecars(major: u32, minor: u32) -> bool {
    (major, minor) >= NATIVE_SINCE
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            image: DEFAULT_IMAGE.to_owned(),
            init_image: None,
            image_pull_policy: None,
            image_pull_secrets: Vec::new(),
            discovery_address: None,
            discovery: Discovery::All,
            tls: Tls::Off,
            tls_secret: None,
            ca_config_map: None,
            domain: names::DEFAULT_DOMAIN.to_owned(),
            native_sidecars: NativeSidecars::Auto,
            hold_application_until_proxy_starts: false,
            termination_drain_duration: None,
            cpu: None,
            memory: None,
            cpu_limit: None,
            memory_limit: None,
            log_level: None,
            component_log_level: None,
            status_port: AGENT_STATUS_PORT,
            prometheus_merge: true,
            cluster_id: DEFAULT_CLUSTER.to_owned(),
            mesh_id: None,
            network: None,
            seccomp_profile: None,
            capture: Capture::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_says_what_the_flags_say() {
        for empty in ["", "# nothing\n", "{}"] {
            assert_eq!(Settings::from_yaml(empty).unwrap(), Settings::default(), "{empty:?}");
        }
        let text = "image: registry.example/proxy:2\nimagePullPolicy: Never\ncpu: 2\n\
                    discoveryAddress: pilot.mesh:15010\nnativeSidecars: always\n\
                    memoryLimit: 1Gi\nterminationDrainDuration: 20s\ntls: off\nimagePullSecrets: [a, b.c]\n\
                    statusPort: 16020\nprometheusMerge: false\nseccompProfile: RuntimeDefault\n\
                    discovery: on-demand\n\
                    capture: {excludeOutboundPorts: \"3306\"}\n";
        let wanted = Settings {
            image: "registry.example/proxy:2".to_owned(),
            image_pull_policy: Some("Never".to_owned()),
            discovery_address: Some("pilot.mesh:15010".parse().unwrap()),
            discovery: Discovery::OnDemand,
            native_sidecars: NativeSidecars::Always,
            termination_drain_duration: Some("20s".to_owned()),
            cpu: Some("2".to_owned()),
            memory_limit: Some("1Gi".to_owned()),
            image_pull_secrets: vec!["a".to_owned(), "b.c".to_owned()],
            status_port: 16020,
            prometheus_merge: false,
            seccomp_profile: Some(SeccompProfile::RuntimeDefault),
            capture: Capture {
                exclude_outbound_ports: Some("3306".to_owned()),
                ..Capture::default()
            },
            ..Settings::default()
        };
        assert_eq!(Settings::from_yaml(text).unwrap(), wanted);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, said) in [
            ("images: a\n", "images"),
            ("image: Proxy\n", "\"Proxy\" is not the name of an image"),
            ("imagePullPolicy: always\n", "is none of Always, IfNotPresent, Never"),
            ("discoveryAddress: pilot\n", "\"pilot\" is not HOST:PORT"),
            ("domain: a_b\n", "a DNS domain"),
            ("nativeSidecars: yes\n", "always"),
            ("terminationDrainDuration: long\n", "long"),
            ("cpu: two\n", "\"two\" is no quantity"),
            ("memoryLimit: 128m\n", "less than one byte"),
            ("memory: 2Gi\nmemoryLimit: 1Gi\n", "memory is 2Gi and memoryLimit is 1Gi"),
            ("discovery: lazy\n", "on-demand"),
            ("tls: mutual\n", "certificate"),
            ("tlsSecret: mine\n", "tlsSecret is for tls: certificate, and tls is off"),
            ("tls: certificate\ncaConfigMap: ca\n", "caConfigMap is for tls: token"),
            ("imagePullSecrets: [A_B]\n", "\"A_B\" is not the name of"),
            ("statusPort: 15001\n", "15001"),
            ("logLevel: loud\n", "\"loud\" is no log level of Envoy"),
            ("network: a b\n", "\"a b\""),
            ("seccompProfile: strict\n", "RuntimeDefault"),
            ("capture: {includeInboundPorts: http}\n", "includeInboundPorts: \"http\": not a port"),
            ("capture: {ports: http}\n", "ports"),
            ("- image\n", ""),
        ] {
            let error = Settings::from_yaml(text).unwrap_err().to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[test]
    fn auto_is_what_the_cluster_has() {
        let resolved = |from: NativeSidecars, has: bool| {
            let mut settings = Settings { native_sidecars: from, ..Settings::default() };
            settings.resolve_native_sidecars(has);
            settings.native_sidecars
        };
        assert_eq!(resolved(NativeSidecars::Auto, true), NativeSidecars::Always);
        assert_eq!(resolved(NativeSidecars::Auto, false), NativeSidecars::Never);
        assert_eq!(resolved(NativeSidecars::Never, true), NativeSidecars::Never);
        assert!(has_native_sidecars(1, 33) && has_native_sidecars(2, 0));
        assert!(!has_native_sidecars(1, 32));
    }
}
