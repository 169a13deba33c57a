//! Views and what is kept for them: proxies that come and go, and proxies that make up what they are.

use std::net::Ipv4Addr;

pub(crate) mod pilot;
pub(crate) mod proxy;

use pilot::{Mesh, Pilot};
use proxy::{Proxy, Role};

/// Of the mesh that comes and goes.
const NAMESPACES: usize = 50;
const SIDECARS: usize = 100;
const ROUNDS: usize = 15;

const ELSEWHERE: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Every round is other subscriptions in the same 50 views: what was made for those of before is
/// nobody's any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sidecars_that_come_and_go_leave_nothing_behind() {
    let mesh = Mesh { services: 300, endpoints: 10, namespaces: NAMESPACES };
    let pilot = Pilot::start(&mesh, &[]).await;
    let mut memory = vec![pilot.memory()];
    for _ in 0..ROUNDS {
        let sidecars = (0..SIDECARS).map(|number| {
            Proxy::start(pilot.grpc, Role::sidecar(number, number % NAMESPACES), &mesh)
        });
        let sidecars: Vec<Proxy> = sidecars.collect();
        for sidecar in &sidecars {
            sidecar.in_sync().await;
        }
        assert_eq!(pilot.metric("pilothouse_snapshot_views").await, Ok(NAMESPACES as f64));
        drop(sidecars);
        pilot.reaches("pilothouse_proxies{kind=\"sidecar\"}", 0.0).await;
        memory.push(pilot.memory());
    }
    println!("memory before and after each round, KiB: {memory:?}");
    // What a round makes is more than 7 MiB.
    let (early, late) = (memory[3], memory[ROUNDS]);
    assert!(
        late < early + (24 << 10),
        "after round 3 {early} KiB, after the last {late}: {memory:?}"
    );

    pilot.reaches("pilothouse_frames_kept_bytes", 0.0).await;
    pilot.reaches("pilothouse_snapshot_views", 0.0).await;
    println!("memory when all is let go, KiB: {}", pilot.memory());
}

/// What a proxy may say of itself, `number` times another thing: its port, its namespace, its zone.
fn made_up(number: usize) -> Role {
    let metadata = vec![
        ("LISTEN_PORT", (2000 + number).to_string()),
        ("NAMESPACE", format!("made-up-{number}")),
    ];
    Role::standalone(&format!("stranger-{number}"), metadata).in_zone(&format!("zone-{number}"))
}

/// A good proxy is there and follows changes while a thousand others want a view of their own each.
async fn a_thousand_beside_a_good_one(flags: &[&str]) -> (Pilot, Vec<Option<String>>) {
    let mesh = Mesh { services: 200, endpoints: 5, namespaces: 20 };
    let pilot = Pilot::start(&mesh, flags).await;
    // From another address than the strangers.
    let good = Proxy::start(pilot.grpc, Role::sidecar(0, 0).from(ELSEWHERE), &mesh);
    good.in_sync().await;
    let before = pilot.memory();
    let strangers: Vec<Proxy> =
        (0..1000).map(|number| Proxy::start(pilot.grpc, made_up(number), &mesh)).collect();
    for number in 0..3 {
        let [clusters, ..] = good.responses();
        pilot.add_service(&format!("new-{number}"));
        good.has([clusters + 1, 0, 0, 0]).await;
    }
    let mut outcomes = Vec::new();
    for stranger in &strangers {
        outcomes.push(stranger.outcome().await);
    }
    let late = Proxy::start(pilot.grpc, Role::sidecar(1, 1).from(ELSEWHERE), &mesh);
    late.in_sync().await;
    let after = pilot.memory();
    println!("memory before and with a thousand strangers, KiB: {before} {after}");
    // Each has a stream, which costs some 10 KiB in the program as it is shipped; a table of its own
    // would be 100 KiB more.
    assert!(after < before + (60 << 10), "{before} KiB before, {after} KiB after");
    (pilot, outcomes)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_ports_namespaces_and_zones_that_are_made_up_share_what_does_not_differ() {
    let flags = ["--max-views-per-peer=0", "--max-starting=0"];
    let (pilot, outcomes) = a_thousand_beside_a_good_one(&flags).await;
    assert!(outcomes.iter().all(Option::is_none), "{outcomes:?}");
    // A listener is all that each has of its own; the two sidecars are of two namespaces.
    assert_eq!(pilot.metric("pilothouse_snapshot_views").await, Ok(1002.0));
    pilot.reaches("pilothouse_snapshot_views", 0.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_gets_as_many_views_as_it_may_and_a_sentence_for_more() {
    let (pilot, outcomes) = a_thousand_beside_a_good_one(&["--max-views-per-peer=100"]).await;
    let refused: Vec<&String> = outcomes.iter().flatten().collect();
    assert_eq!(refused.len(), 1000 - 100);
    for end in refused {
        // RESOURCE_EXHAUSTED, and the flag's name.
        assert!(end.contains("grpc-status\u{1}8") && end.contains("--max-views-per-peer"), "{end}");
    }
    let counted = pilot.metric("pilothouse_refused_views_total").await.unwrap();
    assert!(counted == 900.0, "{counted}");
}
