//! What the replicas say as one: each has other proxies of the same workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::operator::answers::text;

/// One page of `/debug/uses`, as far as it is needed.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct UsesPage {
    pub(super) instance: String,
    #[serde(default)]
    discovery: BTreeMap<String, u64>,
    #[serde(default)]
    pub(super) matched: usize,
    #[serde(default)]
    pub(super) services_total: usize,
    services: Vec<ServiceUses>,
    #[serde(default)]
    proxies: Vec<ProxyUses>,
}

#[derive(Clone, Debug, Deserialize)]
struct ServiceUses {
    #[serde(deserialize_with = "text")]
    service: String,
    #[serde(default)]
    ports: Vec<u16>,
    workloads: Vec<Workload>,
    #[serde(default)]
    workloads_total: usize,
}

#[derive(Clone, Debug, Deserialize)]
struct Workload {
    #[serde(deserialize_with = "text")]
    workload: String,
    #[serde(default, deserialize_with = "text")]
    namespace: String,
    proxies: u64,
}

#[derive(Clone, Debug, Deserialize)]
struct ProxyUses {
    #[serde(default)]
    unknown: u64,
}

/// A workload, in no namespace if that is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Caller {
    namespace: String,
    workload: String,
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { namespace, workload } = self;
        match namespace.as_str() {
            "" => f.write_str(workload),
            namespace => write!(f, "{workload}.{namespace}"),
        }
    }
}

/// What a workload calls of a service.
#[derive(Clone, Debug, Default)]
pub(super) struct Uses {
    /// All that are called of the service, whoever does it.
    pub(super) ports: BTreeSet<u16>,
    pub(super) proxies: u64,
}

/// All of it.
#[derive(Clone, Debug, Default)]
pub(super) struct Merged {
    pub(super) discovery: BTreeMap<String, u64>,
    /// By caller and service.
    pub(super) uses: BTreeMap<(Caller, String), Uses>,
    /// Names of proxies that no replica knows a cluster for.
    pub(super) unknown: u64,
    /// Workloads that a replica has left out of the list of a service.
    pub(super) left_out: usize,
}

impl Merged {
    /// What every page of a replica says alike.
    pub(super) fn add_replica(&mut self, page: &UsesPage) {
        for (of, count) in &page.discovery {
            let sum = self.discovery.entry(of.clone()).or_default();
            *sum = sum.saturating_add(*count);
        }
    }

    pub(super) fn add_services(&mut self, page: &UsesPage) {
        for proxy in &page.proxies {
            self.unknown = self.unknown.saturating_add(proxy.unknown);
        }
        for service in &page.services {
            self.left_out += service.workloads_total.saturating_sub(service.workloads.len());
            for Workload { workload, namespace, proxies } in &service.workloads {
                let caller = Caller { namespace: namespace.clone(), workload: workload.clone() };
                let uses = self.uses.entry((caller, service.service.clone())).or_default();
                uses.proxies = uses.proxies.saturating_add(*proxies);
                uses.ports.extend(&service.ports);
            }
        }
    }
}

/// For programs.
pub(super) fn document(((caller, service), uses): (&(Caller, String), &Uses)) -> Value {
    json!({
        "workload": caller.workload,
        "namespace": Some(&caller.namespace).filter(|namespace| !namespace.is_empty()),
        "service": service,
        "ports": uses.ports,
        "proxies": uses.proxies,
    })
}
