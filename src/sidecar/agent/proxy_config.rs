//! Istio's `ProxyConfig` (`PROXY_CONFIG`, or the annotation `proxy.istio.io/config`), as far as it counts
//! here.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use thiserror::Error;

use crate::flags;
use crate::sidecar::host_port::HostPort;
use crate::well_known::DEFAULT_DISCOVERY_ADDRESS;
use crate::yaml;

/// What is wrong with it.
#[derive(Debug, Error)]
pub enum ProxyConfigError {
    #[error("it cannot be read: {0}")]
    Syntax(String),
    #[error("{field} is {found:?}, which is no duration like 5s")]
    Duration { field: &'static str, found: String },
    #[error("concurrency is {found}: {reason}")]
    Concurrency { found: u32, reason: String },
    #[error(
        "discoveryAddress is {found:?}, which is no HOST:PORT like {DEFAULT_DISCOVERY_ADDRESS}"
    )]
    Discovery { found: String },
}

/// What of it counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyConfig {
    pub discovery_address: Option<HostPort>,
    pub concurrency: Option<u32>,
    pub drain: Option<Duration>,
    pub termination_drain: Option<Duration>,
    /// `holdApplicationUntilProxyStarts`: injection puts the proxy before the application.
    pub hold_application: Option<bool>,
    /// `proxyMetadata`: variables that injection puts into the environment of the proxy.
    pub metadata: BTreeMap<String, String>,
    /// The fields that are for what is not there.
    pub without_effect: Vec<String>,
}

const FIELDS: [&str; 6] = [
    "discoveryAddress",
    "concurrency",
    "drainDuration",
    "terminationDrainDuration",
    "holdApplicationUntilProxyStarts",
    "proxyMetadata",
];

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Fields {
    discovery_address: Option<String>,
    concurrency: Option<u32>,
    drain_duration: Option<String>,
    termination_drain_duration: Option<String>,
    hold_application_until_proxy_starts: Option<bool>,
    proxy_metadata: BTreeMap<String, String>,
}

impl ProxyConfig {
    /// YAML or JSON; nothing is the default.
    ///
    /// # Errors
    /// See [`ProxyConfigError`].
    pub fn parse(text: &str) -> Result<Self, ProxyConfigError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let syntax = |error: serde_saphyr::Error| {
            ProxyConfigError::Syntax(yaml::explain(&error, text.as_bytes()))
        };
        let fields: Fields = serde_saphyr::from_str(text).map_err(syntax)?;
        let all: BTreeMap<String, IgnoredAny> = serde_saphyr::from_str(text).map_err(syntax)?;
        if let Some(found) = fields.concurrency {
            flags::threads(&found.to_string())
                .map_err(|reason| ProxyConfigError::Concurrency { found, reason })?;
        }
        let discovery = fields.discovery_address.map(|found| {
            found.parse().map_err(|_| ProxyConfigError::Discovery { found: found.clone() })
        });
        Ok(Self {
            discovery_address: discovery.transpose()?,
            concurrency: fields.concurrency,
            drain: duration("drainDuration", fields.drain_duration)?,
            termination_drain: duration(
                "terminationDrainDuration",
                fields.termination_drain_duration,
            )?,
            hold_application: fields.hold_application_until_proxy_starts,
            metadata: fields.proxy_metadata,
            without_effect: all
                .into_keys()
                .filter(|field| !FIELDS.contains(&field.as_str()))
                .collect(),
        })
    }
}

fn duration(
    field: &'static str,
    text: Option<String>,
) -> Result<Option<Duration>, ProxyConfigError> {
    let Some(found) = text else { return Ok(None) };
    match flags::pause_in_seconds(&found) {
        Ok(duration) => Ok(Some(duration)),
        Err(_) => Err(ProxyConfigError::Duration { field, found }),
    }
}
