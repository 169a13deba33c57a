use envoy_types::pb::envoy::config::core::v3::{address, socket_address};

use super::*;
use crate::model::Protocol::{Http, Tcp, Tls};
use crate::translate::tests::{DOMAIN, PER_PORT, STANDALONE, cluster_ip, service};
use crate::view::Spared;

const TIMEOUT: OnDemandTimeout = DEFAULT_ON_DEMAND_TIMEOUT;

fn place(listener: &Listener) -> String {
    let Some(address::Address::SocketAddress(socket)) =
        listener.address.as_ref().and_then(|address| address.address.as_ref())
    else {
        panic!("{listener:?}")
    };
    let Some(socket_address::PortSpecifier::PortValue(port)) = socket.port_specifier else {
        panic!("{listener:?}")
    };
    format!("{}_{port}", socket.address)
}

fn config<M: Message + Name + Default>(chain: &FilterChain) -> M {
    let [filter] = chain.filters.as_slice() else { panic!("{chain:?}") };
    let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { panic!() };
    assert_eq!(any.type_url, M::type_url());
    M::decode(any.value.as_slice()).unwrap()
}

fn tcp_cluster(chain: &FilterChain) -> String {
    match config::<TcpProxy>(chain).cluster_specifier {
        Some(tcp_proxy::ClusterSpecifier::Cluster(cluster)) => cluster,
        other => panic!("{other:?}"),
    }
}

fn table(manager: &HttpConnectionManager) -> &str {
    match &manager.route_specifier {
        Some(http_connection_manager::RouteSpecifier::Rds(rds)) => {
            assert_eq!(rds.config_source, Some(ads_config_source()));
            &rds.route_config_name
        }
        other => panic!("{other:?}"),
    }
}

fn is_bound(listener: &Listener) -> bool {
    listener.bind_to_port.is_none_or(|bind| bind.value)
}

fn names_of(listeners: &[Listener]) -> Vec<&str> {
    listeners.iter().map(|listener| listener.name.as_str()).collect()
}

#[test]
fn a_sidecar_has_both_capture_listeners_each_with_a_guard_against_loops() {
    let listeners = fixed_listeners(&ProxyKind::Sidecar);
    let [outbound, inbound] = listeners.as_slice() else { panic!("{listeners:?}") };
    assert_eq!(
        (outbound.name.as_str(), place(outbound).as_str()),
        ("virtualOutbound", "0.0.0.0_15001")
    );
    assert_eq!(
        (inbound.name.as_str(), place(inbound).as_str()),
        ("virtualInbound", "0.0.0.0_15006")
    );
    assert_eq!(outbound.use_original_dst, Some(BoolValue { value: true }));
    assert_eq!(outbound.traffic_direction(), TrafficDirection::Outbound);
    assert_eq!(inbound.traffic_direction(), TrafficDirection::Inbound);
    assert_eq!(inbound.listener_filters[0].name, "envoy.filters.listener.original_dst");
    for (listener, port, onward) in
        [(outbound, 15001, "PassthroughCluster"), (inbound, 15006, "InboundPassthroughCluster")]
    {
        assert!(is_bound(listener));
        let [guard, rest] = listener.filter_chains.as_slice() else { panic!("{listener:?}") };
        let guarded = guard.filter_chain_match.as_ref().unwrap().destination_port;
        assert_eq!(guarded, Some(uint32_value(port)));
        assert_eq!(tcp_cluster(guard), "BlackHoleCluster");
        assert_eq!(rest.filter_chain_match, None);
        assert_eq!(tcp_cluster(rest), onward);
    }
}

#[test]
fn a_standalone_envoy_has_one_listener_where_it_wants_it() {
    let listeners =
        fixed_listeners(&ProxyKind::Standalone { address: "127.0.0.1".parse().unwrap(), port: 81 });
    let [listener] = listeners.as_slice() else { panic!("{listeners:?}") };
    assert_eq!(listener.name, "127.0.0.1_81");
    assert_eq!(place(listener), "127.0.0.1_81");
    assert!(is_bound(listener));
    let manager: HttpConnectionManager = config(&listener.filter_chains[0]);
    assert_eq!(table(&manager), "http");
    assert!(manager.strip_matching_host_port);
    let [mutation] = manager.early_header_mutation_extensions.as_slice() else { panic!() };
    let told =
        EarlyHeaderMutation::decode(&*mutation.typed_config.as_ref().unwrap().value).unwrap();
    let [HeaderMutation { action: Some(Action::Append(header)) }] = told.mutations.as_slice()
    else {
        panic!("{told:?}")
    };
    assert_eq!(header.append_action(), HeaderAppendAction::OverwriteIfExistsOrAdd);
    let header = header.header.as_ref().unwrap();
    assert_eq!((&*header.key, &*header.value), ("x-pilothouse-listener-port", "81"));
    assert_eq!(manager.use_remote_address, Some(BoolValue { value: true }));

    assert_eq!(names_of(&fixed_listeners(&STANDALONE)), ["0.0.0.0_15080"]);
    assert_eq!(http_port_listener(&STANDALONE, 80, ListenerRules::default(), TIMEOUT), None);
}

