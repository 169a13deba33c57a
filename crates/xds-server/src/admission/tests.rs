use futures::FutureExt as _;

use super::*;
use crate::peer::PeerKey;

fn admission(at_once: usize) -> Arc<Admission> {
    Arc::new(Admission::new(at_once, Arc::new(ServerMetrics::new(&[]))))
}

/// A stream of this connection from this address.
fn from(address: u8, connection: u64) -> PermitHolder {
    PermitHolder { peer: PeerKey::Address([10, 0, 0, address].into()), connection }
}

/// A stream that asks, polled once: admitted, or waiting.
macro_rules! ask {
    ($admission:expr, $holder:expr) => {{
        let mut asks = Box::pin($admission.clone().acquire($holder));
        let now = asks.as_mut().now_or_never();
        (now, asks)
    }};
}

#[tokio::test]
async fn one_peers_streams_are_admitted_in_the_order_of_asking() {
    let admission = admission(1);
    let (first, _) = ask!(admission, from(1, 1));
    let first = first.expect("one is free");
    let (none, mut second) = ask!(admission, from(1, 1));
    assert!(none.is_none());
    let (none, mut third) = ask!(admission, from(1, 1));
    assert!(none.is_none());
    assert_eq!(admission.metrics.waiting_streams.get(), 2);
    drop(first);
    assert!(third.as_mut().now_or_never().is_none(), "it came later");
    let second = second.as_mut().now_or_never().expect("its turn");
    drop(third);
    assert_eq!(admission.metrics.waiting_streams.get(), 0, "one has it, one has gone");
    drop(second);
    assert!(ask!(admission, from(1, 1)).0.is_some());
}

#[tokio::test]
async fn a_permit_that_lasts_goes_to_the_next() {
    let admission = admission(1);
    let (slow, _) = ask!(admission, from(1, 1));
    let (none, mut next) = ask!(admission, from(1, 1));
    assert!(none.is_none());
    admission.expire();
    assert!(next.as_mut().now_or_never().is_none(), "not at once");
    admission.expire_after(Duration::ZERO);
    let next = next.as_mut().now_or_never().expect("it is taken from the slow one");
    drop(slow);
    assert!(ask!(admission, from(1, 1)).0.is_none(), "the slow one gave nothing back");
    drop(next);
}

#[tokio::test]
async fn a_holder_that_takes_nothing_loses_its_permit() {
    let admission = admission(1);
    let (stalled, _) = ask!(admission, from(1, 1));
    let stalled = stalled.unwrap();
    assert!(!admission.is_contended());
    let (_, mut next) = ask!(admission, from(1, 1));
    assert!(admission.is_contended());
    admission.reclaim(stalled.id());
    let next = next.as_mut().now_or_never().expect("admitted");
    assert!(!admission.is_contended());
    drop(stalled);
    assert!(ask!(admission, from(1, 1)).0.is_none(), "it was taken back once");
    drop(next);
}

/// D2: 25 connections of 100 streams each, and a proxy that starts beside them.
#[tokio::test]
async fn a_newcomer_takes_its_permit_from_the_peer_that_holds_most() {
    let admission = admission(100);
    let crowd: Vec<_> = (0..2500).map(|stream| ask!(admission, from(1, stream / 100))).collect();
    // Each of the connections has been given some, and the crowd waits for itself.
    assert!(admission.is_contended());
    let waiting = crowd.iter().filter(|(permit, _)| permit.is_none()).count();
    assert!(waiting > 2000, "{waiting}");
    let (other_address, _) = ask!(admission, from(2, 1000));
    assert!(other_address.is_some());
    let (same_address, _) = ask!(admission, from(1, 1001));
    assert!(same_address.is_some(), "on a connection of its own");
    // A second stream of either waits as the others do.
    assert!(ask!(admission, from(1, 1001)).0.is_none());
    assert!(ask!(admission, from(2, 1000)).0.is_none());
}

#[tokio::test]
async fn nobody_loses_the_only_permit_that_he_holds() {
    let admission = admission(3);
    let held: Vec<_> = (1..=3).map(|address| ask!(admission, from(address, 1))).collect();
    assert!(held.iter().all(|(permit, _)| permit.is_some()));
    assert!(ask!(admission, from(4, 1)).0.is_none());
}

#[tokio::test]
async fn addresses_and_their_connections_are_admitted_in_turn() {
    let admission = admission(1);
    let (holder, _) = ask!(admission, from(9, 9));
    let mut waiting: Vec<_> = [(1, 1), (1, 1), (1, 2), (2, 3), (1, 2), (2, 3)]
        .into_iter()
        .map(|(address, connection)| ask!(admission, from(address, connection)).1)
        .collect();
    let mut order = Vec::new();
    let mut now = holder;
    while now.take().is_some() {
        for (number, one) in waiting.iter_mut().enumerate() {
            if order.contains(&number) {
                continue;
            }
            if let Some(permit) = one.as_mut().now_or_never() {
                order.push(number);
                now = Some(permit);
                break;
            }
        }
    }
    // 1.1, 2.3, 1.2, 2.3, 1.1, 1.2
    assert_eq!(order, [0, 3, 2, 5, 1, 4]);
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_longer_than_the_longest_wait() {
    let admission = admission(1);
    let (_held, _) = ask!(admission, from(1, 1));
    let (none, waiting) = ask!(admission, from(1, 1));
    assert!(none.is_none());
    let begun = Instant::now();
    let permit = waiting.await;
    assert!(begun.elapsed() <= MAX_WAIT + Duration::from_millis(1), "{:?}", begun.elapsed());
    // It waits no more, and holds nothing that it could give back.
    assert!(!admission.is_contended());
    drop(permit);
    assert!(ask!(admission, from(1, 1)).0.is_none());
}

#[test]
fn no_limit_lets_everybody_in() {
    let admission = admission(0);
    let permits: Vec<_> = (0..100).map(|_| ask!(admission, from(1, 1)).0).collect();
    assert!(permits.iter().all(Option::is_some));
}

#[tokio::test]
async fn those_that_stop_waiting_leave_nothing_behind() {
    let admission = admission(1);
    let (held, _) = ask!(admission, from(1, 1));
    for stream in 0..1000 {
        drop(ask!(admission, from((stream % 200) as u8, stream)));
    }
    assert_eq!(admission.metrics.waiting_streams.get(), 0);
    drop(held);
    assert!(ask!(admission, from(1, 1)).0.is_some());
    assert!(!admission.is_contended());
}
