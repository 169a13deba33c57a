//! One test for each fault: noticed, told, the differences applied and nothing else lost, and well
//! again by itself.

use std::time::Duration;

use serde_json::json;

use crate::api::{Api, Cut, SERVICES, SLICES};
use crate::line::Line;
use crate::pilot::Pilot;
use crate::proxy::Proxy;
use pilothouse_testkit::until;

/// Services `a`, `b` and `c`, served to a proxy.
pub(crate) async fn served() -> (Api, Pilot, Proxy) {
    let api = Api::start().await;
    api.change(|now| {
        now.service("a", &["10.0.0.1"]);
        now.service("b", &["10.0.0.2"]);
        now.service("c", &["10.0.0.3"]);
    });
    let pilot = Pilot::start(&api).await;
    until("ready", async || pilot.ready().await).await;
    let proxy = Proxy::start(&pilot, &["a", "b", "c"]).await;
    (api, pilot, proxy)
}

/// The changes are made while the watches are cut; only what was deleted is lost.
async fn survives(cut: Cut) -> (Api, Pilot) {
    let (api, pilot, proxy) = served().await;
    api.cut(cut, |now| {
        now.delete_service("b");
        now.slice("a", &["10.0.0.9"]);
        now.service("d", &["10.0.0.4"]);
    })
    .await;
    pilot.serves(&["10.0.0.9", "10.0.0.3", "10.0.0.4"]).await;
    proxy.learns("d").await;
    proxy.lost_only(&["b"]).await;
    pilot.ready().await.unwrap();
    (api, pilot)
}

#[tokio::test]
async fn a_watch_that_hangs_silently_is_noticed() {
    let (api, pilot) = survives(Cut::Hang).await;
    // Resuming would do for these changes, but not if the server were another one by now.
    api.lists_more_than(SERVICES, 1).await;
    api.lists_more_than(SLICES, 1).await;
    pilot.logs("the connection is dead").await;
}

#[tokio::test]
async fn while_a_watch_hangs_its_age_grows_and_is_shown() {
    let (api, pilot, proxy) = served().await;
    api.cut(Cut::Hang, |_| {}).await;
    // More than the second after which a healthy watch is heard from at the latest.
    for watch in [SERVICES, SLICES] {
        until(&format!("the age of {watch}"), async || {
            let ages = pilot.age(watch).await?;
            if ages.iter().all(|&age| age > 2.5) { Ok(()) } else { Err(format!("{ages:?}")) }
        })
        .await;
    }
    pilot.ready().await.unwrap();
    for watch in [SERVICES, SLICES] {
        until(&format!("{watch} to be young again"), async || {
            let ages = pilot.age(watch).await?;
            if ages.iter().all(|&age| age < 1.5) { Ok(()) } else { Err(format!("{ages:?}")) }
        })
        .await;
    }
    proxy.lost_only(&[]).await;
}

/// The server is another one when it is heard of again: its versions are smaller than those that
/// the watches know, so whoever resumes hears nothing any more.
async fn is_believed_anew(cut: Cut) {
    let (api, pilot, proxy) = served().await;
    api.cut(cut, |now| {
        now.restore();
        now.service("a", &["10.0.0.9"]);
        now.service("d", &["10.0.0.4"]);
    })
    .await;
    pilot.serves(&["10.0.0.9", "10.0.0.4"]).await;
    proxy.learns("d").await;
    proxy.lost_only(&["b", "c"]).await;
    pilot.ready().await.unwrap();
    // And it is heard from then on.
    api.change(|now| now.slice("a", &["10.0.0.8"]));
    pilot.serves(&["10.0.0.8", "10.0.0.4"]).await;
}

#[tokio::test]
async fn a_backup_restored_while_the_watches_hang() {
    is_believed_anew(Cut::Hang).await;
}

#[tokio::test]
async fn a_backup_restored_when_the_connections_break() {
    is_believed_anew(Cut::HalfThenBreak).await;
}

