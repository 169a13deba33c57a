//! The builder: whatever the order in which things came, what is published follows from how things
//! are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use pilothouse_xds::View;
use prost::Message;

use super::SnapshotBuilder;
use super::service_index::MeshChanges;
use crate::model::route::RouteReport;
use crate::model::{
    Change, Dirty, Endpoint, EndpointSlice, EndpointState, ExportTo, Model, Protocol, Service,
    ServiceKey, ServiceKind, ServicePort, SlicePort, Subset,
};
use crate::names::ResourceType;
use crate::snapshot::Snapshot;
use crate::view::{InboundPort, InboundProtocol, ProxyKind, ViewKey};

mod aliases;
mod inbound_ports;

mod node_local;
mod on_demand;
mod random;
mod random_routes;
mod routes;
mod view_assigner;
mod view_requests;
mod visibility;
mod without_routes;
mod zones;

const DOMAIN: &str = "cluster.local";

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey::new(namespace, name)
}

fn service(key: &ServiceKey, kind: ServiceKind, ports: &[(u16, Protocol)]) -> Service {
    let port = |&(port, protocol): &(u16, Protocol)| ServicePort {
        name: format!("p{port}").into(),
        port,
        protocol,
    };
    Service::new(key.clone(), kind, ports.iter().map(port).collect())
}

fn at(addresses: &[&str]) -> ServiceKind {
    ServiceKind::ClusterIp(addresses.iter().map(|text| text.parse().unwrap()).collect())
}

fn slice(key: &ServiceKey, name: &str, ports: &[u16], hosts: &[u8]) -> EndpointSlice {
    let ports = ports
        .iter()
        .map(|port| SlicePort { name: format!("p{port}").into(), port: port + 8000 })
        .collect();
    let endpoint = |host: &u8| Endpoint::new(IpAddr::from([10, 0, 0, *host]), EndpointState::Ready);
    let endpoints = hosts.iter().map(endpoint).collect();
    EndpointSlice {
        name: name.into(),
        service: key.clone(),
        subsets: vec![Subset { ports, endpoints }],
    }
}

fn views() -> Vec<ViewKey> {
    let standalone = |port| ProxyKind::Standalone { address: [127, 0, 0, 1].into(), port };
    [
        (ProxyKind::Sidecar, Some("one")),
        (ProxyKind::Sidecar, Some("two")),
        (ProxyKind::Sidecar, Some("nobody")),
        (ProxyKind::BOUND, Some("one")),
        (ProxyKind::Router, None),
        (ProxyKind::DEFAULT_STANDALONE, None),
        (standalone(80), Some("two")),
    ]
    .into_iter()
    .map(|(kind, namespace)| ViewKey::new(kind, namespace))
    .chain([with_inbound("one", &[8080]), with_inbound("two", &[8080, 8090])])
    .chain([Some("a"), None].map(|zone| ViewKey {
        zone: zone.map(Into::into),
        node: Some("n1".into()),
        ..ViewKey::new(ProxyKind::Sidecar, Some("one"))
    }))
    .chain([Some("one"), Some("two"), None].map(|namespace| ViewKey {
        zone: Some("a".into()),
        ..ViewKey::new(ProxyKind::Sidecar, namespace)
    }))
    .collect()
}

/// Those of on-demand sidecars, which a mesh of others does not have.
fn on_demand_views() -> Vec<ViewKey> {
    let of_sidecars = views().into_iter().filter(|view| view.kind == ProxyKind::Sidecar);
    of_sidecars.map(|view| ViewKey { kind: ProxyKind::OnDemandSidecar, ..view }).collect()
}

fn every_view() -> Vec<ViewKey> {
    views().into_iter().chain(on_demand_views()).collect()
}

/// A sidecar's, with these HTTP ports.
fn with_inbound(namespace: &str, ports: &[u16]) -> ViewKey {
    let port = |port: &u16| InboundPort::new(*port, InboundProtocol::Http);
    let inbound = ports.iter().map(port).collect();
    ViewKey { inbound, ..ViewKey::new(ProxyKind::Sidecar, Some(namespace)) }
}

/// A model and a builder that follows it.
struct Mesh {
    model: Model,
    builder: SnapshotBuilder,
    dirty: Dirty,
}

impl Mesh {
    fn new() -> Self {
        Self {
            model: Model::default(),
            builder: SnapshotBuilder::new(DOMAIN),
            dirty: Dirty::default(),
        }
    }

