//! What on-demand sidecars have beside, and instead of, what everybody has.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::config::route::v3::{Route as EnvoyRoute, route::Action};

use super::*;
use crate::model::TrafficPolicy;

const HTTP: &[(u16, Protocol)] = &[(80, Protocol::Http)];

fn on_demand(mesh: &mut Mesh, namespace: &str) -> Arc<View> {
    mesh.view(ProxyKind::OnDemandSidecar, Some(namespace))
}

fn plain(namespace: &str, name: &str, address: &str) -> Change {
    Change::Service(service(&key(namespace, name), at(&[address]), HTTP))
}

#[test]
fn one_plain_service_more_changes_neither_tables_nor_listeners() {
    let mut mesh =
        Mesh::with_changes(vec![plain("one", "web", "10.1.0.1"), plain("two", "shop", "10.1.0.2")]);
    let before = on_demand(&mut mesh, "one");
    // In the proxy's namespace and in another one.
    for (namespace, name, address) in [("one", "new", "10.1.0.3"), ("two", "new", "10.1.0.4")] {
        mesh.apply(plain(namespace, name, address));
        let after = on_demand(&mut mesh, "one");
        for of in [ResourceType::Route, ResourceType::Listener] {
            assert!(Arc::ptr_eq(before.set(of), after.set(of)), "{of:?}");
        }
        let cluster = format!("outbound|80||{address}");
        assert!(names(&after, ResourceType::Cluster).contains(&&*cluster));
    }
    // The first one with addresses somewhere else does.
    mesh.apply(plain("two", "far", "10.7.0.1"));
    let after = on_demand(&mut mesh, "one");
    assert!(!Arc::ptr_eq(before.set(ResourceType::Route), after.set(ResourceType::Route)));
    assert!(Arc::ptr_eq(before.set(ResourceType::Listener), after.set(ResourceType::Listener)));
}

#[test]
fn a_cluster_of_an_address_is_the_services_under_another_name() {
    let mut mesh = Mesh::with_changes(vec![
        Change::Service(service(&key("one", "web"), at(&["10.1.0.1", "fd00::1"]), HTTP)),
        Change::Slice(slice(&key("one", "web"), "web-1", &[80], &[1])),
    ]);
    let view = on_demand(&mut mesh, "two");
    let host = "outbound|80||web.one.svc.cluster.local";
    for of in [ResourceType::Cluster, ResourceType::Endpoint] {
        let value = |name: &str| view.set(of).get(name).expect(name).value();
        for address in ["outbound|80||10.1.0.1", "outbound|80||fd00::1"] {
            let bytes = value(address);
            assert!(bytes.starts_with(&value(host)), "{of:?}");
            if of == ResourceType::Cluster {
                let [own, by_address] =
                    [value(host), bytes].map(|bytes| Cluster::decode(bytes).unwrap());
                assert_eq!(by_address.name, address);
                assert_eq!(Cluster { name: own.name.clone(), ..by_address }, own);
                assert!(own.alt_stat_name.contains("web.one"), "{own:?}");
            }
        }
    }
    let all = mesh.view(ProxyKind::Sidecar, Some("two"));
    assert!(!names(&all, ResourceType::Cluster).contains(&"outbound|80||10.1.0.1"));
}

#[test]
fn what_needs_a_route_of_its_own_has_it_and_no_cluster_by_address() {
    let with = |change: fn(&mut TrafficPolicy)| {
        let mut one = service(&key("one", "web"), at(&["10.1.0.1"]), HTTP);
        change(&mut one.traffic_policy);
        Change::Service(one)
    };
    let by_address = "outbound|80||10.1.0.1";
    let mut mesh = Mesh::with_changes(vec![with(|_| ())]);
    assert!(names(&on_demand(&mut mesh, "two"), ResourceType::Cluster).contains(&by_address));
    assert_eq!(domains(&on_demand(&mut mesh, "two"), "80"), ["*"]);
    mesh.apply(with(|policy| policy.request_timeout = Some(Duration::from_secs(1))));
    let view = on_demand(&mut mesh, "two");
    assert!(domains(&view, "80").contains(&"web.one".to_owned()));
    assert!(names(&view, ResourceType::Cluster).contains(&by_address), "it lingers");
    mesh.builder.remove_until(u64::MAX);
    let view = on_demand(&mut mesh, "two");
    for of in [ResourceType::Cluster, ResourceType::Endpoint] {
        assert!(!names(&view, of).contains(&by_address), "{of:?}");
    }
    // Headless, and an alias.
    mesh.apply(Change::Service(service(&key("one", "pods"), ServiceKind::Headless, HTTP)));
    let alias = ServiceKind::ExternalName("pods.one.svc.cluster.local".into());
    mesh.apply(Change::Service(service(&key("one", "near"), alias, &[])));
    let domains = domains(&on_demand(&mut mesh, "two"), "80");
    for domain in ["pods.one", "near.one", "*.pods.one.svc"] {
        assert!(domains.contains(&domain.to_owned()), "{domain} in {domains:?}");
    }
}