#[tokio::test]
async fn a_backup_restored_while_the_server_is_down() {
    let (api, pilot, proxy) = served().await;
    api.go_down();
    for watch in [SERVICES, SLICES] {
        pilot.complains(watch, "").await;
    }
    api.change(|now| {
        now.restore();
        now.service("a", &["10.0.0.9"]);
    });
    pilot.ready().await.unwrap();
    proxy.lost_only(&[]).await;
    api.be_well();
    pilot.serves(&["10.0.0.9"]).await;
    proxy.lost_only(&["b", "c"]).await;
}

#[tokio::test]
async fn a_connection_that_is_reset_in_mid_watch_is_told_and_listed_anew() {
    let api = Api::start().await;
    api.change(|now| now.service("a", &["10.0.0.1"]));
    let line = Line::to(api.address).await;
    let pilot = Pilot::start_at(line.address).await;
    pilot.serves(&["10.0.0.1"]).await;
    api.is_watched().await;
    let lists = [SERVICES, SLICES].map(|kind| (kind, api.lists(kind)));
    // What the reset takes along is told by the list.
    line.stall();
    api.change(|now| now.slice("a", &["10.0.0.9"]));
    line.reset();
    pilot.serves(&["10.0.0.9"]).await;
    pilot.logs("the connection broke").await;
    for (kind, lists) in lists {
        api.lists_more_than(kind, lists).await;
    }
}

#[tokio::test]
async fn a_server_that_asks_for_time_is_given_it() {
    let (api, pilot, proxy) = served().await;
    api.refuse_for(SLICES, 429, 3);
    until("three refusals", async || {
        if api.refusals().len() >= 3 { Ok(()) } else { Err(format!("{:?}", api.refusals())) }
    })
    .await;
    for pair in api.refusals().windows(2) {
        assert!(
            pair[1] - pair[0] >= Duration::from_secs(3),
            "{:?} {}",
            api.refusals(),
            pilot.log()
        );
    }
    api.change(|now| now.slice("a", &["10.0.0.9"]));
    api.be_well();
    pilot.serves(&["10.0.0.9", "10.0.0.2", "10.0.0.3"]).await;
    proxy.lost_only(&[]).await;
}

#[tokio::test]
async fn a_forgotten_version_is_listed_anew_when_told_in_mid_watch() {
    let (api, _pilot) = survives(Cut::Gone).await;
    api.lists_more_than(SERVICES, 1).await;
    api.lists_more_than(SLICES, 1).await;
}

#[tokio::test]
async fn a_forgotten_version_is_listed_anew_when_the_next_watch_is_refused() {
    let (api, _pilot) = survives(Cut::Forget).await;
    api.lists_more_than(SERVICES, 1).await;
    api.lists_more_than(SLICES, 1).await;
}

#[tokio::test]
async fn half_an_event_before_a_broken_connection_is_asked_for_again() {
    let (api, _pilot) = survives(Cut::HalfThenBreak).await;
    api.lists_more_than(SERVICES, 1).await;
    api.lists_more_than(SLICES, 1).await;
}

#[tokio::test]
async fn half_an_event_before_a_clean_end_is_asked_for_again() {
    let (api, pilot) = survives(Cut::HalfThenEnd).await;
    api.lists_more_than(SERVICES, 1).await;
    api.lists_more_than(SLICES, 1).await;
    pilot.logs("in the middle of an event").await;
}

#[tokio::test]
async fn an_event_without_the_end_of_its_line_is_asked_for_again() {
    let (api, pilot) = survives(Cut::NoNewline).await;
    api.lists_more_than(SERVICES, 1).await;
    api.lists_more_than(SLICES, 1).await;
    pilot.logs("in the middle of an event").await;
}

#[tokio::test]
async fn an_event_that_is_no_json_leads_to_a_new_list() {
    let (api, _pilot) = survives(Cut::Garbage).await;
    api.lists_more_than(SERVICES, 1).await;
    api.lists_more_than(SLICES, 1).await;
}

