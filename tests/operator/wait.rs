//! `wait` over stand-ins that say what a test has them say.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::{Answer, StandIn, ask};

const WAIT: [&str; 4] = ["wait", "service/reviews", "--resource-version=12", "--timeout=3s"];

fn placed(state: &str, generation: Option<u64>) -> Value {
    json!({ "replica": "host", "instance": "host/1", "state": state, "why": format!("it is {state}"),
            "generation": generation })
}

fn acknowledged(of: u64, acknowledged: u64) -> Value {
    let stragglers: Vec<Value> = (acknowledged..of)
        .map(|number| {
            json!({ "key": "1", "name": format!("slow-{number}.shop"), "type": "CDS",
                    "state": "REJECTED", "since": "2026-11-26T14:00:00Z", "error": "no such\u{1b}thing" })
        })
        .collect();
    json!({ "replica": "host", "instance": "host/1", "generation": 5, "newest": 9, "proxies": of,
            "acknowledged": acknowledged, "stragglers_total": stragglers.len(), "stragglers": stragglers })
}

/// A replica with `of` proxies, of which so many have acknowledged it.
async fn replica(of: u64, have: u64) -> StandIn {
    StandIn::start(move |path, _| match path.contains("generation=") {
        true => Answer::Json(acknowledged(of, have)),
        false => Answer::Json(placed("published", Some(5))),
    })
    .await
}

#[tokio::test]
async fn it_is_everywhere_when_every_replica_has_said_so_twice() {
    let (one, other) = (replica(3, 3).await, replica(4, 4).await);
    let ran = ask(&WAIT, &[one.address, other.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let said =
        "service/reviews of version 12 is everywhere: acknowledged by 7 proxies of 2 replicas";
    assert!(ran.out.starts_with(said), "{ran:?}");
    let of_change =
        "/debug/convergence?kind=Service&namespace=default&name=reviews&resource_version=12";
    let of_generation = "/debug/convergence?generation=5";
    assert_eq!(other.asked(), [of_change, of_generation, of_generation]);
}

#[tokio::test]
async fn a_proxy_that_moves_to_another_replica_between_two_looks_is_missed_by_neither() {
    // The first replica has all; then the proxy comes back to it with the old one.
    let one = StandIn::start(|path, number| match path.contains("generation=") {
        true => Answer::Json(acknowledged(4, if number == 2 { 3 } else { 4 })),
        false => Answer::Json(placed("published", Some(5))),
    })
    .await;
    let other = replica(1, 1).await;
    let ran = ask(&WAIT, &[one.address, other.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    assert_eq!(one.asked().len(), 5, "twice in a row after that: {:?}", one.asked());
}

#[tokio::test]
async fn stragglers_are_named_with_envoys_words() {
    let (one, other) = (replica(3, 3).await, replica(4, 2).await);
    let ran = ask(&WAIT, &[one.address, other.address]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    let line = ran.out.lines().find(|line| line.starts_with("slow-2.shop")).expect("it is named");
    assert!(line.contains("REJECTED") && line.contains("no such\\u{1b}thing"), "{line}");
    assert!(ran.err.contains("2 proxies have not acknowledged it"), "{ran:?}");
    let ran = ask(&[&WAIT[..], &["-o", "json"]].concat(), &[one.address, other.address]).await;
    assert_eq!((ran.code, &ran.json()["verdict"]), (Some(1), &json!("not everywhere")));
}

#[tokio::test]
async fn a_replica_that_has_not_seen_it_is_waited_for() {
    let replica = StandIn::start(|path, number| match (path.contains("generation="), number) {
        (true, _) => Answer::Json(acknowledged(1, 1)),
        (false, 0) => Answer::Json(placed("not_seen", None)),
        (false, 1) => Answer::Json(placed("pending", None)),
        (false, _) => Answer::Json(placed("published", Some(5))),
    })
    .await;
    let ran = ask(&WAIT, &[replica.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let never = StandIn::start(|_, _| Answer::Json(placed("not_seen", None))).await;
    let ran =
        ask(&["wait", "svc/x", "--resource-version=1", "--timeout=0s"], &[never.address]).await;
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.err.contains("does not have it yet: it is not_seen"), "{ran:?}");
    assert_eq!(never.asked().len(), 1, "asked once");
}

#[tokio::test]
async fn after_a_restart_generations_begin_anew() {
    // Generation 5 of the first run has it; after the restart it is 2.
    let questions = AtomicUsize::new(0);
    let replica = StandIn::start(move |path, number| {
        let restarted = number >= 2;
        let mut answer = match path {
            "/debug/convergence?generation=5" | "/debug/convergence?generation=2" => {
                let lags = path.ends_with("=5") && !restarted;
                acknowledged(1, u64::from(!lags))
            }
            _ => {
                let again = questions.fetch_add(1, Ordering::Relaxed) > 0;
                placed("published", Some(if again { 2 } else { 5 }))
            }
        };
        if restarted {
            answer["instance"] = json!("host/2");
        }
        Answer::Json(answer)
    })
    .await;
    let ran = ask(&WAIT, &[replica.address]).await;
    assert_eq!(ran.code, Some(0), "{ran:?}");
    let asked = replica.asked();
    let last = &asked[asked.len() - 2..];
    assert!(last.iter().all(|path| path.ends_with("generation=2")), "{asked:?}");
}

#[tokio::test]
async fn what_cannot_be_told_is_not_said_to_be_everywhere() {
    let good = replica(3, 3).await;
    let silent = StandIn::start(|_, _| Answer::Silence).await;
    let ran =
        ask(&[&WAIT[..], &["--request-timeout=1s"]].concat(), &[good.address, silent.address])
            .await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains(&silent.address.to_string()), "{ran:?}");
    // Asking again would not help, so it is not waited for.
    let folder = StandIn::start(|_, _| Answer::Json(placed("unknown", None))).await;
    let ran =
        ask(&["wait", "node/n1", "--resource-version=1", "--timeout=1h"], &[folder.address]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("cannot tell: it is unknown"), "{ran:?}");
    // A server of before this question.
    let older = StandIn::start(|_, _| Answer::not_found()).await;
    let ran = ask(&WAIT, &[older.address]).await;
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert!(ran.err.contains("older version"), "{ran:?}");
}