    fn with_changes(changes: Vec<Change>) -> Self {
        let mut mesh = Self::new();
        changes.into_iter().for_each(|change| mesh.apply(change));
        mesh
    }

    fn apply(&mut self, change: Change) {
        self.model.apply(change, &mut self.dirty);
    }

    fn update(&mut self) {
        let dirty = std::mem::take(&mut self.dirty);
        self.builder.update(&self.model, &dirty);
    }

    fn snapshot(&mut self, views: &[ViewKey]) -> Snapshot {
        self.update();
        self.builder.snapshot(views)
    }

    fn view(&mut self, kind: ProxyKind, namespace: Option<&str>) -> Arc<View> {
        let key = ViewKey::new(kind, namespace);
        self.snapshot(std::slice::from_ref(&key)).views[&key].clone()
    }

    /// What a builder makes that sees everything at once, as it is now.
    fn built_at_once(&self, views: &[ViewKey]) -> (Snapshot, RouteReport) {
        let mut builder = SnapshotBuilder::new(DOMAIN);
        builder.update(&self.model, &Dirty::everything_in(&self.model));
        (builder.snapshot(views), builder.route_report().clone())
    }
}

/// Every resource of every view, with its version.
fn content(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, view) in &snapshot.views {
        for of in ResourceType::IN_ORDER {
            let set = view.set(of);
            lines.push(format!("{key}: {} {} {}", of.short(), set.version(), set.bytes()));
            let one = |one: &Arc<pilothouse_xds::Resource>| {
                format!("{key}: {} {} {}", of.short(), one.name, one.version)
            };
            lines.extend(set.iter().map(one));
        }
    }
    lines.sort();
    lines
}

fn names(view: &View, of: ResourceType) -> Vec<&str> {
    view.set(of).iter().map(|one| &*one.name).collect()
}

fn table(view: &View, name: &str) -> RouteConfiguration {
    let resource = view.set(ResourceType::Route).get(name).expect("the table");
    RouteConfiguration::decode(resource.value()).unwrap()
}

/// Every domain of a table, in order.
fn domains(view: &View, name: &str) -> Vec<String> {
    let mut all: Vec<_> =
        table(view, name).virtual_hosts.into_iter().flat_map(|host| host.domains).collect();
    all.sort();
    all
}

// === make before break ===

#[test]
fn a_cluster_outlives_its_routes() {
    let web = key("one", "web");
    let mut mesh = Mesh::with_changes(vec![
        Change::Service(service(&web, at(&["10.1.0.1"]), &[(80, Protocol::Http)])),
        Change::Slice(slice(&web, "web-1", &[80], &[1])),
    ]);
    let cluster = "outbound|80||web.one.svc.cluster.local";
    let before = mesh.view(ProxyKind::Sidecar, None);
    assert!(names(&before, ResourceType::Route).contains(&"80"));
    mesh.apply(Change::ServiceGone(web.clone()));
    mesh.apply(Change::SliceGone { namespace: "one".into(), name: "web-1".into() });
    let after = mesh.view(ProxyKind::Sidecar, None);
    assert!(!names(&after, ResourceType::Route).contains(&"80"), "routes go at once");
    assert!(names(&after, ResourceType::Cluster).contains(&cluster), "the cluster stays");
    let endpoints = |view: &View| view.set(ResourceType::Endpoint).get(cluster).cloned();
    assert_eq!(endpoints(&before), endpoints(&after), "with its endpoints");
    mesh.builder.remove_until(u64::MAX);
    let last = mesh.view(ProxyKind::Sidecar, None);
    assert!(!names(&last, ResourceType::Cluster).contains(&cluster));
    assert!(names(&last, ResourceType::Endpoint).is_empty());
}

#[test]
fn every_cluster_lingers_as_long_after_its_own_routes() {
    let http =
        |name: &str| Change::Service(service(&key("one", name), at(&[]), &[(80, Protocol::Http)]));
    let mut mesh = Mesh::with_changes(vec![http("a"), http("b")]);
    mesh.snapshot(&views());
    mesh.apply(Change::ServiceGone(key("one", "a")));
    let first = mesh.snapshot(&views()).generation;
    mesh.apply(Change::ServiceGone(key("one", "b")));
    let second = mesh.snapshot(&views()).generation;
    assert!(mesh.builder.removals.is_waiting(first) && mesh.builder.removals.is_waiting(second));

    // What is due for the first must not take the second along, whose routes went just now.
    mesh.builder.remove_until(first);
    assert!(!mesh.builder.removals.is_waiting(first) && mesh.builder.removals.is_waiting(second));
    let view = mesh.view(ProxyKind::Sidecar, None);
    let is_there = |name: &str| {
        let cluster = format!("outbound|80||{name}.one.svc.cluster.local");
        view.set(ResourceType::Cluster).get(&cluster).is_some()
    };
    assert!(!is_there("a") && is_there("b"));
}

