//! `/debug/changes` and `/debug/convergence`, and the history on a proxy's page.

use pilothouse_xds::session::Generations;

use super::*;
use crate::changes::Seen;
use crate::model::{Differences, Scope, SourceEvent, WatchId};
use crate::proxies::{Happening, HistoryEntry};

impl Fixture {
    /// A change of this service that the source saw; published with `generation`, if that is given.
    fn change(&self, name: &str, version: u64, generation: Option<u64>) {
        let service = service(name, ServiceKind::Headless, "http", Protocol::Http);
        let event = SourceEvent {
            seen: moment(1_700_000_000),
            watch: Some(WatchId { kind: "Service", scope: Scope::All }),
            version: Some(version),
            ..Change::Service(service).into()
        };
        self.state.changes.record(&Seen::of(&event), Differences::default(), None, moment(0));
        if let Some(generation) = generation {
            self.state.changes.publish(generation, moment(1_700_000_001));
            let snapshot = Snapshot { generation, ..Snapshot::default() };
            self.snapshot.send_replace(Some(Arc::new(snapshot)));
        }
    }

    fn proxy(&mut self, name: &str, sent: u64, acknowledged: u64) -> &XdsStream {
        let stream = self.connect(name, true);
        stream.set_generations(Generations { sent, acknowledged });
        stream
    }
}

#[tokio::test]
async fn changes_tell_how_many_proxies_have_each_and_name_the_stragglers() {
    let mut fixture = Fixture::new();
    fixture.change("one", 11, Some(4));
    fixture.change("two", 12, Some(5));
    fixture.change("three", 13, None);
    fixture.proxy("has-all.default", 5, 5);
    fixture.proxy("not-yet.default", 5, 4);
    send(fixture.proxy("rejects.default", 4, 3));
    fixture.proxy("starts.default", 0, 0);
    let probe = fixture.proxy("probe.default", 0, 0);
    probe.update(|status| status.identity.as_mut().unwrap().probe = true);
    let silent = fixture.state.proxies.register(None, false, 1000).unwrap();

    let page = fixture.json("/debug/changes").await;
    assert_eq!(page["generation"], 5);
    assert_eq!((&page["total"], &page["matched"]), (&json!(3), &json!(3)));
    assert!(page["instance"].as_str().unwrap().starts_with(page["replica"].as_str().unwrap()));
    let [three, two, one] = &page["changes"].as_array().unwrap()[..] else { panic!("{page}") };
    assert_eq!(
        *three,
        json!({
            "id": 3, "kind": "Service", "namespace": "default", "name": "three",
            "action": "applied", "resource_version": "13", "objects": null,
            "seen": "2023-11-14T22:13:20.000Z", "published": null, "generation": null,
            "proxies": 4, "sent": 0, "acknowledged": 0, "last_acknowledged": null,
            "stragglers": [], "stragglers_total": 0,
        }),
    );
    assert_eq!(two["published"], "2023-11-14T22:13:21.000Z");
    let counts = |change: &Value| {
        ["proxies", "sent", "acknowledged", "stragglers_total"].map(|field| change[field].clone())
    };
    assert_eq!(counts(two), [4, 2, 1, 3].map(Value::from));
    assert_eq!(counts(one), [4, 3, 2, 2].map(Value::from));
    let names = |change: &Value| -> Vec<String> {
        let all = change["stragglers"].as_array().unwrap();
        all.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(two), ["rejects.default", "not-yet.default", "starts.default"]);
    assert_eq!(names(one), ["rejects.default", "starts.default"]);
    assert_eq!(
        two["stragglers"][0],
        json!({
            "key": "3", "name": "rejects.default", "type": "LDS", "state": "REJECTED",
            "since": "2023-11-14T22:15:02.000Z", "error": "cannot bind '0.0.0.0:80'",
        }),
    );
    assert_eq!(two["stragglers"][2]["state"], "NOT SENT");
    drop(silent);
}

#[tokio::test]
async fn changes_can_be_searched_and_come_page_by_page() {
    let fixture = Fixture::new();
    for number in 0..150 {
        fixture.change(&format!("service-{number}"), 1000 + number, Some(number));
    }
    let ids = async |query: &str| -> Vec<u64> {
        let page = fixture.json(&format!("/debug/changes{query}")).await;
        let all = page["changes"].as_array().unwrap();
        all.iter().map(|one| one["id"].as_u64().unwrap()).collect()
    };
    assert_eq!(ids("").await, (51..=150).rev().collect::<Vec<_>>());
    assert_eq!(ids("?offset=140&limit=5").await, [10, 9, 8, 7, 6]);
    assert_eq!(ids("?search=SERVICE%20Default/service-14&limit=3").await, [150, 149, 148]);
    assert_eq!(ids("?search=1017").await, [18], "its version");
    assert_eq!(ids("?offset=200").await, [] as [u64; 0]);
    let (status, text) = fixture.get("/debug/changes?limit=many").await;
    assert_eq!((status, &*text), (StatusCode::BAD_REQUEST, "limit=\"many\" is no number.\n"));
}

#[tokio::test]
async fn names_of_strangers_are_text() {
    let fixture = Fixture::new();
    let name = "<script>\"\u{202e}\n'&";
    fixture.change(name, 1, Some(1));
    let page = fixture.json("/debug/changes").await;
    assert_eq!(page["changes"][0]["name"], name);
    let said = fixture.json("/debug/convergence?kind=Service&name=%3Cscript%3E%22").await;
    assert!(said["why"].as_str().unwrap().contains("Service default/<script>\""), "{said}");
}

