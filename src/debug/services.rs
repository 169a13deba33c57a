//! `/debug/services`: the services, each endpoint with the reason why proxies are not sent it, and what a proxy of
//! a given namespace and zone is sent.
//!
//! What is sent is read from the published snapshot, not worked out again: it is what proxies get.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::address::Address;
use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use pilothouse_xds::View;
use prost::Message as _;
use serde::Serialize;
use serde_json::{Value, json};

use super::routes::rules::{Named, rules_of_service};
use super::{DebugError, DebugState, Parameters, ResponseWriter, proxies};
use crate::model::{
    Endpoint, EndpointState, Model, Service, ServiceKey, ServiceKind, ServicePort, TargetPort,
};
use crate::names::{self, ResourceType};
use crate::proxies::XdsStream;
use crate::snapshot::Snapshot;
use crate::view::ViewKey;

/// Proxies that are named as lagging.
const MAX_LAGGING: usize = 20;
/// Endpoints that are listed; a service of more is one that nobody reads to its end.
const MAX_ENDPOINTS: usize = 2000;

#[derive(Serialize)]
struct Line<'a> {
    namespace: &'a str,
    name: &'a str,
    host: String,
    ports: usize,
    endpoints: usize,
    ready: usize,
}

/// All services, by namespace and name.
pub(super) fn services(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let model = state.model();
    let (offset, limit) = parameters.range()?;
    let search = parameters.get("search").map(str::to_lowercase);
    let host = |key: &ServiceKey| names::host(&key.name, &key.namespace, &state.domain);
    let fits = |key: &ServiceKey| {
        search
            .as_deref()
            .is_none_or(|part| host(key).contains(part) || key.to_string().contains(part))
    };
    let matched: Vec<_> = model.services().filter(|service| fits(&service.key)).collect();
    let shown = matched.iter().skip(offset).take(limit);
    let lines: Vec<_> = shown
        .map(|service| {
            let key = &service.key;
            let (endpoints, ready) = counts(&model, key);
            let (namespace, name) = (&*key.namespace, &*key.name);
            Line { namespace, name, host: host(key), ports: service.ports.len(), endpoints, ready }
        })
        .collect();
    writer.json(&json!({
        "total": model.service_count(),
        "matched": matched.len(),
        "services": lines,
    }))
}

/// Different addresses, and how many of them are ready.
fn counts(model: &Model, key: &ServiceKey) -> (usize, usize) {
    let (mut all, mut ready) = (BTreeSet::new(), BTreeSet::new());
    for subset in model.slices(key).flat_map(|slice| &slice.subsets) {
        for endpoint in &subset.endpoints {
            all.insert(endpoint.address);
            if endpoint.state == EndpointState::Ready {
                ready.insert(endpoint.address);
            }
        }
    }
    (all.len(), ready.len())
}

/// One service.
pub(super) fn service(
    state: &DebugState,
    parameters: &Parameters,
    writer: &mut ResponseWriter,
) -> Result<(), DebugError> {
    let part = |name| parameters.get(name).unwrap_or_default();
    let key = ServiceKey::new(part("namespace"), part("name"));
    let model = state.model();
    let service = model.service(&key);
    if service.is_none() && model.slices(&key).next().is_none() {
        return Err(DebugError::NoService(key.to_string()));
    }
    let (snapshot, report) = (state.snapshot(), state.routes());
    let from = parameters.get("from").unwrap_or(&key.namespace);
    let view = snapshot.as_ref().and_then(|one| nearest_view(one, from, parameters.get("zone")));
    let host = names::host(&key.name, &key.namespace, &state.domain);
    let subject = Subject { model: &model, key: &key, service, host: &host, from, view };
    let mut lagging = lagging(state, snapshot.as_deref(), service, &host);
    lagging.sort_unstable();
    let lagging_total = lagging.len();
    lagging.truncate(MAX_LAGGING);
    let lagging: Vec<_> = lagging.iter().map(|name| &**name).collect();
    let (endpoints, endpoints_total) = subject.endpoints();
    writer.json(&json!({
        "namespace": &*key.namespace,
        "name": &*key.name,
        "host": host,
        "exists": service.is_some(),
        "kind": service.map(|service| kind(&service.kind)),
        "addresses": service.map(|service| service.cluster_ips()).unwrap_or_default(),
        "resource_version": service.map(|one| &*one.resource_version).filter(|text| !text.is_empty()),
        "ports": subject.ports(),
        "rules": rules_of_service(&model, &report, &Named::of_service(&report, &key), &key),
        "flaws": service.map(|one| flaws(&model, one, &state.domain)).unwrap_or_default(),
        "endpoints": endpoints,
        "endpoints_total": endpoints_total,
        "from": from,
        "zone": parameters.get("zone"),
        "view": view.map(|(key, _)| key.to_string()),
        "exact": view.is_some_and(|(key, _)| is_of(key, from, parameters.get("zone"))),
        "sent": subject.sent(),
        "lagging": lagging,
        "lagging_total": lagging_total,
    }))
}

