//! Which view each proxy has, and what the views of inbound ports share.

use super::super::route_index::RouteIndex;
use super::super::service_index::ServiceIndex;
use super::super::view_assigner::ViewAssigner;
use super::*;
use crate::model::{Dirty, Scope};
use crate::snapshot::{ConflictKind, Conflicts};
use crate::view::{TooManyViews, ViewRequest};

/// A model, and the views of sidecars that follow it.
pub(super) struct Followed {
    pub(super) model: Model,
    pub(super) services: ServiceIndex,
    pub(super) routes: RouteIndex,
    pub(super) assigner: ViewAssigner,
    pub(super) conflicts: Conflicts,
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            model: Model::default(),
            services: ServiceIndex::new(DOMAIN.into()),
            routes: RouteIndex::default(),
            assigner: ViewAssigner::default(),
            conflicts: Conflicts::new(),
        }
    }
}

impl Followed {
    pub(super) fn with_changes(changes: Vec<Change>) -> Self {
        let mut followed = Self::default();
        followed.apply(changes);
        followed
    }

    /// The requests that have another view by it, with that.
    pub(super) fn apply(&mut self, changes: Vec<Change>) -> Vec<(ViewRequest, Arc<ViewKey>)> {
        let mut dirty = Dirty::default();
        changes.into_iter().for_each(|change| self.model.apply(change, &mut dirty));
        let mut changes = self.services.update(&self.model, &dirty.services);
        let (model, services) = (&self.model, &self.services);
        changes.consuming =
            self.routes.update(model, &dirty, services, &changes.clusters).consuming;
        self.assigner.update(&changes, &self.services, &mut self.conflicts)
    }

    pub(super) fn add_request(
        &mut self,
        request: &ViewRequest,
    ) -> Result<Arc<ViewKey>, TooManyViews> {
        self.assigner.add_request(request, &self.services, &mut self.conflicts)
    }

    pub(super) fn remove_request(&mut self, request: &ViewRequest) {
        self.assigner.remove_request(request, &mut self.conflicts);
    }

    fn inbound_of(&mut self, request: &ViewRequest) -> Vec<String> {
        ports(&self.add_request(request).unwrap())
    }
}

pub(super) fn sidecar_at(addresses: &[&str]) -> ViewRequest {
    let addresses = addresses.iter().map(|one| one.parse().unwrap()).collect();
    ViewRequest { view: ViewKey::new(ProxyKind::Sidecar, Some("one")), addresses, peer: None }
}

pub(super) fn ports(view: &ViewKey) -> Vec<String> {
    view.inbound.iter().map(|one| format!("{} {:?}", one.port, one.protocol)).collect()
}

pub(super) fn web(ports: &[(u16, Protocol)]) -> Change {
    Change::Service(service(&key("one", "web"), at(&["10.1.0.1"]), ports))
}

pub(super) const HTTP: (u16, Protocol) = (80, Protocol::Http);

#[test]
fn the_ports_are_those_of_the_pod_behind_every_service_that_names_it() {
    let (first, second) = (key("one", "web"), key("two", "data"));
    let mut followed = Followed::with_changes(vec![
        web(&[HTTP, (81, Protocol::Grpc), (82, Protocol::Tcp)]),
        // Slices may differ in their ports.
        Change::Slice(slice(&first, "web-1", &[80, 81], &[1, 2])),
        Change::Slice(slice(&first, "web-2", &[82], &[2])),
        Change::Service(service(&second, ServiceKind::Headless, &[(90, Protocol::Tls)])),
        Change::Slice(slice(&second, "data-1", &[90], &[2])),
        // No Service of this name, no port of it.
        Change::Slice(slice(&key("one", "ghost"), "ghost-1", &[95], &[2])),
    ]);
    assert_eq!(followed.inbound_of(&sidecar_at(&["10.0.0.1"])), ["8080 Http", "8081 Grpc"]);
    let all = ["8080 Http", "8081 Grpc", "8082 Tcp", "8090 Tcp"];
    assert_eq!(followed.inbound_of(&sidecar_at(&["10.0.0.2"])), all);
    assert_eq!(followed.inbound_of(&sidecar_at(&["10.0.0.1", "10.0.0.2"])), all);
    assert!(followed.inbound_of(&sidecar_at(&["10.0.0.3"])).is_empty());
    assert!(followed.inbound_of(&sidecar_at(&[])).is_empty());
}

