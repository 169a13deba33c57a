//! The page, its JSON and its events.

use std::collections::VecDeque;

use futures::StreamExt as _;

use super::*;

/// Everything that is loaded is one of the files, and nothing of it is markup within a script or a style.
#[tokio::test]
async fn the_page_is_its_own_files_and_may_load_nothing_else() {
    let fixture = Fixture::new();
    for asset in &page::ASSETS {
        let request =
            Request::get(asset.path).header(header::HOST, "localhost").body(Body::empty()).unwrap();
        let response = fixture.debug.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{}", asset.path);
        let headers = response.headers();
        assert_eq!(headers[header::CONTENT_TYPE], asset.content_type);
        assert_eq!(headers[header::CONTENT_SECURITY_POLICY], page::CONTENT_SECURITY_POLICY);
        assert_eq!(headers["x-content-type-options"], "nosniff");
        assert_eq!(headers[header::CACHE_CONTROL], "no-store");
        assert!(!page::CONTENT_SECURITY_POLICY.contains("unsafe"));
        for forbidden in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("]
        {
            assert!(!asset.text.contains(forbidden), "{forbidden} in {}", asset.path);
        }
        // A namespace is a name.
        let text = asset.text.replace("http://www.w3.org/2000/svg", "");
        assert!(!text.contains("http:") && !text.contains("https:"), "{}", asset.path);
        for import in asset.text.lines().filter(|line| line.starts_with("import ")) {
            let file = import.rsplit('"').nth(1).unwrap().strip_prefix("./").unwrap();
            assert!(page::asset(&format!("/page/{file}")).is_some(), "{import}");
        }
    }
    assert_eq!(
        get_from(&fixture.debug, "/page/none.js", "localhost").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(get_from(&fixture.debug, "/", "evil.example").await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn rows_are_the_worst_first() {
    let mut fixture = Fixture::new();
    let of = |status: &mut crate::proxies::ProxyStatus, sent, acknowledged, at| {
        let status = &mut status.types[0];
        status.subscription = Some(Interner::default().intern(true, vec![]));
        (status.sent, status.nonce_sent, status.nonce_acked) = (1, sent, acknowledged);
        status.last_sent = Some(moment(at));
    };
    fixture.connect("b-synced.shop", true).update(|status| of(status, 1, 1, 1));
    fixture.connect("stale-young.shop", false).update(|status| of(status, 2, 1, 1_700_000_200));
    fixture.connect("stale-old.default", false).update(|status| of(status, 2, 1, 1_700_000_100));
    fixture.connect("a-silent.default", false);
    send(fixture.connect("rejecting.default", false));
    let silent = fixture.state.proxies.register(None, false, 1000).unwrap();
    let page = fixture.json("/debug/proxies").await;
    let names = |page: &Value| -> Vec<String> {
        let rows = page["proxies"].as_array().unwrap().iter();
        rows.map(|row| row["name"].as_str().unwrap().to_owned()).collect()
    };
    let all = [
        "rejecting.default",
        "stale-old.default",
        "stale-young.shop",
        "a-silent.default",
        "b-synced.shop",
    ];
    assert_eq!(names(&page), all);
    assert_eq!((&page["total"], &page["matched"]), (&json!(5), &json!(5)));
    assert_eq!(page["states"], json!({"SYNCED": 1, "STALE": 2, "REJECTED": 1, "NOT SENT": 1}));
    assert_eq!(page["namespaces"][0], json!({"name": "default", "proxies": 3}));
    assert_eq!(page["kinds"], json!([{"name": "sidecar", "proxies": 5}]));
    assert_eq!(page["instance"].as_str().unwrap().split('/').next(), page["replica"].as_str());
    let row = &page["proxies"][0];
    assert_eq!(
        (&row["key"], &row["state"], &row["zone"], &row["protocol"], &row["version"]),
        (&json!("5"), &json!("REJECTED"), &json!("zone-a"), &json!("sotw"), &json!("envoy/1.40.0"))
    );
    assert_eq!(
        row["types"]["EDS"],
        json!({"state": "STALE", "since": "2023-11-14T22:15:00.000Z", "sent": 2, "acknowledged": 1,
            "rejected": 0, "resources": 1})
    );
    assert_eq!(row["types"]["RDS"]["state"], "NOT SENT");
    // What it never asked for does not count.
    assert_eq!(page["proxies"][4]["types"]["EDS"]["state"], "NOT SENT");

    for (query, expected) in [
        ("state=STALE", &all[1..3]),
        ("state=not%20sent", &all[3..4]),
        ("namespace=shop", &[all[2], all[4]]),
        ("search=SILENT", &all[3..4]),
        ("search=sidecar~10.1.2.3~rej", &all[..1]),
        ("offset=1&limit=2", &all[1..3]),
        ("kind=router", &[]),
    ] as [(&str, &[&str]); 7]
    {
        let page = fixture.json(&format!("/debug/proxies?{query}")).await;
        assert_eq!(names(&page), expected, "{query}");
        assert_eq!(page["total"], 5);
    }
    for query in ["state=BAD", "limit=x", "offset=-1", "sort=name"] {
        let (status, text) = fixture.get(&format!("/debug/proxies?{query}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{query}: {text}");
    }
    drop(silent);
}

#[tokio::test]
async fn one_proxy_is_shown_with_its_words_and_what_they_are_about() {
    let mut fixture = Fixture::new();
    let stream = fixture.connect("reviews.default", false);
    send(stream);
    let words = "Error adding/updating listener(s) two: cannot bind '0.0.0.0:80'";
    stream.update(|status| status.types[2].last_error = Some(words.into()));
    let page = fixture.json("/debug/proxies/1").await;
    let listeners = &page["types"]["LDS"];
    assert_eq!(listeners["error"], words);
    assert_eq!(listeners["about"], json!(["two"]));
    assert_eq!(listeners["error_at"], "2023-11-14T22:15:02.000Z");
    assert_eq!(listeners["state"], "REJECTED");
    assert_eq!(listeners["subscription"], json!({"wildcard": true, "names": [], "names_total": 0}));
    let endpoints = &page["types"]["EDS"]["subscription"];
    assert_eq!(*endpoints, json!({"wildcard": false, "names": ["two"], "names_total": 1}));
    assert_eq!((page["name"].as_str(), &page["history"]), (Some("reviews.default"), &json!([])));

    let list = fixture.json("/debug/proxies/1/resources?type=CDS").await;
    assert_eq!(list, json!({"total": 2, "names": ["one", "two"]}));
    let list = fixture.json("/debug/proxies/1/resources?type=eds").await;
    assert_eq!(list["names"], json!(["two"]), "what it subscribes to");
    let list = fixture.json("/debug/proxies/1/resources?type=CDS&search=TW").await;
    assert_eq!(list, json!({"total": 1, "names": ["two"]}));
    let one = fixture.json("/debug/proxies/1/resources?type=LDS&name=two").await;
    assert_eq!(one["resource"]["name"], "two");
    assert_eq!(one["version"].as_str().unwrap(), sets()[2].get("two").unwrap().version.to_string());
    for (path, expected) in [
        ("/debug/proxies/7", StatusCode::NOT_FOUND),
        ("/debug/proxies/x%2Fy", StatusCode::NOT_FOUND),
        ("/debug/proxies/7/resources?type=CDS", StatusCode::NOT_FOUND),
        ("/debug/proxies/1/resources?type=CDS&name=three", StatusCode::NOT_FOUND),
        ("/debug/proxies/1/resources", StatusCode::BAD_REQUEST),
        ("/debug/proxies/1?key=2", StatusCode::BAD_REQUEST),
    ] {
        assert_eq!(fixture.get(path).await.0, expected, "{path}");
    }
}

/// From the snapshot that is published, with the reason of each endpoint that is not in it.
#[tokio::test]
async fn a_service_is_shown_as_it_is_sent() {
    let fixture = Fixture::new();
    fixture.fill_model();
    let list = fixture.json("/debug/services").await;
    assert_eq!((&list["total"], &list["matched"]), (&json!(4), &json!(4)));
    assert_eq!(
        list["services"][3],
        json!({"namespace": "default", "name": "reviews", "host": "reviews.default.svc.cluster.local",
            "ports": 1, "endpoints": 3, "ready": 1})
    );
    assert_eq!(fixture.json("/debug/services?search=bar&limit=1").await["matched"], 1);
    let unsent = fixture.json("/debug/services/default/reviews").await;
    assert_eq!(unsent["view"], Value::Null);
    assert!(unsent["endpoints"][0]["reason"].as_str().unwrap().contains("no proxy is connected"));

    let model = fixture.state.model();
    let mut builder = crate::publish::SnapshotBuilder::new("cluster.local");
    builder.update(&model, &crate::model::Dirty::everything_in(&model));
    let key = ViewKey::new(ProxyKind::Sidecar, Some("default"));
    let snapshot = builder.snapshot(&[key]);
    fixture.snapshot.send_replace(Some(Arc::new(snapshot)));
    let page = fixture.json("/debug/services/default/reviews").await;
    let endpoints: Vec<_> = page["endpoints"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| {
            (
                one["address"].as_str().unwrap(),
                one["served"].as_bool().unwrap(),
                one["reason"].as_str(),
            )
        })
        .collect();
    assert_eq!(
        endpoints,
        [
            ("127.0.0.7", false, Some("it is terminating, and others are ready")),
            ("127.0.0.8", true, None),
            ("127.0.0.9", false, Some("it is not ready")),
        ]
    );
    let cluster = "outbound|9080||reviews.default.svc.cluster.local";
    assert_eq!(page["sent"]["clusters"], json!([cluster]));
    assert_eq!(page["sent"]["routes"][0]["table"], "9080");
    assert_eq!(page["exact"], true);
    assert_eq!(fixture.json("/debug/services/default/reviews?from=shop").await["exact"], false);
    let bare = fixture.json("/debug/services/default/bare").await;
    assert_eq!(bare["endpoints"][0]["reason"], "the Service has no port named \"other\"");
    let nobody = fixture.json("/debug/services/default/nobody").await;
    assert_eq!(nobody["exists"], false);
    assert_eq!(nobody["endpoints"][0]["reason"], "there is no Service of this name");
    assert_eq!(fixture.get("/debug/services/default/none").await.0, StatusCode::NOT_FOUND);
}

/// The events of one reader, as they come.
struct Events {
    body: axum::body::BodyDataStream,
    text: String,
    /// Kinds and data of events that came before one that was asked for. A summary and the traffic of the same
    /// comparison come in one message.
    passed: VecDeque<(String, Value)>,
}

impl Events {
    async fn open(fixture: &Fixture) -> Result<Self, StatusCode> {
        let request = Request::get("/debug/events").header(header::HOST, "localhost");
        let request = request.body(Body::empty()).unwrap();
        let response = fixture.debug.clone().oneshot(request).await.unwrap();
        match response.status() {
            StatusCode::OK => {
                let body = response.into_body().into_data_stream();
                Ok(Self { body, text: String::new(), passed: VecDeque::new() })
            }
            other => Err(other),
        }
    }

    /// The data of the first event of this kind, not yet returned, for which `is_wanted`.
    async fn find(&mut self, kind: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let is_found = |(of, data): &(String, Value)| of == kind && is_wanted(data);
            if let Some(at) = self.passed.iter().position(is_found) {
                return self.passed.remove(at).unwrap().1;
            }
            let piece = tokio::time::timeout(Duration::from_secs(20), self.body.next()).await;
            let piece = piece.expect("an event in time").expect("it goes on").unwrap();
            self.text.push_str(std::str::from_utf8(&piece).unwrap());
            while let Some((event, rest)) = self.text.split_once("\n\n") {
                let event = event.strip_prefix("event: ").and_then(|it| it.split_once("\ndata: "));
                if let Some((kind, data)) = event {
                    self.passed.push_back((kind.to_owned(), serde_json::from_str(data).unwrap()));
                }
                self.text = rest.to_owned();
            }
        }
    }

    async fn next(&mut self, kind: &str) -> Value {
        self.find(kind, |_| true).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn events_tell_what_changes_and_who_it_was() {
    let mut fixture = Fixture::new();
    fixture.connect("first.default", false);
    let mut events = Events::open(&fixture).await.unwrap();
    let summary = events.next("summary").await;
    assert_eq!((&summary["proxies"], &summary["generation"]), (&json!(1), &Value::Null));
    assert_eq!(summary["states"]["NOT SENT"], 1);

    send(fixture.connect("second.default", false));
    // One comparison may fall between the two.
    let mut traffic = Vec::new();
    while traffic.len() < 8 {
        traffic.extend(events.next("traffic").await.as_array().unwrap().iter().cloned());
    }
    let seen: Vec<_> = traffic
        .iter()
        .map(|item| {
            (item["what"].as_str().unwrap(), item["type"].as_str(), item["count"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("connect", None, 1),
        ("push", Some("CDS"), 2),
        ("ack", Some("CDS"), 1),
        ("push", Some("EDS"), 2),
        ("ack", Some("EDS"), 1),
        ("push", Some("LDS"), 2),
        ("ack", Some("LDS"), 1),
        ("nack", Some("LDS"), 1),
    ];
    assert_eq!(seen, expected);
    assert_eq!(
        (&traffic[1]["proxy"], &traffic[1]["name"]),
        (&json!("2"), &json!("second.default"))
    );
    assert_eq!(traffic[1]["at"], "2023-11-14T22:15:00.000Z");
    events.find("summary", |summary| summary["states"]["REJECTED"] == 1).await;

    fixture.streams.pop();
    assert_eq!(events.next("traffic").await[0]["what"], "disconnect");
    fixture
        .snapshot
        .send_replace(Some(Arc::new(Snapshot { generation: 3, ..Snapshot::default() })));
    let change = events.next("traffic").await;
    assert_eq!((&change[0]["what"], &change[0]["count"]), (&json!("change"), &json!(3)));
    events.find("summary", |summary| summary["generation"] == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_much_for_a_message_is_counted() {
    let mut fixture = Fixture::new();
    let mut events = Events::open(&fixture).await.unwrap();
    events.next("summary").await;
    for number in 0..250 {
        fixture.connect(&format!("proxy-{number}.default"), true);
    }
    let (mut connected, mut more) = (0, 0);
    while connected + more < 250 {
        for item in events.next("traffic").await.as_array().unwrap() {
            match item["more"].as_u64() {
                Some(number) => more += number,
                None => connected += 1,
            }
        }
    }
    assert_eq!(connected + more, 250);
    assert!(connected <= 200 || more == 0, "{connected} in one message");
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_are_limited_and_end_with_the_publisher() {
    let fixture = Fixture::new();
    let mut readers = Vec::new();
    for _ in 0..16 {
        readers.push(Events::open(&fixture).await.unwrap());
    }
    assert_eq!(Events::open(&fixture).await.err(), Some(StatusCode::SERVICE_UNAVAILABLE));
    // One that has gone makes room.
    readers.pop();
    let until = tokio::time::Instant::now() + Duration::from_secs(20);
    let mut last = loop {
        match Events::open(&fixture).await {
            Ok(events) => break events,
            Err(status) => assert!(tokio::time::Instant::now() < until, "{status}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    last.next("summary").await;
    let Fixture { snapshot, .. } = fixture;
    drop(snapshot);
    let rest = async { while last.body.next().await.is_some() {} };
    tokio::time::timeout(Duration::from_secs(20), rest).await.expect("a shutdown waits for nobody");
}
