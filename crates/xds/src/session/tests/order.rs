//! The order among types.

use std::sync::Arc;

use super::harness::{Peer, SILENCE};
use crate::session::tests::types::ResourceType;

pub(super) const WORLD: &str = "cds a=1 b=1 eds a=1 b=1 lds l=1 rds r=1";

/// A peer that has everything and has accepted it.
pub(super) fn settled(mut peer: Peer) -> Peer {
    for wanted in ["cds", "eds a b", "lds", "rds r"] {
        peer.open(wanted);
        assert_eq!(peer.ack(&wanted[..3]), SILENCE);
    }
    peer
}

pub(super) fn both_variants() -> [Peer; 2] {
    [settled(Peer::sotw(WORLD)), settled(Peer::delta(WORLD))]
}

#[test]
fn rule_18_make_before_break() {
    for mut peer in both_variants() {
        let said = peer.publish("rds r=2 lds l=2 eds a=2 cds c=1");
        let order: Vec<_> = said.iter().map(|one| &one[..3]).collect();
        assert_eq!(order, ["cds", "eds"], "a cluster is added, Envoy warms it before it ACKs");
        assert_eq!(peer.ack("cds"), ["lds l=2", "rds r=2"]);
    }
    // A cluster that only changes stays in use until the new one is warm.
    for mut peer in both_variants() {
        let said = peer.publish("rds r=2 lds l=2 eds a=2 cds a=2");
        let order: Vec<_> = said.iter().map(|one| &one[..3]).collect();
        assert_eq!(order, ["cds", "eds", "lds", "rds"]);
    }
}

#[test]
fn rule_18_a_nack_of_new_clusters_lets_routes_go() {
    for mut peer in both_variants() {
        assert_eq!(peer.publish("cds c=1 rds r=2").len(), 1, "the route waits");
        assert_eq!(peer.nack("cds"), ["rds r=2"]);
    }
}

#[test]
fn rule_18_a_mesh_that_never_rests_does_not_hold_routes_for_ever() {
    for mut peer in both_variants() {
        peer.publish("cds c0=1 rds r=2");
        let rounds = (1..10).take_while(|round| {
            peer.change(&format!("cds c{round}=1"));
            peer.ack("cds").iter().all(|said| said != "rds r=2")
        });
        assert!((1..9).contains(&rounds.count()), "at once, or not at all");
    }
}

#[test]
fn rule_18_clusters_that_only_vanish_go_after_what_refers_to_them() {
    for mut peer in both_variants() {
        let said = peer.publish("cds -b lds l=2 rds r=2");
        let clusters = if peer.is_delta() { "cds -b" } else { "cds a=1" };
        assert_eq!(said, ["lds l=2", "rds r=2", clusters]);
    }
    // They wait as long as the routes that lead to them cannot be replaced.
    for mut peer in both_variants() {
        peer.publish("rds r=2");
        assert_eq!(peer.publish("cds -b rds r=3"), SILENCE, "the last RDS is not answered");
        let said = peer.ack("rds");
        assert_eq!(said[0], "rds r=3");
        assert_eq!(said.len(), 2, "{said:?}");
    }
}

#[test]
fn rule_18_routes_of_which_there_are_none_hold_no_removal_back() {
    // The client reconnects with routes of an earlier stream, of which none is left: they wait for the
    // ACK of the clusters, and then there is nothing to send of them.
    let mut peer = Peer::sotw("cds a=1 b=1");
    peer.accepted = std::array::from_fn(|_| "of an earlier stream".to_owned());
    assert_eq!(peer.open("cds"), ["cds a=1 b=1"]);
    assert_eq!(peer.publish("cds -b"), SILENCE, "the clusters are not acknowledged");
    assert_eq!(peer.open("rds r"), SILENCE);
    assert_eq!(peer.ack("cds"), ["cds a=1"]);
}

#[test]
fn rule_18_endpoints_never_wait_for_the_ack_of_clusters() {
    for mut peer in both_variants() {
        peer.publish("cds a=2");
        peer.ack("eds");
        // Envoy withholds the ACK of CDS until clusters are warm.
        assert!(peer.session.unacked_nonce(ResourceType::Cluster).is_some());
        assert_eq!(peer.publish("eds a=2"), ["eds a=2"]);
        peer.ack("eds");
        assert_eq!(peer.publish("eds b=2"), ["eds b=2"]);
    }
}

