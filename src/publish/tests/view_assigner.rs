//! What a proxy says of itself counts as far as the mesh knows of it, and has its bounds.

use pilothouse_xds_server::PeerKey;

use super::super::view_assigner::ViewAssigner;
use super::inbound_ports::{Followed, HTTP, web};
use super::*;
use crate::model::Node;
use crate::view::{TooManyViews, ViewLimits, ViewRequest};

fn router(namespace: Option<&str>, zone: Option<&str>) -> ViewRequest {
    let view = ViewKey { zone: zone.map(Arc::from), ..ViewKey::new(ProxyKind::Router, namespace) };
    ViewRequest { view, addresses: Arc::default(), peer: None }
}

fn of_peer(request: ViewRequest, peer: &str) -> ViewRequest {
    let address = peer.parse().map(PeerKey::Address);
    let peer = address.unwrap_or_else(|_| PeerKey::Principal(peer.into()));
    ViewRequest { peer: Some(peer), ..request }
}

impl Followed {
    fn view(&mut self, request: &ViewRequest) -> ViewKey {
        (*self.add_request(request).unwrap()).clone()
    }
}

#[test]
fn proxies_that_make_up_where_they_are_share_the_view_of_those_who_say_nothing() {
    let mut followed = Followed::with_changes(vec![web(&[HTTP])]);
    let nowhere = followed.view(&router(None, None));
    for number in 0..1000 {
        let (namespace, zone) = (format!("namespace-{number}"), format!("zone-{number}"));
        assert_eq!(followed.view(&router(Some(&namespace), Some(&zone))), nowhere);
    }
    assert_eq!(followed.assigner.views().count(), 1);
    assert_eq!(followed.view(&router(Some("one"), None)).namespace.as_deref(), Some("one"));
}

#[test]
fn a_namespace_counts_once_a_service_lives_in_it_or_is_exported_to_it_and_no_longer() {
    let mut followed = Followed::with_changes(vec![web(&[HTTP])]);
    let request = router(Some("two"), None);
    assert_eq!(followed.view(&request).namespace, None);
    let of_two = key("two", "web");
    let plain = |key: &ServiceKey| service(key, at(&[]), &[HTTP]);
    let exported = Service {
        export_to: ExportTo::Only(["two"].into_iter().map(Arc::from).collect()),
        ..plain(&key("one", "secret"))
    };
    let (here, gone) = (Some("two"), None);
    for (change, namespace) in [
        (Change::Service(plain(&of_two)), here),
        (Change::ServiceGone(of_two), gone),
        (Change::Service(exported), here),
        (Change::Service(plain(&key("one", "secret"))), gone),
        // Clients with rules of their own need no service of their own.
        (routes::route("two", "web"), here),
        (routes::gone("two"), gone),
    ] {
        let moved = followed.apply(vec![change]);
        let [(who, view)] = moved.as_slice() else { panic!("{moved:?}") };
        assert_eq!((who, view.namespace.as_deref()), (&request, namespace));
    }
    followed.remove_request(&request);
    let back = Change::Service(plain(&key("two", "web")));
    assert!(followed.apply(vec![back]).is_empty(), "nobody asks any more");
}

#[test]
fn a_zone_counts_once_an_endpoint_or_a_node_is_in_it_and_no_longer() {
    let web_key = key("one", "web");
    let in_zone = |zone: Option<&str>, meant_for: &[&str]| {
        let mut slice = slice(&web_key, "web-1", &[80], &[1]);
        let endpoint = &mut slice.subsets[0].endpoints[0];
        endpoint.zone = zone.map(Arc::from);
        endpoint.for_zones = meant_for.iter().map(|zone| Arc::from(*zone)).collect();
        Change::Slice(slice)
    };
    let node = Node { name: "n".into(), zone: Some("a".into()), region: Some("r".into()) };
    let mut followed = Followed::with_changes(vec![web(&[HTTP]), in_zone(None, &[])]);
    let request = router(None, Some("a"));
    assert_eq!(followed.view(&request).zone, None);
    for (change, zone) in [
        (in_zone(Some("a"), &[]), Some("a")),
        (in_zone(Some("b"), &[]), None),
        (in_zone(Some("b"), &["a"]), Some("a")),
        (Change::SliceGone { namespace: "one".into(), name: "web-1".into() }, None),
        (Change::Node(node), Some("a")),
        (Change::NodeGone("n".into()), None),
    ] {
        let moved = followed.apply(vec![change]);
        let [(who, view)] = moved.as_slice() else { panic!("{moved:?}") };
        assert_eq!((who, view.zone.as_deref()), (&request, zone));
    }
}

#[test]
fn views_are_counted_in_all_and_for_each_address_and_shared_ones_once() {
    let limits = ViewLimits { views: 3, per_peer: 2 };
    let mut followed = Followed { assigner: ViewAssigner::new(limits), ..Followed::default() };
    let places = ["a", "b", "c", "d"];
    let services = places.map(|name| Change::Service(service(&key(name, "web"), at(&[]), &[HTTP])));
    followed.apply(services.into());
    let [a, b, c, d] = places.map(|name| router(Some(name), None));
    let (first, second) = ("10.0.0.1", "10.0.0.2");
    let mut add = |request: &ViewRequest, peer: &str| {
        followed.add_request(&of_peer(request.clone(), peer)).map(|_| ())
    };
    assert_eq!(add(&a, first), Ok(()));
    assert_eq!(add(&b, first), Ok(()));
    let peer = PeerKey::Address(first.parse().unwrap());
    assert_eq!(add(&c, first), Err(TooManyViews::OfAddress { peer, limit: 2 }));
    assert_eq!(add(&a, first), Ok(()), "it has that");
    assert_eq!(add(&b, second), Ok(()), "that is there");
    assert_eq!(add(&c, second), Ok(()));
    assert_eq!(add(&d, "10.0.0.3"), Err(TooManyViews::InAll { limit: 3 }));
    assert_eq!(followed.assigner.views().count(), 3);
    followed.remove_request(&of_peer(a.clone(), first));
    followed.remove_request(&of_peer(c.clone(), first));
    assert_eq!(followed.assigner.take_unassigned().len(), 1, "a refused one was never needed");
    followed.add_request(&of_peer(d, "10.0.0.3")).unwrap();
}

#[test]
fn views_of_proxies_with_an_identity_are_counted_by_it() {
    let limits = ViewLimits { views: 0, per_peer: 1 };
    let mut followed = Followed { assigner: ViewAssigner::new(limits), ..Followed::default() };
    let places = ["a", "b"];
    let services = places.map(|name| Change::Service(service(&key(name, "web"), at(&[]), &[HTTP])));
    followed.apply(services.into());
    let [a, b] = places.map(|name| router(Some(name), None));
    let mut add = |request: &ViewRequest, peer: &str| {
        followed.add_request(&of_peer(request.clone(), peer)).map(|_| ())
    };
    assert_eq!(add(&a, "identity-1"), Ok(()));
    assert_eq!(add(&b, "identity-2"), Ok(()));
    let peer = PeerKey::Principal("identity-1".into());
    let refused = TooManyViews::OfPrincipal { peer, limit: 1 };
    assert!(
        refused.to_string().contains("the proxies with the identity identity-1 have 1 "),
        "{refused}"
    );
    assert_eq!(add(&b, "identity-1"), Err(refused));
}
