//! Random histories: what is published follows from how things are, not from how they came to be.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::NonZeroU64;
use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::subsequence;

use super::random_routes::{missing_clusters, some_route_change};
use super::{DOMAIN, Mesh, at, content, domains, every_view, key, service, slice};
use crate::model::{
    Change, Dirty, EndpointSlice, EndpointState, ExportTo, Flaw, IpFamily, LoadBalancing, Model,
    Protocol, RouteKind, Scope, Service, ServiceKey, ServiceKind, TrafficPolicy,
};
use crate::names::ResourceType;

pub(super) fn some_key() -> impl Strategy<Value = ServiceKey> {
    (prop_oneof![Just("one"), Just("two")], prop_oneof![Just("a"), Just("b"), Just("c")])
        .prop_map(|(namespace, name)| key(namespace, name))
}

/// Aliases of each other, of themselves, of nobody, of names outside.
fn some_target() -> impl Strategy<Value = String> {
    let inside = some_key().prop_map(|key| format!("{}.{}.svc.{DOMAIN}", key.name, key.namespace));
    prop_oneof![4 => inside, 1 => Just("elsewhere.example".to_owned()), 1 => Just("one".to_owned())]
}

fn some_traffic_policy() -> impl Strategy<Value = TrafficPolicy> {
    let load_balancing =
        prop_oneof![Just(LoadBalancing::LeastRequest), Just(LoadBalancing::ClientIpRing)];
    let retries = prop_oneof![Just(None), Just(Some(0)), Just(Some(3))];
    (load_balancing, retries).prop_map(|(load_balancing, retries)| TrafficPolicy {
        load_balancing,
        retries,
        ..TrafficPolicy::default()
    })
}

fn some_service() -> impl Strategy<Value = Service> {
    let addresses = subsequence(vec!["10.1.0.1", "10.1.0.2", "fd00::1"], 0..3);
    let kind = prop_oneof![
        4 => addresses.prop_map(|addresses| at(&addresses)),
        1 => Just(ServiceKind::Headless),
        2 => some_target().prop_map(|target| ServiceKind::ExternalName(target.into())),
    ];
    let protocol = prop_oneof![Just(Protocol::Http), Just(Protocol::Grpc), Just(Protocol::Tcp)];
    let ports = subsequence(vec![80u16, 90, 15001], 0..4);
    let families = subsequence(vec![IpFamily::V4, IpFamily::V6], 0..=2);
    let protocols = [protocol.clone(), protocol.clone(), protocol];
    let more = (families, some_traffic_policy(), any::<bool>(), some_export_to(), any::<bool>());
    (some_key(), kind, ports, protocols, more).prop_map(
        |(
            key,
            kind,
            ports,
            protocols,
            (families, traffic_policy, flawed, export_to, prefers_own_zone),
        )| {
            let ports: Vec<_> = ports.into_iter().zip(protocols).collect();
            let flaws = if flawed { vec![Flaw::new("spec", "wrong")] } else { Vec::new() };
            let traffic_policy = Box::new(traffic_policy);
            let plain = service(&key, kind, &ports);
            Service { families, traffic_policy, flaws, export_to, prefers_own_zone, ..plain }
        },
    )
}

fn some_export_to() -> impl Strategy<Value = ExportTo> {
    prop_oneof![
        3 => Just(ExportTo::Everyone),
        2 => subsequence(vec!["one", "two"], 0..3).prop_map(|namespaces| {
            ExportTo::Only(namespaces.into_iter().map(Arc::from).collect())
        }),
    ]
}

fn some_slice() -> impl Strategy<Value = EndpointSlice> {
    // The name alone is the identity in a namespace, so slices also move between services.
    let name = prop_oneof![Just("s1"), Just("s2"), Just("s3")];
    let ports = subsequence(vec![80u16, 90], 0..3);
    let hosts = subsequence(vec![1u8, 2, 3], 0..4);
    (some_key(), name, ports, hosts, any::<[bool; 3]>()).prop_map(
        |(key, name, ports, hosts, [v6, named, draining])| {
            let mut slice = slice(&key, name, &ports, &hosts);
            for (host, endpoint) in hosts.iter().zip(&mut slice.subsets[0].endpoints) {
                // The zone follows from the address, as in life.
                let first = endpoint.address == IpAddr::from([10, 0, 0, 1]);
                endpoint.zone = first.then(|| "a".into());
                endpoint.pod = NonZeroU64::new((*host).into());
                endpoint.hostname = named.then(|| format!("pod-{host}").into());
                if v6 {
                    endpoint.address = std::net::Ipv6Addr::from(u128::from(*host)).into();
                }
                if draining {
                    endpoint.state = EndpointState::Draining;
                }
            }
            slice
        },
    )
}

fn some_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => some_service().prop_map(Change::Service),
        2 => some_key().prop_map(Change::ServiceGone),
        6 => some_route_change(),
        4 => some_slice().prop_map(Change::Slice),
        1 => some_slice().prop_map(|slice| Change::SliceGone {
            namespace: slice.service.namespace,
            name: slice.name,
        }),
    ]
}

