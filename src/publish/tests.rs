//! The builder: whatever the order in which things came, what is published follows from how things
//! are.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::RouteConfiguration;
use proptest::prelude::*;
use proptest::sample::subsequence;
use prost::Message;

use super::Builder;
use crate::model::{
    Change, Endpoint, EndpointSlice, EndpointState, Model, Protocol, Service, ServiceKey,
    ServiceKind, ServicePort, SlicePort, Subset,
};
use crate::names::ResourceType;
use crate::snapshot::{Snapshot, View};
use crate::view::{ProxyKind, ViewKey};

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
    Service {
        key: key.clone(),
        kind,
        ports: ports.iter().map(port).collect(),
        created: "".into(),
        resource_version: "".into(),
    }
}

fn at(addresses: &[&str]) -> ServiceKind {
    ServiceKind::ClusterIp(addresses.iter().map(|text| text.parse().unwrap()).collect())
}

fn slice(key: &ServiceKey, name: &str, ports: &[u16], hosts: &[u8]) -> EndpointSlice {
    let ports = ports
        .iter()
        .map(|port| SlicePort { name: format!("p{port}").into(), port: port + 8000 })
        .collect();
    let endpoint = |host: &u8| Endpoint {
        address: IpAddr::from([10, 0, 0, *host]),
        state: EndpointState::Ready,
        zone: None,
        node: None,
        hostname: None,
    };
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
        (ProxyKind::BoundSidecar, Some("one")),
        (ProxyKind::Router, None),
        (ProxyKind::DEFAULT_STANDALONE, None),
        (standalone(80), Some("two")),
    ]
    .into_iter()
    .map(|(kind, namespace)| ViewKey { kind, namespace: namespace.map(Arc::from) })
    .collect()
}

/// A model and a builder that follows it.
struct Mesh {
    model: Model,
    builder: Builder,
    dirty: BTreeSet<ServiceKey>,
}

impl Mesh {
    fn new() -> Self {
        Self { model: Model::default(), builder: Builder::new(DOMAIN), dirty: BTreeSet::new() }
    }

    fn of(changes: Vec<Change>) -> Self {
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
        self.builder.snapshot(&views.iter().cloned().collect())
    }

    fn view(&mut self, kind: ProxyKind, namespace: Option<&str>) -> Arc<View> {
        let key = ViewKey { kind, namespace: namespace.map(Arc::from) };
        self.snapshot(std::slice::from_ref(&key)).views[&key].clone()
    }

    /// What a builder makes that sees everything at once, as it is now.
    fn built_at_once(&self, views: &[ViewKey]) -> Snapshot {
        let mut builder = Builder::new(DOMAIN);
        let services = self.model.services().map(|service| service.key.clone());
        builder.update(&self.model, &services.collect());
        builder.snapshot(&views.iter().cloned().collect())
    }
}

