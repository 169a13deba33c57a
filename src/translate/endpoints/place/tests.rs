use std::net::IpAddr;

use super::*;
use crate::model::{Endpoint, EndpointState, Protocol, ServiceKey, SlicePort, Subset};
use crate::translate::endpoints::service_endpoints;
use crate::translate::tests::{DOMAIN, cluster_ip, service};

fn endpoint(host: u8, zone: &str, for_zones: &[&str]) -> Endpoint {
    Endpoint {
        zone: (!zone.is_empty()).then(|| zone.into()),
        for_zones: for_zones.iter().map(|zone| Arc::from(*zone)).collect(),
        ..Endpoint::new(IpAddr::from([10, 0, 0, host]), EndpointState::Ready)
    }
}

fn web_service(prefers_own_zone: bool) -> Service {
    let plain = service("default/a", cluster_ip(&[]), &[(Protocol::Http, 80)]);
    Service { prefers_own_zone, ..plain }
}

/// `PRIORITY REGION/ZONE: HOSTS` of each locality.
fn seen_from(zone: Option<&str>, service: &Service, endpoints: &[Endpoint]) -> Vec<String> {
    let ports = vec![SlicePort { name: "http-80".into(), port: 8080 }];
    let slice = EndpointSlice {
        name: "any".into(),
        service: ServiceKey::new("default", "a"),
        subsets: vec![Subset { ports, endpoints: endpoints.to_vec() }],
    };
    let regions = BTreeMap::from([("b".into(), "r".into())]);
    let place = ProxyLocation { zone, node: None, regions: &regions };
    let [assignment] =
        service_endpoints(service, std::iter::once(&slice), DOMAIN, place).try_into().unwrap();
    let locality = |one: &envoy_types::pb::envoy::config::endpoint::v3::LocalityLbEndpoints| {
        assert_eq!(
            one.load_balancing_weight.as_ref().unwrap().value as usize,
            one.lb_endpoints.len()
        );
        let hosts: Vec<String> = one
            .lb_endpoints
            .iter()
            .map(|one| {
                let text = format!("{one:?}");
                let at = text.find("10.0.0.").unwrap() + "10.0.0.".len();
                text[at..].chars().take_while(char::is_ascii_digit).collect()
            })
            .collect();
        let place = one.locality.as_ref().unwrap();
        format!("{} {}/{}: {}", one.priority, place.region, place.zone, hosts.join(" "))
    };
    assignment.endpoints.iter().map(locality).collect()
}

#[test]
fn a_service_that_asks_for_nothing_is_the_same_from_everywhere() {
    let endpoints = [endpoint(1, "a", &[]), endpoint(2, "b", &[]), endpoint(3, "", &[])];
    let everywhere = ["0 /: 3", "0 /a: 1", "0 r/b: 2"];
    for zone in [None, Some("a"), Some("elsewhere")] {
        assert_eq!(seen_from(zone, &web_service(false), &endpoints), everywhere);
    }
    assert_eq!(seen_from(None, &web_service(true), &endpoints), everywhere);
}

#[test]
fn the_own_zone_goes_first_and_the_others_are_there_for_when_it_fails() {
    let endpoints = [endpoint(1, "a", &[]), endpoint(2, "b", &[]), endpoint(3, "b", &[])];
    assert_eq!(seen_from(Some("a"), &web_service(true), &endpoints), ["0 /a: 1", "1 r/b: 2 3"]);
    assert_eq!(seen_from(Some("b"), &web_service(true), &endpoints), ["0 r/b: 2 3", "1 /a: 1"]);
    // A zone without endpoints: nothing is near, and priorities begin at 0.
    assert_eq!(seen_from(Some("c"), &web_service(true), &endpoints), ["0 /a: 1", "0 r/b: 2 3"]);
    assert!(seen_from(Some("c"), &web_service(true), &[]).is_empty());
}

#[test]
fn what_is_not_usable_does_not_make_a_zone_near() {
    let gone = Endpoint { state: EndpointState::NotReady, ..endpoint(1, "a", &[]) };
    let leaving = Endpoint { state: EndpointState::Draining, ..endpoint(1, "a", &[]) };
    for first in [gone, leaving] {
        let endpoints = [first, endpoint(2, "b", &[])];
        assert_eq!(seen_from(Some("a"), &web_service(true), &endpoints), ["0 r/b: 2"]);
    }
}

#[test]
fn hints_count_if_every_usable_endpoint_has_some_and_one_is_for_the_zone() {
    // Kubernetes may mean an endpoint for another zone than its own, or for several.
    let hinted =
        [endpoint(1, "a", &["a", "c"]), endpoint(2, "b", &["b"]), endpoint(3, "b", &["a"])];
    let from_a = ["0 /a: 1", "0 r/b: 3", "1 r/b: 2"];
    for service in [web_service(false), web_service(true)] {
        assert_eq!(seen_from(Some("a"), &service, &hinted), from_a);
        assert_eq!(seen_from(Some("c"), &service, &hinted), ["0 /a: 1", "1 r/b: 2 3"]);
    }
    let equal = ["0 /a: 1", "0 r/b: 2 3"];
    assert_eq!(seen_from(Some("d"), &web_service(false), &hinted), equal, "none is for it");
    assert_eq!(seen_from(None, &web_service(false), &hinted), equal);

    let mut partly = hinted;
    partly[1].for_zones = Box::default();
    assert_eq!(seen_from(Some("a"), &web_service(false), &partly), equal, "one has none");
    assert_eq!(seen_from(Some("b"), &web_service(true), &partly), ["0 r/b: 2 3", "1 /a: 1"]);
    partly[1].state = EndpointState::NotReady;
    assert_eq!(
        seen_from(Some("c"), &web_service(false), &partly),
        ["0 /a: 1", "1 r/b: 3"],
        "which is not usable"
    );
}
