//! A service that not everybody sees is nowhere in the views of the others.

use std::collections::BTreeMap;

use super::*;

fn exported(key: &ServiceKey, ports: &[(u16, Protocol)], to: Option<&[&str]>) -> Change {
    let export_to = match to {
        None => ExportTo::Everyone,
        Some(namespaces) => ExportTo::Only(namespaces.iter().map(|one| Arc::from(*one)).collect()),
    };
    Change::Service(Service { export_to, ..service(key, at(&["10.1.0.1"]), ports) })
}

/// Everything in a view whose name or content names the service.
fn traces(view: &View, of_service: &str) -> Vec<&'static str> {
    let found = |of: &ResourceType| {
        view.set(*of).iter().any(|one| {
            let content = String::from_utf8_lossy(&one.value()).into_owned();
            one.name.contains(of_service) || content.contains(of_service)
        })
    };
    ResourceType::IN_ORDER.into_iter().filter(found).map(ResourceType::short).collect()
}

const HTTP_AND_TCP: [(u16, Protocol); 2] = [(80, Protocol::Http), (90, Protocol::Tcp)];
const EVERYWHERE: [&str; 4] = ["cds", "eds", "lds", "rds"];

#[test]
fn only_the_namespaces_it_is_exported_to_have_any_of_it() {
    let secret = key("one", "secret");
    let to = |namespaces: &[&str]| exported(&secret, &HTTP_AND_TCP, Some(namespaces));
    let mut mesh = Mesh::with_changes(vec![
        to(&["one", "friend"]),
        Change::Slice(slice(&secret, "s", &[80, 90], &[1])),
    ]);
    for kind in [ProxyKind::Sidecar, ProxyKind::BOUND, ProxyKind::Router] {
        for namespace in ["one", "friend"] {
            let view = mesh.view(kind.clone(), Some(namespace));
            assert_eq!(traces(&view, "secret.one"), EVERYWHERE, "{kind:?} {namespace}");
        }
        for namespace in [None, Some("two")] {
            let view = mesh.view(kind.clone(), namespace);
            assert!(traces(&view, "secret.one").is_empty(), "{kind:?} {namespace:?}");
            // Nor a table or listener that nobody is behind.
            assert!(names(&view, ResourceType::Route).is_empty());
            assert!(names(&view, ResourceType::Listener).iter().all(|name| !name.ends_with("_80")));
        }
    }
    let standalone = |namespace| (ProxyKind::DEFAULT_STANDALONE, namespace);
    let (kind, namespace) = standalone(None);
    assert!(traces(&mesh.view(kind, namespace), "secret.one").is_empty());
    let (kind, namespace) = standalone(Some("friend"));
    assert_eq!(traces(&mesh.view(kind, namespace), "secret.one"), ["cds", "eds", "rds"]);

    // To nobody, not even its own namespace; then to everybody.
    mesh.apply(to(&[]));
    for namespace in [None, Some("one"), Some("friend")] {
        assert!(traces(&mesh.view(ProxyKind::Sidecar, namespace), "secret.one").is_empty());
    }
    mesh.apply(exported(&secret, &HTTP_AND_TCP, None));
    for namespace in [None, Some("one"), Some("two")] {
        assert_eq!(traces(&mesh.view(ProxyKind::Sidecar, namespace), "secret.one"), EVERYWHERE);
    }
}

#[test]
fn namespaces_that_see_nothing_of_their_own_share_everything() {
    let secret = key("one", "secret");
    let mut mesh = Mesh::with_changes(vec![
        exported(&key("one", "open"), &HTTP_AND_TCP, None),
        exported(&secret, &[(81, Protocol::Http)], Some(&["friend"])),
        Change::Slice(slice(&secret, "s", &[80, 81], &[1])),
    ]);
    let keys = ["two", "three", "friend"]
        .map(|namespace| ViewKey::new(ProxyKind::Sidecar, Some(namespace)));
    let views = |mesh: &mut Mesh| {
        let snapshot = mesh.snapshot(&keys);
        keys.each_ref().map(|key| snapshot.views[key].clone())
    };
    let before = views(&mut mesh);
    let [two, three, friend] = &before;
    for of in ResourceType::IN_ORDER {
        assert!(Arc::ptr_eq(two.set(of), three.set(of)), "{of:?}");
        let diff = friend.set(of).diff_from(two.set(of));
        assert_eq!(
            (diff.changed.len(), diff.removed.len()),
            (1, 0),
            "{of:?}: the one thing it sees more"
        );
    }
    // A change of its endpoints is nothing to those who do not see it.
    mesh.apply(Change::Slice(slice(&secret, "s", &[80, 81], &[1, 2])));
    let [two, _, friend] = views(&mut mesh);
    let eds = ResourceType::Endpoint;
    assert!(Arc::ptr_eq(two.set(eds), before[0].set(eds)));
    assert_eq!(friend.set(eds).diff_from(before[2].set(eds)).changed.len(), 1);
}