#[test]
fn a_captured_http_port_takes_plain_http_and_passes_the_rest_on() {
    let listener =
        http_port_listener(&ProxyKind::Sidecar, 9080, ListenerRules::default(), TIMEOUT).unwrap();
    assert_eq!(listener.name, "0.0.0.0_9080");
    assert_eq!(place(&listener), "0.0.0.0_9080");
    assert!(!is_bound(&listener));
    assert_eq!(listener.listener_filters[0].name, "envoy.filters.listener.http_inspector");
    assert_eq!(listener.listener_filters_timeout, Some(seconds(0)));
    let [chain] = listener.filter_chains.as_slice() else { panic!("{listener:?}") };
    let matched = chain.filter_chain_match.clone().unwrap();
    assert_eq!(matched.transport_protocol, "raw_buffer");
    assert_eq!(matched.application_protocols, ["http/1.1", "h2c"]);
    let rest = listener.default_filter_chain.unwrap();
    assert_eq!(rest.name, "PassthroughFilterChain");
    assert_eq!(tcp_cluster(&rest), "PassthroughCluster");

    let manager: HttpConnectionManager = config(chain);
    assert_eq!(table(&manager), "9080");
    assert_eq!(manager.stat_prefix, "outbound_0.0.0.0_9080;");
    assert_eq!(manager.use_remote_address, Some(BoolValue { value: false }));
    assert_eq!(manager.stream_idle_timeout, Some(seconds(0)));
    assert_eq!(manager.upgrade_configs[0].upgrade_type, "websocket");
    assert_eq!(manager.http_filters.len(), 1, "names of pods are DNS's affair");
    assert_eq!(manager.http_filters[0].name, "envoy.filters.http.router");
    assert!(!manager.strip_matching_host_port);
}

#[test]
fn the_other_kinds_bind_http_ports_and_take_everything_for_http() {
    for (kind, name, edge) in
        [(ProxyKind::BOUND, "127.0.0.1_9080", false), (ProxyKind::Router, "0.0.0.0_9080", true)]
    {
        assert!(fixed_listeners(&kind).is_empty());
        let listener = http_port_listener(&kind, 9080, ListenerRules::default(), TIMEOUT).unwrap();
        assert_eq!(listener.name, name);
        assert_eq!(place(&listener), name);
        assert!(is_bound(&listener));
        assert_eq!(listener.default_filter_chain, None);
        assert!(listener.listener_filters.is_empty());
        let [chain] = listener.filter_chains.as_slice() else { panic!("{listener:?}") };
        assert_eq!(chain.filter_chain_match, None);
        let manager: HttpConnectionManager = config(chain);
        assert_eq!(table(&manager), "9080");
        assert_eq!(manager.use_remote_address, Some(BoolValue { value: edge }));
    }
}

#[test]
fn ports_of_the_proxy_itself_are_left_alone() {
    for port in [15001, 15006, 15021, 15090] {
        for kind in PER_PORT {
            assert_eq!(
                http_port_listener(&kind, port, ListenerRules::default(), TIMEOUT),
                None,
                "{kind:?} {port}"
            );
        }
    }
    for port in [15000, 15020] {
        assert!(
            http_port_listener(&ProxyKind::Sidecar, port, ListenerRules::default(), TIMEOUT)
                .is_some(),
            "captured ones are not bound"
        );
        assert_eq!(
            http_port_listener(&ProxyKind::BOUND, port, ListenerRules::default(), TIMEOUT),
            None
        );
        assert_eq!(
            http_port_listener(&ProxyKind::Router, port, ListenerRules::default(), TIMEOUT),
            None
        );
    }
    for port in [15001, 15006, 15021, 15090] {
        let one = service("default/a", cluster_ip(&["10.0.0.1", "2001:db8::1"]), &[(Http, port)]);
        let listeners = port_listeners(&ProxyKind::Sidecar, &one, &one.ports[0], DOMAIN, TIMEOUT);
        let names = ["10.0.0.1", "2001:db8::1"].map(|address| format!("{address}_{port}"));
        assert_eq!(names_of(&listeners), names);
        for listener in &listeners {
            assert_eq!(place(listener), listener.name);
            assert!(!is_bound(listener));
            let manager: HttpConnectionManager = config(&listener.filter_chains[0]);
            assert_eq!(table(&manager), port.to_string());
        }
        assert!(
            port_listeners(&ProxyKind::Router, &one, &one.ports[0], DOMAIN, TIMEOUT).is_empty()
        );
    }
    let one = service("default/a", cluster_ip(&["10.0.0.1"]), &[(Tcp, 15001)]);
    assert_eq!(port_listeners(&ProxyKind::Sidecar, &one, &one.ports[0], DOMAIN, TIMEOUT).len(), 1);
    assert!(port_listeners(&ProxyKind::Router, &one, &one.ports[0], DOMAIN, TIMEOUT).is_empty());
}

