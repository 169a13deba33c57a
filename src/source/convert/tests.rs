use serde_json::{Value, json};

use super::*;
use crate::model::{Endpoint, EndpointSlice, EndpointState, Protocol, SlicePort};

fn parse<T: serde::de::DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).expect("the test's object is well-formed")
}

fn service(spec: Value) -> Result<Converted<Service>, Rejection> {
    let metadata = json!({"name": "reviews", "namespace": "shop", "resourceVersion": "7",
        "creationTimestamp": "2024-05-01T10:00:00Z"});
    Converter::default().service(&parse(json!({"metadata": metadata, "spec": spec})))
}

fn slice(object: Value) -> Result<Option<Converted<EndpointSlice>>, Rejection> {
    let mut whole = json!({"addressType": "IPv4", "endpoints": [], "metadata":
        {"name": "reviews-abc", "namespace": "shop", "labels": {SERVICE_NAME_LABEL: "reviews"}}});
    for (key, value) in object.as_object().expect("an object") {
        whole[key] = value.clone();
    }
    Converter::default().slice(&parse(whole))
}

fn texts(flaws: &[Rejection]) -> Vec<String> {
    flaws.iter().map(ToString::to_string).collect()
}

fn state(conditions: Value) -> EndpointState {
    let endpoint = json!({"addresses": ["10.0.0.1"], "conditions": conditions});
    let slice = slice(json!({"endpoints": [endpoint]})).unwrap().unwrap();
    slice.value.subsets[0].endpoints[0].state
}

#[test]
fn a_service_keeps_what_proxies_need() {
    let converted =
        service(json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"],
        "ports": [{"name": "http", "port": 9080}, {"name": "db", "port": 3306, "protocol": "TCP"},
                  {"name": "dns", "port": 53, "protocol": "UDP"},
                  {"name": "sig", "port": 54, "protocol": "SCTP"}]}))
        .unwrap();
    assert!(converted.flaws.is_empty() && converted.notes.is_empty(), "{converted:?}");
    let service = converted.value;
    assert_eq!(service.key, ServiceKey::new("shop", "reviews"));
    assert_eq!(
        service.cluster_ips(),
        [[10, 96, 0, 1].into(), "fd00::1".parse::<IpAddr>().unwrap()]
    );
    let port = |name: &str, port, protocol| ServicePort { name: name.into(), port, protocol };
    let expected = [port("http", 9080, Protocol::Http), port("db", 3306, Protocol::Tcp)];
    assert_eq!(service.ports, expected);
    assert_eq!((&*service.created, &*service.resource_version), ("2024-05-01T10:00:00Z", "7"));
}

#[test]
fn kinds_of_services() {
    let kind = |spec| service(spec).unwrap().value.kind;
    let ports = json!([{"port": 80}]);
    assert_eq!(kind(json!({"clusterIP": "None", "ports": ports})), ServiceKind::Headless);
    assert_eq!(kind(json!({"clusterIPs": ["None"]})), ServiceKind::Headless);
    assert_eq!(kind(json!({"ports": ports})), ServiceKind::ClusterIp(vec![]));
    for name in ["NodePort", "LoadBalancer", "ClusterIP"] {
        let spec = json!({"type": name, "clusterIP": "10.96.0.9", "ports": ports});
        assert_eq!(kind(spec), ServiceKind::ClusterIp(vec![[10, 96, 0, 9].into()]));
    }
    let alias = json!({"type": "ExternalName", "externalName": "Example.COM."});
    assert_eq!(kind(alias), ServiceKind::ExternalName("example.com".into()));
    let (label, long) = ("x".repeat(64) + ".com", "y".repeat(254));
    for bad in ["a b", "a.com..", ".", "a..com", "*.a.com", &label, &long] {
        let bad = service(json!({"type": "ExternalName", "externalName": bad})).unwrap_err();
        assert_eq!(bad.field, "spec.externalName");
    }
    assert_eq!(service(json!({"type": "Wrong"})).unwrap_err().field, "spec.type");
}