#[test]
fn who_gets_a_listener_is_between_those_that_a_namespace_sees() {
    let tcp = |name: &str, to| exported(&key("one", name), &[(90, Protocol::Tcp)], to);
    let mut mesh = Mesh::with_changes(vec![tcp("a", Some(&["friend"][..])), tcp("b", None)]);
    let leads_to = |view: &View| {
        let listener = view.set(ResourceType::Listener).get("0.0.0.0_90").unwrap();
        let text = String::from_utf8_lossy(&listener.value()).into_owned();
        if text.contains("||a.one") { "a" } else { "b" }
    };
    assert_eq!(leads_to(&mesh.view(ProxyKind::Router, Some("friend"))), "a");
    assert_eq!(leads_to(&mesh.view(ProxyKind::Router, None)), "b");
    assert!(mesh.builder.conflicts.is_empty(), "nobody who sees both publicly");
}

#[test]
fn what_was_hidden_lingers_hidden() {
    let secret = key("one", "secret");
    let cluster = "outbound|80||secret.one.svc.cluster.local";
    let mut mesh = Mesh::with_changes(vec![exported(&secret, &HTTP_AND_TCP, Some(&["friend"]))]);
    let has = |mesh: &mut Mesh, namespace| {
        names(&mesh.view(ProxyKind::Sidecar, Some(namespace)), ResourceType::Cluster)
            .contains(&cluster)
    };
    assert!(has(&mut mesh, "friend"));
    mesh.apply(Change::ServiceGone(secret));
    assert!(has(&mut mesh, "friend") && !has(&mut mesh, "two"));
    mesh.builder.remove_until(u64::MAX);
    assert!(!has(&mut mesh, "friend"));
}

/// The tables of namespaces are made of slices of everybody's: nothing is lost at their ends, and a change of what
/// is public or whom it is shown to shifts them all.
#[test]
fn a_table_has_the_services_that_its_namespace_sees_in_the_order_of_their_keys() {
    const NAMESPACES: [&str; 4] = ["a", "b", "c", "d"];
    let http = [(80, Protocol::Http)];
    let keys: Vec<ServiceKey> = NAMESPACES[..3]
        .iter()
        .flat_map(|namespace| (0..4).map(|at| key(namespace, &format!("s{at}"))))
        .collect();
    let all = keys.iter().map(|one| exported(one, &http, None)).collect();
    let mut mesh = Mesh::with_changes(all);
    let mut exports: BTreeMap<&ServiceKey, Option<&[&str]>> =
        keys.iter().map(|one| (one, None)).collect();
    let steps: [(usize, Option<&[&str]>); 7] = [
        (4, Some(&["b"])),
        (11, Some(&["a", "b"])),
        (0, Some(&["a"])),
        (5, Some(&["d", "b"])),
        (0, Some(&["b"])),
        (11, None),
        (6, Some(&[])),
    ];
    for (at, to) in steps {
        mesh.apply(exported(&keys[at], &http, to));
        exports.insert(&keys[at], to);
        for namespace in NAMESPACES.map(Some).into_iter().chain([None]) {
            let view = mesh.view(ProxyKind::Sidecar, namespace);
            let hosts = table(&view, "80").virtual_hosts;
            let has = |one: &&ServiceKey| {
                let host = format!("{}.{}", one.name, one.namespace);
                hosts.iter().position(|hosts| hosts.domains.contains(&host))
            };
            let seen: Vec<_> = keys.iter().filter(|one| has(one).is_some()).collect();
            let expected: Vec<_> = keys
                .iter()
                .filter(|one| {
                    exports[one].is_none_or(|to| to.iter().any(|to| Some(*to) == namespace))
                })
                .collect();
            assert_eq!(seen, expected, "{namespace:?} after {at} {to:?}");
            assert!(seen.is_sorted_by_key(has), "{namespace:?} after {at} {to:?}");
            let bare = hosts.iter().filter(|one| one.domains.iter().any(|one| one == "s1"));
            let own = seen.iter().filter(|one| Some(&*one.namespace) == namespace);
            assert_eq!(bare.count(), own.filter(|one| &*one.name == "s1").count());
        }
    }
}
