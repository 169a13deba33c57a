//! Who is sent which rules, where they stand, and that nobody is sent anything for those of others.

use envoy_types::pb::envoy::config::listener::v3::Listener;
use envoy_types::pb::envoy::config::route::v3::route::Action;

use super::random_routes::clusters_of;
use super::*;
use crate::model::route::{
    Backend, BackendRef, Mirror, ParentRef, ParentTarget, RouteFilter, RouteRule,
};
use crate::model::{Route, RouteKey, RouteKind};

/// A route in this namespace for all requests to `one/web`, which go to `backend` of namespace `one`.
pub(super) fn route(namespace: &str, backend: &str) -> Change {
    routed(namespace, "one/web", backend)
}

fn routed(namespace: &str, parent: &str, backend: &str) -> Change {
    let (in_namespace, name) = parent.split_once('/').unwrap();
    let target = BackendRef::Service { key: key("one", backend), port: 80 };
    let parent = ParentTarget::Service(key(in_namespace, name));
    let rule = RouteRule::new(vec![Backend { target, weight: 1, filters: Vec::new() }]);
    Change::Route(Route {
        parents: vec![ParentRef {
            target: parent,
            namespace: None,
            section_name: None,
            port: None,
        }],
        ..Route::new(RouteKey::new(RouteKind::Http, namespace, name), vec![rule])
    })
}

/// The same with a copy of each request for `mirror` of namespace `one`.
pub(super) fn mirrored(parent: &str, backend: &str, mirror: &str) -> Change {
    let Change::Route(mut route) = routed("one", parent, backend) else { unreachable!() };
    let backend = BackendRef::Service { key: key("one", mirror), port: 80 };
    route.rules[0].filters =
        vec![RouteFilter::Mirror(Mirror { backend, numerator: 1, denominator: 1 })];
    Change::Route(route)
}

pub(super) fn gone(namespace: &str) -> Change {
    Change::RouteGone(RouteKey::new(RouteKind::Http, namespace, "web"))
}

fn http(text: &str, addresses: &[&str]) -> Change {
    let (namespace, name) = text.split_once('/').unwrap();
    Change::Service(service(&key(namespace, name), at(addresses), &[(80, Protocol::Http)]))
}

/// Services of namespace `one` with addresses, and one of another namespace.
fn services() -> Vec<Change> {
    vec![
        http("one/web", &["10.1.0.1"]),
        http("one/v1", &["10.1.0.2"]),
        http("one/v2", &["10.1.0.3"]),
        http("two/far", &["10.1.0.4"]),
    ]
}

const OWN_TABLE: &str = "web.one.svc.cluster.local:80";
const OWN_LISTENER: &str = "10.1.0.1_80";

/// The clusters that requests may be led to by the virtual host with this domain, in a table.
fn leads_to(view: &View, of: &str, domain: &str) -> Vec<String> {
    let hosts = table(view, of).virtual_hosts.into_iter();
    let mut hosts = hosts.filter(|host| host.domains.iter().any(|one| one == domain));
    let routes = hosts.next().unwrap_or_else(|| panic!("no {domain} in {of}")).routes;
    let actions = routes.into_iter().filter_map(|route| match route.action {
        Some(Action::Route(action)) => Some(clusters_of(&action)),
        _ => None,
    });
    actions.flatten().collect()
}

fn cluster(name: &str) -> String {
    format!("outbound|80||{name}.one.svc.cluster.local")
}

fn has(view: &View, of: ResourceType, name: &str) -> bool {
    view.set(of).get(name).is_some()
}

fn listener(view: &View, name: &str) -> Listener {
    Listener::decode(view.set(ResourceType::Listener).get(name).unwrap().value()).unwrap()
}

/// What the filter chain of port 80's common listener says of Services with rules.
fn marked(view: &View) -> bool {
    listener(view, "0.0.0.0_80").filter_chains[0].metadata.is_some()
}

fn captured(namespaces: &[&str]) -> Vec<ViewKey> {
    namespaces.iter().map(|one| ViewKey::new(ProxyKind::Sidecar, Some(one))).collect()
}

fn views_of(mesh: &mut Mesh, keys: &[ViewKey]) -> Vec<Arc<View>> {
    let snapshot = mesh.snapshot(keys);
    keys.iter().map(|key| snapshot.views[key].clone()).collect()
}

/// What differs between two views, by type, as names.
fn changed(before: &View, after: &View) -> Vec<String> {
    let mut all = Vec::new();
    for of in ResourceType::IN_ORDER {
        let diff = after.set(of).diff_from(before.set(of));
        all.extend(diff.changed.iter().map(|one| format!("{} {}", of.short(), one.name)));
        all.extend(diff.removed.iter().map(|name| format!("{} -{name}", of.short())));
    }
    all
}

