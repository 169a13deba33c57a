//! What the views of nodes differ in, and which nodes have any.

use super::inbound_ports::Followed;
use super::*;
use crate::view::ViewRequest;

const LOCAL: &str = "outbound|80||local.one.svc.cluster.local";
const PLAIN: &str = "outbound|80||plain.one.svc.cluster.local";

fn on_node(zone: Option<&str>, node: Option<&str>) -> ViewKey {
    let (zone, node) = (zone.map(Into::into), node.map(Into::into));
    ViewKey { zone, node, ..ViewKey::new(ProxyKind::Sidecar, Some("one")) }
}

/// One endpoint on each of these nodes.
fn spread(key: &ServiceKey, nodes: &[&str]) -> Change {
    let hosts: Vec<u8> = (1..).take(nodes.len()).collect();
    let mut slice = slice(key, &format!("{}-1", key.name), &[80], &hosts);
    for (endpoint, node) in slice.subsets[0].endpoints.iter_mut().zip(nodes) {
        endpoint.node = Some((*node).into());
    }
    Change::Slice(slice)
}

fn local_service(key: &ServiceKey, node_local: bool) -> Change {
    let plain = service(key, at(&[]), &[(80, Protocol::Http)]);
    Change::Service(Service { node_local, ..plain })
}

#[test]
fn nodes_share_all_but_the_services_that_are_for_their_own_node_alone() {
    let (local, plain) = (key("one", "local"), key("one", "plain"));
    let mut mesh = Mesh::with_changes(vec![
        local_service(&local, true),
        spread(&local, &["n1", "n2"]),
        local_service(&plain, false),
        spread(&plain, &["n1", "n2"]),
    ]);
    let keys = [
        on_node(None, Some("n1")),
        on_node(Some("a"), Some("n2")),
        on_node(None, None),
        on_node(Some("a"), None),
    ];
    let all = |mesh: &mut Mesh| {
        let snapshot = mesh.snapshot(&keys);
        keys.each_ref().map(|key| snapshot.views[key].clone())
    };
    let eds =
        |view: &Arc<View>, name: &str| view.set(ResourceType::Endpoint).get(name).unwrap().clone();
    let [one, two, none, zone] = all(&mut mesh);
    let distinct = [&one, &two, &none].map(|view| eds(view, LOCAL).value().to_vec());
    assert!(distinct[0] != distinct[1] && distinct[1] != distinct[2] && distinct[0] != distinct[2]);
    assert!(
        Arc::ptr_eq(&eds(&none, LOCAL), &eds(&zone, LOCAL)),
        "nobody's node, whatever the zone"
    );
    for view in [&one, &two, &zone] {
        assert!(Arc::ptr_eq(&eds(view, PLAIN), &eds(&none, PLAIN)));
        for of in [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route] {
            assert!(Arc::ptr_eq(view.set(of), none.set(of)), "{of:?} does not depend on the node");
        }
    }
    // A new endpoint on one node is news there alone.
    mesh.apply(spread(&local, &["n1", "n2", "n1"]));
    let [one2, two2, none2, _] = all(&mut mesh);
    assert!(eds(&one2, LOCAL) != eds(&one, LOCAL));
    assert_eq!(eds(&two2, LOCAL), eds(&two, LOCAL));
    assert_eq!(eds(&none2, LOCAL), eds(&none, LOCAL));
    // It is for all again.
    mesh.apply(local_service(&local, false));
    let [one3, _, none3, _] = all(&mut mesh);
    assert!(Arc::ptr_eq(one3.set(ResourceType::Endpoint), none3.set(ResourceType::Endpoint)));
}

#[test]
fn a_node_without_such_endpoints_has_the_view_of_none() {
    let local = key("one", "local");
    let mut followed = Followed::default();
    let apply = |followed: &mut Followed, change| {
        let moved = followed.apply(vec![change]);
        moved.iter().map(|(_, view)| view.node.as_deref().map(str::to_owned)).collect::<Vec<_>>()
    };
    let request = |node: &str| ViewRequest {
        view: on_node(None, Some(node)),
        addresses: Arc::from([IpAddr::from([10, 9, 9, 9])]),
        peer: None,
    };
    apply(&mut followed, spread(&local, &["n1"]));
    apply(&mut followed, local_service(&local, false));
    for node in ["n1", "made-up-1", "made-up-2"] {
        assert_eq!(
            followed.add_request(&request(node)).unwrap().node,
            None,
            "no service asks for it"
        );
    }
    assert_eq!(followed.assigner.views().count(), 1);
    let some = |node: &str| Some(node.to_owned());
    assert_eq!(apply(&mut followed, local_service(&local, true)), [some("n1")]);
    assert_eq!(followed.assigner.views().count(), 2);
    let moved = apply(&mut followed, spread(&local, &["n1", "made-up-1"]));
    assert_eq!(moved, [some("made-up-1")]);
    assert!(apply(&mut followed, spread(&local, &["made-up-1", "n1"])).is_empty());
    let moved = apply(&mut followed, Change::ServiceGone(local));
    // With the last service its namespace is gone too, which one of them has named.
    assert_eq!(moved, [None, None, None]);
    for node in ["n1", "made-up-1", "made-up-2"] {
        followed.remove_request(&request(node));
    }
    assert_eq!(followed.assigner.views().count(), 0);
}