#[test]
fn a_sidecar_without_capture_binds_no_port_that_it_cannot_have() {
    let kind = ProxyKind::BoundSidecar(Spared { privileged: true, own: vec![8080, 9042] });
    let one =
        service("default/a", cluster_ip(&["10.0.0.1"]), &[(Tcp, 53), (Tcp, 9042), (Tcp, 9043)]);
    let bound: Vec<_> = one
        .ports
        .iter()
        .flat_map(|port| tcp_port_listeners(&kind, &one, port, DOMAIN, TIMEOUT))
        .collect();
    assert_eq!(names_of(&bound), ["127.0.0.1_9043"]);
    for (port, is_bound) in [(443, false), (1023, false), (8080, false), (1024, true), (8081, true)]
    {
        assert_eq!(
            http_port_listener(&kind, port, ListenerRules::default(), TIMEOUT).is_some(),
            is_bound,
            "{port}"
        );
        assert!(
            http_port_listener(&ProxyKind::BOUND, port, ListenerRules::default(), TIMEOUT)
                .is_some(),
            "{port}"
        );
    }
}

#[test]
fn a_captured_tcp_port_has_a_listener_per_cluster_ip() {
    let one = service("default/db", cluster_ip(&["10.0.0.1", "2001:db8::1"]), &[(Tls, 443)]);
    let listeners = port_listeners(&ProxyKind::Sidecar, &one, &one.ports[0], DOMAIN, TIMEOUT);
    assert_eq!(names_of(&listeners), ["10.0.0.1_443", "2001:db8::1_443"]);
    for listener in &listeners {
        assert_eq!(place(listener), listener.name);
        assert!(!is_bound(listener));
        let [chain] = listener.filter_chains.as_slice() else { panic!("{listener:?}") };
        assert_eq!(tcp_cluster(chain), "outbound|443||db.default.svc.cluster.local");
        assert_eq!(
            config::<TcpProxy>(chain).stat_prefix,
            "outbound|443||db.default.svc.cluster.local"
        );
    }
}

#[test]
fn an_idle_tcp_connection_has_envoys_limit_or_the_services() {
    let mut one = service("default/db", cluster_ip(&["10.0.0.1"]), &[(Tcp, 5432)]);
    for (idle, expected) in [
        (None, None),
        (Some(Duration::ZERO), Some(seconds(0))),
        (Some(Duration::from_secs(7200)), Some(seconds(7200))),
    ] {
        one.traffic_policy.tcp_idle_timeout = idle;
        for kind in PER_PORT {
            let [listener] =
                port_listeners(&kind, &one, &one.ports[0], DOMAIN, TIMEOUT).try_into().unwrap();
            assert_eq!(config::<TcpProxy>(&listener.filter_chains[0]).idle_timeout, expected);
        }
    }
}

#[test]
fn http_1_0_is_spoken_to_everywhere() {
    for kind in PER_PORT {
        let listener = http_port_listener(&kind, 9080, ListenerRules::default(), TIMEOUT).unwrap();
        let manager: HttpConnectionManager = config(&listener.filter_chains[0]);
        assert!(manager.http_protocol_options.unwrap().accept_http_10, "{kind:?}");
    }
}

#[test]
fn bound_ports_that_are_fought_over_have_equal_names() {
    let a = service("default/a", cluster_ip(&["10.0.0.1"]), &[(Tcp, 3306)]);
    let b = service("default/b", cluster_ip(&["10.0.0.2"]), &[(Tcp, 3306)]);
    for (kind, name) in [(ProxyKind::BOUND, "127.0.0.1_3306"), (ProxyKind::Router, "0.0.0.0_3306")]
    {
        for one in [&a, &b] {
            let listeners = port_listeners(&kind, one, &one.ports[0], DOMAIN, TIMEOUT);
            assert_eq!(names_of(&listeners), [name]);
            assert!(is_bound(&listeners[0]));
        }
        assert_eq!(
            http_port_listener(&kind, 3306, ListenerRules::default(), TIMEOUT).unwrap().name,
            name
        );
    }
}

#[test]
fn what_has_no_cluster_ip_or_is_http_or_standalone_has_no_tcp_listener() {
    let kinds = PER_PORT.into_iter().chain([STANDALONE]);
    let headless = service("default/a", ServiceKind::Headless, &[(Tcp, 1)]);
    let alias = service("default/a", ServiceKind::ExternalName("b.c".into()), &[(Tcp, 1)]);
    let http = service("default/a", cluster_ip(&["10.0.0.1"]), &[(Http, 1)]);
    for kind in kinds {
        for one in [&headless, &alias, &http] {
            assert!(
                port_listeners(&kind, one, &one.ports[0], DOMAIN, TIMEOUT).is_empty(),
                "{kind:?} {one:?}"
            );
        }
    }
    let tcp = service("default/a", cluster_ip(&["10.0.0.1"]), &[(Tcp, 1)]);
    assert!(port_listeners(&STANDALONE, &tcp, &tcp.ports[0], DOMAIN, TIMEOUT).is_empty());
}
