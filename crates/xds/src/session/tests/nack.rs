//! Rejected and unanswered responses.

use super::harness::{Peer, SILENCE};
use crate::session::RequestKind;
use crate::session::tests::types::ResourceType;

#[test]
fn rule_03_after_a_nack_nothing_is_sent_until_content_changes() {
    for mut peer in [Peer::sotw("cds a=1 b=1"), Peer::delta("cds a=1 b=1")] {
        assert_eq!(peer.open("cds"), ["cds a=1 b=1"]);
        assert_eq!(peer.nack("cds"), SILENCE);
        assert!(matches!(peer.kind, Some(RequestKind::Nack { .. })));
        assert_eq!(peer.nack("cds"), SILENCE, "the same NACK again");
        assert_eq!(peer.drain(), SILENCE);
        assert_eq!(peer.publish("eds a=1"), SILENCE, "of another type");
        // The first response was never accepted: all of it.
        assert_eq!(peer.publish("cds a=2"), ["cds a=2 b=1"]);
        assert_eq!(peer.ack("cds"), SILENCE);
        assert_eq!(
            peer.publish("cds a=1"),
            [if peer.is_delta() { "cds a=1" } else { "cds a=1 b=1" }]
        );
    }
}

#[test]
fn rule_03_what_was_rejected_comes_again_with_the_next_change() {
    for mut peer in [Peer::sotw("eds a=1 b=1 c=1"), Peer::delta("eds a=1 b=1 c=1")] {
        peer.open("eds a b c");
        peer.ack("eds");
        assert_eq!(peer.publish("eds a=bad b=2"), ["eds a=bad b=2"]);
        assert_eq!(peer.nack("eds"), SILENCE);
        assert_eq!(peer.publish("eds a=bad"), SILENCE);
        assert_eq!(peer.publish("eds a=3"), ["eds a=3 b=2"]);
        assert_eq!(peer.nack("eds"), SILENCE);
        assert_eq!(peer.publish("eds c=2"), ["eds a=3 b=2 c=2"]);
        assert_eq!(peer.ack("eds"), SILENCE);
        assert_eq!(peer.publish("eds c=3"), ["eds c=3"], "once accepted, not again");
    }
}

#[test]
fn rule_03_names_that_were_asked_for_and_rejected_come_again() {
    for mut peer in [Peer::sotw("eds a=1 b=bad c=1"), Peer::delta("eds a=1 b=bad c=1")] {
        peer.open("eds a");
        peer.ack("eds");
        // SotW names everything, delta what is new.
        let more = if peer.is_delta() { "eds b c" } else { "eds a b c" };
        assert_eq!(peer.open(more), ["eds b=bad c=1"]);
        assert_eq!(peer.nack("eds"), SILENCE);
        assert_eq!(peer.publish("eds b=2"), ["eds b=2 c=1"], "c was rejected along with b");
        assert_eq!(peer.ack("eds"), SILENCE);
        assert_eq!(peer.publish("eds a=2"), ["eds a=2"]);
    }
}

#[test]
fn rule_03_a_rejected_name_that_is_deleted_frees_the_others() {
    let mut peer = Peer::sotw("rds bad=1 good=1");
    peer.subscribe_sotw("rds bad good");
    peer.nack("rds");
    // In SotW there is no way to say it, but it is a change, and what is left may be fine.
    assert_eq!(peer.publish("rds -bad"), ["rds good=1"]);
    assert_eq!(peer.ack("rds"), SILENCE);

    let mut peer = Peer::delta("rds bad=1 good=1");
    peer.subscribe("rds bad good");
    peer.nack("rds");
    assert_eq!(peer.publish("rds -bad"), ["rds good=1 -bad"]);
}

#[test]
fn rule_03_removals_that_were_rejected_come_again() {
    let mut peer = Peer::delta("cds a=1 b=1 c=1");
    peer.subscribe("cds");
    peer.ack("cds");
    assert_eq!(peer.publish("cds a=bad -b"), ["cds a=bad -b"]);
    peer.nack("cds");
    assert_eq!(peer.publish("cds a=2"), ["cds a=2 -b"]);
    peer.ack("cds");

    // Nothing of this stream was accepted yet, some may have been taken all the same: the removal
    // of what a rejected response brought is told.
    let mut peer = Peer::delta("cds a=bad b=1");
    peer.subscribe("cds");
    peer.nack("cds");
    assert_eq!(peer.publish("cds a=2 -b"), ["cds a=2 -b"]);
}