#[test]
fn bad_parts_of_a_service_are_left_out_and_named() {
    let converted = service(json!({"clusterIP": "10.96.0.1", "ports": [
        {"name": "a", "port": 0}, {"name": "b", "port": 70000}, {"name": "c", "port": -1},
        {"name": "d", "port": 80}, {"name": "e", "port": 80}, {"name": "d", "port": 81},
        {"port": 82}, {"name": "Bad_Name", "port": 83}, {"name": "f", "port": 84, "protocol": "ICMP"},
        {"name": "g", "port": 65535}]}))
    .unwrap();
    let ports: Vec<_> = converted.value.ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 65535]);
    let expected = [
        "spec.ports[0].port: 0 is no port number (1 to 65535)",
        "spec.ports[1].port: 70000 is no port number (1 to 65535)",
        "spec.ports[2].port: -1 is no port number (1 to 65535)",
        "spec.ports[4].port: 80 is the number of an earlier port as well",
        "spec.ports[5].name: \"d\" is the name of an earlier port as well",
        "spec.ports[6].name: missing: every port needs a name where there are several",
    ];
    assert_eq!(texts(&converted.flaws)[..6], expected);
    let fields: Vec<_> = converted.flaws[6..].iter().map(|flaw| flaw.field.as_str()).collect();
    assert_eq!(fields, ["spec.ports[7].name", "spec.ports[8].protocol"]);
}