#[test]
fn the_proxys_own_ports_are_not_the_workloads() {
    let (web_key, web_port) =
        (key("one", "web"), |name: &str, port| SlicePort { name: name.into(), port });
    let mut own = slice(&web_key, "web-1", &[], &[1]);
    own.subsets[0].ports = vec![web_port("p80", 15006), web_port("p81", 8081)];
    let ports = [HTTP, (81, Protocol::Http)];
    let mut followed = Followed::with_changes(vec![web(&ports), Change::Slice(own)]);
    assert_eq!(followed.inbound_of(&sidecar_at(&["10.0.0.1"])), ["8081 Http"]);
}

#[test]
fn a_pod_that_becomes_part_of_a_service_gets_its_ports_and_nobody_else_does() {
    let web_key = key("one", "web");
    let mut followed = Followed::with_changes(vec![
        web(&[HTTP]),
        Change::Slice(slice(&web_key, "web-1", &[80], &[1])),
    ]);
    let (here, late) = (sidecar_at(&["10.0.0.1"]), sidecar_at(&["10.0.0.2"]));
    followed.inbound_of(&here);
    assert!(followed.inbound_of(&late).is_empty());
    let moved = followed.apply(vec![Change::Slice(slice(&web_key, "web-1", &[80], &[1, 2]))]);
    let [(request, view)] = moved.as_slice() else { panic!("{moved:?}") };
    assert_eq!((request, ports(view)), (&late, vec!["8080 Http".to_owned()]));
    assert_eq!(followed.assigner.views().count(), 1, "both share one");

    // Readiness, zones and other pods change nothing.
    let mut other = slice(&web_key, "web-1", &[80], &[1, 2, 3]);
    other.subsets[0].endpoints[0].state = EndpointState::NotReady;
    assert!(followed.apply(vec![Change::Slice(other)]).is_empty());
    // A move to another slice is no change.
    let all = vec![Arc::new(slice(&web_key, "web-2", &[80], &[1, 2]))];
    let moved = followed.apply(vec![Change::Slices(Scope::All, all)]);
    assert!(moved.is_empty(), "{moved:?}");

    let moved = followed.apply(vec![web(&[(80, Protocol::Tcp)])]);
    assert_eq!(moved.len(), 2, "another protocol is another set");
    let moved = followed.apply(vec![Change::ServiceGone(web_key)]);
    assert!(moved.len() == 2 && moved.iter().all(|(_, view)| view.inbound.is_empty()));
}

#[test]
fn of_two_words_about_a_port_the_first_counts_and_that_is_seen() {
    let (a, b) = (key("one", "a"), key("one", "b"));
    let both = |protocol| {
        vec![
            Change::Service(service(&a, at(&[]), &[HTTP])),
            Change::Slice(slice(&a, "a-1", &[80], &[1])),
            Change::Service(service(&b, at(&[]), &[(80, protocol)])),
            Change::Slice(slice(&b, "b-1", &[80], &[1])),
        ]
    };
    let mut followed = Followed::with_changes(both(Protocol::Tcp));
    let request = sidecar_at(&["10.0.0.1"]);
    assert_eq!(followed.inbound_of(&request), ["8080 Http"]);
    let noted: Vec<_> = followed.conflicts.iter().collect();
    let [(conflict, text)] = noted.as_slice() else { panic!("{noted:?}") };
    assert_eq!(
        (conflict.kind, &*conflict.place, &*conflict.loser),
        (ConflictKind::Inbound, "8080", "one/b")
    );
    assert!(text.contains("one/a"), "{text}");
    followed.apply(both(Protocol::Http));
    assert!(followed.conflicts.is_empty(), "they agree");
    followed.apply(both(Protocol::Tcp));
    followed.remove_request(&request);
    assert!(followed.conflicts.is_empty(), "nobody is concerned");
    assert_eq!(followed.assigner.views().count(), 0);
}

