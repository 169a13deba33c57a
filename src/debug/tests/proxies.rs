//! The pages about proxies.

use super::*;
use crate::identity::Principal;

#[tokio::test]
async fn an_identity_is_shown_wherever_its_stream_is() {
    let mut fixture = Fixture::new();
    fixture.connect("details-v1.other", true);
    let reviews = fixture.connect("reviews-v1.default", false);
    let principal = Principal {
        trust_domain: "cluster.local".into(),
        namespace: "default".into(),
        service_account: "reviews".into(),
    };
    reviews.update(|status| status.identity.as_mut().unwrap().principal = Some(principal));
    let id = "spiffe://cluster.local/ns/default/sa/reviews";
    let syncz = fixture.json("/debug/syncz").await;
    assert_eq!((&syncz[0]["identity"], &syncz[1]["identity"]), (&Value::Null, &json!(id)));
    for page in ["/debug/connections", "/debug/adsz"] {
        let clients = &fixture.json(page).await["clients"];
        assert_eq!((&clients[0]["identity"], &clients[1]["identity"]), (&Value::Null, &json!(id)));
    }
    let rows = fixture.json("/debug/proxies?search=reviews").await;
    assert_eq!(rows["proxies"][0]["identity"], id);
    let page = format!("/debug/proxies/{}", rows["proxies"][0]["key"].as_str().unwrap());
    assert_eq!(fixture.json(&page).await["identity"], id);
    let (_, metrics) = get_from(&fixture.monitoring, "/metrics", "10.0.0.7:15014").await;
    assert!(!metrics.contains("spiffe"), "an identity is no label");
}

#[tokio::test]
async fn syncz_has_istios_fields_and_our_counts() {
    let mut fixture = Fixture::new();
    send(fixture.connect("reviews-v1.default", false));
    fixture.connect("details-v1.other", true);
    // Said nothing yet: not a proxy.
    let silent = fixture.state.proxies.register(None, false, 1000).unwrap();

    let page = fixture.json("/debug/syncz").await;
    let proxies: Vec<_> =
        page.as_array().unwrap().iter().map(|p| p["proxy"].as_str().unwrap()).collect();
    assert_eq!(proxies, ["details-v1.other", "reviews-v1.default"], "sorted by name");
    drop(silent);

    let reviews = &page[1];
    assert_eq!(reviews["cluster_id"], "Kubernetes");
    assert_eq!(reviews["proxy_type"], "sidecar");
    assert_eq!(reviews["connection_id"], "reviews-v1.default-1");
    assert_eq!(reviews["protocol"], "sotw");
    assert_eq!(reviews["cluster_sent"], "00000000000000ab");
    assert_eq!(reviews["cluster_acked"], "00000000000000ab");
    assert_eq!(reviews["endpoint_sent"], "00000000000000ac");
    assert_eq!(reviews["listener_acked"], "00000000000000ab");
    assert!(reviews.get("route_sent").is_none(), "empty fields are omitted: {reviews}");

    let resources = &reviews["resources"];
    assert_eq!(resources.as_object().unwrap().len(), 3);
    let listeners = &resources[ResourceType::Listener.type_url()];
    assert_eq!(
        *listeners,
        json!({
            "sent": "00000000000000ac",
            "acked": "00000000000000ab",
            "sentTime": "2023-11-14T22:15:00Z",
            "lastError": "cannot bind '0.0.0.0:80'",
            "state": "ERROR",
            "responses": 2,
            "acks": 1,
            "nacks": 1,
            "ackedTime": "2023-11-14T22:15:01Z",
            "lastErrorTime": "2023-11-14T22:15:02Z",
            "version": sets()[2].version().to_string(),
        })
    );
    let clusters = &resources[ResourceType::Cluster.type_url()];
    assert_eq!(clusters["state"], "SYNCED");
    assert!(clusters.get("lastError").is_none());
    let endpoints = &resources[ResourceType::Endpoint.type_url()];
    assert_eq!(endpoints["state"], "STALE");
    assert!(endpoints["unackedSeconds"].as_f64().is_some_and(|age| age >= 0.0), "{endpoints}");

    assert_eq!(page[0]["protocol"], "delta");
    assert_eq!(page[0]["resources"], json!({}));
    let other = fixture.json("/debug/syncz?namespace=other").await;
    assert_eq!(other.as_array().unwrap().len(), 1);
    assert_eq!(other[0]["proxy"], "details-v1.other");
}

