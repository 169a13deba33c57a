use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::{address, socket_address};
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::*;
use crate::model::{Endpoint as ModelEndpoint, Protocol, ServiceKind, SlicePort, Subset};
use crate::translate::tests::{ANYWHERE, DOMAIN, cluster_ip, service};

use EndpointState::{Draining, NotReady, Ready};

fn endpoint(address: &str, state: EndpointState, zone: &str) -> ModelEndpoint {
    ModelEndpoint {
        zone: (!zone.is_empty()).then(|| zone.into()),
        ..ModelEndpoint::new(address.parse().unwrap(), state)
    }
}

fn ready(address: &str) -> ModelEndpoint {
    endpoint(address, Ready, "")
}

fn slice(ports: &[(&str, u16)], endpoints: &[ModelEndpoint]) -> EndpointSlice {
    let port = |&(name, port): &(&str, u16)| SlicePort { name: name.into(), port };
    EndpointSlice {
        name: "any".into(),
        service: crate::model::ServiceKey::new("default", "a"),
        subsets: vec![Subset {
            ports: ports.iter().map(port).collect(),
            endpoints: endpoints.to_vec(),
        }],
    }
}

/// A service with the one HTTP port `http-80`.
fn one_port() -> Service {
    service("default/a", cluster_ip(&["10.0.0.1"]), &[(Protocol::Http, 80)])
}

/// `ZONE/ADDRESS:PORT` of everything in an assignment, in its order.
fn flat(assignment: &ClusterLoadAssignment) -> Vec<String> {
    let mut all = Vec::new();
    for locality in &assignment.endpoints {
        let zone = &locality.locality.as_ref().expect("gRPC insists on a locality").zone;
        for endpoint in &locality.lb_endpoints {
            assert_eq!(endpoint.load_balancing_weight, Some(uint32_value(1)));
            let Some(HostIdentifier::Endpoint(inner)) = &endpoint.host_identifier else { panic!() };
            let Some(address::Address::SocketAddress(socket)) =
                inner.address.as_ref().and_then(|address| address.address.as_ref())
            else {
                panic!()
            };
            let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
                panic!()
            };
            all.push(format!("{zone}/{}:{port}", socket.address));
        }
    }
    all
}

fn of_one_port(slices: &[EndpointSlice]) -> Vec<String> {
    let [assignment] =
        service_endpoints(&one_port(), slices.iter(), DOMAIN, ANYWHERE).try_into().unwrap();
    flat(&assignment)
}

#[test]
fn without_slices_the_assignment_is_there_and_empty() {
    let [assignment] =
        service_endpoints(&one_port(), std::iter::empty(), DOMAIN, ANYWHERE).try_into().unwrap();
    assert_eq!(assignment.cluster_name, "outbound|80||a.default.svc.cluster.local");
    assert!(assignment.endpoints.is_empty());
}

#[test]
fn slices_are_merged_by_the_ports_name_never_its_number() {
    let two = service(
        "default/a",
        cluster_ip(&["10.0.0.1"]),
        &[(Protocol::Http, 80), (Protocol::Tcp, 81)],
    );
    let slices = [
        slice(&[("http-80", 8080), ("tcp-81", 80)], &[ready("10.1.0.1")]),
        // The same target port may have another number in another pod.
        slice(&[("http-80", 9090)], &[ready("10.1.0.2")]),
        slice(&[("other", 80)], &[ready("10.1.0.3")]),
        slice(&[], &[ready("10.1.0.4")]),
    ];
    let [http, tcp] = service_endpoints(&two, slices.iter(), DOMAIN, ANYWHERE).try_into().unwrap();
    assert_eq!(flat(&http), ["/10.1.0.1:8080", "/10.1.0.2:9090"]);
    assert_eq!(flat(&tcp), ["/10.1.0.1:80"]);
}

#[test]
fn the_subsets_of_an_endpoints_object_are_merged_too() {
    let mut one = slice(&[("http-80", 8080)], &[ready("10.1.0.1")]);
    one.subsets.extend(slice(&[("http-80", 8081)], &[ready("10.1.0.1")]).subsets);
    assert_eq!(of_one_port(&[one]), ["/10.1.0.1:8080", "/10.1.0.1:8081"]);
}

