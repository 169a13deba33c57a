//! What only delta has, or has differently.

use std::sync::Arc;

use super::harness::{Peer, SILENCE};
use crate::session::tests::types::ResourceType;

#[test]
fn rule_05_delta_new_names_are_sent_without_a_new_version() {
    let mut peer = Peer::delta("eds a=1 b=1");
    assert_eq!(peer.subscribe("eds a"), ["eds a=1"]);
    assert_eq!(peer.ack("eds"), SILENCE);
    assert_eq!(peer.subscribe("eds b"), ["eds b=1"]);
    peer.ack("eds");
    assert_eq!(peer.unsubscribe("eds a"), SILENCE);
    assert_eq!(peer.publish("eds a=2 b=2"), ["eds b=2"]);
    peer.ack("eds");
    assert_eq!(peer.subscribe("eds a"), ["eds a=2"]);
}

#[test]
fn rule_05_delta_a_name_unsubscribed_before_it_was_sent_is_not_sent() {
    let mut peer = Peer::delta("eds a=1 b=1 c=1");
    peer.subscribe("eds a");
    peer.subscribe("eds b c");
    peer.unsubscribe("eds b");
    assert_eq!(peer.ack("eds"), ["eds c=1"]);

    // The same by way of the wildcard: what it wanted is not wanted without it.
    let mut peer = Peer::delta("cds a=1 b=1");
    peer.subscribe("cds");
    peer.unsubscribe("cds a x");
    peer.unsubscribe("cds *");
    assert_eq!(peer.ack("cds"), SILENCE);
}

#[test]
fn rule_06_delta_wildcard_legacy_and_explicit() {
    for wildcard in ["cds", "cds *"] {
        let mut peer = Peer::delta("cds a=1 b=1");
        assert_eq!(peer.subscribe(wildcard), ["cds a=1 b=1"]);
        assert_eq!(peer.ack("cds"), SILENCE);
        assert_eq!(peer.publish("cds c=1 -a"), ["cds c=1 -a"]);
    }
}

#[test]
fn rule_06_delta_a_name_does_not_end_the_implicit_wildcard() {
    let mut peer = Peer::delta("cds a=1 b=1");
    peer.subscribe("cds");
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds a"), ["cds a=1"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds b=2"), ["cds b=2"]);
    peer.ack("cds");
    // Only unsubscribing `*` does, and named ones survive that.
    assert_eq!(peer.unsubscribe("cds *"), SILENCE);
    assert_eq!(peer.publish("cds a=2 b=3"), ["cds a=2"]);
    peer.ack("cds");
    assert_eq!(peer.unsubscribe("cds a"), SILENCE);
    assert_eq!(peer.publish("cds a=3 b=4"), SILENCE);
}