#[tokio::test]
async fn storms_of_errors_are_told_and_pass() {
    let (api, pilot, proxy) = served().await;
    for (status, address) in [(503, "10.0.0.8"), (429, "10.0.0.9")] {
        api.refuse(None, status);
        for watch in [SERVICES, SLICES] {
            pilot.complains(watch, &format!("the stand-in says {status}")).await;
        }
        api.change(|now| now.slice("a", &[address]));
        pilot.ready().await.unwrap();
        api.be_well();
        pilot.serves(&[address, "10.0.0.2", "10.0.0.3"]).await;
    }
    proxy.lost_only(&[]).await;
}

#[tokio::test]
async fn rights_taken_away_for_one_kind_hold_up_that_kind_alone() {
    let (api, pilot, proxy) = served().await;
    api.refuse(Some(SLICES), 403);
    pilot.complains(SLICES, "list and watch on endpointslices.discovery.k8s.io").await;
    api.change(|now| {
        now.slice("a", &["10.0.0.9"]);
        now.delete(SERVICES, "b");
    });
    proxy.lost_only(&["b"]).await;
    pilot.ready().await.unwrap();
    api.be_well();
    // The slice of `b` is still there.
    pilot.serves(&["10.0.0.9", "10.0.0.2", "10.0.0.3"]).await;
}

#[tokio::test]
async fn an_object_that_cannot_be_read_affects_itself_alone() {
    let (api, pilot, proxy) = served().await;
    api.change(|now| {
        now.put(
            SLICES,
            json!({ "metadata": { "name": "b-1", "namespace": "default",
                    "labels": { "kubernetes.io/service-name": "b" } },
                "addressType": "IPv4", "endpoints": [{ "addresses": [2] }] }),
        );
        now.slice("a", &["10.0.0.9"]);
    });
    pilot.serves(&["10.0.0.9", "10.0.0.3"]).await;
    proxy.lost_only(&["b"]).await;
    let page = pilot.sourcez().await.unwrap();
    let reason = page["rejected"]["EndpointSlice default/b-1"].as_str().unwrap_or_default();
    assert!(reason.contains("endpoints[0].addresses[0]"), "{page}");

    // In a list it is no different.
    let late = Pilot::start(&api).await;
    until("ready", async || late.ready().await).await;
    late.serves(&["10.0.0.9", "10.0.0.3"]).await;

    api.change(|now| now.slice("b", &["10.0.0.2"]));
    for pilot in [pilot, late] {
        pilot.serves(&["10.0.0.9", "10.0.0.2", "10.0.0.3"]).await;
        let page = pilot.sourcez().await.unwrap();
        assert_eq!(page["rejected"], json!({}), "{page}");
    }
}

#[tokio::test]
async fn a_server_that_is_down_at_the_start_is_waited_for() {
    let api = Api::start().await;
    api.change(|now| now.service("a", &["10.0.0.1"]));
    api.go_down();
    let pilot = Pilot::start(&api).await;
    pilot.complains("API server", "").await;
    assert!(pilot.ready().await.unwrap_err().starts_with("503"));
    api.be_well();
    until("ready", async || pilot.ready().await).await;
    pilot.serves(&["10.0.0.1"]).await;
}

#[tokio::test]
async fn a_server_that_goes_down_and_comes_back_takes_nothing_along() {
    let (api, pilot, proxy) = served().await;
    api.go_down();
    for watch in [SERVICES, SLICES] {
        pilot.complains(watch, "").await;
    }
    api.change(|now| {
        now.delete_service("b");
        now.slice("a", &["10.0.0.9"]);
    });
    pilot.ready().await.unwrap();
    proxy.lost_only(&[]).await;
    api.be_well();
    pilot.serves(&["10.0.0.9", "10.0.0.3"]).await;
    proxy.lost_only(&["b"]).await;
}
