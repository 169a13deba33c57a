//! Thousands of proxies: rows are fetched as they are needed, so that neither the browser nor the server suffers.
//!
//! A few hundred in an ordinary run, so that it cannot rot. Figures are of a release build and
//! `PROXIES=5000 cargo test --release --test page many -- --nocapture`.

use std::path::Path;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use pilothouse::names::ResourceType;
use serde_json::json;
use tokio::task::JoinSet;

use crate::browser::Browser;
use crate::mesh::Mesh;
use pilothouse_testkit::xds_client::{CDS, EDS, LDS, RDS, ack, connect, delta, node, open_delta};
use pilothouse_testkit::{LONG_DEADLINE, eventually, same};

/// Streams on one connection.
const STREAMS: usize = 50;
/// The browser's limit, in bytes.
const MEMORY: usize = 200 << 20;
const NAMESPACES: usize = 20;

/// Subscribes to everything and accepts it, for as long as the stream lasts.
async fn proxy(channel: tonic::transport::Channel, number: usize) {
    let mut stream = open_delta(channel).await;
    let namespace = format!("team-{}", number % NAMESPACES);
    let id = format!(
        "sidecar~10.{}.{}.1~proxy-{number}.{namespace}~{namespace}.svc.cluster.local",
        number >> 8,
        number & 255
    );
    let first = |of: ResourceType, names: &[&str]| DeltaDiscoveryRequest {
        node: Some(node(&id)),
        ..delta(of, names)
    };
    stream.say(first(CDS, &[])).await;
    let clusters = ["details", "productpage", "ratings", "reviews"]
        .map(|name| format!("outbound|9080||{name}.default.svc.cluster.local"));
    stream.say(first(EDS, &clusters.each_ref().map(String::as_str))).await;
    stream.say(first(LDS, &[])).await;
    stream.say(first(RDS, &["9080"])).await;
    while let Ok(Some(response)) = stream.next().await {
        stream.say(ack(&response)).await;
    }
}

/// Memory that only the browser's pages have, in bytes; all processes that show pages of this profile.
fn renderers(profile: &Path) -> usize {
    let own = format!("--user-data-dir={}", profile.display());
    let mut sum = 0;
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let file =
            |name: &str| std::fs::read_to_string(process.path().join(name)).unwrap_or_default();
        let command = file("cmdline");
        if command.contains("--type=renderer") && command.contains(&own) {
            let private = file("smaps_rollup");
            let lines = private.lines().filter_map(|line| line.strip_prefix("Private_"));
            let kilobytes =
                lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
            sum += kilobytes.sum::<usize>() << 10;
        }
    }
    sum
}

#[tokio::test(flavor = "multi_thread")]
async fn many_proxies_are_shown_and_cost_little() {
    let proxies: usize = std::env::var("PROXIES").map_or(300, |text| text.parse().unwrap());
    let mesh = Mesh::start().await;
    let mut fleet = JoinSet::new();
    let mut channel = connect(mesh.grpc).await;
    for number in 0..proxies {
        if number % STREAMS == 0 {
            channel = connect(mesh.grpc).await;
        }
        fleet.spawn(proxy(channel.clone(), number));
    }
    eventually(LONG_DEADLINE, "all proxies to be in sync", async || {
        let page = mesh.control.debug("proxies?limit=1").await?;
        same(&page["states"]["SYNCED"], &json!(proxies))
    })
    .await;

    let begun = Instant::now();
    let answer = mesh.control.debug("proxies?limit=100").await.unwrap();
    let asked = begun.elapsed();
    assert_eq!(answer["proxies"].as_array().unwrap().len(), 100.min(proxies));

    let browser = Browser::open("about:blank").await;
    let begun = Instant::now();
    browser.client.goto(&mesh.url()).await.unwrap();
    eventually(LONG_DEADLINE, "the rows", async || {
        same(browser.text(".count").await, format!("{proxies} proxies"))
    })
    .await;
    let loaded = begun.elapsed();
    assert!(browser.count(".rows .row").await < 60, "only rows in sight are elements");

    // To the end, and through the middle.
    let script = "const list = document.querySelector('.list'); list.scrollTop = list.scrollHeight * arguments[0]";
    for part in [0.2, 0.4, 0.6, 0.8, 1.0] {
        browser.run(script, vec![json!(part)]).await;
        browser.has_no(".rows .row.waiting").await;
    }
    let last = format!(".rows .row[aria-rowindex='{}'] a", proxies + 1);
    browser.shows(&last, &["proxy-"]).await;
    browser.run(script, vec![json!(0)]).await;

    // From an edit to the row that shows it acknowledged.
    let row = ".rows .row[aria-rowindex='2'] .type:nth-child(4) .counts";
    let mut shown = Vec::new();
    for round in 0..5 {
        browser.has_no(".rows .row.waiting").await;
        let before = browser.text(row).await;
        let begun = Instant::now();
        mesh.edit(
            "reviews.yaml",
            &format!("127.0.1.{}", 13 + round),
            &format!("127.0.1.{}", 14 + round),
        );
        eventually(LONG_DEADLINE, "the edit to be seen", async || {
            let now = browser.text(row).await;
            let counts: Vec<_> = now.split_whitespace().map(str::to_owned).collect();
            let is_answered = counts.first() == counts.get(2);
            if now != before && is_answered { Ok(()) } else { Err(now) }
        })
        .await;
        shown.push(begun.elapsed());
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    shown.sort();
    let memory = renderers(browser.profile());

    // What three open pages cost while a change comes every second, against none.
    let cost = async |first: usize| {
        let (cpu, begun) = (mesh.control.process.cpu(), Instant::now());
        for round in 0..10 {
            let from = format!("127.0.1.{}", first + round);
            mesh.edit("reviews.yaml", &from, &format!("127.0.1.{}", first + round + 1));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        (mesh.control.process.cpu() - cpu) / begun.elapsed().as_secs_f64() * 100.0
    };
    let (mut with, mut without) = (0.0, 0.0);
    if proxies >= 1000 {
        for part in ["#/picture", "#/proxies"] {
            browser.run("open(arguments[0])", vec![json!(format!("{}{part}", mesh.url()))]).await;
        }
        with = cost(18).await;
    }
    browser.close().await;
    if proxies >= 1000 {
        without = cost(28).await;
    }
    println!(
        "{proxies} proxies: 100 rows asked in {asked:?}; loaded in {loaded:?}; a change shown in {shown:?}; \
         the pages have {} MiB; the server's CPU with a change a second: {with:.1} % of a core with three pages, \
         {without:.1} % without",
        memory >> 20,
    );
    assert!(memory > 0 && memory < MEMORY, "{memory} bytes");
    fleet.abort_all();
}