#[test]
fn an_address_is_its_owners_and_of_who_may_not_see_that_nobodys() {
    let hidden = Service {
        export_to: ExportTo::Only(["one".into()].into()),
        ..service(&key("one", "web"), at(&["10.1.0.1"]), HTTP)
    };
    let mut mesh =
        Mesh::with_changes(vec![Change::Service(hidden), plain("two", "late", "10.1.0.1")]);
    let by_address = |mesh: &mut Mesh, namespace: &str| {
        let view = on_demand(mesh, namespace);
        let cluster = view.set(ResourceType::Cluster).get("outbound|80||10.1.0.1").cloned();
        cluster.map(|one| String::from_utf8_lossy(&one.value()).contains("web.one"))
    };
    assert_eq!(by_address(&mut mesh, "one"), Some(true));
    assert_eq!(by_address(&mut mesh, "two"), None);
    mesh.apply(Change::ServiceGone(key("one", "web")));
    mesh.update();
    mesh.builder.remove_until(u64::MAX);
    assert_eq!(by_address(&mut mesh, "two"), Some(false), "the other one's");
}

/// Envoy asks for no cluster to send a copy to, so a wildcard has it.
#[test]
fn a_mirror_has_a_cluster_that_nobody_has_to_name() {
    let [outbound, mirror] =
        ["outbound", "mirror"].map(|kind| format!("{kind}|80||shadow.one.svc.cluster.local"));
    let mut mesh = Mesh::with_changes(vec![
        plain("one", "web", "10.1.0.1"),
        plain("one", "shadow", "10.1.0.2"),
        Change::Slice(slice(&key("one", "shadow"), "shadow-1", &[80], &[1])),
    ]);
    let has = |view: &View, name: &str| {
        [ResourceType::Cluster, ResourceType::Endpoint].map(|of| view.set(of).get(name).is_some())
    };
    assert_eq!(has(&on_demand(&mut mesh, "two"), &mirror), [false; 2]);
    mesh.apply(routes::mirrored("one/web", "web", "shadow"));
    let all = mesh.view(ProxyKind::Sidecar, Some("two"));
    assert_eq!(has(&all, &mirror), [false; 2]);
    let own = on_demand(&mut mesh, "two");
    assert_eq!(has(&own, &mirror), [true; 2]);
    let clusters = own.set(ResourceType::Cluster);
    assert!(!clusters.is_named_only(&mirror) && clusters.is_named_only(&outbound));
    let copies_go_to = |view: &View| -> Vec<String> {
        let policies = |route: EnvoyRoute| match route.action {
            Some(Action::Route(action)) => action.request_mirror_policies,
            _ => Vec::new(),
        };
        let all = random_routes::envoy_routes(view).into_iter().flat_map(policies);
        all.map(|policy| policy.cluster).collect()
    };
    assert_eq!((copies_go_to(&own), copies_go_to(&all)), (vec![mirror.clone()], vec![outbound]));
    mesh.apply(routes::gone("one"));
    assert_eq!(has(&on_demand(&mut mesh, "two"), &mirror), [true; 2], "it lingers");
    mesh.builder.remove_until(u64::MAX);
    assert_eq!(has(&on_demand(&mut mesh, "two"), &mirror), [false; 2]);
}

#[test]
fn nothing_is_made_for_who_is_not_there() {
    let mut mesh = Mesh::with_changes(vec![plain("one", "web", "10.1.0.1")]);
    let all = views();
    let before = content(&mesh.snapshot(&all));
    let both: Vec<ViewKey> = all.iter().cloned().chain(on_demand_views()).collect();
    let beside = content(&mesh.snapshot(&both));
    let of_others: Vec<_> =
        beside.into_iter().filter(|line| !line.starts_with("on-demand")).collect();
    assert_eq!(of_others, before, "others get what they had");
    assert!(mesh.builder.has_on_demand_sets());
    mesh.snapshot(&all);
    assert!(!mesh.builder.has_on_demand_sets());
}

fn cluster(view: &View, name: &str) -> Option<Cluster> {
    let found = view.set(ResourceType::Cluster).get(name)?;
    Some(Cluster::decode(found.value()).unwrap())
}

fn endpoints(view: &View, name: &str) -> Option<ClusterLoadAssignment> {
    let found = view.set(ResourceType::Endpoint).get(name)?;
    Some(ClusterLoadAssignment::decode(found.value()).unwrap())
}

/// Whose the cluster under this name is, by its statistics.
fn owner(view: &View, name: &str) -> Option<String> {
    let of = cluster(view, name)?.alt_stat_name;
    Some(of.split('|').nth(3)?.split('.').next()?.to_owned())
}

/// None has a name in them.
#[test]
fn all_namespaces_share_the_tables_of_plain_services() {
    let mut mesh =
        Mesh::with_changes(vec![plain("one", "web", "10.1.0.1"), plain("two", "shop", "10.1.0.2")]);
    let keys = ["one", "two", "nobody"]
        .map(|namespace| ViewKey::new(ProxyKind::OnDemandSidecar, Some(namespace)));
    let snapshot = mesh.snapshot(&keys);
    let [one, two, nobody] =
        keys.each_ref().map(|key| snapshot.views[key].set(ResourceType::Route));
    assert!(Arc::ptr_eq(one, two) && Arc::ptr_eq(one, nobody));
}

