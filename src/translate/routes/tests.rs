use std::collections::BTreeSet;

use proptest::prelude::*;
use proptest::sample::select;
use prost::Message;

use super::*;
use crate::model::Protocol::{Grpc, Http, Tcp};
use crate::translate::tests::{DOMAIN, PER_PORT, STANDALONE, cluster_ip, service};

fn placed(kind: &ProxyKind, namespace: Option<&str>, service: &Service) -> Vec<TableEntry> {
    virtual_hosts(kind, namespace, service, service.cluster_ips(), Rules::NONE, DOMAIN)
}

fn action(host: &VirtualHost) -> &RouteAction {
    let [only] = host.routes.as_slice() else { panic!("{host:?}") };
    assert_eq!(
        only.r#match.as_ref().and_then(|one| one.path_specifier.clone()),
        Some(route_match::PathSpecifier::Prefix("/".to_owned()))
    );
    let Some(route::Action::Route(action)) = &only.action else { panic!("{host:?}") };
    action
}

fn cluster(host: &VirtualHost) -> &str {
    let Some(route_action::ClusterSpecifier::Cluster(cluster)) = &action(host).cluster_specifier
    else {
        panic!("{host:?}")
    };
    cluster
}

#[test]
fn by_port_a_service_is_in_the_table_of_each_of_its_http_ports() {
    let reviews = service(
        "default/reviews",
        cluster_ip(&["10.0.0.1", "2001:db8::1"]),
        &[(Http, 9080), (Tcp, 9081), (Grpc, 9082)],
    );
    for kind in PER_PORT {
        let [(table, host), (other_table, other)] =
            placed(&kind, Some("elsewhere"), &reviews).try_into().unwrap();
        assert_eq!((table.as_str(), other_table.as_str()), ("9080", "9082"));
        assert_eq!(host.name, "reviews.default.svc.cluster.local:9080");
        assert_eq!(
            host.domains,
            [
                "reviews.default.svc.cluster.local",
                "reviews.default.svc.cluster.local.",
                "reviews.default",
                "reviews.default.svc",
                "10.0.0.1",
                "[2001:db8::1]",
            ]
        );
        assert_eq!(cluster(&host), "outbound|9080||reviews.default.svc.cluster.local");
        assert_eq!(cluster(&other), "outbound|9082||reviews.default.svc.cluster.local");
        assert_eq!(host.domains, other.domains);
    }
}

#[test]
fn the_bare_name_is_for_the_own_namespace_and_the_rest_is_the_same_for_all() {
    let reviews = service("default/reviews", cluster_ip(&["10.0.0.1"]), &[(Http, 9080)]);
    for kind in PER_PORT.into_iter().chain([STANDALONE]) {
        let home = placed(&kind, Some("default"), &reviews);
        let away = placed(&kind, Some("elsewhere"), &reviews);
        assert!(home[0].1.domains.contains(&"reviews".to_owned()));
        assert!(!away[0].1.domains.contains(&"reviews".to_owned()));
        // Encoded once, shared by all.
        assert_eq!(away, placed(&kind, None, &reviews));
        assert_eq!(away[0].1.encode_to_vec(), placed(&kind, None, &reviews)[0].1.encode_to_vec());
    }
}

#[test]
fn a_claimed_address_is_left_out() {
    let reviews =
        service("default/reviews", cluster_ip(&["10.0.0.1", "10.0.0.2"]), &[(Http, 9080)]);
    let own = ["10.0.0.2".parse().unwrap()];
    let [(_, host)] = virtual_hosts(&ProxyKind::Sidecar, None, &reviews, &own, Rules::NONE, DOMAIN)
        .try_into()
        .unwrap();
    assert!(!host.domains.contains(&"10.0.0.1".to_owned()));
    assert!(host.domains.contains(&"10.0.0.2".to_owned()));
}