#[test]
fn a_service_that_returns_in_time_is_not_removed() {
    let web = key("one", "web");
    let here = || Change::Service(service(&web, at(&["10.1.0.1"]), &[(80, Protocol::Http)]));
    let mut mesh =
        Mesh::with_changes(vec![here(), Change::Slice(slice(&web, "web-1", &[80], &[1]))]);
    let before = content(&mesh.snapshot(&views()));
    mesh.apply(Change::ServiceGone(web.clone()));
    mesh.snapshot(&views());
    mesh.apply(here());
    mesh.update();
    mesh.builder.remove_until(u64::MAX);
    assert_eq!(content(&mesh.snapshot(&views())), before);
}

#[test]
fn a_port_that_goes_takes_its_cluster_along() {
    let web = key("one", "web");
    let with = |ports: &[(u16, Protocol)]| Change::Service(service(&web, at(&[]), ports));
    let mut mesh = Mesh::with_changes(vec![with(&[(80, Protocol::Http), (81, Protocol::Http)])]);
    mesh.view(ProxyKind::Sidecar, None);
    mesh.apply(with(&[(80, Protocol::Http)]));
    let view = mesh.view(ProxyKind::Sidecar, None);
    let cluster = "outbound|81||web.one.svc.cluster.local";
    assert!(names(&view, ResourceType::Cluster).contains(&cluster), "it lingers");
    assert_eq!(names(&view, ResourceType::Route), ["80"]);
    mesh.builder.remove_until(u64::MAX);
    let view = mesh.view(ProxyKind::Sidecar, None);
    assert!(!names(&view, ResourceType::Cluster).contains(&cluster));
}

// === claims ===

#[test]
fn an_address_that_two_services_have_goes_to_the_first() {
    let (first, second) = (key("one", "a"), key("one", "b"));
    let with = |key: &ServiceKey| {
        Change::Service(service(key, at(&["10.1.0.1"]), &[(80, Protocol::Http)]))
    };
    let owner = |view: &View| {
        let hosts = table(view, "80").virtual_hosts;
        let owners = hosts.iter().filter(|host| host.domains.iter().any(|one| one == "10.1.0.1"));
        owners.map(|host| host.name.clone()).collect::<Vec<_>>()
    };
    let mut mesh = Mesh::with_changes(vec![with(&second)]);
    let view = mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(owner(&view), ["b.one.svc.cluster.local:80"]);
    mesh.apply(with(&first));
    let view = mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(owner(&view), ["a.one.svc.cluster.local:80"], "never both: Envoy rejects the table");
    mesh.apply(Change::ServiceGone(first));
    let view = mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(owner(&view), ["b.one.svc.cluster.local:80"], "it falls back");
}

#[test]
fn a_listener_that_two_services_want_goes_to_http_then_to_the_first() {
    let tcp = |name: &str| {
        Change::Service(service(&key("one", name), at(&["10.1.0.1"]), &[(90, Protocol::Tcp)]))
    };
    let mut mesh = Mesh::with_changes(vec![tcp("b"), tcp("c")]);
    let leads_to = |view: &View| {
        let listener = view.set(ResourceType::Listener).get("0.0.0.0_90").unwrap();
        let text = String::from_utf8_lossy(&listener.value()).into_owned();
        let owners = ["a", "b", "c"].into_iter();
        let mut owners = owners.filter(|name| text.contains(&format!("||{name}.one.svc")));
        owners.next().unwrap_or("http")
    };
    let router = || (ProxyKind::Router, None::<&str>);
    let (kind, namespace) = router();
    assert_eq!(leads_to(&mesh.view(kind.clone(), namespace)), "b");
    assert_eq!(mesh.builder.conflicts.len(), 1);
    mesh.apply(tcp("a"));
    assert_eq!(leads_to(&mesh.view(kind.clone(), namespace)), "a");
    assert_eq!(mesh.builder.conflicts.len(), 2);
    mesh.apply(Change::Service(service(&key("two", "z"), at(&[]), &[(90, Protocol::Http)])));
    assert_eq!(leads_to(&mesh.view(kind.clone(), namespace)), "http");
    assert_eq!(mesh.builder.conflicts.len(), 3);
    for gone in [key("two", "z"), key("one", "a"), key("one", "b")] {
        mesh.apply(Change::ServiceGone(gone));
    }
    assert_eq!(leads_to(&mesh.view(kind, namespace)), "c");
    assert_eq!(mesh.builder.conflicts.len(), 0);
}

