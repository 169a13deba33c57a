//! The pages about the mesh and where it comes from.

use super::*;
use crate::snapshot::{Conflict, ConflictKind, Conflicts};

#[tokio::test]
async fn registryz_has_the_fields_of_istios_service() {
    let fixture = Fixture::new();
    fixture.fill_model();
    let page = fixture.json("/debug/registryz").await;
    let names: Vec<_> = page
        .as_array()
        .unwrap()
        .iter()
        .map(|service| service["hostname"].as_str().unwrap())
        .collect();
    let expected = ["alias", "bare", "empty", "reviews"];
    assert_eq!(names, expected.map(|name| format!("{name}.default.svc.cluster.local")));
    assert_eq!(
        page[3],
        json!({
            "Attributes":
                {
                    "ServiceRegistry": "Kubernetes",
                    "Name": "reviews",
                    "Namespace": "default",
                    "Labels": { "team": "books" },
                    "LabelSelectors": { "app": "reviews" },
                },
            "ports":
                [{ "name": "http", "port": 9080, "protocol": "HTTP", "targetPort": "web" }],
            "creationTime": "2026-01-02T03:04:05Z",
            "hostname": "reviews.default.svc.cluster.local",
            "clusterVIPs": { "Addresses": { "Kubernetes": ["10.0.0.1"] } },
            "defaultAddress": "10.0.0.1",
            "Resolution": 0,
            "MeshExternal": false,
            "ResourceVersion": "7",
            "Tuning": {
                "load-balancing": "least-request",
                "connect-timeout": "10s",
                "request-timeout": "0s",
                "retries": 2,
                "tcp-idle-timeout": "1h",
            },
        })
    );
    assert_eq!(page[0]["Resolution"], 4);
    assert_eq!(page[0]["Attributes"]["ExternalName"], "example.com");
    assert_eq!(page[1]["Resolution"], 2);
    assert_eq!(page[1]["clusterVIPs"], json!({ "Addresses": {} }));
}

/// What is not said is shown as what holds in its place, and so is Envoy's part.
#[tokio::test]
async fn registryz_shows_the_tuning_in_force() {
    let fixture = Fixture::new();
    let tuned = |name: &str, kind, annotations: Value| {
        let object = json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "default", "annotations": annotations },
            "spec": { "ports": [{ "port": 80 }] },
        });
        let object = serde_json::from_value(object).unwrap();
        let made = crate::source::convert::Converter::default().service(&object).unwrap();
        Change::Service(Service { kind, ..made.value })
    };
    let mut model = Model::default();
    let ip = || ServiceKind::ClusterIp(Vec::new());
    let annotations = json!({
        "pilothouse.io/load-balancing": "maglev",
        "pilothouse.io/connect-timeout": "1500ms",
        "pilothouse.io/request-timeout": "1m 30s",
        "pilothouse.io/retries": "0",
        "pilothouse.io/tcp-idle-timeout": "0s",
        "pilothouse.io/outlier-consecutive-errors": "3",
        "pilothouse.io/max-connections": "100",
        "pilothouse.io/max-pending-requests": "nonsense",
        "pilothouse.io/max-requests": "0",
        "pilothouse.io/max-retries": "4294967295",
    });
    let host = "tuned.default.svc.cluster.local";
    for change in [
        tuned("tuned", ip(), annotations),
        tuned("alias", ServiceKind::ExternalName(host.into()), json!({})),
        tuned("plain", ip(), json!({})),
    ] {
        model.apply(change, &mut Default::default());
    }
    fixture.model.send_replace(model);
    let page = fixture.json("/debug/registryz").await;
    let in_force = json!({
        "load-balancing": "maglev",
        "connect-timeout": "1s 500ms",
        "request-timeout": "1m 30s",
        "retries": 0,
        "tcp-idle-timeout": "0s",
        "outlier-consecutive-errors": 3,
        "outlier-interval": "10s",
        "outlier-ejection-time": "30s",
        "outlier-max-ejected-percent": 10,
        "max-connections": 100,
        "max-requests": 0,
        "max-retries": 4_294_967_295_u32,
    });
    assert_eq!(page[2]["Tuning"], in_force);
    assert_eq!(page[0]["Tuning"], in_force, "an alias is tuned as what it stands for");
    assert_eq!(page[1]["Tuning"]["retries"], 2);
    assert_eq!(page[1]["ports"][0]["targetPort"], 80, "the same number, since it is not said");
}