#[test]
fn rule_18_listeners_and_routes_wait_for_clusters_that_cannot_be_sent() {
    for mut peer in both_variants() {
        peer.publish("cds a=2");
        peer.ack("eds");
        assert_eq!(
            peer.publish("cds c=1 lds l=2 rds r=2"),
            SILENCE,
            "what they refer to is not there yet"
        );
        // Asked for, they are given all the same: the proxy may be starting.
        let said = peer.ack("cds");
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].ends_with("c=1"), "{said:?}");
        assert_eq!(peer.ack("cds"), ["lds l=2", "rds r=2"]);
    }
}

#[test]
fn rule_18_a_missing_ack_of_clusters_does_not_hold_listeners_for_ever() {
    for mut peer in both_variants() {
        peer.publish("cds a=2");
        assert_eq!(peer.publish("cds c=1 lds l=2"), SILENCE);
        let mut give_up = || {
            let nonce = peer.session.unacked_nonce(ResourceType::Cluster).unwrap();
            peer.session.ack_timed_out(ResourceType::Cluster, nonce);
            peer.drain()
        };
        let said = give_up();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("cds") && said[0].ends_with("c=1"), "{said:?}");
        assert_eq!(give_up(), ["lds l=2"]);
    }
}

#[test]
fn rule_18_an_unanswered_cds_holds_nothing_if_no_cluster_is_missing() {
    for mut peer in both_variants() {
        peer.publish("cds a=2");
        assert_eq!(peer.publish("lds l=2 rds r=2"), ["lds l=2", "rds r=2"]);
    }
}

