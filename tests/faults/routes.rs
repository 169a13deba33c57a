//! Routes: kinds that the API server need not have, nor let us read. What befalls them must not touch anything
//! else, and be over within a minute.

use serde_json::json;

use crate::api::{Api, Cut, GRANTS, HTTP_ROUTES, ROUTE_KINDS, SERVICES};
use crate::pilot::Pilot;
use crate::proxy::Proxy;
use pilothouse_testkit::until;

/// Services `a` and `b`, served, at an API server that `prepare` has made.
async fn served(prepare: impl FnOnce(&Api)) -> (Api, Pilot, Proxy) {
    let api = Api::start().await;
    api.change(|now| {
        now.service("a", &["10.0.0.1"]);
        now.service("b", &["10.0.0.2"]);
    });
    prepare(&api);
    let pilot = Pilot::start(&api).await;
    until("ready", async || pilot.ready().await).await;
    let proxy = Proxy::start(&pilot, &["a", "b"]).await;
    (api, pilot, proxy)
}

fn with_route(api: &Api) {
    api.has_crds("v1", &ROUTE_KINDS);
    api.change(|now| now.route("split", "a", "b"));
}

/// How often the log has these words.
fn told(pilot: &Pilot, words: &str) -> usize {
    pilot.log().lines().filter(|line| line.contains(words)).count()
}

/// No alert may fire for what need not be there.
async fn has_no_series(pilot: &Pilot, watch: &str) {
    let metrics = pilot.metrics().await.unwrap();
    let of_it = format!("{{watch=\"{watch}\"}}");
    assert!(!metrics.lines().any(|line| line.contains(&of_it)), "{metrics}");
}

#[tokio::test]
async fn crds_that_come_later_and_go_again() {
    let (api, pilot, proxy) = served(|_| {}).await;
    for kind in ROUTE_KINDS {
        pilot.misses(kind, "the API server has no").await;
        has_no_series(&pilot, kind).await;
    }
    assert_eq!(told(&pilot, "the API server has no such kinds"), 1, "{}", pilot.log());

    with_route(&api);
    pilot.knows_routes(1).await;
    api.change(|now| now.route("other", "b", "a"));
    pilot.knows_routes(2).await;
    assert_eq!(pilot.age(HTTP_ROUTES).await.map(|ages| ages.len()), Ok(2));

    api.has_crds("v1", &[]);
    pilot.knows_routes(0).await;
    for kind in ROUTE_KINDS {
        pilot.misses(kind, "the API server has no").await;
        has_no_series(&pilot, kind).await;
    }
    assert_eq!(told(&pilot, "the API server has no such kinds"), 2, "{}", pilot.log());
    pilot.ready().await.unwrap();
    proxy.lost_only(&[]).await;
}

