//! What only state of the world has, or has differently.

use std::sync::Arc;

use super::harness::{Peer, SILENCE};
use crate::Version;
use crate::session::tests::types::ResourceType;

#[test]
fn rule_05_sotw_new_names_are_sent_without_a_new_version() {
    let mut peer = Peer::sotw("eds a=1 b=1 c=1");
    assert_eq!(peer.subscribe_sotw("eds a"), ["eds a=1"]);
    assert_eq!(peer.ack("eds"), SILENCE);
    assert_eq!(peer.subscribe_sotw("eds a b"), ["eds b=1"]);
    assert_eq!(peer.ack("eds"), SILENCE);
    // Forgotten, so that it comes when it is asked for again.
    assert_eq!(peer.subscribe_sotw("eds b"), SILENCE);
    assert_eq!(peer.publish("eds a=1"), SILENCE);
    assert_eq!(peer.subscribe_sotw("eds a b"), ["eds a=1"]);
}

#[test]
fn rule_05_sotw_a_name_unsubscribed_before_it_was_sent_is_not_sent() {
    let mut peer = Peer::sotw("eds a=1 b=1 c=1");
    peer.subscribe_sotw("eds a");
    let before = peer.last("eds").nonce.clone();
    peer.ack("eds");
    peer.publish("eds a=2");
    for names in ["eds a b c", "eds a c"] {
        peer.names_are(names);
        let said = peer.send_sotw(ResourceType::Endpoint, &before, None);
        assert_eq!(said, SILENCE, "the last response is not answered");
    }
    assert_eq!(peer.ack("eds"), ["eds c=1"]);
}

#[test]
fn rule_05_sotw_the_same_request_after_its_ack_is_answered_again() {
    // gRPC, when the cluster that the endpoints belong to vanished and returned.
    let mut peer = Peer::sotw("eds a=1 b=1");
    peer.subscribe_sotw("eds a b");
    assert_eq!(peer.ack("eds"), SILENCE);
    assert_eq!(peer.subscribe_sotw("eds a b"), ["eds a=1 b=1"]);
    assert_eq!(peer.ack("eds"), SILENCE, "an ACK is not a request for more");
}

