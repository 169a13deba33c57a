//! One test for each fault: noticed, told, the differences applied and nothing else lost, and well
//! again by itself.

use serde_json::json;

use crate::api::{Api, Cut, SERVICES, SLICES};
use crate::pilot::{Pilot, eventually};
use crate::proxy::Proxy;

/// Services `a`, `b` and `c`, served to a proxy.
async fn served() -> (Api, Pilot, Proxy) {
    let api = Api::start().await;
    api.change(|now| {
        now.service("a", &["10.0.0.1"]);
        now.service("b", &["10.0.0.2"]);
        now.service("c", &["10.0.0.3"]);
    });
    let pilot = Pilot::start(&api);
    eventually("ready", async || pilot.ready().await).await;
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
    let (_api, pilot) = survives(Cut::Hang).await;
    let metrics = pilot.metrics().await.unwrap();
    assert!(metrics.contains("pilothouse_watch_age_seconds{watch=\"services\"}"), "{metrics}");
}

#[tokio::test]
async fn a_forgotten_version_is_listed_anew_when_told_in_mid_watch() {
    let (api, _pilot) = survives(Cut::Gone).await;
    assert!(api.lists(SERVICES) > 1 && api.lists(SLICES) > 1);
}

#[tokio::test]
async fn a_forgotten_version_is_listed_anew_when_the_next_watch_is_refused() {
    let (api, _pilot) = survives(Cut::Forget).await;
    assert!(api.lists(SERVICES) > 1 && api.lists(SLICES) > 1);
}

#[tokio::test]
async fn half_an_event_before_a_broken_connection_is_asked_for_again() {
    survives(Cut::HalfThenBreak).await;
}

#[tokio::test]
async fn half_an_event_before_a_clean_end_is_asked_for_again() {
    survives(Cut::HalfThenEnd).await;
}

#[tokio::test]
async fn an_event_that_is_no_json_leads_to_a_new_list() {
    let (api, _pilot) = survives(Cut::Garbage).await;
    assert!(api.lists(SERVICES) > 1 && api.lists(SLICES) > 1);
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
    let late = Pilot::start(&api);
    eventually("ready", async || late.ready().await).await;
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
    let pilot = Pilot::start(&api);
    pilot.complains("API server", "").await;
    assert!(pilot.ready().await.unwrap_err().starts_with("503"));
    api.be_well();
    eventually("ready", async || pilot.ready().await).await;
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

#[tokio::test]
async fn a_list_of_many_pages_that_comes_slowly_takes_effect_at_its_end() {
    let (api, pilot, proxy) = served().await;
    api.change(|now| (0..1_200).for_each(|n| now.service(&format!("more-{n}"), &["10.0.1.1"])));
    pilot.serves(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1"]).await;

    api.hold_pages(true);
    // `a` is on the first page and `z` on the last.
    api.cut(Cut::Gone, |now| {
        now.slice("a", &["10.0.0.9"]);
        now.delete_service("b");
        now.service("z", &["10.0.0.4"]);
    })
    .await;
    for kind in ["services+", "endpointslices+"] {
        eventually(&format!("a page of {kind}"), async || {
            if api.lists(kind) > 0 { Ok(()) } else { Err("none yet".to_owned()) }
        })
        .await;
    }
    pilot.serves(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1"]).await;
    proxy.lost_only(&[]).await;
    pilot.ready().await.unwrap();

    api.hold_pages(false);
    pilot.serves(&["10.0.0.9", "10.0.0.3", "10.0.0.4", "10.0.1.1"]).await;
    proxy.lost_only(&["b"]).await;
}