#[derive(Clone, Debug)]
enum Step {
    Change(Change),
    Update,
    /// With the views that somebody needs now.
    Snapshot(Vec<usize>),
    RemoveExpired,
}

fn some_steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => some_change().prop_map(Step::Change),
        2 => Just(Step::Update),
        3 => subsequence((0..every_view().len()).collect::<Vec<_>>(), 0..=every_view().len())
            .prop_map(Step::Snapshot),
        1 => Just(Step::RemoveExpired),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn service_by_service_equals_everything_at_once(steps in some_steps()) {
        let all = every_view();
        let mut mesh = Mesh::new();
        for step in steps {
            match step {
                Step::Change(change) => mesh.apply(change),
                Step::Update => mesh.update(),
                Step::Snapshot(needed) => {
                    let needed: Vec<_> = needed.into_iter().map(|at| all[at].clone()).collect();
                    let snapshot = mesh.snapshot(&needed);
                    prop_assert_eq!(snapshot.views.len(), needed.len());
                    prop_assert_eq!(missing_clusters(&snapshot, &mesh.model), Vec::<String>::new());
                }
                Step::RemoveExpired => mesh.builder.remove_until(u64::MAX),
            }
        }
        mesh.update();
        mesh.builder.remove_until(u64::MAX);
        let snapshot = mesh.snapshot(&all);
        let (at_once, report) = mesh.built_at_once(&all);
        prop_assert_eq!(content(&snapshot), content(&at_once));
        prop_assert_eq!(mesh.builder.route_report(), &report);
        // Envoy rejects a table that has a domain twice.
        for (key, view) in &snapshot.views {
            for one in view.set(ResourceType::Route).iter() {
                let domains = domains(view, &one.name);
                let unique: BTreeSet<_> = domains.iter().collect();
                prop_assert_eq!(unique.len(), domains.len(), "{} {}: {:?}", key, &one.name, domains);
            }
        }
    }

    #[test]
    fn replicas_agree_whatever_the_order(
        services in proptest::collection::vec(some_service(), 0..8),
        slices in proptest::collection::vec(some_slice(), 0..8),
        routes in proptest::collection::vec(some_route_change(), 0..8),
        shuffled in any::<u64>(),
        detour in proptest::collection::vec(some_change(), 0..8),
        pause in 1usize..5,
    ) {
        let all = every_view();
        // The end state, an object each.
        let mut model = Model::default();
        let mut dirty = Dirty::default();
        let changes = services.into_iter().map(Change::Service);
        let slices = slices.into_iter().map(Change::Slice);
        for change in changes.chain(slices).chain(routes) {
            model.apply(change, &mut dirty);
        }
        let services: Vec<_> = model.services().cloned().collect();
        let keys: Vec<_> = model.sliced_services().cloned().collect();
        let slices: Vec<_> = keys.iter().flat_map(|key| model.slices(key)).cloned().collect();
        let routes = |of: RouteKind| {
            let all = model.routes().filter(|route| route.key.kind == of);
            Change::Routes(Scope::All, of, all.cloned().collect())
        };
        let grants = ["one", "two"].into_iter().flat_map(|namespace| model.grants(namespace));
        let grants: Vec<_> = grants.cloned().collect();

        // One replica lists it in one go, the other has seen other times and gets it piece by piece.
        let everything = Scope::All;
        let mut one = Mesh::with_changes(vec![
            Change::Services(everything.clone(), services.clone()),
            Change::Slices(everything.clone(), slices.clone()),
            routes(RouteKind::Grpc),
            routes(RouteKind::Http),
            Change::Grants(everything.clone(), grants.clone()),
        ]);
        let mut pieces: Vec<Change> = services.iter().map(|one| Change::Service((**one).clone())).collect();
        pieces.extend(slices.iter().map(|one| Change::Slice((**one).clone())));
        pieces.extend(model.routes().map(|one| Change::Route((**one).clone())));
        pieces.extend(grants.iter().map(|one| Change::Grant((**one).clone())));
        let mut seed = shuffled;
        for at in (1..pieces.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            pieces.swap(at, (seed >> 33) as usize % (at + 1));
        }
        let mut other = Mesh::with_changes(detour);
        other.snapshot(&all);
        for (at, change) in pieces.into_iter().enumerate() {
            other.apply(change);
            if at % pause == 0 {
                other.snapshot(&all);
            }
        }
        other.apply(Change::Services(everything.clone(), services));
        other.apply(Change::Slices(everything.clone(), slices));
        RouteKind::ALL.into_iter().for_each(|of| other.apply(routes(of)));
        other.apply(Change::Grants(everything, grants));
        other.update();
        other.builder.remove_until(u64::MAX);
        prop_assert_eq!(content(&one.snapshot(&all)), content(&other.snapshot(&all)));
        prop_assert_eq!(one.builder.route_report(), other.builder.route_report());
    }
}
