//! A page that loses its server says so, and recovers by itself.

use rustix::process::Signal;

use crate::browser::Browser;
use crate::mesh::Mesh;
use pilothouse_testkit::LONG_DEADLINE;
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
    // Envoy backs off for up to half a minute before it connects again.
    browser.comes_to_show(LONG_DEADLINE, ".rows", &["SYNCED"]).await;

    // The same when it hangs: nothing is refused then, and nothing comes. The page waits for two words that
    // the server sends every five seconds.
    mesh.control.process.signal(Signal::STOP);
    browser.comes_to_show(LONG_DEADLINE, "#connection.lost", &["no answer from the server"]).await;
    mesh.control.process.signal(Signal::CONT);
    browser.shows("#connection", &["live"]).await;
    browser.close().await;
}
