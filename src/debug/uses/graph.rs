//! Who calls whom, made of the subscriptions of proxies on demand. Pure.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::sync::Arc;

use pilothouse_xds::{Resource, Subscription, TypeSet};

use super::MAX_EXAMPLES;
use crate::debug::proxies::State;
use crate::debug::sent::{Counter, NamedClusters};
use crate::names::{self, ClusterName};

type Namespace = Option<Arc<str>>;

/// A proxy on demand.
pub(super) struct Caller {
    pub(super) id: u64,
    pub(super) name: Arc<str>,
    pub(super) namespace: Namespace,
    pub(super) workload: Arc<str>,
    pub(super) state: State,
    /// What it has said of itself.
    pub(super) said: Option<Arc<crate::proxies::Uses>>,
    pub(super) subscription: Arc<Subscription>,
    /// `None` before its first response.
    pub(super) set: Option<Arc<TypeSet>>,
}

/// A Service that clusters lead to, or a host of another sort.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Called {
    pub(super) namespace: Namespace,
    pub(super) name: Arc<str>,
}

impl fmt::Display for Called {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, ".{namespace}"))
    }
}

/// What a subscription means against a set.
pub(super) struct Uses {
    /// Services by number, with ports. Sorted, each once.
    called: Box<[(u32, u16)]>,
    pub(super) counts: NamedClusters,
    /// The first of them.
    pub(super) unknown_names: Box<[Arc<str>]>,
}

impl Uses {
    /// Each once.
    pub(super) fn services(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.called.iter().map(|(service, _)| *service).collect();
        all.dedup();
        all
    }
}

/// What is called of a Service, and by whom.
#[derive(Default)]
pub(super) struct ServiceCalls {
    pub(super) ports: Vec<u16>,
    /// Places among the callers.
    pub(super) proxies: Vec<usize>,
    pub(super) workloads: BTreeMap<(Namespace, Arc<str>), usize>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct NamespaceCounts {
    pub(super) proxies: usize,
    pub(super) services: usize,
}

/// All of it.
pub(super) struct Graph {
    pub(super) callers: Vec<Caller>,
    called: Vec<Called>,
    /// By the place of the subscription, which the callers keep, and the number of the set.
    uses: HashMap<(usize, u64), Uses>,
}

impl Graph {
    pub(super) fn new(callers: Vec<Caller>, domain: &str) -> Self {
        let mut reader = Reader::new(domain);
        let mut uses = HashMap::new();
        for caller in &callers {
            uses.entry(key(caller)).or_insert_with(|| reader.read(caller));
        }
        Self { callers, called: reader.called, uses }
    }

    /// Leaves these Services, and the callers of one of them.
    pub(super) fn retain_services(&mut self, is_wanted: impl Fn(&Called) -> bool) {
        let wanted: Vec<bool> = self.called.iter().map(is_wanted).collect();
        for uses in self.uses.values_mut() {
            let kept = uses.called.iter().filter(|(service, _)| wanted[*service as usize]);
            uses.called = kept.copied().collect();
        }
        let uses = &self.uses;
        self.callers.retain(|caller| !uses[&key(caller)].called.is_empty());
    }

    pub(super) fn called(&self, service: u32) -> &Called {
        &self.called[service as usize]
    }

    pub(super) fn uses_of(&self, caller: &Caller) -> &Uses {
        &self.uses[&key(caller)]
    }

    /// By the number of the Service.
    pub(super) fn services(&self) -> HashMap<u32, ServiceCalls> {
        let mut all: HashMap<u32, ServiceCalls> = HashMap::new();
        for (at, caller) in self.callers.iter().enumerate() {
            let uses = self.uses_of(caller);
            for service in uses.services() {
                let calls = all.entry(service).or_default();
                calls.proxies.push(at);
                let workload = (caller.namespace.clone(), caller.workload.clone());
                *calls.workloads.entry(workload).or_default() += 1;
            }
        }
        let mut ports: BTreeSet<(u32, u16)> = BTreeSet::new();
        for uses in self.uses.values() {
            ports.extend(&uses.called);
        }
        for (service, port) in ports {
            if let Some(calls) = all.get_mut(&service) {
                calls.ports.push(port);
            }
        }
        all
    }

