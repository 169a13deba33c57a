//! The number that a stream has acknowledged everything up to.

use envoy_types::pb::envoy::service::discovery::v3::DiscoveryRequest;

use super::harness::{Peer, SILENCE};
use super::order::{WORLD, both_variants, settled};
use crate::session::Generations;
use crate::session::tests::types::ResourceType;

fn publish(peer: &mut Peer, generation: u64, changes: &str) -> Vec<String> {
    peer.session.set_generation(generation);
    peer.publish(changes)
}

/// Sent, acknowledged.
fn numbers(peer: &Peer) -> (u64, u64) {
    let Generations { sent, acknowledged } = peer.session.generations();
    (sent, acknowledged)
}

/// Both settled at generation 5.
fn settled_at_5() -> [Peer; 2] {
    let mut both = both_variants();
    for peer in &mut both {
        assert_eq!(publish(peer, 5, ""), SILENCE);
        assert_eq!(numbers(peer), (5, 5), "nothing had to be sent");
    }
    both
}

#[test]
fn an_ack_of_each_type_is_needed() {
    for mut peer in settled_at_5() {
        publish(&mut peer, 6, "eds a=2 lds l=2");
        assert_eq!(numbers(&peer), (6, 5));
        peer.ack("eds");
        assert_eq!(numbers(&peer), (6, 5));
        peer.ack("lds");
        assert_eq!(numbers(&peer), (6, 6));
    }
}

#[test]
fn what_a_stream_is_not_subscribed_to_costs_it_nothing() {
    for mut peer in settled_at_5() {
        assert_eq!(publish(&mut peer, 6, "eds z=1 rds z=1"), SILENCE);
        assert_eq!(numbers(&peer), (6, 6));
    }
}

#[test]
fn in_a_mesh_that_never_rests_the_number_grows_with_the_acks() {
    for mut peer in settled_at_5() {
        publish(&mut peer, 6, "eds a=6");
        for generation in 7..20 {
            // Another one comes while the last is unanswered; its ACK proves what it was sent for.
            assert_eq!(publish(&mut peer, generation, &format!("eds a={generation}")), SILENCE);
            assert_eq!(numbers(&peer), (generation - 1, generation - 2));
            assert_eq!(peer.ack("eds").len(), 1);
            assert_eq!(numbers(&peer), (generation, generation - 1));
        }
        assert_eq!(peer.ack("eds"), SILENCE);
        assert_eq!(numbers(&peer), (19, 19));
    }
}

#[test]
fn a_nack_holds_the_type_until_an_ack() {
    for mut peer in settled_at_5() {
        publish(&mut peer, 6, "lds l=bad");
        assert_eq!(peer.nack("lds"), SILENCE);
        assert_eq!(numbers(&peer), (6, 5));
        publish(&mut peer, 7, "eds a=2");
        peer.ack("eds");
        assert_eq!(numbers(&peer), (7, 5), "others go on");
        publish(&mut peer, 8, "lds l=good");
        assert_eq!(numbers(&peer), (8, 5));
        peer.ack("lds");
        assert_eq!(numbers(&peer), (8, 8));
    }
}

#[test]
fn an_ack_of_other_resources_is_none_of_what_was_rejected() {
    for mut peer in settled_at_5() {
        publish(&mut peer, 6, "eds a=bad");
        peer.nack("eds");
        publish(&mut peer, 7, "eds c=1");
        let more = if peer.is_delta() {
            peer.subscribe("eds c")
        } else {
            peer.subscribe_sotw("eds a b c")
        };
        assert_eq!(more, ["eds c=1"]);
        peer.ack("eds");
        assert_eq!(numbers(&peer).1, 5, "a is still what it was");
        publish(&mut peer, 8, "eds a=good");
        peer.ack("eds");
        assert_eq!(numbers(&peer), (8, 8));
    }
}

#[test]
fn an_ack_that_does_not_come_holds_the_type_and_one_that_comes_late_counts() {
    for mut peer in settled_at_5() {
        publish(&mut peer, 6, "rds r=2");
        let nonce = peer.session.unacked_nonce(ResourceType::Route).unwrap();
        peer.session.ack_timed_out(ResourceType::Route, nonce);
        assert_eq!(publish(&mut peer, 7, "eds z=1"), SILENCE);
        assert_eq!(numbers(&peer), (7, 5));
        peer.ack("rds");
        assert_eq!(numbers(&peer), (7, 7));
    }
}

#[test]
fn what_waits_for_make_before_break_waits_here_too() {
    for mut peer in settled_at_5() {
        let said = publish(&mut peer, 6, "cds c=1 rds r=2");
        assert!(said.iter().all(|one| !one.starts_with("rds")), "{said:?}");
        assert_eq!(numbers(&peer), (5, 5), "the route is not sent");
        assert_eq!(peer.ack("cds"), ["rds r=2"]);
        assert_eq!(numbers(&peer), (6, 5));
        peer.ack("rds");
        let sent_again = peer.session.unacked_nonce(ResourceType::Endpoint).is_some();
        assert!(!sent_again, "c was not asked for");
        assert_eq!(numbers(&peer), (6, 6));
    }
}