/// istio#24387: which service a connection came for, the pod's proxy cannot tell.
#[test]
fn a_port_may_be_idle_for_as_long_as_any_service_allows() {
    use std::time::Duration;

    let (a, b) = (key("one", "a"), key("one", "b"));
    let tuned = |key: &ServiceKey, protocol, seconds: Option<u64>| {
        let mut one = service(key, at(&[]), &[(80, protocol)]);
        one.traffic_policy.tcp_idle_timeout = seconds.map(Duration::from_secs);
        Change::Service(one)
    };
    let mut followed = Followed::with_changes(vec![
        Change::Slice(slice(&a, "a-1", &[80], &[1])),
        Change::Slice(slice(&b, "b-1", &[80], &[1])),
        tuned(&a, Protocol::Tcp, None),
        tuned(&b, Protocol::Tcp, None),
    ]);
    let request = sidecar_at(&["10.0.0.1"]);
    followed.inbound_of(&request);
    let mut idle = |a_seconds, b_seconds| {
        followed
            .apply(vec![tuned(&a, Protocol::Tcp, a_seconds), tuned(&b, Protocol::Tcp, b_seconds)]);
        let [view] = followed.assigner.views().collect::<Vec<_>>()[..] else { panic!() };
        let [port] = view.inbound[..] else { panic!("{view}") };
        port.idle_timeout.map(|idle| idle.as_secs())
    };
    for (one, other, expected) in [
        (None, None, None),
        (Some(0), Some(7200), Some(0)),
        (Some(7200), Some(9000), Some(9000)),
        // An hour is the default.
        (None, Some(7200), Some(7200)),
        (None, Some(60), None),
    ] {
        assert_eq!(idle(one, other), expected, "{one:?} {other:?}");
        assert_eq!(idle(other, one), expected, "in any order");
    }
    assert!(followed.conflicts.is_empty());
    // It says nothing of HTTP.
    followed.apply(vec![Change::ServiceGone(b.clone()), tuned(&a, Protocol::Http, Some(0))]);
    let [view] = followed.assigner.views().collect::<Vec<_>>()[..] else { panic!() };
    assert_eq!(view.inbound[0].idle_timeout, None);
}

#[test]
fn a_view_of_ports_differs_in_its_listener_and_its_clusters_alone() {
    let web_key = key("one", "web");
    let mut mesh = Mesh::with_changes(vec![
        web(&[HTTP]),
        Change::Slice(slice(&web_key, "web-1", &[80], &[1])),
    ]);
    let keys = [
        ViewKey::new(ProxyKind::Sidecar, Some("one")),
        with_inbound("one", &[8080]),
        with_inbound("two", &[8080]),
        with_inbound("one", &[8080, 8090]),
    ];
    let snapshot = mesh.snapshot(&keys);
    let [none, one, elsewhere, more] = keys.each_ref().map(|key| snapshot.views[key].clone());
    let inbound = |view: &View| {
        let all = names(view, ResourceType::Cluster).into_iter();
        all.filter(|name| name.starts_with("inbound|")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert!(inbound(&none).is_empty());
    assert_eq!(inbound(&one), ["inbound|8080||"]);
    assert_eq!(inbound(&more), ["inbound|8080||", "inbound|8090||"]);
    for of in [ResourceType::Cluster, ResourceType::Listener] {
        assert!(
            Arc::ptr_eq(one.set(of), elsewhere.set(of)),
            "{of:?} does not depend on the namespace"
        );
        let diff = none.set(of).diff_from(one.set(of));
        assert_eq!(
            (diff.changed.len(), diff.removed.len()),
            (usize::from(of == ResourceType::Listener), usize::from(of == ResourceType::Cluster))
        );
    }
    for of in [ResourceType::Endpoint, ResourceType::Route] {
        assert!(Arc::ptr_eq(none.set(of), one.set(of)), "{of:?}");
    }

    // A change of endpoints is none of clusters or listeners, whatever the ports.
    mesh.apply(Change::Slice(slice(&web_key, "web-1", &[80], &[1, 2])));
    let snapshot = mesh.snapshot(&keys);
    let after = snapshot.views[&keys[1]].clone();
    for of in [ResourceType::Cluster, ResourceType::Listener, ResourceType::Route] {
        assert!(Arc::ptr_eq(one.set(of), after.set(of)), "{of:?}");
    }
    // A new service is, and ports stay.
    mesh.apply(Change::Service(service(&key("one", "new"), at(&[]), &[HTTP])));
    let snapshot = mesh.snapshot(&keys);
    let after = snapshot.views[&keys[3]].clone();
    assert_eq!(inbound(&after), ["inbound|8080||", "inbound|8090||"]);
    assert_eq!(
        after.set(ResourceType::Cluster).diff_from(more.set(ResourceType::Cluster)).changed.len(),
        1
    );
}