    /// From which namespace into which, and how much.
    pub(super) fn namespaces(&self) -> BTreeMap<(Namespace, Namespace), NamespaceCounts> {
        let mut all: BTreeMap<(Namespace, Namespace), (usize, BTreeSet<u32>)> = BTreeMap::new();
        for caller in &self.callers {
            let services = self.uses_of(caller).services();
            let mut met = BTreeSet::new();
            for service in services {
                let to = &self.called(service).namespace;
                let (proxies, called) =
                    all.entry((caller.namespace.clone(), to.clone())).or_default();
                called.insert(service);
                *proxies += usize::from(met.insert(to.clone()));
            }
        }
        let counts = |(proxies, services): (usize, BTreeSet<u32>)| NamespaceCounts {
            proxies,
            services: services.len(),
        };
        all.into_iter().map(|(between, found)| (between, counts(found))).collect()
    }
}

fn key(caller: &Caller) -> (usize, u64) {
    (Arc::as_ptr(&caller.subscription).addr(), caller.set.as_ref().map_or(0, |set| set.id()))
}

/// Reads subscriptions, and gives each Service a number.
struct Reader<'a> {
    domain: &'a str,
    counter: Counter,
    called: Vec<Called>,
    numbers: HashMap<Called, u32>,
    /// Names that were met, most of them many times.
    by_name: HashMap<Arc<str>, Option<(u32, u16)>>,
}

impl<'a> Reader<'a> {
    fn new(domain: &'a str) -> Self {
        let (numbers, by_name) = (HashMap::new(), HashMap::new());
        Self { domain, counter: Counter::default(), called: Vec::new(), numbers, by_name }
    }

    fn read(&mut self, caller: &Caller) -> Uses {
        let subscription = &caller.subscription;
        let Some(set) = &caller.set else {
            let counts = NamedClusters { subscribed: subscription.len(), ..Default::default() };
            return Uses { called: Box::default(), counts, unknown_names: Box::default() };
        };
        let (mut met, mut unknown) = (Vec::new(), Vec::new());
        let counts = self.counter.named_in(set, subscription, |name, resource| match resource {
            Some(resource) => met.push(resource.clone()),
            None if unknown.len() < MAX_EXAMPLES => unknown.push(name.clone()),
            None => {}
        });
        let called: BTreeSet<_> = met.iter().filter_map(|one| self.service(one)).collect();
        let called = called.into_iter().collect();
        Uses { called, counts, unknown_names: unknown.into() }
    }

    /// The Service, and its port, that a cluster leads to.
    fn service(&mut self, resource: &Resource) -> Option<(u32, u16)> {
        if let Some(known) = self.by_name.get(&resource.name) {
            return *known;
        }
        let found = self.read_name(resource);
        self.by_name.insert(resource.name.clone(), found);
        found
    }

    fn read_name(&mut self, resource: &Resource) -> Option<(u32, u16)> {
        let canonical = names::is_of_address(&resource.name)
            .then(|| names::service_cluster(resource))
            .flatten();
        let name = canonical.as_deref().unwrap_or(&resource.name);
        let ClusterName::Outbound { port, host } = ClusterName::parse(name)? else { return None };
        let called = match names::service_of_host(host, self.domain) {
            Some((name, namespace)) => {
                Called { namespace: Some(namespace.into()), name: name.into() }
            }
            None => Called { namespace: None, name: host.into() },
        };
        if let Some(number) = self.numbers.get(&called) {
            return Some((*number, port));
        }
        let number = u32::try_from(self.called.len()).ok()?;
        self.called.push(called.clone());
        self.numbers.insert(called, number);
        Some((number, port))
    }
}
