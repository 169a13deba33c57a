//! Which clusters the proxy holds: all of the mesh, or those that are called, for which Envoy asks when
//! the first request needs them. What was asked for, and what can be had. Pure.

use std::fmt;

use serde_json::{Map, Value, json};

use super::uses;
pub use crate::names::Discovery;
use crate::names::{DISCOVERY_METADATA, USES_METADATA};
use crate::sidecar::envoy_admin::ON_DEMAND_SINCE;

/// For whoever looks at the node: why `all` is in force.
const FALLBACK: &str = "DISCOVERY_FALLBACK";

/// What is in force.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterDiscovery {
    mode: Discovery,
    /// Why it is `all` although on demand was asked for.
    fallback: Option<String>,
    /// What it is to begin with, by people; then by what it used before.
    named: Vec<String>,
    remembered: Vec<String>,
}

impl ClusterDiscovery {
    pub(super) fn new(mode: Discovery, named: Vec<String>) -> Self {
        Self { mode, named, ..Self::default() }
    }

    pub(super) fn mode(&self) -> Discovery {
        self.mode
    }

    /// For the page `/discovery`.
    pub(super) fn to_json(&self) -> Value {
        json!({
            "discovery": self.mode.as_str(),
            "fallback": self.fallback,
            "named": self.named,
            "remembered": self.remembered,
        })
    }

    pub fn is_on_demand(&self) -> bool {
        self.mode == Discovery::OnDemand
    }

    /// Why it is not on demand although that was asked for.
    pub(super) fn fallback(&self) -> Option<&str> {
        self.fallback.as_deref()
    }

    pub(super) fn named(&self) -> &[String] {
        &self.named
    }

    pub(super) fn remembered(&self) -> &[String] {
        &self.remembered
    }

    pub(super) fn remember(&mut self, used: Vec<String>) {
        self.remembered = used;
    }

    /// On demand was asked for, and cannot be had: what every proxy can do is done.
    pub(super) fn fall_back(&mut self, why: String) {
        self.mode = Discovery::All;
        self.fallback = Some(why);
    }

    /// Falls back where Envoy is too old, or does not say what it is.
    pub(super) fn check_envoy(&mut self, version: Result<(u32, u32), String>) {
        let why = match version {
            Ok(version) if version >= ON_DEMAND_SINCE => return,
            Ok((major, minor)) => format!(
                "this is Envoy {major}.{minor}, and Envoy can ask for clusters on demand over ADS since \
                 {}.{}",
                ON_DEMAND_SINCE.0, ON_DEMAND_SINCE.1
            ),
            Err(error) => format!("which Envoy this is cannot be told: {error}"),
        };
        self.fall_back(why);
    }

    /// Adds what the control plane is to know. Nothing for `all`: that is what it is for a proxy that
    /// says nothing.
    pub(super) fn add_to(&self, metadata: &mut Map<String, Value>) {
        if let Some(why) = &self.fallback {
            metadata.insert(FALLBACK.to_owned(), why.as_str().into());
        }
        if !self.is_on_demand() {
            return;
        }
        metadata.insert(DISCOVERY_METADATA.to_owned(), self.mode.as_str().into());
        let uses = uses::metadata(&self.named, &self.remembered);
        if !uses.is_empty() {
            metadata.insert(USES_METADATA.to_owned(), uses.into());
        }
    }
}

impl fmt::Display for ClusterDiscovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.fallback {
            Some(why) => write!(f, "discovery {}, not on-demand: {why}", self.mode.as_str()),
            None => write!(f, "discovery {}", self.mode.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envoy_that_cannot_has_everything_and_says_why() {
        let after = |version| {
            let mut discovery = ClusterDiscovery::new(Discovery::OnDemand, vec!["a".to_owned()]);
            discovery.check_envoy(version);
            let mut metadata = Map::new();
            discovery.add_to(&mut metadata);
            (discovery.to_string(), Value::Object(metadata))
        };
        for version in [(1, 36), (1, 40), (2, 0)] {
            let wanted = json!({ "DISCOVERY": "on-demand", "USES": "a" });
            assert_eq!(after(Ok(version)), ("discovery on-demand".to_owned(), wanted));
        }
        let (said, metadata) = after(Ok((1, 35)));
        assert!(said.starts_with("discovery all, not on-demand: this is Envoy 1.35"), "{said}");
        let why = said.split_once(": ").unwrap().1;
        assert_eq!(metadata, json!({ "DISCOVERY_FALLBACK": why }));
        assert!(after(Err("no answer".to_owned())).0.ends_with("cannot be told: no answer"));
    }

    #[test]
    fn all_says_nothing() {
        let mut metadata = Map::new();
        ClusterDiscovery::new(Discovery::All, vec!["a".to_owned()]).add_to(&mut metadata);
        assert!(metadata.is_empty(), "{metadata:?}");
        assert_eq!(Discovery::parse("on-demand"), Ok(Discovery::OnDemand));
        assert!(Discovery::parse("On-Demand").unwrap_err().contains("neither all nor on-demand"));
    }
}
