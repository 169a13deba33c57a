//! Proxies that ask for everything and proxies on demand, side by side.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::{answers, cluster_ip, put, put_in};
use crate::captured::captured;
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::{Discovery, Envoy, Sample, Wire};
use pilothouse_testkit::lab::Lab;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::{DEADLINE, eventually, namespace, same};

/// Names of the clusters of services.
async fn clusters(envoy: &Envoy) -> Result<BTreeSet<String>, String> {
    Ok(envoy.clusters().await?.into_keys().collect())
}

#[tokio::test]
async fn each_has_what_it_asks_for_and_changes_reach_both() {
    let test = "on_demand::mixed::each_has_what_it_asks_for_and_changes_reach_both";
    if !namespace::entered(test) {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let [one, two] = [Backend::http("w-one").await, Backend::http("w-two").await];
    let used = put(&lab, "used", "http", cluster_ip(80), &[&one]);
    let other = put(&lab, "other", "http", cluster_ip(80), &[&one]);
    answers(client, used, "w-one").await;
    let Lab { envoy: sparing, control, manifests } = lab;
    let canonical = |name: &str| format!("outbound|80||{name}.default.svc.cluster.local");
    let both: BTreeSet<String> = [canonical("other"), canonical("used")].into();
    let by_address = |at: SocketAddr| format!("outbound|80||{}", at.ip());

    for wire in [Wire::Sotw, Wire::Delta] {
        let envoy = Envoy::start(Sample::Standalone, wire, control.grpc).await;
        let load = Load::start_from(Some(client), used, "used", &[200]);
        let beside = Load::start(envoy.listener, "used", &[200]);
        // What is there for proxies on demand is not seen by a wildcard.
        assert_eq!(clusters(&envoy).await, Ok(both.clone()), "{wire:?}");
        assert_eq!(clusters(&sparing).await, Ok([by_address(used)].into()), "{wire:?}");
        for workload in [&two, &one] {
            let to = [workload];
            put_in(&manifests, "used", "http", used, &to);
            put_in(&manifests, "other", "http", other, &to);
            answers(client, used, &workload.name).await;
            eventually(DEADLINE, "the wildcard to follow", async || {
                let answer = envoy.fetch("other").await?;
                same(answer.body.split(' ').next(), Some(&*workload.name))
            })
            .await;
        }
        load.goes_on(20).await;
        beside.goes_on(20).await;
        load.assert_flawless();
        beside.assert_flawless();
        assert_eq!(clusters(&sparing).await, Ok([by_address(used)].into()), "{wire:?}");
        envoy.assert_untroubled().await;
    }
    answers(client, other, "w-one").await;
    let wanted = [by_address(used), by_address(other)].into();
    assert_eq!(clusters(&sparing).await, Ok(wanted));
    sparing.assert_untroubled().await;
}
