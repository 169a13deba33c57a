//! HandlerPool that are larger than a piece, and clients that do not take them.

use std::time::Instant;

use axum::http::StatusCode;
use http_body_util::BodyExt;

use super::super::tests::Fixture;
use super::*;

/// Far more than a client and the chunks that wait for it hold.
fn large(_: &DebugState, _: &Parameters, writer: &mut ResponseWriter) -> Result<(), DebugError> {
    writer.json(&LazyList((0..10_000).collect(), |number: &u32| format!("{number:0>1000}")))
}

fn small(_: &DebugState, _: &Parameters, writer: &mut ResponseWriter) -> Result<(), DebugError> {
    writer.json(&"small")
}

/// What cannot be written, after more than a chunk of it was.
fn broken(_: &DebugState, _: &Parameters, writer: &mut ResponseWriter) -> Result<(), DebugError> {
    struct Unwritable;
    impl Serialize for Unwritable {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("no words for it"))
        }
    }
    writer.json(&("x".repeat(CHUNK_BYTES), Unwritable))
}

async fn run(pool: &HandlerPool, handler: HandlerFn) -> Result<Response, DebugError> {
    pool.clone().run(Parameters::default(), handler).await
}

#[tokio::test]
async fn a_large_page_comes_in_chunks_and_a_small_one_with_its_length() {
    let pool = HandlerPool::new(Fixture::new().state);
    let response = run(&pool, large).await.unwrap();
    assert!(http_body::Body::size_hint(response.body()).exact().is_none());
    let body = response.into_body().collect().await.unwrap().to_bytes();
    let page: Vec<String> = serde_json::from_slice(&body).unwrap();
    assert_eq!((page.len(), page[9_999].parse()), (10_000, Ok(9_999)));
    let response = run(&pool, small).await.unwrap();
    assert_eq!(http_body::Body::size_hint(response.body()).exact(), Some(8));
}

#[tokio::test]
async fn a_page_that_cannot_be_finished_does_not_look_finished() {
    let pool = HandlerPool::new(Fixture::new().state);
    let response = run(&pool, broken).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "its beginning is on its way");
    assert!(response.into_body().collect().await.is_err());
}

/// Asks until the slots are free again.
async fn free_again(pool: &HandlerPool, mut meanwhile: impl AsyncFnMut()) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while pool.slots.available_permits() != CONCURRENT_HANDLERS {
        assert!(Instant::now() < deadline, "a page is still being made");
        meanwhile().await;
        std::thread::yield_now();
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_go_away_or_stop_reading_make_room_for_others() {
    let pool = HandlerPool::new(Fixture::new().state);
    let unread = [run(&pool, large).await.unwrap(), run(&pool, large).await.unwrap()];
    assert_eq!(pool.slots.available_permits(), 0);
    drop(unread);
    free_again(&pool, async || tokio::task::yield_now().await).await;

    let unread = run(&pool, large).await.unwrap();
    free_again(&pool, async || tokio::time::advance(CLIENT_TIMEOUT / 10).await).await;
    assert!(unread.into_body().collect().await.is_err(), "it is cut off");
    assert_eq!(run(&pool, small).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_page_waits_for_a_slot_and_not_for_ever() {
    let pool = HandlerPool::new(Fixture::new().state);
    let slots = pool.slots.clone().acquire_many_owned(CONCURRENT_HANDLERS as u32).await.unwrap();
    let refused = run(&pool, small).await.unwrap_err();
    assert_eq!(refused.into_response().status(), StatusCode::SERVICE_UNAVAILABLE);
    let (response, ()) = tokio::join!(run(&pool, small), async {
        tokio::time::sleep(CLIENT_TIMEOUT / 2).await;
        drop(slots);
    });
    assert_eq!(response.unwrap().status(), StatusCode::OK);
}