#[test]
fn a_captured_service_with_rules_is_told_by_its_address() {
    let mut mesh = Mesh::with_changes(services());
    let view = |mesh: &mut Mesh| mesh.view(ProxyKind::Sidecar, Some("two"));
    let before = view(&mut mesh);
    mesh.apply(route("one", "v1"));
    let after = view(&mut mesh);
    assert_eq!(
        changed(&before, &after),
        [
            "lds 0.0.0.0_80".to_owned(),
            format!("lds {OWN_LISTENER}"),
            "rds 80".to_owned(),
            format!("rds {OWN_TABLE}"),
        ]
    );
    assert_eq!(leads_to(&after, OWN_TABLE, "*"), [cluster("v1")]);
    let stub = leads_to(&after, "80", "web.one");
    assert_eq!(stub, ["PassthroughCluster".to_owned(), cluster("web")]);
    assert_eq!(leads_to(&after, "80", "v1.one"), [cluster("v1")]);
    assert!(!marked(&before) && marked(&after));
    let headers = &table(&after, "80").request_headers_to_remove;
    assert_eq!(headers, &["x-pilothouse-destination"]);

    // An edit is the small table alone.
    mesh.apply(route("one", "v2"));
    let edited = view(&mut mesh);
    assert_eq!(changed(&after, &edited), [format!("rds {OWN_TABLE}")]);
    let (one, other) = (ResourceType::Listener, ResourceType::Cluster);
    assert!(Arc::ptr_eq(after.set(one), edited.set(one)));
    assert!(Arc::ptr_eq(after.set(other), edited.set(other)));

    // Without the last rule it is as if there had never been one.
    mesh.apply(gone("one"));
    let last = view(&mut mesh);
    assert!(changed(&before, &last).is_empty());
}

#[test]
fn a_first_rule_of_another_service_drains_the_port_again() {
    let mut mesh = Mesh::with_changes(services());
    mesh.apply(route("one", "v1"));
    let first = mesh.view(ProxyKind::Sidecar, None);
    mesh.apply(routed("one", "one/v2", "v1"));
    let second = mesh.view(ProxyKind::Sidecar, None);
    assert_ne!(
        listener(&first, "0.0.0.0_80").filter_chains[0].metadata,
        listener(&second, "0.0.0.0_80").filter_chains[0].metadata
    );
    // Another address is another listener: connections to the old one are drained with that.
    mesh.apply(http("one/v2", &["10.1.0.9"]));
    let moved = mesh.view(ProxyKind::Sidecar, None);
    assert!(has(&moved, ResourceType::Listener, "10.1.0.9_80"));
    assert!(!has(&moved, ResourceType::Listener, "10.1.0.3_80"));
}

#[test]
fn consumer_routes_are_for_their_namespace_alone() {
    let mut mesh = Mesh::with_changes(services());
    let keys = captured(&["one", "two", "three"]);
    let before = views_of(&mut mesh, &keys);
    mesh.apply(route("two", "v1"));
    let after = views_of(&mut mesh, &keys);
    for at in [0, 2] {
        assert!(changed(&before[at], &after[at]).is_empty());
        for of in ResourceType::IN_ORDER {
            assert!(Arc::ptr_eq(before[at].set(of), after[at].set(of)), "{of:?}");
        }
    }
    assert_eq!(leads_to(&after[1], OWN_TABLE, "*"), [cluster("v1")]);
    assert!(has(&after[1], ResourceType::Listener, OWN_LISTENER) && marked(&after[1]));

    // Producer's for all others; the consumer's own stay.
    mesh.apply(route("one", "v2"));
    let both = views_of(&mut mesh, &keys);
    assert_eq!(leads_to(&both[1], OWN_TABLE, "*"), [cluster("v1")]);
    for at in [0, 2] {
        assert_eq!(leads_to(&both[at], OWN_TABLE, "*"), [cluster("v2")]);
    }
    assert!(changed(&after[1], &both[1]).is_empty(), "not its affair");
    // What is the same for all is there once: the namespace has but its own table.
    let of = ResourceType::Listener;
    assert!(Arc::ptr_eq(both[1].set(of), both[2].set(of)));
    let tables = both[1].set(ResourceType::Route).diff_from(both[2].set(ResourceType::Route));
    let tables: Vec<_> = tables.changed.iter().map(|one| one.name.to_string()).collect();
    assert_eq!(tables, ["80", OWN_TABLE], "80 for the bare name of its own service");

    // The consumer's is edited.
    mesh.apply(route("two", "v2"));
    let edited = views_of(&mut mesh, &keys);
    assert_eq!(changed(&both[1], &edited[1]), [format!("rds {OWN_TABLE}")]);
    for at in [0, 2] {
        assert!(Arc::ptr_eq(
            both[at].set(ResourceType::Route),
            edited[at].set(ResourceType::Route)
        ));
    }
    mesh.apply(gone("two"));
    mesh.apply(gone("one"));
    for (before, last) in before.iter().zip(views_of(&mut mesh, &keys)) {
        assert!(changed(before, &last).is_empty());
    }
}

