//! Proxies on demand: who uses what, and how many of how many clusters.

use pilothouse_xds::OnDemandNames;

use super::*;

const NAMES: OnDemandNames = OnDemandNames {
    is_named_only: |name| name.starts_with("outbound|"),
    fallback: |name| name.ends_with("||10.9.9.9").then(|| cluster(name, name)),
};

const REVIEWS: &str = "outbound|9080||reviews.default.svc.cluster.local";
const REVIEWS_ADMIN: &str = "outbound|9090||reviews.default.svc.cluster.local";
const CART: &str = "outbound|80||cart.shop.svc.cluster.local";
const OUTSIDE: &str = "outbound|443||api.example.com";
/// That of reviews.
const BY_ADDRESS: &str = "outbound|9080||10.0.0.1";

fn cluster(name: &str, canonical: &str) -> Arc<Resource> {
    let message = Cluster {
        name: name.to_owned(),
        alt_stat_name: crate::names::stat_name(canonical),
        ..Default::default()
    };
    Resource::new(ResourceType::Cluster, name.into(), &message)
}

fn clusters() -> Arc<TypeSet> {
    let own = [REVIEWS, REVIEWS_ADMIN, CART, OUTSIDE, "PassthroughCluster"];
    let own = own.map(|name| (Arc::from(name), Some(cluster(name, name))));
    let by_address = (Arc::from(BY_ADDRESS), Some(cluster(BY_ADDRESS, REVIEWS)));
    TypeSet::on_demand(NAMES).with(own.into_iter().chain([by_address]))
}

impl Fixture {
    /// With Envoy's wildcard, and these names.
    fn connect_on_demand(&mut self, name: &str, hash: &str, set: &Arc<TypeSet>, names: &[&str]) {
        let interner = Interner::default();
        let names = names.iter().map(|name| Arc::from(*name)).collect();
        self.connect(name, true).update(|status| {
            let identity = status.identity.as_mut().unwrap();
            identity.view.kind = ProxyKind::OnDemandSidecar;
            identity.labels = [("pod-template-hash".into(), hash.into())].into();
            let clusters = &mut status.types[ResourceType::Cluster.index()];
            clusters.subscription = Some(interner.intern(true, names));
            clusters.set = Some(set.clone());
            (clusters.sent, clusters.nonce_sent, clusters.nonce_acked) = (1, 1, 1);
        });
    }
}

/// Two pods of one workload and one of another, and a proxy of all.
fn mesh() -> Fixture {
    let (mut fixture, set) = (Fixture::new(), clusters());
    let names = [BY_ADDRESS, CART];
    fixture.connect_on_demand("web-7d9f-b.shop", "7d9f", &set, &names);
    fixture.connect_on_demand("web-7d9f-a.shop", "7d9f", &set, &names);
    let odd = [REVIEWS_ADMIN, OUTSIDE, "outbound|80||10.9.9.9", "nonsense", "PassthroughCluster"];
    fixture.connect_on_demand("edge-55-x.front", "55", &set, &odd);
    fixture.streams[2].stream.update(|status| {
        let said = crate::proxies::Uses::new("reviews.default gone.shop");
        said.set_unknown(["gone.shop".into()].into());
        status.identity.as_mut().unwrap().uses = Some(Arc::new(said));
    });
    fixture.connect("old.shop", true);
    let asks_nothing = fixture.connect("starts.shop", true);
    asks_nothing.update(|status| {
        status.identity.as_mut().unwrap().view.kind = ProxyKind::OnDemandSidecar;
    });
    fixture
}

fn services(page: &Value) -> Vec<&str> {
    page["services"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["service"].as_str().unwrap())
        .collect()
}