#[test]
fn a_removal_of_clusters_that_is_held_back_is_not_acknowledged_with_the_rest() {
    for mut peer in settled_at_5() {
        publish(&mut peer, 6, "rds r=2");
        // The route leads to b until the ACK; a changes at once, b stays for a while.
        let said = publish(&mut peer, 7, "cds a=2 -b rds r=3");
        assert!(said[0].starts_with("cds a=2") && !said[0].contains("-b"), "{said:?}");
        peer.ack("cds");
        if peer.session.unacked_nonce(ResourceType::Endpoint).is_some() {
            peer.ack("eds");
        }
        assert_eq!(numbers(&peer), (6, 5), "r is at 6 and b is still there");
        let said = peer.ack("rds");
        assert_eq!((said[0].as_str(), said.len()), ("rds r=3", 2), "{said:?}");
        assert_eq!(numbers(&peer).0, 7);
        peer.ack("rds");
        assert!(numbers(&peer).1 < 7, "the removal is not acknowledged");
        peer.ack("cds");
        assert_eq!(numbers(&peer), (7, 7));
    }
}

#[test]
fn a_stream_that_starts_has_nothing_until_it_has_acknowledged() {
    for mut peer in [Peer::sotw(WORLD), Peer::delta(WORLD)] {
        peer.session.set_generation(7);
        peer.open("cds");
        assert_eq!(numbers(&peer), (7, 0));
        peer.ack("cds");
        assert_eq!(numbers(&peer), (7, 7), "the other types it has not opened");
        peer.open("lds");
        assert_eq!(numbers(&peer), (7, 0), "and now it has");
        peer.ack("lds");
        assert_eq!(numbers(&peer), (7, 7));
        assert_eq!(publish(&mut peer, 8, "rds r=2"), SILENCE);
        assert_eq!(numbers(&peer), (8, 8));
    }
}

#[test]
fn a_stream_that_reconnects_with_what_it_has_has_it_at_once() {
    // What SotW says of EDS and RDS is not enough to know.
    let mut peer = settled(Peer::delta(WORLD));
    peer.reconnect();
    peer.session.set_generation(9);
    for wanted in ["cds", "eds a b", "lds", "rds r"] {
        assert_eq!(peer.reopen(wanted), SILENCE);
    }
    assert_eq!(numbers(&peer), (9, 9));
}

#[test]
fn more_names_at_the_same_generation_are_owed() {
    for mut peer in settled_at_5() {
        peer.set(ResourceType::Endpoint, "c", Some("1"));
        publish(&mut peer, 6, "");
        assert_eq!(numbers(&peer), (6, 6));
        let more = if peer.is_delta() {
            peer.subscribe("eds c")
        } else {
            peer.subscribe_sotw("eds a b c")
        };
        assert_eq!(more, ["eds c=1"]);
        assert_eq!(numbers(&peer), (6, 5));
        peer.ack("eds");
        assert_eq!(numbers(&peer), (6, 6));
    }
}

#[test]
fn a_stream_that_goes_to_another_view_has_its_difference_to_acknowledge() {
    for mut peer in settled_at_5() {
        // The sets of another view: what differs is sent, under the same generation.
        let other = Peer::delta("cds a=1 b=1 eds a=other b=1 lds l=1 rds r=1");
        peer.sets = other.sets;
        assert_eq!(publish(&mut peer, 5, ""), ["eds a=other"]);
        assert_eq!(numbers(&peer), (5, 4));
        peer.ack("eds");
        assert_eq!(numbers(&peer), (5, 5));
    }
}

#[test]
fn delta_what_vanished_meanwhile_is_owed_until_its_removal_is_acknowledged() {
    let mut peer = settled(Peer::delta(WORLD));
    peer.change("cds -b");
    peer.reconnect();
    peer.session.set_generation(5);
    assert_eq!(peer.reopen("cds"), ["cds"]);
    // A generation without anything for this stream comes while the first response is unanswered.
    assert_eq!(publish(&mut peer, 6, ""), SILENCE);
    assert_eq!(peer.ack("cds"), ["cds -b"]);
    assert!(numbers(&peer).1 < 5, "{:?}: it still has b", numbers(&peer));
    peer.ack("cds");
    assert_eq!(numbers(&peer), (6, 6));
}

#[test]
fn types_that_are_not_served_do_not_count() {
    let mut peer = Peer::sotw(WORLD);
    peer.session.set_generation(3);
    let type_url = "type.googleapis.com/none.such".to_owned();
    peer.raw_sotw(DiscoveryRequest { type_url, ..Default::default() });
    assert_eq!(numbers(&peer), (3, 3));
}