#[tokio::test]
async fn a_kind_that_is_missing_is_not_asked_for_in_a_loop() {
    let (api, pilot, _proxy) = served(|_| {}).await;
    let begun = std::time::Instant::now();
    pilot.misses(HTTP_ROUTES, "the API server has no").await;
    until("some looks", async || match api.discoveries() {
        looks if looks >= 6 => Ok(()),
        looks => Err(looks.to_string()),
    })
    .await;
    // Two requests a look, after one second, then two, with jitter.
    assert!(begun.elapsed().as_millis() > 800, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_right_that_is_missing_and_granted_later() {
    let (api, pilot, proxy) = served(|api| {
        with_route(api);
        api.refuse(Some(HTTP_ROUTES), 403);
    })
    .await;
    pilot.misses(HTTP_ROUTES, "must allow get, list and watch on httproutes").await;
    has_no_series(&pilot, HTTP_ROUTES).await;
    assert_eq!(pilot.routes().await, Ok(0));
    until("some tries", async || match api.refusals().len() {
        tries if tries >= 3 => Ok(()),
        tries => Err(tries.to_string()),
    })
    .await;
    assert_eq!(told(&pilot, "which manifests/routes grants"), 1, "{}", pilot.log());
    api.be_well();
    pilot.knows_routes(1).await;

    // What is known stays when the right is taken, and that is a fault.
    api.refuse(Some(HTTP_ROUTES), 403);
    pilot.complains(HTTP_ROUTES, "403").await;
    assert_eq!(pilot.routes().await, Ok(1));
    pilot.ready().await.unwrap();
    api.be_well();
    api.change(|now| now.delete(HTTP_ROUTES, "split"));
    pilot.knows_routes(0).await;
    proxy.lost_only(&[]).await;
}

#[tokio::test]
async fn a_server_that_forgets_its_kinds_for_a_moment_takes_no_route_along() {
    let (api, pilot, proxy) = served(with_route).await;
    pilot.knows_routes(1).await;
    // The API's discovery still has the kind.
    api.refuse(Some(HTTP_ROUTES), 404);
    until("some tries", async || match api.refusals().len() {
        tries if tries >= 2 => Ok(()),
        tries => Err(tries.to_string()),
    })
    .await;
    pilot.complains(HTTP_ROUTES, "404 Not Found for a kind that the API's discovery has").await;
    assert_eq!(pilot.routes().await, Ok(1));
    api.be_well();
    api.change(|now| now.route("other", "b", "a"));
    pilot.knows_routes(2).await;
    proxy.lost_only(&[]).await;
}

#[tokio::test]
async fn routes_survive_what_services_survive() {
    let (api, pilot, proxy) = served(with_route).await;
    pilot.knows_routes(1).await;
    for cut in [Cut::HalfThenBreak, Cut::Gone, Cut::Hang] {
        api.cut(cut, |now| {
            now.delete(HTTP_ROUTES, "split");
            now.route("one", "a", "b");
            now.route("two", "b", "a");
        })
        .await;
        pilot.knows_routes(2).await;
        api.change(|now| {
            now.delete(HTTP_ROUTES, "one");
            now.delete(HTTP_ROUTES, "two");
            now.route("split", "a", "b");
        });
        pilot.knows_routes(1).await;
    }
    api.go_down();
    pilot.complains(HTTP_ROUTES, "").await;
    assert_eq!(pilot.routes().await, Ok(1));
    api.change(|now| now.route("two", "b", "a"));
    api.be_well();
    pilot.knows_routes(2).await;
    proxy.lost_only(&[]).await;
}

#[tokio::test]
async fn a_start_waits_for_routes_while_the_server_fails() {
    let api = Api::start().await;
    with_route(&api);
    api.change(|now| now.service("a", &["10.0.0.1"]));
    api.refuse(Some(HTTP_ROUTES), 503);
    let pilot = Pilot::start(&api).await;
    pilot.complains(HTTP_ROUTES, "503").await;
    let waiting = pilot.ready().await.unwrap_err();
    assert!(waiting.contains("not listed yet: httproutes"), "{waiting}");
    api.be_well();
    until("ready", async || pilot.ready().await).await;
    assert_eq!(pilot.routes().await, Ok(1));
}

#[tokio::test]
async fn grants_of_an_older_crd_are_read_as_well() {
    let (api, pilot, _proxy) = served(|api| {
        api.has_crds("v1beta1", &[GRANTS]);
        api.change(|now| {
            now.put(
                GRANTS,
                json!({ "metadata": { "name": "all", "namespace": "default" }, "spec": {} }),
            );
        });
    })
    .await;
    pilot.misses(HTTP_ROUTES, "the API server has no").await;
    // It says what is wrong with the grant, so it has read it.
    until("the grant", async || {
        let page = pilot.sourcez().await?;
        let noted = page["noted"]["ReferenceGrant default/all"].as_str().unwrap_or_default();
        if noted.contains("spec.from: missing") { Ok(()) } else { Err(page.to_string()) }
    })
    .await;
    api.lists_more_than(SERVICES, 0).await;
}