fn proxies(page: &Value) -> Vec<&str> {
    page["proxies"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn what_is_subscribed_is_a_graph_of_calls() {
    let fixture = mesh();
    let page = fixture.json("/debug/uses").await;
    assert_eq!(page["discovery"], json!({ "all": 1, "on-demand": 4 }));
    assert_eq!(services(&page), ["api.example.com", "reviews.default", "cart.shop"]);
    // By address and by name are one Service.
    assert_eq!(
        page["services"][1],
        json!({
            "service": "reviews.default", "namespace": "default", "ports": [9080, 9090], "proxies": 3,
            "workloads_total": 2,
            "workloads": [
                { "workload": "web", "namespace": "shop", "proxies": 2 },
                { "workload": "edge", "namespace": "front", "proxies": 1 },
            ],
            "examples": ["edge-55-x.front", "web-7d9f-a.shop", "web-7d9f-b.shop"],
        })
    );
    assert_eq!(page["services"][0]["namespace"], Value::Null);
    let calls = |from: &str, to: Value, proxies: u32| json!({ "from": from, "to": to, "proxies": proxies, "services": 1 });
    assert_eq!(
        page["namespaces"],
        json!([
            calls("front", Value::Null, 1),
            calls("front", json!("default"), 1),
            calls("shop", json!("default"), 2),
            calls("shop", json!("shop"), 2),
        ])
    );
    // What its wildcard brings it has not named, whatever it says.
    assert_eq!(
        page["proxies"][0],
        json!({
            "key": "3", "name": "edge-55-x.front", "namespace": "front", "workload": "edge",
            "state": "SYNCED", "subscribed": 4, "available": 4, "unknown": 2, "passed_through": 1,
            "unknown_names": ["nonsense", "outbound|80||10.9.9.9"], "uses_unknown": ["gone.shop"],
            "services_total": 2, "services": ["api.example.com", "reviews.default"],
        })
    );
    assert_eq!(page["matched"], 3, "that has asked for clusters");
}

#[tokio::test]
async fn filters_leave_what_was_asked_about() {
    let fixture = mesh();
    for wanted in ["cart.shop", "shop/cart", "cart.shop.svc.cluster.local", "cart.shop.svc"] {
        let page = fixture.json(&format!("/debug/uses?service={wanted}")).await;
        assert_eq!(services(&page), ["cart.shop"], "{wanted}");
        assert_eq!(proxies(&page), ["web-7d9f-a.shop", "web-7d9f-b.shop"]);
        assert_eq!(page["proxies"][0]["services"], json!(["cart.shop"]));
        assert_eq!(page["namespaces"].as_array().unwrap().len(), 1);
        assert_eq!(page["discovery"]["on-demand"], 4, "of all");
    }
    let none = fixture.json("/debug/uses?service=nobody.shop").await;
    assert_eq!((services(&none).len(), &none["matched"]), (0, &json!(0)));
    let edge = fixture.json("/debug/uses?namespace=front").await;
    assert_eq!((proxies(&edge), services(&edge).len()), (vec!["edge-55-x.front"], 2));
    assert_eq!(proxies(&fixture.json("/debug/uses?proxy=7d9f-a").await), ["web-7d9f-a.shop"]);

    let cut = fixture.json("/debug/uses?offset=1&limit=1").await;
    assert_eq!((services(&cut), proxies(&cut)), (vec!["reviews.default"], vec!["web-7d9f-a.shop"]));
    let left_out = ["services_left_out", "namespaces_left_out", "proxies_left_out"];
    assert_eq!(left_out.map(|name| cut[name].as_u64().unwrap()), [2, 3, 2]);
    assert_eq!(fixture.json("/debug/uses?offset=9").await["services_left_out"], 3);
    assert_eq!(fixture.get("/debug/uses?workload=web").await.0, StatusCode::BAD_REQUEST);
}

/// However many a peer names.
#[tokio::test]
async fn a_scanner_is_counted_and_not_listed() {
    let (mut fixture, set) = (Fixture::new(), clusters());
    let names: Vec<String> = (0..5_000).map(|at| format!("outbound|{at}||10.9.9.9")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    fixture.connect_on_demand("scanner.shop", "", &set, &names);
    let (_, text) = fixture.get("/debug/uses").await;
    assert!(text.len() < 4_000, "{} bytes", text.len());
    let page: Value = serde_json::from_str(&text).unwrap();
    let scanner = &page["proxies"][0];
    let counts = ["subscribed", "unknown", "passed_through"].map(|name| scanner[name].as_u64());
    assert_eq!(counts, [5_000, 5_000, 100].map(Some));
    assert_eq!(scanner["unknown_names"].as_array().unwrap().len(), 20);
    let sent = fixture.json("/debug/proxies/1/resources?type=CDS&limit=1000").await;
    assert_eq!(sent["total"], 1 + 100, "what stands in for so many of them");
}

#[tokio::test]
async fn other_pages_tell_subscribed_from_available() {
    let fixture = mesh();
    let rows = fixture.json("/debug/proxies?search=edge").await;
    let row = &rows["proxies"][0];
    let counts = json!({ "subscribed": 4, "available": 4, "unknown": 2, "passed_through": 1 });
    assert_eq!((&row["discovery"], &row["clusters"]), (&json!("on-demand"), &counts));
    assert_eq!(row["types"]["CDS"]["resources"], 3, "PassthroughCluster, and two by name");
    let old = fixture.json("/debug/proxies?search=old").await;
    assert_eq!(old["proxies"][0]["discovery"], "all");
    assert!(old["proxies"][0].get("clusters").is_none());
    let syncz = fixture.json("/debug/syncz?proxyID=edge-55-x.front").await;
    assert_eq!((&syncz[0]["discovery"], &syncz[0]["clusters"]), (&json!("on-demand"), &counts));
    let said = json!(["gone.shop"]);
    assert_eq!((&row["uses_unknown"], &syncz[0]["uses_unknown"]), (&said, &said));
    assert_eq!(fixture.json("/debug/syncz?proxyID=old").await[0]["discovery"], "all");

    let sent = fixture.json("/debug/proxies/1/resources?type=CDS").await;
    assert_eq!(sent["names"], json!(["PassthroughCluster", CART, BY_ADDRESS]));
    let sent = fixture.json("/debug/proxies/3/resources?type=CDS").await;
    let expected = [
        "PassthroughCluster",
        "outbound|443||api.example.com",
        "outbound|80||10.9.9.9",
        REVIEWS_ADMIN,
    ];
    assert_eq!(sent["names"], json!(expected));
    let dump = fixture.json("/debug/config_dump?proxyID=web-7d9f-a.shop&types=CDS").await;
    assert_eq!(dump["configs"][0]["dynamicActiveClusters"].as_array().unwrap().len(), 3);

    let (_, metrics) = get_from(&fixture.monitoring, "/metrics", "10.0.0.7:15014").await;
    for line in [
        "pilothouse_proxies_by_discovery{discovery=\"on-demand\"} 4",
        "pilothouse_proxies_by_discovery{discovery=\"all\"} 1",
        "pilothouse_on_demand_names 9",
    ] {
        assert!(metrics.lines().any(|own| own == line), "no {line} in\n{metrics}");
    }
}
