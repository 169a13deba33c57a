//! `pilothouse dashboard` in a real Chromium: the page of two replicas, each with an Envoy, of which one is killed.

use std::process::Stdio;

use rustix::process::Signal;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::browser::Browser;
use crate::mesh::Mesh;
use pilothouse_testkit::control_plane::pilothouse;
use pilothouse_testkit::envoy::{Envoy, Sample, Wire};

#[tokio::test]
async fn the_page_of_all_replicas_names_the_one_that_is_gone() {
    let (one, mut other) = tokio::join!(Mesh::start(), Mesh::start());
    let _standalone = Envoy::start(Sample::Standalone, Wire::Sotw, one.grpc).await;
    let _bound = Envoy::start(Sample::Bound, Wire::Delta, other.grpc).await;
    let replicas = [one.http, other.http].map(|address| address.to_string());

    let mut command = Command::from(pilothouse(&["dashboard", "--no-browser"]));
    command.args(replicas.iter().map(|address| format!("--address={address}")));
    let mut dashboard = command.stdout(Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut lines = BufReader::new(dashboard.stdout.take().unwrap()).lines();
    let url = lines.next_line().await.unwrap().expect("it prints its address");

    let browser = Browser::open(&url).await;
    browser.shows("#connection", &["live"]).await;
    browser.shows(".count", &["2 proxies"]).await;
    browser
        .shows(".rows .row", &["SYNCED", "standalone", "sidecar", &replicas[0], &replicas[1]])
        .await;
    browser.has_no(".alarm").await;

    other.control.stop(Signal::KILL).await;
    browser.shows(".alarm", &["no answer from", &replicas[1]]).await;
    browser.shows(".count", &["1 proxy"]).await;
    browser.shows(".rows .row", &["standalone", &replicas[0]]).await;

    other.start_again().await;
    browser.has_no(".alarm").await;
    browser.close().await;
}
