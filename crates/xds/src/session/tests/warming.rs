//! Clusters that wait for their endpoints.

use super::harness::{Peer, SILENCE};
use super::order::{WORLD, both_variants, settled};
use crate::session::tests::types::ResourceType;

#[test]
fn rule_19_a_changed_cluster_gets_its_endpoints_again_after_it() {
    for mut peer in both_variants() {
        let said = peer.publish("cds a=2");
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("cds a=2"));
        assert_eq!(said[1], "eds a=1", "unchanged, and only of that cluster");
        assert_eq!(peer.ack("eds"), SILENCE);
        assert_eq!(peer.ack("cds"), SILENCE);
    }
}

#[test]
fn rule_19_endpoints_that_went_before_the_cluster_do_not_count() {
    for mut peer in both_variants() {
        peer.publish("eds a=2");
        // The EDS response before is not answered: the resend follows as soon as it is.
        let said = peer.publish("cds a=2");
        assert_eq!(said.len(), 1, "{said:?}");
        assert_eq!(peer.ack("eds"), ["eds a=2"]);
        assert_eq!(peer.ack("eds"), SILENCE);
    }
}

#[test]
fn rule_19_many_changes_while_endpoints_are_held() {
    for mut peer in both_variants() {
        peer.publish("eds b=2");
        peer.publish("cds a=2");
        peer.ack("cds");
        peer.publish("cds b=2");
        peer.ack("cds");
        assert_eq!(peer.ack("eds"), ["eds a=1 b=2"]);
    }
    // However long it takes.
    for mut peer in both_variants() {
        peer.publish("eds b=2");
        for content in 2..30 {
            peer.publish(&format!("cds a={content}"));
            peer.ack("cds");
        }
        let said = peer.ack("eds");
        assert_eq!(said.len(), 1);
        assert!(said[0].starts_with("eds a=1"), "{said:?}");
    }
}

#[test]
fn rule_19_a_cluster_held_back_brings_its_endpoints_when_it_goes() {
    for mut peer in both_variants() {
        peer.publish("cds a=2");
        peer.ack("eds");
        assert_eq!(peer.publish("cds b=2 eds b=2"), ["eds b=2"], "CDS is not answered");
        peer.ack("eds");
        let said = peer.ack("cds");
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(said[1], "eds b=2");
    }
}

#[test]
fn rule_19_a_cluster_that_returns_gets_its_endpoints() {
    for mut peer in both_variants() {
        peer.publish("cds -a eds -a");
        peer.ack("cds");
        if peer.is_delta() {
            peer.ack("eds");
        }
        let said = peer.publish("cds a=1 eds a=1");
        assert!(said[0].starts_with("cds a=1"), "{said:?}");
        assert_eq!(said[1..], ["eds a=1"]);
    }
}

#[test]
fn rule_19_a_removed_cluster_needs_no_endpoints() {
    let mut peer = settled(Peer::delta(WORLD));
    // Order: the endpoints' removal need not wait for the cluster's, and is told once.
    let said = peer.publish("cds -a eds -a");
    assert_eq!(said, ["cds -a", "eds -a"]);
    peer.ack("eds");
    assert_eq!(peer.ack("cds"), SILENCE);
    peer.publish("eds b=2");
    peer.publish("cds -b");
    assert_eq!(peer.ack("eds"), SILENCE, "b is no cluster any more");
}

#[test]
fn rule_19_in_sotw_endpoints_asked_for_again_are_sent_after_the_cluster() {
    let mut peer = settled(Peer::sotw(WORLD));
    peer.publish("cds a=2");
    peer.ack("eds");
    // The request of the changed cluster looks like an ACK.
    assert_eq!(peer.subscribe_sotw("eds a b"), ["eds a=1 b=1"]);
    assert_eq!(peer.ack("eds"), SILENCE);
}

#[test]
fn rule_19_clusters_before_endpoints_at_the_start() {
    for mut peer in [Peer::sotw(WORLD), Peer::delta(WORLD)] {
        assert_eq!(peer.open("cds"), ["cds a=1 b=1"]);
        assert_eq!(peer.open("eds a b"), ["eds a=1 b=1"], "while CDS waits for its ACK");
        assert_eq!(peer.ack("eds"), SILENCE);
        assert_eq!(peer.ack("cds"), SILENCE, "nothing twice");
    }
}

#[test]
fn rule_19_delta_reconnect_with_one_changed_cluster() {
    // The changed cluster's endpoints come after it, although their version is the same, and
    // nothing else comes.
    let has_all = || {
        let mut peer = settled(Peer::delta(WORLD));
        peer.change("cds a=2");
        peer.reconnect();
        peer
    };
    let mut peer = has_all();
    assert_eq!(peer.reopen("cds"), ["cds a=2"]);
    assert_eq!(peer.reopen("eds a b"), ["eds a=1"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.ack("eds"), SILENCE);

    let mut peer = has_all();
    assert_eq!(peer.reopen("cds"), ["cds a=2"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.reopen("eds a b"), ["eds a=1"]);
}

#[test]
fn rule_19_delta_endpoints_without_clusters_are_those_of_a_cluster_still_warming() {
    let mut peer = settled(Peer::delta(WORLD));
    // The stream breaks before the endpoints are there.
    assert_eq!(peer.publish("cds a=2"), ["cds a=2", "eds a=1"]);
    peer.reconnect();
    assert_eq!(peer.reopen("eds a b"), ["eds a=1 b=1"], "one of them is waited for");
    assert_eq!(peer.ack("eds"), SILENCE);
    // Now it is warm, and clusters are asked for.
    assert_eq!(peer.reopen("cds"), ["cds a=2", "eds a=1"], "the ACK of that was lost");
    // A stream of endpoints alone has its clusters elsewhere.
    peer.only(ResourceType::Endpoint);
    assert_eq!(peer.reopen("eds a b"), SILENCE);
}

#[test]
fn rule_19_delta_clusters_that_are_told_anew_need_their_endpoints_anew() {
    // A client that brings endpoints along but no clusters.
    let mut peer = settled(Peer::delta(WORLD));
    peer.has[ResourceType::Cluster.index()].clear();
    peer.reconnect();
    assert_eq!(peer.reopen("cds"), ["cds a=1 b=1"]);
    assert_eq!(peer.reopen("eds a b"), ["eds a=1 b=1"]);
}

#[test]
fn rule_19_clusters_asked_for_by_name_get_their_endpoints() {
    let mut peer = Peer::delta("cds a=1 eds a=1");
    assert_eq!(peer.subscribe("eds a"), ["eds a=1"]);
    peer.ack("eds");
    assert_eq!(peer.subscribe("cds a"), ["cds a=1", "eds a=1"]);
    peer.ack("eds");
    peer.ack("cds");
    assert_eq!(peer.subscribe("cds a"), ["cds a=1", "eds a=1"], "it may have lost it");

    let mut peer = Peer::sotw("cds a=1 b=1 eds a=1 b=1");
    peer.subscribe_sotw("cds a");
    peer.subscribe_sotw("eds a b");
    peer.ack("cds");
    peer.ack("eds");
    assert_eq!(peer.subscribe_sotw("cds a b"), ["cds a=1 b=1", "eds b=1"]);
}

#[test]
fn rule_19_listeners_with_known_routes_need_nothing() {
    for mut peer in both_variants() {
        assert_eq!(peer.publish("lds l=2"), ["lds l=2"]);
        assert_eq!(peer.ack("lds"), SILENCE);
    }
}
