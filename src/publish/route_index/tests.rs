//! Every verdict and its reason, when it changes, and what stays as it was.

use std::collections::BTreeMap;

use super::*;
use crate::model::route::{
    Backend, BackendProblem, BackendRef, ParentRef, PortRules, Refusal, RouteKind, RouteRole,
    RouteRule,
};
use crate::model::{Change, Protocol, ReferenceGrant, Scope, Service, ServiceKind, ServicePort};

/// A model, what is published of its services, and the index that follows.
struct World {
    model: Model,
    services: ServiceIndex,
    index: RouteIndex,
}

impl World {
    fn new(changes: Vec<Change>) -> Self {
        let services = ServiceIndex::new("cluster.local".into());
        let mut world = Self { model: Model::default(), services, index: RouteIndex::default() };
        world.apply(changes);
        world
    }

    /// Gives the Services whose rules changed, as `NAMESPACE/NAME`.
    fn apply(&mut self, changes: Vec<Change>) -> Vec<String> {
        let mut dirty = Dirty::default();
        changes.into_iter().for_each(|change| self.model.apply(change, &mut dirty));
        let services = self.services.update(&self.model, &dirty.services);
        let changed = self.index.update(&self.model, &dirty, &self.services, &services.clusters);
        changed.services.iter().map(ToString::to_string).collect()
    }

    fn verdict(&self, key: &RouteKey) -> &RouteVerdict {
        self.index.report().routes.get(key).expect("every route has one")
    }

    /// Of the only parent: the reason, the ports, the message.
    fn accepted(&self, key: &RouteKey) -> (AcceptedReason, Vec<u16>, String) {
        let [only] = self.verdict(key).parents.as_slice() else { panic!("{key}") };
        (only.accepted.reason, only.ports.clone(), only.accepted.message.to_string())
    }

    fn refs(&self, key: &RouteKey) -> (RefsReason, String) {
        let verdict = &self.verdict(key).parents[0].resolved_refs;
        (verdict.reason, verdict.message.to_string())
    }

    /// The names of the routes on each port, for clients of this namespace.
    fn rules(&self, service: &str, clients: Option<&str>) -> BTreeMap<u16, Vec<String>> {
        let rules = self.index.rules(&service_key(service)).cloned().unwrap_or_default();
        let names = |ports: &PortRules| {
            ports.routes.iter().map(|one| one.route.key.name.to_string()).collect()
        };
        let of = rules.for_clients_of(clients).iter();
        of.map(|(port, ports)| (*port, names(ports))).collect()
    }
}

fn service_key(text: &str) -> ServiceKey {
    let (namespace, name) = text.split_once('/').unwrap();
    ServiceKey::new(namespace, name)
}

fn service(text: &str, kind: ServiceKind, ports: &[(u16, Protocol)]) -> Change {
    let port = |&(port, protocol): &(u16, Protocol)| ServicePort {
        name: format!("p{port}").into(),
        port,
        protocol,
    };
    let ports = ports.iter().map(port).collect();
    Change::Service(Service::new(service_key(text), kind, ports))
}

fn http(text: &str) -> Change {
    service(text, ServiceKind::ClusterIp(Vec::new()), &[(80, Protocol::Http)])
}

fn gone(text: &str) -> Change {
    Change::ServiceGone(service_key(text))
}

fn http_route(text: &str) -> RouteKey {
    route_key(RouteKind::Http, text)
}

fn route_key(kind: RouteKind, text: &str) -> RouteKey {
    let (namespace, name) = text.split_once('/').unwrap();
    RouteKey::new(kind, namespace, name)
}

fn parent(service: &str) -> ParentRef {
    let target = ParentTarget::Service(service_key(service));
    ParentRef { target, namespace: None, section_name: None, port: None }
}

fn to(service: &str, port: u16) -> BackendRef {
    BackendRef::Service { key: service_key(service), port }
}

fn route(key: &RouteKey, parents: &[ParentRef], backends: &[BackendRef]) -> Route {
    let backend =
        |target: &BackendRef| Backend { target: target.clone(), weight: 1, filters: Vec::new() };
    let rule = RouteRule::new(backends.iter().map(backend).collect());
    Route { generation: Some(3), parents: parents.to_vec(), ..Route::new(key.clone(), vec![rule]) }
}