#[test]
fn one_number_may_serve_tcp_and_udp() {
    let converted = service(json!({"clusterIP": "10.96.0.10", "ports": [
        {"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]}));
    let converted = converted.unwrap();
    assert_eq!((converted.value.ports.len(), converted.flaws.len()), (1, 0));
}

#[test]
fn a_service_without_ports_or_with_a_bad_address_is_flawed() {
    let portless = service(json!({"clusterIP": "10.96.0.1"})).unwrap();
    assert_eq!(texts(&portless.flaws), ["spec.ports: a service needs at least one port"]);
    assert!(service(json!({"clusterIP": "None"})).unwrap().flaws.is_empty());
    for address in ["10.96.0.300", "reviews", "0.0.0.0", "224.0.0.1"] {
        let bad = service(json!({"clusterIP": address, "ports": [{"port": 80}]})).unwrap();
        assert_eq!(bad.flaws[0].field, "spec.clusterIP");
        assert_eq!(bad.value.kind, ServiceKind::ClusterIp(vec![]), "{address}");
    }
}

#[test]
fn names_that_would_forge_a_host_are_rejected() {
    let with = |name: &str, namespace: &str| {
        let metadata = json!({"name": name, "namespace": namespace});
        let object = json!({"metadata": metadata, "spec": {"ports": [{"port": 80}]}});
        Converter::default().service(&parse(object))
    };
    for name in ["", "a.b", "Reviews", "-a", "a-", "a_b", "ä", &"x".repeat(64)] {
        assert_eq!(with(name, "shop").unwrap_err().field, "metadata.name", "{name:?}");
    }
    assert_eq!(with("a", "b.svc").unwrap_err().field, "metadata.namespace");
    assert_eq!(with("a", "").unwrap().value.key, ServiceKey::new("default", "a"));
    assert!(with(&"x".repeat(63), "1-2").is_ok());
    let label = json!({"metadata": {"name": "s", "labels": {SERVICE_NAME_LABEL: "a.other"}}});
    assert!(slice(label).unwrap_err().field.contains(SERVICE_NAME_LABEL));
}

/// k8ssandra-operator#1690: a slice is named after its service, with a suffix of the controller's.
#[test]
fn a_slices_name_may_have_253_characters() {
    let named = |name: &str| {
        slice(json!({"metadata": {"name": name, "namespace": "shop",
            "labels": {SERVICE_NAME_LABEL: "reviews"}}, "endpoints": [{"addresses": ["10.0.0.1"]}]}))
    };
    for good in ["a", "a.b", &"x".repeat(64), &"x".repeat(253)] {
        assert_eq!(&*named(good).unwrap().unwrap().value.name, good);
    }
    for bad in ["", "A", "a_b", "a/b", "-a", &"x".repeat(254)] {
        assert_eq!(named(bad).unwrap_err().field, "metadata.name", "{bad:?}");
    }
}

#[test]
fn names_of_endpoints_and_their_nodes_are_checked_and_cost_only_themselves() {
    let with = |hostname: &str, node: &str| {
        let endpoint = json!({"addresses": ["10.0.0.1"], "hostname": hostname, "nodeName": node});
        let converted = slice(json!({"ports": [{"port": 80}], "endpoints": [endpoint]}));
        let converted = converted.unwrap().unwrap();
        let one = converted.value.subsets[0].endpoints[0].clone();
        let fields: Vec<_> = converted.flaws.iter().map(|flaw| flaw.field.clone()).collect();
        (one.hostname.is_some(), one.node.is_some(), fields)
    };
    let (label, subdomain) = ("h".repeat(63), "n".repeat(253));
    assert_eq!(with(&label, &subdomain), (true, true, vec![]));
    assert_eq!(with("", ""), (false, false, vec![]));
    let both = ["endpoints[0].nodeName", "endpoints[0].hostname"].map(str::to_owned);
    for (hostname, node) in [("a.b", "A"), ("DB-0", "a_b"), (&*(label + "h"), &*(subdomain + "n"))]
    {
        assert_eq!(with(hostname, node), (false, false, both.to_vec()));
    }
}

#[test]
fn a_port_of_the_sidecar_itself_is_a_flaw_where_there_is_no_cluster_ip() {
    let flaws = |spec| -> (usize, Vec<String>) {
        let converted = service(spec).unwrap();
        let own = converted.value.flaws.iter().map(|flaw| flaw.field.to_string()).collect();
        (converted.flaws.len(), own)
    };
    let ports = json!([{"name": "http", "port": 15021}, {"name": "http-b", "port": 8080}]);
    let told = vec!["spec.ports[port=15021]".to_owned()];
    assert_eq!(flaws(json!({"clusterIP": "None", "ports": ports})), (0, told.clone()));
    assert_eq!(flaws(json!({"ports": ports})), (0, told));
    assert_eq!(flaws(json!({"clusterIP": "10.96.0.1", "ports": ports})), (0, vec![]));
    // An alias of the mesh is reached by its target's address: `Model::resolved` tells.
    let alias = json!({"type": "ExternalName", "externalName": "a.b.svc", "ports": ports});
    assert_eq!(flaws(alias), (0, vec![]));
}

#[test]
fn a_slice_of_names_or_of_no_service_is_not_for_us() {
    let names = slice(json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]}));
    let names = names.unwrap().unwrap();
    assert!(names.value.subsets.is_empty());
    let expected = ["addressType: FQDN: endpoints must be addresses, left out"];
    assert_eq!(texts(&names.notes), expected, "counted and shown, no more");
    assert!(slice(json!({"metadata": {"name": "own", "namespace": "shop"}})).unwrap().is_none());
    assert_eq!(slice(json!({"addressType": "IPX"})).unwrap_err().field, "addressType");
}

#[test]
fn absent_conditions_mean_what_the_api_says() {
    use EndpointState::{Draining, NotReady, Ready};
    assert_eq!(state(Value::Null), Ready);
    assert_eq!(state(json!({})), Ready);
    assert_eq!(state(json!({"ready": true, "terminating": true})), Ready);
    assert_eq!(state(json!({"ready": false})), NotReady);
    assert_eq!(state(json!({"ready": false, "serving": true})), NotReady);
    assert_eq!(state(json!({"ready": false, "terminating": true})), Draining);
    let gone = json!({"ready": false, "serving": false, "terminating": true});
    assert_eq!(state(gone), NotReady);
}

#[test]
fn absent_names_protocols_and_numbers_of_slice_ports() {
    let converted = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [
        {"port": 80}, {"name": "any"}, {"name": "dns", "port": 53, "protocol": "UDP"}]}));
    let converted = converted.unwrap().unwrap();
    let ports = &converted.value.subsets[0].ports;
    assert_eq!(*ports, [SlicePort { name: "".into(), port: 80 }]);
    assert!(converted.flaws.is_empty());
    assert_eq!(converted.notes[0].field, "ports[1].port");
    for none in [Value::Null, json!([])] {
        let empty = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": none}));
        let empty = empty.unwrap().unwrap();
        assert!(empty.value.subsets[0].ports.is_empty());
        assert_eq!(empty.notes[0].field, "ports");
    }
}

