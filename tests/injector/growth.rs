//! Many reviews: the memory of the process does not grow, and how long one takes is printed.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client::{Running, pod, review_of};

/// In a debug build some seconds; `PILOTHOUSE_REVIEWS=100000` for the whole measurement.
const REVIEWS: usize = 6_000;

/// Resident memory of this process, KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_reviews_do_not_make_it_grow() {
    let asked = std::env::var("PILOTHOUSE_REVIEWS").ok();
    let reviews = asked.map_or(REVIEWS, |number| number.parse().unwrap());
    let running = Running::new("nativeSidecars: never").await;
    let mut client = running.client().await;
    let mut wrong = pod();
    wrong["metadata"]["annotations"] = json!({ "sidecar.istio.io/proxyCPU": "lots" });
    let mut took: Vec<Duration> = Vec::with_capacity(reviews);
    let mut settled = 0;
    for number in 0..reviews {
        let mut one = if number % 10 == 9 { wrong.clone() } else { pod() };
        one["metadata"]["generateName"] = format!("web-{number}-").into();
        let review = review_of(&one, &format!("team-{number}"));
        // A connection is closed with an answer once it is 5 minutes old; none here becomes that.
        if number % 5_000 == 4_999 {
            client = running.client().await;
        }
        let began = Instant::now();
        let response = client.review(&review).await;
        took.push(began.elapsed());
        assert_eq!(response["allowed"], number % 10 != 9);
        if number == reviews / 5 {
            settled = resident();
        }
    }
    let grown = resident().saturating_sub(settled);
    took.sort_unstable();
    let at = |part: usize| took[(took.len() - 1) * part / 1000];
    println!(
        "{reviews} reviews: median {:?}, p99 {:?}, p99.9 {:?}, most {:?}; {settled} KiB after a fifth, {grown} KiB more at the end",
        at(500),
        at(990),
        at(999),
        at(1000)
    );
    // A tenth of a KiB for each would be seen.
    assert!(grown < 2048 + reviews as u64 / 10, "{grown} KiB more");
}
