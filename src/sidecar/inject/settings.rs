//! What sidecars are to be like in a whole mesh: the flags of `pilothouse inject`, and the file that
//! `pilothouse injector` reads (YAML, camelCase). A pod's annotations are above all of it.

use clap::ValueEnum;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use thiserror::Error;

use super::{args, resources};
use crate::flags;
use crate::names;
use crate::sidecar::host_port::HostPort;
use crate::well_known::DEFAULT_DISCOVERY_ADDRESS;
use crate::yaml;

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

/// What the sidecar is to be like, unless the pod's annotations say otherwise.
#[derive(Clone, Debug, PartialEq, Eq, clap::Args, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Settings {
    /// Image of the agent and its Envoy
    #[arg(long, value_name = "IMAGE", value_parser = args::image, default_value = DEFAULT_IMAGE)]
    #[serde(deserialize_with = "image")]
    pub image: String,

    /// Image of istio-init, which needs pilothouse and iptables; the proxy's image if not given
    #[arg(long, value_name = "IMAGE", value_parser = args::image)]
    #[serde(deserialize_with = "some_image")]
    pub init_image: Option<String>,

    /// When the images are pulled; Kubernetes' default if not given
    #[arg(long, value_name = "POLICY", value_parser = PULL_POLICIES)]
    #[serde(deserialize_with = "pull_policy")]
    pub image_pull_policy: Option<String>,

    /// The control plane that Envoy asks
    #[arg(long, value_name = "HOST:PORT", default_value = DEFAULT_DISCOVERY_ADDRESS)]
    #[serde(deserialize_with = "host_port")]
    pub discovery_address: HostPort,

    /// DNS domain of the cluster
    #[arg(long, value_name = "DOMAIN", value_parser = flags::domain, default_value = names::DEFAULT_DOMAIN)]
    #[serde(deserialize_with = "domain")]
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

    /// How long the proxy drains once the pod is to end [default: until the application has ended, as
    /// far as the pod's grace period allows]
    #[arg(long, value_name = "DURATION", value_parser = args::duration)]
    #[serde(deserialize_with = "some_duration")]
    pub termination_drain_duration: Option<String>,

    /// CPU that the proxy asks for
    #[arg(long, value_name = "QUANTITY", value_parser = resources::cpu)]
    #[serde(deserialize_with = "some_cpu")]
    pub cpu: Option<String>,

    /// Memory that the proxy asks for
    #[arg(long, value_name = "QUANTITY", value_parser = resources::memory)]
    #[serde(deserialize_with = "some_memory")]
    pub memory: Option<String>,

    /// CPU that the proxy and istio-init may take; no limit if not given
    #[arg(long, value_name = "QUANTITY", value_parser = resources::cpu)]
    #[serde(deserialize_with = "some_cpu")]
    pub cpu_limit: Option<String>,

    /// Memory that the proxy and istio-init may take
    #[arg(long, value_name = "QUANTITY", value_parser = resources::memory)]
    #[serde(deserialize_with = "some_memory")]
    pub memory_limit: Option<String>,
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
        Ok(())
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
        let (host, port) = DEFAULT_DISCOVERY_ADDRESS.split_once(':').unwrap_or_default();
        Self {
            image: DEFAULT_IMAGE.to_owned(),
            init_image: None,
            image_pull_policy: None,
            discovery_address: HostPort {
                host: host.to_owned(),
                port: port.parse().unwrap_or_default(),
            },
            domain: names::DEFAULT_DOMAIN.to_owned(),
            native_sidecars: NativeSidecars::Auto,
            termination_drain_duration: None,
            cpu: None,
            memory: None,
            cpu_limit: None,
            memory_limit: None,
        }
    }
}

const PULL_POLICIES: [&str; 3] = ["Always", "IfNotPresent", "Never"];

fn checked<'de, D: Deserializer<'de>, T>(
    from: D,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<T, D::Error> {
    check(&String::deserialize(from)?).map_err(D::Error::custom)
}

fn some<'de, D: Deserializer<'de>, T>(
    from: D,
    check: impl Fn(&str) -> Result<T, String>,
) -> Result<Option<T>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| check(&text)).transpose().map_err(D::Error::custom)
}

fn image<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, args::image)
}

fn some_image<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, args::image)
}

fn pull_policy<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, |text| match PULL_POLICIES.contains(&text) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?} is none of {}", PULL_POLICIES.join(", "))),
    })
}

fn host_port<'de, D: Deserializer<'de>>(from: D) -> Result<HostPort, D::Error> {
    checked(from, |text| text.parse().map_err(|error| format!("{error}")))
}

fn domain<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    checked(from, flags::domain)
}

fn some_duration<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, args::duration)
}

fn some_cpu<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, resources::cpu)
}

fn some_memory<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    some(from, resources::memory)
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
                    memoryLimit: 1Gi\nterminationDrainDuration: 20s\n";
        let wanted = Settings {
            image: "registry.example/proxy:2".to_owned(),
            image_pull_policy: Some("Never".to_owned()),
            discovery_address: "pilot.mesh:15010".parse().unwrap(),
            native_sidecars: NativeSidecars::Always,
            termination_drain_duration: Some("20s".to_owned()),
            cpu: Some("2".to_owned()),
            memory_limit: Some("1Gi".to_owned()),
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