#[test]
fn rule_18_clusters_that_vanish_where_others_are_added_go_after_the_routes() {
    // A proxy that was silent sees all of it in one step.
    let mut peer = settled(Peer::delta(WORLD));
    assert_eq!(peer.publish("cds c=1 -b rds r=2"), ["cds c=1"]);
    assert_eq!(peer.ack("cds"), ["rds r=2", "cds -b"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    let mut peer = settled(Peer::sotw(WORLD));
    assert_eq!(peer.publish("cds c=1 -b rds r=2"), ["cds a=1 b=1 c=1"], "absence would delete");
    assert_eq!(peer.ack("cds"), ["rds r=2", "cds a=1 c=1"]);
    assert_eq!(peer.ack("cds"), SILENCE);

    // However many steps, and whatever becomes of them.
    let mut peer = settled(Peer::delta(WORLD));
    peer.publish("cds c=1 -b rds r=2");
    peer.change("cds d=1 -a");
    assert_eq!(peer.ack("cds"), ["cds d=1"]);
    peer.change("cds e=1 a=2 b=2");
    assert_eq!(peer.nack("cds"), ["cds a=2 b=2 d=1 e=1", "eds a=1 b=1"]);
    assert_eq!(peer.ack("cds"), ["rds r=2"]);
    peer.ack("eds");
    peer.ack("rds");
    assert_eq!(peer.publish("cds f=bad -a rds r=3"), ["cds f=bad"]);
    assert_eq!(peer.nack("cds"), ["rds r=3", "cds f=bad -a"], "what vanished is a change");
    assert_eq!(peer.nack("cds"), SILENCE);
    assert_eq!(peer.publish("cds f=2"), ["cds f=2 -a"]);
}

#[test]
fn rule_18_what_is_kept_for_a_while_is_shared() {
    for mut one in both_variants() {
        let mut other = one.twin();
        for wanted in ["cds", "eds a b", "lds", "rds r"] {
            other.open(wanted);
            other.ack(&wanted[..3]);
        }
        one.change("cds c=1 -b rds r=2");
        other.sets = one.sets.each_ref().map(Arc::clone);
        for peer in [&mut one, &mut other] {
            assert_eq!(peer.drain().len(), 1);
        }
        assert_eq!(one.last("cds").head.as_ptr(), other.last("cds").head.as_ptr());
    }
}

/// A peer whose service moved to another cluster while it had no stream.
fn moved(mut peer: Peer) -> Peer {
    peer.change("cds c=1 -b eds c=1 -b rds r=2 lds l=2");
    peer.reconnect();
    peer
}

#[test]
fn rule_18_delta_a_client_that_comes_back_gets_routes_after_new_clusters() {
    let mut peer = moved(settled(Peer::delta(WORLD)));
    assert_eq!(peer.reopen("cds"), ["cds c=1"], "its route still leads to b");
    assert_eq!(peer.reopen("eds a b"), ["eds -b"]);
    peer.ack("eds");
    assert_eq!(peer.reopen("lds"), SILENCE, "c is not warm");
    assert_eq!(peer.reopen("rds r"), SILENCE);
    assert_eq!(peer.subscribe("eds c"), ["eds c=1"], "never held");
    peer.ack("eds");
    assert_eq!(peer.ack("cds"), ["lds l=2", "rds r=2", "cds -b"]);
    for resource_type in ["cds", "lds", "rds"] {
        assert_eq!(peer.ack(resource_type), SILENCE);
    }
}

#[test]
fn rule_18_delta_clusters_that_vanished_meanwhile_go_after_what_refers_to_them() {
    let mut peer = settled(Peer::delta(WORLD));
    peer.change("cds -b eds -b rds r=2");
    peer.reconnect();
    // Nothing to add. With its ACK the client has opened its other types.
    assert_eq!(peer.reopen("cds"), ["cds"]);
    assert_eq!(peer.reopen("rds r"), ["rds r=2"]);
    assert_eq!(peer.ack("cds"), ["cds -b"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.publish("cds b=1"), ["cds b=1"]);

    // It returns before the removal could go.
    let mut peer = settled(Peer::delta(WORLD));
    peer.change("cds -b");
    peer.reconnect();
    assert_eq!(peer.reopen("cds"), ["cds"]);
    peer.change("cds b=2");
    assert_eq!(peer.ack("cds"), ["cds b=2"]);

    // Nobody ever answers.
    let mut peer = settled(Peer::delta(WORLD));
    peer.change("cds -b");
    peer.reconnect();
    peer.reopen("cds");
    let nonce = peer.session.unacked_nonce(ResourceType::Cluster).unwrap();
    peer.session.ack_timed_out(ResourceType::Cluster, nonce);
    assert_eq!(peer.drain(), ["cds -b"]);
}

#[test]
fn rule_18_sotw_a_client_that_comes_back_gets_routes_after_its_clusters() {
    let mut peer = moved(settled(Peer::sotw(WORLD)));
    assert_eq!(peer.subscribe_sotw("cds"), ["cds a=1 c=1"]);
    assert_eq!(peer.subscribe_sotw("eds a b"), ["eds a=1"]);
    assert_eq!(peer.subscribe_sotw("lds"), SILENCE);
    assert_eq!(peer.subscribe_sotw("rds r"), SILENCE);
    peer.ack("eds");
    assert_eq!(peer.subscribe_sotw("eds a b c"), ["eds c=1"]);
    assert_eq!(peer.ack("cds"), ["lds l=2", "rds r=2"]);

    // Without any change of clusters there is nothing to wait for.
    peer.ack("lds");
    peer.ack("rds");
    peer.change("rds r=3");
    peer.reconnect();
    assert_eq!(peer.subscribe_sotw("cds"), SILENCE);
    assert_eq!(peer.subscribe_sotw("rds r"), ["rds r=3"]);
}

#[test]
fn rule_18_a_client_that_starts_waits_for_nothing() {
    for mut peer in [Peer::sotw(WORLD), Peer::delta(WORLD)] {
        for wanted in ["cds", "eds a b", "lds", "rds r"] {
            assert_eq!(peer.open(wanted).len(), 1, "{wanted}, and nothing is ACKed");
        }
    }
    // Nor does one that comes back wait for what it did not have.
    let mut peer = moved(settled(Peer::delta(WORLD)));
    peer.change("rds s=1");
    peer.reopen("cds");
    assert_eq!(peer.reopen("rds r s"), ["rds r=2 s=1"]);
    let mut peer = moved(settled(Peer::delta(WORLD)));
    peer.change("rds s=1");
    peer.reopen("cds");
    assert_eq!(peer.reopen("rds r"), SILENCE);
    assert_eq!(peer.subscribe("rds s"), ["rds r=2 s=1"]);
}

#[test]
fn rule_18_a_client_that_comes_back_does_not_wait_for_ever() {
    let open = |peer: &mut Peer, wanted: &str| match peer.is_delta() {
        true => peer.reopen(wanted),
        false => peer.subscribe_sotw(wanted),
    };
    for mut peer in both_variants().map(moved) {
        open(&mut peer, "cds");
        assert_eq!(open(&mut peer, "rds r"), SILENCE);
        // New clusters all the time.
        let rounds = (1..10).take_while(|round| {
            peer.change(&format!("cds d{round}=1"));
            peer.ack("cds").iter().all(|said| said != "rds r=2")
        });
        assert!((1..9).contains(&rounds.count()));
    }
    for mut peer in both_variants().map(moved) {
        open(&mut peer, "cds");
        assert_eq!(open(&mut peer, "rds r"), SILENCE);
        let nonce = peer.session.unacked_nonce(ResourceType::Cluster).unwrap();
        peer.session.ack_timed_out(ResourceType::Cluster, nonce);
        assert_eq!(peer.drain()[0], "rds r=2");
    }
}
