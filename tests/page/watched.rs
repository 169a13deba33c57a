//! What happens in the mesh is seen on the page.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::Instant;

use fantoccini::Locator;

use crate::browser::{Browser, SHOWN};
use crate::mesh::Mesh;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};
use pilothouse_testkit::{eventually, manifests, places, same};

/// A sidecar without capture, which binds the ports of services on loopback.
async fn bound(mesh: &Mesh) -> Envoy {
    Envoy::start(Sample::Bound, Wire::Delta, mesh.grpc).await
}

#[tokio::test]
async fn rows_rejections_and_departures_are_seen() {
    let mesh = Mesh::start().await;
    let standalone = Envoy::start(Sample::Standalone, Wire::Sotw, mesh.grpc).await;
    let mut sidecar = bound(&mesh).await;
    let browser = Browser::open(&mesh.url()).await;
    browser.shows("#connection", &["live"]).await;
    browser.shows(".rows .row", &["SYNCED", "sidecar", "standalone", "envoy/1.40"]).await;
    browser.shows(".count", &["2 proxies"]).await;
    assert_eq!(
        browser.count(".rows .row .type .state.synced").await,
        8,
        "four types of two proxies"
    );
    browser.screenshot("proxies", true).await;

    // A listener for a port that somebody else has: a NACK made for real.
    let taken = SocketAddr::from((Ipv4Addr::LOCALHOST, places::port()));
    let _occupant = TcpListener::bind(taken).unwrap();
    let shut = manifests::http_service("shut", 9080, ["127.0.1.3"]);
    let made = Instant::now();
    mesh.put("shut", &shut.replace("port: 80}", &format!("port: {}}}", taken.port())));
    let row = ".rows .row.rejected";
    browser.shows(row, &["REJECTED"]).await;
    println!("a NACK shows in its row {:?} after the file was written", made.elapsed());
    browser.shows(&format!("{row} .type:nth-child(5)"), &["REJECTED", "1 ✕", "1 NACK"]).await;
    browser.shows(".rows .row[aria-rowindex='2']", &["REJECTED"]).await;
    browser.shows("#summary", &["REJECTED1"]).await;
    browser.screenshot("proxies-rejected", true).await;

    // The proxy's own page has Envoy's words and the listener that they are about.
    browser.click(".rows .row.rejected a").await;
    let listener = format!("127.0.0.1_{}", taken.port());
    browser.shows(".rejection", &["LDS was rejected", "Address already in use", &listener]).await;
    println!("and in the page of its proxy, a click later, after {:?}", made.elapsed());
    browser.screenshot("proxy", true).await;
    browser.click(".rejection button").await;
    browser.shows(".resource pre", &["\"portValue\"", &taken.port().to_string()]).await;
    browser.shows(".browser .names", &["127.0.0.1_9080"]).await;

    // What it did and said is listed, the NACK with its words.
    browser
        .shows("main", &["The last responses and answers", "response ↓", "✓ ACK", "✕ NACK"])
        .await;
    // The change that it rejects has a straggler.
    let own = browser.run("return location.hash", vec![]).await;
    browser.show("#/changes?search=shut").await;
    browser
        .shows(".rows .row.stale", &["Service", "default/shut", "1 of 2", "sample-0.default"])
        .await;
    browser.screenshot("changes-straggler", true).await;
    browser.show(own.as_str().unwrap()).await;
    browser.shows(".rejection", &["Address already in use"]).await;

    // One that goes is gone from its page and from the list.
    sidecar.process.kill();
    browser.shows("h1", &["This proxy has gone"]).await;
    browser.show("#/proxies").await;
    browser.shows(".count", &["1 proxy"]).await;
    browser.has_no(".rows .row.rejected").await;
    drop(standalone);
    browser.shows(".list", &["No proxy is connected."]).await;
    browser.close().await;
}

