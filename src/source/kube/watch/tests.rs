//! An API server that is away for an hour, played in an instant: the clock is tokio's.

use std::convert::Infallible;
use std::sync::{Mutex, MutexGuard};

use axum::body::Body as Bytes;
use futures::stream;
use http::{Request, Response};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::client::Body;
use serde_json::json;
use tokio::sync::mpsc::{self, Receiver};
use tokio::time::{sleep, timeout};
use tower::service_fn;

use super::super::client::{Server, observed};
use super::*;
use crate::model::Scope;

const HOUR: Duration = Duration::from_secs(3600);

/// Why a server does not answer as it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Away {
    /// Nobody listens.
    Unreached,
    /// 503 for everything.
    Failing,
}

/// Names its services, or is away.
#[derive(Default)]
struct Stub {
    away: Option<Away>,
    services: Vec<&'static str>,
    /// When it was asked while it was away.
    missed: Vec<Instant>,
}

struct Source {
    stub: Arc<Mutex<Stub>>,
    health: Arc<Health>,
    changes: Receiver<SourceEvent>,
    _watch: tokio_util::task::AbortOnDropHandle<()>,
}

impl Source {
    fn start(stub: Stub) -> Self {
        let stub = Arc::new(Mutex::new(stub));
        let (health, (sender, changes)) = (Arc::<Health>::default(), mpsc::channel(64));
        let asked = stub.clone();
        let service = service_fn(move |request| {
            let answer = answer(&asked, &request);
            async { answer }
        });
        let server = Server { client: Client::new(service, "default"), url: "http://stub".into() };
        let lasts = Duration::from_secs(30);
        let (teller, position) = watch::channel(0);
        let client = observed(&server.client, health.clone(), "services".into(), lasts, teller);
        health.expect("services");
        let mut watch = Watch {
            index: WatchIndex::<Service>::new(Scope::All, health.clone()),
            name: "services".into(),
            url: server.url,
            changes: sender,
            health: health.clone(),
            unlisted: Arc::new(AtomicUsize::new(1)),
            counted: false,
            has_list: false,
            optional: None,
            backoff: DefaultBackoff::default(),
            list_strategy: ListStrategy::default(),
            last_list: None,
            last_warning: None,
            position,
        };
        let api = Service::api(client, &Scope::All);
        let settings = watcher::Config::default().timeout(30);
        let watch = tokio::spawn(async move { _ = watch.run(api, settings).await });
        Self { stub, health, changes, _watch: tokio_util::task::AbortOnDropHandle::new(watch) }
    }

    fn stub(&self) -> MutexGuard<'_, Stub> {
        self.stub.lock().unwrap()
    }

    /// The names in the next list; past two minutes, which no pause may last, it fails.
    async fn lists(&mut self) -> Vec<String> {
        let next = timeout(Duration::from_secs(120), async {
            loop {
                let change = self.changes.recv().await.unwrap().change;
                if let Some(Change::Services(_, all)) = change {
                    return all.iter().map(|one| one.key.name.to_string()).collect();
                }
            }
        });
        next.await.expect("a list")
    }

    /// An hour in which it is away, and asked often enough, not too often, and not by the clock.
    async fn hour_away(&mut self, away: Away) {
        sleep(HOUR).await;
        while let Ok(event) = self.changes.try_recv() {
            assert!(matches!(event.change, None | Some(Change::Synced)), "{event:?}");
        }
        let watches = self.health.watches();
        let said = watches["services"].last_error.clone().unwrap();
        assert!(said.contains("nobody is there"), "{said}");
        let missed = std::mem::take(&mut self.stub().missed);
        let pauses: Vec<_> = missed.windows(2).map(|pair| pair[1] - pair[0]).collect();
        // Two attempts each may follow upon one another: streamed, and then in pages.
        let (often, longest, long) = match away {
            Away::Unreached => (1_000..5_000, MAX_UNREACHED_PAUSE, Duration::from_secs(1)),
            Away::Failing => (60..400, Duration::from_secs(60), Duration::from_secs(15)),
        };
        assert!(often.contains(&pauses.len()), "{pauses:?}");
        assert!(pauses.iter().all(|pause| *pause <= longest), "{pauses:?}");
        let long: Vec<_> = pauses.iter().filter(|pause| **pause > long).collect();
        assert!(long.len() > 30 && long.iter().any(|pause| *pause != long[0]), "{pauses:?}");
    }
}