fn put(key: &RouteKey, parents: &[ParentRef], backends: &[BackendRef]) -> Change {
    Change::Route(route(key, parents, backends))
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn producer_routes_are_for_everybody_and_consumer_routes_for_their_own_namespace() {
    let (producer, consumer) = (http_route("shop/producer"), http_route("client/consumer"));
    let mut world = World::new(vec![
        service(
            "shop/web",
            ServiceKind::ClusterIp(Vec::new()),
            &[(80, Protocol::Http), (81, Protocol::Grpc), (90, Protocol::Tcp)],
        ),
        put(&producer, &[parent("shop/web")], &[to("shop/web", 80)]),
    ]);
    let on = |name: &str, ports: &[u16]| -> BTreeMap<u16, Vec<String>> {
        ports.iter().map(|port| (*port, names(&[name]))).collect()
    };
    for clients in [None, Some("shop"), Some("client")] {
        assert_eq!(world.rules("shop/web", clients), on("producer", &[80, 81]));
    }
    assert_eq!(world.accepted(&producer).1, [80, 81]);
    assert_eq!(world.verdict(&producer).parents[0].role, Some(RouteRole::Producer));

    // In the place of the producer's on every port, though it is for one alone.
    let at_80 = ParentRef { port: Some(80), ..parent("shop/web") };
    let changed = world.apply(vec![put(&consumer, &[at_80], &[to("shop/web", 80)])]);
    assert_eq!(changed, ["shop/web"]);
    assert_eq!(world.rules("shop/web", Some("client")), on("consumer", &[80]));
    assert_eq!(world.rules("shop/web", Some("shop")), on("producer", &[80, 81]));
    assert_eq!(world.verdict(&consumer).parents[0].role, Some(RouteRole::Consumer));
    assert_eq!(world.index.consumed_in("client").count(), 1);

    world.apply(vec![Change::RouteGone(consumer.clone())]);
    assert_eq!(world.rules("shop/web", Some("client")), on("producer", &[80, 81]));
    assert_eq!(world.index.consumed_in("client").count(), 0);
    assert!(world.index.report().routes.get(&consumer).is_none());
    world.apply(vec![Change::RouteGone(producer)]);
    assert!(world.index.is_empty());
    let RouteIndex { routes, by_parent, by_backend, by_mirror, by_grants, consumed, report } =
        world.index;
    assert!(routes.is_empty() && by_parent.is_empty());
    assert!(by_backend.is_empty() && by_mirror.is_empty());
    assert!(by_grants.is_empty() && consumed.is_empty() && report == RouteReport::default());
}

#[test]
fn the_port_is_found_by_number_and_by_name() {
    let key = http_route("shop/r");
    let two = || {
        service(
            "shop/web",
            ServiceKind::ClusterIp(Vec::new()),
            &[(80, Protocol::Http), (81, Protocol::Http), (90, Protocol::Tcp)],
        )
    };
    let at = |port: Option<u16>, name: Option<&str>| ParentRef {
        port,
        section_name: name.map(Into::into),
        ..parent("shop/web")
    };
    let mut world = World::new(vec![two()]);
    for (parent, ports, message) in [
        (at(Some(81), None), &[81][..], "port 81 of the Service shop/web"),
        (at(None, Some("p81")), &[81], "port 81"),
        (at(Some(81), Some("p81")), &[81], "port 81"),
        (at(None, None), &[80, 81], "ports 80, 81"),
        (at(Some(82), None), &[], "no port 82 (it has 80 p80, HTTP, 81 p81, HTTP, 90 p90, TCP)"),
        (at(None, Some("x")), &[], "no port named \"x\""),
        (at(Some(80), Some("p81")), &[], "no port 80 named \"p81\""),
        (at(Some(90), None), &[], "speaks no HTTP there (90 p90, TCP): set the port's appProtocol"),
    ] {
        world.apply(vec![put(&key, &[parent], &[])]);
        let (reason, on, said) = world.accepted(&key);
        assert_eq!(on, ports, "{said}");
        assert!(said.contains(message), "{said}");
        assert_eq!(reason.is_accepted(), !ports.is_empty());
        if !reason.is_accepted() {
            assert_eq!(reason, AcceptedReason::NoMatchingParent);
        }
    }
}

#[test]
fn what_is_no_parent_is_none() {
    let key = http_route("shop/r");
    let mut world = World::new(vec![put(&key, &[parent("shop/web")], &[to("shop/web", 80)])]);
    let (reason, _, message) = world.accepted(&key);
    assert_eq!(reason, AcceptedReason::NoMatchingParent);
    assert!(message.contains("there is no Service shop/web"), "{message}");
    assert_eq!(world.refs(&key).0, RefsReason::BackendNotFound);

    let outside = ServiceKind::ExternalName("example.com".into());
    world.apply(vec![service("shop/web", outside, &[(80, Protocol::Http)])]);
    assert_eq!(world.accepted(&key).0, AcceptedReason::UnsupportedValue);
    assert_eq!(world.refs(&key).0, RefsReason::InvalidKind);

    // It is taken as soon as it is there, and lost with it.
    assert_eq!(world.apply(vec![http("shop/web")]), ["shop/web"]);
    assert_eq!(world.accepted(&key).0, AcceptedReason::Accepted);
    assert_eq!(world.refs(&key).0, RefsReason::ResolvedRefs);
    assert_eq!(world.apply(vec![gone("shop/web")]), ["shop/web"]);
    assert!(world.index.is_empty());
    assert_eq!(world.accepted(&key).0, AcceptedReason::NoMatchingParent);

    // A headless Service is a parent like another.
    world.apply(vec![service("shop/web", ServiceKind::Headless, &[(80, Protocol::Http)])]);
    assert_eq!(world.accepted(&key).1, [80]);

    // What another controller serves is not ours to judge.
    let gateway = ParentRef {
        target: ParentTarget::Other {
            group: "gateway.networking.k8s.io".into(),
            kind: "Gateway".into(),
            namespace: "shop".into(),
            name: "door".into(),
        },
        ..parent("shop/web")
    };
    world.apply(vec![put(&key, &[gateway, parent("shop/web")], &[])]);
    let [other, own] = world.verdict(&key).parents.as_slice() else { panic!() };
    assert_eq!((other.role, own.role), (None, Some(RouteRole::Producer)));
    assert_eq!(own.ports, [80]);
}

#[test]
fn a_refused_route_is_as_if_it_were_not_there() {
    let (good, bad) = (http_route("shop/good"), http_route("shop/bad"));
    let served = route(&bad, &[parent("shop/web")], &[to("shop/web", 80)]);
    let mut world = World::new(vec![
        http("shop/web"),
        put(&good, &[parent("shop/web")], &[to("shop/web", 80)]),
        Change::Route(served.clone()),
    ]);
    assert_eq!(world.rules("shop/web", None)[&80], ["bad", "good"]);
    let refusal =
        Some(Refusal { reason: AcceptedReason::IncompatibleFilters, message: "both".into() });
    let refused = Route { refusal, rules: Vec::new(), generation: Some(4), ..served };
    assert_eq!(world.apply(vec![Change::Route(refused)]), ["shop/web"]);
    assert_eq!(world.rules("shop/web", None)[&80], ["good"]);
    let seen = world.accepted(&bad);
    assert_eq!(seen, (AcceptedReason::IncompatibleFilters, vec![], "both".to_owned()));
    assert_eq!(world.verdict(&bad).generation, Some(4));
}

#[test]
fn grpc_routes_go_before_http_routes_port_by_port_and_client_by_client() {
    let (http_key, grpc_key) = (http_route("shop/h"), route_key(RouteKind::Grpc, "shop/g"));
    let consumer = http_route("client/c");
    let ports = [(80, Protocol::Http), (81, Protocol::Grpc)];
    let at_81 = ParentRef { port: Some(81), ..parent("shop/web") };
    let mut world = World::new(vec![
        service("shop/web", ServiceKind::ClusterIp(Vec::new()), &ports),
        put(&http_key, &[parent("shop/web")], &[]),
        put(&consumer, &[parent("shop/web")], &[]),
        put(&grpc_key, std::slice::from_ref(&at_81), &[]),
    ]);
    let (reason, on, message) = world.accepted(&http_key);
    assert_eq!((reason, on.as_slice()), (AcceptedReason::Accepted, &[80][..]));
    assert!(message.contains("GRPCRoutes have port 81"), "{message}");
    assert_eq!(world.rules("shop/web", None)[&81], ["g"]);
    assert_eq!(world.accepted(&consumer).1, [80, 81], "the producer's are not its affair");

    world.apply(vec![put(&http_key, &[at_81], &[])]);
    let (reason, on, _) = world.accepted(&http_key);
    assert_eq!((reason, on.as_slice()), (AcceptedReason::Conflicted, &[][..]));
    world.apply(vec![Change::RouteGone(grpc_key)]);
    assert_eq!(world.accepted(&http_key).1, [81], "of a route that did not change itself");
}

#[test]
fn the_oldest_route_goes_first_then_the_first_by_name() {
    let with = |name: &str, created: &str| {
        let key = http_route(&format!("shop/{name}"));
        Change::Route(Route { created: created.into(), ..route(&key, &[parent("shop/web")], &[]) })
    };
    let world = World::new(vec![
        http("shop/web"),
        with("c", "2024-01-01T00:00:00Z"),
        with("a", "2025-01-01T00:00:00Z"),
        with("b", "2024-01-01T00:00:00Z"),
    ]);
    assert_eq!(world.rules("shop/web", None)[&80], ["b", "c", "a"]);
}

#[test]
fn each_backend_that_cannot_be_used_has_its_problem() {
    let key = http_route("shop/r");
    let ports = [(80, Protocol::Http), (81, Protocol::Tls), (82, Protocol::Tcp)];
    let mut world = World::new(vec![
        http("shop/web"),
        service("shop/v1", ServiceKind::ClusterIp(Vec::new()), &ports),
        service("shop/pods", ServiceKind::Headless, &ports),
        service("shop/out", ServiceKind::ExternalName("example.com".into()), &ports),
        http("other/v1"),
    ]);
    let pod = BackendRef::Other {
        group: "".into(),
        kind: "Pod".into(),
        namespace: "shop".into(),
        name: "p".into(),
    };
    for (backend, problem, reason, message) in [
        (to("shop/v1", 80), None, RefsReason::ResolvedRefs, "are there"),
        (to("shop/v1", 82), None, RefsReason::ResolvedRefs, "are there"),
        (to("shop/pods", 80), None, RefsReason::ResolvedRefs, "are there"),
        (
            to("shop/v1", 81),
            Some(BackendProblem::UnsupportedProtocol),
            RefsReason::UnsupportedProtocol,
            "port 81",
        ),
        (
            to("shop/pods", 82),
            Some(BackendProblem::UnsupportedProtocol),
            RefsReason::UnsupportedProtocol,
            "appProtocol",
        ),
        (
            to("shop/v1", 83),
            Some(BackendProblem::NoSuchPort),
            RefsReason::BackendNotFound,
            "no TCP port 83",
        ),
        (
            to("shop/none", 80),
            Some(BackendProblem::NotFound),
            RefsReason::BackendNotFound,
            "no Service shop/none",
        ),
        (
            to("shop/out", 80),
            Some(BackendProblem::InvalidKind),
            RefsReason::InvalidKind,
            "CVE-2021-25740",
        ),
        (pod, Some(BackendProblem::InvalidKind), RefsReason::InvalidKind, "core/Pod shop/p"),
        (
            to("other/v1", 80),
            Some(BackendProblem::NotPermitted),
            RefsReason::RefNotPermitted,
            "ReferenceGrant in other",
        ),
    ] {
        world.apply(vec![put(&key, &[parent("shop/web")], std::slice::from_ref(&backend))]);
        let (seen, said) = world.refs(&key);
        assert_eq!(seen, reason, "{said}");
        assert!(said.contains(message), "{said}");
        let rules = world.index.rules(&service_key("shop/web")).unwrap();
        let resolved = &rules.producer[&80].routes[0].backends[&backend];
        assert_eq!(resolved.as_ref().err().copied(), problem);
        assert!(world.accepted(&key).0.is_accepted(), "its other backends are served");
    }
}

#[test]
fn a_backend_that_comes_changes_or_goes_takes_effect_at_once() {
    let key = http_route("shop/r");
    let mut world = World::new(vec![
        http("shop/web"),
        put(&key, &[parent("shop/web")], &[to("shop/v1", 80)]),
        put(&http_route("shop/other"), &[parent("shop/other")], &[]),
    ]);
    let problem = |world: &World| {
        let rules = world.index.rules(&service_key("shop/web")).unwrap();
        rules.producer[&80].routes[0].backends[&to("shop/v1", 80)].as_ref().err().copied()
    };
    assert_eq!(problem(&world), Some(BackendProblem::NotFound));
    let tcp = |port| service("shop/v1", ServiceKind::Headless, &[(port, Protocol::Tcp)]);
    for (change, wanted) in [
        (http("shop/v1"), None),
        (tcp(81), Some(BackendProblem::NoSuchPort)),
        (tcp(80), Some(BackendProblem::UnsupportedProtocol)),
        (gone("shop/v1"), Some(BackendProblem::NotFound)),
    ] {
        assert_eq!(world.apply(vec![change]), ["shop/web"]);
        assert_eq!(problem(&world), wanted);
        assert_eq!(world.refs(&key).0.is_resolved(), wanted.is_none());
    }
    assert!(world.apply(vec![http("shop/unnamed")]).is_empty());
}

#[test]
fn a_grant_permits_what_it_says_and_a_parents_namespace_needs_none() {
    let key = http_route("shop/r");
    let grant = |kind, from: &str, to: Option<&str>| {
        Change::Grant(ReferenceGrant {
            namespace: "other".into(),
            name: "g".into(),
            from: vec![(kind, from.into())],
            to: vec![to.map(Into::into)],
        })
    };
    let mut world = World::new(vec![
        http("shop/web"),
        http("other/v1"),
        put(&key, &[parent("shop/web")], &[to("other/v1", 80)]),
    ]);
    for (change, wanted) in [
        (grant(RouteKind::Http, "shop", None), RefsReason::ResolvedRefs),
        (grant(RouteKind::Grpc, "shop", None), RefsReason::RefNotPermitted),
        (grant(RouteKind::Http, "shop", Some("v1")), RefsReason::ResolvedRefs),
        (grant(RouteKind::Http, "shop", Some("v2")), RefsReason::RefNotPermitted),
        (grant(RouteKind::Http, "shop", Some("v1")), RefsReason::ResolvedRefs),
        (grant(RouteKind::Http, "client", Some("v1")), RefsReason::RefNotPermitted),
        (grant(RouteKind::Http, "shop", None), RefsReason::ResolvedRefs),
        (Change::Grants(Scope::All, Vec::new()), RefsReason::RefNotPermitted),
    ] {
        assert_eq!(world.apply(vec![change]), ["shop/web"]);
        assert_eq!(world.refs(&key).0, wanted);
    }
    // A Service that may not be named is not said to be there, or not.
    world.apply(vec![gone("other/v1")]);
    assert_eq!(world.refs(&key).0, RefsReason::RefNotPermitted);

    let consumer = http_route("client/r");
    world.apply(vec![http("shop/v2"), put(&consumer, &[parent("shop/web")], &[to("shop/v2", 80)])]);
    assert_eq!(world.refs(&consumer).0, RefsReason::ResolvedRefs);
}

#[test]
fn what_does_not_change_keeps_its_allocation() {
    let keys = [http_route("shop/a"), http_route("shop/b"), http_route("client/c")];
    let [a, b, c] = &keys;
    let mut world = World::new(vec![
        http("shop/web"),
        http("shop/second"),
        put(a, &[parent("shop/web")], &[to("shop/web", 80)]),
        put(b, &[parent("shop/second")], &[to("shop/web", 80)]),
        put(c, &[parent("shop/web")], &[to("shop/web", 80)]),
    ]);
    let before = world.index.report().clone();
    assert!(world.apply(vec![http("shop/third")]).is_empty());
    assert!(world.index.report().is_same(&before));

    assert_eq!(world.apply(vec![put(a, &[parent("shop/web")], &[])]), ["shop/web"]);
    let after = world.index.report().clone();
    assert!(!after.is_same(&before));
    let verdict = |report: &RouteReport, key: &RouteKey| report.routes.get(key).cloned().unwrap();
    assert!(Arc::ptr_eq(&verdict(&before, b), &verdict(&after, b)));
    assert!(Arc::ptr_eq(&verdict(&before, c), &verdict(&after, c)));
    let rules = |report: &RouteReport, service: &str| {
        report.services.get(&service_key(service)).cloned().unwrap()
    };
    assert!(Arc::ptr_eq(&rules(&before, "shop/second"), &rules(&after, "shop/second")));
    let (old, new) = (rules(&before, "shop/web"), rules(&after, "shop/web"));
    assert!(Arc::ptr_eq(&old.consumers["client"][&80], &new.consumers["client"][&80]));
    assert!(!Arc::ptr_eq(&old.producer[&80], &new.producer[&80]));
}
