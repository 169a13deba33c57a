//! What the views of zones share, and what a change in one service costs them.

use super::*;
use crate::model::{Node, Scope};

fn in_zone(zone: &str) -> ViewKey {
    ViewKey { zone: Some(zone.into()), ..ViewKey::new(ProxyKind::Sidecar, Some("one")) }
}

/// In zones a and b in turn.
fn zoned_slice(key: &ServiceKey, hosts: &[u8]) -> Change {
    let mut slice = slice(key, &format!("{}-1", key.name), &[80], hosts);
    for (endpoint, zone) in slice.subsets[0].endpoints.iter_mut().zip(["a", "b"].iter().cycle()) {
        endpoint.zone = Some((*zone).into());
    }
    Change::Slice(slice)
}

fn near_service(key: &ServiceKey, prefers_own_zone: bool) -> Change {
    let plain = service(key, at(&[]), &[(80, Protocol::Http)]);
    Change::Service(Service { prefers_own_zone, ..plain })
}

const NEAR: &str = "outbound|80||near.one.svc.cluster.local";
const PLAIN: &str = "outbound|80||plain.one.svc.cluster.local";

#[test]
fn zones_share_all_but_the_services_that_ask_for_nearness() {
    let (near, plain) = (key("one", "near"), key("one", "plain"));
    let mut mesh = Mesh::with_changes(vec![
        near_service(&near, true),
        zoned_slice(&near, &[1, 2]),
        near_service(&plain, false),
        zoned_slice(&plain, &[3, 4]),
    ]);
    let keys = [
        in_zone("a"),
        in_zone("b"),
        in_zone("empty"),
        ViewKey::new(ProxyKind::Sidecar, Some("one")),
    ];
    let all = |mesh: &mut Mesh| {
        let snapshot = mesh.snapshot(&keys);
        keys.each_ref().map(|key| snapshot.views[key].clone())
    };
    let [a, b, empty, none] = all(&mut mesh);
    let eds =
        |view: &Arc<View>, name: &str| view.set(ResourceType::Endpoint).get(name).unwrap().clone();
    assert!(Arc::ptr_eq(&eds(&a, PLAIN), &eds(&b, PLAIN)));
    assert!(Arc::ptr_eq(&eds(&a, PLAIN), &eds(&none, PLAIN)));
    assert!(eds(&a, NEAR) != eds(&b, NEAR) && eds(&a, NEAR) != eds(&none, NEAR));
    assert!(Arc::ptr_eq(empty.set(ResourceType::Endpoint), none.set(ResourceType::Endpoint)));
    for of in [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route] {
        assert!(Arc::ptr_eq(a.set(of), none.set(of)), "{of:?} does not depend on the zone");
    }

    // A change of the service is one resource in each zone, of another one the same resource.
    mesh.apply(zoned_slice(&near, &[1, 2, 5]));
    let [a2, b2, _, none2] = all(&mut mesh);
    for (old, new) in [(&a, &a2), (&b, &b2), (&none, &none2)] {
        let diff = new.set(ResourceType::Endpoint).diff_from(old.set(ResourceType::Endpoint));
        assert_eq!(diff.changed.iter().map(|one| &*one.name).collect::<Vec<_>>(), [NEAR]);
    }
    mesh.apply(zoned_slice(&plain, &[3]));
    let [a3, _, _, none3] = all(&mut mesh);
    assert!(Arc::ptr_eq(&eds(&a3, PLAIN), &eds(&none3, PLAIN)));
    assert!(Arc::ptr_eq(&eds(&a3, NEAR), &eds(&a2, NEAR)));

    // Nobody asks any more.
    mesh.apply(near_service(&near, false));
    let [a4, b4, _, none4] = all(&mut mesh);
    assert!(Arc::ptr_eq(a4.set(ResourceType::Endpoint), none4.set(ResourceType::Endpoint)));
    assert!(Arc::ptr_eq(b4.set(ResourceType::Endpoint), none4.set(ResourceType::Endpoint)));
}

#[test]
fn a_region_that_becomes_known_shows_in_its_zones_and_is_no_news_twice() {
    let plain = key("one", "plain");
    let mut mesh =
        Mesh::with_changes(vec![near_service(&plain, false), zoned_slice(&plain, &[3, 4])]);
    let before = mesh.view(ProxyKind::Sidecar, None);
    let node = |name: &str, zone: &str, region: &str| Node {
        name: name.into(),
        zone: Some(zone.into()),
        region: Some(region.into()),
    };
    mesh.apply(Change::Nodes(vec![node("n1", "a", "r1"), node("n2", "c", "r1")]));
    let after = mesh.view(ProxyKind::Sidecar, None);
    let text = |view: &View| {
        let resource = view.set(ResourceType::Endpoint).get(PLAIN).unwrap().clone();
        String::from_utf8_lossy(&resource.value()).into_owned()
    };
    assert!(!text(&before).contains("r1") && text(&after).contains("r1"));
    mesh.dirty.services.clear();
    mesh.apply(Change::Node(node("n3", "a", "r1")));
    mesh.apply(Change::Node(node("n4", "a", "another: the first by name is believed")));
    mesh.apply(Change::NodeGone("n2".into()));
    mesh.apply(Change::NodeGone("never".into()));
    let left: Vec<_> = mesh.dirty.services.iter().collect();
    // n2's zone lost its region, so that all are looked at; nothing comes of it here.
    assert_eq!(left, [&plain]);
    assert_eq!(text(&mesh.view(ProxyKind::Sidecar, None)), text(&after));
    // A relist of slices keeps it.
    let Change::Slice(slice) = zoned_slice(&plain, &[3]) else { unreachable!() };
    mesh.apply(Change::Slices(Scope::All, vec![Arc::new(slice)]));
    assert!(text(&mesh.view(ProxyKind::Sidecar, None)).contains("r1"));
}

#[test]
fn a_service_that_returns_before_its_clusters_are_removed_has_nothing_left_of_its_zones() {
    let near = key("one", "near");
    let mut mesh = Mesh::with_changes(vec![near_service(&near, true), zoned_slice(&near, &[1, 2])]);
    let keys = [in_zone("a"), ViewKey::new(ProxyKind::Sidecar, Some("one"))];
    let [zoned, all] = keys.each_ref().map(|key| mesh.snapshot(&keys).views[key].clone());
    assert!(
        zoned.set(ResourceType::Endpoint).get(NEAR) != all.set(ResourceType::Endpoint).get(NEAR)
    );

    mesh.apply(Change::ServiceGone(near.clone()));
    mesh.update();
    mesh.apply(near_service(&near, false));
    let snapshot = mesh.snapshot(&keys);
    let [zoned, all] = keys.each_ref().map(|key| snapshot.views[key].set(ResourceType::Endpoint));
    assert!(Arc::ptr_eq(zoned, all));
}