#[test]
fn where_nothing_is_captured_a_headless_service_answers_to_its_pods_names() {
    let headless = service("default/db", ServiceKind::Headless, &[(Http, 80), (Tcp, 81)]);
    let [(table, host), (other_table, pods)] =
        placed(&ProxyKind::Router, Some("default"), &headless).try_into().unwrap();
    assert_eq!((&*table, &*other_table), ("80", "80"));
    assert!(!host.domains.iter().any(|domain| domain.starts_with('*')));
    assert!(host.typed_per_filter_config.is_empty());
    let forms =
        ["db.default.svc.cluster.local", "db.default.svc.cluster.local.", "db", "db.default"];
    let forms = forms.into_iter().chain(["db.default.svc"]).map(|form| format!("*.{form}"));
    assert_eq!(pods.domains, forms.collect::<Vec<_>>());
    assert_eq!(cluster(&pods), cluster(&host));
    let [(filter, config)] = pods.typed_per_filter_config.iter().collect::<Vec<_>>()[..] else {
        panic!("a second entry would make the encoding depend on chance")
    };
    assert_eq!(filter, "envoy.filters.http.header_to_metadata");
    let config = HeaderToMetadata::decode(config.value.as_slice()).unwrap();
    let [rule] = config.request_rules.as_slice() else { panic!() };
    let value = rule.on_header_present.as_ref().unwrap();
    assert_eq!((&*value.metadata_namespace, &*value.key), ("envoy.lb", "hostname"));
    // One label before the service's name: `db-0.leaf.db` is no pod of `db`.
    let [matcher] = &pods.routes[0].r#match.as_ref().unwrap().headers[..] else { panic!() };
    assert_eq!(matcher.name, ":authority");
    let Some(HeaderMatchSpecifier::StringMatch(matcher)) = &matcher.header_match_specifier else {
        panic!("{matcher:?}")
    };
    let Some(MatchPattern::SafeRegex(regex)) = &matcher.match_pattern else { panic!() };
    let expected = r"(?i)[^.]+\.db(\.default(\.svc(\.cluster\.local\.?)?)?)?(:[0-9]+)?";
    assert_eq!(regex.regex, expected);
    assert!(host.routes[0].r#match.as_ref().unwrap().headers.is_empty());

    let [_, (_, pods)] = placed(&STANDALONE, None, &headless).try_into().unwrap();
    assert_eq!(pods.name, "*.db.default.svc.cluster.local:80");
    assert!(pods.domains.contains(&"*.db.default.svc.cluster.local".to_owned()));
    assert!(pods.domains.contains(&"*.db.default.svc.cluster.local:80".to_owned()));
}

#[test]
fn captured_requests_for_pods_go_where_dns_led_them_and_short_names_are_left_alone() {
    let mut headless = service("default/db", ServiceKind::Headless, &[(Http, 80)]);
    headless.traffic_policy.request_timeout = Some(std::time::Duration::from_secs(3));
    let [(_, host), (table, pods)] =
        placed(&ProxyKind::Sidecar, Some("default"), &headless).try_into().unwrap();
    assert_eq!(cluster(&host), "outbound|80||db.default.svc.cluster.local");
    assert!(!host.domains.iter().any(|domain| domain.starts_with('*')));
    assert_eq!((&*table, cluster(&pods)), ("80", "PassthroughCluster"));
    let full = ["db.default.svc.cluster.local", "db.default.svc.cluster.local.", "db.default.svc"];
    assert_eq!(pods.domains, full.map(|form| format!("*.{form}")));
    assert!(pods.typed_per_filter_config.is_empty());
    assert_eq!(action(&pods).timeout, Some(seconds(3)), "nobody else's names are below it");
}

#[test]
fn an_alias_has_its_targets_ports_clusters_and_tuning_under_its_own_names() {
    let mut target =
        service("shop/db", ServiceKind::Headless, &[(Http, 80), (Grpc, 81), (Tcp, 82)]);
    target.traffic_policy.request_timeout = Some(std::time::Duration::from_secs(3));
    let alias = service("default/a", ServiceKind::Alias(target.into()), &[(Http, 9999)]);
    for kind in PER_PORT.into_iter().chain([STANDALONE]) {
        let mut hosts = placed(&kind, Some("default"), &alias);
        if kind == STANDALONE {
            let (_, bare) = hosts.pop().unwrap();
            assert_eq!((&*bare.name, bare.routes.len()), ("a.default.svc.cluster.local", 2));
        }
        assert_eq!(hosts.len(), 2, "DNS gives an alias no names of pods");
        for ((_, host), port) in hosts.iter().zip([80, 81]) {
            assert_eq!(host.name, format!("a.default.svc.cluster.local:{port}"));
            assert_eq!(cluster(host), format!("outbound|{port}||db.shop.svc.cluster.local"));
            assert_eq!(action(host).timeout, Some(seconds(3)));
            assert!(host.domains.iter().any(|domain| domain.starts_with("a.default.svc")));
        }
    }
}

#[test]
fn a_name_outside_is_reached_by_the_services_own_name() {
    let kind = ServiceKind::ExternalName("api.example.com".into());
    let outside = service("default/a", kind, &[(Http, 80), (Tcp, 81)]);
    let [(table, host)] = placed(&ProxyKind::Sidecar, None, &outside).try_into().unwrap();
    assert_eq!((&*table, cluster(&host)), ("80", "outbound|80||a.default.svc.cluster.local"));
    assert!(host.domains.contains(&"a.default".to_owned()));
    assert_eq!(action(&host).host_rewrite_specifier, None, "what DNS would give a client");
}

#[test]
fn a_services_tuning_is_in_its_routes() {
    let mut one = service("default/a", cluster_ip(&["10.0.0.1"]), &[(Http, 80)]);
    let of = |kind: &ProxyKind, one: &Service| {
        let [(_, host)] = placed(kind, None, one).try_into().unwrap();
        action(&host).clone()
    };
    let default = of(&ProxyKind::Sidecar, &one);
    assert_eq!(default.timeout, Some(seconds(0)), "no limit but the client's own");
    assert!(default.hash_policy.is_empty());

    one.traffic_policy.request_timeout = Some(std::time::Duration::from_millis(1500));
    one.traffic_policy.retries = Some(0);
    one.traffic_policy.load_balancing = crate::model::LoadBalancing::ClientIpRing;
    let tuned = of(&ProxyKind::Sidecar, &one);
    assert_eq!(tuned.timeout, Some(proto_duration(std::time::Duration::from_millis(1500))));
    assert_eq!(tuned.retry_policy, None);
    let [HashPolicy { policy_specifier: Some(PolicySpecifier::ConnectionProperties(by)), .. }] =
        tuned.hash_policy.as_slice()
    else {
        panic!("{:?}", tuned.hash_policy)
    };
    assert!(by.source_ip);
    // Every client of a sidecar that is not captured is 127.0.0.1.
    assert!(of(&ProxyKind::BOUND, &one).hash_policy.is_empty());
    one.traffic_policy.retries = Some(5);
    let retries = of(&ProxyKind::Sidecar, &one).retry_policy.unwrap().num_retries;
    assert_eq!(retries, Some(uint32_value(5)));
}

/// The port that each bare and each `:PORT` form of `name.ns` leads to from a standalone listener
/// with this number.
fn standalone_ways(listener: u16, ports: &[(crate::model::Protocol, u16)]) -> Vec<(String, u16)> {
    let one = service("ns/name", cluster_ip(&["10.0.0.1"]), ports);
    let is_for = |route: &&Route| {
        let mut headers = route.r#match.iter().flat_map(|one| &one.headers);
        headers.all(|header| {
            assert_eq!(header.name, "x-pilothouse-listener-port");
            let Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(MatchPattern::Exact(port)),
                ..
            })) = &header.header_match_specifier
            else {
                panic!("{header:?}")
            };
            *port == listener.to_string()
        })
    };
    let mut ways = Vec::new();
    for (table, host) in placed(&STANDALONE, None, &one) {
        assert_eq!(table, "http");
        let route = host.routes.iter().find(is_for).expect("a way for every listener");
        let Some(route::Action::Route(RouteAction { cluster_specifier: Some(to), .. })) =
            &route.action
        else {
            panic!("{route:?}")
        };
        let route_action::ClusterSpecifier::Cluster(cluster) = to else { panic!("{route:?}") };
        let port: u16 = cluster.split('|').nth(1).unwrap().parse().unwrap();
        for domain in host.domains.iter().filter(|domain| {
            *domain == "name.ns" || domain.starts_with("name.ns:") || domain.starts_with("10.")
        }) {
            ways.push((domain.clone(), port));
        }
    }
    ways.sort();
    ways
}