fn kind(kind: &ServiceKind) -> &'static str {
    match kind {
        ServiceKind::ClusterIp(_) => "ClusterIP",
        ServiceKind::Headless => "headless",
        ServiceKind::ExternalName(_) | ServiceKind::Alias(_) => "ExternalName",
    }
}

fn flaws(model: &Model, service: &Arc<Service>, domain: &str) -> Vec<Value> {
    let resolved = model.resolved(&service.key, domain);
    let flaws = resolved.as_ref().unwrap_or(service).flaws.iter();
    flaws.map(|flaw| json!({ "field": &*flaw.field, "reason": &*flaw.reason })).collect()
}

fn is_of(key: &ViewKey, namespace: &str, zone: Option<&str>) -> bool {
    key.namespace.as_deref() == Some(namespace)
        && zone.is_none_or(|zone| key.zone.as_deref() == Some(zone))
}

/// The view of proxies there; if nobody is there, that of others in the namespace, then any.
fn nearest_view<'a>(
    snapshot: &'a Snapshot,
    namespace: &str,
    zone: Option<&str>,
) -> Option<(&'a ViewKey, &'a View)> {
    let rank = |key: &ViewKey| (!is_of(key, namespace, zone), !is_of(key, namespace, None));
    let nearest = snapshot.views.iter().min_by(|(a, _), (b, _)| (rank(a), a).cmp(&(rank(b), b)));
    nearest.map(|(key, view)| (key, &**view))
}

/// What is asked about.
struct Subject<'a> {
    model: &'a Model,
    key: &'a ServiceKey,
    service: Option<&'a Arc<Service>>,
    host: &'a str,
    /// The namespace of the proxy.
    from: &'a str,
    view: Option<(&'a ViewKey, &'a View)>,
}