/// The first claim by key counts, and what changes hands does not go with who had it.
#[test]
fn an_address_that_changes_hands_keeps_its_cluster() {
    let address = "outbound|80||10.1.0.1";
    let mut mesh = Mesh::with_changes(vec![plain("one", "b", "10.1.0.1")]);
    let look = |mesh: &mut Mesh| {
        let first = owner(&on_demand(mesh, "two"), address);
        mesh.builder.remove_until(u64::MAX);
        let view = on_demand(mesh, "two");
        assert_eq!(owner(&view, address), first);
        assert_eq!(endpoints(&view, address).is_some(), first.is_some());
        first
    };
    assert_eq!(look(&mut mesh).as_deref(), Some("b"));
    mesh.apply(plain("one", "a", "10.1.0.1"));
    assert_eq!(look(&mut mesh).as_deref(), Some("a"));
    mesh.apply(Change::ServiceGone(key("one", "a")));
    assert_eq!(look(&mut mesh).as_deref(), Some("b"));
    mesh.apply(Change::ServiceGone(key("one", "b")));
    mesh.apply(plain("one", "c", "10.1.0.1"));
    assert_eq!(look(&mut mesh).as_deref(), Some("c"));
}

#[test]
fn a_name_that_was_to_go_stays_for_views_that_are_opened_meanwhile() {
    let address = "outbound|80||10.1.0.1";
    let mut mesh = Mesh::with_changes(vec![plain("one", "a", "10.1.0.1")]);
    on_demand(&mut mesh, "two");
    mesh.apply(Change::ServiceGone(key("one", "a")));
    assert_eq!(owner(&on_demand(&mut mesh, "two"), address).as_deref(), Some("a"), "it lingers");
    // No proxy is on demand for a moment, in which another service gets the address.
    mesh.view(ProxyKind::Sidecar, None);
    mesh.apply(plain("one", "b", "10.1.0.1"));
    mesh.view(ProxyKind::Sidecar, None);
    assert_eq!(owner(&on_demand(&mut mesh, "two"), address).as_deref(), Some("b"));
    mesh.builder.remove_until(u64::MAX);
    assert_eq!(owner(&on_demand(&mut mesh, "two"), address).as_deref(), Some("b"));
}

#[test]
fn who_does_not_see_a_service_passes_its_address_through() {
    let secret = Service {
        export_to: ExportTo::Only(["one".into()].into()),
        ..service(&key("one", "secret"), at(&["10.1.0.1"]), HTTP)
    };
    let mut mesh = Mesh::with_changes(vec![Change::Service(secret), plain("one", "b", "10.1.0.2")]);
    let address = "outbound|80||10.1.0.1";
    assert_eq!(owner(&on_demand(&mut mesh, "one"), address).as_deref(), Some("secret"));
    let other = on_demand(&mut mesh, "two");
    assert_eq!(cluster(&other, address), None);
    let fallback = other.set(ResourceType::Cluster).fallback(address).unwrap();
    let fallback = Cluster::decode(fallback.value()).unwrap();
    assert_eq!((&*fallback.name, &*fallback.alt_stat_name), (address, "PassthroughCluster"));
    for unknown in ["outbound|80||nobody.one.svc.cluster.local", "outbound|x||10.1.0.9", "x"] {
        assert!(other.set(ResourceType::Cluster).fallback(unknown).is_none(), "{unknown}");
    }
}

#[test]
fn endpoints_by_address_follow_the_zone() {
    let mut near = service(&key("one", "web"), at(&["10.1.0.1"]), HTTP);
    near.prefers_own_zone = true;
    let mut slice = slice(&key("one", "web"), "web-1", &[80], &[1, 2]);
    for (zone, endpoint) in ["a", "b"].into_iter().zip(&mut slice.subsets[0].endpoints) {
        endpoint.zone = Some(zone.into());
    }
    let mut mesh = Mesh::with_changes(vec![Change::Service(near), Change::Slice(slice)]);
    let keys = ["a", "b"].map(|zone| ViewKey {
        zone: Some(zone.into()),
        ..ViewKey::new(ProxyKind::OnDemandSidecar, Some("one"))
    });
    let snapshot = mesh.snapshot(&keys);
    let [a, b] =
        keys.each_ref().map(|key| endpoints(&snapshot.views[key], "outbound|80||10.1.0.1"));
    assert_ne!(a, b);
    let first = |of: &Option<ClusterLoadAssignment>| {
        let near = of.as_ref().unwrap().endpoints.iter().find(|group| group.priority == 0);
        near.and_then(|group| group.locality.clone()).map(|locality| locality.zone)
    };
    assert_eq!((first(&a).as_deref(), first(&b).as_deref()), (Some("a"), Some("b")));
}
