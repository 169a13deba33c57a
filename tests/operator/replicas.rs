//! Two real servers over one folder, as two replicas, with proxies at each.

use std::process::Stdio;

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::harness::{Ran, ask};
use crate::proxies::{Answers, Proxy};
use pilothouse_testkit::control_plane::{ControlPlane, pilothouse};
use pilothouse_testkit::manifests::{http_service, write};
use pilothouse_testkit::{DEADLINE, eventually, http, until};

struct Replicas {
    folder: TempDir,
    servers: [ControlPlane; 2],
}

impl Replicas {
    async fn start() -> Self {
        let folder = TempDir::new().unwrap();
        write(folder.path(), "reviews.yaml", &http_service("reviews", 8080, ["10.1.0.1"]));
        let (one, other) =
            tokio::join!(ControlPlane::start(folder.path()), ControlPlane::start(folder.path()));
        Self { folder, servers: [one, other] }
    }

    async fn ask(&self, command: &[&str]) -> Ran {
        ask(command, &self.servers.each_ref().map(|server| server.http)).await
    }

    /// State of each proxy by its name, once `wanted` are there.
    async fn are(&self, wanted: &[(&str, &str)]) {
        let what = format!("the states {wanted:?}");
        eventually(DEADLINE, &what, async || {
            let ran = self.ask(&["status", "-o", "json"]).await;
            let page = ran.json();
            let rows = page["proxies"].as_array().into_iter().flatten();
            let mut states: Vec<_> = rows
                .map(|row| {
                    (row["name"].as_str().unwrap_or("?"), row["state"].as_str().unwrap_or("?"))
                })
                .collect();
            states.sort_unstable();
            if states == wanted { Ok(()) } else { Err(format!("{states:?} {}", ran.err)) }
        })
        .await;
    }
}

