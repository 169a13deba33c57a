//! The pages about proxies.

use super::*;

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
    assert_eq!(types, ["ClustersConfigDump", "ListenersConfigDump", "RoutesConfigDump"]);
    let (clusters, listeners) = (&page["configs"][0], &page["configs"][1]);
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
    assert_eq!(page["configs"][2]["dynamicRouteConfigs"], json!([]), "nothing asked for");

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
    assert_eq!(page["configs"].as_array().unwrap().len(), 4);
    let endpoints = page["configs"][1]["dynamicEndpointConfigs"].as_array().unwrap();
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

#[test]
fn the_best_and_youngest_match_is_found() {
    let mut fixture = Fixture::new();
    for name in ["a.default", "a.default", "extra.default", "a.default.old"] {
        fixture.connect(name, false);
    }
    let found = |id: &str| {
        let parameters = [("proxyID".to_owned(), id.to_owned())].into();
        find(&fixture.state, &parameters).map(|connection| connection.id).ok()
    };
    assert_eq!(found("a.default-1"), Some(1), "the whole id");
    assert_eq!(found("a.default"), Some(2), "the whole name, and the youngest of that name");
    assert_eq!(found("default"), Some(4), "a part");
    assert_eq!(found("extra"), Some(3));
    assert_eq!(found("nothing"), None);
}