#[test]
fn rule_06_delta_the_wildcard_can_come_later() {
    let mut peer = Peer::delta("cds a=1 b=1");
    assert_eq!(peer.subscribe("cds a"), ["cds a=1"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds b=2"), SILENCE);
    assert_eq!(peer.subscribe("cds *"), ["cds a=1 b=2"]);
    // With what vanished before it could be sent.
    assert_eq!(peer.subscribe("cds *"), SILENCE, "not answered yet");
    peer.change("cds -a");
    assert_eq!(peer.ack("cds"), ["cds b=2 -a"]);
}

#[test]
fn rule_06_delta_endpoints_and_routes_know_no_wildcard() {
    let mut peer = Peer::delta("eds a=1");
    assert_eq!(peer.subscribe("eds"), SILENCE);
    assert_eq!(peer.subscribe("eds *"), SILENCE);
    assert_eq!(peer.publish("eds a=2"), SILENCE);
    assert_eq!(peer.subscribe("eds a"), ["eds a=2"]);
}

#[test]
fn rule_09_delta_missing_resource_is_reported_and_stays_subscribed() {
    for resource_type in ["cds", "eds", "lds", "rds"] {
        let mut peer = Peer::delta(&format!("{resource_type} a=1"));
        let wanted = format!("{resource_type} a x");
        assert_eq!(peer.subscribe(&wanted), [format!("{resource_type} a=1 -x")]);
        peer.ack(resource_type);
        assert_eq!(peer.publish(&format!("{resource_type} y=1")), SILENCE);
        assert_eq!(peer.publish(&format!("{resource_type} x=1")), [format!("{resource_type} x=1")]);
        peer.ack(resource_type);
        assert_eq!(
            peer.subscribe(&format!("{resource_type} z")),
            [format!("{resource_type} -z")],
            "later as well"
        );
    }
}

#[test]
fn rule_10_delta_deletion_is_a_removal_and_never_both() {
    let mut peer = Peer::delta("eds a=1 b=1");
    peer.subscribe("eds a b");
    peer.ack("eds");
    assert_eq!(peer.publish("eds -a"), ["eds -a"]);
    // Returns and goes while the removal is not answered.
    assert_eq!(peer.publish("eds a=2"), SILENCE);
    assert_eq!(peer.publish("eds -b"), SILENCE);
    assert_eq!(peer.ack("eds"), ["eds a=2 -b"]);
    peer.ack("eds");
    assert_eq!(peer.publish("eds b=2 -a"), ["eds b=2 -a"]);
    peer.publish("eds a=3");
    peer.publish("eds -a");
    assert_eq!(peer.ack("eds"), SILENCE, "gone, as the client knows");
}

#[test]
fn rule_11_delta_subscribing_to_a_known_name_resends_it() {
    let mut peer = Peer::delta("eds a=1 cds a=1");
    peer.subscribe("eds a");
    peer.ack("eds");
    assert_eq!(peer.subscribe("eds a"), ["eds a=1"]);
    peer.ack("eds");
    peer.unsubscribe("eds a");
    assert_eq!(peer.subscribe("eds a"), ["eds a=1"]);
    // Also where the wildcard brought it before.
    peer.subscribe("cds");
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds a"), ["cds a=1"]);
}

#[test]
fn rule_11_delta_a_name_both_subscribed_and_unsubscribed_is_wanted() {
    let mut peer = Peer::delta("eds a=1 b=1");
    peer.subscribe("eds a");
    peer.ack("eds");
    assert_eq!(peer.send_delta("eds a b", "eds a b"), ["eds a=1 b=1"]);
    peer.ack("eds");
    assert_eq!(peer.publish("eds a=2 b=2"), ["eds a=2 b=2"]);
}

#[test]
fn rule_12_delta_unsubscribing_is_not_answered() {
    let mut peer = Peer::delta("eds a=1 b=1 cds a=1");
    peer.subscribe("eds a b");
    peer.ack("eds");
    assert_eq!(peer.unsubscribe("eds a"), SILENCE);
    assert_eq!(peer.unsubscribe("eds a never-there"), SILENCE, "phantoms");
    assert_eq!(peer.publish("eds a=2 b=2"), ["eds b=2"]);
    // On the very first request as well.
    assert_eq!(peer.send_delta("cds a", "cds b"), ["cds a=1"]);
}

#[test]
fn rule_12_delta_unsubscribing_under_a_wildcard_says_whether_to_keep_it() {
    let mut peer = Peer::delta("cds a=1 b=1");
    peer.subscribe("cds");
    peer.ack("cds");
    peer.subscribe("cds a x");
    peer.ack("cds");
    assert_eq!(peer.unsubscribe("cds a x"), ["cds a=1 -x"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds a=2"), ["cds a=2"], "still wanted by the wildcard");
}

#[test]
fn rule_13_delta_initial_versions_are_compared_once() {
    let mut peer = Peer::delta("cds a=1 b=1 c=1");
    peer.subscribe("cds");
    peer.ack("cds");
    peer.reconnect();
    assert_eq!(peer.reopen("cds"), SILENCE, "nothing differs");
    assert_eq!(peer.publish("cds a=2"), ["cds a=2"]);
    peer.ack("cds");

    peer.change("cds b=2 d=1 -c");
    peer.reconnect();
    assert_eq!(peer.reopen("cds"), ["cds b=2 d=1"]);
    assert_eq!(peer.ack("cds"), ["cds -c"], "routes may still lead there (rule 18)");
    assert_eq!(peer.ack("cds"), SILENCE);

    peer.has[ResourceType::Cluster.index()].insert("a".to_owned(), "wrong".to_owned());
    peer.reconnect();
    assert_eq!(peer.reopen("cds *"), ["cds a=2"]);
}

#[test]
fn rule_13_delta_a_removal_is_repeated_for_a_name_that_is_subscribed_again() {
    let mut peer = Peer::delta("eds a=1 b=1");
    peer.subscribe("eds a b");
    peer.ack("eds");
    peer.publish("eds -b");
    peer.ack("eds");
    peer.only(ResourceType::Endpoint);
    // Envoy leaves out of its versions what it knows to be gone, and subscribes all the same.
    assert_eq!(peer.reopen("eds a b"), ["eds -b"]);
    peer.ack("eds");
    // Brought along and not subscribed: not asked for, whatever became of it.
    peer.only(ResourceType::Endpoint);
    assert_eq!(peer.reopen("eds b"), ["eds -b"]);
    // Everything that it had is gone.
    peer.change("eds -a");
    peer.only(ResourceType::Endpoint);
    assert_eq!(peer.reopen("eds a"), ["eds -a"]);
}

#[test]
fn rule_14_delta_the_first_wildcard_request_is_answered_even_if_with_nothing() {
    let mut peer = Peer::delta("");
    assert_eq!(peer.subscribe("cds"), ["cds"]);
    assert_eq!(peer.subscribe("lds *"), ["lds"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    // A wildcard that comes after names is a first one, too.
    let mut peer = Peer::delta("");
    assert_eq!(peer.subscribe("cds a"), ["cds -a"]);
    peer.ack("cds");
    peer.unsubscribe("cds a");
    assert_eq!(peer.subscribe("cds *"), ["cds"]);
}

#[test]
fn rule_21_on_demand_clusters_by_name() {
    let mut peer = Peer::delta("cds a=1 b=1");
    assert_eq!(peer.subscribe("cds a"), ["cds a=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds unknown"), ["cds -unknown"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds unknown=1"), ["cds unknown=1"]);
    // Beside the wildcard.
    let mut peer = Peer::delta("cds a=1");
    peer.subscribe("cds *");
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds b"), ["cds -b"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds b=1 c=1"), ["cds b=1 c=1"]);
}

#[test]
fn delta_carries_exactly_the_difference() {
    let mut peer = Peer::delta("cds a=1 b=1 eds a=1 b=1 lds l=1 m=1 rds r=1");
    for wanted in ["cds", "eds a b", "lds", "rds r"] {
        peer.subscribe(wanted);
        peer.ack(wanted.split(' ').next().unwrap());
    }
    assert_eq!(peer.publish("eds b=2"), ["eds b=2"], "no CDS, LDS, RDS for an endpoint");
    peer.ack("eds");
    assert_eq!(peer.publish("lds m=2 n=1 rds r=2 s=1"), ["lds m=2 n=1", "rds r=2"]);
    peer.ack("lds");
    peer.ack("rds");
    assert_eq!(peer.publish("lds m=3 m=2"), SILENCE, "changed and changed back");
}

#[test]
fn equal_steps_share_their_frames() {
    let mut one = Peer::delta("cds a=1 b=1 eds a=1 b=1");
    let mut other = one.twin();
    let others = one.hold_as_many("a b");
    for peer in [&mut one, &mut other] {
        peer.subscribe("cds");
        peer.subscribe("eds a b");
        peer.ack("cds");
        peer.ack("eds");
    }
    one.change("cds a=2 -b eds b=2");
    other.sets = one.sets.each_ref().map(Arc::clone);
    for peer in [&mut one, &mut other] {
        assert_eq!(peer.drain(), ["cds a=2 -b", "eds a=1 b=2"]);
    }
    for resource_type in ["cds", "eds"] {
        assert_eq!(
            one.last(resource_type).head.as_ptr(),
            other.last(resource_type).head.as_ptr(),
            "{resource_type}"
        );
        one.ack(resource_type);
        other.ack(resource_type);
    }

    // A few names of few streams are not kept for others.
    drop(others);
    one.change("cds a=3 eds a=2");
    other.sets = one.sets.each_ref().map(Arc::clone);
    for peer in [&mut one, &mut other] {
        assert_eq!(peer.drain(), ["cds a=3", "eds a=2"]);
    }
    let head = |peer: &Peer, resource_type| peer.last(resource_type).head.as_ptr();
    assert_eq!(head(&one, "cds"), head(&other, "cds"));
    assert_ne!(head(&one, "eds"), head(&other, "eds"));
}

/// It takes the response for one to its newer request, and has what vanished meanwhile.
#[test]
fn what_vanished_between_two_wildcards_is_removed_if_a_response_was_under_way() {
    let mut peer = Peer::delta("lds c=1 d=1");
    assert_eq!(peer.subscribe("lds"), ["lds c=1 d=1"]);
    assert_eq!(peer.unsubscribe("lds *"), SILENCE);
    assert_eq!(peer.publish("lds -c"), SILENCE, "nothing of it is wanted");
    assert_eq!(peer.send_delta("lds *", ""), SILENCE, "the first response is not answered yet");
    assert_eq!(peer.ack("lds"), ["lds d=1 -c"]);
    peer.ack("lds");

    // It has answered, so it wanted nothing when the response came.
    assert_eq!(peer.publish("lds e=1"), ["lds e=1"]);
    assert_eq!(peer.unsubscribe("lds *"), SILENCE);
    peer.ack("lds");
    assert_eq!(peer.publish("lds -d"), SILENCE);
    assert_eq!(peer.send_delta("lds *", ""), ["lds e=1"]);
}