#[tokio::test]
async fn connections_lists_every_stream_by_id() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.json("/debug/connections").await, json!({ "totalClients": 0 }));
    fixture.connect("reviews.default", false);
    fixture.connect("details.default", false);
    let silent = fixture.state.proxies.register(None, true, 1000).unwrap();
    let page = fixture.json("/debug/connections").await;
    assert_eq!(page["totalClients"], 3);
    let ids: Vec<_> = page["clients"]
        .as_array()
        .unwrap()
        .iter()
        .map(|client| client["connectionId"].as_str().unwrap())
        .collect();
    assert_eq!(ids, ["details.default-2", "reviews.default-1", "unknown-3"]);
    assert!(page["clients"][0].get("watches").is_none(), "those are adsz'");
    assert_eq!(page["clients"][0]["address"], "10.1.2.3:4567");
    assert!(page["clients"][0]["connectedAt"].as_str().unwrap().ends_with('Z'));
    drop(silent);
    assert_eq!(fixture.json("/debug/connections").await["totalClients"], 2);
}

#[tokio::test]
async fn config_dump_shows_what_the_proxy_was_sent() {
    let mut fixture = Fixture::new();
    send(fixture.connect("reviews.default", false));
    let page = fixture.json("/debug/config_dump?proxyID=reviews").await;
    let types: Vec<_> = page["configs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|section| section["@type"].as_str().unwrap().rsplit_once('.').unwrap().1)
        .collect();
    let expected =
        ["BootstrapConfigDump", "ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump"];
    assert_eq!(types, expected);
    assert_eq!(
        page["configs"][0]["bootstrap"]["node"],
        json!({
            "id": "sidecar~10.1.2.3~reviews.default~default.svc.cluster.local",
            "cluster": "reviews",
        })
    );
    let (clusters, listeners) = (&page["configs"][1], &page["configs"][2]);
    let [cluster_set, _, listener_set, _] = sets();
    assert_eq!(clusters["versionInfo"], cluster_set.version().to_string());
    assert_eq!(
        clusters["dynamicActiveClusters"][0],
        json!({
            "versionInfo": cluster_set.get("one").unwrap().version.to_string(),
            "cluster": { "@type": ResourceType::Cluster.type_url(), "name": "one" },
            "clientStatus": "ACKED",
        })
    );
    assert_eq!(clusters["dynamicActiveClusters"].as_array().unwrap().len(), 2);
    assert_eq!(
        listeners["dynamicListeners"][1],
        json!({
            "name": "two",
            "activeState": {
                "versionInfo": listener_set.get("two").unwrap().version.to_string(),
                "listener": { "@type": ResourceType::Listener.type_url(), "name": "two" },
            },
            "clientStatus": "NACKED",
        })
    );
    assert_eq!(page["configs"][3]["dynamicRouteConfigs"], json!([]), "nothing asked for");

    // The whole is a ConfigDump, as its own descriptor reads it.
    let pool = crate::descriptors::pool().unwrap();
    let message = pool.get_message_by_name("envoy.admin.v3.ConfigDump").unwrap();
    prost_reflect::DynamicMessage::deserialize(message, page).unwrap();
}

#[tokio::test]
async fn config_dump_shows_endpoints_and_single_types_on_request() {
    let mut fixture = Fixture::new();
    send(fixture.connect("reviews.default", false));
    let path = "/debug/config_dump?proxyID=reviews&include_eds=true";
    let page = fixture.json(path).await;
    assert_eq!(page["configs"].as_array().unwrap().len(), 5);
    assert_eq!(page, fixture.json("/debug/config_dump?proxyID=reviews&include_eds").await);
    let endpoints = page["configs"][2]["dynamicEndpointConfigs"].as_array().unwrap();
    assert_eq!(endpoints.len(), 1, "one name was subscribed to");
    assert_eq!(endpoints[0]["endpointConfig"]["clusterName"], "two");
    assert!(endpoints[0].get("clientStatus").is_none(), "not answered yet");

    let types = format!("types=rds,{}", ResourceType::Endpoint.type_url());
    let page = fixture.json(&format!("/debug/config_dump?proxyID=reviews&{types}")).await;
    let urls: Vec<_> = page["configs"].as_array().unwrap().iter().map(|s| &s["@type"]).collect();
    assert_eq!(
        urls,
        [
            "type.googleapis.com/envoy.admin.v3.EndpointsConfigDump",
            "type.googleapis.com/envoy.admin.v3.RoutesConfigDump"
        ]
    );
    let (status, text) = fixture.get("/debug/config_dump?proxyID=reviews&types=cds,foo").await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("\"foo\"") && text.contains("CDS, EDS, LDS, RDS"), "{text}");
}