#[test]
fn in_the_standalone_table_the_port_is_part_of_the_host_and_one_port_needs_no_saying() {
    let ways = |list: &[(&str, u16)]| -> Vec<(String, u16)> {
        list.iter().map(|&(domain, port)| (domain.to_owned(), port)).collect()
    };
    assert_eq!(
        standalone_ways(15080, &[(Tcp, 70), (Http, 9080), (Http, 80)]),
        ways(&[
            ("10.0.0.1", 80),
            ("10.0.0.1:80", 80),
            ("10.0.0.1:9080", 9080),
            ("name.ns", 80),
            ("name.ns:80", 80),
            ("name.ns:9080", 9080),
        ])
    );
    let bare = |listener, ports: &[_]| {
        let ways = standalone_ways(listener, ports);
        ways.iter().find(|(domain, _)| domain == "name.ns").unwrap().1
    };
    assert_eq!(bare(15080, &[(Tcp, 70), (Http, 9080), (Http, 9081)]), 9080, "the first");
    assert_eq!(bare(15080, &[(Http, 9080)]), 9080, "the only one");
    // The listener strips its own number, so `name.ns:9081` arrives there as `name.ns`.
    assert_eq!(bare(9081, &[(Http, 80), (Http, 9081)]), 9081);
    assert_eq!(bare(9081, &[(Http, 9080), (Http, 9081)]), 9081);
    // A port that is said goes before the listener's.
    let ways = standalone_ways(9081, &[(Http, 80), (Http, 9081)]);
    assert!(ways.contains(&("name.ns:80".to_owned(), 80)), "{ways:?}");
}

