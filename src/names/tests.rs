use proptest::prelude::*;

use super::*;

#[test]
fn clusters_are_named_as_in_istio_and_read_back() {
    let host = host("reviews", "default", DEFAULT_DOMAIN);
    let name = outbound_cluster(9080, &host);
    assert_eq!(name, "outbound|9080||reviews.default.svc.cluster.local");
    assert_eq!(ClusterName::parse(&name), Some(ClusterName::Outbound { port: 9080, host: &host }));
    assert_eq!(inbound_cluster(80), "inbound|80||");
    assert_eq!(ClusterName::parse("inbound|80||"), Some(ClusterName::Inbound { port: 80 }));
    assert_eq!(stat_name(&name), "outbound|9080||reviews.default.svc.cluster.local;");
}

#[test]
fn what_is_not_a_name_of_ours_is_not_read() {
    for name in [
        "",
        "PassthroughCluster",
        "outbound|9080|",
        "outbound|9080||",
        "outbound|9080|v1|reviews.default.svc.cluster.local",
        "outbound|9080||a|b",
        "outbound|70000||a",
        "outbound|http||a",
        "inbound|80||a",
        "inbound|80|v1|",
        "sideways|80||a",
    ] {
        assert_eq!(ClusterName::parse(name), None, "{name}");
    }
}

proptest! {
    #[test]
    fn any_outbound_cluster_reads_back(port: u16, host in "[a-z0-9.-]{1,60}") {
        let name = outbound_cluster(port, &host);
        prop_assert_eq!(ClusterName::parse(&name), Some(ClusterName::Outbound { port, host: &host }));
    }

    #[test]
    fn reading_never_panics(text in ".{0,80}") {
        let _ = ClusterName::parse(&text);
        let _ = NodeId::parse(&text);
    }
}

#[test]
fn listeners_are_named_after_their_place() {
    assert_eq!(wildcard_listener(9080), "0.0.0.0_9080");
    assert_eq!(listener("10.96.0.1".parse().unwrap(), 443), "10.96.0.1_443");
    assert_eq!(listener("2001:db8::1".parse().unwrap(), 443), "2001:db8::1_443");
}

#[test]
fn a_service_has_all_its_dns_forms_and_the_bare_one_only_at_home() {
    assert_eq!(
        dns_forms("reviews", "default", "cluster.local", true),
        [
            "reviews.default.svc.cluster.local",
            "reviews.default.svc.cluster.local.",
            "reviews",
            "reviews.default",
            "reviews.default.svc",
        ]
    );
    assert_eq!(
        dns_forms("reviews", "default", "mesh.example", false),
        [
            "reviews.default.svc.mesh.example",
            "reviews.default.svc.mesh.example.",
            "reviews.default",
            "reviews.default.svc",
        ]
    );
}

#[test]
fn addresses_stand_in_a_host_header_with_brackets_if_ipv6() {
    assert_eq!(host_of_address("10.0.0.1".parse().unwrap()), "10.0.0.1");
    assert_eq!(host_of_address("2001:DB8:0::1".parse().unwrap()), "[2001:db8::1]");
}

#[test]
fn a_sidecar_id_is_read() {
    let id = "sidecar~10.1.2.3~reviews-v1-abc.default~default.svc.cluster.local";
    assert_eq!(
        NodeId::parse(id),
        Ok(Some(NodeId {
            node_type: NodeType::Sidecar,
            address: "10.1.2.3".parse().unwrap(),
            name: "reviews-v1-abc.default",
            namespace: Some("default"),
            domain: "default.svc.cluster.local",
        }))
    );
    let router = NodeId::parse("router~2001:db8::7~gw.edge~").unwrap().unwrap();
    assert_eq!((router.node_type, router.namespace), (NodeType::Router, Some("edge")));
}

#[test]
fn the_namespace_is_after_the_names_last_dot_else_the_domains_first_label() {
    let namespace = |rest: &str| {
        let id = format!("sidecar~10.0.0.1~{rest}");
        NodeId::parse(&id).unwrap().unwrap().namespace.map(str::to_owned)
    };
    assert_eq!(namespace("a.b.prod~x.svc.cluster.local").as_deref(), Some("prod"));
    assert_eq!(namespace("pod~prod.svc.cluster.local").as_deref(), Some("prod"));
    assert_eq!(namespace("pod.~prod.svc").as_deref(), Some("prod"));
    assert_eq!(namespace("pod~cluster.local"), None);
    assert_eq!(namespace("pod~.svc.cluster.local"), None);
    assert_eq!(namespace("pod~"), None);
}

#[test]
fn an_id_without_tildes_is_a_standalone_envoys() {
    for id in ["", "edge-1", "sidecar", "10.0.0.1"] {
        assert_eq!(NodeId::parse(id), Ok(None), "{id}");
    }
}

#[test]
fn a_malformed_id_is_refused_with_the_reason_and_the_shape() {
    for (id, reason) in [
        ("sidecar~10.0.0.1~a.b", "3 parts"),
        ("sidecar~10.0.0.1~a.b~c~d", "5 parts"),
        ("waypoint~10.0.0.1~a.b~c", "\"waypoint\", which is not served"),
        ("~10.0.0.1~a.b~c", "\"\", which is not served"),
        ("sidecar~10.0.0~a.b~c", "no valid IP address as its second part (\"10.0.0\")"),
        ("sidecar~~a.b~c", "no valid IP address"),
        ("sidecar~10.0.0.1~~c", "empty third part"),
    ] {
        let message = NodeId::parse(id).unwrap_err().to_string();
        assert!(message.contains(reason), "{id}: {message}");
        assert!(message.contains("type~ip~name.namespace~domain"), "{id}: {message}");
        assert!(message.contains(id), "{id}: {message}");
    }
}