#[tokio::test]
async fn status_sees_the_proxies_of_both_and_names_a_replica_that_hangs_or_has_gone() {
    let mut replicas = Replicas::start().await;
    let [one, other] = replicas.servers.each_ref().map(|server| server.grpc);
    let _good = Proxy::start(one, "good", Answers::Ack).await;
    let bad = Proxy::start(other, "bad", Answers::Nack("no such <b>filter</b>\u{1b}[2J")).await;
    let _slow = Proxy::start(other, "slow", Answers::Nothing).await;
    let all = [("bad.default", "REJECTED"), ("good.default", "SYNCED"), ("slow.default", "STALE")];
    replicas.are(&all).await;
    let ran = replicas.ask(&["status"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let names: Vec<_> = ran.out.lines().skip(1).filter_map(|line| line.split(' ').next()).collect();
    assert_eq!(
        names,
        ["bad.default", "slow.default", "good.default"],
        "the worst first: {}",
        ran.out
    );

    let ran = replicas.ask(&["status", "bad"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("  no such <b>filter</b>\\u{1b}[2J\n"), "{}", ran.out);
    let ran = replicas.ask(&["status", "--state", "stale", "-o", "wide"]).await;
    assert!(ran.out.contains("slow.default") && ran.out.lines().count() == 2, "{ran:?}");
    let ran = replicas.ask(&["status", "--service", "default/reviews"]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    for word in
        ["reviews.default.svc.cluster.local", "10.1.0.1:8080", "slow.default", "bad.default"]
    {
        assert!(ran.out.contains(word), "{word}: {}", ran.out);
    }
    let ran = replicas.ask(&["status", "--service", "default/nothing"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");

    drop(bad);
    replicas.are(&[("good.default", "SYNCED"), ("slow.default", "STALE")]).await;
    let hung = replicas.servers[1].http.to_string();
    replicas.servers[1].process.signal(Signal::STOP);
    let ran = replicas.ask(&["status", "--request-timeout=1s"]).await;
    replicas.servers[1].process.signal(Signal::CONT);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("good.default"), "{ran:?}");
    assert!(
        ran.err.contains(&format!("the replica {hung} could not be asked: no answer")),
        "{ran:?}"
    );
    replicas.servers[1].stop(Signal::KILL).await;
    let ran = replicas.ask(&["status"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(
        ran.err.contains(&format!("the replica {hung} could not be asked: cannot be reached")),
        "{ran:?}"
    );
}

/// A dashboard, and where it is.
struct Dashboard {
    child: Child,
    url: String,
}

impl Dashboard {
    async fn start(replicas: &Replicas) -> Self {
        let mut command = Command::from(pilothouse(&["dashboard", "--no-browser"]));
        for server in &replicas.servers {
            command.arg(format!("--address={}", server.http));
        }
        let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let url = lines.next_line().await.unwrap().expect("it prints its address");
        Self { child, url: url.trim_end_matches('/').to_owned() }
    }

    async fn json(&self, path: &str) -> Result<Value, String> {
        http::json(&format!("{}{path}", self.url)).await
    }

    /// The summaries, as a page reads them.
    async fn summaries(&self) -> Summaries {
        use tokio::io::AsyncWriteExt as _;
        let address = self.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        let request = format!("GET /debug/events HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        Summaries(BufReader::new(stream).lines())
    }
}

struct Summaries(tokio::io::Lines<BufReader<TcpStream>>);

impl Summaries {
    /// Reads until one of them is as wanted.
    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let read = async {
            let mut is_summary = false;
            loop {
                let line = self.0.next_line().await.unwrap().expect("it goes on");
                if line == "event: summary" {
                    is_summary = true;
                } else if let Some(data) = line.strip_prefix("data: ")
                    && std::mem::take(&mut is_summary)
                {
                    let summary: Value = serde_json::from_str(data).unwrap();
                    if wanted(&summary) {
                        return summary;
                    }
                }
            }
        };
        pilothouse_testkit::in_time("a summary", read).await
    }
}

#[tokio::test]
async fn the_dashboard_has_the_page_and_both_replicas_behind_it() {
    let mut replicas = Replicas::start().await;
    let [one, other] = replicas.servers.each_ref().map(|server| server.grpc);
    let _good = Proxy::start(one, "good", Answers::Ack).await;
    let _bad = Proxy::start(other, "bad", Answers::Nack("it is wrong")).await;
    replicas.are(&[("bad.default", "REJECTED"), ("good.default", "SYNCED")]).await;
    let mut dashboard = Dashboard::start(&replicas).await;
    assert!(dashboard.url.starts_with("http://127.0.0.1:"), "{}", dashboard.url);

    // The page is the debug port's own, byte for byte.
    let files = http::get(&format!("{}/", dashboard.url), None).await.unwrap();
    let own = http::get(&format!("http://{}/", replicas.servers[0].http), None).await.unwrap();
    assert_eq!((files.status, &files.body), (200, &own.body));
    let script = http::get(&format!("{}/page/app.js", dashboard.url), None).await.unwrap();
    assert_eq!(script.status, 200);
    // A foreign web page that has its name lead here.
    let foreign =
        http::get(&format!("{}/debug/proxies", dashboard.url), Some("evil.example")).await;
    assert_eq!(foreign.unwrap().status, 403);
    let none = http::get(&format!("{}/etc/passwd", dashboard.url), None).await.unwrap();
    assert_eq!(none.status, 404);

    let page = dashboard.json("/debug/proxies?limit=1").await.unwrap();
    assert_eq!((&page["total"], &page["matched"]), (&2.into(), &2.into()), "{page}");
    assert_eq!(page["states"]["REJECTED"], 1, "{page}");
    let row = &page["proxies"][0];
    assert_eq!(row["name"], "bad.default", "the worst first: {page}");
    let page = dashboard.json("/debug/proxies?offset=1&limit=1").await.unwrap();
    assert_eq!(page["proxies"][0]["name"], "good.default", "{page}");
    let key = row["key"].as_str().unwrap();
    let proxy = dashboard.json(&format!("/debug/proxies/{key}")).await.unwrap();
    assert_eq!(proxy["types"]["CDS"]["error"], "it is wrong", "{proxy}");
    assert_eq!(proxy["key"], key, "{proxy}");
    let names = dashboard.json(&format!("/debug/proxies/{key}/resources?type=CDS")).await.unwrap();
    assert!(names["total"].as_u64() > Some(0), "{names}");
    assert!(dashboard.json("/debug/proxies/nobody:1").await.unwrap_err().contains("404"));
    let services = dashboard.json("/debug/services").await.unwrap();
    assert_eq!(services["services"][0]["name"], "reviews", "{services}");
    let service = dashboard.json("/debug/services/default/reviews").await.unwrap();
    assert_eq!(service["lagging"][0], "bad.default", "{service}");
    assert!(dashboard.json("/debug/services/default/none").await.unwrap_err().contains("404"));
    let sources = dashboard.json("/debug/sourcez").await.unwrap();
    assert_eq!(sources["watches"].as_array().map(Vec::len), Some(2), "one of each: {sources}");

    let mut summaries = dashboard.summaries().await;
    summaries.until(|summary| summary["proxies"] == 2 && summary["states"]["REJECTED"] == 1).await;
    let gone = replicas.servers[1].http.to_string();
    replicas.servers[1].stop(Signal::KILL).await;
    let summary = summaries.until(|summary| summary["proxies"] == 1).await;
    assert_eq!(summary["unreachable"][0]["replica"], *gone, "{summary}");
    let page = dashboard.json("/debug/proxies").await.unwrap();
    assert_eq!(page["unreachable"][0]["replica"], *gone, "{page}");
    assert_eq!(page["proxies"].as_array().map(Vec::len), Some(1), "{page}");

    let id = dashboard.child.id().unwrap();
    let id = rustix::process::Pid::from_raw(i32::try_from(id).unwrap()).unwrap();
    rustix::process::kill_process(id, Signal::TERM).unwrap();
    let status = pilothouse_testkit::in_time("its end", dashboard.child.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
}

/// The changes of this service that a replica knows.
async fn changes_of(replicas: &Replicas, name: &str) -> Vec<usize> {
    let mut counts = Vec::new();
    for server in &replicas.servers {
        let page = server.debug(&format!("changes?search={name}&limit=1000")).await.unwrap();
        let changes = page["changes"].as_array().into_iter().flatten();
        counts.push(changes.filter(|one| one["kind"] == "Service").count());
    }
    counts
}

#[tokio::test]
async fn wait_returns_when_the_last_straggler_has_it_and_names_it_before() {
    let replicas = Replicas::start().await;
    let [one, other] = replicas.servers.each_ref().map(|server| server.grpc);
    let _good = Proxy::start(one, "good", Answers::Ack).await;
    let slow = Proxy::start(other, "slow", Answers::Ack).await;
    replicas.are(&[("good.default", "SYNCED"), ("slow.default", "SYNCED")]).await;
    slow.answers(Answers::Nothing);
    write(replicas.folder.path(), "details.yaml", &http_service("details", 8080, ["10.1.0.2"]));
    // A folder has no versions, so the change has to be seen before it can be waited for.
    until("both to have seen the new service", async || {
        let counts = changes_of(&replicas, "details").await;
        if counts.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let ran = replicas.ask(&["wait", "service/details", "--timeout=2s"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let line = ran.out.lines().find(|line| line.starts_with("slow.default"));
    assert!(line.is_some_and(|line| line.contains("CDS") && line.contains("STALE")), "{ran:?}");
    assert!(!ran.out.contains("good.default"), "{ran:?}");
    let ran = replicas.ask(&["changes", "details"]).await;
    assert!(ran.out.contains("slow.default"), "{ran:?}");

    let waiting = replicas.ask(&["wait", "service/details", "--timeout=60s"]);
    let (ran, ()) = tokio::join!(waiting, async {
        let behind = |page: &Value| page["stragglers_total"] == 1;
        until("the question of the wait", async || {
            let page = replicas.servers[1]
                .debug("convergence?kind=Service&namespace=default&name=details")
                .await?;
            let generation = page["generation"].as_u64().ok_or("not published")?;
            let page =
                replicas.servers[1].debug(&format!("convergence?generation={generation}")).await?;
            if behind(&page) { Ok(()) } else { Err(page.to_string()) }
        })
        .await;
        slow.answers(Answers::Ack);
    });
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert!(ran.out.contains("is everywhere: acknowledged by 2 proxies of 2 replicas"), "{ran:?}");

    slow.answers(Answers::Nack("no such filter"));
    write(replicas.folder.path(), "ratings.yaml", &http_service("ratings", 8080, ["10.1.0.3"]));
    until("both to have seen it", async || {
        let counts = changes_of(&replicas, "ratings").await;
        if counts.iter().all(|count| *count > 0) { Ok(()) } else { Err(format!("{counts:?}")) }
    })
    .await;
    let ran = replicas.ask(&["wait", "service/ratings", "--timeout=2s"]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.out.contains("REJECTED") && ran.out.contains("no such filter"), "{ran:?}");
    let ran =
        replicas.ask(&["wait", "service/ratings", "--resource-version=1", "--timeout=60s"]).await;
    assert_eq!(ran.code, Some(2), "a folder has no versions: {ran:?}");
}