#[test]
fn only_the_first_address_counts_and_bad_ones_are_left_out() {
    let converted = slice(json!({"ports": [{"port": 80}], "endpoints": [
        {"addresses": ["10.0.0.1", "10.0.0.2"], "zone": "z", "nodeName": "n", "hostname": "h"},
        {"addresses": []}, {"addresses": ["reviews"]}, {"addresses": ["fd00::1"]},
        {"addresses": ["10.0.0.3"]}]}));
    let converted = converted.unwrap().unwrap();
    let endpoints = &converted.value.subsets[0].endpoints;
    let addresses: Vec<_> = endpoints.iter().map(|one| one.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.3"]);
    let first = &endpoints[0];
    let place = (first.zone.as_deref(), first.node.as_deref(), first.hostname.as_deref());
    assert_eq!(place, (Some("z"), Some("n"), Some("h")));
    let expected = [
        "endpoints[1].addresses[0]: missing",
        "endpoints[2].addresses[0]: \"reviews\" is no IP address",
        "endpoints[3].addresses[0]: fd00::1 in a slice of IPv4 addresses",
    ];
    assert_eq!(texts(&converted.flaws), expected);
}

#[test]
fn unusable_ports_of_slices_cost_only_themselves() {
    let converted = slice(json!({"endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [
        {"name": "a", "port": 0}, {"name": "b", "port": 70000}, {"name": "Bad_Name", "port": 1},
        {"name": "c", "port": 80}, {"name": "c", "port": 81}, {"name": "d", "port": 82, "protocol": "X"},
        {"name": "sig", "port": 83, "protocol": "SCTP"}, {"name": null, "port": 84, "protocol": null}]}));
    let converted = converted.unwrap().unwrap();
    let ports: Vec<_> = converted.value.subsets[0].ports.iter().map(|port| port.port).collect();
    assert_eq!(ports, [80, 84]);
    let fields: Vec<_> = converted.flaws.iter().map(|flaw| flaw.field.as_str()).collect();
    let expected =
        ["ports[0].port", "ports[1].port", "ports[2].name", "ports[4].name", "ports[5].protocol"];
    assert_eq!(fields, expected);
}

#[test]
fn families_are_the_specs() {
    let families = |spec| service(spec).unwrap().value.families;
    let (four, six) = (IpFamily::V4, IpFamily::V6);
    assert_eq!(families(json!({"clusterIP": "None"})), []);
    let dual = json!({"clusterIP": "None", "ipFamilies": ["IPv6", "IPv4"]});
    assert_eq!(families(dual), [six, four]);
    assert_eq!(families(json!({"clusterIP": "None", "ipFamilies": ["IPv4"]})), [four]);
    assert_eq!(families(json!({"clusterIP": "None", "ipFamilies": ["IPv5"]})), []);
}

#[test]
fn both_addresses_of_a_pod_are_known_as_its_own() {
    let pod = |name: &str, kind: &str, uid: &str| {
        let target = json!({"kind": kind, "namespace": "shop", "name": name, "uid": uid});
        let endpoint = json!({"addresses": ["10.0.0.1"], "targetRef": target});
        slice(json!({"endpoints": [endpoint]})).unwrap().unwrap().value.subsets[0].endpoints[0].pod
    };
    assert!(pod("a", "Pod", "1").is_some());
    assert_eq!(pod("a", "Pod", "1"), pod("a", "Pod", "1"));
    assert_ne!(pod("a", "Pod", "1"), pod("b", "Pod", "1"));
    assert_ne!(pod("a", "Pod", "1"), pod("a", "Pod", "2"));
    assert_eq!(pod("a", "Node", "1"), None);
}

#[test]
fn a_bad_annotation_is_a_flaw_of_the_service_and_no_reason_to_refuse_it() {
    let object = json!({"spec": {"clusterIP": "10.96.0.1", "ports": [{"port": 80}, {"port": 0}]},
        "metadata": {"name": "a", "annotations": {"pilothouse.io/retries": "many"}}});
    let converted = Converter::default().service(&parse(object)).unwrap();
    assert_eq!(converted.flaws.len(), 2, "a manifest is refused for its ports alone");
    let fields: Vec<_> = converted.value.flaws.iter().map(|flaw| &*flaw.field).collect();
    let expected =
        ["spec.ports[0].name", "spec.ports[1].name", "metadata.annotations[pilothouse.io/retries]"];
    assert_eq!(fields, expected);
}