#[tokio::test]
async fn one_namespace_of_the_mesh_can_be_asked_for() {
    let fixture = Fixture::new();
    fixture.fill_model();
    let mut model = fixture.state.model();
    let ip = ServiceKind::ClusterIp(Vec::new());
    let other = Service {
        key: ServiceKey::new("other", "reviews"),
        ..service("reviews", ip, "http", Protocol::Http)
    };
    let slice =
        EndpointSlice { service: other.key.clone(), ..slice("reviews", "http", "127.0.3.") };
    model.apply(Change::Service(other), &mut Default::default());
    model.apply(Change::Slice(slice), &mut Default::default());
    fixture.model.send_replace(model);
    let registry = fixture.json("/debug/registryz?namespace=other").await;
    assert_eq!(registry.as_array().unwrap().len(), 1);
    assert_eq!(registry[0]["hostname"], "reviews.other.svc.cluster.local");
    let endpoints = fixture.json("/debug/endpointz?namespace=other").await;
    let hosts: Vec<_> = endpoints.as_object().unwrap().keys().collect();
    assert_eq!(hosts, ["reviews.other.svc.cluster.local"]);
    assert_eq!(fixture.json("/debug/registryz?namespace=nobody").await, json!([]));
    assert_eq!(fixture.json("/debug/endpointz?namespace=nobody").await, json!({}));
}

/// The region is the Nodes' to say, if they are watched.
#[tokio::test]
async fn endpointz_knows_the_region_of_a_zone_that_a_node_tells() {
    let fixture = Fixture::new();
    fixture.fill_model();
    let host = "reviews.default.svc.cluster.local";
    let label = async || {
        let page = fixture.json("/debug/endpointz").await;
        page[host]["default"]["Shards"]["Kubernetes/Kubernetes"][0]["Locality"]["Label"].clone()
    };
    assert_eq!(label().await, "/zone-a");
    let mut model = fixture.state.model();
    let node = crate::model::Node {
        name: "node-1".into(),
        zone: Some("zone-a".into()),
        region: Some("region-1".into()),
    };
    model.apply(Change::Node(node), &mut Default::default());
    fixture.model.send_replace(model);
    assert_eq!(label().await, "region-1/zone-a");
}

#[tokio::test]
async fn endpointz_shows_all_slices_by_host_and_namespace() {
    let fixture = Fixture::new();
    fixture.fill_model();
    let page = fixture.json("/debug/endpointz").await;
    let hosts: Vec<_> = page.as_object().unwrap().keys().cloned().collect();
    let expected = ["bare", "nobody", "reviews"];
    assert_eq!(hosts, expected.map(|name| format!("{name}.default.svc.cluster.local")));
    let shards = &page["reviews.default.svc.cluster.local"]["default"];
    assert_eq!(shards["ServiceAccounts"], json!({}));
    let endpoints = shards["Shards"]["Kubernetes/Kubernetes"].as_array().unwrap();
    let told: Vec<_> =
        endpoints.iter().map(|one| (&one["Addresses"][0], &one["HealthStatus"])).collect();
    let expected = [(json!("127.0.0.7"), json!(2)), (json!("127.0.0.8"), json!(0))];
    assert_eq!(told[..2], expected.each_ref().map(|(address, health)| (address, health)));
    assert_eq!(
        endpoints[2],
        json!({
            "Addresses": ["127.0.0.9"],
            "ServicePortName": "http",
            "EndpointPort": 80,
            "Locality": { "Label": "/zone-a", "ClusterID": "Kubernetes" },
            "HealthStatus": 1,
            "NodeName": "node-1",
            "PodName": "reviews-0",
            "ForZones": ["zone-a", "zone-b"],
            "SliceName": "reviews-abc",
        })
    );
    assert_eq!(page, fixture.json("/debug/endpointShardz").await);
}

