//! A page that loses its server says so, and recovers by itself.

use rustix::process::Signal;

use crate::browser::Browser;
use crate::mesh::Mesh;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};

#[tokio::test]
async fn a_lost_server_is_said_and_found_again() {
    let mut mesh = Mesh::start().await;
    let _envoy = Envoy::start(Sample::Standalone, Wire::Sotw, mesh.grpc).await;
    let browser = Browser::open(&mesh.url()).await;
    browser.shows("#connection", &["live"]).await;
    browser.shows(".rows", &["SYNCED"]).await;

    // It ends at once although the page listens.
    mesh.control.stop(Signal::TERM).await;
    browser.shows("#connection.lost", &["no answer from the server", "trying again"]).await;
    // What was seen last is still there, and not taken for what is.
    browser.shows("body.lost .rows", &["SYNCED"]).await;
    browser.screenshot("lost", true).await;

    mesh.start_again().await;
    browser.shows("#connection", &["live"]).await;
    browser.has_no("body.lost").await;
    browser.shows(".rows", &["SYNCED"]).await;

    // The same when it hangs: nothing is refused then, and nothing comes.
    mesh.control.process.signal(Signal::STOP);
    let silent = std::time::Duration::from_secs(30);
    pilothouse_testkit::eventually(silent, "the silence to be said", async || {
        pilothouse_testkit::same(browser.count("#connection.lost").await, 1)
    })
    .await;
    mesh.control.process.signal(Signal::CONT);
    browser.shows("#connection", &["live"]).await;
    browser.close().await;
}
