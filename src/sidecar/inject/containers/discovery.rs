//! Whether a proxy is to hold the clusters that it calls alone, by annotation, else by the settings; and
//! with which it starts.

use crate::sidecar::agent::{self, Discovery, ProxyConfig};
use crate::sidecar::inject::annotations::{self, Annotations};
use crate::sidecar::inject::settings::Settings;

/// The variable by which a pod may say how its Envoy asks.
const XDS_VARIABLE: &str = "PILOTHOUSE_XDS";

/// What the agent is told, and what will surprise somebody.
#[derive(Debug, Default)]
pub(in crate::sidecar::inject) struct InjectedDiscovery {
    on_demand: bool,
    uses: Vec<String>,
    pub(in crate::sidecar::inject) warnings: Vec<String>,
}

impl InjectedDiscovery {
    /// # Errors
    /// An annotation that makes no sense, or two that contradict each other. What a pod says is above
    /// the settings, so those give way.
    pub(super) fn new(
        settings: &Settings,
        annotations: &Annotations,
        config: &ProxyConfig,
        captured: bool,
    ) -> Result<Self, String> {
        let wrong = |name: &'static str| move |error| format!("annotation {name}: {error}");
        let said = annotations.get(annotations::DISCOVERY).map(Discovery::parse).transpose();
        let said = said.map_err(wrong(annotations::DISCOVERY))?;
        let uses = annotations.get(annotations::USES).unwrap_or_default();
        let uses = agent::parse_uses(uses).map_err(wrong(annotations::USES))?;
        let wanted = said.unwrap_or(settings.discovery) == Discovery::OnDemand;
        let mut warnings = Vec::new();
        if wanted && !captured && said.is_some() {
            warnings.push(format!(
                "annotation {} has no effect: the pod's traffic is not captured ({}), so that its proxy \
                 needs the clusters of all Services",
                annotations::DISCOVERY,
                annotations::INTERCEPTION
            ));
        }
        let state_of_the_world =
            config.metadata.get(XDS_VARIABLE).is_some_and(|xds| xds.as_str() == "sotw");
        if wanted && captured && state_of_the_world {
            let why = format!(
                "{XDS_VARIABLE} of proxyMetadata in {} is sotw, and clusters on demand need delta",
                annotations::PROXY_CONFIG
            );
            if said.is_some() {
                return Err(format!("annotation {}: {why}", annotations::DISCOVERY));
            }
            warnings.push(format!("its proxy holds the clusters of all Services: {why}"));
        }
        let on_demand = wanted && captured && !state_of_the_world;
        if !on_demand && !uses.is_empty() {
            warnings.push(format!(
                "annotation {} has no effect without {}: on-demand: the proxy holds the clusters of all \
                 Services",
                annotations::USES,
                annotations::DISCOVERY
            ));
        }
        Ok(Self { on_demand, uses, warnings })
    }

    pub(super) fn arguments(&self) -> Vec<String> {
        if !self.on_demand {
            return Vec::new();
        }
        let mut arguments = vec![format!("--discovery={}", Discovery::OnDemand.as_str())];
        if !self.uses.is_empty() {
            arguments.push(format!("--uses={}", self.uses.join(",")));
        }
        arguments
    }
}