#[test]
fn endpoints_objects_have_subsets_and_two_states() {
    let object = json!({"metadata": {"name": "reviews", "namespace": "shop"}, "subsets": [
        {"addresses": [{"ip": "10.0.0.1", "nodeName": "n"}],
         "notReadyAddresses": [{"ip": "10.0.0.2", "hostname": "h"}, {"ip": "nonsense"}],
         "ports": [{"name": "http", "port": 9080}]},
        {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 0}]}]});
    let converted = Converter::default().endpoints(&parse(object)).unwrap().unwrap();
    let slice = converted.value;
    assert_eq!(&*slice.name, "endpoints/reviews");
    assert_eq!(slice.service, ServiceKey::new("shop", "reviews"));
    let states: Vec<Vec<_>> = slice
        .subsets
        .iter()
        .map(|subset| subset.endpoints.iter().map(|one| one.state).collect())
        .collect();
    assert_eq!(
        states,
        [vec![EndpointState::Ready, EndpointState::NotReady], vec![EndpointState::Ready]]
    );
    assert_eq!(slice.subsets[0].ports[0].port, 9080);
    let fields: Vec<_> = converted.flaws.iter().map(|flaw| flaw.field.as_str()).collect();
    assert_eq!(fields, ["subsets[0].notReadyAddresses[1].ip", "subsets[1].ports[0].port"]);
}

#[test]
fn an_endpoint_costs_less_than_120_bytes_and_its_pods_name() {
    assert!(size_of::<Endpoint>() < 120, "{} bytes", size_of::<Endpoint>());
    let mut converter = Converter::default();
    let mut endpoint = |name: &str| {
        let endpoints = json!([{"addresses": ["10.0.0.1"], "zone": "z", "nodeName": "n"}]);
        let labels = json!({SERVICE_NAME_LABEL: "reviews"});
        let object = json!({"addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": name, "namespace": "shop", "labels": labels}});
        let slice = converter.slice(&parse(object)).unwrap().unwrap().value;
        (slice.subsets[0].endpoints[0].clone(), slice.service)
    };
    let ((one, service), (two, same)) = (endpoint("a"), endpoint("b"));
    assert!(Arc::ptr_eq(one.zone.as_ref().unwrap(), two.zone.as_ref().unwrap()));
    assert!(Arc::ptr_eq(one.node.as_ref().unwrap(), two.node.as_ref().unwrap()));
    assert!(Arc::ptr_eq(&service.namespace, &same.namespace));
    assert!(Arc::ptr_eq(&service.name, &same.name));
}

// === place and visibility ===

#[test]
fn traffic_distribution_asks_for_the_own_zone() {
    let asked = |value: Option<&str>| {
        let spec = json!({"ports": [{"port": 80}], "trafficDistribution": value});
        let converted = service(spec).unwrap();
        assert!(converted.flaws.is_empty());
        converted.value.prefers_own_zone
    };
    for value in ["PreferClose", "PreferSameZone", "PreferSameNode"] {
        assert!(asked(Some(value)), "{value}");
    }
    assert!(!asked(None) && !asked(Some("")) && !asked(Some("PreferSomethingNew")));
}

#[test]
fn internal_traffic_may_be_for_the_own_node_alone() {
    let local = |spec| service(spec).unwrap().value.node_local;
    let policy = |policy: &str, address: &str| json!({"ports": [{"port": 80}], "clusterIP": address, "internalTrafficPolicy": policy});
    assert!(local(policy("Local", "10.96.0.1")) && local(policy("Local", "")));
    assert!(!local(policy("Cluster", "10.96.0.1")) && !local(policy("", "10.96.0.1")));
    assert!(!local(policy("Local", "None")), "DNS gives all pods");
    assert!(!local(json!({"ports": [{"port": 80}]})));
}