/// Every resource of every view, with its version.
fn content(snapshot: &Snapshot) -> Vec<String> {
    let mut lines = Vec::new();
    for (key, view) in &snapshot.views {
        for of in ResourceType::IN_ORDER {
            let set = view.set(of);
            lines.push(format!("{key}: {} {} {}", of.short(), set.version(), set.bytes()));
            let one = |one: &Arc<crate::snapshot::Resource>| {
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
    let mut mesh = Mesh::of(vec![
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
    mesh.builder.bury(u64::MAX);
    let last = mesh.view(ProxyKind::Sidecar, None);
    assert!(!names(&last, ResourceType::Cluster).contains(&cluster));
    assert!(names(&last, ResourceType::Endpoint).is_empty());
}

#[test]
fn every_cluster_lingers_as_long_after_its_own_routes() {
    let http =
        |name: &str| Change::Service(service(&key("one", name), at(&[]), &[(80, Protocol::Http)]));
    let mut mesh = Mesh::of(vec![http("a"), http("b")]);
    mesh.snapshot(&views());
    mesh.apply(Change::ServiceGone(key("one", "a")));
    let first = mesh.snapshot(&views()).generation;
    mesh.apply(Change::ServiceGone(key("one", "b")));
    let second = mesh.snapshot(&views()).generation;
    assert!(mesh.builder.has_dying(first) && mesh.builder.has_dying(second));

    // What is due for the first must not take the second along, whose routes went just now.
    mesh.builder.bury(first);
    assert!(!mesh.builder.has_dying(first) && mesh.builder.has_dying(second));
    let view = mesh.view(ProxyKind::Sidecar, None);
    let is_there = |name: &str| {
        let cluster = format!("outbound|80||{name}.one.svc.cluster.local");
        view.set(ResourceType::Cluster).get(&cluster).is_some()
    };
    assert!(!is_there("a") && is_there("b"));
}

#[test]
fn a_service_that_returns_in_time_is_not_buried() {
    let web = key("one", "web");
    let here = || Change::Service(service(&web, at(&["10.1.0.1"]), &[(80, Protocol::Http)]));
    let mut mesh = Mesh::of(vec![here(), Change::Slice(slice(&web, "web-1", &[80], &[1]))]);
    let before = content(&mesh.snapshot(&views()));
    mesh.apply(Change::ServiceGone(web.clone()));
    mesh.snapshot(&views());
    mesh.apply(here());
    mesh.update();
    mesh.builder.bury(u64::MAX);
    assert_eq!(content(&mesh.snapshot(&views())), before);
}

#[test]
fn a_port_that_goes_takes_its_cluster_along() {
    let web = key("one", "web");
    let with = |ports: &[(u16, Protocol)]| Change::Service(service(&web, at(&[]), ports));
    let mut mesh = Mesh::of(vec![with(&[(80, Protocol::Http), (81, Protocol::Http)])]);
    mesh.view(ProxyKind::Sidecar, None);
    mesh.apply(with(&[(80, Protocol::Http)]));
    let view = mesh.view(ProxyKind::Sidecar, None);
    let cluster = "outbound|81||web.one.svc.cluster.local";
    assert!(names(&view, ResourceType::Cluster).contains(&cluster), "it lingers");
    assert_eq!(names(&view, ResourceType::Route), ["80"]);
    mesh.builder.bury(u64::MAX);
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
    let mut mesh = Mesh::of(vec![with(&second)]);
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
    let mut mesh = Mesh::of(vec![tcp("b"), tcp("c")]);
    let leads_to = |view: &View| {
        let listener = view.set(ResourceType::Listener).get("0.0.0.0_90").unwrap();
        let text = String::from_utf8_lossy(listener.value()).into_owned();
        let owners = ["a", "b", "c"].into_iter();
        let mut owners = owners.filter(|name| text.contains(&format!("||{name}.one.svc")));
        owners.next().unwrap_or("http")
    };
    let router = || (ProxyKind::Router, None::<&str>);
    let (kind, namespace) = router();
    assert_eq!(leads_to(&mesh.view(kind.clone(), namespace)), "b");
    assert_eq!(mesh.builder.conflicts(), 1);
    mesh.apply(tcp("a"));
    assert_eq!(leads_to(&mesh.view(kind.clone(), namespace)), "a");
    assert_eq!(mesh.builder.conflicts(), 2);
    mesh.apply(Change::Service(service(&key("two", "z"), at(&[]), &[(90, Protocol::Http)])));
    assert_eq!(leads_to(&mesh.view(kind.clone(), namespace)), "http");
    assert_eq!(mesh.builder.conflicts(), 3);
    for gone in [key("two", "z"), key("one", "a"), key("one", "b")] {
        mesh.apply(Change::ServiceGone(gone));
    }
    assert_eq!(leads_to(&mesh.view(kind, namespace)), "c");
    assert_eq!(mesh.builder.conflicts(), 0);
}

// === namespaces ===

#[test]
fn a_namespace_has_its_own_short_names_and_shares_the_rest() {
    let http = |namespace: &str, name: &str, port: u16| {
        Change::Service(service(&key(namespace, name), at(&[]), &[(port, Protocol::Http)]))
    };
    let mut mesh =
        Mesh::of(vec![http("one", "web", 80), http("two", "web", 80), http("two", "db", 81)]);
    let keys = [Some("one"), Some("two"), None]
        .map(|namespace| ViewKey { kind: ProxyKind::Sidecar, namespace: namespace.map(Arc::from) });
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
    let mut mesh = Mesh::of(vec![
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

// === whatever the order ===

fn some_key() -> impl Strategy<Value = ServiceKey> {
    (prop_oneof![Just("one"), Just("two")], prop_oneof![Just("a"), Just("b"), Just("c")])
        .prop_map(|(namespace, name)| key(namespace, name))
}

fn some_service() -> impl Strategy<Value = Service> {
    let addresses = subsequence(vec!["10.1.0.1", "10.1.0.2", "fd00::1"], 0..3);
    let kind = prop_oneof![
        4 => addresses.prop_map(|addresses| at(&addresses)),
        1 => Just(ServiceKind::Headless),
        1 => Just(ServiceKind::ExternalName("elsewhere.example".into())),
    ];
    let protocol = prop_oneof![Just(Protocol::Http), Just(Protocol::Grpc), Just(Protocol::Tcp)];
    let ports = subsequence(vec![80u16, 90, 15001], 0..4);
    (some_key(), kind, ports, [protocol.clone(), protocol.clone(), protocol]).prop_map(
        |(key, kind, ports, protocols)| {
            let ports: Vec<_> = ports.into_iter().zip(protocols).collect();
            service(&key, kind, &ports)
        },
    )
}

fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    // The name alone is the identity in a namespace, so slices also move between services.
    let name = prop_oneof![Just("s1"), Just("s2"), Just("s3")];
    let ports = subsequence(vec![80u16, 90], 0..3);
    (some_key(), name, ports, subsequence(vec![1u8, 2, 3], 0..4))
        .prop_map(|(key, name, ports, hosts)| slice(&key, name, &ports, &hosts))
}

fn some_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => some_service().prop_map(Change::Service),
        2 => some_key().prop_map(Change::ServiceGone),
        4 => some_slice().prop_map(Change::Slice),
        1 => some_slice().prop_map(|slice| Change::SliceGone {
            namespace: slice.service.namespace,
            name: slice.name,
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Update,
    /// With the views that somebody needs now.
    Snapshot(Vec<usize>),
    Bury,
}

fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => some_change().prop_map(Step::Change),
        2 => Just(Step::Update),
        3 => subsequence((0..views().len()).collect::<Vec<_>>(), 0..=views().len())
            .prop_map(Step::Snapshot),
        1 => Just(Step::Bury),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn service_by_service_equals_everything_at_once(steps in some_steps()) {
        let all = views();
        let mut mesh = Mesh::new();
        for step in steps {
            match step {
                Step::Change(change) => mesh.apply(change),
                Step::Update => mesh.update(),
                Step::Snapshot(needed) => {
                    let needed: Vec<_> = needed.into_iter().map(|at| all[at].clone()).collect();
                    let snapshot = mesh.snapshot(&needed);
                    prop_assert_eq!(snapshot.views.len(), needed.len());
                }
                Step::Bury => mesh.builder.bury(u64::MAX),
            }
        }
        mesh.update();
        mesh.builder.bury(u64::MAX);
        let snapshot = mesh.snapshot(&all);
        prop_assert_eq!(content(&snapshot), content(&mesh.built_at_once(&all)));
        // Envoy rejects a table that has a domain twice.
        for (key, view) in &snapshot.views {
            for one in view.set(ResourceType::Route).iter() {
                let domains = domains(view, &one.name);
                let unique: BTreeSet<_> = domains.iter().collect();
                prop_assert_eq!(unique.len(), domains.len(), "{} {}: {:?}", key, &one.name, domains);
            }
        }
    }

    #[test]
    fn replicas_agree_whatever_the_order(
        services in proptest::collection::vec(some_service(), 0..8),
        slices in proptest::collection::vec(some_slice(), 0..8),
        shuffled in any::<u64>(),
        detour in proptest::collection::vec(some_change(), 0..8),
        pause in 1usize..5,
    ) {
        let all = views();
        // The end state, an object each.
        let mut model = Model::default();
        let mut dirty = BTreeSet::new();
        let changes = services.into_iter().map(Change::Service);
        for change in changes.chain(slices.into_iter().map(Change::Slice)) {
            model.apply(change, &mut dirty);
        }
        let services: Vec<_> = model.services().map(|one| (**one).clone()).collect();
        let keys: Vec<_> = model.sliced_services().cloned().collect();
        let slices: Vec<EndpointSlice> =
            keys.iter().flat_map(|key| model.slices(key)).map(|one| (**one).clone()).collect();

        // One replica lists it in one go, the other has seen other times and gets it piece by piece.
        let everything = crate::model::Scope::All;
        let mut one = Mesh::of(vec![
            Change::Services(everything.clone(), services.clone()),
            Change::Slices(everything.clone(), slices.clone()),
        ]);
        let mut pieces: Vec<Change> = services.iter().cloned().map(Change::Service).collect();
        pieces.extend(slices.iter().cloned().map(Change::Slice));
        let mut seed = shuffled;
        for at in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let mut other = Mesh::of(detour);
        other.snapshot(&all);
        for (at, change) in pieces.into_iter().enumerate() {
            other.apply(change);
            if at % pause == 0 {
                other.snapshot(&all);
            }
        }
        other.apply(Change::Services(everything.clone(), services));
        other.apply(Change::Slices(everything, slices));
        other.update();
        other.builder.bury(u64::MAX);
        prop_assert_eq!(content(&one.snapshot(&all)), content(&other.snapshot(&all)));
    }
}