#[test]
fn the_standalone_table_is_the_same_whatever_the_listeners_port() {
    let one = service("ns/name", cluster_ip(&["10.0.0.1"]), &[(Http, 80), (Http, 9081)]);
    let at = |port| ProxyKind::Standalone { address: "127.0.0.1".parse().unwrap(), port };
    assert_eq!(placed(&at(80), None, &one), placed(&at(9081), None, &one));
    assert_eq!(
        table_without_services(&at(80), names::STANDALONE_TABLE, false, &Default::default()),
        table_without_services(&STANDALONE, names::STANDALONE_TABLE, false, &Default::default())
    );
}

#[test]
fn retries_are_istios() {
    let reviews = service("default/reviews", cluster_ip(&["10.0.0.1"]), &[(Http, 9080)]);
    let [(_, host)] = placed(&ProxyKind::Sidecar, None, &reviews).try_into().unwrap();
    assert_eq!(action(&host).timeout, Some(seconds(0)));
    let policy = action(&host).retry_policy.as_ref().unwrap();
    assert_eq!(
        policy.retry_on,
        "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes"
    );
    assert_eq!(policy.num_retries, Some(uint32_value(2)));
    assert_eq!(policy.host_selection_retry_max_attempts, 5);
    assert_eq!(policy.retry_host_predicate[0].name, "envoy.retry_host_predicates.previous_hosts");
}

