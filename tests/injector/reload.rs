//! Files that come late, change, and are wrong.

use std::fs;

use crate::client::{Client, NAME, Running, patched, pod, review_of};

fn image(running: &serde_json::Value) -> String {
    let pod = patched(&pod(), running);
    pod["spec"]["containers"][1]["image"].as_str().unwrap().to_owned()
}

/// Puts other settings in the place of those that are there, in one step as the kubelet does: a file that is being
/// written is empty for a moment, which is a valid one.
fn replace(running: &Running, settings: &str) {
    let file = running.settings();
    let new = file.with_extension("new");
    fs::write(&new, settings).unwrap();
    fs::rename(&new, &file).unwrap();
}

#[tokio::test]
async fn settings_are_read_anew_and_bad_ones_leave_those_before_in_force() {
    let running = Running::new("nativeSidecars: never\nimage: a.example/proxy:1\n").await;
    let mut client = running.client().await;
    let review = review_of(&pod(), "shop");
    assert_eq!(image(&client.review(&review).await), "a.example/proxy:1");

    replace(&running, "nativeSidecars: never\nimag: b.example/proxy:2\n");
    let unusable = "pilothouse_injector_settings_unusable 1\n";
    running.until("/metrics", |page| page.contains(unusable)).await;
    assert_eq!(image(&client.review(&review).await), "a.example/proxy:1");
    assert_eq!(running.page("/ready").await, "ready\n");

    replace(&running, "nativeSidecars: never\nimage: b.example/proxy:2\n");
    let usable = "pilothouse_injector_settings_unusable 0\n";
    running.until("/metrics", |page| page.contains(usable)).await;
    assert_eq!(image(&client.review(&review).await), "b.example/proxy:2");

    fs::remove_file(running.settings()).unwrap();
    running.until("/metrics", |page| page.contains(unusable)).await;
    assert_eq!(image(&client.review(&review).await), "b.example/proxy:2");
}

#[tokio::test]
async fn a_file_that_was_never_good_is_what_ready_waits_for() {
    let running = Running::starting("onError: maybe\n").await;
    let said = running.until_ready("onError").await;
    assert!(said.contains("config.yaml") && said.contains("maybe"), "{said}");
    let (status, answer) =
        running.client().await.post("/inject", "application/json", "{}".into()).await;
    assert_eq!(status.as_u16(), 503, "{answer}");
    replace(&running, "nativeSidecars: never\n");
    running.until_ready("ready\n").await;
    assert_eq!(running.review(&review_of(&pod(), "shop")).await["allowed"], true);
}

#[tokio::test]
async fn a_new_certificate_is_served_and_an_unusable_one_is_not() {
    let running = Running::new("nativeSidecars: never").await;
    let review = review_of(&pod(), "shop");
    let mut before = running.client().await;
    let expiry = running.metric("pilothouse_certificate_expiry_seconds").await;
    assert!(expiry > 1.7e9, "{expiry}");

    // Certificate and key of different pairs, as when a Secret was put together by hand.
    let mut mixed = running.authority.server(&[NAME]);
    mixed.key = running.authority.server(&[NAME]).key;
    running.volume.swap(&mixed, &running.authority.pem());
    let unusable = "pilothouse_injector_certificate_unusable 1\n";
    running.until("/metrics", |page| page.contains(unusable)).await;
    assert_eq!(running.review(&review).await["allowed"], true, "the former is served");

    // Of another authority: who trusts the former alone is not answered any more, who trusts this is.
    let other = pilothouse_testkit::certificates::Authority::new("renewed");
    running.volume.swap(&other.server(&[NAME]), &other.pem());
    let usable = "pilothouse_injector_certificate_unusable 0\n";
    running.until("/metrics", |page| page.contains(usable)).await;
    let address = running.injector.address;
    let mut renewed = Client::connect(address, other.client_config(None)).await.unwrap();
    assert_eq!(renewed.review(&review).await["allowed"], true);
    let former = Client::connect(address, running.authority.client_config(None)).await;
    assert!(former.is_err());
    // A connection of before goes on.
    assert_eq!(before.review(&review).await["allowed"], true);
}