#[test]
fn a_namespace_with_consumer_routes_has_nothing_of_the_producers_on_other_ports() {
    let web = key("one", "web");
    let ports = [(80, Protocol::Http), (81, Protocol::Http)];
    let mut mesh = Mesh::with_changes(services());
    mesh.apply(Change::Service(service(&web, at(&["10.1.0.1"]), &ports)));
    mesh.apply(route("one", "v1"));
    let Change::Route(mut consumer) = route("two", "v2") else { unreachable!() };
    consumer.parents[0].port = Some(80);
    mesh.apply(Change::Route(consumer));
    let keys = captured(&["two", "three"]);
    let [two, three] = views_of(&mut mesh, &keys).try_into().unwrap();
    let own = "web.one.svc.cluster.local:81";
    assert!(has(&three, ResourceType::Route, own) && !has(&two, ResourceType::Route, own));
    assert!(has(&three, ResourceType::Listener, "10.1.0.1_81"));
    assert!(!has(&two, ResourceType::Listener, "10.1.0.1_81"));
    let plain = "outbound|81||web.one.svc.cluster.local";
    assert_eq!(leads_to(&two, "81", "web.one"), [plain]);
    assert_eq!(leads_to(&three, "81", "web.one"), ["PassthroughCluster", plain]);
}

#[test]
fn who_is_not_told_by_its_address_is_told_by_name() {
    let pods = Change::Service(service(
        &key("one", "web"),
        ServiceKind::Headless,
        &[(80, Protocol::Http)],
    ));
    for (kind, web) in [
        (ProxyKind::Sidecar, http("one/web", &[])),
        (ProxyKind::Sidecar, pods.clone()),
        (ProxyKind::BOUND, http("one/web", &["10.1.0.1"])),
        (ProxyKind::Router, http("one/web", &["10.1.0.1"])),
        (ProxyKind::DEFAULT_STANDALONE, http("one/web", &["10.1.0.1"])),
    ] {
        let mut mesh = Mesh::with_changes(services());
        mesh.apply(web);
        mesh.apply(route("one", "v1"));
        mesh.apply(Change::Service(service(
            &key("two", "alias"),
            ServiceKind::ExternalName("web.one.svc.cluster.local".into()),
            &[],
        )));
        mesh.apply(route("two", "v2"));
        let is_standalone = kind == ProxyKind::DEFAULT_STANDALONE;
        let table = if is_standalone { "http" } else { "80" };
        for (namespace, backend) in [(None, "v1"), (Some("one"), "v1"), (Some("two"), "v2")] {
            let view = mesh.view(kind.clone(), namespace);
            for name in ["web.one", "alias.two"] {
                assert_eq!(leads_to(&view, table, name), [cluster(backend)], "{kind:?}");
            }
            assert!(!has(&view, ResourceType::Route, OWN_TABLE));
            if !is_standalone {
                let common = if kind == ProxyKind::BOUND { "127.0.0.1_80" } else { "0.0.0.0_80" };
                let listener = view.set(ResourceType::Listener).get(common).unwrap();
                let listener = String::from_utf8_lossy(&listener.value()).into_owned();
                assert!(listener.contains("envoy.filters.http.cors"), "{kind:?}");
                assert!(!listener.contains("x-pilothouse-destination"), "{kind:?}");
            }
        }
    }
}

#[test]
fn names_of_pods_and_aliases_of_captured_services_keep_their_meaning() {
    let mut mesh = Mesh::with_changes(services());
    mesh.apply(Change::Service(service(
        &key("two", "alias"),
        ServiceKind::ExternalName("web.one.svc.cluster.local".into()),
        &[],
    )));
    let plain = mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(leads_to(&plain, "80", "alias.two"), [cluster("web")]);
    mesh.apply(route("one", "v1"));
    let ruled = mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(leads_to(&ruled, "80", "alias.two"), leads_to(&ruled, "80", "web.one"));
    mesh.apply(Change::Service(service(
        &key("one", "web"),
        ServiceKind::Headless,
        &[(80, Protocol::Http)],
    )));
    let ruled = mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(leads_to(&ruled, "80", "web.one"), [cluster("v1")]);
    let pods = leads_to(&ruled, "80", "*.web.one.svc.cluster.local");
    assert_eq!(pods, ["PassthroughCluster"]);
}

