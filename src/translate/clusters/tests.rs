use envoy_types::pb::envoy::config::core::v3::config_source::ConfigSourceSpecifier;
use prost::Message;

use super::super::seconds;
use super::*;
use crate::model::{Protocol, ServiceKind};
use crate::translate::tests::{DOMAIN, cluster_ip, service};

fn discovery(cluster: &Cluster) -> DiscoveryType {
    match cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(number)) => DiscoveryType::try_from(number).unwrap(),
        ref other => panic!("{other:?}"),
    }
}

fn upstream_protocol(cluster: &Cluster) -> Option<UpstreamProtocolOptions> {
    let options = &cluster.typed_extension_protocol_options;
    assert!(options.len() <= 1, "a second entry would make the encoding depend on chance");
    let any = options.get("envoy.extensions.upstreams.http.v3.HttpProtocolOptions")?;
    assert_eq!(any.type_url, HttpProtocolOptions::type_url());
    HttpProtocolOptions::decode(any.value.as_slice()).unwrap().upstream_protocol_options
}

#[test]
fn the_fixed_clusters_are_istios() {
    let clusters = fixed_clusters();
    let seen: Vec<_> = clusters
        .iter()
        .map(|cluster| (cluster.name.as_str(), discovery(cluster), cluster.lb_policy()))
        .collect();
    assert_eq!(
        seen,
        [
            ("BlackHoleCluster", DiscoveryType::Static, LbPolicy::RoundRobin),
            ("PassthroughCluster", DiscoveryType::OriginalDst, LbPolicy::ClusterProvided),
            ("InboundPassthroughCluster", DiscoveryType::OriginalDst, LbPolicy::ClusterProvided),
        ]
    );
    assert_eq!(clusters[0].load_assignment, None);
    assert_eq!(clusters[1].upstream_bind_config, None);
    let source = clusters[2].upstream_bind_config.clone().unwrap().source_address.unwrap();
    assert_eq!(source.address, "127.0.0.6");
    for cluster in &clusters[1..] {
        let Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) =
            upstream_protocol(cluster)
        else {
            panic!("{cluster:?}")
        };
        assert!(config.http_protocol_options.is_some() && config.http2_protocol_options.is_some());
    }
}

#[test]
fn a_port_becomes_an_eds_cluster_over_ads() {
    let reviews = service("default/reviews", cluster_ip(&["10.0.0.1"]), &[(Protocol::Http, 9080)]);
    let [cluster] = service_clusters(&reviews, DOMAIN).try_into().unwrap();
    assert_eq!(cluster.name, "outbound|9080||reviews.default.svc.cluster.local");
    assert_eq!(cluster.alt_stat_name, "outbound|9080||reviews.default.svc.cluster.local;");
    assert_eq!(discovery(&cluster), DiscoveryType::Eds);
    assert_eq!(cluster.lb_policy(), LbPolicy::LeastRequest);
    assert_eq!(cluster.connect_timeout, Some(seconds(10)));
    assert_eq!(upstream_protocol(&cluster), None);

    let eds = cluster.eds_cluster_config.unwrap();
    assert_eq!(eds.service_name, "", "the resource's name is the cluster's");
    let source = eds.eds_config.unwrap();
    assert_eq!(source.initial_fetch_timeout, Some(seconds(0)));
    assert_eq!(source.resource_api_version().as_str_name(), "V3");
    assert!(matches!(source.config_source_specifier, Some(ConfigSourceSpecifier::Ads(_))));
}

#[test]
fn nothing_limits_a_cluster_and_unhealthy_hosts_are_never_used_in_panic() {
    let reviews = service("default/reviews", cluster_ip(&["10.0.0.1"]), &[(Protocol::Tcp, 9080)]);
    let [cluster] = service_clusters(&reviews, DOMAIN).try_into().unwrap();
    let [limits] = cluster.circuit_breakers.unwrap().thresholds.try_into().unwrap();
    let most = Some(uint32_value(u32::MAX));
    assert_eq!(
        [limits.max_connections, limits.max_pending_requests, limits.max_requests],
        [most; 3]
    );
    assert_eq!(limits.max_retries, most);
    let panic = cluster.common_lb_config.unwrap().healthy_panic_threshold;
    assert_eq!(panic, Some(Percent { value: 0.0 }));
}

#[test]
fn only_http2_and_grpc_are_spoken_to_in_http2() {
    for (protocol, http2) in [
        (Protocol::Http, false),
        (Protocol::Http2, true),
        (Protocol::Grpc, true),
        (Protocol::Tls, false),
        (Protocol::Tcp, false),
    ] {
        let one = service("default/a", cluster_ip(&["10.0.0.1"]), &[(protocol, 1)]);
        let [cluster] = service_clusters(&one, DOMAIN).try_into().unwrap();
        match upstream_protocol(&cluster) {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_)),
            })) => assert!(http2, "{protocol:?}"),
            None => assert!(!http2, "{protocol:?}"),
            other => panic!("{protocol:?}: {other:?}"),
        }
    }
}

#[test]
fn services_without_an_address_have_clusters_for_http_only_and_aliases_in_the_mesh_none() {
    let ports = [(Protocol::Http, 80), (Protocol::Tcp, 81), (Protocol::Grpc, 82)];
    let names = |kind| -> Vec<String> {
        let one = service("default/a", kind, &ports);
        service_clusters(&one, "mesh.example").into_iter().map(|cluster| cluster.name).collect()
    };
    assert_eq!(
        names(ServiceKind::Headless),
        ["outbound|80||a.default.svc.mesh.example", "outbound|82||a.default.svc.mesh.example"]
    );
    assert_eq!(names(cluster_ip(&["10.0.0.1"])).len(), 3);
    assert_eq!(names(ServiceKind::ExternalName("example.com".into())).len(), 2);
    let target = service("default/b", cluster_ip(&["10.0.0.1"]), &ports);
    assert!(names(ServiceKind::Alias(target.into())).is_empty(), "it uses its target's");
}

