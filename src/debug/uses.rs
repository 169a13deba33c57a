//! `/debug/uses`: who uses what. A proxy on demand names the clusters that it calls, so what is subscribed is a graph
//! of calls that nobody had to instrument. Proxies of `all` say nothing of the kind: they are counted only.
//!
//! Nothing is kept for this page: it is made of the subscriptions when somebody asks. Proxies that subscribe alike
//! share a subscription, which is looked at once; each list is bounded, and says how many were left out.

use std::collections::BTreeMap;

use serde::Serialize;

use super::proxies::State;
use super::replica::{instance, replica};
use super::response_writer::LazyList;
use super::sent::NamedClusters;
use super::{DebugError, DebugState, Parameters, ResponseWriter};
use crate::names::{self, Discovery, ResourceType};
use crate::proxies::{ProxyStatus, XdsStream};
use graph::{Called, Caller, Graph, ServiceCalls};

mod graph;
mod workload;

/// Workloads that are named of a Service, and Services of a proxy.
const MAX_LISTED: usize = 100;
/// Proxies that are named of a Service, and names of a proxy that nobody knows.
const MAX_EXAMPLES: usize = 20;

#[derive(Serialize)]
struct Page<S, N, P> {
    replica: &'static str,
    instance: &'static str,
    /// How many proxies there are, by how they get their clusters.
    discovery: BTreeMap<&'static str, usize>,
    /// Proxies on demand that the filters leave.
    matched: usize,
    services_total: usize,
    services_left_out: usize,
    services: S,
    namespaces_total: usize,
    namespaces_left_out: usize,
    namespaces: N,
    proxies_left_out: usize,
    proxies: P,
}

/// Who calls a Service.
#[derive(Serialize)]
struct ServiceUses<'a> {
    /// `NAME.NAMESPACE`; of what is no Service, its host.
    service: String,
    namespace: Option<&'a str>,
    /// That are called.
    ports: &'a [u16],
    proxies: usize,
    workloads_total: usize,
    /// Those with the most proxies first.
    workloads: Vec<WorkloadUses<'a>>,
    /// The first of the proxies.
    examples: Vec<&'a str>,
}

#[derive(Serialize)]
struct WorkloadUses<'a> {
    workload: &'a str,
    namespace: Option<&'a str>,
    proxies: usize,
}

/// Calls from one namespace into another, or within one.
#[derive(Serialize)]
struct NamespaceUses<'a> {
    from: Option<&'a str>,
    to: Option<&'a str>,
    proxies: usize,
    services: usize,
}

/// What a proxy calls.
#[derive(Serialize)]
struct ProxyUses<'a> {
    /// As in `/debug/proxies`.
    key: String,
    name: &'a str,
    namespace: Option<&'a str>,
    workload: &'a str,
    /// Of its clusters. One that is NOT SENT or STALE may wait for the answer to a name.
    state: State,
    #[serde(flatten)]
    clusters: NamedClusters,
    /// The first of the unknown ones.
    unknown_names: Vec<&'a str>,
    /// What it said that it uses (metadata `USES`), and what was nothing when its stream began.
    uses_unknown: &'a [Box<str>],
    services_total: usize,
    services: Vec<String>,
}

/// Which proxies and Services are wanted.
struct Filter<'a> {
    service: Option<&'a str>,
    proxy: Option<&'a str>,
    namespace: Option<&'a str>,
}

impl Filter<'_> {
    fn fits_proxy(&self, name: &str, namespace: Option<&str>) -> bool {
        self.proxy.is_none_or(|wanted| name.contains(wanted))
            && self.namespace.is_none_or(|wanted| namespace == Some(wanted))
    }
}

/// Whether it is meant by this: `NAME.NAMESPACE`, `NAMESPACE/NAME`, or the host.
fn is_called(called: &Called, wanted: &str, domain: &str) -> bool {
    let Some(namespace) = &called.namespace else { return wanted == &*called.name };
    let pair = names::service_of_host(wanted, domain)
        .or_else(|| wanted.split_once('/').map(|(namespace, name)| (name, namespace)))
        .or_else(|| wanted.split_once('.'));
    pair == Some((&*called.name, &**namespace))
}