#[tokio::test]
async fn an_edit_is_seen_to_travel() {
    let mesh = Mesh::start().await;
    let _standalone = Envoy::start(Sample::Standalone, Wire::Sotw, mesh.grpc).await;
    let _sidecar = bound(&mesh).await;
    let browser = Browser::open(&format!("{}#/picture", mesh.url())).await;
    browser.shows(".picture", &["Control plane", "4 Services", "2 proxies"]).await;
    mesh.edit("reviews.yaml", "127.0.1.13", "127.0.1.14");
    browser
        .shows(".log", &["a new snapshot was published", "EDS sent to", "acknowledged EDS"])
        .await;
    // Each was drawn as a mark that travels.
    for mark in ["change", "push", "ack"] {
        let seen = format!(".picture[data-{mark}]");
        assert_eq!(browser.count(&seen).await, 1, "{mark}");
    }
    let travelling = ".travel .mark.push";
    eventually(SHOWN, "the push on its way", async || same(browser.count(travelling).await, 2))
        .await;
    browser.screenshot("picture", true).await;
    browser.has_no(".travel .mark").await;

    // Who wants no motion sees the same on the lines.
    browser.prefer("prefers-reduced-motion", "reduce").await;
    mesh.edit("reviews.yaml", "127.0.1.14", "127.0.1.15");
    browser.shows(".log li:nth-child(n + 7)", &["a new snapshot was published"]).await;
    assert_eq!(browser.count(".travel .mark").await, 0);

    // And in the list of changes, with who has it.
    browser.show("#/changes?search=reviews-1").await;
    let first = ".rows .row[aria-rowindex='2']";
    let change = ["EndpointSlice", "default/reviews-1", "applied", "✓ all 2"];
    browser.shows(first, &change).await;
    browser.screenshot("changes", false).await;
    let search = browser.client.find(Locator::Css(".filter input")).await.unwrap();
    search.send_keys("nothing-of-this-name").await.unwrap();
    browser.shows(".list", &["No change fits this search."]).await;

    browser.show("#/services/default/reviews").await;
    browser
        .shows(
            "main",
            &[
                "127.0.1.15",
                "3 sent, 0 left out",
                "outbound|9080||reviews.default.svc.cluster.local",
            ],
        )
        .await;
    mesh.edit("reviews.yaml", "ready: true", "ready: false");
    browser.shows("main", &["0 sent, 3 left out", "it is not ready"]).await;
    browser.screenshot("service", true).await;
    browser.show("#/services").await;
    browser.shows(".rows", &["reviews", "ratings", "productpage", "details"]).await;
    browser.show("#/sources").await;
    browser.shows("main", &["✓ watching", "4", "None."]).await;
    browser.close().await;
}

/// Nothing is wider than the window; what is narrow is not left out; the keyboard reaches every row.
#[tokio::test]
async fn it_is_readable_at_every_width_and_by_keyboard() {
    let mesh = Mesh::start().await;
    let _standalone = Envoy::start(Sample::Standalone, Wire::Sotw, mesh.grpc).await;
    let _sidecar = bound(&mesh).await;
    let browser = Browser::open(&mesh.url()).await;
    browser.shows(".count", &["2 proxies"]).await;
    let key = browser.run("return document.querySelector('.rows .row').dataset.key", vec![]).await;
    let proxy = format!("#/proxies/{}", key.as_str().unwrap());
    for (width, height) in [(360, 760), (1920, 1080)] {
        browser.resize(width, height).await;
        for scheme in ["light", "dark"] {
            browser.prefer("prefers-color-scheme", scheme).await;
            for (name, hash, shown) in [
                ("proxies", "#/proxies", "SYNCED"),
                ("proxy", &*proxy, "BlackHoleCluster"),
                ("services", "#/services", "reviews"),
                ("service", "#/services/default/reviews", "127.0.1.11"),
                ("changes", "#/changes", ""),
                ("sources", "#/sources", "watching"),
                ("picture", "#/picture", "Control plane"),
            ] {
                browser.show(hash).await;
                browser.shows("main", &["", shown]).await;
                browser.fits().await;
                browser.screenshot(&format!("{name}-{width}-{scheme}"), false).await;
            }
        }
    }
    // From the search field by Tab to the rows, from row to row by arrow, into the proxy's page by Enter.
    browser.show("#/proxies").await;
    browser.shows(".count", &["2 proxies"]).await;
    browser.run("document.querySelector('.filter input').focus()", vec![]).await;
    let focused =
        "return document.activeElement.closest('.row')?.getAttribute('aria-rowindex') ?? ''";
    let press = async |key: &str| {
        browser.client.active_element().await.unwrap().send_keys(key).await.unwrap();
        browser.run(focused, vec![]).await.as_str().unwrap().to_owned()
    };
    let mut at = String::new();
    for _ in 0..8 {
        if at.is_empty() {
            at = press("\u{e004}").await;
        }
    }
    assert_eq!(at, "2", "the first row, after the head");
    assert_eq!(press("\u{e015}").await, "3");
    assert_eq!(press("\u{e013}").await, "2");
    press("\u{e007}").await;
    browser.shows("h1", &["SYNCED"]).await;
    let skip = "document.querySelector('#skip').focus(); document.activeElement.click(); return document.activeElement.id";
    assert_eq!(browser.run(skip, vec![]).await, "main");
    browser.close().await;
}