#[test]
fn an_address_and_port_is_there_once_and_the_better_report_counts() {
    let slices = [
        slice(&[("http-80", 80)], &[endpoint("10.1.0.1", NotReady, "b"), ready("10.1.0.2")]),
        slice(&[("http-80", 80)], &[endpoint("10.1.0.1", Ready, "a"), ready("10.1.0.2")]),
        slice(&[("http-80", 80)], &[endpoint("10.1.0.2", Ready, "a")]),
    ];
    assert_eq!(of_one_port(&slices), ["a/10.1.0.1:80", "a/10.1.0.2:80"]);
}

#[test]
fn draining_endpoints_are_used_only_where_nothing_is_ready_and_others_never() {
    let of = |states: &[EndpointState]| {
        let endpoints: Vec<_> = states
            .iter()
            .enumerate()
            .map(|(at, &state)| endpoint(&format!("10.1.0.{at}"), state, ""))
            .collect();
        of_one_port(&[slice(&[("http-80", 80)], &endpoints)])
    };
    assert_eq!(of(&[NotReady, Draining, Ready]), ["/10.1.0.2:80"]);
    assert_eq!(of(&[NotReady, Draining, Draining]), ["/10.1.0.1:80", "/10.1.0.2:80"]);
    assert!(of(&[NotReady, NotReady]).is_empty());
}

#[test]
fn endpoints_stand_by_zone_and_a_zone_weighs_its_endpoints() {
    let endpoints = [
        endpoint("10.1.0.1", Ready, "b"),
        endpoint("10.1.0.2", Ready, "a"),
        endpoint("10.1.0.10", Ready, "b"),
        endpoint("10.1.0.3", Ready, ""),
    ];
    let slices = [slice(&[("http-80", 80)], &endpoints)];
    let [assignment] =
        service_endpoints(&one_port(), slices.iter(), DOMAIN, ANYWHERE).try_into().unwrap();
    assert_eq!(
        flat(&assignment),
        ["/10.1.0.3:80", "a/10.1.0.2:80", "b/10.1.0.1:80", "b/10.1.0.10:80"]
    );
    let weights: Vec<_> =
        assignment.endpoints.iter().map(|zone| zone.load_balancing_weight.unwrap().value).collect();
    assert_eq!(weights, [1, 1, 2]);
}

#[test]
fn of_two_families_the_services_own_is_used_and_a_single_one_always() {
    let both = [
        slice(&[("http-80", 80)], &[ready("10.1.0.1")]),
        slice(&[("http-80", 80)], &[ready("2001:db8::1")]),
    ];
    let of = |kind, slices: &[EndpointSlice]| {
        let one = service("default/a", kind, &[(Protocol::Http, 80)]);
        flat(&service_endpoints(&one, slices.iter(), DOMAIN, ANYWHERE)[0])
    };
    assert_eq!(of(cluster_ip(&["10.0.0.1", "2001:db8::ff"]), &both), ["/10.1.0.1:80"]);
    assert_eq!(of(cluster_ip(&["2001:db8::ff", "10.0.0.1"]), &both), ["/2001:db8::1:80"]);
    assert_eq!(of(ServiceKind::Headless, &both), ["/10.1.0.1:80"]);
    assert_eq!(of(cluster_ip(&["10.0.0.1"]), &both[1..]), ["/2001:db8::1:80"]);
}

#[test]
fn a_service_that_names_its_families_gets_no_other() {
    let both = [
        slice(&[("http-80", 80)], &[endpoint("10.1.0.1", Draining, "")]),
        slice(&[("http-80", 80)], &[ready("2001:db8::1")]),
    ];
    let of = |families: &[IpFamily], slices: &[EndpointSlice]| {
        let mut one = one_port();
        one.families = families.to_vec();
        flat(&service_endpoints(&one, slices.iter(), DOMAIN, ANYWHERE)[0])
    };
    let (four, six) = (IpFamily::V4, IpFamily::V6);
    assert_eq!(of(&[four], &both), ["/10.1.0.1:80"]);
    assert!(of(&[four], &both[1..]).is_empty());
    assert_eq!(of(&[four, six], &both), ["/2001:db8::1:80"], "ready before preferred");
    assert_eq!(of(&[four, six], &both[..1]), ["/10.1.0.1:80"]);
}