/// The page.
pub(super) fn uses(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let (offset, limit) = parameters.range()?;
    let filter = Filter {
        service: parameters.get("service"),
        proxy: parameters.get("proxy"),
        namespace: parameters.get("namespace"),
    };
    let mut discovery =
        BTreeMap::from([Discovery::All, Discovery::OnDemand].map(|of| (of.as_str(), 0)));
    let mut callers = Vec::new();
    for stream in state.proxies.all() {
        let caller = stream.read(|status| {
            let identity = status.identity.as_ref().filter(|identity| !identity.probe)?;
            let of = identity.view.kind.discovery();
            *discovery.entry(of.as_str()).or_default() += 1;
            let wanted = of == Discovery::OnDemand
                && filter.fits_proxy(&identity.name, identity.view.namespace.as_deref());
            wanted.then(|| caller(&stream, status)).flatten()
        });
        callers.extend(caller);
    }
    callers.sort_by(|one, other| one.name.cmp(&other.name).then(one.id.cmp(&other.id)));
    let mut graph = Graph::new(callers, &state.domain);
    if let Some(wanted) = filter.service {
        graph.retain_services(|called| is_called(called, wanted, &state.domain));
    }
    let (services, namespaces) = (graph.services(), graph.namespaces());
    let mut in_order: Vec<_> =
        services.iter().map(|(id, calls)| (graph.called(*id), calls)).collect();
    in_order.sort_by_key(|(called, _)| *called);
    let shown = |total: usize| total.saturating_sub(offset).min(limit);
    let (services_total, namespaces_total, matched) =
        (services.len(), namespaces.len(), graph.callers.len());
    let (in_order, between) = (in_order.into_iter(), namespaces.iter());
    writer.json(&Page {
        replica: replica(),
        instance: instance(),
        discovery,
        matched,
        services_total,
        services_left_out: services_total - shown(services_total),
        services: lazy(in_order.skip(offset).take(limit), |(called, calls)| {
            service_uses(&graph, called, calls)
        }),
        namespaces_total,
        namespaces_left_out: namespaces_total - shown(namespaces_total),
        namespaces: lazy(between.skip(offset).take(limit), |((from, to), counts)| NamespaceUses {
            from: from.as_deref(),
            to: to.as_deref(),
            proxies: counts.proxies,
            services: counts.services,
        }),
        proxies_left_out: matched - shown(matched),
        proxies: lazy(graph.callers.iter().skip(offset).take(limit), |caller| {
            proxy_uses(&graph, caller)
        }),
    })
}

/// Entries are copied, so that what is made of one may hold what it points to.
fn lazy<T: Copy, R>(
    entries: impl Iterator<Item = T>,
    make: impl Fn(T) -> R,
) -> LazyList<T, impl Fn(&T) -> R> {
    LazyList(entries.collect(), move |entry: &T| make(*entry))
}

fn service_uses<'a>(
    graph: &'a Graph,
    called: &'a Called,
    calls: &'a ServiceCalls,
) -> ServiceUses<'a> {
    let mut workloads: Vec<_> = calls.workloads.iter().collect();
    workloads.sort_by(|(a, one), (b, other)| other.cmp(one).then(a.cmp(b)));
    let examples = calls.proxies.iter().take(MAX_EXAMPLES);
    ServiceUses {
        service: called.to_string(),
        namespace: called.namespace.as_deref(),
        ports: &calls.ports,
        proxies: calls.proxies.len(),
        workloads_total: workloads.len(),
        workloads: workloads
            .into_iter()
            .take(MAX_LISTED)
            .map(|((namespace, workload), proxies)| WorkloadUses {
                workload,
                namespace: namespace.as_deref(),
                proxies: *proxies,
            })
            .collect(),
        examples: examples.map(|at| &*graph.callers[*at].name).collect(),
    }
}

fn proxy_uses<'a>(graph: &'a Graph, caller: &'a Caller) -> ProxyUses<'a> {
    let uses = graph.uses_of(caller);
    let mut services: Vec<_> = uses.services().into_iter().map(|id| graph.called(id)).collect();
    services.sort_unstable();
    let listed = services.iter().take(MAX_LISTED);
    ProxyUses {
        key: caller.id.to_string(),
        name: &caller.name,
        namespace: caller.namespace.as_deref(),
        workload: &caller.workload,
        state: caller.state,
        clusters: uses.counts,
        unknown_names: uses.unknown_names.iter().map(|name| &**name).collect(),
        uses_unknown: caller.said.as_ref().map(|said| said.unknown()).unwrap_or_default(),
        services_total: services.len(),
        services: listed.map(ToString::to_string).collect(),
    }
}

/// `None` for a stream that asks for no clusters.
fn caller(stream: &XdsStream, status: &ProxyStatus) -> Option<Caller> {
    let identity = status.identity.as_ref()?;
    let clusters = &status.types[ResourceType::Cluster.index()];
    Some(Caller {
        id: stream.id,
        name: identity.name.clone(),
        namespace: identity.view.namespace.clone(),
        workload: workload::workload(identity).into(),
        state: State::of_type(clusters),
        said: identity.uses.clone(),
        subscription: clusters.subscription.clone()?,
        set: clusters.set.clone(),
    })
}