#[test]
fn a_standalone_proxy_tells_ports_apart_and_answers_for_its_own() {
    let ports = [(80, Protocol::Http), (81, Protocol::Http)];
    let mut mesh = Mesh::with_changes(services());
    mesh.apply(Change::Service(service(&key("one", "web"), at(&[]), &ports)));
    let Change::Route(mut at_81) = route("one", "v1") else { unreachable!() };
    at_81.parents[0].port = Some(81);
    mesh.apply(Change::Route(at_81));
    let view = mesh.view(ProxyKind::DEFAULT_STANDALONE, None);
    assert_eq!(leads_to(&view, "http", "web.one:80"), [cluster("web")]);
    assert_eq!(leads_to(&view, "http", "web.one:81"), [cluster("v1")]);
    let hosts = table(&view, "http").virtual_hosts.into_iter();
    let mut hosts = hosts.filter(|host| host.domains.contains(&"web.one".to_owned()));
    let routes = hosts.next().unwrap().routes;
    let by_port = |route: &envoy_types::pb::envoy::config::route::v3::Route| {
        let headers = &route.r#match.as_ref().unwrap().headers;
        headers.iter().any(|one| one.name == "x-pilothouse-listener-port")
    };
    let conditions: Vec<_> = routes.iter().map(by_port).collect();
    assert_eq!(conditions, [true, true, false]);
    assert!(matches!(&routes[1].action, Some(Action::DirectResponse(to)) if to.status == 404));
}

#[test]
fn a_service_that_is_not_seen_has_no_rules_to_be_seen_either() {
    let only = |namespaces: &[&str]| {
        let export_to = ExportTo::Only(namespaces.iter().map(|one| Arc::from(*one)).collect());
        let plain = service(&key("one", "web"), at(&["10.1.0.1"]), &[(80, Protocol::Http)]);
        Change::Service(Service { export_to, ..plain })
    };
    let mut mesh = Mesh::with_changes(services());
    let keys = captured(&["one", "two", "three"]);
    mesh.apply(route("one", "v1"));
    mesh.apply(only(&["two"]));
    let look = |mesh: &mut Mesh| {
        let views = views_of(mesh, &keys);
        let seen = |view: &Arc<View>| {
            let table = has(view, ResourceType::Route, OWN_TABLE);
            assert_eq!(table, has(view, ResourceType::Listener, OWN_LISTENER));
            assert_eq!(table, marked(view));
            table
        };
        views.iter().map(seen).collect::<Vec<_>>()
    };
    assert_eq!(look(&mut mesh), [false, true, false]);
    mesh.apply(only(&["one", "three"]));
    assert_eq!(look(&mut mesh), [true, false, true]);
    mesh.apply(http("one/web", &["10.1.0.1"]));
    assert_eq!(look(&mut mesh), [true, true, true]);
}

#[test]
fn a_backend_that_goes_takes_its_cluster_along_after_its_routes() {
    let mut mesh = Mesh::with_changes(services());
    mesh.apply(route("one", "v1"));
    mesh.view(ProxyKind::Sidecar, None);
    mesh.apply(Change::ServiceGone(key("one", "v1")));
    let view = mesh.view(ProxyKind::Sidecar, None);
    assert!(leads_to(&view, OWN_TABLE, "*").is_empty(), "answered 500 by Envoy itself");
    assert!(has(&view, ResourceType::Cluster, &cluster("v1")), "it lingers");
    mesh.builder.remove_until(u64::MAX);
    let view = mesh.view(ProxyKind::Sidecar, None);
    assert!(!has(&view, ResourceType::Cluster, &cluster("v1")));
    mesh.apply(http("one/v1", &[]));
    let view = mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(leads_to(&view, OWN_TABLE, "*"), [cluster("v1")], "it is back");
}

/// A route that is refused, or for whom nobody asks, costs proxies nothing.
#[test]
fn routes_that_apply_to_nothing_change_nothing() {
    let mut mesh = Mesh::with_changes(services());
    let before = mesh.snapshot(&views());
    mesh.apply(routed("one", "one/nobody", "v1"));
    let after = mesh.snapshot(&views());
    for (key, view) in &before.views {
        for of in ResourceType::IN_ORDER {
            assert!(Arc::ptr_eq(view.set(of), after.views[key].set(of)), "{key} {of:?}");
        }
    }
    assert_eq!(mesh.builder.route_report().routes.len(), 1);
}