#[tokio::test]
async fn config_dump_needs_a_proxy_that_is_here() {
    let mut fixture = Fixture::new();
    for path in ["/debug/config_dump", "/debug/config_dump?proxyID="] {
        let (status, text) = fixture.get(path).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(text.starts_with("You must provide a proxyID in the query string"), "{text}");
    }
    fixture.connect("reviews.default", false);
    let (status, text) = fixture.get("/debug/config_dump?proxyID=ratings").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.starts_with("Proxy not connected to this Pilot instance"), "{text}");
}

/// As Istio has it: the resources themselves.
#[tokio::test]
async fn edsz_shows_the_endpoints_that_the_proxy_was_sent() {
    let mut fixture = Fixture::new();
    send(fixture.connect("reviews.default", false));
    fixture.connect("silent.default", false);
    let page = fixture.json("/debug/edsz?proxyID=reviews").await;
    let endpoints = json!({ "@type": ResourceType::Endpoint.type_url(), "clusterName": "two" });
    assert_eq!(page, json!({ "configs": [endpoints] }));
    assert_eq!(fixture.json("/debug/edsz?proxyID=silent").await, json!({ "configs": [] }));
    assert_eq!(fixture.get("/debug/edsz").await.0, StatusCode::BAD_REQUEST);
    assert_eq!(fixture.get("/debug/edsz?proxyID=ratings").await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn adsz_shows_labels_locality_and_what_is_subscribed_to() {
    let mut fixture = Fixture::new();
    send(fixture.connect("reviews.default", false));
    fixture.connect("details.default", true);
    let silent = fixture.state.proxies.register(None, true, 1000).unwrap();
    let page = fixture.json("/debug/adsz").await;
    assert_eq!(page["totalClients"], 3);
    let reviews = &page["clients"][1];
    let connected = reviews["connectedAt"].clone();
    assert_eq!(
        *reviews,
        json!({
            "connectionId": "reviews.default-1",
            "connectedAt": connected,
            "address": "10.1.2.3:4567",
            "protocol": "sotw",
            "labels": { "app": "reviews", "version": "v1" },
            "locality": { "region": "region-1", "zone": "zone-a" },
            "watches": {
                ResourceType::Cluster.type_url(): ["*"],
                ResourceType::Endpoint.type_url(): ["two"],
                ResourceType::Listener.type_url(): ["*"],
            },
        })
    );
    assert!(page["clients"][0].get("watches").is_none(), "has asked for nothing yet");
    let unknown = &page["clients"][2];
    assert_eq!(unknown["connectionId"], "unknown-3");
    assert!(unknown.get("labels").is_none() && unknown.get("locality").is_none());
    drop(silent);
}

#[tokio::test]
async fn lists_of_proxies_can_be_filtered() {
    let mut fixture = Fixture::new();
    for name in ["web-0.shop", "web-1.shop", "web-0.other", "db-0.shop"] {
        fixture.connect(name, false);
    }
    let silent = fixture.state.proxies.register(None, true, 1000).unwrap();
    for (query, expected) in [
        ("namespace=shop", &["db-0.shop-4", "web-0.shop-1", "web-1.shop-2"] as &[&str]),
        ("namespace=shop&proxyID=web", &["web-0.shop-1", "web-1.shop-2"]),
        ("proxyID=web-0", &["web-0.other-3", "web-0.shop-1"]),
        ("proxyID=web-0.shop", &["web-0.shop-1"]),
        ("namespace=nobody", &[]),
    ] {
        for page in ["connections", "adsz"] {
            let page = fixture.json(&format!("/debug/{page}?{query}")).await;
            let clients = page["clients"].as_array().cloned().unwrap_or_default();
            let ids: Vec<_> = clients.iter().map(|client| &client["connectionId"]).collect();
            assert_eq!(ids, expected, "{query}");
            assert_eq!(page["totalClients"], expected.len());
        }
        let page = fixture.json(&format!("/debug/syncz?{query}")).await;
        let ids: Vec<_> =
            page.as_array().unwrap().iter().map(|proxy| &proxy["connection_id"]).collect();
        assert_eq!(ids, expected, "{query}");
    }
    for page in ["connections", "adsz", "syncz"] {
        let (status, text) = fixture.get(&format!("/debug/{page}?proxyID=nobody")).await;
        assert_eq!(status, StatusCode::NOT_FOUND);
        assert!(text.starts_with("Proxy not connected to this Pilot instance"), "{text}");
    }
    drop(silent);
}

/// The inbound ports of a sidecar are part of its view and not its own to say.
#[tokio::test]
async fn syncz_shows_the_view_that_was_assigned() {
    use crate::view::{InboundPort, InboundProtocol, ViewRegistry, ViewRequest};
    let mut fixture = Fixture::new();
    let connection = fixture.connect("reviews.default", false);
    let asked = connection.status().identity.unwrap().view;
    let need = ViewRequest { view: asked.clone(), addresses: Arc::default(), peer: None };
    let view_registry = Arc::new(ViewRegistry::default());
    let lease = view_registry.lease(need.clone());
    connection.update(|status| status.assigned = Some(Arc::new(lease.watch())));
    let page = fixture.json("/debug/syncz").await;
    assert!(page[0].get("view").is_none(), "none is assigned yet");
    assert_eq!(page[0]["asked"], "sidecar in namespace default");

    let port = InboundPort { port: 9080, protocol: InboundProtocol::Http, idle_timeout: None };
    let assigned = ViewKey { inbound: [port].into(), ..asked.clone() };
    let views = [(assigned.clone(), Arc::new(View::new(sets())))].into();
    fixture.snapshot.send_replace(Some(Arc::new(Snapshot { views, ..Snapshot::default() })));
    view_registry.assign(&need, &Arc::new(assigned));
    let page = fixture.json("/debug/syncz").await;
    assert_eq!(page[0]["view"], "sidecar in namespace default with inbound 9080/Http");
    assert_eq!(page[0]["asked"], "sidecar in namespace default");
    let sourcez = fixture.json("/debug/sourcez").await;
    assert_eq!(page[0]["view"], sourcez["snapshot"]["views"][0]["view"]);

    view_registry.assign(&need, &Arc::new(asked));
    let page = fixture.json("/debug/syncz").await;
    assert_eq!(page[0]["view"], "sidecar in namespace default");
    assert!(page[0].get("asked").is_none(), "the same");
}

#[tokio::test]
async fn a_proxy_is_named_by_what_fits_best_and_must_be_one() {
    let mut fixture = Fixture::new();
    for name in ["a.default", "a.default", "extra.default", "a.default.old"] {
        fixture.connect(name, false);
    }
    let found = |id: &str| {
        let uri = format!("/?proxyID={id}").parse().unwrap();
        let parameters = Parameters::read(&uri, &["proxyID"]).unwrap();
        find::one_stream(&fixture.state, &parameters).map(|connection| connection.id)
    };
    assert_eq!(found("a.default-1").ok(), Some(1), "the whole id");
    assert_eq!(found("a.default").ok(), Some(2), "the whole name, and its youngest stream");
    assert_eq!(found("extra").ok(), Some(3));
    assert!(matches!(found("nothing"), Err(DebugError::NotConnected(_))));
    assert!(matches!(found(""), Err(DebugError::NoProxyId)));
    for page in ["config_dump", "edsz"] {
        let (status, text) = fixture.get(&format!("/debug/{page}?proxyID=default")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert_eq!(
            text,
            "proxyID=\"default\" fits 4 connections and this page is about one: give a whole \
             connection id. There are \"a.default-1\", \"a.default-2\", \"extra.default-3\", \
             \"a.default.old-4\".\n"
        );
    }
    // Two machines whose Envoys have the same id are two proxies all the same.
    let peer: SocketAddr = "10.9.9.9:1".parse().unwrap();
    let other = fixture.state.proxies.register(Some(peer), false, 1000).unwrap();
    let identity = fixture.streams[0].stream.status().identity;
    other.stream.update(|status| status.identity = identity);
    assert!(matches!(found("a.default"), Err(DebugError::Ambiguous { count: 3, .. })));
    for _ in 0..9 {
        fixture.connect("b.default", false);
    }
    let (_, text) = fixture.get("/debug/edsz?proxyID=default").await;
    assert!(text.contains("fits 14 connections") && text.ends_with(", ….\n"), "{text}");
}
