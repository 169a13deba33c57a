//! The control plane is away: what a proxy uses goes on. What it does not know yet is refused within the timeout,
//! and works when the control plane is back, without a restart of anything.

use std::time::Duration;

use rustix::process::Signal;

use super::{answers, cluster_ip, heard, put, says};
use crate::captured::{asked, captured_with};
use crate::outage::connection;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Discovery, Envoy};
use pilothouse_testkit::load::Load;
use pilothouse_testkit::namespace;

const TIMEOUT: &str = "500ms";

/// A busy machine's for that; below the timeout's default, so that it shows that the flag counts.
const SOON: Duration = Duration::from_millis(4500);

/// How many requests Envoy has refused because there was no cluster (response flag NC).
async fn without_cluster(envoy: &Envoy) -> u64 {
    envoy.stats("no_cluster$").await.expect("its stats").values().sum()
}

#[tokio::test]
async fn what_is_used_goes_on_and_what_is_unknown_is_refused_in_time() {
    let test = "what_is_used_goes_on_and_what_is_unknown_is_refused_in_time";
    if !namespace::entered(&format!("on_demand::outage::{test}")) {
        return;
    }
    let flags = ["--on-demand-timeout", TIMEOUT];
    let (mut lab, client) = captured_with(&flags, Discovery::OnDemand).await;
    let (web, data) = (Backend::http("w-web").await, Backend::tcp("w-data").await);
    let used = put(&lab, "used", "http", cluster_ip(80), &[&web]);
    let late = put(&lab, "late", "http", cluster_ip(80), &[&web]);
    let stored = put(&lab, "stored", "tcp", cluster_ip(5432), &[&data]);
    let late_stored = put(&lab, "late-stored", "tcp", cluster_ip(5432), &[&data]);
    answers(client, used, "w-web").await;
    says(client, stored, "w-data").await;
    // The listener of the other one is there as well.
    lab.is_synced(&["cds", "eds", "lds", "rds"]).await;
    lab.agrees().await;
    let load = Load::start_from(Some(client), used, "used", &[200]);
    load.goes_on(20).await;

    for signal in [Signal::TERM, Signal::KILL] {
        lab.control.stop(signal).await;
        connection(&lab, 0).await;
        if signal == Signal::TERM {
            let before = without_cluster(&lab.envoy).await;
            let asked = tokio::time::timeout(SOON, asked(client, late, "late", "HTTP/1.1")).await;
            let answer = asked.expect("within --on-demand-timeout").unwrap_err();
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            assert_eq!(without_cluster(&lab.envoy).await, before + 1);
            let heard = tokio::time::timeout(SOON, heard(client, late_stored)).await;
            assert_eq!(heard.expect("within --on-demand-timeout").unwrap_or_default(), "");
        }
        says(client, stored, "w-data").await;
        load.goes_on(100).await;
        lab.control.start_again().await;
        connection(&lab, 1).await;
        answers(client, late, "w-web").await;
        says(client, late_stored, "w-data").await;
        load.goes_on(20).await;
    }
    load.assert_flawless();
    lab.agrees().await;
    lab.assert_untroubled().await;
}