#[test]
fn hints_name_zones_in_any_order() {
    let hinted = |hints: serde_json::Value| {
        let endpoints = json!([{"addresses": ["10.0.0.1"], "hints": hints}]);
        let labels = json!({SERVICE_NAME_LABEL: "reviews"});
        let object = json!({"addressType": "IPv4", "endpoints": endpoints,
            "metadata": {"name": "x", "namespace": "shop", "labels": labels}});
        let slice = serde_json::from_value(object).unwrap();
        let converted = Converter::default().slice(&slice).unwrap().unwrap();
        converted.value.subsets[0].endpoints[0].for_zones.to_vec()
    };
    let zones = json!({"forZones": [{"name": "b"}, {"name": "a"}, {"name": "b"}, {"name": ""}]});
    assert_eq!(hinted(zones), ["a".into(), "b".into()]);
    assert!(hinted(json!(null)).is_empty());
    assert!(hinted(json!({"forNodes": [{"name": "n"}]})).is_empty());
}

#[test]
fn a_bad_annotation_costs_nothing_but_itself() {
    let with = |value: &str| {
        let annotations = json!({"networking.istio.io/exportTo": value});
        let object = json!({"metadata": {"name": "reviews", "namespace": "shop",
            "annotations": annotations}, "spec": {"ports": [{"port": 80}]}});
        Converter::default().service(&serde_json::from_value(object).unwrap()).unwrap()
    };
    let good = with(".");
    assert_eq!(good.value.export_to, ExportTo::Only(["shop".into()].into()));
    assert!(good.value.flaws.is_empty());
    let bad = with("Not A Namespace");
    assert_eq!(bad.value.export_to, ExportTo::Everyone);
    assert!(bad.flaws.is_empty(), "a manifest is not refused for it");
    let [flaw] = bad.value.flaws.as_slice() else { panic!("{bad:?}") };
    assert_eq!(&*flaw.field, "metadata.annotations[networking.istio.io/exportTo]");
}

#[test]
fn what_people_look_for_is_kept() {
    let object = json!({
        "metadata": { "name": "web", "namespace": "shop", "labels": { "team": "a", "app": "web" } },
        "spec": {
            "selector": { "app": "web" },
            "ports": [
                { "name": "named", "port": 80, "targetPort": "http" },
                { "name": "number", "port": 81, "targetPort": 8081 },
                { "name": "same", "port": 82, "targetPort": 82 },
                { "name": "unsaid", "port": 83 },
                { "name": "udp", "port": 84, "protocol": "UDP", "targetPort": 53 },
                { "name": "tcp", "port": 84, "targetPort": 8084 },
                { "name": "odd", "port": 85, "targetPort": 70000 },
            ],
        },
    });
    let service = Converter::default().service(&serde_json::from_value(object).unwrap());
    let about = service.unwrap().value.about;
    let text = |labels: &crate::model::Labels| {
        let pairs = labels.iter().map(|(key, value)| format!("{key}={value}"));
        pairs.collect::<Vec<_>>().join(",")
    };
    assert_eq!(
        (text(&about.labels), text(&about.selector)),
        ("app=web,team=a".into(), "app=web".into())
    );
    use crate::model::TargetPort::{Name, Number};
    let targets: Vec<_> = (80..86).map(|port| about.target_port(port)).collect();
    let expected =
        [Name("http".into()), Number(8081), Number(82), Number(83), Number(8084), Number(85)];
    assert_eq!(targets, expected);
    assert_eq!(about.target_ports.len(), 3, "only what differs is kept");

    let pod = |target: serde_json::Value| {
        let endpoints = json!([{ "addresses": ["10.0.0.1"], "targetRef": target }]);
        let labels = json!({ SERVICE_NAME_LABEL: "web" });
        let object = json!({ "metadata": { "name": "web-1", "labels": labels },
            "addressType": "IPv4", "endpoints": endpoints });
        let slice = Converter::default().slice(&serde_json::from_value(object).unwrap());
        slice.unwrap().unwrap().value.subsets[0].endpoints[0].pod_name.clone()
    };
    assert_eq!(pod(json!({ "kind": "Pod", "name": "web-0" })).as_deref(), Some("web-0"));
    for other in [json!({ "kind": "Node", "name": "n" }), json!({ "kind": "Pod" }), json!(null)] {
        assert_eq!(pod(other), None);
    }
}
