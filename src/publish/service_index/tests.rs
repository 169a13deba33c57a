//! For which services each kind of resource must be made anew.

use super::*;
use crate::model::{
    Change, Dirty, Endpoint, EndpointSlice, EndpointState, Node, Protocol, ServiceKind,
    ServicePort, SlicePort, Subset,
};

struct Followed {
    model: Model,
    index: ServiceIndex,
}

impl Followed {
    fn with_changes(changes: Vec<Change>) -> Self {
        let index = ServiceIndex::new("cluster.local".into());
        let mut followed = Self { model: Model::default(), index };
        followed.apply(changes);
        followed
    }

    fn apply(&mut self, changes: Vec<Change>) -> MeshChanges {
        let mut dirty = Dirty::default();
        changes.into_iter().for_each(|change| self.model.apply(change, &mut dirty));
        self.index.update(&self.model, &dirty.services)
    }
}

fn service(name: &str, kind: ServiceKind, port: u16) -> Change {
    let port = ServicePort { name: "http".into(), port, protocol: Protocol::Http };
    Change::Service(Service::new(ServiceKey::new("one", name), kind, vec![port]))
}

fn at(address: &str) -> ServiceKind {
    ServiceKind::ClusterIp(vec![address.parse().unwrap()])
}

fn alias_of(name: &str) -> ServiceKind {
    ServiceKind::ExternalName(format!("{name}.one.svc.cluster.local").into())
}

fn slice(service: &str, host: u8) -> Change {
    let endpoint = Endpoint {
        zone: Some("a".into()),
        ..Endpoint::new(IpAddr::from([10, 0, 0, host]), EndpointState::Ready)
    };
    let ports = vec![SlicePort { name: "http".into(), port: 8080 }];
    Change::Slice(EndpointSlice {
        name: format!("{service}-1").into(),
        service: ServiceKey::new("one", service),
        subsets: vec![Subset { ports, endpoints: vec![endpoint] }],
    })
}

/// Clusters; endpoints; listeners and routes.
fn concerned(changes: &MeshChanges) -> [Vec<&str>; 3] {
    [&changes.clusters, &changes.endpoints, &changes.listeners_and_routes]
        .map(|services| services.iter().map(|key| &*key.name).collect())
}

#[test]
fn a_change_of_slices_concerns_endpoints_alone() {
    let mut followed =
        Followed::with_changes(vec![service("web", at("10.1.0.1"), 80), slice("web", 1)]);
    let changes = followed.apply(vec![slice("web", 2), slice("nobodys", 3)]);
    assert_eq!(concerned(&changes), [vec![], vec!["web"], vec![]]);
    assert_eq!(changes.before.len(), 2, "which addresses a slice names counts without a service");
}

#[test]
fn a_change_of_a_service_concerns_all_that_is_made_of_it_and_of_its_aliases() {
    let mut followed = Followed::with_changes(vec![
        service("web", at("10.1.0.1"), 80),
        service("near", alias_of("web"), 80),
        service("nearer", alias_of("near"), 80),
        service("other", at("10.1.0.2"), 80),
    ]);
    let all = ["near", "nearer", "web"];
    let changes = followed.apply(vec![service("web", at("10.1.0.1"), 81)]);
    assert_eq!(concerned(&changes), all.each_ref().map(|_| all.to_vec()));
    let changes = followed.apply(vec![Change::ServiceGone(ServiceKey::new("one", "web"))]);
    assert_eq!(concerned(&changes), all.each_ref().map(|_| all.to_vec()));
    assert!(changes.before[&ServiceKey::new("one", "web")].source.is_some());
}

#[test]
fn an_address_that_another_service_wins_concerns_the_listeners_and_routes_of_both() {
    let mut followed = Followed::with_changes(vec![service("web", at("10.1.0.1"), 80)]);
    let changes = followed.apply(vec![service("first", at("10.1.0.1"), 80)]);
    assert_eq!(concerned(&changes), [vec!["first"], vec!["first"], vec!["first", "web"]]);
    let web = followed.index.resolved(&ServiceKey::new("one", "web")).unwrap();
    assert!(followed.index.owned_addresses(web).is_empty());
    let changes = followed.apply(vec![Change::ServiceGone(ServiceKey::new("one", "first"))]);
    assert_eq!(concerned(&changes)[2], ["first", "web"]);
}

#[test]
fn a_region_that_becomes_known_concerns_endpoints_alone() {
    let mut followed =
        Followed::with_changes(vec![service("web", at("10.1.0.1"), 80), slice("web", 1)]);
    let node = Node { name: "n".into(), zone: Some("a".into()), region: Some("r".into()) };
    let changes = followed.apply(vec![Change::Node(node.clone())]);
    assert_eq!(concerned(&changes), [vec![], vec!["web"], vec![]]);
    assert_eq!(changes.zones, ["a".into()].into());
    let elsewhere = Node { region: Some("s".into()), ..node };
    let changes = followed.apply(vec![Change::Node(elsewhere)]);
    assert_eq!(concerned(&changes)[1], ["web"]);
    assert!(changes.zones.is_empty(), "it was known before");
}

#[test]
fn what_is_as_it_was_concerns_nothing_but_its_endpoints() {
    let mut followed = Followed::with_changes(vec![service("web", at("10.1.0.1"), 80)]);
    let web = ServiceKey::new("one", "web");
    let changes = followed.index.update(&followed.model, &[web].into());
    assert_eq!(concerned(&changes), [vec![], vec!["web"], vec![]]);
    assert!(followed.apply(vec![]).before.is_empty());
}