#[test]
fn rule_03_what_a_rejected_response_may_have_left_behind_is_removed() {
    // b comes with a rejected response and goes with another: whichever of both the client took in
    // part, it is told in the end.
    let mut peer = Peer::delta("cds a=1");
    peer.subscribe("cds");
    peer.ack("cds");
    assert_eq!(peer.publish("cds a=bad b=1"), ["cds a=bad b=1"]);
    peer.nack("cds");
    assert_eq!(peer.publish("cds a=worse -b"), ["cds a=worse -b"]);
    peer.nack("cds");
    assert_eq!(peer.publish("cds a=2"), ["cds a=2 -b"]);
}

#[test]
fn rule_03_a_subscription_change_with_or_after_a_nack_is_served() {
    let mut peer = Peer::sotw("eds a=bad b=1 c=1");
    peer.subscribe_sotw("eds a");
    peer.names_are("eds a b");
    assert_eq!(peer.nack("eds"), ["eds b=1"], "what is new, not what was rejected");
    assert_eq!(peer.ack("eds"), SILENCE);
    assert_eq!(peer.publish("eds b=2"), ["eds a=bad b=2"], "the ACK was of b alone");

    let mut peer = Peer::delta("eds a=bad b=1");
    peer.subscribe("eds a");
    peer.nack("eds");
    assert_eq!(peer.subscribe("eds b"), ["eds b=1"]);
    peer.ack("eds");
    assert_eq!(peer.publish("eds b=2"), ["eds a=bad b=2"]);
}

#[test]
fn rule_03_no_loop_between_a_nack_and_warming() {
    for mut peer in [Peer::sotw("cds a=1 eds a=bad"), Peer::delta("cds a=1 eds a=bad")] {
        peer.open("cds");
        peer.open("eds a");
        peer.nack("eds");
        peer.ack("cds");
        // The cluster waits for its endpoints again, rejected or not; and no further.
        assert_eq!(peer.publish("cds a=2"), ["cds a=2", "eds a=bad"]);
        assert_eq!(peer.nack("eds"), SILENCE);
        assert_eq!(peer.ack("cds"), SILENCE);
        assert_eq!(peer.publish("eds a=2"), ["eds a=2"]);
    }
}

#[test]
fn one_unanswered_response_a_type() {
    for mut peer in [Peer::sotw("eds a=1"), Peer::delta("eds a=1")] {
        peer.open("eds a");
        assert_eq!(peer.publish("eds a=2"), SILENCE);
        assert_eq!(peer.publish("eds a=3"), SILENCE);
        assert_eq!(peer.ack("eds"), ["eds a=3"], "versions in between are skipped");
    }
}

#[test]
fn an_answer_that_does_not_come_holds_newer_content_only_for_so_long() {
    for mut peer in [Peer::sotw("eds a=1 b=1"), Peer::delta("eds a=1 b=1")] {
        let eds = ResourceType::Endpoint;
        peer.open("eds a b");
        let nonce = peer.session.unacked_nonce(eds).unwrap();
        peer.session.ack_timed_out(eds, nonce.wrapping_add(1));
        assert!(peer.session.unacked_nonce(eds).is_some(), "another response's");
        peer.session.ack_timed_out(eds, nonce);
        assert_eq!(peer.drain(), SILENCE, "there is no newer content");
        // Whether it arrived is not known: all of it, and what changed.
        assert_eq!(peer.publish("eds a=2"), ["eds a=2 b=1"]);
        assert_eq!(peer.publish("eds a=3"), SILENCE);
        assert_eq!(peer.ack("eds"), ["eds a=3"]);
    }
}

#[test]
fn a_late_ack_still_counts() {
    for mut peer in [Peer::sotw("eds a=1 b=1"), Peer::delta("eds a=1 b=1")] {
        let eds = ResourceType::Endpoint;
        peer.open("eds a b");
        let nonce = peer.session.unacked_nonce(eds).unwrap();
        peer.session.ack_timed_out(eds, nonce);
        assert_eq!(peer.ack("eds"), SILENCE);
        assert_eq!(peer.kind, Some(RequestKind::Ack { nonce }));
        assert_eq!(peer.publish("eds a=2"), ["eds a=2"]);
    }
}
