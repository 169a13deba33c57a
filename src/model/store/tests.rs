use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::*;
use crate::model::{EndpointState, Protocol, Scope, ServicePort, SlicePort, Subset};

fn key(namespace: &str, name: &str) -> ServiceKey {
    ServiceKey::new(namespace, name)
}

fn service(namespace: &str, name: &str, port: u16) -> Service {
    let kind = ServiceKind::ClusterIp(vec![Ipv4Addr::new(10, 96, 0, 1).into()]);
    let ports = vec![ServicePort { name: "http".into(), port, protocol: Protocol::Http }];
    Service::new(key(namespace, name), kind, ports)
}

fn slice(namespace: &str, name: &str, owner: &str, addresses: &[&str]) -> EndpointSlice {
    let endpoints = addresses
        .iter()
        .map(|address| Endpoint::new(address.parse().unwrap(), EndpointState::Ready))
        .collect();
    let ports = vec![SlicePort { name: "http".into(), port: 9080 }];
    let subsets = vec![Subset { ports, endpoints }];
    EndpointSlice { name: name.into(), service: key(namespace, owner), subsets }
}

/// Applies a change and says which services it touched.
fn apply(model: &mut Model, change: Change) -> Vec<String> {
    let mut dirty = Dirty::default();
    model.apply(change, &mut dirty);
    dirty.services.iter().map(ToString::to_string).collect()
}

fn slice_names(model: &Model, owner: &ServiceKey) -> Vec<String> {
    model.slices(owner).map(|slice| slice.name.to_string()).collect()
}

#[test]
fn only_a_real_change_of_a_service_touches_it() {
    let mut model = Model::default();
    let first = service("shop", "reviews", 80);
    assert_eq!(apply(&mut model, Change::Service(first.clone())), ["shop/reviews"]);
    assert!(apply(&mut model, Change::Service(first.clone())).is_empty());
    let touched = Service { resource_version: "2".into(), created: "now".into(), ..first };
    assert!(apply(&mut model, Change::Service(touched)).is_empty(), "proxies see no difference");
    let flawed =
        Service { flaws: vec![Flaw::new("spec", "wrong")], ..service("shop", "reviews", 80) };
    assert_eq!(apply(&mut model, Change::Service(flawed.clone())), ["shop/reviews"]);
    assert_eq!(
        model.flaws("cluster.local").map(|(_, flaw)| flaw).collect::<Vec<_>>(),
        flawed.flaws
    );
    let changed = service("shop", "reviews", 81);
    assert_eq!(apply(&mut model, Change::Service(changed)), ["shop/reviews"]);
    assert!(apply(&mut model, Change::ServiceGone(key("shop", "other"))).is_empty());
    assert_eq!(apply(&mut model, Change::ServiceGone(key("shop", "reviews"))), ["shop/reviews"]);
    assert!(apply(&mut model, Change::ServiceGone(key("shop", "reviews"))).is_empty());
    assert_eq!(model.service_count(), 0);
}

#[test]
fn only_a_real_change_of_a_slice_touches_its_service() {
    let mut model = Model::default();
    let one = slice("shop", "s1", "reviews", &["10.0.0.1"]);
    assert_eq!(apply(&mut model, Change::Slice(one.clone())), ["shop/reviews"]);
    assert!(apply(&mut model, Change::Slice(one)).is_empty());
    let more = slice("shop", "s1", "reviews", &["10.0.0.1", "10.0.0.2"]);
    assert_eq!(apply(&mut model, Change::Slice(more)), ["shop/reviews"]);
    let gone = Change::SliceGone { namespace: "shop".into(), name: "s1".into() };
    assert_eq!(apply(&mut model, gone.clone()), ["shop/reviews"]);
    assert!(apply(&mut model, gone).is_empty());
}

#[test]
fn equally_named_slices_of_two_namespaces_are_two() {
    let mut model = Model::default();
    apply(&mut model, Change::Slice(slice("one", "s", "reviews", &["10.0.0.1"])));
    apply(&mut model, Change::Slice(slice("two", "s", "reviews", &["10.0.0.2"])));
    let gone = Change::SliceGone { namespace: "one".into(), name: "s".into() };
    assert_eq!(apply(&mut model, gone), ["one/reviews"]);
    assert_eq!(slice_names(&model, &key("two", "reviews")), ["s"]);
    assert_eq!(model.slice_count(), 1);
}

#[test]
fn a_slice_that_moves_touches_both_owners() {
    let mut model = Model::default();
    apply(&mut model, Change::Slice(slice("shop", "s1", "reviews", &["10.0.0.1"])));
    let moved = Change::Slice(slice("shop", "s1", "ratings", &["10.0.0.1"]));
    assert_eq!(apply(&mut model, moved), ["shop/ratings", "shop/reviews"]);
    assert!(slice_names(&model, &key("shop", "reviews")).is_empty());
    assert_eq!(slice_names(&model, &key("shop", "ratings")), ["s1"]);
    assert_eq!(model.slice_count(), 1);
}

#[test]
fn a_service_without_slices_leaves_no_entry_behind() {
    let mut model = Model::default();
    for round in 0..100 {
        let owner = format!("service-{round}");
        apply(&mut model, Change::Slice(slice("shop", "s1", &owner, &[])));
    }
    assert_eq!((model.slices.len(), model.owners.len()), (1, 1));
    apply(&mut model, Change::SliceGone { namespace: "shop".into(), name: "s1".into() });
    assert_eq!((model.slices.len(), model.owners.len()), (0, 0));
}