#[tokio::test]
async fn convergence_says_which_generation_has_a_change() {
    let fixture = Fixture::new();
    let state = async |query: &str| {
        let said = fixture.json(&format!("/debug/convergence?{query}")).await;
        (said["state"].as_str().unwrap().to_owned(), said["generation"].as_u64(), said)
    };
    let is = |said: &(String, Option<u64>, Value), state: &str, generation, why: &str| {
        assert_eq!((&*said.0, said.1), (state, generation), "{}", said.2);
        assert!(said.2["why"].as_str().unwrap().contains(why), "{}", said.2);
    };
    let versioned = "kind=Service&name=reviews&resource_version=";
    is(&state(&format!("{versioned}1")).await, "unknown", None, "no resource versions");
    fixture.fill_model();
    fixture.change("reviews", 20, Some(4));
    fixture.change("other", 30, None);
    is(&state("kind=Service&name=reviews").await, "published", Some(4), "generation 4");
    is(&state("kind=service&namespace=default&name=other").await, "pending", None, "not published");
    is(&state("kind=Service&name=empty").await, "unknown", None, "the object is there");
    is(&state("kind=Service&name=none").await, "unknown", None, "no such object");
    is(&state("kind=EndpointSlice&name=reviews-abc").await, "unknown", None, "the object is there");
    is(&state("kind=Node&name=n").await, "unknown", None, "of Node n");
    is(&state("kind=Pod&name=n").await, "unknown", None, "\"Pod\" is not watched");

    is(&state(&format!("{versioned}20")).await, "published", Some(4), "");
    is(&state(&format!("{versioned}25")).await, "pending", None, "");
    is(&state(&format!("{versioned}31")).await, "not_seen", None, "has got to 30");
    let slice = state("kind=EndpointSlice&name=a&resource_version=5").await;
    is(&slice, "unknown", None, "EndpointSlice in namespace default is not watched; watched are");
    fixture.change("other", 31, Some(5));
    is(&state(&format!("{versioned}25")).await, "published", Some(5), "");

    for wrong in ["", "?kind=Service", "?generation=x", "?generation=1&kind=Service", "?names=x"] {
        let (status, text) = fixture.get(&format!("/debug/convergence{wrong}")).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{wrong}: {text}");
    }
    let both = "/debug/convergence?kind=Service&name=a&resource_version=v1";
    assert_eq!(fixture.get(both).await.1, "resource_version=\"v1\" is no number.\n");
}

#[tokio::test]
async fn convergence_says_who_has_a_generation() {
    let mut fixture = Fixture::new();
    let nobody = fixture.json("/debug/convergence?generation=1").await;
    assert_eq!((&nobody["newest"], &nobody["proxies"]), (&Value::Null, &json!(0)));
    fixture.change("one", 1, Some(7));
    for number in 0..30 {
        fixture.proxy(&format!("old-{number}.default"), 6, 6);
    }
    fixture.proxy("new.default", 7, 7);
    let page = fixture.json("/debug/convergence?generation=7").await;
    assert_eq!(page["stragglers"].as_array().unwrap().len(), 20);
    assert_eq!(page["stragglers"][0]["name"], "old-0.default", "the one that came first");
    let fields = ["generation", "newest", "proxies", "acknowledged", "stragglers_total"];
    let of = |page: &Value| fields.map(|field| page[field].as_u64().unwrap());
    assert_eq!(of(&page), [7, 7, 31, 1, 30]);
    assert_eq!(of(&fixture.json("/debug/convergence?generation=6").await), [6, 7, 31, 31, 0]);
    assert_eq!(of(&fixture.json("/debug/convergence?generation=9").await), [9, 7, 31, 0, 31]);
}

#[tokio::test]
async fn a_change_is_last_acknowledged_when_the_last_stream_did() {
    let mut fixture = Fixture::new();
    fixture.change("one", 1, Some(3));
    fixture.proxy("a.default", 3, 3);
    let now = std::time::Instant::now() + Duration::from_secs(60);
    fixture.state.proxies.generations.acknowledged(2, 3, now);
    let page = fixture.json("/debug/changes").await;
    let last = page["changes"][0]["last_acknowledged"].as_str().unwrap();
    let last = humantime::parse_rfc3339(last).unwrap();
    let ahead = last.duration_since(SystemTime::now()).unwrap();
    assert!(ahead > Duration::from_secs(30), "{ahead:?}");
}

#[tokio::test]
async fn a_proxys_page_has_its_last_responses_and_answers() {
    let mut fixture = Fixture::new();
    let stream = fixture.connect("a.default", false);
    send(stream);
    let (lds, connected) = (ResourceType::Listener, stream.connected);
    stream.update_with_history(|_, history| {
        for (number, what) in [
            (1, Happening::Response),
            (1, Happening::Nack),
            (2, Happening::Response),
            (2, Happening::Nack),
        ] {
            history.push(HistoryEntry {
                at: connected + Duration::from_secs(number),
                resource_type: lds.into(),
                what,
                nonce: 0xab00 + number,
                generation: 40 + number,
                resources: 3,
                removed: 1,
                bytes: 1234,
            });
        }
    });
    let id = stream.id;
    let page = fixture.json(&format!("/debug/proxies/{id}")).await;
    let history = page["history"].as_array().unwrap();
    let at = milliseconds(connected + Duration::from_secs(2));
    assert_eq!(
        history[0],
        json!({
            "at": at, "type": "LDS", "what": "nack", "nonce": "000000000000ab02", "resources": 3,
            "removed": 1, "bytes": 1234, "generation": 42, "error": "cannot bind '0.0.0.0:80'",
        }),
    );
    assert_eq!((&history[1]["what"], &history[1]["error"]), (&json!("response"), &Value::Null));
    assert_eq!((&history[2]["what"], &history[2]["error"]), (&json!("nack"), &Value::Null));
    assert_eq!(history.len(), 4);
}