#[tokio::test]
async fn push_status_says_what_is_wrong_now() {
    let mut fixture = Fixture::new();
    fixture.fill_model();
    send(fixture.connect("reviews.default", false));
    fixture.state.health.rejected("bad.yaml#2", Some("port 70000 is out of range".to_owned()));
    fixture.state.health.failed("EndpointSlice", "connection refused");
    let conflict =
        Conflict { kind: ConflictKind::Inbound, place: "8080".into(), loser: "shop/b".into() };
    let conflicts = Conflicts::unit(conflict, "shop/a comes first".into());
    let snapshot = Snapshot { conflicts, ..Snapshot::default() };
    fixture.snapshot.send_replace(Some(Arc::new(snapshot)));
    let page = fixture.json("/debug/push_status").await;
    assert_eq!(
        page,
        json!({
            "pilot_xds_lds_reject": {
                "reviews.default-1":
                    { "proxy": "reviews.default", "message": "cannot bind '0.0.0.0:80'" },
            },
            "pilot_eds_no_instances": {
                "outbound|9080||empty.default.svc.cluster.local":
                    { "message": "no endpoint is ready" },
                "outbound|9080||bare.default.svc.cluster.local":
                    { "message": "no endpoint with a port named \"grpc\" is ready" },
            },
            "pilot_conflict_inbound_listener":
                { "8080 shop/b": { "message": "shop/a comes first" } },
            "pilothouse_source_rejected_objects":
                { "bad.yaml#2": { "message": "port 70000 is out of range" } },
            "pilothouse_watch_errors": { "EndpointSlice": { "message": "connection refused" } },
        })
    );
}

#[tokio::test]
async fn sourcez_shows_watches_and_what_was_left_out() {
    let fixture = Fixture::new();
    let _listed = fixture.state.readiness.condition("source listed", "not listed yet: Service");
    fixture.state.health.expect("Service");
    fixture.state.health.synced("EndpointSlice");
    fixture.state.health.failed("EndpointSlice", "gone");
    fixture.state.health.rejected("a.yaml", Some("no YAML".to_owned()));
    fixture.state.health.replace_skipped([("Deployment".to_owned(), 4)].into());
    let page = fixture.json("/debug/sourcez").await;
    assert_eq!(page["ready"], false);
    assert_eq!(page["waitingFor"], "not listed yet: Service");
    let watches = &page["watches"];
    assert_eq!(watches[1], json!({ "name": "Service", "synced": false, "errors": 0 }));
    assert_eq!(watches[0]["name"], "EndpointSlice");
    assert_eq!(watches[0]["synced"], true);
    assert_eq!(watches[0]["lastError"], "gone");
    assert!(watches[0]["ageSeconds"].as_f64().unwrap() >= 0.0);
    assert_eq!(page["rejected"], json!({ "a.yaml": "no YAML" }));
    assert_eq!(page["skipped"], json!({ "Deployment": 4 }));
    assert!(page.get("snapshot").is_none());

    let key = ViewKey::new(ProxyKind::Sidecar, Some("default"));
    let views = [(key, Arc::new(View::new(sets())))].into();
    fixture.snapshot.send_replace(Some(Arc::new(Snapshot {
        generation: 3,
        views,
        ..Snapshot::default()
    })));
    let page = fixture.json("/debug/sourcez").await;
    assert_eq!(page["snapshot"]["generation"], 3);
    let view = &page["snapshot"]["views"][0];
    assert_eq!(view["view"], "sidecar in namespace default");
    assert_eq!(view["resources"], json!({ "cds": 2, "eds": 2, "lds": 2, "rds": 2 }));
}

/// The descriptors cover whatever the translation puts into an `Any`.
#[test]
fn every_resource_that_is_made_can_be_shown() {
    let fixture = Fixture::new();
    fixture.fill_model();
    let model = fixture.state.model();
    let mut builder = crate::publish::SnapshotBuilder::new("cluster.local");
    builder.update(&model, &crate::model::Dirty::everything_in(&model));
    let kinds =
        [ProxyKind::Sidecar, ProxyKind::BOUND, ProxyKind::Router, ProxyKind::DEFAULT_STANDALONE];
    let views = kinds.map(|kind| ViewKey::new(kind, Some("default")));
    let snapshot = builder.snapshot(&views);
    assert_eq!(snapshot.views.len(), 4);
    for view in snapshot.views.values() {
        for of in ResourceType::IN_ORDER {
            for resource in view.set(of).iter() {
                let shown =
                    crate::descriptors::to_json(of.type_url(), &resource.value()).to_string();
                assert!(!shown.contains("\"problem\""), "{}: {shown}", resource.name);
            }
        }
    }
}