impl Subject<'_> {
    fn service_ports(&self) -> &[ServicePort] {
        self.service.map(|service| &*service.ports).unwrap_or_default()
    }

    fn ports(&self) -> Vec<Value> {
        let ports = self.service_ports().iter();
        ports
            .map(|port| {
                json!({
                    "name": &*port.name,
                    "port": port.port,
                    "protocol": port.protocol.as_str(),
                    "target_port": self.service.map(|one| match one.about.target_port(port.port) {
                        TargetPort::Number(number) => json!(number),
                        TargetPort::Name(name) => json!(&*name),
                    }),
                    "cluster": names::outbound_cluster(port.port, self.host),
                })
            })
            .collect()
    }

    /// Every endpoint of every slice, and how many there are.
    fn endpoints(&self) -> (Vec<Value>, usize) {
        let served: Vec<_> =
            self.service_ports().iter().map(|port| (&*port.name, self.served(port))).collect();
        let mut all = Vec::new();
        for slice in self.model.slices(self.key) {
            for subset in &slice.subsets {
                for port in &subset.ports {
                    let of_port = served.iter().find(|(name, _)| *name == &*port.name);
                    for endpoint in &subset.endpoints {
                        let served = of_port.map(|(_, addresses)| {
                            addresses
                                .as_ref()
                                .is_some_and(|own| own.contains(&(endpoint.address, port.port)))
                        });
                        let is_served = served == Some(true);
                        let reason = (!is_served).then(|| match served {
                            Some(_) => self.reason(endpoint),
                            None if self.service.is_none() => {
                                "there is no Service of this name".to_owned()
                            }
                            None => format!("the Service has no port named {:?}", &*port.name),
                        });
                        all.push((endpoint, port, &slice.name, is_served, reason));
                    }
                }
            }
        }
        all.sort_by_key(|(endpoint, port, ..)| (endpoint.address, port.port));
        let total = all.len();
        let shown = all.into_iter().take(MAX_ENDPOINTS);
        let shown = shown.map(|(endpoint, port, slice, served, reason)| {
            json!({
                "address": endpoint.address,
                "port": port.port,
                "port_name": &*port.name,
                "state": match endpoint.state {
                    EndpointState::Ready => "ready",
                    EndpointState::Draining => "terminating",
                    EndpointState::NotReady => "not ready",
                },
                "zone": endpoint.zone.as_deref(),
                "node": endpoint.node.as_deref(),
                "pod": endpoint.pod_name.as_deref(),
                "slice": &**slice,
                "served": served,
                "reason": reason,
            })
        });
        (shown.collect(), total)
    }

    /// The addresses that the view has for a port; none if it has no such cluster.
    fn served(&self, port: &ServicePort) -> Option<BTreeSet<(IpAddr, u16)>> {
        let name = names::outbound_cluster(port.port, self.host);
        let resource = self.view?.1.set(ResourceType::Endpoint).get(&name)?;
        let assignment = ClusterLoadAssignment::decode(resource.value()).ok()?;
        let endpoints = assignment.endpoints.iter().flat_map(|locality| &locality.lb_endpoints);
        let addresses = endpoints.filter_map(|one| match &one.host_identifier {
            Some(HostIdentifier::Endpoint(endpoint)) => Some(endpoint),
            _ => None,
        });
        let addresses = addresses.flat_map(|endpoint| {
            let second = endpoint.additional_addresses.iter().map(|one| one.address.as_ref());
            std::iter::once(endpoint.address.as_ref()).chain(second)
        });
        let place = |address: &Address| match address {
            Address::SocketAddress(socket) => match socket.port_specifier {
                Some(PortSpecifier::PortValue(port)) => {
                    Some((socket.address.parse().ok()?, u16::try_from(port).ok()?))
                }
                _ => None,
            },
            _ => None,
        };
        Some(addresses.flatten().filter_map(|one| place(one.address.as_ref()?)).collect())
    }

    /// Why an endpoint of a port that the Service has is not sent.
    fn reason(&self, endpoint: &Endpoint) -> String {
        let service = self.service;
        let Some((view, _)) = self.view else {
            return "no proxy is connected, so nothing is sent to anybody".to_owned();
        };
        if service.is_some_and(|one| !one.export_to.reaches(view.namespace.as_deref())) {
            return format!("the Service is not exported to namespace {}", self.from);
        }
        match endpoint.state {
            EndpointState::NotReady => return "it is not ready".to_owned(),
            EndpointState::Draining => {
                return "it is terminating, and others are ready".to_owned();
            }
            EndpointState::Ready => {}
        }
        if service.is_some_and(|one| one.node_local) && endpoint.node != view.node {
            return "it is on another node, and internalTrafficPolicy is Local".to_owned();
        }
        match service.map(|one| &one.kind) {
            Some(ServiceKind::ExternalName(_) | ServiceKind::Alias(_)) => {
                "the Service is an ExternalName, which has no endpoints of its own".to_owned()
            }
            _ => "endpoints of the other IP family come first, or proxies of this sort have no such cluster"
                .to_owned(),
        }
    }

    /// The clusters, listeners and virtual hosts in the view that are made of the service.
    fn sent(&self) -> Value {
        let Some((_, view)) = self.view else { return Value::Null };
        let [clusters, _, listeners, routes] = ResourceType::IN_ORDER.map(|of| view.set(of));
        let ports = self.service_ports();
        let own = ports.iter().map(|port| names::outbound_cluster(port.port, self.host));
        let own: Vec<_> = own.filter(|name| clusters.get(name).is_some()).collect();
        let addresses = self.service.map(|one| one.cluster_ips()).unwrap_or_default();
        let mut led = BTreeSet::new();
        let mut tables = Vec::new();
        for port in ports {
            let by_address = addresses.iter().map(|address| names::listener(*address, port.port));
            led.extend(by_address.chain([names::wildcard_listener(port.port)]));
            for table in [names::route_table(port.port), names::STANDALONE_TABLE.to_owned()] {
                let Some(resource) = routes.get(&table) else { continue };
                let Ok(config) = RouteConfiguration::decode(resource.value()) else { continue };
                let wanted = names::virtual_host(self.host, port.port);
                let hosts = config.virtual_hosts.into_iter().filter(|host| host.name == wanted);
                tables.extend(hosts.map(|host| {
                    json!({ "table": table, "virtual_host": host.name, "domains": host.domains })
                }));
            }
        }
        led.retain(|name| listeners.get(name).is_some());
        json!({ "clusters": own, "listeners": led, "routes": tables })
    }
}

/// The proxies that do not have the newest of this service: it was not sent yet, or not acknowledged, or rejected.
fn lagging(
    state: &DebugState,
    snapshot: Option<&Snapshot>,
    service: Option<&Arc<Service>>,
    host: &str,
) -> Vec<Arc<str>> {
    let (Some(snapshot), Some(service)) = (snapshot, service) else { return Vec::new() };
    let clusters: Vec<_> =
        service.ports.iter().map(|port| names::outbound_cluster(port.port, host)).collect();
    let lags = |stream: &Arc<XdsStream>| {
        stream.read(|status| {
            let identity = status.identity.as_ref().filter(|identity| !identity.probe)?;
            let view = status.assigned.as_ref().and_then(|assigned| assigned.view())?;
            let newest = snapshot.views.get(&view)?;
            let is_behind = [ResourceType::Cluster, ResourceType::Endpoint].into_iter().any(|of| {
                let own = &status.types[of.index()];
                let Some(subscription) = &own.subscription else { return false };
                let mut wanted =
                    clusters.iter().filter(|name| subscription.wants_in(newest.set(of), name));
                let answered = proxies::State::of_type(own) == proxies::State::Synced;
                wanted.any(|name| {
                    let newest = newest.set(of).get(name).map(|one| one.version);
                    let sent = own.set.as_ref().and_then(|set| set.get(name));
                    sent.map(|one| one.version) != newest || !answered
                })
            });
            is_behind.then(|| identity.name.clone())
        })
    };
    state.proxies.all().iter().filter_map(lags).collect()
}