// === namespaces ===

#[test]
fn a_namespace_has_its_own_short_names_and_shares_the_rest() {
    let http = |namespace: &str, name: &str, port: u16| {
        Change::Service(service(&key(namespace, name), at(&[]), &[(port, Protocol::Http)]))
    };
    let mut mesh = Mesh::with_changes(vec![
        http("one", "web", 80),
        http("two", "web", 80),
        http("two", "db", 81),
    ]);
    let keys = [Some("one"), Some("two"), None]
        .map(|namespace| ViewKey::new(ProxyKind::Sidecar, namespace));
    let snapshot = mesh.snapshot(&keys);
    let [one, two, none] = keys.each_ref().map(|key| snapshot.views[key].clone());
    let short = |view: &View, name: &str| {
        let own = table(view, "80").virtual_hosts.into_iter();
        let own = own.filter(|host| host.domains.iter().any(|domain| domain == name));
        own.map(|host| host.name).collect::<Vec<_>>()
    };
    assert_eq!(short(&one, "web"), ["web.one.svc.cluster.local:80"]);
    assert_eq!(short(&two, "web"), ["web.two.svc.cluster.local:80"]);
    assert!(short(&none, "web").is_empty());
    let shared = |of: ResourceType, name: &str, a: &View, b: &View| {
        Arc::ptr_eq(a.set(of).get(name).unwrap(), b.set(of).get(name).unwrap())
    };
    assert!(shared(ResourceType::Route, "81", &one, &none), "nothing of its own in this table");
    assert!(!shared(ResourceType::Route, "81", &two, &none));
    for of in [ResourceType::Cluster, ResourceType::Endpoint, ResourceType::Listener] {
        assert!(Arc::ptr_eq(one.set(of), two.set(of)), "{of:?} is the same for all");
    }

    // A change reaches the namespaces that are open.
    mesh.apply(http("one", "new", 80));
    let snapshot = mesh.snapshot(&keys);
    assert_eq!(short(&snapshot.views[&keys[0]], "new"), ["new.one.svc.cluster.local:80"]);
    assert!(short(&snapshot.views[&keys[1]], "new").is_empty());
}

#[test]
fn a_change_of_endpoints_touches_nothing_else() {
    let web = key("one", "web");
    let mut mesh = Mesh::with_changes(vec![
        Change::Service(service(&web, at(&["10.1.0.1"]), &[(80, Protocol::Http)])),
        Change::Slice(slice(&web, "web-1", &[80], &[1])),
    ]);
    let before = mesh.view(ProxyKind::Sidecar, Some("one"));
    mesh.apply(Change::Slice(slice(&web, "web-1", &[80], &[1, 2])));
    let after = mesh.view(ProxyKind::Sidecar, Some("one"));
    for of in [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route] {
        assert!(Arc::ptr_eq(before.set(of), after.set(of)), "{of:?}");
    }
    let (before, after) = (before.set(ResourceType::Endpoint), after.set(ResourceType::Endpoint));
    assert_eq!(after.diff_from(before).changed.len(), 1);
}

#[test]
fn resources_can_be_made_anew_though_no_service_has_changed() {
    let services = ["a", "b", "c"].map(|name| {
        Change::Service(service(&key("one", name), at(&["10.1.0.1"]), &[(80, Protocol::Http)]))
    });
    let mut mesh = Mesh::with_changes(services.into());
    let before = mesh.snapshot(&views());
    let some: BTreeSet<_> = [key("one", "a"), key("one", "b")].into();
    let nothing = MeshChanges::default;
    for changes in [
        MeshChanges { clusters: some.clone(), ..nothing() },
        MeshChanges { endpoints: some.clone(), ..nothing() },
        MeshChanges { listeners_and_routes: some, ..nothing() },
    ] {
        mesh.builder.make_resources(&changes);
        let after = mesh.snapshot(&views());
        assert_eq!(content(&after), content(&before));
        assert!(!mesh.builder.removals.is_waiting(after.generation));
    }
}
