//! Lists: streamed where the server can, in pages where it cannot or the stream fails; each takes
//! effect as a whole.

use crate::api::{Api, Cut, SERVICES, SLICES, Streaming};
use crate::pilot::Pilot;
use crate::watches::served;

/// A service that was served from a streamed list, and another state of the mesh that is told by the
/// next list alone.
async fn listed_anew(streaming: Streaming) -> (Api, Pilot) {
    let (api, pilot, proxy) = served().await;
    pilot.lists("streamed").await;
    api.streams(streaming);
    api.cut(Cut::Gone, |now| {
        now.delete_service("b");
        now.slice("a", &["10.0.0.9"]);
        now.service("d", &["10.0.0.4"]);
    })
    .await;
    pilot.serves(&["10.0.0.9", "10.0.0.3", "10.0.0.4"]).await;
    proxy.learns("d").await;
    proxy.lost_only(&["b"]).await;
    pilot.ready().await.unwrap();
    // And it is watched from then on.
    api.change(|now| now.slice("a", &["10.0.0.8"]));
    pilot.serves(&["10.0.0.8", "10.0.0.3", "10.0.0.4"]).await;
    proxy.lost_only(&["b"]).await;
    (api, pilot)
}

/// Another list, now that streams are whole again.
async fn relisted(api: &Api, pilot: &Pilot) {
    api.streams(Streaming::Whole);
    let lists = [SERVICES, SLICES].map(|kind| (kind, api.lists(kind)));
    api.cut(Cut::Gone, |now| now.slice("a", &["10.0.0.7"])).await;
    for (kind, lists) in lists {
        api.lists_more_than(kind, lists).await;
    }
    pilot.serves(&["10.0.0.7", "10.0.0.3", "10.0.0.4"]).await;
}

#[tokio::test]
async fn a_server_that_streams_lists_is_asked_for_no_page() {
    let (api, pilot) = listed_anew(Streaming::Whole).await;
    pilot.lists("streamed").await;
    for kind in [SERVICES, SLICES] {
        assert_eq!(api.lists(kind), api.lists(&format!("{kind} streamed")), "{kind}");
    }
}

/// After a stream that failed in itself the list is made in pages, and the next one is streamed.
async fn falls_back_once(streaming: Streaming, said: &str) {
    let (api, pilot) = listed_anew(streaming).await;
    pilot.lists("in pages").await;
    pilot.logs(said).await;
    relisted(&api, &pilot).await;
    pilot.lists("streamed").await;
}

#[tokio::test]
async fn a_stream_that_hangs_is_replaced_by_pages() {
    falls_back_once(Streaming::HalfThenHang, "the connection is dead").await;
}

#[tokio::test]
async fn a_stream_that_breaks_is_replaced_by_pages() {
    falls_back_once(Streaming::HalfThenBreak, "the connection").await;
}

#[tokio::test]
async fn a_stream_without_an_end_is_replaced_by_pages() {
    falls_back_once(Streaming::Endless, "the connection is dead").await;
}

/// A server that cannot do it is not asked again.
async fn falls_back_for_good(streaming: Streaming) {
    let (api, pilot) = listed_anew(streaming).await;
    pilot.lists("in pages").await;
    pilot.logs("does not stream lists").await;
    let asked = [SERVICES, SLICES].map(|kind| api.lists(&format!("{kind} streamed")));
    relisted(&api, &pilot).await;
    pilot.lists("in pages").await;
    let still = [SERVICES, SLICES].map(|kind| api.lists(&format!("{kind} streamed")));
    assert_eq!(still, asked);
}

#[tokio::test]
async fn a_server_that_refuses_streams_is_asked_for_pages() {
    falls_back_for_good(Streaming::Unknown).await;
}

#[tokio::test]
async fn a_server_that_never_marks_the_end_is_asked_for_pages() {
    falls_back_for_good(Streaming::Unmarked).await;
}

#[tokio::test]
async fn a_server_that_ends_the_stream_early_is_asked_for_pages() {
    falls_back_for_good(Streaming::HalfThenEnd).await;
}

#[tokio::test]
async fn a_list_that_is_forgotten_between_its_pages_is_begun_anew() {
    let (api, pilot, proxy) = served().await;
    api.streams(Streaming::Unknown);
    api.change(|now| (0..600).for_each(|n| now.service(&format!("more-{n}"), &["10.0.1.1"])));
    pilot.serves(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1"]).await;
    api.cut(Cut::Gone, |now| {
        // Not sooner: a list that is under way would never end, and no watch be open to be cut.
        api.hold_pages(true);
        now.slice("a", &["10.0.0.9"]);
        now.delete_service("b");
    })
    .await;
    for kind in ["services+", "endpointslices+"] {
        api.lists_more_than(kind, 0).await;
    }
    let lists = api.lists(SERVICES);
    api.forget_lists();
    api.hold_pages(false);
    pilot.serves(&["10.0.0.9", "10.0.0.3", "10.0.1.1"]).await;
    proxy.lost_only(&["b"]).await;
    api.lists_more_than(SERVICES, lists).await;
}

// The stand-in must not wait while the test reads pages of 10,000 services.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_many_pages_that_comes_slowly_takes_effect_at_its_end() {
    let (api, pilot, proxy) = served().await;
    api.streams(Streaming::Unknown);
    api.change(|now| (0..10_000).for_each(|n| now.service(&format!("more-{n}"), &["10.0.1.1"])));
    pilot.serves(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1"]).await;

    // `a` is on the first page and `z` on the last.
    api.cut(Cut::Gone, |now| {
        // Not sooner: a list that is under way would never end, and no watch be open to be cut.
        api.hold_pages(true);
        now.slice("a", &["10.0.0.9"]);
        now.delete_service("b");
        now.service("z", &["10.0.0.4"]);
    })
    .await;
    for kind in ["services+", "endpointslices+"] {
        api.lists_more_than(kind, 0).await;
    }
    pilot.serves(&["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.1.1"]).await;
    proxy.lost_only(&[]).await;
    pilot.ready().await.unwrap();

    api.hold_pages(false);
    pilot.serves(&["10.0.0.9", "10.0.0.3", "10.0.0.4", "10.0.1.1"]).await;
    proxy.lost_only(&["b"]).await;
}