#[test]
fn a_relist_removes_what_is_not_in_it_and_touches_only_what_differs() {
    let mut model = Model::default();
    for name in ["a", "b", "c"] {
        apply(&mut model, Change::Service(service("shop", name, 80)));
        apply(&mut model, Change::Slice(slice("shop", name, name, &["10.0.0.1"])));
    }
    let services = [service("shop", "b", 80), service("shop", "c", 81), service("shop", "d", 80)];
    let services = services.map(Arc::new).to_vec();
    let touched = apply(&mut model, Change::Services(Scope::All, services));
    assert_eq!(touched, ["shop/a", "shop/c", "shop/d"]);
    let slices = [slice("shop", "b", "b", &["10.0.0.1"]), slice("shop", "c", "d", &["10.0.0.1"])];
    let slices = slices.map(Arc::new).to_vec();
    let touched = apply(&mut model, Change::Slices(Scope::All, slices));
    assert_eq!(touched, ["shop/a", "shop/c", "shop/d"]);
    assert_eq!((model.service_count(), model.slice_count()), (3, 2));
    assert_eq!(slice_names(&model, &key("shop", "d")), ["c"]);
}

#[test]
fn a_relist_of_one_namespace_leaves_the_others_alone() {
    let mut model = Model::default();
    for namespace in ["one", "two"] {
        apply(&mut model, Change::Service(service(namespace, "a", 80)));
        apply(&mut model, Change::Slice(slice(namespace, "a", "a", &["10.0.0.1"])));
    }
    let scope = Scope::Namespace("one".into());
    assert_eq!(apply(&mut model, Change::Services(scope.clone(), vec![])), ["one/a"]);
    assert_eq!(apply(&mut model, Change::Slices(scope, vec![])), ["one/a"]);
    assert!(model.service(&key("two", "a")).is_some());
    assert_eq!(slice_names(&model, &key("two", "a")), ["a"]);
}

#[test]
fn a_copy_does_not_see_later_changes() {
    let mut model = Model::default();
    apply(&mut model, Change::Service(service("shop", "a", 80)));
    let copy = model.clone();
    apply(&mut model, Change::ServiceGone(key("shop", "a")));
    assert_eq!((copy.service_count(), model.service_count()), (1, 0));
}

/// Few names, so that changes meet.
fn any_slice() -> impl Strategy<Value = EndpointSlice> {
    ("[ab]", "[xyz]", "[rs]", prop::collection::vec("10[.]0[.]0[.][1-3]", 0..2)).prop_map(
        |(namespace, name, owner, addresses)| {
            let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
            slice(&namespace, &name, &owner, &addresses)
        },
    )
}

fn any_service() -> impl Strategy<Value = Service> {
    ("[ab]", "[rs]", 80_u16..82)
        .prop_map(|(namespace, name, port)| service(&namespace, &name, port))
}

fn any_scope() -> impl Strategy<Value = Scope> {
    prop_oneof![Just(Scope::All), "[ab]".prop_map(|one| Scope::Namespace(one.into()))]
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any_service().prop_map(Change::Service),
        any_service().prop_map(|service| Change::ServiceGone(service.key)),
        any_slice().prop_map(Change::Slice),
        any_slice().prop_map(|slice| Change::SliceGone {
            namespace: slice.service.namespace,
            name: slice.name
        }),
        (any_scope(), prop::collection::vec(any_service(), 0..4)).prop_map(|(scope, list)| {
            let inside = list.into_iter().filter(|one| scope.covers(&one.key.namespace));
            let inside = inside.map(Arc::new).collect();
            Change::Services(scope, inside)
        }),
        (any_scope(), prop::collection::vec(any_slice(), 0..4)).prop_map(|(scope, list)| {
            let inside = list.into_iter().filter(|one| scope.covers(&one.service.namespace));
            let inside = inside.map(Arc::new).collect();
            Change::Slices(scope, inside)
        }),
    ]
}

/// What proxies can notice of a service.
type Seen<'a> = (Option<(&'a ServiceKind, &'a [ServicePort])>, Vec<&'a EndpointSlice>);

fn seen<'a>(model: &'a Model, key: &ServiceKey) -> Seen<'a> {
    let service = model.service(key).map(|service| (&service.kind, &*service.ports));
    (service, model.slices(key).map(|slice| &**slice).collect())
}

proptest! {
    #[test]
    fn dirty_is_a_superset_of_what_changed_and_indexes_agree(
        changes in prop::collection::vec(any_change(), 1..40)
    ) {
        let mut model = Model::default();
        for change in changes {
            let before = model.clone();
            let mut dirty = Dirty::default();
            model.apply(change, &mut dirty);
            let keys: BTreeSet<_> = [&before, &model]
                .iter()
                .flat_map(|one| one.services.keys().chain(one.slices.keys()))
                .cloned()
                .collect();
            for key in keys {
                let differs = seen(&before, &key) != seen(&model, &key);
                prop_assert!(dirty.services.contains(&key) || !differs, "{} changed unnoticed", key);
            }
            let held: usize = model.slices.values().map(OrdMap::len).sum();
            prop_assert_eq!(held, model.owners.len());
            prop_assert!(model.slices.values().all(|siblings| !siblings.is_empty()));
            for (id, owner) in &model.owners {
                prop_assert!(model.slices.get(owner).is_some_and(|some| some.contains_key(&id.1)));
            }
        }
    }
}
