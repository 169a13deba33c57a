//! Sets of which a wildcard covers a part only: the rest goes to who names it (rule 21).

use std::sync::Arc;

use super::harness::{Peer, SILENCE};
use crate::session::tests::types::ResourceType;

const WORLD: &str = "cds a=1 o1=1 o2=1 eds o1=1 o2=1 lds l=1 rds r=1";

fn initial(peer: &mut Peer, names: &[&str]) {
    let names: Arc<[Arc<str>]> = names.iter().map(|name| Arc::from(*name)).collect();
    peer.session.set_initial_names(ResourceType::Cluster, names);
}

/// With the wildcard, `o1` and its endpoints, all acknowledged.
fn settled(world: &str) -> Peer {
    let mut peer = Peer::on_demand(world);
    for wanted in ["cds", "eds o1", "lds", "rds r"] {
        peer.subscribe(wanted);
        peer.ack(wanted.split(' ').next().unwrap());
    }
    assert_eq!(peer.subscribe("cds o1"), ["cds o1=1", "eds o1=1"]);
    peer.ack("eds");
    assert_eq!(peer.ack("cds"), SILENCE);
    peer
}

#[test]
fn rule_21_a_wildcard_covers_what_is_not_on_demand() {
    let mut peer = Peer::on_demand(WORLD);
    assert_eq!(peer.subscribe("cds"), ["cds a=1"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.publish("cds o1=2 o3=1 -o2"), SILENCE);
    assert_eq!(peer.publish("cds a=2 o1=3"), ["cds a=2"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds o1"), ["cds o1=3"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds o1=4 o3=2"), ["cds o1=4"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds -o1 -o3"), ["cds -o1"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds o1=5"), ["cds o1=5"], "the name stays subscribed");

    // Both in one request, and the wildcard once more.
    let mut peer = Peer::on_demand(WORLD);
    assert_eq!(peer.subscribe("cds * o2"), ["cds a=1 o2=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds *"), ["cds a=1 o2=1"]);

    // The state of the world.
    let mut sotw = Peer::sotw("");
    sotw.sets = peer.sets.clone();
    assert_eq!(sotw.subscribe_sotw("cds"), ["cds a=1"]);
    sotw.ack("cds");
    assert_eq!(sotw.publish("cds o1=2"), SILENCE);
    assert_eq!(sotw.subscribe_sotw("cds * o1"), ["cds a=1 o1=2"]);
}

#[test]
fn rule_21_names_that_are_given_up_go() {
    let mut peer = settled(WORLD);
    assert_eq!(peer.unsubscribe("cds o1"), ["cds -o1"], "no wildcard keeps it");
    peer.ack("cds");
    assert_eq!(peer.publish("cds o1=2"), SILENCE);
    assert_eq!(peer.unsubscribe("cds a"), ["cds a=1"], "the wildcard has it still");
    // Without a wildcard nothing need be said.
    let mut peer = Peer::on_demand(WORLD);
    assert_eq!(peer.subscribe("cds o1 oz1"), ["cds o1=1 oz1=pass"]);
    peer.ack("cds");
    assert_eq!(peer.unsubscribe("cds o1 oz1"), SILENCE);
    assert_eq!(peer.publish("cds oz1=1"), SILENCE);
}

#[test]
fn rule_21_initial_names_come_with_the_first_wildcard() {
    let mut peer = Peer::on_demand(WORLD);
    initial(&mut peer, &["o2", "gone"]);
    assert_eq!(peer.subscribe("cds"), ["cds a=1 o2=1"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.publish("cds o1=2 o2=2 gone=1"), ["cds gone=1 o2=2"], "gone is no such name");

    // A client without a wildcard would not know what to do with them.
    let mut peer = Peer::on_demand(WORLD);
    initial(&mut peer, &["o2"]);
    assert_eq!(peer.subscribe("cds o1"), ["cds o1=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds *"), ["cds a=1 o1=1 o2=1"]);

    // Where a wildcard covers everything they mean nothing.
    let mut peer = Peer::delta(WORLD);
    initial(&mut peer, &["o2"]);
    peer.subscribe("cds");
    assert_eq!(peer.session.subscription(ResourceType::Cluster).len(), 0);
}

#[test]
fn rule_21_unknown_names_have_a_fallback_until_they_are_known() {
    let mut peer = settled(WORLD);
    assert_eq!(peer.subscribe("cds oz1 o9"), ["cds oz1=pass -o9"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.publish("cds oz2=1"), SILENCE, "nobody named it");
    assert_eq!(peer.publish("cds oz1=1"), ["cds oz1=1"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds oz1=2"), ["cds oz1=2"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds -oz1"), ["cds oz1=pass"]);
    peer.ack("cds");
    // It may have been lost (rule 11), and everything may have been.
    assert_eq!(peer.subscribe("cds oz1"), ["cds oz1=pass"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds *"), ["cds a=1 o1=1 oz1=pass -o9", "eds o1=1"]);
    peer.ack("cds");
    peer.ack("eds");
    // Another stream that asks the same shares no frame with it by mistake.
    let mut twin = peer.twin();
    assert_eq!(twin.subscribe("cds * o1 o9 oz1"), ["cds a=1 o1=1 oz1=pass -o9"]);
    assert_eq!(peer.unsubscribe("cds oz1"), ["cds -oz1"]);
}

#[test]
fn rule_21_fallbacks_are_a_hundred_a_stream() {
    let mut peer = Peer::on_demand("cds a=1");
    peer.subscribe("cds");
    peer.ack("cds");
    let names =
        |range: std::ops::Range<u32>| range.map(|at| format!(" oz{at:04}")).collect::<String>();
    for at in (0..100).step_by(10) {
        let said = peer.subscribe(&format!("cds{}", names(at..at + 10)));
        assert_eq!(said.join("").matches("=pass").count(), 10, "{said:?}");
        peer.ack("cds");
    }
    assert_eq!(peer.subscribe("cds oz0100"), ["cds -oz0100"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds oz0099 oz0101"), ["cds oz0099=pass -oz0101"]);
    peer.ack("cds");
    let held = peer.session.held_bytes();
    assert!(held >= 100 * 64, "they are charged: {held}");
    // What comes, and what is given up, make room for the next.
    assert_eq!(peer.publish("cds oz0001=1"), ["cds oz0001=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds oz0100 oz0101"), ["cds oz0100=pass -oz0101"]);
    peer.ack("cds");
    peer.unsubscribe("cds oz0002");
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds oz0101"), ["cds oz0101=pass"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds -oz0001"), ["cds -oz0001"], "its place is taken");
    peer.ack("cds");

    // Who comes back keeps those that it has, whatever their order.
    peer.reconnect();
    let wanted = format!("cds *{}", names(0..102));
    let said = peer.reopen(&wanted);
    assert_eq!(said, ["cds -oz0001 -oz0002"]);
}

#[test]
fn rule_21_a_client_that_comes_back_is_sent_nothing_twice() {
    let mut peer = settled(WORLD);
    peer.subscribe("cds oz1");
    peer.ack("cds");
    peer.reconnect();
    assert_eq!(peer.reopen("cds * o1 oz1"), SILENCE);
    assert_eq!(peer.reopen("eds o1"), SILENCE);
    assert_eq!(peer.publish("cds o1=2 o2=2"), ["cds o1=2", "eds o1=1"]);
    peer.ack("cds");
    peer.ack("eds");

    // What changed meanwhile, and no more: a Service went, one came with that address.
    peer.change("cds -o1 oz1=1 o2=3");
    peer.reconnect();
    assert_eq!(peer.reopen("cds * o1 oz1"), ["cds oz1=1 -o1"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds o1=1"), ["cds o1=1"]);
}

/// What was sent by the wildcard of an earlier stream is held without a name.
#[test]
fn rule_21_initial_names_of_an_earlier_stream_stay() {
    let mut peer = Peer::on_demand(WORLD);
    initial(&mut peer, &["o1", "o2"]);
    assert_eq!(peer.subscribe("cds"), ["cds a=1 o1=1 o2=1"]);
    peer.ack("cds");
    peer.change("cds -o2 o3=1");
    peer.reconnect();
    assert_eq!(
        peer.reopen("cds"),
        ["cds"],
        "an empty one first: what is gone goes after the routes"
    );
    assert_eq!(peer.ack("cds"), ["cds -o2"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds o1=2"), ["cds o1=2"], "the name is subscribed");
    peer.ack("cds");
    // What went and is back before its removal was said is named by nobody: what the client has of it goes.
    peer.change("cds -o1");
    peer.reconnect();
    assert_eq!(peer.reopen("cds"), ["cds"]);
    peer.change("cds o1=3");
    assert_eq!(peer.ack("cds"), ["cds -o1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds o1"), ["cds o1=3"]);
    peer.ack("cds");
    // Another name for the same, by a newer resolution.
    peer.reconnect();
    initial(&mut peer, &["o1", "o3"]);
    assert_eq!(peer.reopen("cds"), ["cds o3=1"]);
}

#[test]
fn rule_21_a_rejected_cluster_comes_again_with_the_next_change_that_is_wanted() {
    let mut peer = settled(WORLD);
    assert_eq!(peer.subscribe("cds o2 oz1"), ["cds o2=1 oz1=pass"]);
    assert_eq!(peer.nack("cds"), SILENCE);
    assert_eq!(peer.publish("cds o3=1"), SILENCE, "it does not use that");
    assert_eq!(peer.publish("cds o1=2"), ["cds o1=2 o2=1 oz1=pass", "eds o1=1"]);
    peer.ack("eds");
    peer.ack("cds");
    assert_eq!(peer.publish("cds o1=3"), ["cds o1=3", "eds o1=1"]);
    peer.ack("eds");
    peer.nack("cds");
    assert_eq!(peer.unsubscribe("cds o1"), ["cds -o1"], "given up, so it goes");
}

/// Make before break (rule 18) goes on beside it.
#[test]
fn rule_21_clusters_on_demand_hold_no_listener_up() {
    let mut peer = settled(WORLD);
    assert_eq!(peer.subscribe("cds o2"), ["cds o2=1"]);
    assert_eq!(peer.publish("lds l=2 rds r=2"), ["lds l=2", "rds r=2"], "asked for by name");
    peer.ack("lds");
    peer.ack("rds");
    peer.ack("cds");
    assert_eq!(peer.publish("cds b=1 lds l=3"), ["cds b=1"]);
    assert_eq!(peer.ack("cds"), ["lds l=3"]);
    peer.ack("lds");
    assert_eq!(peer.publish("cds -o1 rds r=3"), ["rds r=3", "cds -o1"]);
}
