//! Services that go and come again, and lose all endpoints, beside one under load.

use super::{answers, cluster_ip, heard, put, says};
use crate::captured::{asked, captured};
use pilothouse_testkit::backends::Backend;
use pilothouse_testkit::envoy::Discovery;
use pilothouse_testkit::load::Load;
use pilothouse_testkit::{VISIBLE, eventually, namespace, same};

const ROUNDS: usize = 5;

#[tokio::test]
async fn services_that_come_and_go_cost_no_other_a_request() {
    let test = "on_demand::churned::services_that_come_and_go_cost_no_other_a_request";
    if !namespace::entered(test) {
        return;
    }
    let (lab, client) = captured(Discovery::OnDemand).await;
    let [one, two] = [Backend::http("w-one").await, Backend::http("w-two").await];
    let data = Backend::tcp("w-data").await;
    let steady = put(&lab, "steady", "http", cluster_ip(80), &[&one, &two]);
    let passing = put(&lab, "passing", "http", cluster_ip(80), &[&one]);
    let empty = put(&lab, "empty", "http", cluster_ip(80), &[&one]);
    let stored = put(&lab, "stored", "tcp", cluster_ip(5432), &[&data]);
    for at in [passing, empty] {
        answers(client, at, "w-one").await;
    }
    says(client, stored, "w-data").await;
    asked(client, steady, "steady", "HTTP/1.1").await.unwrap();
    let load = Load::start_from(Some(client), steady, "steady", &[200]);
    // Answered or refused, and never left without an answer.
    let beside = Load::start_from(Some(client), passing, "passing", &[200, 503]);

    for round in 0..ROUNDS {
        std::fs::remove_file(lab.manifests.path().join("passing.json")).unwrap();
        put(&lab, "empty", "http", empty, &[]);
        put(&lab, "stored", "tcp", stored, &[]);
        for at in [passing, empty] {
            eventually(VISIBLE, &format!("nobody at {at}"), async || {
                let answer = asked(client, at, "any.host", "HTTP/1.1").await;
                let refused = answer.as_ref().is_err_and(|text| text.starts_with("HTTP/1.1 503 "));
                same(refused, true).map_err(|_| format!("{answer:?}"))
            })
            .await;
        }
        eventually(VISIBLE, "nobody over TCP", async || {
            same(heard(client, stored).await.unwrap_or_default().as_str(), "")
        })
        .await;
        // Endpoints of what lives move meanwhile, one of them at a time.
        let workload = if round % 2 == 0 { &two } else { &one };
        put(&lab, "steady", "http", steady, &[workload]);
        put(&lab, "passing", "http", passing, &[workload]);
        put(&lab, "empty", "http", empty, &[workload]);
        put(&lab, "stored", "tcp", stored, &[&data]);
        for at in [passing, empty] {
            answers(client, at, &workload.name).await;
        }
        says(client, stored, "w-data").await;
        load.goes_on(20).await;
        beside.goes_on(5).await;
    }
    load.assert_flawless();
    beside.assert_flawless();
    lab.agrees().await;
    lab.assert_untroubled().await;
}