/// `ADDRESS [SECOND ADDRESSES]` of each endpoint.
fn with_seconds(families: &[IpFamily], slices: &[EndpointSlice]) -> Vec<(String, Vec<String>)> {
    let mut one = one_port();
    one.families = families.to_vec();
    let text = |address: &Option<envoy_types::pb::envoy::config::core::v3::Address>| match address
        .as_ref()
        .and_then(|one| one.address.as_ref())
    {
        Some(address::Address::SocketAddress(socket)) => socket.address.clone(),
        other => panic!("{other:?}"),
    };
    let [assignment] = service_endpoints(&one, slices.iter(), DOMAIN, ANYWHERE).try_into().unwrap();
    let endpoints = assignment.endpoints.iter().flat_map(|zone| &zone.lb_endpoints);
    endpoints
        .map(|endpoint| match &endpoint.host_identifier {
            Some(HostIdentifier::Endpoint(inner)) => {
                let seconds = inner.additional_addresses.iter();
                (text(&inner.address), seconds.map(|one| text(&one.address)).collect())
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

#[test]
fn the_second_address_of_a_pod_stands_beside_the_first_where_nothing_is_in_doubt() {
    let of_pod = |address: &str, pod: u64, state| ModelEndpoint {
        pod: NonZeroU64::new(pod),
        ..endpoint(address, state, "")
    };
    let slices = [
        slice(
            &[("http-80", 80)],
            &[
                of_pod("10.1.0.1", 1, Ready),
                of_pod("10.1.0.2", 2, Ready),
                of_pod("10.1.0.3", 3, Ready),
                of_pod("10.1.0.4", 0, Ready),
                of_pod("10.1.0.5", 5, Ready),
            ],
        ),
        slice(
            &[("http-80", 80)],
            &[
                of_pod("2001:db8::1", 1, Ready),
                // On its way out by this address only, of two addresses, of no pod.
                of_pod("2001:db8::2", 2, Draining),
                of_pod("2001:db8::3", 3, Ready),
                of_pod("2001:db8::33", 3, Ready),
                of_pod("2001:db8::4", 0, Ready),
            ],
        ),
    ];
    let (four, six) = (IpFamily::V4, IpFamily::V6);
    let seen = with_seconds(&[four, six], &slices);
    let addresses: Vec<_> = seen.iter().map(|(address, _)| &**address).collect();
    assert_eq!(addresses, ["10.1.0.1", "10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.5"]);
    assert_eq!(seen[0].1, ["2001:db8::1"]);
    assert!(seen[1..].iter().all(|(_, seconds)| seconds.is_empty()), "{seen:?}");
    let single = with_seconds(&[four], &slices);
    assert!(single.iter().all(|(_, seconds)| seconds.is_empty()), "{single:?}");
    assert_eq!(with_seconds(&[six, four], &slices)[0].1, ["10.1.0.1"]);
}

#[test]
fn endpoints_of_a_headless_service_carry_their_pods_names() {
    let pod = |address: &str, name: &str| ModelEndpoint {
        hostname: (!name.is_empty()).then(|| name.into()),
        ..ready(address)
    };
    let slices = [slice(&[("http-80", 80)], &[pod("10.1.0.1", "db-0"), pod("10.1.0.2", "")])];
    let names = |kind| -> Vec<Option<String>> {
        let one = service("default/a", kind, &[(Protocol::Http, 80)]);
        let [assignment] =
            service_endpoints(&one, slices.iter(), DOMAIN, ANYWHERE).try_into().unwrap();
        let endpoints = assignment.endpoints.iter().flat_map(|zone| &zone.lb_endpoints);
        let name = |endpoint: &LbEndpoint| {
            let fields = &endpoint.metadata.as_ref()?.filter_metadata["envoy.lb"].fields;
            match fields["hostname"].kind.as_ref()? {
                value::Kind::StringValue(name) => Some(name.clone()),
                other => panic!("{other:?}"),
            }
        };
        endpoints.map(name).collect()
    };
    let dashed = Some("10-1-0-2".to_owned());
    assert_eq!(names(ServiceKind::Headless), [Some("db-0".to_owned()), dashed]);
    assert_eq!(names(cluster_ip(&["10.0.0.1"])), [None, None], "DNS has no such names");
}

#[test]
fn a_service_for_its_own_node_has_the_endpoints_of_that_node_alone() {
    let on = |address: &str, state, node: &str| ModelEndpoint {
        node: (!node.is_empty()).then(|| node.into()),
        for_zones: Box::new(["far".into()]),
        ..endpoint(address, state, "z")
    };
    let slices = [slice(
        &[("http-80", 80)],
        &[
            on("10.1.0.1", Ready, "a"),
            on("10.1.0.2", Draining, "a"),
            on("10.1.0.3", Draining, "b"),
            on("10.1.0.4", Ready, "c"),
            on("10.1.0.5", NotReady, "d"),
            on("10.1.0.6", Ready, ""),
        ],
    )];
    let mut one = service("default/a", cluster_ip(&["10.0.0.1"]), &[(Protocol::Http, 80)]);
    one.node_local = true;
    one.prefers_own_zone = true;
    assert!(!depends_on_zone(&one, slices.iter()));
    let there = |node| {
        let place = ProxyLocation { node, zone: Some("far"), ..ANYWHERE };
        let [assignment] =
            service_endpoints(&one, slices.iter(), DOMAIN, place).try_into().unwrap();
        let priorities: Vec<u32> = assignment.endpoints.iter().map(|one| one.priority).collect();
        assert!(priorities.iter().all(|priority| *priority == 0), "{priorities:?}");
        let count = assignment.endpoints.iter().map(|zone| zone.lb_endpoints.len()).sum::<usize>();
        (count, format!("{assignment:?}"))
    };
    for (node, address) in [("a", "10.1.0.1"), ("b", "10.1.0.3"), ("c", "10.1.0.4")] {
        let (count, text) = there(Some(node));
        assert!(count == 1 && text.contains(address), "{node}: {text}");
    }
    for node in [Some("d"), Some("made-up"), Some(""), None] {
        assert_eq!(there(node).0, 0, "{node:?}");
    }
}

/// As in CoreDNS' `endpointHostname`.
#[test]
fn a_pod_without_a_hostname_is_called_by_its_address_with_dashes() {
    for (address, name) in [
        ("10.10.0.4", "10-10-0-4"),
        ("2001:db8::1", "2001-db8--1"),
        ("2001:db8::", "2001-db8--0"),
        ("fd00:0:0:0:1:2:3:4", "fd00--1-2-3-4"),
    ] {
        let slices = [slice(&[("http-80", 80)], &[ready(address)])];
        let one = service("default/a", ServiceKind::Headless, &[(Protocol::Http, 80)]);
        let [assignment] =
            service_endpoints(&one, slices.iter(), DOMAIN, ANYWHERE).try_into().unwrap();
        let metadata = assignment.endpoints[0].lb_endpoints[0].metadata.clone().unwrap();
        let value = metadata.filter_metadata["envoy.lb"].fields["hostname"].kind.clone();
        assert_eq!(value, Some(value::Kind::StringValue(name.to_owned())));
    }
}

fn any_endpoint() -> impl Strategy<Value = ModelEndpoint> {
    let address = select(vec!["10.1.0.1", "10.1.0.2", "10.1.0.3", "2001:db8::1"]);
    (address, select(vec![Ready, Draining, NotReady]), select(vec!["", "a", "b"]))
        .prop_map(|(address, state, zone)| endpoint(address, state, zone))
}

/// What slices say: each a port name and number, and endpoints.
fn any_slices() -> impl Strategy<Value = Vec<EndpointSlice>> {
    let name = select(vec!["http-80", "other"]);
    let one = (name, 80..82u16, prop::collection::vec(any_endpoint(), 0..5))
        .prop_map(|(name, port, endpoints)| slice(&[(name, port)], &endpoints));
    prop::collection::vec(one, 0..6)
}

proptest! {
    /// However slices and their endpoints are ordered, repeated or cut up, the result is the same.
    #[test]
    fn the_order_and_cut_of_slices_do_not_matter(
        (slices, shuffled) in any_slices().prop_flat_map(|slices| {
            // One slice per endpoint, some of them twice, in any order.
            let cut: Vec<_> = slices.iter().flat_map(|whole| {
                whole.subsets[0].endpoints.iter().map(|one| {
                    let port = &whole.subsets[0].ports[0];
                    slice(&[(&port.name, port.port)], std::slice::from_ref(one))
                })
            }).collect();
            let repeated = prop::collection::vec(any::<Index>(), 0..3).prop_map({
                let cut = cut.clone();
                move |again| {
                    let more: Vec<_> =
                        again.iter().filter(|_| !cut.is_empty()).map(|at| at.get(&cut).clone()).collect();
                    [cut.clone(), more].concat()
                }
            });
            (Just(slices), repeated.prop_shuffle())
        })
    ) {
        let one = one_port();
        let expected = service_endpoints(&one, slices.iter(), DOMAIN, ANYWHERE);
        prop_assert_eq!(&service_endpoints(&one, shuffled.iter(), DOMAIN, ANYWHERE), &expected);
    }

    /// What clients insist on: no locality twice, none empty, no address twice, one family.
    #[test]
    fn assignments_are_what_clients_accept(slices in any_slices()) {
        let [assignment] = service_endpoints(&one_port(), slices.iter(), DOMAIN, ANYWHERE).try_into().unwrap();
        let mut zones: Vec<_> =
            assignment.endpoints.iter().map(|zone| zone.locality.clone().unwrap().zone).collect();
        prop_assert!(zones.is_sorted());
        zones.dedup();
        prop_assert_eq!(zones.len(), assignment.endpoints.len());
        for zone in &assignment.endpoints {
            prop_assert!(!zone.lb_endpoints.is_empty());
            prop_assert_eq!(
                zone.load_balancing_weight.unwrap().value as usize,
                zone.lb_endpoints.len()
            );
        }
        let mut addresses: Vec<String> = flat(&assignment)
            .into_iter()
            .map(|one| one.split_once('/').unwrap().1.to_owned())
            .collect();
        let families = addresses.iter().filter(|one| one.starts_with("2001")).count();
        prop_assert!(families == 0 || families == addresses.len());
        addresses.sort();
        let count = addresses.len();
        addresses.dedup();
        prop_assert_eq!(addresses.len(), count);
    }
}

#[test]
fn a_hundred_thousand_endpoints_are_all_there() {
    let zones: Vec<Arc<str>> = ["a", "b", "c"].map(Arc::from).to_vec();
    let slices: Vec<EndpointSlice> = (0..1000u32)
        .map(|number| {
            let endpoints: Vec<_> = (0..100u32)
                .map(|at| {
                    let address = std::net::Ipv4Addr::from(0x0a00_0000 + number * 100 + at);
                    let zone = Some(zones[at as usize % 3].clone());
                    ModelEndpoint { zone, ..ModelEndpoint::new(address.into(), Ready) }
                })
                .collect();
            slice(&[("http-80", 80)], &endpoints)
        })
        .collect();
    let [assignment] =
        service_endpoints(&one_port(), slices.iter().rev(), DOMAIN, ANYWHERE).try_into().unwrap();
    let counts: Vec<_> = assignment.endpoints.iter().map(|zone| zone.lb_endpoints.len()).collect();
    assert_eq!(counts, [34_000, 33_000, 33_000]);
}
