//! Clusters that come on demand: whether that was asked for, and whether it is had. Pure.

use serde_json::Value;

use super::finding::{Code, Finding};
use crate::names::{DISCOVERY_METADATA, Discovery};
use crate::sidecar::envoy_admin::{ON_DEMAND_SINCE, OnDemandStats};

/// Of an Envoy whose node asks for it.
#[derive(Clone, Debug, Default)]
pub(super) struct OnDemand {
    /// Why its agent went on without.
    fallback: Option<String>,
    /// Whether its bootstrap asks for changes only.
    pub(super) over_delta: bool,
    pub(super) stats: OnDemandStats,
    /// Whether its listeners ask; none where it has none for a service.
    pub(super) asks: Option<bool>,
}

impl OnDemand {
    /// From a node; none where nobody asks for it.
    pub(super) fn read(node: &Value) -> Option<Self> {
        let metadata = &node["metadata"];
        let fallback = metadata["DISCOVERY_FALLBACK"].as_str().map(str::to_owned);
        let asked =
            fallback.is_some() || metadata[DISCOVERY_METADATA] == Discovery::OnDemand.as_str();
        asked.then(|| Self { fallback, ..Self::default() })
    }

    /// Whether clusters are to come on demand, rather than that it was asked for in vain.
    pub(super) fn is_in_force(&self) -> bool {
        self.fallback.is_none()
    }

    /// The control plane ends such streams.
    pub(super) fn lacks_delta(&self) -> Option<Finding> {
        (self.is_in_force() && !self.over_delta).then(|| {
            Finding::new(
                Code::OnDemandNeedsDelta,
                "the proxy asks for clusters on demand (DISCOVERY in its node's metadata) and for the \
                 state of the world, which Pilot refuses: one cluster more can be asked for in delta only",
                "let the bootstrap's ads_config have api_type DELTA_GRPC (the agent's --xds delta), or \
                 leave DISCOVERY out",
            )
        })
    }

    /// It was asked for and is not had, while all else is well. `pilot` is the mode that the control
    /// plane says, if it could be asked; `version` is Envoy's.
    pub(super) fn fault(&self, pilot: Option<&str>, version: &str) -> Option<Finding> {
        let all = "the proxy has the clusters of all Services, although clusters on demand were asked for";
        let old = || {
            let mut numbers =
                version.trim_start_matches("Envoy ").split('.').map(str::parse::<u32>);
            let version = (numbers.next()?.ok()?, numbers.next()?.ok()?);
            (version < ON_DEMAND_SINCE).then(|| {
                let (major, minor) = ON_DEMAND_SINCE;
                format!(
                    "Envoy can ask for them over ADS since {major}.{minor}, and this is {}.{}",
                    version.0, version.1
                )
            })
        };
        if let Some(why) = self.fallback.clone().or_else(old) {
            return Some(Finding::new(
                Code::OnDemandNotPossible,
                format!("{all}: {why}"),
                "change what stands in the way, or ask for all (pilothouse.io/discovery: all, the agent's \
                 --discovery all)",
            ));
        }
        let says_all = pilot.is_some_and(|mode| mode != Discovery::OnDemand.as_str());
        (says_all || self.asks == Some(false)).then(|| {
            let seen = match says_all {
                true => "Pilot says that it sends this proxy all",
                false => "no listener that Pilot sent asks for a cluster",
            };
            Finding::new(
                Code::OnDemandNotServed,
                format!("{all}: {seen}"),
                "see whether Pilot is of a version that has clusters on demand (/version), and whether \
                 the proxy is a captured sidecar, for which alone they are",
            )
        })
    }

    pub(super) fn summary(&self) -> String {
        let OnDemandStats { clusters, warming, .. } = self.stats;
        format!("{clusters} clusters, {warming} of them warming")
    }

    /// What is worth knowing of requests that were answered without a cluster.
    pub(super) fn note(&self) -> Option<String> {
        let OnDemandStats { connected, without_cluster, .. } = self.stats;
        if !self.is_in_force() || (connected && without_cluster == 0) {
            return None;
        }
        let count = format!("requests and connections without a cluster so far: {without_cluster}");
        Some(match connected {
            true => format!(
                "{count}. They were for what Pilot does not know, or came while it was away; each was \
                 answered 503 with the flag NC, or closed"
            ),
            false => format!(
                "clusters come on demand, and Envoy is not connected to Pilot: what it called before goes \
                 on, and what it did not is answered 503 with the flag NC; {count}"
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn asked(metadata: &Value) -> Option<OnDemand> {
        let found = OnDemand::read(&json!({ "metadata": metadata }));
        found.map(|found| OnDemand { over_delta: true, asks: Some(true), ..found })
    }

    #[test]
    fn what_was_asked_for_and_is_not_had_is_a_fault() {
        assert!(asked(&json!({})).is_none() && asked(&json!({ "DISCOVERY": "all" })).is_none());
        let on_demand = asked(&json!({ "DISCOVERY": "on-demand" })).unwrap();
        let code = |of: &OnDemand, pilot, version| of.fault(pilot, version).map(|found| found.code);
        for pilot in [None, Some("on-demand")] {
            assert_eq!(code(&on_demand, pilot, "Envoy 1.40.0"), None);
        }
        assert_eq!(code(&on_demand, Some("all"), "Envoy 1.40.0"), Some(Code::OnDemandNotServed));
        assert_eq!(code(&on_demand, None, "Envoy 1.35.2"), Some(Code::OnDemandNotPossible));
        let unasked = OnDemand { asks: Some(false), ..on_demand.clone() };
        assert_eq!(code(&unasked, None, "Envoy 1.40.0"), Some(Code::OnDemandNotServed));
        let unknown = OnDemand { asks: None, ..on_demand.clone() };
        assert_eq!(code(&unknown, None, "Envoy custom"), None, "nothing shows it");

        assert!(on_demand.lacks_delta().is_none());
        let sotw = OnDemand { over_delta: false, ..on_demand };
        assert_eq!(sotw.lacks_delta().unwrap().code, Code::OnDemandNeedsDelta);
        let fallback = asked(&json!({ "DISCOVERY_FALLBACK": "it is too old" })).unwrap();
        let found = fallback.fault(Some("all"), "Envoy 1.40.0").unwrap();
        assert_eq!(found.code, Code::OnDemandNotPossible);
        assert!(found.cause.ends_with(": it is too old"), "{}", found.cause);
    }

    #[test]
    fn requests_without_a_cluster_are_noted() {
        let note = |connected, without_cluster| {
            let stats = OnDemandStats { connected, without_cluster, ..OnDemandStats::default() };
            OnDemand { stats, ..OnDemand::default() }.note()
        };
        assert_eq!(note(true, 0), None);
        assert!(
            note(true, 3)
                .unwrap()
                .starts_with("requests and connections without a cluster so far: 3")
        );
        assert!(note(false, 2).unwrap().ends_with("so far: 2"));
    }
}