fn answer(stub: &Mutex<Stub>, request: &Request<Body>) -> Result<Response<Bytes>, std::io::Error> {
    let mut stub = stub.lock().unwrap();
    if let Some(away) = stub.away {
        stub.missed.push(Instant::now());
        if away == Away::Unreached {
            return Err(std::io::Error::other("nobody is there"));
        }
        let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 503,
            "reason": "ServiceUnavailable", "message": "nobody is there" });
        let mut response = Response::new(Bytes::from(status.to_string()));
        *response.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
        return Ok(response);
    }
    // In the order of an API server.
    let line = |what: &str, object: serde_json::Value| {
        format!("{{\"type\":\"{what}\",\"object\":{object}}}\n")
    };
    let mark = json!({ "kind": "Bookmark", "apiVersion": "v1", "metadata": {
        "resourceVersion": "9", "annotations": { "k8s.io/initial-events-end": "true" } } });
    let services = stub.services.iter().map(|name| {
        json!({ "metadata": { "name": name, "namespace": "default", "resourceVersion": "7" },
            "spec": { "ports": [{ "port": 80 }] } })
    });
    let query = request.uri().query().unwrap_or_default();
    let body = if query.contains("sendInitialEvents=true") {
        let told: String = services.map(|one| line("ADDED", one)).collect();
        watched(told + &line("BOOKMARK", mark))
    } else if query.contains("watch=true") {
        watched(String::new())
    } else {
        let list = json!({ "kind": "List", "apiVersion": "v1", "items": services.collect::<Vec<_>>(),
            "metadata": { "resourceVersion": "7" } });
        Bytes::from(list.to_string())
    };
    Ok(Response::new(body))
}

/// Lasts as long as it was asked for.
fn watched(told: String) -> Bytes {
    let end = stream::once(async {
        sleep(Duration::from_secs(30)).await;
        Ok(String::new())
    });
    Bytes::from_stream(stream::iter([Ok::<_, Infallible>(told)]).chain(end))
}

/// The newest object of the list is older than the list: another one was deleted, say.
#[tokio::test(start_paused = true)]
async fn a_watch_tells_how_far_it_has_got_beyond_its_objects() {
    let mut source = Source::start(Stub { services: vec!["a", "b"], ..Stub::default() });
    let mut seen = Vec::new();
    let begun = Instant::now();
    while seen.last() != Some(&(None, Some(9))) {
        let event = timeout(Duration::from_secs(60), source.changes.recv()).await;
        let event = event.expect("a position").unwrap();
        let about = event.change.and_then(|change| change.about());
        seen.push((about.map(|(object, _)| object.kind), event.version));
    }
    assert_eq!(seen, [(Some("Service"), Some(7)), (None, None), (None, Some(9))]);
    assert!(begun.elapsed() < Duration::from_secs(30), "by the mark of the list's end");
    // The request that resumes the watch says the same, which is no news.
    sleep(Duration::from_secs(100)).await;
    assert!(source.changes.try_recv().is_err());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_an_hour_at_the_start_is_waited_for() {
    for away in [Away::Unreached, Away::Failing] {
        let stub = Stub { away: Some(away), services: vec!["a"], ..Stub::default() };
        let mut source = Source::start(stub);
        source.hour_away(away).await;
        let waiting = source.health.waiting_for().unwrap();
        assert!(waiting.contains("nobody is there"), "{waiting}");
        source.stub().away = None;
        assert_eq!(source.lists().await, ["a"]);
        sleep(Duration::from_secs(1)).await;
        assert_eq!(source.health.waiting_for(), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_away_for_an_hour_in_mid_life_takes_nothing_along() {
    for away in [Away::Unreached, Away::Failing] {
        let mut source = Source::start(Stub { services: vec!["a", "b"], ..Stub::default() });
        assert_eq!(source.lists().await, ["a", "b"]);
        source.stub().away = Some(away);
        source.hour_away(away).await;
        assert_eq!(source.health.waiting_for(), None, "what was listed is served");
        {
            let mut stub = source.stub();
            (stub.away, stub.services) = (None, vec!["b", "c"]);
        }
        assert_eq!(source.lists().await, ["b", "c"]);
        // The pauses begin anew.
        sleep(HOUR).await;
        source.stub().away = Some(away);
        sleep(Duration::from_secs(60)).await;
        let missed = source.stub().missed.clone();
        assert!(missed[1] - missed[0] < Duration::from_secs(5), "{missed:?}");
    }
}