#[test]
fn only_captured_traffic_has_a_way_out_and_only_tables_by_port_ignore_it_in_the_host() {
    for kind in PER_PORT {
        let skeleton = table_without_services(&kind, "80", false, &Default::default());
        assert_eq!(skeleton.name, "80");
        assert!(skeleton.ignore_port_in_host_matching);
        assert_eq!(skeleton.virtual_hosts.is_empty(), !kind.is_captured());
    }
    let standalone =
        table_without_services(&STANDALONE, names::STANDALONE_TABLE, false, &Default::default());
    assert!(!standalone.ignore_port_in_host_matching);
    assert!(standalone.virtual_hosts.is_empty());
    assert_eq!(standalone.request_headers_to_remove, ["x-pilothouse-listener-port"]);

    let captured = table_without_services(&ProxyKind::Sidecar, "80", false, &Default::default());
    assert_eq!(captured.virtual_hosts[0].name, "allow_any");
    assert_eq!(captured.virtual_hosts[0].domains, ["*"]);
    assert_eq!(cluster(&captured.virtual_hosts[0]), "PassthroughCluster");
}

/// The promise that lets each virtual host be encoded once: a table is its parts in a row.
#[test]
fn a_table_is_its_skeleton_and_its_virtual_hosts_in_a_row() {
    let reviews = service("default/reviews", cluster_ip(&["10.0.0.1"]), &[(Http, 9080)]);
    let [(_, host)] = placed(&ProxyKind::Sidecar, None, &reviews).try_into().unwrap();
    let mut whole = table_without_services(&ProxyKind::Sidecar, "9080", false, &Default::default());
    let mut bytes = whole.encode_to_vec();
    let part = RouteConfiguration { virtual_hosts: vec![host.clone()], ..Default::default() };
    bytes.extend(part.encode_to_vec());
    whole.virtual_hosts.push(host);
    assert_eq!(RouteConfiguration::decode(bytes.as_slice()).unwrap(), whole);
}

fn any_service() -> impl Strategy<Value = Service> {
    // Names that could be mistaken for each other's forms, if anything can.
    let label = || select(vec!["a", "b", "svc", "cluster", "local", "10", "0", "http"]);
    let ports = prop::collection::btree_map(80..85u16, select(vec![Http, Tcp]), 0..4);
    (label(), label(), proptest::bool::ANY, ports).prop_map(|(namespace, name, headless, ports)| {
        let ports: Vec<_> = ports.into_iter().map(|(port, protocol)| (protocol, port)).collect();
        let kind = if headless { ServiceKind::Headless } else { cluster_ip(&["10.0.0.0"]) };
        service(&format!("{namespace}/{name}"), kind, &ports)
    })
}

proptest! {
    /// Envoy rejects a table with a domain or a virtual host's name in it twice.
    #[test]
    fn no_domain_is_in_a_table_twice(
        services in prop::collection::vec(any_service(), 1..20),
        domain in select(vec!["cluster.local", "svc", "local", "svc.svc"]),
        kind in select(vec![ProxyKind::Sidecar, STANDALONE]),
        namespace in select(vec![None, Some("a"), Some("svc")]),
    ) {
        let mut keys = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for (number, service) in services.iter().enumerate() {
            if !keys.insert(service.key.clone()) {
                continue;
            }
            let address = IpAddr::from([10, 0, 0, u8::try_from(number).unwrap()]);
            let own = if service.kind == ServiceKind::Headless { vec![] } else { vec![address] };
            for (table, host) in virtual_hosts(&kind, namespace, service, &own, Rules::NONE, domain) {
                let name = format!("name {}", host.name);
                prop_assert!(seen.insert((table.clone(), name)), "a name twice");
                for domain in host.domains {
                    prop_assert!(seen.insert((table.clone(), domain.clone())), "{domain}");
                }
            }
        }
    }
}