#[test]
fn a_name_outside_is_one_logical_host_that_holds_up_nothing() {
    let kind = ServiceKind::ExternalName("api.example.com".into());
    let [cluster] =
        service_clusters(&service("default/a", kind, &[(Protocol::Http, 8080)]), DOMAIN)
            .try_into()
            .unwrap();
    let Some(ClusterDiscoveryType::ClusterType(dns)) = cluster.cluster_discovery_type else {
        panic!()
    };
    let dns = DnsCluster::decode(dns.typed_config.unwrap().value.as_slice()).unwrap();
    assert!(dns.all_addresses_in_single_endpoint && dns.respect_dns_ttl);
    assert_eq!(dns.dns_lookup_family(), DnsLookupFamily::All);
    assert_eq!(cluster.wait_for_warm_on_init, Some(BoolValue { value: false }));
    assert_eq!(cluster.eds_cluster_config, None);
    let endpoint = &cluster.load_assignment.unwrap().endpoints[0].lb_endpoints[0];
    let Some(HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier else { panic!() };
    let Some(address::Address::SocketAddress(address)) =
        endpoint.address.as_ref().and_then(|one| one.address.as_ref())
    else {
        panic!()
    };
    assert_eq!(address.address, "api.example.com.", "absolute, as a CNAME is");
    assert_eq!(address.port_specifier, Some(PortSpecifier::PortValue(8080)));
}

#[test]
fn pods_of_a_headless_service_are_chosen_by_name_or_not_at_all() {
    let ports = [(Protocol::Http, 80)];
    let [cluster] = service_clusters(&service("default/a", ServiceKind::Headless, &ports), DOMAIN)
        .try_into()
        .unwrap();
    let subsets = cluster.lb_subset_config.unwrap();
    assert_eq!(subsets.fallback_policy(), LbSubsetFallbackPolicy::AnyEndpoint, "by its own name");
    let [selector] = subsets.subset_selectors.as_slice() else { panic!() };
    assert_eq!(selector.keys, ["hostname"]);
    assert_eq!(selector.fallback_policy(), LbSubsetSelectorFallbackPolicy::NoFallback);
    let plain = service_clusters(&service("default/a", cluster_ip(&["10.0.0.1"]), &ports), DOMAIN);
    assert_eq!(plain[0].lb_subset_config, None);
}

#[test]
fn tuning_is_the_clusters_and_all_of_it_is_optional() {
    use std::time::Duration;

    use crate::model::{CircuitBreakers, OutlierDetection};

    let mut one = service("default/a", cluster_ip(&["10.0.0.1"]), &[(Protocol::Tcp, 80)]);
    let of = |one: &Service| service_clusters(one, DOMAIN).remove(0);
    assert_eq!(of(&one).outlier_detection, None);
    for (balance, policy) in [
        (LoadBalancing::RoundRobin, LbPolicy::RoundRobin),
        (LoadBalancing::Random, LbPolicy::Random),
        (LoadBalancing::ClientIpRing, LbPolicy::RingHash),
        (LoadBalancing::ClientIpMaglev, LbPolicy::Maglev),
    ] {
        one.traffic_policy.load_balancing = balance;
        assert_eq!(of(&one).lb_policy(), policy);
    }
    *one.traffic_policy = TrafficPolicy {
        connect_timeout: Some(Duration::from_millis(1500)),
        outlier_detection: Some(OutlierDetection {
            consecutive_errors: Some(3),
            ..OutlierDetection::default()
        }),
        circuit_breakers: CircuitBreakers { requests: Some(7), ..CircuitBreakers::default() },
        ..TrafficPolicy::default()
    };
    let cluster = of(&one);
    assert_eq!(cluster.connect_timeout, Some(proto_duration(Duration::from_millis(1500))));
    let limits = &cluster.circuit_breakers.unwrap().thresholds[0];
    assert_eq!(limits.max_requests, Some(uint32_value(7)));
    assert_eq!(limits.max_connections, Some(uint32_value(u32::MAX)));
    let outliers = cluster.outlier_detection.unwrap();
    assert_eq!(outliers.consecutive_5xx, Some(uint32_value(3)));
    assert_eq!(outliers.enforcing_success_rate, Some(uint32_value(0)), "nobody asked for that");
    assert_eq!(outliers.interval, None, "Envoy's default");
}

#[test]
fn an_inbound_port_leads_to_the_workload_in_what_the_client_speaks_or_is_known() {
    for (protocol, explicit) in [
        (InboundProtocol::Http, false),
        (InboundProtocol::Tcp, false),
        (InboundProtocol::Http2, true),
        (InboundProtocol::Grpc, true),
    ] {
        let cluster = inbound_cluster(&InboundPort::new(8080, protocol));
        assert_eq!(cluster.name, "inbound|8080||");
        assert_eq!(cluster.alt_stat_name, "inbound|8080||;");
        let [_, _, through] = fixed_clusters().try_into().unwrap();
        assert_eq!(cluster.upstream_bind_config, through.upstream_bind_config);
        assert_eq!(cluster.cluster_discovery_type, through.cluster_discovery_type);
        let same =
            cluster.typed_extension_protocol_options == through.typed_extension_protocol_options;
        assert_eq!(same, !explicit, "{protocol:?}");
    }
}