#[test]
fn rule_05_sotw_full_state_names_that_come_are_sent_with_the_rest() {
    let mut peer = Peer::sotw("cds a=1 b=1 c=1");
    assert_eq!(peer.subscribe_sotw("cds a"), ["cds a=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe_sotw("cds a b"), ["cds a=1 b=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe_sotw("cds b"), SILENCE, "the client knows what it no longer wants");
    assert_eq!(peer.publish("cds a=2"), SILENCE);
    assert_eq!(peer.subscribe_sotw("cds a b"), ["cds a=2 b=1"]);
}

#[test]
fn rule_06_sotw_wildcard_legacy_and_explicit() {
    for wildcard in ["cds", "cds *"] {
        let mut peer = Peer::sotw("cds a=1 b=1");
        assert_eq!(peer.subscribe_sotw(wildcard), ["cds a=1 b=1"]);
        assert_eq!(peer.ack("cds"), SILENCE);
        assert_eq!(peer.publish("cds c=1"), ["cds a=1 b=1 c=1"]);
    }
}

#[test]
fn rule_06_sotw_a_name_ends_the_implicit_wildcard() {
    let mut peer = Peer::sotw("cds a=1 b=1");
    peer.subscribe_sotw("cds");
    peer.ack("cds");
    assert_eq!(peer.subscribe_sotw("cds a"), ["cds a=1"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds b=2"), SILENCE);
    // Once a name was seen, an empty list is none.
    assert_eq!(peer.subscribe_sotw("cds"), SILENCE);
    assert_eq!(peer.publish("cds a=2 b=3"), SILENCE);
    assert_eq!(peer.subscribe_sotw("cds *"), ["cds a=2 b=3"]);
}

#[test]
fn rule_06_sotw_the_wildcard_beside_a_name_stays() {
    let mut peer = Peer::sotw("cds a=1 b=1");
    assert_eq!(peer.subscribe_sotw("cds a *"), ["cds a=1 b=1"]);
    peer.ack("cds");
    assert_eq!(peer.publish("cds c=1"), ["cds a=1 b=1 c=1"]);
    peer.ack("cds");
    assert_eq!(peer.subscribe_sotw("cds a"), ["cds a=1"], "the named one survives");
    peer.ack("cds");
    assert_eq!(peer.subscribe_sotw("cds"), SILENCE);
    assert_eq!(peer.publish("cds a=2"), SILENCE);
}

#[test]
fn rule_06_sotw_an_empty_first_list_of_endpoints_or_routes_is_nothing() {
    let mut peer = Peer::sotw("eds a=1 rds r=1");
    assert_eq!(peer.subscribe_sotw("eds"), SILENCE);
    assert_eq!(peer.subscribe_sotw("rds"), SILENCE);
    assert_eq!(peer.publish("eds a=2 rds r=2"), SILENCE);
    assert_eq!(peer.subscribe_sotw("eds a"), ["eds a=2"]);
    assert_eq!(peer.subscribe_sotw("rds *"), SILENCE, "only LDS and CDS know the wildcard");
    assert_eq!(peer.publish("rds r=3"), SILENCE);
}

#[test]
fn rule_07_sotw_clusters_and_listeners_come_whole_and_only_on_change() {
    for resource_type in ["cds", "lds"] {
        let mut peer = Peer::sotw(&format!("{resource_type} a=1 b=1"));
        assert_eq!(peer.subscribe_sotw(resource_type), [format!("{resource_type} a=1 b=1")]);
        peer.ack(resource_type);
        assert_eq!(
            peer.publish(&format!("{resource_type} a=2")),
            [format!("{resource_type} a=2 b=1")]
        );
        peer.ack(resource_type);
        assert_eq!(peer.publish(&format!("{resource_type} a=2")), SILENCE);
        assert_eq!(
            peer.publish(&format!("{resource_type} -a")),
            [format!("{resource_type} b=1")],
            "absence deletes"
        );
        peer.ack(resource_type);
        assert_eq!(peer.publish("eds a=1"), SILENCE);
        assert_eq!(peer.publish(&format!("{resource_type} -b")), [resource_type]);
    }
}

#[test]
fn rule_07_sotw_a_named_listener_that_vanishes_is_left_out() {
    let mut peer = Peer::sotw("lds a=1 b=1");
    peer.subscribe_sotw("lds a b");
    peer.ack("lds");
    assert_eq!(peer.publish("lds -a"), ["lds b=1"]);
}

#[test]
fn rule_07_sotw_endpoints_and_routes_come_as_they_change() {
    for resource_type in ["eds", "rds"] {
        let mut peer = Peer::sotw(&format!("{resource_type} a=1 b=1"));
        assert_eq!(
            peer.subscribe_sotw(&format!("{resource_type} a b")),
            [format!("{resource_type} a=1 b=1")]
        );
        peer.ack(resource_type);
        assert_eq!(
            peer.publish(&format!("{resource_type} b=2 c=1")),
            [format!("{resource_type} b=2")]
        );
        peer.ack(resource_type);
        // There is no way to say that one is gone.
        assert_eq!(peer.publish(&format!("{resource_type} -b")), SILENCE);
        assert_eq!(
            peer.publish(&format!("{resource_type} b=2")),
            [format!("{resource_type} b=2")],
            "it returned"
        );
    }
}

#[test]
fn rule_08_sotw_a_missing_name_is_sent_when_it_is_created() {
    for resource_type in ["eds", "rds", "cds", "lds"] {
        let mut peer = Peer::sotw("");
        let wanted = format!("{resource_type} a");
        match resource_type {
            // A full state without the name says that it is missing.
            "cds" | "lds" => assert_eq!(peer.subscribe_sotw(&wanted), [resource_type]),
            _ => assert_eq!(peer.subscribe_sotw(&wanted), SILENCE),
        }
        if matches!(resource_type, "cds" | "lds") {
            peer.ack(resource_type);
        }
        assert_eq!(peer.publish(&format!("{resource_type} b=1")), SILENCE);
        assert_eq!(peer.publish(&format!("{resource_type} a=1")), [format!("{resource_type} a=1")]);
    }
}

#[test]
fn rule_14_sotw_the_first_wildcard_request_is_answered_even_if_with_nothing() {
    let mut peer = Peer::sotw("");
    assert_eq!(peer.subscribe_sotw("cds"), ["cds"]);
    assert_eq!(peer.subscribe_sotw("lds *"), ["lds"]);
    assert_eq!(peer.ack("cds"), SILENCE);
    assert_eq!(peer.ack("lds"), SILENCE);
}

#[test]
fn rule_22_sotw_a_reconnecting_client_is_answered_only_where_it_must_be() {
    let mut peer = Peer::sotw("cds a=1 eds a=1 lds l=1 rds r=1");
    for (resource_type, wanted) in
        [("cds", "cds"), ("eds", "eds a"), ("lds", "lds"), ("rds", "rds r")]
    {
        peer.subscribe_sotw(wanted);
        peer.ack(resource_type);
    }
    peer.change("lds l=2");
    peer.reconnect();
    // The version is that of exactly this wildcard set: nothing to say.
    assert_eq!(peer.subscribe_sotw("cds"), SILENCE);
    assert_eq!(peer.subscribe_sotw("lds"), ["lds l=2"]);
    // By name the version does not tell which names it was of.
    assert_eq!(peer.subscribe_sotw("eds a"), ["eds a=1"]);
    assert_eq!(peer.subscribe_sotw("rds r"), ["rds r=1"]);
    for resource_type in ["lds", "eds", "rds"] {
        assert_eq!(peer.ack(resource_type), SILENCE);
    }
    assert_eq!(peer.publish("cds a=2"), ["cds a=2", "eds a=1"]);
}

#[test]
fn rule_22_sotw_the_version_of_a_subscription_is_a_function_of_what_it_sees() {
    let mut peer = Peer::sotw("eds a=1 b=1 c=1");
    let version = |peer: &Peer, names: &[&str]| {
        let set = &peer.sets[ResourceType::Endpoint.index()];
        let shares = names.iter().filter_map(|name| set.get(name)).map(|one| one.digest());
        Version(shares.fold(0, u64::wrapping_add)).to_string()
    };
    peer.subscribe_sotw("eds a b");
    assert_eq!(peer.last("eds").version, version(&peer, &["a", "b"]));
    peer.ack("eds");
    peer.publish("eds a=2 c=2");
    assert_eq!(peer.last("eds").version, version(&peer, &["a", "b"]));
    peer.ack("eds");
    // Asked for again in the very moment in which another one vanishes.
    peer.change("eds -b");
    assert_eq!(peer.subscribe_sotw("eds a b"), ["eds a=2"]);
    assert_eq!(peer.last("eds").version, version(&peer, &["a", "b"]));
    peer.ack("eds");
    peer.subscribe_sotw("eds a b c");
    assert_eq!(peer.last("eds").version, version(&peer, &["a", "b", "c"]));
    peer.ack("eds");
    // One vanishes, which is not told, and another one changes.
    assert_eq!(peer.publish("eds -c"), SILENCE);
    assert_eq!(peer.publish("eds a=3"), ["eds a=3"]);
    assert_eq!(peer.last("eds").version, version(&peer, &["a", "b", "c"]));
}

#[test]
fn equal_subscriptions_share_their_frames() {
    let mut one = Peer::sotw("cds a=1 b=1 eds a=1 b=1");
    let mut other = one.twin();
    let shared = |one: &Peer, other: &Peer, resource_type: &str| {
        let (one, other) = (one.last(resource_type), other.last(resource_type));
        assert_ne!(one.nonce, other.nonce);
        assert_eq!(one.head.as_ptr(), other.head.as_ptr(), "{resource_type}");
    };
    for peer in [&mut one, &mut other] {
        peer.subscribe_sotw("cds");
    }
    let _others = one.hold_as_many("a b");
    for peer in [&mut one, &mut other] {
        peer.subscribe_sotw("eds a b");
    }
    shared(&one, &other, "cds");
    shared(&one, &other, "eds");
    for peer in [&mut one, &mut other] {
        peer.ack("cds");
        peer.ack("eds");
    }
    one.change("cds a=2 eds b=2");
    other.sets = one.sets.each_ref().map(Arc::clone);
    assert_eq!(one.drain(), ["cds a=2 b=1", "eds a=1 b=2"]);
    assert_eq!(other.drain(), ["cds a=2 b=1", "eds a=1 b=2"]);
    shared(&one, &other, "cds");
    shared(&one, &other, "eds");
}
